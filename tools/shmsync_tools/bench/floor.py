"""Loops in C over shmsync's own calls, and over what is below them: every function runs so many
rounds and returns how many nanoseconds they all took.

The loops have no Python in them, so what Python adds is the difference to a loop in Python. They
call the very functions of ``shmsync._native`` that the package calls, on its handles. Errors are
``OSError``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from mmap import mmap
from typing import TYPE_CHECKING

from shmsync import _native
from shmsync._bench import ffi, lib
from shmsync.calls import FOREVER
from shmsync.objects import Event, Handle, Mutex, Semaphore

if TYPE_CHECKING:
    from shmsync._native import CData

_FUNCTIONS = {
    "wait": "ss_wait",
    "semaphore_release": "ss_semaphore_release",
    "mutex_release": "ss_mutex_release",
    "event_set": "ss_event_set",
    "event_reset": "ss_event_reset",
    "read": "ss_read",
}
#: Bytes that a robust mutex takes.
ROBUST_SIZE = 64
#: The bit of its first word that says that somebody sleeps for it.
_ROBUST_WAITERS = 0x80000000


def _address(pointer: CData) -> int:
    return int(_native.ffi.cast("uintptr_t", pointer))


def _use_production() -> None:
    functions = ffi.new("struct bench_functions *")
    for field, name in _FUNCTIONS.items():
        function = _native.ffi.addressof(_native.lib, name)
        setattr(functions, field, _address(function))
    lib.bench_use(functions)


_use_production()


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


# ---- shmsync's calls ----


def _request(
    handles: Sequence[Handle], all_of_them: bool = False, deadline: int = FOREVER
) -> CData:
    """A wait, as ``shmsync.waiting`` describes it to the C."""
    request = _native.ffi.new("struct ss_wait *")
    for number, handle in enumerate(handles):
        request.handles[number] = handle._pointer
    request.count = len(handles)
    request.all = all_of_them
    request.deadline_ns = deadline
    return request


def wait(handles: Sequence[Handle], rounds: int, *, all_of_them: bool = False) -> int:
    """A wait for any or all. What it takes is not given back, so the objects have to last."""
    request = _request(handles, all_of_them)
    return _checked(lib.bench_wait(_address(request), rounds))


def wait_release(handle: Mutex | Semaphore, rounds: int) -> int:
    """A wait for one object, and its release."""
    request, pointer = _request([handle]), _address(handle._pointer)
    if isinstance(handle, Mutex):
        return _checked(lib.bench_wait_mutex_release(_address(request), pointer, rounds))
    return _checked(lib.bench_wait_semaphore_release(_address(request), pointer, rounds))


def set_wait(event: Event, rounds: int) -> int:
    """An event is set, and waited for."""
    request = _request([event])
    return _checked(lib.bench_set_wait(_address(event._pointer), _address(request), rounds))


def set_clear(event: Event, rounds: int) -> int:
    """An event is set and reset."""
    return _checked(lib.bench_set_reset(_address(event._pointer), rounds))


def read(handle: Handle, rounds: int) -> int:
    """An object's state."""
    return _checked(lib.bench_read(_address(handle._pointer), rounds))


def ping_pong(
    mine: Sequence[Handle],
    theirs: Semaphore,
    rounds: int,
    *,
    first: bool,
    deadline: int = FOREVER,
) -> int:
    """Two threads or processes, one of which is the ``first``: each waits for any of its own
    objects and releases the other's semaphore. ``TimeoutError`` after the deadline (CLOCK_MONOTONIC
    nanoseconds)."""
    request, pointer = _request(mine, deadline=deadline), _address(theirs._pointer)
    return _checked(lib.bench_ping_pong(_address(request), pointer, rounds, first))


# ---- floors: one thread ----


def nothing(rounds: int) -> int:
    """The loop itself."""
    return _checked(lib.bench_nothing(rounds))


def count_down(rounds: int) -> int:
    """Two machine instructions a round, and no more. Of x86-64 only."""
    return _checked(lib.bench_count_down(rounds))


def getpid(rounds: int) -> int:
    """The cheapest system call."""
    return _checked(lib.bench_getpid(rounds))


def clock_gettime(rounds: int) -> int:
    """The time, which takes no system call on most machines."""
    return _checked(lib.bench_clock_gettime(rounds))


def compare_and_swap(rounds: int) -> int:
    """One atomic instruction on a word that nobody else uses."""
    return _checked(lib.bench_compare_and_swap(rounds))


def futex_semaphore(rounds: int) -> int:
    """Down and up of the smallest semaphore there is: two atomic instructions."""
    return _checked(lib.bench_futex_semaphore(rounds))


def futex_calls(rounds: int, *, shared: bool = True) -> int:
    """Two system calls: a wake that finds nobody, and a sleep that the word's value refuses. On a
    word that processes share, or on one of this process's own."""
    return _checked(lib.bench_futex_calls(shared, rounds))


def robust_mutex(rounds: int) -> int:
    """Lock and unlock of the C library's robust mutex between processes."""
    return _checked(lib.bench_pthread_mutex(True, rounds))


def plain_mutex(rounds: int) -> int:
    """Lock and unlock of the C library's plain mutex."""
    return _checked(lib.bench_pthread_mutex(False, rounds))


def eventfd(rounds: int) -> int:
    """Write and read."""
    return _checked(lib.bench_eventfd(rounds))


def eventfd_poll(count: int, rounds: int) -> int:
    """Poll of so many, of which the last is readable, and a read of that."""
    return _checked(lib.bench_eventfd_poll(count, rounds))


# ---- floors: /dev/ntsync without shmsync ----


def driver_semaphore(rounds: int) -> int:
    """A wait for a semaphore, and its release."""
    return _checked(lib.bench_driver_pair(lib.BENCH_SEMAPHORE, rounds))


def driver_mutex(rounds: int) -> int:
    """A wait for a mutex, and its unlock."""
    return _checked(lib.bench_driver_pair(lib.BENCH_MUTEX, rounds))


def driver_event(rounds: int) -> int:
    """An auto-reset event is set, and waited for."""
    return _checked(lib.bench_driver_pair(lib.BENCH_EVENT, rounds))


def driver_wait(count: int, rounds: int, *, all_of_them: bool = False) -> int:
    """A wait for all of so many semaphores, or for any, of which the last has tokens."""
    return _checked(lib.bench_driver_wait(count, all_of_them, rounds))


# ---- floors: two processes ----


def _memory(memory: mmap) -> int:
    return _address(_native.ffi.from_buffer(memory))


def futex_ping_pong(
    memory: mmap, role: int, rounds: int, *, spins: int = 0, deadline: int = FOREVER
) -> int:
    """Two processes that share the memory, one in role 0 and one in role 1, take turns by its first
    word, which is 0 before. Looks ``spins`` times before it sleeps. ``TimeoutError`` after the
    deadline (CLOCK_MONOTONIC nanoseconds)."""
    return _checked(lib.bench_futex_ping_pong(_memory(memory), role, spins, deadline, rounds))


def eventfd_ping_pong(mine: int, theirs: int, role: int, rounds: int) -> int:
    """The same by two blocking eventfds. A signal ends it with ``InterruptedError``."""
    return _checked(lib.bench_eventfd_ping_pong(mine, theirs, role, rounds))


def robust_make(memory: mmap) -> None:
    """Makes a robust mutex in the first bytes of shared memory."""
    _checked(lib.bench_robust_make(_memory(memory)))


def robust_lock(memory: mmap) -> None:
    """Locks it, to be killed then."""
    _checked(lib.bench_robust_lock(_memory(memory)))


def robust_is_awaited(memory: mmap) -> bool:
    """Does somebody sleep for it?"""
    return bool(int.from_bytes(memory[:4], "little") & _ROBUST_WAITERS)


def robust_await_death(memory: mmap, *, deadline: int = FOREVER) -> int:
    """Sleeps until the owner dies, and gives the time (CLOCK_MONOTONIC nanoseconds) when that was
    heard of. ``PermissionError`` if he unlocked it, ``TimeoutError`` after the deadline."""
    return _checked(lib.bench_robust_await_death(_memory(memory), deadline))
