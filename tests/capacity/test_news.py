"""News of a dead owner: from the kill of a process to a waiter that has its mutex.

Only the waiter is there to notice: nobody else has the namespace open. Times are printed, not
asserted; what is asserted is that the waiter sleeps on the owner's sign of life, too.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shmsync import Acquired, Namespace

from ..conftest import unique_name
from ..segment.helpers import Child
from ..segment.test_kernel import lose_futex_waitv
from ..support.checkers import path_of
from ..support.peek import is_blocked
from ..support.watchdog import PATIENCE, eventually

TIMES = 50
FUTEX_WAITV = 449
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())


@dataclass(frozen=True)
class News:
    """How long after the kill, and after the end of the process was known, the waiter had it."""

    after_kill: float
    after_end: float


def own(link: Connection) -> None:
    """Attaches, takes the mutex, and waits to be killed."""
    lock = Namespace(link.recv(), create=False).mutex("lock")
    link.send(lock.acquire(timeout=PATIENCE))
    link.recv()


def wait(link: Connection, name: str, with_waitv: bool) -> None:
    """Waits for the mutex as often as asked to; says what came, and when."""
    if not with_waitv and not lose_futex_waitv():
        link.send("filters are not allowed")
        return
    with Namespace(name, engine="handoff") as namespace:
        lock = namespace.mutex("lock")
        link.send("ready")
        while link.recv() == "wait":
            got = lock.acquire()
            link.send((got, time.monotonic_ns()))
            lock.release()


def syscall_of(pid: int) -> int:
    """What the kernel says that a process sleeps in; -1 if it does not say."""
    try:
        return int(Path(f"/proc/{pid}/syscall").read_text().split()[0])
    except (OSError, ValueError):
        return -1


def kill_owner(name: str, waiter: Child, calls: Sequence[int]) -> News:
    """An owner comes, is waited for, and is killed."""
    with Child(own) as owner:
        assert owner.ask(name) == Acquired.ACQUIRED
        waiter.say("wait")
        eventually(lambda: is_blocked(name, waiter.pid, waiter.pid), "the waiter sleeps")
        assert syscall_of(waiter.pid) in calls
        before = time.monotonic_ns()
        owner.kill()
        after = time.monotonic_ns()
    got, at = waiter.hear(PATIENCE)
    assert got is Acquired.ABANDONED
    return News((at - before) / 1e6, (at - after) / 1e6)


def measure(times: int, with_waitv: bool, calls: Sequence[int]) -> list[News]:
    """So many deaths."""
    name = unique_name("news")
    with Child(lambda link: wait(link, name, with_waitv)) as waiter:
        if (said := waiter.hear()) != "ready":
            pytest.skip(said)
        news = [kill_owner(name, waiter, calls) for _ in range(times)]
        waiter.say("end")
        assert waiter.wait() == 0
    assert not Path(path_of(name)).exists()
    for what, milliseconds in (
        ("kill", [each.after_kill for each in news]),
        ("end of the process, as its parent knows it", [each.after_end for each in news]),
    ):
        middle, most = statistics.median(milliseconds), max(milliseconds)
        print(f"news after the {what}: median {middle:.3f} ms, at most {most:.3f} ms, of {times}")
    return news


def readable() -> bool:
    """Does the kernel say what call a process sleeps in?"""
    return FUTEX is not None and os.access(f"/proc/{os.getpid()}/syscall", os.R_OK)


@pytest.mark.skipif(not readable(), reason="/proc says nothing of system calls")
def test_a_waiter_sleeps_on_the_owners_life_and_learns_of_his_death() -> None:
    assert len(measure(TIMES, True, [FUTEX_WAITV])) == TIMES


@pytest.mark.skipif(not readable(), reason="/proc says nothing of system calls")
def test_without_futex_waitv_a_waiter_learns_of_it_by_looking() -> None:
    assert FUTEX is not None
    assert len(measure(5, False, [FUTEX])) == 5
