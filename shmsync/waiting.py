"""Timeouts, and waits on one or many objects.

Semantics: Linux's ntsync driver, with the argument checks of NT in front. A wait either takes what
it waited for, or nothing: also when it is interrupted by Ctrl-C or a signal handler that raises.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Final

from shmsync._native import ffi, lib
from shmsync.errors import KindError, LimitError, from_errno

if TYPE_CHECKING:
    from shmsync._native import CData
    from shmsync.objects import Event, Handle

#: Most handles in one wait; an alert may come on top. NT's MAXIMUM_WAIT_OBJECTS.
WAIT_MAX: Final = 64

#: Deadlines are CLOCK_MONOTONIC nanoseconds; 0 polls, this one never comes.
FOREVER: Final = 2**64 - 1


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


@dataclass(frozen=True, slots=True)
class WaitResult:
    """A successful wait. Always true, unlike the index 0.

    ``index``: which handle was taken; for a wait-all 0; ``len(handles)`` if the alert ended the
    wait. ``handle``: that handle (the alert, if it was that). ``abandoned``: a mutex that was taken
    had been abandoned by a dead owner.

    As a context manager it gives back, when the block ends, what the wait took: it releases the
    mutexes and semaphores; events stay as they are.
    """

    index: int
    handle: Handle
    abandoned: bool
    alerted: bool
    _taken: tuple[Handle, ...] = field(repr=False)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> WaitResult:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        failed: Exception | None = None
        for handle in reversed(self._taken):
            try:
                handle._give_back()
            except Exception as error:  # one that was released in the block keeps no other locked
                failed = failed or error
        if failed is not None:
            raise failed


def deadline_of(timeout: float | None) -> int:
    """The deadline ``timeout`` seconds from now; None never comes, 0 and less is a poll.

    Raises ``ValueError`` for NaN, ``OverflowError`` for more than ``threading.TIMEOUT_MAX``.
    """
    if timeout is None:
        return FOREVER
    if math.isnan(timeout):
        raise ValueError("Invalid value NaN (not a number)")
    if timeout > threading.TIMEOUT_MAX:
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


# Requests that nobody uses at the moment. A request is taken out by list.pop and put back by +=,
# which is not a call: so no signal handler can run, and no exception strike, between putting it
# back and returning.
_requests: list[CData] = []


def _request() -> CData:
    try:
        request = _requests.pop()
    except IndexError:
        request = ffi.new("struct ss_wait *")
    request.taken = 0
    return request


def _check_handles(handles: Sequence[Handle], all_of_them: bool, alert: Event | None) -> None:
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
    # All namespaces of this process on one segment share one mapping, so its address tells them
    # apart.
    if len({handle._mapping for handle in members}) > 1:
        raise ValueError("handles of two namespaces in one wait")
    if all_of_them and len({handle.slot for handle in members}) < len(members):
        raise ValueError("the same object twice in a wait for all")


def _wait(
    handles: Sequence[Handle],
    deadline: int,
    all_of_them: bool,
    alert: Event | None = None,
    signal: Handle | None = None,
) -> WaitResult | None:
    global _requests
    request = _request()
    for i, handle in enumerate(handles):
        request.handles[i] = handle._pointer
    request.count = len(handles)
    request.all = all_of_them
    request.alert = ffi.NULL if alert is None else alert._pointer
    request.signal = ffi.NULL if signal is None else signal._pointer
    request.deadline_ns = deadline
    try:
        result = _result(request, handles, alert) if run(request) else None
        _requests += (request,)
        return result
    except BaseException:
        undo(request)
        raise


def _result(request: CData, handles: Sequence[Handle], alert: Event | None) -> WaitResult:
    index: int = request.index
    if alert is not None and index == len(handles):
        return WaitResult(index, alert, False, True, ())
    taken = tuple(handles) if request.all else (handles[index],)
    return WaitResult(index, handles[index], bool(request.abandoned), False, taken)


def wait_any(
    handles: Sequence[Handle], timeout: float | None = None, *, alert: Event | None = None
) -> WaitResult | None:
    """Waits until one of 1 to 64 objects is signaled, and takes that one.

    If several are signaled at the time of the call, the lowest index is taken. The same object may
    be there twice. ``timeout`` is in seconds: None waits for ever, 0 and less polls. ``alert`` is
    an event that is tried after the objects; if it ends the wait, the result says ``alerted`` and
    its index is ``len(handles)`` (an auto-reset alert is consumed).

    Returns a ``WaitResult``, or None after the timeout, in which case nothing was taken.

    Raises ``ValueError`` for no handles, handles of two namespaces, or a NaN; ``LimitError`` for
    more than 64; ``KindError`` for an alert that is no event; ``ClosedError``; ``BrokenError``;
    ``CapacityError`` if this is the thread's first use of the namespace and no thread slot is free.

    NT: WaitForMultipleObjects. ntsync: NTSYNC_IOC_WAIT_ANY.
    """
    handles = tuple(handles)
    _check_handles(handles, False, alert)
    return _wait(handles, deadline_of(timeout), False, alert)


def wait_all(
    handles: Sequence[Handle], timeout: float | None = None, *, alert: Event | None = None
) -> WaitResult | None:
    """Waits until all of 1 to 64 objects are signaled at one instant, and takes them all, or none.

    (The engines ``fsync`` and ``esync`` take them one after the other, as Wine's did; see the
    README.)

    As ``wait_any``, but the result's ``index`` is 0 and its ``handle`` the first one, ``abandoned``
    says that at least one mutex among them was, and the same object twice (the alert counts) is a
    ``ValueError``.

    NT: WaitForMultipleObjects with bWaitAll. ntsync: NTSYNC_IOC_WAIT_ALL.
    """
    handles = tuple(handles)
    _check_handles(handles, True, alert)
    return _wait(handles, deadline_of(timeout), True, alert)


def signal_and_wait(
    signal: Handle, wait: Handle, timeout: float | None = None
) -> WaitResult | None:
    """Signals one object (sets an event, releases a semaphore by 1 or a mutex once), then waits for
    another. Not atomic, as in NT, but both handles are checked before anything is signaled, and if
    the signal fails there is no wait.

    ``timeout`` in seconds as for ``wait_any``; a wait that times out leaves the signal given.

    Returns and raises as ``wait_any``; besides ``NotOwnerError`` and ``LimitError`` of the release.

    NT: SignalObjectAndWait.
    """
    _check_handles((signal, wait), False, None)
    return _wait((wait,), deadline_of(timeout), False, signal=signal)
