"""What child processes of ``multiprocessing`` do in the tests. Imports no test tools."""

from __future__ import annotations

from multiprocessing.connection import Connection

from shmsync import Acquired, Mutex, NotOwnerError, Semaphore, wait_any


def take_token(semaphore: Semaphore, report: Connection) -> None:
    """Takes a token if there is one."""
    report.send(semaphore.acquire(timeout=0) is Acquired.ACQUIRED)


def try_mutex(mutex: Mutex, report: Connection) -> None:
    """A mutex that the parent holds: can it be taken, can it be released?"""
    taken = bool(mutex.acquire(timeout=0))
    try:
        mutex.release()
        released = True
    except NotOwnerError:
        released = False
    report.send((taken, released))


def wait_then_acquire(mutex: Mutex, report: Connection) -> None:
    """Says that it is about to wait, waits for the mutex, and ends owning it."""
    report.send("waits")
    report.send(bool(mutex.acquire()))


def hold_until_told(semaphore: Semaphore, report: Connection) -> None:
    """Has the handle, and nothing else, until the parent says so."""
    report.send(semaphore.closed)
    report.recv()


def ping(here: Semaphore, there: Semaphore, times: int) -> None:
    """Plays one side of a game that needs both."""
    for _ in range(times):
        assert wait_any([here])
        there.release()
