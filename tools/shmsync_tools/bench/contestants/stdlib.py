"""The standard library's, and what the kernel offers through it."""

from __future__ import annotations

import fcntl
import io
import multiprocessing
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import context, reduction
from pathlib import Path
from typing import Any

from shmsync_tools.bench.contestants.base import Contestant, Kind, Opened, Part
from shmsync_tools.bench.measure import shared_words, words
from shmsync_tools.bench.worker import Fd

SPAWN = multiprocessing.get_context("spawn")


def _pickled_for_child(value: object) -> bytes:
    """A pickle as ``Process.start`` makes it with the method "spawn": multiprocessing lets nobody
    else pickle its objects. The workers are not its processes, but would be as related."""
    file = io.BytesIO()
    context.set_spawning_popen(object())  # type: ignore[arg-type]
    try:
        reduction.ForkingPickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    finally:
        context.set_spawning_popen(None)
    return file.getvalue()


class Multiprocessing(Contestant):
    """A lock, semaphore or event of multiprocessing."""

    family = "multiprocessing"
    related = True

    def __init__(self, name: str, kind: Kind, note: str = "") -> None:
        self.key = f"mp.{name}"
        self.kind = kind
        self.note = note
        self._class = name

    @contextmanager
    def make(self, name: str) -> Iterator[bytes]:
        create = getattr(SPAWN, self._class)
        thing = create(0) if self.kind is Kind.SEMAPHORE else create()
        yield _pickled_for_child(thing)

    def open(self, payload: Any, part: Part) -> Opened:
        thing = pickle.loads(payload)
        if self.kind in (Kind.LOCK, Kind.SEMAPHORE):
            return Opened(thing.acquire, thing.release, thing=thing)
        if self.kind is Kind.GATE:
            return Opened(thing.wait, thing.set, thing.clear, thing=thing)

        def take() -> None:
            thing.wait()
            thing.clear()

        return Opened(take, thing.set, thing=thing)


class MultiprocessingCondition(Contestant):
    """A condition, and a word in shared memory that it guards: an event that resets itself."""

    key = "mp.Condition"
    family = "multiprocessing"
    kind = Kind.EVENT
    related = True
    note = "with a word in shared memory"

    @contextmanager
    def make(self, name: str) -> Iterator[tuple[bytes, Fd]]:
        with shared_words() as memory:
            condition = SPAWN.Condition(SPAWN.Lock())
            yield _pickled_for_child(condition), memory

    def open(self, payload: Any, part: Part) -> Opened:
        pickled, memory = payload
        condition, word = pickle.loads(pickled), words(memory)

        def take() -> None:
            with condition:
                while not word[0]:
                    condition.wait()
                word[0] = 0

        def give() -> None:
            with condition:
                word[0] = 1
                condition.notify()

        return Opened(take, give)


class Threading(Contestant):
    """A lock, semaphore or event of threading."""

    family = "threading"
    local = True
    note = "between threads of one process only"

    def __init__(self, name: str, kind: Kind) -> None:
        self.key = f"threading.{name}"
        self.kind = kind
        self._class = name

    def open(self, payload: Any, part: Part) -> Opened:
        create = getattr(threading, self._class)
        thing = create(0) if self.kind is Kind.SEMAPHORE else create()
        if self.kind in (Kind.LOCK, Kind.SEMAPHORE):
            return Opened(thing.acquire, thing.release, thing=thing)
        return Opened(thing.wait, thing.set, thing.clear, thing=thing)


class ThreadingCondition(Contestant):
    """A condition and the variable that it guards."""

    key = "threading.Condition"
    family = "threading"
    kind = Kind.EVENT
    local = True
    note = "between threads of one process only"

    def open(self, payload: Any, part: Part) -> Opened:
        condition, state = threading.Condition(threading.Lock()), [False]

        def take() -> None:
            with condition:
                while not state[0]:
                    condition.wait()
                state[0] = False

        def give() -> None:
            with condition:
                state[0] = True
                condition.notify()

        return Opened(take, give)


class FileLock(Contestant):
    """A lock by the kernel on an open file. ``flock`` is of the open file, ``lockf`` of the
    process."""

    family = "fcntl"
    kind = Kind.LOCK

    def __init__(self, name: str, call: Callable[[int, int], object], note: str) -> None:
        self.key = f"fcntl.{name}"
        self.note = note
        self._call = call

    def make(self, name: str) -> AbstractContextManager[str]:
        return lock_file(name)

    def open(self, payload: Any, part: Part) -> Opened:
        fd = os.open(payload, os.O_RDWR)
        take = partial(self._call, fd, fcntl.LOCK_EX)
        give = partial(self._call, fd, fcntl.LOCK_UN)
        return Opened(take, give, close=partial(os.close, fd))


@contextmanager
def lock_file(name: str) -> Iterator[str]:
    """A file to be locked, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        path = Path(folder, "lock")
        path.touch()
        yield str(path)


class EventFd(Contestant):
    """A counter of the kernel, read and written like a file."""

    key = "os.eventfd"
    family = "eventfd"
    kind = Kind.SEMAPHORE
    related = True
    note = "the descriptor has to be passed"

    @contextmanager
    def make(self, name: str) -> Iterator[Fd]:
        fd = os.eventfd(0, os.EFD_SEMAPHORE)
        try:
            yield Fd(fd)
        finally:
            os.close(fd)

    def open(self, payload: Any, part: Part) -> Opened:
        fd = payload.number
        take, give = partial(os.eventfd_read, fd), partial(os.eventfd_write, fd, 1)
        return Opened(take, give, close=partial(os.close, fd))


class Pipe(Contestant):
    """A byte for each token."""

    key = "pipe"
    family = "pipe"
    kind = Kind.SEMAPHORE
    related = True
    note = "the descriptors have to be passed"

    @contextmanager
    def make(self, name: str) -> Iterator[tuple[Fd, Fd]]:
        ends = os.pipe()
        try:
            yield Fd(ends[0]), Fd(ends[1])
        finally:
            for end in ends:
                os.close(end)

    def open(self, payload: Any, part: Part) -> Opened:
        reader, writer = (fd.number for fd in payload)

        def close() -> None:
            os.close(reader)
            os.close(writer)

        return Opened(partial(os.read, reader, 1), partial(os.write, writer, b"x"), close=close)


CONTESTANTS: tuple[Contestant, ...] = (
    Multiprocessing("Lock", Kind.LOCK, "a killed owner keeps it for ever"),
    Multiprocessing("RLock", Kind.LOCK, "a killed owner keeps it for ever"),
    Multiprocessing("Semaphore", Kind.SEMAPHORE),
    Multiprocessing("Event", Kind.EVENT, "set() hangs for ever after a waiter was killed"),
    Multiprocessing("Event", Kind.GATE, "set() hangs for ever after a waiter was killed"),
    MultiprocessingCondition(),
    Threading("Lock", Kind.LOCK),
    Threading("RLock", Kind.LOCK),
    Threading("Semaphore", Kind.SEMAPHORE),
    Threading("Event", Kind.GATE),
    ThreadingCondition(),
    FileLock("flock", fcntl.flock, "a child forked by the owner keeps it"),
    FileLock("lockf", fcntl.lockf, "excludes no threads; any close of the file drops it"),
    EventFd(),
    Pipe(),
)
