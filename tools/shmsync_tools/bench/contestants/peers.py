"""Other packages that people use for this. All are optional: ``pip install 'shmsync[bench]'``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shmsync_tools.bench.contestants.base import Contestant, Kind, Opened, Part
from shmsync_tools.bench.contestants.stdlib import lock_file
from shmsync_tools.bench.leftovers import token


class PosixIpc(Contestant):
    """A named POSIX semaphore."""

    key = "posix_ipc.Semaphore"
    family = package = module = "posix_ipc"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.note = "a killed owner keeps it for ever" if kind is Kind.LOCK else ""

    @contextmanager
    def make(self, name: str) -> Iterator[str]:
        posix_ipc = self.imported()
        initial = 1 if self.kind is Kind.LOCK else 0
        semaphore = posix_ipc.Semaphore(f"/{name}", posix_ipc.O_CREX, initial_value=initial)
        try:
            yield f"/{name}"
        finally:
            semaphore.unlink()
            semaphore.close()

    def open(self, payload: Any, part: Part) -> Opened:
        semaphore = self.imported().Semaphore(payload)
        return Opened(semaphore.acquire, semaphore.release, close=semaphore.close, thing=semaphore)


class SysvIpc(Contestant):
    """A System V semaphore. As a lock with SEM_UNDO, so the kernel gives it back for the dead."""

    family = package = module = "sysv_ipc"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.key = "sysv_ipc SEM_UNDO" if kind is Kind.LOCK else "sysv_ipc.Semaphore"
        self.note = "named by an integer"

    @contextmanager
    def make(self, name: str) -> Iterator[int]:
        sysv_ipc = self.imported()
        initial = 1 if self.kind is Kind.LOCK else 0
        semaphore = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=initial)
        try:
            yield semaphore.key
        finally:
            semaphore.remove()

    def open(self, payload: Any, part: Part) -> Opened:
        semaphore = self.imported().Semaphore(payload)
        semaphore.undo = self.kind is Kind.LOCK
        return Opened(semaphore.acquire, semaphore.release, thing=semaphore)


class FastIpc(Contestant):
    """fastipc's mutex or semaphore, as its defaults are: it spins before it sleeps. Its event
    cannot take part: a wait for one that is set already says that it is not."""

    family = package = module = "fastipc"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.key = "fastipc.NamedMutex" if kind is Kind.LOCK else "fastipc.NamedSemaphore"
        self.note = (
            "a killed owner keeps it for ever; deaf to Ctrl-C"
            if kind is Kind.LOCK
            else "spins; with several waiters it loses wake-ups"
        )

    @contextmanager
    def make(self, name: str) -> Iterator[str]:
        kept = self._object(name)
        try:
            yield name
        finally:
            kept._shm.close()

    def _object(self, name: str) -> Any:
        fastipc = self.imported()
        if self.kind is Kind.LOCK:
            return fastipc.NamedMutex(name)
        return fastipc.NamedSemaphore(name, 0)

    def open(self, payload: Any, part: Part) -> Opened:
        thing = self._object(payload)
        if self.kind is Kind.LOCK:
            return Opened(thing.acquire, thing.release, close=thing._shm.close, thing=thing)
        return Opened(thing.wait, thing.post1, close=thing._shm.close, thing=thing)


class LockFile(Contestant):
    """A package that locks files. All of them poll while somebody else has the lock."""

    kind = Kind.LOCK
    slow = True

    def __init__(self, package: str, name: str, note: str) -> None:
        self.family = package
        # One class for three packages: these two are each instance's own.
        self.package = self.module = package  # type: ignore[misc]
        self.key = f"{package}.{name}"
        self.note = note
        self._class = name

    def make(self, name: str) -> AbstractContextManager[str]:
        return lock_file(name)

    def open(self, payload: Any, part: Part) -> Opened:
        options = {"timeout": 3600} if self.family == "portalocker" else {}
        lock = getattr(self.imported(), self._class)(payload, **options)
        return Opened(lock.acquire, lock.release, thing=lock)


class Iceoryx2(Contestant):
    """An event of iceoryx2: whoever listens is told. One listener and one notifier here."""

    key = "iceoryx2 event"
    family = package = module = "iceoryx2"
    kind = Kind.EVENT
    note = "9 files stay after a kill"

    @contextmanager
    def make(self, name: str) -> Iterator[str]:
        kept = self.service(name)
        yield name
        del kept

    def service(self, name: str) -> tuple[Any, Any]:
        """A node, and a service of that name in it; both live as long as what is returned."""
        iceoryx2 = self.imported()
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        # All of its files under names of ours, so that those of a killed process can be found.
        config = iceoryx2.config.default()
        config.global_cfg.prefix = iceoryx2.FileName.new(token())
        folder = Path(tempfile.gettempdir(), f"{token()}iceoryx2")
        config.global_cfg.root_path = iceoryx2.Path.new(str(folder))
        mode = iceoryx2.SignalHandlingMode.Disabled
        node = iceoryx2.NodeBuilder.new().config(config).signal_handling_mode(mode)
        node = node.create(iceoryx2.ServiceType.Ipc)
        service = iceoryx2.ServiceName.new(name)
        return node, node.service_builder(service).event().open_or_create()

    def open(self, payload: Any, part: Part) -> Opened:
        closing = ExitStack()
        node, service = self.service(payload)
        take = give = _not_opened
        if part is not Part.GIVES:
            listener = service.listener_builder().create()
            closing.callback(listener.delete)
            take = listener.blocking_wait
        if part is not Part.TAKES:
            notifier = service.notifier_builder().create()
            closing.callback(notifier.delete)
            give = notifier.notify
        # The node ends with its last reference, which is this.
        closing.callback(partial(id, node))
        return Opened(take, give, close=closing.close)


def _not_opened() -> None:
    raise AssertionError("opened for the other part only")


CONTESTANTS: tuple[Contestant, ...] = (
    PosixIpc(Kind.LOCK),
    PosixIpc(Kind.SEMAPHORE),
    SysvIpc(Kind.LOCK),
    SysvIpc(Kind.SEMAPHORE),
    FastIpc(Kind.LOCK),
    FastIpc(Kind.SEMAPHORE),
    LockFile("filelock", "FileLock", "polls every 50 ms"),
    LockFile("fasteners", "InterProcessLock", "polls every 10 to 100 ms; excludes no threads"),
    LockFile("portalocker", "Lock", "polls every 250 ms"),
    Iceoryx2(),
)
