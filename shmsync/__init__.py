"""Synchronization objects of Windows NT for Python processes that know nothing of each other.

    from shmsync import Namespace, wait_any

    ns = Namespace("render-farm")            # create or attach
    with ns.mutex("lock"):                   # like threading.RLock, between unrelated processes
        ...

General layout: ``namespace`` is the way in by name, ``objects`` the handles, ``waiting`` the waits
on several, ``calls`` what both do most of the time (and ``fast`` says whether that is done in C),
``errors`` what can go wrong, ``engine`` the algorithms' declarations, ``broker``
the process behind those whose objects are file descriptors, ``inspect`` looks without touching,
``cli`` is the command ``shmsync``. The C in ``native/`` is ``shmsync._native``.
"""

from shmsync.calls import AbandonedMutexWarning, Acquired
from shmsync.errors import (
    BrokenError,
    CapacityError,
    ClosedError,
    ExistsError,
    KindError,
    LimitError,
    NotFoundError,
    NotOwnerError,
    ShmSyncError,
    UnsupportedError,
)
from shmsync.namespace import Namespace, unlink
from shmsync.objects import (
    Event,
    EventState,
    Handle,
    Mutex,
    MutexState,
    Semaphore,
    SemaphoreState,
)
from shmsync.waiting import WaitResult, signal_and_wait, wait_all, wait_any

__version__ = "0.1.0"

__all__ = [
    "AbandonedMutexWarning",
    "Acquired",
    "BrokenError",
    "CapacityError",
    "ClosedError",
    "Event",
    "EventState",
    "ExistsError",
    "Handle",
    "KindError",
    "LimitError",
    "Mutex",
    "MutexState",
    "Namespace",
    "NotFoundError",
    "NotOwnerError",
    "Semaphore",
    "SemaphoreState",
    "ShmSyncError",
    "UnsupportedError",
    "WaitResult",
    "__version__",
    "signal_and_wait",
    "unlink",
    "wait_all",
    "wait_any",
]
