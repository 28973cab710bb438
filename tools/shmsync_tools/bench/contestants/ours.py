"""Our own engines."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import shmsync
from shmsync import Namespace
from shmsync.engine import by_name
from shmsync_tools.bench.contestants.base import Contestant, Kind, Opened, Part

#: Slots for threads, processes and objects: what a namespace has if nothing else is asked for.
THREADS, CAPACITY = 1024, 4096


def has_unfair_mutex() -> bool:
    """Does this version let the user choose a mutex that a running thread may take first?"""
    return "fair" in inspect.signature(Namespace.mutex).parameters


def new_namespace(name: str, engine: str, capacity: int = CAPACITY) -> Namespace:
    """A namespace as the suites use it."""
    return Namespace(name, engine=engine, exclusive=True, capacity=capacity, threads=THREADS)


class Ours(Contestant):
    """An object of a namespace of its own."""

    def __init__(self, engine: str, kind: Kind, *, fair: bool = True) -> None:
        self.engine = self.family = engine
        self.kind = kind
        self.fair = fair
        self.key = engine if fair else f"{engine} fair=False"

    def absent(self) -> str | None:
        if reason := by_name(self.engine).check():
            return f"not available here: {reason}"
        if not self.fair and not has_unfair_mutex():
            return "absent: this version has no mutex(fair=False)"
        return None

    def version(self) -> str | None:
        return shmsync.__version__

    @contextmanager
    def make(self, name: str) -> Iterator[str]:
        with new_namespace(name, self.engine) as namespace:
            handle = self._object(namespace)
            yield name
            handle.close()

    def _object(self, namespace: Namespace) -> Any:
        if self.kind is Kind.LOCK:
            options: dict[str, Any] = {} if self.fair else {"fair": False}
            return namespace.mutex("object", **options)
        if self.kind is Kind.SEMAPHORE:
            return namespace.semaphore("object", 0)
        return namespace.event("object", manual_reset=self.kind is Kind.GATE)

    def open(self, payload: Any, part: Part) -> Opened:
        namespace = Namespace(payload, create=False)
        handle = self._object(namespace)
        if self.kind in (Kind.LOCK, Kind.SEMAPHORE):
            return Opened(handle.acquire, handle.release, close=namespace.close, thing=handle)
        clear = handle.clear if self.kind is Kind.GATE else None
        return Opened(handle.wait, handle.set, clear, namespace.close, handle)
