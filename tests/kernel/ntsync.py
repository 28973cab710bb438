"""The real /dev/ntsync: every ioctl as a method, no kernel header needed.

    with Device() as device:
        sem, event = device.semaphore(0, 2), device.event(manual=False)
        sem.release(1)
        device.wait([sem, event], owner=123, deadline=0)     # Taken(0)

Every error is an ``OSError`` with the kernel's errno, except for EOWNERDEAD of a wait, which is a
success. The calls go through ctypes, which gives the GIL away and, unlike ``fcntl.ioctl`` of some
Pythons, never tries again after EINTR.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

PATH: Final = "/dev/ntsync"
FOREVER: Final = 2**64 - 1
#: A deadline is on CLOCK_MONOTONIC, or with this flag on CLOCK_REALTIME.
REALTIME: Final = 1


class SemaphoreArgs(ctypes.Structure):
    """``struct ntsync_sem_args``."""

    _fields_ = (("count", ctypes.c_uint32), ("max", ctypes.c_uint32))


class MutexArgs(ctypes.Structure):
    """``struct ntsync_mutex_args``."""

    _fields_ = (("owner", ctypes.c_uint32), ("count", ctypes.c_uint32))


class EventArgs(ctypes.Structure):
    """``struct ntsync_event_args``."""

    _fields_ = (("manual", ctypes.c_uint32), ("signaled", ctypes.c_uint32))


class WaitArgs(ctypes.Structure):
    """``struct ntsync_wait_args``. ``objs`` is the address of an array of file descriptors;
    ``index`` is written."""

    _fields_ = (
        ("timeout", ctypes.c_uint64),
        ("objs", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("owner", ctypes.c_uint32),
        ("alert", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


def _request(direction: int, number: int, size: int) -> int:
    """The number of an ioctl: two bits of direction (1: we write, 2: we read), the size of the
    argument, the driver's letter."""
    return direction << 30 | size << 16 | ord("N") << 8 | number


_W, _R, _WR = 1, 2, 3
CREATE_SEM: Final = _request(_W, 0x80, 8)
SEM_RELEASE: Final = _request(_WR, 0x81, 4)
WAIT_ANY: Final = _request(_WR, 0x82, 40)
WAIT_ALL: Final = _request(_WR, 0x83, 40)
CREATE_MUTEX: Final = _request(_W, 0x84, 8)
MUTEX_UNLOCK: Final = _request(_WR, 0x85, 8)
MUTEX_KILL: Final = _request(_W, 0x86, 4)
CREATE_EVENT: Final = _request(_W, 0x87, 8)
EVENT_SET: Final = _request(_R, 0x88, 4)
EVENT_RESET: Final = _request(_R, 0x89, 4)
EVENT_PULSE: Final = _request(_R, 0x8A, 4)
SEM_READ: Final = _request(_R, 0x8B, 8)
MUTEX_READ: Final = _request(_R, 0x8C, 8)
EVENT_READ: Final = _request(_R, 0x8D, 8)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def _ioctl(fd: int, request: int, argument: ctypes.Structure | ctypes.c_uint32) -> int:
    """What the ioctl gives, or the error as -errno."""
    result = int(_libc.ioctl(fd, request, ctypes.byref(argument)))
    return result if result >= 0 else -ctypes.get_errno()


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class File:
    """A file descriptor that is closed in the end."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Closes it; an object goes with its last descriptor."""
        os.close(self.fd)

    def _number(self, request: int, n: int = 0xDEADBEEF) -> int:
        """An ioctl on one number, which it overwrites."""
        argument = ctypes.c_uint32(n)
        _checked(_ioctl(self.fd, request, argument))
        return argument.value


class Semaphore(File):
    """A semaphore of the kernel's."""

    def release(self, n: int) -> int:
        """Adds n tokens; the count before."""
        return self._number(SEM_RELEASE, n)

    def read(self) -> tuple[int, int]:
        """Count and maximum."""
        state = SemaphoreArgs()
        _checked(_ioctl(self.fd, SEM_READ, state))
        return state.count, state.max


class Mutex(File):
    """A mutex of the kernel's."""

    def unlock(self, owner: int) -> int:
        """Gives one acquisition back; the recursion count before."""
        argument = MutexArgs(owner, 0xDEADBEEF)
        _checked(_ioctl(self.fd, MUTEX_UNLOCK, argument))
        return int(argument.count)

    def kill(self, owner: int) -> None:
        """Declares its owner dead."""
        _checked(_ioctl(self.fd, MUTEX_KILL, ctypes.c_uint32(owner)))

    def read(self) -> tuple[int, int, bool]:
        """Owner, recursion count, and whether it is abandoned."""
        state = MutexArgs(0xDEADBEEF, 0xDEADBEEF)
        result = _ioctl(self.fd, MUTEX_READ, state)
        if result != -errno.EOWNERDEAD:
            _checked(result)
        return state.owner, state.count, result < 0


class Event(File):
    """An event of the kernel's."""

    def set(self) -> int:
        """Sets it; was it set before?"""
        return self._number(EVENT_SET)

    def reset(self) -> int:
        """Resets it; was it set before?"""
        return self._number(EVENT_RESET)

    def pulse(self) -> int:
        """Sets it, serves whoever waits, resets it; was it set before?"""
        return self._number(EVENT_PULSE)

    def read(self) -> tuple[int, int]:
        """Manual, and signaled."""
        state = EventArgs(0xDEADBEEF, 0xDEADBEEF)
        _checked(_ioctl(self.fd, EVENT_READ, state))
        return state.manual, state.signaled


@dataclass(frozen=True)
class Taken:
    """A wait that succeeded. The index of the alert is the number of objects."""

    index: int
    abandoned: bool = False


class Device(File):
    """An instance of the driver. Objects of two instances cannot be waited for together."""

    def __init__(self, path: str = PATH) -> None:
        super().__init__(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def semaphore(self, count: int, maximum: int) -> Semaphore:
        """A new semaphore."""
        return Semaphore(_checked(_ioctl(self.fd, CREATE_SEM, SemaphoreArgs(count, maximum))))

    def mutex(self, owner: int = 0, count: int = 0) -> Mutex:
        """A new mutex, owned ``count`` times, or free."""
        return Mutex(_checked(_ioctl(self.fd, CREATE_MUTEX, MutexArgs(owner, count))))

    def event(self, *, manual: bool, signaled: bool = False) -> Event:
        """A new event."""
        return Event(_checked(_ioctl(self.fd, CREATE_EVENT, EventArgs(manual, signaled))))

    def wait(
        self,
        descriptors: Sequence[int],
        owner: int,
        deadline: int = FOREVER,
        *,
        all: bool = False,
        alert: int = 0,
        flags: int = 0,
    ) -> Taken | None:
        """Waits for any or all of the objects with these file descriptors, or for the one of the
        ``alert`` (0: none). None if the deadline, in nanoseconds, comes first."""
        array = (ctypes.c_uint32 * max(1, len(descriptors)))(*descriptors)
        objects = ctypes.addressof(array)
        count = len(descriptors)
        wait = WaitArgs(deadline, objects, count, 0xDEADBEEF, flags, owner, alert, 0)
        result = _ioctl(self.fd, WAIT_ALL if all else WAIT_ANY, wait)
        if result == -errno.ETIMEDOUT:
            return None
        if result != -errno.EOWNERDEAD:
            _checked(result)
        return Taken(wait.index, result < 0)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
