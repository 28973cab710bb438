"""Objects and threads: as many as were asked for, no more, and nobody is forgotten in a crowd.

SHMSYNC_LARGE=1 makes a million objects instead of a hundred thousand.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from shmsync import CapacityError, Event, Handle, Mutex, Namespace, Semaphore, inspect
from shmsync.engine import Engine

from ..conftest import unique_name
from ..segment.helpers import Child, error_of, segment
from ..support.checkers import NAME_BYTES, SIZES, Geometry, check, path_of
from ..support.peek import until_waiting
from ..support.watchdog import PATIENCE, eventually

OBJECTS = 1_000_000 if os.environ.get("SHMSYNC_LARGE") else 100_000
WAITERS, PROCESSES = 1000, 4
STACK_BYTES = 256 * 1024


def test_a_namespace_has_room_for_4096_objects_and_1024_threads_by_default() -> None:
    with Namespace(unique_name("room"), exclusive=True) as namespace:
        seen = inspect.snapshot(namespace.name)
        assert (seen.capacity, seen.thread_capacity) == (4096, 1024)
        assert os.path.getsize(path_of(namespace.name)) == Geometry(4096, 1024).size


@pytest.mark.parametrize(("capacity", "threads"), [(1, 1), (100, 3), (5000, 2000)])
def test_room_is_what_was_asked_for(engine: Engine, capacity: int, threads: int) -> None:
    with segment(engine=engine, capacity=capacity, threads=threads) as namespace:
        seen = inspect.snapshot(namespace.name)
        assert (seen.capacity, seen.thread_capacity) == (capacity, threads)
        handles = [namespace.event() for _ in range(capacity)]
        assert {handle.slot for handle in handles} == {*range(capacity)}
        with pytest.raises(CapacityError, match="capacity="):
            namespace.event()


# ---- a crowd ----


def join_crowd(link: Connection) -> int:
    """So many threads of this process wait; how many were told."""
    name, many = link.recv()
    event = Namespace(name, create=False).event("go")
    told: list[bool] = []
    threading.stack_size(STACK_BYTES)
    threads = [threading.Thread(target=lambda: told.append(event.wait())) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(told)


@pytest.mark.seconds(120)
def test_one_set_wakes_a_thousand_waiters_and_each_is_told(engine: Engine) -> None:
    children = [Child(join_crowd) for _ in range(PROCESSES)]
    try:
        with segment(engine=engine, threads=WAITERS + 8) as namespace:
            event = namespace.event("go", manual_reset=True)
            for child in children:
                child.say((namespace.name, WAITERS // PROCESSES))
            until_waiting(event, WAITERS)
            assert event.set() is False
            assert [child.hear(PATIENCE) for child in children] == [
                WAITERS // PROCESSES
            ] * PROCESSES
            assert event.is_set()
            assert [child.wait() for child in children] == [0] * PROCESSES
    finally:
        for child in children:
            child.kill()
            child.link.close()


# ---- thread slots ----


class Registered:
    """A thread that has a slot, and lives until told to end."""

    def __init__(self, use: Callable[[], object]) -> None:
        self.error = ("", "")
        self.tried, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(use,))
        self.thread.start()
        assert self.tried.wait(PATIENCE)

    def _run(self, use: Callable[[], object]) -> None:
        self.error = error_of(use)
        self.tried.set()
        self.leave.wait()

    def end(self) -> None:
        """Returns when the kernel has forgotten it."""
        tid = self.thread.native_id
        self.leave.set()
        self.thread.join()
        eventually(lambda: not os.path.exists(f"/proc/self/task/{tid}"), "the end of a thread")


def test_threads_without_a_slot_are_told_what_to_do_until_others_end(engine: Engine) -> None:
    with segment(engine=engine, threads=64) as namespace:
        lock = namespace.mutex()

        def use() -> None:
            with lock:
                pass

        crowd = [Registered(use) for _ in range(64)]
        assert [each.error for each in crowd] == [("", "")] * 64
        late = [Registered(use) for _ in range(3)]
        assert [each.error[0] for each in late] == ["CapacityError"] * 3
        assert "threads=" in late[0].error[1]
        for each in [*crowd[:5], *late]:
            each.end()
        again = [Registered(use) for _ in range(6)]
        assert [each.error[0] for each in again] == [""] * 5 + ["CapacityError"]
        for each in [*crowd[5:], *again]:
            each.end()
        use()
        check(namespace.name)


# ---- many objects ----


def make(namespace: Namespace, number: int) -> Handle:
    """An object whose kind follows from its number."""
    name = f"object {number}"
    match number % 4:
        case 0:
            return namespace.semaphore(name, 1, maximum=3)
        case 1:
            return namespace.mutex(name)
        case 2:
            return namespace.event(name)
        case _:
            return namespace.event(name, manual_reset=True)


CLASSES = (Semaphore, Mutex, Event, Event)


@pytest.mark.seconds(OBJECTS / 1000 + 60)
def test_a_segment_holds_very_many_objects() -> None:
    threads = 16
    with segment(capacity=OBJECTS, threads=threads, persistent=True) as namespace:
        begin = time.perf_counter()
        for number in range(OBJECTS):
            make(namespace, number).close()  # it persists by its name
        seconds = time.perf_counter() - begin
        with pytest.raises(CapacityError, match="capacity="):
            namespace.event("one more")
        for number in random.Random(1).sample(range(OBJECTS), 1000):
            handle = namespace.open(f"object {number}")
            assert isinstance(handle, CLASSES[number % 4])
            assert (handle.created, handle.slot) == (False, number)
            handle.close()
        report_size(namespace.name, threads, seconds)


def report_size(name: str, threads: int, seconds: float) -> None:
    """Prints what objects and thread slots cost, and checks the bytes."""
    geometry = Geometry(OBJECTS, threads)
    size = os.path.getsize(path_of(name))
    each = SIZES["object"] + NAME_BYTES + geometry.buckets * 4 / OBJECTS + threads / 8
    slot = SIZES["thread_slot"] + SIZES["process_slot"] + geometry.set_bytes
    print(
        f"{OBJECTS} objects: {seconds / OBJECTS * 1e6:.2f} us to make and close one,"
        f" {size / OBJECTS:.1f} bytes each ({each:.1f} without what is there once);"
        f" a thread slot: {SIZES['thread_slot']} bytes, {slot} with its process's open set"
    )
    assert size == geometry.size
    assert each <= size / OBJECTS < each + 1
    assert SIZES["object"] + NAME_BYTES == 264
