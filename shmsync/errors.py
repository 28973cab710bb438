"""Errors, each saying whose fault it is, and the one table that maps errno values from C to
them."""

from __future__ import annotations

import errno
import os


class ShmSyncError(Exception):
    """Base of every error that shmsync raises on its own account.

    Wrong arguments raise plain ``ValueError``, ``TypeError`` or ``OverflowError`` where
    ``threading`` does, and the operating system's refusals (no permission on the segment's file)
    stay ``OSError``.
    """


class ClosedError(ShmSyncError, ValueError):
    """You used a handle or namespace after closing it. Unlike ``BrokenError``, nothing is
    damaged."""


class NotOwnerError(ShmSyncError, RuntimeError):
    """You released a mutex that the calling thread does not own (``threading.RLock`` raises
    ``RuntimeError`` for it, NT answers ERROR_NOT_OWNER)."""


class LimitError(ShmSyncError, ValueError):
    """Your call goes beyond a fixed limit: more than 64 handles in a wait, a release above a
    semaphore's maximum (NT: ERROR_TOO_MANY_POSTS), a name of more than 200 bytes. Nothing
    changed."""


class CapacityError(ShmSyncError, OSError):
    """The namespace or ``/dev/shm`` is full. The message names what ran out and how to raise it."""


class NotFoundError(ShmSyncError, FileNotFoundError):
    """There is no such namespace or object (any more), and the call was not to create one."""


class ExistsError(ShmSyncError, FileExistsError):
    """``exclusive=True`` was asked for, and the namespace or object exists."""


class KindError(ShmSyncError, TypeError):
    """The name belongs to an object of another kind, or the handle is of a kind that cannot do
    this."""


class UnsupportedError(ShmSyncError, OSError):
    """This kernel, machine or engine cannot do it; the message gives the reason."""


class BrokenError(ShmSyncError, OSError):
    """Something outside broke it: the segment is not one of ours, of another format, or damaged, or
    its broker was killed.

    No call on the segment can succeed until somebody removes it (``shmsync rm``)."""


#: errno of a negative C result -> (class, what it means when the caller has nothing better to say).
FROM_ERRNO: dict[int, tuple[type[ShmSyncError], str]] = {
    errno.EBADF: (ClosedError, "the handle is closed"),
    errno.EPERM: (NotOwnerError, "the calling thread does not own the mutex"),
    errno.EOVERFLOW: (LimitError, "the release would raise the semaphore above its maximum"),
    errno.E2BIG: (LimitError, "a wait takes 1 to 64 handles"),
    errno.ENOSPC: (CapacityError, "the namespace is full"),
    errno.EUSERS: (CapacityError, "the namespace has no free thread slot; create it with threads="),
    errno.ENOMEM: (CapacityError, "out of memory"),
    errno.EAGAIN: (CapacityError, "no thread to spare for the one that looks for dead owners"),
    errno.ECHILD: (
        CapacityError,
        "this process was forked when the namespace had no process slot, or the process no file"
        " descriptor or permission, for it; open the namespace anew",
    ),
    errno.ENOENT: (NotFoundError, "no such object"),
    errno.ESTALE: (NotFoundError, "the object is gone"),
    errno.EEXIST: (ExistsError, "it exists already"),
    errno.EPROTOTYPE: (KindError, "the object is of another kind"),
    errno.ENOSYS: (
        UnsupportedError,
        "this process was forked into another pid namespace than the segment's",
    ),
    errno.EBADMSG: (BrokenError, "the segment is damaged"),
    errno.ENOTRECOVERABLE: (
        BrokenError,
        "the namespace's broker was killed; once its last process has left, the namespace can be"
        " created anew",
    ),
}


def from_errno(code: int, message: str | None = None, filename: str | None = None) -> Exception:
    """The exception for a negative errno from C: ``code`` is -errno, ``message`` says it better
    than the table if given. An errno outside the table becomes the operating system's own error."""
    number = -code
    entry = FROM_ERRNO.get(number)
    if entry is None:
        return OSError(number, message or os.strerror(number), filename)
    error_class, default = entry
    if issubclass(error_class, OSError):
        return error_class(number, message or default, filename)
    return error_class(message or default)
