"""The objects: mutexes, semaphores and events, as handles to slots of a namespace's segment.

They are drop-ins for the classes of ``threading`` and ``multiprocessing`` where the names coincide.
They are made by ``Namespace``, never directly. Semantics: NT's, as Linux's ntsync driver defines
them.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shmsync._native import ffi, lib
from shmsync.calls import Base, EventCalls, MutexCalls, SemaphoreCalls
from shmsync.errors import ClosedError
from shmsync.fast import Core, install

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmsync._native import CData
    from shmsync.namespace import Namespace


@dataclass(frozen=True, slots=True)
class SemaphoreState:
    """``count`` tokens of at most ``maximum``."""

    count: int
    maximum: int


@dataclass(frozen=True, slots=True)
class MutexState:
    """``count``: how many times the owner has acquired it. ``owner``: the id of the owning thread
    in the namespace, opaque, 0 if the mutex is free. ``abandoned``: its last owner died owning it,
    and nobody has acquired it since."""

    count: int
    owner: int
    abandoned: bool


@dataclass(frozen=True, slots=True)
class EventState:
    """``manual_reset``: stays signaled until cleared. ``signaled``: a wait would succeed."""

    manual_reset: bool
    signaled: bool


class Handle(Core, Base):
    """A process's reference to one object.

    Works in forked children, can be pickled to another process of the machine (the pickle holds no
    reference: ``NotFoundError`` if the object is gone when it is opened), and is safe to use from
    several threads. A handle that is collected is closed.
    """

    __slots__ = (
        "__weakref__",
        "_mapping",
        "_pointer",
        "_requests",
        "created",
        "generation",
        "name",
        "namespace",
        "slot",
    )

    #: The namespace that the handle was made through, kept alive by it.
    namespace: Namespace
    #: The object's name, or None for an anonymous one.
    name: str | None
    #: Did the call that returned this handle make the object?
    created: bool
    #: The object's slot in the segment, as ``shmsync show`` prints it.
    slot: int
    #: Which use of the slot this is.
    generation: int

    def __init__(self, namespace: Namespace, name: str | None, request: CData) -> None:
        """For ``Namespace`` only: ``request`` is a ``struct ss_open *`` that ss_open has filled
        in."""
        self._pointer = ffi.gc(request.handle, lib.ss_handle_free)
        request.handle = ffi.NULL  # adopted: ss_open_undo is not to close it
        self._mapping = namespace._mapping
        self._address = int(ffi.cast("uintptr_t", self._pointer))
        self._requests: list[CData] = []
        self.namespace = namespace
        self.name = name
        self.created = bool(request.created)
        self.slot = request.index
        self.generation = request.generation

    def __repr__(self) -> str:
        label = repr(self.name) if self.name is not None else f"#{self.slot}"
        state = " closed" if self.closed else ""
        return f"<shmsync.{type(self).__name__} {label} in {self.namespace.name!r}{state}>"

    def __reduce__(self) -> tuple[Callable[..., Handle], tuple[object, ...]]:
        from shmsync.namespace import reopen_handle

        if self.closed:
            raise ClosedError(f"{self!r} cannot be pickled")
        return reopen_handle, (*self.namespace._identity(), self.slot, self.generation, self.name)

    def close(self) -> None:
        """Gives the reference back. The object goes when nobody has it open, owns it or waits on
        it.

        Neither releases a mutex nor ends a wait that another thread of this process is in. Closing
        twice is fine; any other use of a closed handle raises ``ClosedError``.
        """
        self._mark_closed()
        while lib.ss_close(self._pointer) == -errno.EINTR:
            pass

    def __del__(self) -> None:
        try:
            pointer = self._pointer
        except AttributeError:  # __init__ did not get that far
            return
        # First of all: the collector may have others use this handle after it is finalized.
        self._mark_closed()
        # Once: if a stopped process holds the gate, the next call on the namespace gives the object
        # back.
        lib.ss_close(pointer)

    def _give_back(self) -> None:
        """Undoes one acquisition, where there is something to undo."""


@install
class Mutex(MutexCalls, Handle):
    """A recursive mutex, owned by the thread that acquired it; ``threading.RLock`` between
    unrelated processes. If a thread or process ends in whatever way while owning it, the mutex
    becomes free and abandoned, and the next one who acquires it is told (``Acquired.ABANDONED``, or
    ``AbandonedMutexWarning`` from ``with``).

    NT: mutant. ntsync: mutex.
    """

    __slots__ = ()

    def state(self) -> MutexState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return MutexState(state.count, state.owner, bool(state.abandoned))

    def _give_back(self) -> None:
        self.release()


@install
class Semaphore(SemaphoreCalls, Handle):
    """A count of tokens with a maximum; ``threading.Semaphore`` between unrelated processes. A
    token that a process has taken and not given back when it dies is gone.

    NT, ntsync: semaphore.
    """

    __slots__ = ()

    def state(self) -> SemaphoreState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return SemaphoreState(state.count, state.maximum)

    def _give_back(self) -> None:
        self.release()


@install
class Event(EventCalls, Handle):
    """Signaled or not. A manual-reset event lets everybody pass while it is signaled, like
    ``threading.Event``; an auto-reset event lets one pass and is reset by that.

    NT: notification and synchronization event. ntsync: event.
    """

    __slots__ = ()

    def pulse(self) -> bool:
        """Lets those pass who wait at this moment (one, if auto-reset), and leaves it reset.
        Returns whether it was signaled before, in which case it is just reset. (``fsync`` and
        ``esync`` may miss them.)"""
        return bool(self._call(lib.ss_event_pulse))

    def state(self) -> EventState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return EventState(state.kind == lib.SS_MANUAL_EVENT, bool(state.signaled))


#: The class of each kind of object in a segment.
CLASS_OF_KIND: dict[int, type[Handle]] = {
    lib.SS_SEMAPHORE: Semaphore,
    lib.SS_MUTEX: Mutex,
    lib.SS_AUTO_EVENT: Event,
    lib.SS_MANUAL_EVENT: Event,
}
