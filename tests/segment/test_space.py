"""Running out: of /dev/shm, of object slots, of thread slots, of process slots."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shmsync import CapacityError, Handle, Namespace, inspect
from shmsync.engine import Engine

from ..support.checkers import check
from ..support.watchdog import eventually
from .helpers import Child, error_of, in_child, needs_root, python, segment, users_of

# ---- /dev/shm ----

#: Runs "$@" with a /dev/shm of its own, of $SIZE bytes.
PRIVATE_SHM = ["unshare", "-m", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=$0 tmpfs /dev/shm && exec "$@"'

FILL = """
import os, sys
from shmsync import Namespace
try:
    Namespace("full")
except Exception as error:
    print(type(error).__name__, error.errno, error.filename, error.strerror, sep="|")
print(os.listdir("/dev/shm"))
with Namespace("full", capacity=16, threads=4) as small:
    small.event("event").set()
    print(os.listdir("/dev/shm"))
print(os.listdir("/dev/shm"))
"""

REFILL = """
import os, sys
from shmsync import Namespace
if not os.fork():
    with Namespace("full", capacity=16, threads=4):
        os._exit(0)
os.wait()
assert os.listdir("/dev/shm") == ["shmsync-full"]
try:
    Namespace("full")
except Exception as error:
    print(type(error).__name__)
print(os.listdir("/dev/shm"))
"""


def can_mount() -> bool:
    """May this process have a /dev/shm of its own? Containers often may not."""
    try:
        python("print()", prefix=[*PRIVATE_SHM, MOUNT, "1m"])
    except (AssertionError, OSError):
        return False
    return True


@needs_root
def test_a_full_dev_shm_is_a_capacity_error_that_leaves_nothing() -> None:
    if not can_mount():
        pytest.skip("mount namespaces are not allowed here")
    error, *left = python(FILL, prefix=[*PRIVATE_SHM, MOUNT, "1m"]).splitlines()
    kind, number, filename, message = error.split("|")
    assert (kind, number, filename) == ("CapacityError", "28", "full")
    assert "capacity=" in message
    assert left == ["[]", "['shmsync-full']", "[]"]


@needs_root
def test_a_dead_segment_that_does_not_fit_in_its_new_size_is_removed() -> None:
    if not can_mount():
        pytest.skip("mount namespaces are not allowed here")
    assert python(REFILL, prefix=[*PRIVATE_SHM, MOUNT, "1m"]).splitlines() == [
        "CapacityError",
        "[]",
    ]


# ---- objects ----


def test_the_last_object_slot_is_usable_and_the_next_is_a_capacity_error() -> None:
    with segment(capacity=3) as small:
        handles: list[Handle] = [small.event("a"), small.mutex(), small.semaphore("c")]
        for make in (small.event, small.mutex, small.semaphore):
            for name in ("d", None):
                with pytest.raises(CapacityError, match="capacity="):
                    make(name)
        assert small.event("a", create=False).slot == handles[0].slot  # opening takes no slot
        check(small.name)
        handles[1].close()
        new = small.event("d")
        assert (new.created, new.slot) == (True, handles[1].slot)
        assert new.generation != handles[1].generation
        with pytest.raises(CapacityError):
            small.event("e")
        check(small.name)


def test_slots_of_killed_processes_are_used_again_when_room_is_needed() -> None:
    def fill(link: Connection) -> None:
        with Namespace(link.recv(), create=False) as theirs:
            handles = [theirs.event(), theirs.event("named"), theirs.mutex(owned=True)]
            link.send(len(handles))
            link.recv()

    with Child(fill) as child, segment(capacity=3) as small:
        assert child.ask(small.name) == 3
        with pytest.raises(CapacityError):
            small.event()
        child.kill()
        ours = [small.event(), small.event("named"), small.mutex()]
        assert all(handle.created for handle in ours)
        check(small.name)


def test_a_full_namespace_survives_thousands_of_refusals() -> None:
    with segment(capacity=2) as small:
        keep = [small.event(), small.event("b")]
        for _ in range(2000):
            assert error_of(small.event)[0] == "CapacityError"
        assert keep[1].set() is False
        check(small.name)


# ---- threads ----


class Waiting:
    """A thread that has registered and waits on an event; the tests end it by setting that."""

    def __init__(self, small: Namespace) -> None:
        self.event = small.event()
        self.tid = 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        eventually(self.registered, "the thread waits")

    def run(self) -> None:
        self.tid = threading.get_native_id()
        assert self.event.wait()

    def registered(self) -> bool:
        seen = inspect.snapshot(self.event.namespace.name)
        return self.tid in [thread.tid for thread in seen.threads if thread.waiting_on]

    def end(self) -> None:
        self.event.set()
        self.thread.join()
        # joined is not gone: the kernel still has to unlock what the thread held
        eventually(lambda: not Path(f"/proc/self/task/{self.tid}").exists(), "the thread is gone")


def test_thread_slots_run_out_and_come_back_when_threads_end(engine: Engine) -> None:
    with segment(engine=engine, threads=2) as small:
        lock = small.mutex()
        lock.acquire()
        other = Waiting(small)
        errors: list[tuple[str, str]] = []
        for _ in range(3):
            third = threading.Thread(target=lambda: errors.append(error_of(lock.acquire)))
            third.start()
            third.join()
        assert [kind for kind, _ in errors] == ["CapacityError"] * 3
        assert all("threads=" in text for _, text in errors)
        assert small.event(signaled=True).is_set()  # what registers nobody goes on working
        other.end()
        Waiting(small).end()
        assert lock.state().count == 1
        lock.release()
        check(small.name)


def test_calls_that_neither_wait_nor_own_need_no_thread_slot(engine: Engine) -> None:
    with segment(engine=engine, threads=1) as small:
        event, tokens = small.event(), small.semaphore(None, 0)
        with small.mutex():  # takes the only slot
            pass

        def use() -> list[object]:
            return [event.set(), event.clear(), tokens.release(2), tokens.state().count]

        results: list[object] = []
        thread = threading.Thread(target=lambda: results.extend(use()))
        thread.start()
        thread.join()
        assert results == [False, True, 0, 2]


def test_thread_slots_of_killed_processes_are_used_again(engine: Engine) -> None:
    def hold(link: Connection) -> None:
        lock = Namespace(link.recv(), create=False).mutex("lock")
        link.send(int(lock.acquire()))
        link.recv()

    with (
        Child(hold) as child,
        segment(engine=engine, threads=2) as small,
    ):
        lock = small.mutex("lock")
        child_got = child.ask(small.name)
        waiting = Waiting(small)
        assert child_got == 1
        assert error_of(lambda: lock.acquire(timeout=0))[0] == "CapacityError"
        child.kill()
        eventually(lambda: error_of(lambda: lock.acquire(timeout=0))[0] == "", "a slot is free")
        lock.release()
        waiting.end()


# ---- processes ----


def attach(link: Connection) -> None:
    """Attaches when told, says whether it could, and stays until told again."""
    name = link.recv()
    while True:
        try:
            namespace = Namespace(name, create=False)
        except CapacityError as error:
            link.send(str(error))
        else:
            link.send(namespace.engine)
        link.recv()


def test_process_slots_run_out_and_come_back_when_processes_die() -> None:
    with (
        Child(attach) as one,
        Child(attach) as other,
        segment(capacity=16, threads=2) as small,
    ):
        assert one.ask(small.name) == small.engine
        assert "threads=" in other.ask(small.name)
        assert "threads=" in other.ask()
        one.kill()
        assert other.ask() == small.engine
        check(small.name)


def test_a_child_for_which_there_is_no_process_slot_is_told_by_every_call() -> None:
    with segment(capacity=16, threads=1) as small:
        lock, tokens, event = small.mutex("lock"), small.semaphore("tokens"), small.event("event")
        assert lock.acquire(timeout=0)

        def use() -> list[str]:
            calls: list[Callable[[], object]] = [
                event.set,
                event.wait,
                event.is_set,
                lock.acquire,
                lock.release,
                tokens.release,
                lambda: small.event("new"),
                lambda: small.mutex(owned=True),
                lambda: small.open("event"),
            ]
            kinds = [error_of(call)[0] for call in calls]
            event.close()
            small.close()
            return kinds

        assert in_child(use) == ["CapacityError"] * 9
        assert lock.release() == 1
        assert tokens.acquire(timeout=0)
        assert event.set() is False
        check(small.name)


def test_a_child_that_tries_again_while_all_slots_are_taken_is_nobodys_user_still() -> None:
    with segment(capacity=4096, threads=1) as small:
        event = small.event("event")

        def try_again() -> list[str]:
            calls: list[Callable[[], object]] = [
                lambda: Namespace(small.name, create=False),
                event.set,
                event.is_set,
                lambda: small.event("new"),
                lambda: Namespace(small.name, create=False),
            ]
            kinds = [error_of(call)[0] for call in calls]
            small.close()
            return kinds

        assert in_child(try_again) == ["CapacityError"] * 5
        assert event.set() is False
        check(small.name)
        assert [found.name for found in inspect.snapshot(small.name).objects] == ["event"]


def test_a_handle_whose_object_went_counts_no_more_however_often_forks_find_no_slot() -> None:
    with segment(capacity=16, threads=2) as small, Child(attach) as other:
        event = small.event("event")
        assert other.ask(small.name) == small.engine

        def child(link: Connection) -> None:
            link.recv()  # the object is gone, its place is used again, and there is a slot
            tokens = Namespace(small.name, create=False).open("tokens")
            assert error_of(event.set)[0] == "NotFoundError"

            def grandchild(link: Connection) -> int:
                link.recv()  # there is a slot again
                Namespace(small.name, create=False).open("tokens").close()
                return users_of(tokens)

            with Child(grandchild) as nobodys_user:
                link.send("forked")
                link.recv()
                link.send(nobodys_user.ask())

        with Child(child) as nobodys_user:
            event.close()
            tokens = small.semaphore("tokens")
            other.kill()
            assert nobodys_user.ask() == "forked"
            assert tokens.slot == event.slot
            small.close()
            assert nobodys_user.ask() == 2
