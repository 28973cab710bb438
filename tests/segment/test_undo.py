"""The gate and its undo log: what a holder leaves who dies in the middle of a transaction.

The deaths are made by hand: a child takes the gate as the library would, writes a part of a
transaction as gate.c describes it, and ends. ``tests/crash`` kills the library itself.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import shmsync
from shmsync import Mutex, Namespace, NotFoundError, inspect

from ..support.checkers import FIELDS, SIZES, Image, check, path_of, read
from ..support.watchdog import eventually
from .helpers import Child, error_of, in_child, name_of, segment

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
CONTROL = SIZES["header"]
GATE = CONTROL + FIELDS["control", "gate"][0]
LENGTH = CONTROL + FIELDS["control", "undo_length"][0]
UNDO = CONTROL + FIELDS["control", "undo"][0]
UNDO_MAX = FIELDS["control", "undo"][1] // SIZES["undo_entry"]

libc = ctypes.CDLL(None)

# What holds the gate stays mapped: the kernel finds the locks of the dead through their memory.
_kept: list[Memory] = []


@dataclass(frozen=True)
class Write:
    """One logged write of a transaction: a word of 4 or 8 bytes."""

    offset: int
    width: int
    value: int


class Memory:
    """A segment's bytes, written behind the library's back."""

    def __init__(self, name: str) -> None:
        with open(path_of(name), "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def get(self, offset: int, width: int) -> int:
        return int.from_bytes(self.map[offset : offset + width], "little")

    def put(self, offset: int, width: int, value: int) -> None:
        self.map[offset : offset + width] = value.to_bytes(width, "little")

    def lock_gate(self) -> None:
        """Takes the gate, which may be a dead one's: nothing is recovered."""
        _kept.append(self)
        result = libc.pthread_mutex_lock(ctypes.c_void_p(self.address + GATE))
        assert result in (0, errno.EOWNERDEAD)

    def unlock_gate(self) -> None:
        """Gives it back, by the thread that took it."""
        assert libc.pthread_mutex_unlock(ctypes.c_void_p(self.address + GATE)) == 0
        _kept.remove(self)

    def log(self, number: int, write: Write) -> None:
        """Fills in an entry; the length does not cover it yet."""
        entry = UNDO + number * SIZES["undo_entry"]
        where = write.offset + (write.width == 8)
        struct.pack_into("=QQ", self.map, entry, where, self.get(write.offset, write.width))

    def perform(self, transaction: list[Write], extra: int = 0) -> None:
        """Writes as gate.c does: entry, length, word; of one more, only the first ``extra``."""
        for number, write in enumerate(transaction):
            whole = number < len(transaction) - 1 or not extra
            self.log(number, write)
            if whole or extra > 1:
                self.put(LENGTH, 4, number + 1)
            if whole:
                self.put(write.offset, write.width, write.value)

    def perform_and_commit(self, transaction: list[Write]) -> None:
        """A whole transaction."""
        self.perform(transaction)
        self.put(LENGTH, 4, 0)

    def write_log(self, where: int, length: int) -> None:
        """A log of that length, whose first entry says that."""
        struct.pack_into("=QQ", self.map, UNDO, where, 0)
        self.put(LENGTH, 4, length)

    def undo_by_hand(self, steps: int, *, last_length: bool) -> None:
        """A recovery that dies after so many entries, the last with or without its length."""
        length = self.get(LENGTH, 4)
        for number in range(length - 1, max(length - 1 - steps, -1), -1):
            entry = UNDO + number * SIZES["undo_entry"]
            where, old = struct.unpack_from("=QQ", self.map, entry)
            self.put(where & ~1, 8 if where & 1 else 4, old)
            if last_length or number > length - steps:
                self.put(LENGTH, 4, number)


def words(image: Image) -> list[int]:
    """Offsets of the words that the gate protects, in the tables."""
    geometry = image.geometry
    found = list(range(geometry.processes_at, geometry.threads_at, 4))
    for slot in range(geometry.threads):
        base = geometry.threads_at + slot * SIZES["thread_slot"]
        found += range(base + 64, base + SIZES["thread_slot"], 4)
    return found + list(range(geometry.buckets_at, geometry.names_at, 4))


def random_transaction(random_: random.Random, image: Image) -> list[Write]:
    """Up to as many writes as the log takes, some to the same word."""
    offsets = random_.sample(words(image), 40)
    writes = []
    for _ in range(random_.randint(1, UNDO_MAX)):
        offset = random_.choice(offsets)
        width = 8 if offset % 8 == 0 and random_.random() < 0.3 else 4
        writes.append(Write(offset, width, random_.getrandbits(8 * width)))
    return writes


def tables(image: Image) -> bytes:
    """All bytes that recovery has to bring back: without the gate, the log, the sweeper's lock."""
    rest = CONTROL + SIZES["control"]
    return image.data[:CONTROL] + image.data[GATE + 128 : LENGTH] + image.data[rest:]


class Mortals:
    """Processes that take a gate, do something to the memory, and are gone.

    They are the children of a process that has nothing open: a fork would change the tables."""

    def __init__(self, child: Child, name: str) -> None:
        self.child = child
        self.name = name

    def die(self, method: str, *arguments: object, **options: object) -> None:
        """One takes the gate, calls this method of ``Memory``, and ends."""
        assert self.child.ask((self.name, method, arguments, options)) == "gone"


def live_and_die(link: Connection) -> None:
    """The process that has those children."""
    while True:
        name, method, arguments, options = link.recv()
        pid = os.fork()
        if pid == 0:
            memory = Memory(name)
            memory.lock_gate()
            getattr(memory, method)(*arguments, **options)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        link.send("gone")


@contextmanager
def populated() -> Iterator[tuple[Namespace, Mortals]]:
    """A namespace with things in it, used by this process alone, and those who will die in it."""
    with Child(live_and_die) as child, segment(capacity=16, threads=4) as namespace:
        event, *others = namespace.event("a"), namespace.mutex("b"), namespace.semaphore(None, 3)
        namespace.event("gone").close()
        yield namespace, Mortals(child, namespace.name)
        assert not any(handle.closed for handle in others)
        assert event.set() is False


def recover(namespace: Namespace) -> None:
    """Passes the gate, and changes nothing."""
    with pytest.raises(NotFoundError):
        namespace.open("no such object")


def test_what_a_dead_holder_has_written_is_undone() -> None:
    random_ = random.Random(SEED)
    print(f"SHMSYNC_SEED={SEED}")
    with populated() as (namespace, mortals):
        before = tables(read(namespace.name))
        for _ in range(150):
            transaction = random_transaction(random_, read(namespace.name))
            mortals.die("perform", transaction, random_.randint(0, 2))
            recover(namespace)
            after = read(namespace.name)
            assert tables(after) == before
            assert after.control("undo_length") == 0
        check(namespace.name)


def test_a_recovery_that_dies_is_done_again() -> None:
    random_ = random.Random(SEED)
    print(f"SHMSYNC_SEED={SEED}")
    with populated() as (namespace, mortals):
        before = tables(read(namespace.name))

        for _ in range(60):
            transaction = random_transaction(random_, read(namespace.name))
            mortals.die("perform", transaction)
            for _ in range(random_.randint(1, 3)):
                steps, last_length = random_.randint(1, UNDO_MAX), random_.random() < 0.5
                mortals.die("undo_by_hand", steps, last_length=last_length)
            recover(namespace)
            assert tables(read(namespace.name)) == before


def test_a_dead_holder_who_wrote_nothing_or_had_committed_costs_nothing() -> None:
    with populated() as (namespace, mortals):
        before = tables(read(namespace.name))
        for _ in range(20):
            mortals.die("perform", [])
            recover(namespace)
        assert tables(read(namespace.name)) == before
        start_time = read(namespace.name).geometry.processes_at + 4 * SIZES["process_slot"] - 8
        mortals.die("perform_and_commit", [Write(start_time, 8, 77)])
        recover(namespace)
        assert tables(read(namespace.name)) != before
        assert read(namespace.name).process(3, "start_time") == 77


def test_an_attacher_recovers_too_and_inspection_sees_the_open_transaction() -> None:
    def attach(link: Connection) -> list[str | None]:
        namespace = Namespace(link.recv(), create=False)
        return [found.name for found in namespace.objects()]

    with Child(attach) as child, populated() as (namespace, mortals):
        image = read(namespace.name)
        offset = image.geometry.objects_at + FIELDS["object", "kind"][0]
        mortals.die("perform", [Write(offset, 4, 9), Write(offset + 4, 4, 99)])
        seen = inspect.snapshot(namespace.name)
        assert seen.in_transaction
        assert [found.kind for found in seen.objects] != ["auto-reset event", "mutex", "semaphore"]
        assert child.ask(namespace.name) == ["a", "b", None]
        assert not inspect.snapshot(namespace.name).in_transaction
        assert child.wait() == 0


@pytest.mark.parametrize(
    ("where", "length"),
    [
        pytest.param(0, UNDO_MAX + 1, id="too long"),
        pytest.param(0, 2**32 - 1, id="much too long"),
        pytest.param(8, 1, id="into the header"),
        pytest.param(2**40, 1, id="beyond the end"),
        pytest.param(2**64 - 4, 1, id="far beyond the end"),
        pytest.param(1026, 1, id="not aligned"),
        pytest.param(1029, 1, id="not aligned, 64 bits"),
    ],
)
def test_a_log_that_makes_no_sense_is_a_broken_error_for_all_from_then_on(
    place: Path, where: int, length: int
) -> None:
    def meet_it(link: Connection) -> None:
        namespace = Namespace(link.recv(), create=False)
        event = namespace.event("event")
        link.send("open")
        link.recv()
        calls = [lambda: namespace.open("event"), lambda: namespace.event("new")]
        link.send([error_of(call)[0] for call in calls * 2])
        event.close()
        namespace.close()
        link.send("closed")

    def attach(link: Connection) -> tuple[str, str]:
        return error_of(lambda: Namespace(link.recv(), create=False))

    name = name_of(place)
    with Child(meet_it) as one, Child(attach) as late, Child(live_and_die) as child:
        Namespace(name, capacity=16, threads=4, persistent=True).close()
        assert one.ask(name) == "open"
        Mortals(child, name).die("write_log", where, length)
        one.say()
        assert one.hear(patience=3) == ["BrokenError"] * 4
        assert one.hear() == "closed"
        assert late.ask(name)[0] == "BrokenError"
        assert inspect.snapshot(name).objects[0].name == "event"


def test_the_longest_transaction_fits_and_is_undone() -> None:
    with populated() as (namespace, mortals):
        image = read(namespace.name)
        before = tables(image)
        offset = image.geometry.buckets_at
        mortals.die("perform", [Write(offset, 4, n + 1000) for n in range(UNDO_MAX)])
        recover(namespace)
        assert tables(read(namespace.name)) == before


# ---- a holder that is alive, but does not move ----


class AlarmError(Exception):
    """What the test's signal handler raises."""


def test_signals_reach_those_who_wait_for_a_holder_that_does_not_move() -> None:
    def hold(link: Connection) -> None:
        Memory(link.recv()).lock_gate()
        link.send("held")
        link.recv()

    def alarm(_number: int, _frame: object) -> None:
        raise AlarmError

    with Child(hold) as child, segment() as namespace:
        event, lock = namespace.event("event"), namespace.mutex("lock")
        assert lock.acquire(timeout=0)
        assert child.ask(namespace.name) == "held"
        for call in (
            lambda: namespace.event("new"),
            lambda: namespace.open("event"),
            lambda: Namespace(namespace.name).event("new"),
            event.close,
        ):
            before = signal.signal(signal.SIGALRM, alarm)
            bound = signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                with pytest.raises(AlarmError):
                    call()
            finally:
                signal.signal(signal.SIGALRM, before)
                signal.setitimer(signal.ITIMER_REAL, *bound)
        assert inspect.snapshot(namespace.name).gate_tid == child.pid
        assert lock.release() == 1  # what needs no gate goes on
        child.kill()
        assert namespace.event("new").created
        assert event.closed
        eventually(lambda: [o.name for o in namespace.objects()] == ["lock"], "the event is gone")
        check(namespace.name)


@contextmanager
def an_alarm(handler: Callable[[], None]) -> Iterator[None]:
    """Soon a signal's handler calls the function, and raises."""

    def alarm(_number: int, _frame: object) -> None:
        handler()
        raise AlarmError

    before = signal.signal(signal.SIGALRM, alarm)
    bound = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *bound)


def hold_until_told(link: Connection) -> None:
    """Holds the gate until the next message, and lives on."""
    memory = Memory(link.recv())
    memory.lock_gate()
    link.send("held")
    link.recv()
    memory.unlock_gate()
    link.send("moved")
    link.recv()


@contextmanager
def a_holder_and_a_waiter() -> Iterator[tuple[Child, Mutex, threading.Thread]]:
    """A mutex of the calling thread's, whose release needs the gate since a thread waits for it;
    and the child that holds the gate."""
    with Child(hold_until_told) as child, segment() as namespace:
        lock = namespace.mutex("lock", owned=True)
        waiter = threading.Thread(target=lock.acquire)
        waiter.start()
        eventually(lambda: inspect.snapshot(namespace.name).objects[0].waiters == 1, "a waiter")
        assert child.ask(namespace.name) == "held"
        yield child, lock, waiter


LEAVINGS: dict[str, Callable[[Mutex], object]] = {
    "release": lambda mutex: mutex.release(),
    "exit": lambda mutex: mutex.__exit__(None, None, None),
}


@pytest.mark.parametrize("leave", LEAVINGS.values(), ids=LEAVINGS.keys())
def test_a_release_that_is_interrupted_releases_when_the_holder_moves(
    leave: Callable[[Mutex], object],
) -> None:
    with a_holder_and_a_waiter() as (child, lock, waiter):
        with an_alarm(child.say), pytest.raises(AlarmError):
            leave(lock)
        waiter.join()
        eventually(lambda: lock.state().abandoned, "the end of the waiter, who owned it")


def test_a_release_is_given_up_if_the_holder_does_not_move() -> None:
    with a_holder_and_a_waiter() as (child, lock, waiter):
        with an_alarm(lambda: None), pytest.raises(AlarmError):
            lock.release()
        assert child.ask() == "moved"
        assert lock.release() == 1
        waiter.join()


def test_a_holder_that_does_not_move_does_not_stop_a_process_from_ending() -> None:
    def hold(link: Connection) -> None:
        Memory(link.recv()).lock_gate()
        link.send("held")
        link.recv()

    with Child(hold) as child, segment() as namespace:
        assert child.ask(namespace.name) == "held"
        assert in_child(lambda: shmsync.__version__) == shmsync.__version__  # fork goes on
        child.kill()
        assert namespace.event("new").created
