"""Waits on one or many objects.

Semantics: Linux's ntsync driver, with the argument checks of NT in front. A wait either takes what
it waited for, or nothing: also when it is interrupted by Ctrl-C or a signal handler that raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from shmsync.calls import check_handles, deadline_of
from shmsync.fast import Request

if TYPE_CHECKING:
    from shmsync.objects import Event, Handle


@dataclass(slots=True)  # not frozen: that would take longer than the wait
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
        failed: BaseException | None = None
        for handle in reversed(self._taken):
            try:
                handle._give_back()
            except (
                BaseException
            ) as error:  # one that fails, or is interrupted, keeps no other locked
                failed = failed or error
        if failed is not None:
            raise failed


def _wait(
    handles: tuple[Handle, ...],
    deadline: int,
    all_of_them: bool,
    alert: Event | None = None,
    signal: Handle | None = None,
) -> WaitResult | None:
    request = Request()
    try:
        index = request.wait(handles, deadline, all_of_them, alert, signal)
        if index is None:
            return None
        if alert is not None and index == len(handles):
            return WaitResult(index, alert, False, True, ())
        taken = handles if all_of_them else (handles[index],)
        return WaitResult(index, handles[index], request.abandoned, False, taken)
    except BaseException:
        request.undo()
        raise


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
    return _wait(tuple(handles), deadline_of(timeout), False, alert)


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
    return _wait(tuple(handles), deadline_of(timeout), True, alert)


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
    check_handles((signal, wait), False, None)
    return _wait((wait,), deadline_of(timeout), False, signal=signal)
