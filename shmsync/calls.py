"""Timeouts, and the calls that people make all the time: on one object, and waits.

Written here with cffi. ``shmsync._fast`` has the same classes in C, where it could be built, and
comes back here for arguments that are not the usual ones; ``shmsync.fast`` says which are in use.
"""

from __future__ import annotations

import errno
import itertools
import math
import threading
import time
import warnings
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

from shmsync._native import ffi, lib
from shmsync.errors import ClosedError, KindError, LimitError, from_errno

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmsync._native import CData
    from shmsync.objects import Event, Handle

#: Most handles in one wait; an alert may come on top. NT's MAXIMUM_WAIT_OBJECTS.
WAIT_MAX: Final = 64

#: The largest count of a semaphore, and its default maximum: NT's LONG.
COUNT_MAX: Final = 2**31 - 1

#: Deadlines are CLOCK_MONOTONIC nanoseconds; 0 polls, this one never comes.
FOREVER: Final = 2**64 - 1

#: For how many seconds a change is tried again before the exception of a signal handler ends it.
PATIENCE: Final = 1.0

#: The longest timeout, in seconds, as everywhere in Python.
TIMEOUT_MAX: Final = threading.TIMEOUT_MAX


class Acquired(IntEnum):
    """What came of an ``acquire``: false if nothing was acquired.

    ``ABANDONED`` is a success like ``ACQUIRED``, with the news that the mutex's last owner died
    while it owned it, so that what it protects may be half changed. One acquirer is told, once.
    """

    TIMED_OUT = 0
    ACQUIRED = 1
    ABANDONED = 2


class AbandonedMutexWarning(RuntimeWarning):
    """Emitted by ``with mutex:`` if the last owner died owning it. ``acquire`` returns
    ``Acquired.ABANDONED`` instead."""


def deadline_of(timeout: float | None) -> int:
    """The deadline ``timeout`` seconds from now; None never comes, 0 and less is a poll.

    Raises ``ValueError`` for NaN, ``OverflowError`` for more than ``threading.TIMEOUT_MAX``.
    """
    if timeout is None:
        return FOREVER
    if math.isnan(timeout):
        raise ValueError("Invalid value NaN (not a number)")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    if timeout <= 0:
        return 0
    return time.monotonic_ns() + math.ceil(timeout * 1e9)


def lock_deadline_of(blocking: bool, timeout: float | None) -> int:
    """The deadline of ``acquire(blocking, timeout)``, with the argument checks of
    ``threading.Lock``: -1 means for ever like None, another negative value and a timeout for a call
    that does not block are a ``ValueError``."""
    if timeout is None or timeout == -1:
        return FOREVER if blocking else 0
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    return deadline_of(timeout)


# Bound once: a look-up in a cffi module costs a third of a call.
_ss_wait = lib.ss_wait
_EINTR: Final = -errno.EINTR


def run(request: CData) -> bool:
    """Performs the wait that ``request``, a ``struct ss_wait *``, describes. True if it took
    something.

    -EINTR means that a signal came, or that the engine wants signals to be looked at: the handlers
    run between two rounds of the loop, and the deadline, being absolute, stays what it was. The
    caller calls ``undo`` if an exception reaches it.
    """
    while (code := _ss_wait(request)) == _EINTR:
        pass
    if code == 0:
        return True
    if code == -errno.ETIMEDOUT:
        return False
    raise from_errno(code)


def undo(request: CData) -> None:
    """Gives up a wait that an exception has struck, and puts back what it took."""
    while lib.ss_wait_undo(request) == _EINTR:
        pass


# ---- waits on several ----


def check_handles(handles: tuple[Handle, ...], all_of_them: bool, alert: Event | None) -> None:
    """Raises what is wrong with the handles of a wait."""
    from shmsync.objects import Event, Handle

    if len(handles) == 0:
        raise ValueError("no handles to wait for")
    if len(handles) > WAIT_MAX:
        raise LimitError(f"{len(handles)} handles in one wait; at most {WAIT_MAX} are possible")
    for handle in handles:
        if not isinstance(handle, Handle):
            raise TypeError(f"a handle of shmsync is needed, not {type(handle).__name__}")
    if alert is not None and not isinstance(alert, Event):
        raise KindError(f"an alert must be an event, not {type(alert).__name__}")
    members = [*handles, alert] if alert is not None else list(handles)
    for handle in members:
        handle._check_open()
    # All namespaces of this process on one segment share one mapping, so its address tells them
    # apart.
    if len({handle._mapping for handle in members}) > 1:
        raise ValueError("handles of two namespaces in one wait")
    if all_of_them and len({handle.slot for handle in members}) < len(members):
        raise ValueError("the same object twice in a wait for all")


def refuse(handles: tuple[Handle, ...], all_of_them: bool, alert: Event | None, code: int) -> None:
    """Raises what C has refused a wait for: the handles, or what the negative errno means."""
    check_handles(handles, all_of_them, alert)
    raise from_errno(code)


class Request:
    """One wait on several objects, which remembers what it took, to give it back."""

    __slots__ = ("_struct",)

    def __init__(self) -> None:
        self._struct = ffi.new("struct ss_wait *")

    def wait(
        self,
        handles: tuple[Handle, ...],
        deadline: int,
        all_of_them: bool,
        alert: Event | None,
        signal: Handle | None,
        /,
    ) -> int | None:
        """Performs the wait, once: the index of what was taken, or None after the deadline (ns)."""
        check_handles(handles, all_of_them, alert)
        request = self._struct
        for i, handle in enumerate(handles):
            request.handles[i] = handle._pointer
        request.count = len(handles)
        request.all = all_of_them
        request.alert = ffi.NULL if alert is None else alert._pointer
        request.signal = ffi.NULL if signal is None else signal._pointer
        request.deadline_ns = deadline
        return request.index if run(request) else None

    @property
    def abandoned(self) -> bool:
        """Was a mutex that it took abandoned?"""
        return bool(self._struct.abandoned)

    def undo(self) -> None:
        """Gives the wait up, or puts back what it took."""
        undo(self._struct)


# ---- calls on one object ----


class Base:
    """What the calls on a handle need, whichever way they are made."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def closed(self) -> bool: ...

    _pointer: CData
    # Waits on this object alone that nobody uses at the moment. A request is taken out by list.pop
    # and put back by +=, which is not a call: so no signal handler can run, and no exception
    # strike, between putting it back and returning.
    _requests: list[CData]

    def _call(self, function: Callable[..., int], *arguments: int) -> int:
        """One C call on this object; returns the previous state.

        If a signal handler raises meanwhile, the call is tried again for a while: who calls
        ``release`` and is interrupted does not expect to own the mutex still. A second exception
        ends that.
        """
        self._check_open()
        # The calls are made by the iterator, and their results go straight into the list: so
        # wherever an exception strikes, it is known whether the last call did what it should.
        calls = itertools.starmap(function, itertools.repeat((self._pointer, *arguments)))
        results = [_EINTR]
        try:
            while results[-1] == _EINTR:
                results += itertools.islice(calls, 1)
        except BaseException:
            until = time.monotonic() + PATIENCE
            while results[-1] == _EINTR and time.monotonic() < until:
                results += itertools.islice(calls, 1)
            raise
        if results[-1] < 0:
            self._fail(results[-1])
        return results[-1]

    def _check_open(self) -> None:
        """A closed handle is not for C any more: if it is garbage, C may have freed its own."""
        if self.closed:
            self._fail(-errno.EBADF)

    def _fail(self, code: int) -> None:
        if code == -errno.EBADF:
            raise ClosedError(f"{self!r} is closed")
        raise from_errno(code)

    def _warn_abandoned(self, stacklevel: int) -> None:
        warnings.warn(
            AbandonedMutexWarning(f"the last owner of {self!r} died owning it"),
            stacklevel=stacklevel,
        )

    def _state(self) -> CData:
        state = ffi.new("struct ss_state *")
        self._call(lambda pointer: lib.ss_read(pointer, state))
        return state

    def _request(self, deadline: int) -> CData:
        """A wait on this object alone, with nothing taken."""
        self._check_open()
        try:
            request = self._requests.pop()
        except IndexError:
            request = ffi.new("struct ss_wait *")
            request.handles[0] = self._pointer
            request.count = 1
        request.taken = 0
        request.deadline_ns = deadline
        return request


class Core:
    """The base of handles. ``_address``: where the C handle is, for C alone."""

    __slots__ = ("_address", "_closed")

    _address: int

    @property
    def closed(self) -> bool:
        """True once ``close`` was called."""
        return hasattr(self, "_closed")

    def _mark_closed(self) -> None:
        """From here on nobody uses the handle."""
        self._closed = None


C = TypeVar("C")


def install(class_: type[C], /) -> type[C]:
    """Of a class of handles, lets all methods be those of this module."""
    return class_


class MutexCalls(Base):
    """A mutex's."""

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
                self._warn_abandoned(3)
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
        /,
    ) -> None:
        self.release()


class SemaphoreCalls(Base):
    """A semaphore's."""

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
        /,
    ) -> None:
        self.release()


class EventCalls(Base):
    """An event's."""

    __slots__ = ()

    def set(self) -> bool:
        """Signals it. Returns whether it was signaled before."""
        return bool(self._call(lib.ss_event_set))

    def clear(self) -> bool:
        """Resets it. Returns whether it was signaled before."""
        return bool(self._call(lib.ss_event_reset))

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


# Bound once: looking up a member of an enum, or calling it, is a place where a signal handler could
# run.
_TIMED_OUT = Acquired.TIMED_OUT
_ACQUIRED = Acquired.ACQUIRED
_ABANDONED = Acquired.ABANDONED


def fast_table() -> int:
    """Where ``shmsync._fast`` finds the functions of the cffi module."""
    return int(lib.ss_fast_table())
