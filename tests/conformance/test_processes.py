"""Threads, forked and spawned children, and processes that have nothing to do with each other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

import shmsync
from shmsync import Acquired, Handle, Namespace, NotFoundError

from ..conftest import StartActors, unique_name
from ..support import children
from ..support.peek import until_waiting
from ..support.watchdog import PATIENCE, eventually

#: How often each of four processes counts; the environment variable makes it less where time is
#: short.
COUNT = int(os.environ.get("SHMSYNC_TEST_COUNT", "100000"))

Child = Callable[..., tuple[BaseProcess, Connection]]

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(params=["fork", "spawn"])
def child(request: pytest.FixtureRequest) -> Iterator[Child]:
    """Starts children that report through a pipe; none is left after the test."""
    context = multiprocessing.get_context(request.param)
    started: list[tuple[Any, Connection]] = []

    def start(target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(*arguments, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
        return process, ours

    yield start
    for process, pipe in started:
        process.kill()
        process.join(PATIENCE)
        process.close()
        pipe.close()


def receive(pipe: Connection) -> Any:
    """What the child reports."""
    assert pipe.poll(PATIENCE), "the child says nothing"
    return pipe.recv()


# ---- multiprocessing ----


def test_child_takes_a_token_that_is_then_missing_here(ns: Namespace, child: Child) -> None:
    semaphore = ns.semaphore(None, 2, maximum=2)
    process, pipe = child(children.take_token, semaphore)
    assert receive(pipe) is True
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert semaphore.state().count == 1


def test_child_owns_nothing_of_what_its_parent_owns(ns: Namespace, child: Child) -> None:
    mutex = ns.mutex(owned=True)
    before = mutex.state()
    _, pipe = child(children.try_mutex, mutex)
    assert receive(pipe) == (False, False)
    assert mutex.state() == before
    assert mutex.release() == 1


def test_child_that_ends_owning_a_mutex_abandons_it(ns: Namespace, child: Child) -> None:
    mutex = ns.mutex(owned=True)
    process, pipe = child(children.wait_then_acquire, mutex)
    assert receive(pipe) == "waits"
    until_waiting(mutex, 1)
    mutex.release()
    assert receive(pipe) is True
    process.join(PATIENCE)
    eventually(lambda: mutex.state().abandoned, "abandonment")
    assert mutex.acquire(timeout=0) is Acquired.ABANDONED


def test_parent_and_child_hand_the_turn_to_each_other(ns: Namespace, child: Child) -> None:
    here, there = ns.semaphore(None, 0), ns.semaphore(None, 0)
    process, _ = child(play, there, here, 200)
    for _ in range(200):
        there.release()
        assert here.acquire(timeout=PATIENCE)
    process.join(PATIENCE)
    assert process.exitcode == 0


def play(here: Any, there: Any, times: int, report: Connection) -> None:
    """The child's side."""
    children.ping(here, there, times)
    report.close()


def test_object_lives_as_long_as_a_child_has_it(ns: Namespace, child: Child) -> None:
    semaphore = ns.semaphore("kept", 1)
    process, pipe = child(children.hold_until_told, semaphore)
    assert receive(pipe) is False
    semaphore.close()
    again = ns.semaphore("kept", 5, create=False)
    assert (again.created, again.state().count) == (False, 1)
    again.close()
    pipe.send("go")
    process.join(PATIENCE)
    with pytest.raises(NotFoundError):
        ns.semaphore("kept", create=False)


def test_what_a_forked_child_inherits_is_kept_before_it_runs(ns: Namespace) -> None:
    """The child is stopped right after the fork; its references count all the same."""
    semaphore = ns.semaphore("inherited", 3)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(semaphore.state().count)
    semaphore.close()
    assert ns.semaphore("inherited", create=False).state().count == 3
    os.write(write, b"x")
    _, status = os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    assert os.waitstatus_to_exitcode(status) == 3


# ---- pickles ----


def test_handle_pickled_to_an_unrelated_process_is_the_same_object(
    ns: Namespace, start: StartActors
) -> None:
    handles: list[Handle] = [
        ns.mutex(owned=True),
        ns.semaphore(None, 0, maximum=7),
        ns.event(manual_reset=True),
    ]
    mutex, semaphore, event = handles
    [actor] = start("unrelated")
    for handle in handles:
        actor.call("unpickle", str(handle.slot), pickle.dumps(handle).hex())
    assert actor.method(str(mutex.slot), "acquire", timeout=0) == Acquired.TIMED_OUT
    assert actor.method(str(semaphore.slot), "release", 2) == 0
    assert actor.method(str(event.slot), "set") is False
    assert shmsync.wait_all([semaphore, event], 0)
    actor.start("method", str(semaphore.slot), "acquire")
    assert actor.finish() == Acquired.ACQUIRED


def test_pickled_handle_keeps_its_name_and_kind(ns: Namespace) -> None:
    for handle in (ns.mutex("m"), ns.semaphore("s"), ns.event("e"), ns.event()):
        copy = pickle.loads(pickle.dumps(handle))
        assert type(copy) is type(handle)
        assert (copy.name, copy.slot, copy.generation) == (
            handle.name,
            handle.slot,
            handle.generation,
        )
        assert copy.created is False


def test_pickle_of_an_object_that_is_gone_is_refused(ns: Namespace) -> None:
    semaphore = ns.semaphore()
    pickled = pickle.dumps(semaphore)
    slot = semaphore.slot
    semaphore.close()
    successor = ns.semaphore()
    assert successor.slot == slot
    with pytest.raises(NotFoundError):
        pickle.loads(pickled)


def test_pickle_of_a_namespace_that_was_made_anew_is_refused(ns: Namespace) -> None:
    name = unique_name()
    first = Namespace(name, engine=ns.engine)
    pickled = pickle.dumps(first.semaphore())
    shmsync.unlink(name)
    first.close()
    with Namespace(name, engine=ns.engine) as second:
        second.semaphore()
        with pytest.raises(NotFoundError):
            pickle.loads(pickled)
        shmsync.unlink(name)


# ---- exclusion ----


def run_at_once(work: Callable[[], None], threads: int) -> None:
    """Runs it on several threads that Python switches between as often as it can."""
    running = [threading.Thread(target=work) for _ in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_threads_of_one_process_exclude_each_other(ns: Namespace) -> None:
    """A counter that is read, then written, with a chance for a switch between."""
    mutex, value = ns.mutex(), [0]

    def count() -> None:
        for _ in range(1000):
            with mutex:
                before = value[0]
                os.sched_yield()
                value[0] = before + 1

    run_at_once(count, 4)
    assert value == [4000]


def test_semaphore_lets_in_no_more_threads_than_it_has_tokens(ns: Namespace) -> None:
    semaphore = ns.semaphore(None, 2, maximum=2)
    inside: list[int] = []
    seen: set[int] = set()

    def visit() -> None:
        for _ in range(300):
            with semaphore:
                inside.append(1)
                seen.add(len(inside))
                os.sched_yield()
                inside.pop()

    run_at_once(visit, 5)
    assert seen <= {1, 2}
    assert semaphore.state().count == 2
    assert [bool(semaphore.acquire(timeout=0)) for _ in range(3)] == [True, True, False]


@pytest.mark.seconds(600)
def test_four_unrelated_processes_that_count_under_a_mutex_lose_nothing(
    ns: Namespace, start: StartActors, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    counter.write_bytes(struct.pack("q", 0))
    mutex = ns.mutex("lock", owned=True)
    actors = start("one", "two", "three", "four")
    for actor in actors:
        actor.make("lock", "mutex", "lock")
        actor.start("count_up", "lock", str(counter), COUNT)
    until_waiting(mutex, 4)
    mutex.release()
    for actor in actors:
        actor.finish(patience=500)
    assert struct.unpack("q", counter.read_bytes()) == (4 * COUNT,)
