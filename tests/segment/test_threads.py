"""Threads: what they own when they end, and the slots that they leave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import pytest

from shmsync import AbandonedMutexWarning, Acquired, Mutex, Namespace, inspect, wait_all
from shmsync.engine import Engine

from ..support.checkers import check
from ..support.watchdog import PATIENCE, eventually, seen
from .helpers import Child, collect, segment

T = TypeVar("T")


def in_thread(body: Callable[[], T]) -> T:
    """What the function returns in a thread that is gone, for the kernel too, when this returns."""
    results: list[T] = []
    tids: list[int] = []

    def run() -> None:
        tids.append(threading.get_native_id())
        results.append(body())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert results, "the thread failed"
    eventually(lambda: not Path(f"/proc/self/task/{tids[0]}").exists(), "the thread is gone")
    return results[0]


def test_a_thread_that_ends_while_owning_abandons(ns: Namespace) -> None:
    lock = ns.mutex("lock")

    def own_twice() -> int:
        assert lock.acquire()
        assert lock.acquire()
        return lock.state().owner

    owner = in_thread(own_twice)
    assert lock.acquire(timeout=PATIENCE) == Acquired.ABANDONED
    state = lock.state()
    assert (state.count, state.abandoned) == (1, False)
    assert state.owner not in (0, owner)
    assert lock.acquire() == Acquired.ACQUIRED  # told once
    assert (lock.release(), lock.release()) == (2, 1)


def test_all_mutexes_of_a_thread_are_abandoned_and_only_those(ns: Namespace) -> None:
    theirs = [ns.mutex(f"{n}") for n in range(20)]
    ours, free = ns.mutex("ours"), ns.mutex("free")
    ours.acquire()
    in_thread(lambda: [lock.acquire() for lock in theirs])
    got = [lock.acquire(timeout=PATIENCE) for lock in theirs]
    assert got == [Acquired.ABANDONED] * 20
    assert (ours.state().count, free.acquire()) == (1, Acquired.ACQUIRED)
    for lock in (*theirs, ours, free):
        lock.release()


def test_the_warning_comes_to_the_next_owner_once(ns: Namespace) -> None:
    lock = ns.mutex("lock")
    in_thread(lock.acquire)
    eventually(lambda: lock.state().abandoned, "the mutex is abandoned")
    with pytest.warns(AbandonedMutexWarning, match="lock"), lock:
        pass
    with lock as acquired:
        assert acquired == Acquired.ACQUIRED


def test_a_mutex_that_nobody_has_open_goes_with_its_owner(engine: Engine) -> None:
    with segment(engine=engine) as namespace:

        def own() -> int:
            lock = namespace.mutex("lock")
            lock.acquire()
            lock.close()
            again = namespace.mutex("lock")  # it lives: we own it
            assert not again.created
            again.close()
            return again.generation

        def open_anew() -> Mutex | None:
            lock = namespace.mutex("lock")
            if lock.created:
                return lock
            lock.close()
            return None

        generation = in_thread(own)
        lock = seen(open_anew)
        assert lock, "the mutex is not gone"
        assert lock.generation != generation or lock.slot != 0
        check(namespace.name)


@pytest.mark.seconds(120)
def test_thousands_of_threads_share_a_few_slots(engine: Engine) -> None:
    with segment(engine=engine, threads=3) as namespace:
        lock, mine = namespace.mutex("lock"), namespace.mutex("mine")
        mine.acquire()
        owner = mine.state().owner
        ids = []

        def own() -> int:
            with lock:
                return lock.state().owner

        for _ in range(9000):  # an id comes back after 8,191 threads in its slot
            ids.append(in_thread(own))
        assert len(inspect.snapshot(namespace.name).threads) <= 3
        assert len(set(ids)) > 8000
        assert not {0, owner} & set(ids)
        assert all(one != other for one, other in pairwise(ids))
        assert mine.release() == 1
        check(namespace.name)


def test_threads_that_die_owning_leave_their_slots_too(engine: Engine) -> None:
    with segment(engine=engine, threads=3) as namespace:
        lock = namespace.mutex("lock")
        for number in range(60):
            wanted = Acquired.ABANDONED if number else Acquired.ACQUIRED
            assert in_thread(lambda: lock.acquire(timeout=PATIENCE)) == wanted
        assert lock.acquire(timeout=PATIENCE) == Acquired.ABANDONED
        lock.release()
        check(namespace.name)


def test_the_id_of_a_dead_owner_is_not_taken_for_the_next_thread_in_its_slot(
    engine: Engine,
) -> None:
    with segment(engine=engine, threads=2) as namespace:
        lock, other = namespace.mutex("lock"), namespace.mutex("other")
        dead = in_thread(lambda: (lock.acquire(), lock.state().owner)[1])

        def use_the_slot() -> tuple[int, Acquired]:
            with other:
                return other.state().owner, lock.acquire(timeout=PATIENCE)

        living, acquired = in_thread(use_the_slot)
        assert living != dead
        assert acquired == Acquired.ABANDONED  # not RECURSIVE: it never was this thread's


def test_a_process_killed_while_many_threads_own_abandons_everything(engine: Engine) -> None:
    def own_much(link: Connection) -> None:
        namespace = Namespace(link.recv(), create=False)
        owned = threading.Semaphore(0)

        def own(number: int) -> None:
            locks = [namespace.mutex(f"{number}/{n}") for n in range(3)]
            assert wait_all(locks)
            owned.release()
            threading.Event().wait()

        for number in range(10):
            threading.Thread(target=own, args=(number,), daemon=True).start()
        for _ in range(10):
            assert owned.acquire(timeout=PATIENCE)
        link.send("owned")
        link.recv()

    with Child(own_much) as child, segment(engine=engine, capacity=64, threads=16) as namespace:
        assert child.ask(namespace.name) == "owned"
        locks = [namespace.mutex(f"{t}/{n}", create=False) for t in range(10) for n in range(3)]
        assert {lock.acquire(timeout=0) for lock in locks} == {Acquired.TIMED_OUT}
        child.kill()
        got = [lock.acquire(timeout=PATIENCE) for lock in locks]
        assert got == [Acquired.ABANDONED] * 30
        for lock in locks:
            lock.release()
        collect(namespace.name)
        assert len(inspect.snapshot(namespace.name).threads) == 1
