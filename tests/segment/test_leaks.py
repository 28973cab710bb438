"""Over and over: descriptors, mappings, threads, memory and slots stay what they were."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from shmsync import Namespace, inspect, wait_all, wait_any
from shmsync.engine import Engine

from ..conftest import unique_name
from ..support.checkers import read
from .helpers import collect, error_of, in_child, segment
from .test_threads import in_thread


@dataclass(frozen=True)
class Held:
    """What this process has of the system."""

    descriptors: int
    mappings: int
    threads: int


def held() -> Held:
    """Counts, after collecting garbage. The heap's mappings come and go: only segments count."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    return Held(
        len(os.listdir("/proc/self/fd")),
        sum("/dev/shm/" in line for line in maps),
        len(os.listdir("/proc/self/task")),
    )


def resident() -> int:
    """Bytes of memory in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


ROUNDS = 6


def assert_steady(body: Callable[[], object], times: int) -> None:
    """Repeats it: nothing may grow, and memory hardly. Done in a child, for a heap of its own.

    The child's memory also grows as it touches pages that it shares with its parent, but only once:
    a leak grows in every round."""

    def repeat() -> tuple[tuple[int, ...], tuple[int, ...], int]:
        gc.collect()  # writes to every object once
        for _ in range(times // 10):  # caches and the heap get what they want
            body()
        before, grown = held(), []
        for _ in range(ROUNDS):
            memory = resident()
            for _ in range(times // ROUNDS):
                body()
            grown.append(resident() - memory)
        return astuple(before), astuple(held()), min(grown)

    before, after, grown = in_child(repeat)
    assert after == before
    # A leak of 100 bytes each time shows; a page here and there does not.
    assert grown < max(100_000, 100 * times // ROUNDS)


def test_opening_and_closing_handles_10_000_times() -> None:
    with segment(capacity=16) as namespace:
        keep = namespace.event("keep")

        def open_and_close() -> None:
            for handle in (namespace.event("a"), namespace.mutex(), namespace.semaphore("keep 2")):
                handle.close()
            namespace.open("keep").close()

        assert_steady(open_and_close, 2500)
        assert keep.set() is False
        collect(namespace.name)
        assert read(namespace.name).control("objects_fresh") <= 4


def test_dropping_10_000_handles() -> None:
    with segment(capacity=16) as namespace:
        assert_steady(lambda: namespace.semaphore(None, 3).acquire(), 10_000)
        collect(namespace.name)
        assert read(namespace.name).control("objects_fresh") <= 2
        assert namespace.objects() == ()


def test_opening_and_closing_namespaces_2_000_times(engine: Engine) -> None:
    name = unique_name()

    def come_and_go() -> None:
        with Namespace(name, engine=engine.name, capacity=16, threads=4) as namespace:
            lock = namespace.mutex("lock")
            assert lock.acquire(timeout=0)  # registers the thread, and starts what the engine needs
            lock.release()

    assert_steady(come_and_go, 40 if engine.brokered else 2000)  # each starts a broker
    assert not Path(f"/dev/shm/shmsync-{name}").exists()


def test_coming_and_going_while_somebody_stays(engine: Engine) -> None:
    with segment(engine=engine) as stays:

        def come_and_go() -> None:
            stays.close()  # the mapping that the child has inherited: it is to come on its own
            with Namespace(stays.name) as namespace:
                assert namespace.event("event", signaled=True).wait(0)

        assert_steady(come_and_go, 2000)
        collect(stays.name)
        image = read(stays.name)
        assert image.control("processes_fresh") <= 3
        assert image.control("threads_fresh") <= 3


def test_waits_of_every_sort(engine: Engine) -> None:
    with segment(engine=engine) as namespace:
        lock, tokens = namespace.mutex(), namespace.semaphore(None, 1)
        event, alert = namespace.event(manual_reset=True, signaled=True), namespace.event()

        def wait() -> None:
            with lock, tokens:
                pass
            assert event.wait(0)
            assert alert.wait(0) is False
            taken = wait_all([lock, tokens, event], 0)
            assert taken
            with taken:
                assert wait_any([tokens, alert], 0) is None
            alert.set()
            assert wait_any([alert], 0)

        assert_steady(wait, 3000)


def test_errors() -> None:
    with segment(capacity=2) as namespace:
        keep = [namespace.event("event"), namespace.mutex("mutex")]
        calls: list[Callable[[], object]] = [
            lambda: namespace.event("event", exclusive=True),
            lambda: namespace.mutex("event"),
            lambda: namespace.semaphore("new"),
            lambda: namespace.open("new"),
            lambda: namespace.open("\0"),
            lambda: Namespace(namespace.name, exclusive=True),
            lambda: Namespace(namespace.name + "-", create=False),
            lambda: Namespace(""),
            keep[1].release,  # type: ignore[attr-defined]
            lambda: wait_all([keep[0], keep[0]]),
            lambda: namespace.semaphore("s", 3, maximum=2),
        ]

        def fail() -> None:
            for call in calls:
                assert error_of(call)[0]

        assert_steady(fail, 1000)
        collect(namespace.name)


def test_threads_that_come_and_go(engine: Engine) -> None:
    with segment(engine=engine) as namespace:
        lock = namespace.mutex("lock")

        def use_in_a_thread() -> None:
            in_thread(lambda: lock.acquire() and lock.release())

        assert_steady(use_in_a_thread, 1000)
        collect(namespace.name)
        assert inspect.snapshot(namespace.name).threads == ()


def test_readers() -> None:
    with segment() as namespace:
        event = namespace.event("event")
        assert_steady(lambda: inspect.snapshot(namespace.name), 1000)
        assert event.set() is False


def test_forks() -> None:
    with segment() as namespace:
        event = namespace.event("event")

        def fork() -> None:
            pid = os.fork()
            if pid == 0:
                os._exit(event.set())
            assert os.waitpid(pid, 0)[1] == 0
            event.clear()

        assert_steady(fork, 300)
        collect(namespace.name)


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "dropped"])
def test_a_namespace_dropped_by_a_thread_that_ended(engine: Engine, closes: bool) -> None:
    name = unique_name()

    def use() -> None:
        namespace = Namespace(name, engine=engine.name, capacity=16, threads=4)
        lock = namespace.mutex("lock")
        lock.acquire()
        lock.release()
        if closes:
            namespace.close()

    assert_steady(lambda: in_thread(use), 20 if engine.brokered else 200)
    assert threading.active_count() >= 1
    assert not Path(f"/dev/shm/shmsync-{name}").exists()
