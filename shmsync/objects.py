"""The objects: mutexes, semaphores and events, as handles to slots of a namespace's segment.

They are drop-ins for the classes of ``threading`` and ``multiprocessing`` where the names coincide.
They are made by ``Namespace``, never directly. Semantics: NT's, as Linux's ntsync driver defines
them.
"""

from __future__ import annotations

import errno
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from shmsync._native import ffi, lib
from shmsync.errors import ClosedError, LimitError, from_errno
from shmsync.waiting import (
    AbandonedMutexWarning,
    Acquired,
    deadline_of,
    lock_deadline_of,
    run,
    undo,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmsync._native import CData
    from shmsync.namespace import Namespace

#: The largest count of a semaphore, and its default maximum: NT's LONG.
COUNT_MAX = 2**31 - 1


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


class Handle:
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
        "closed",
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
    #: True once ``close`` was called.
    closed: bool

    def __init__(self, namespace: Namespace, name: str | None, request: CData) -> None:
        """For ``Namespace`` only: ``request`` is a ``struct ss_open *`` that ss_open has filled
        in."""
        self._pointer = ffi.gc(request.handle, lib.ss_handle_free)
        request.handle = ffi.NULL  # adopted: ss_open_undo is not to close it
        self._mapping = namespace._mapping
        # Waits on this object alone that nobody uses at the moment (see waiting._requests).
        self._requests: list[CData] = []
        self.namespace = namespace
        self.name = name
        self.created = bool(request.created)
        self.slot = request.index
        self.generation = request.generation
        self.closed = False

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
        self.closed = True
        while lib.ss_close(self._pointer) == -errno.EINTR:
            pass

    def __del__(self) -> None:
        try:
            pointer = self._pointer
        except AttributeError:  # __init__ did not get that far
            return
        # Once: if a stopped process holds the gate, the next call on the namespace gives the object
        # back.
        lib.ss_close(pointer)

    def _call(self, function: Callable[..., int], *arguments: int) -> int:
        """One C call on this object; returns the previous state."""
        while (result := function(self._pointer, *arguments)) == -errno.EINTR:
            pass
        if result < 0:
            self._fail(result)
        return result

    def _fail(self, code: int) -> None:
        if code == -errno.EBADF:
            raise ClosedError(f"{self!r} is closed")
        raise from_errno(code)

    def _state(self) -> CData:
        state = ffi.new("struct ss_state *")
        self._call(lambda pointer: lib.ss_read(pointer, state))
        return state

    def _request(self, deadline: int) -> CData:
        """A wait on this object alone, with nothing taken."""
        try:
            request = self._requests.pop()
        except IndexError:
            request = ffi.new("struct ss_wait *")
            request.handles[0] = self._pointer
            request.count = 1
        request.taken = 0
        request.deadline_ns = deadline
        return request

    def _give_back(self) -> None:
        """Undoes one acquisition, where there is something to undo."""


class Mutex(Handle):
    """A recursive mutex, owned by the thread that acquired it; ``threading.RLock`` between
    unrelated processes. If a thread or process ends in whatever way while owning it, the mutex
    becomes free and abandoned, and the next one who acquires it is told (``Acquired.ABANDONED``, or
    ``AbandonedMutexWarning`` from ``with``).

    NT: mutant. ntsync: mutex.
    """

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Acquired:
        """Waits until the mutex is free or the calling thread's own, and takes it once more.

        ``timeout`` in seconds; None and -1 wait for ever. Returns an ``Acquired``, false if it
        timed out. Raises ``ValueError`` and ``OverflowError`` as ``threading.RLock.acquire`` does,
        and ``ClosedError``, ``BrokenError``, ``CapacityError`` (no free thread slot).
        """
        request = self._request(lock_deadline_of(blocking, timeout))
        requests = self._requests
        try:
            if not run(request):
                result = _TIMED_OUT
            elif request.abandoned:
                result = _ABANDONED
            else:
                result = _ACQUIRED
            requests += (request,)
            return result
        except BaseException:
            undo(request)
            raise

    def release(self) -> int:
        """Gives one acquisition back. Returns how many the owner had before: 1 means that it is
        free now (ntsync's convention; NT reports 1 minus that).

        Raises ``NotOwnerError`` (a ``RuntimeError``) if the calling thread does not own it.
        """
        return self._call(lib.ss_mutex_release)

    def __enter__(self) -> Acquired:
        request = self._request(lock_deadline_of(True, None))
        requests = self._requests
        try:
            run(request)
            if request.abandoned:
                warnings.warn(
                    AbandonedMutexWarning(f"the last owner of {self!r} died owning it"),
                    stacklevel=2,
                )
                result = _ABANDONED
            else:
                result = _ACQUIRED
            requests += (request,)
            return result
        except BaseException:  # also the warning, where warnings are errors
            undo(request)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def state(self) -> MutexState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return MutexState(state.count, state.owner, bool(state.abandoned))

    def _give_back(self) -> None:
        self.release()


class Semaphore(Handle):
    """A count of tokens with a maximum; ``threading.Semaphore`` between unrelated processes. A
    token that a process has taken and not given back when it dies is gone.

    NT, ntsync: semaphore.
    """

    __slots__ = ()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Acquired:
        """Waits until there is a token, and takes it. Arguments, result and errors as
        ``Mutex.acquire``; never ``ABANDONED``."""
        request = self._request(lock_deadline_of(blocking, timeout))
        requests = self._requests
        try:
            result = _ACQUIRED if run(request) else _TIMED_OUT
            requests += (request,)
            return result
        except BaseException:
            undo(request)
            raise

    def release(self, n: int = 1) -> int:
        """Puts ``n`` tokens in, all or none. Returns the count before.

        Raises ``ValueError`` for less than 1, ``LimitError`` (a ``ValueError``) if the count would
        pass the maximum: nothing is changed then.
        """
        if n < 1:
            raise ValueError("n must be one or more")
        if n > COUNT_MAX:
            raise LimitError(f"a release of {n} is above every possible maximum")
        return self._call(lib.ss_semaphore_release, n)

    def __enter__(self) -> Acquired:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def state(self) -> SemaphoreState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return SemaphoreState(state.count, state.maximum)

    def _give_back(self) -> None:
        self.release()


class Event(Handle):
    """Signaled or not. A manual-reset event lets everybody pass while it is signaled, like
    ``threading.Event``; an auto-reset event lets one pass and is reset by that.

    NT: notification and synchronization event. ntsync: event.
    """

    __slots__ = ()

    def set(self) -> bool:
        """Signals it. Returns whether it was signaled before."""
        return bool(self._call(lib.ss_event_set))

    def clear(self) -> bool:
        """Resets it. Returns whether it was signaled before."""
        return bool(self._call(lib.ss_event_reset))

    def pulse(self) -> bool:
        """Lets those pass who wait at this moment (one, if auto-reset), and leaves it reset.
        Returns whether it was signaled before, in which case it is just reset. (``fsync`` and
        ``esync`` may miss them.)"""
        return bool(self._call(lib.ss_event_pulse))

    def is_set(self) -> bool:
        """Is it signaled at this moment?"""
        return bool(self._state().signaled)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is signaled; an auto-reset event is reset by that. ``timeout`` in seconds:
        None waits for ever, 0 and less polls. Returns False after the timeout.

        Raises ``ValueError`` for a NaN, ``OverflowError``, ``ClosedError``, ``BrokenError``,
        ``CapacityError`` (no free thread slot).
        """
        request = self._request(deadline_of(timeout))
        requests = self._requests
        try:
            result = run(request)
            requests += (request,)
            return result
        except BaseException:
            undo(request)
            raise

    def state(self) -> EventState:
        """What it is at this moment. Raises ``ClosedError``, ``BrokenError``."""
        state = self._state()
        return EventState(state.kind == lib.SS_MANUAL_EVENT, bool(state.signaled))


# Bound once: looking up a member of an enum, or calling it, is a place where a signal handler could
# run.
_TIMED_OUT = Acquired.TIMED_OUT
_ACQUIRED = Acquired.ACQUIRED
_ABANDONED = Acquired.ABANDONED

#: The class of each kind of object in a segment.
CLASS_OF_KIND: dict[int, type[Handle]] = {
    lib.SS_SEMAPHORE: Semaphore,
    lib.SS_MUTEX: Mutex,
    lib.SS_AUTO_EVENT: Event,
    lib.SS_MANUAL_EVENT: Event,
}
