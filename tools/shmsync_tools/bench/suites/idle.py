"""What a waiter burns while it waits."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from shmsync_tools.bench.contestants import Contestant, Kind, Ticket, opened
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import cpu_ns, wait_until_asleep
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.worker import Conversation

CPU = Metric("cpu", "%", "of a core while one process waits, all that is involved")
#: A wait is so many times as long as what runs for a time.
FACTOR = 4


def own(me: Conversation, ticket: Ticket) -> None:
    """Owns the lock until told."""
    with opened(ticket) as lock:
        lock.take()
        me.say("owns")
        me.hear()
        lock.give()


def wait(me: Conversation, ticket: Ticket) -> None:
    """Waits for the lock."""
    with opened(ticket) as lock:
        me.say("waits")
        lock.take()
        lock.give()


def helpers(name: str) -> list[int]:
    """The broker of a namespace, if it has one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "shmsync.broker" in words and name in words:
            found.append(int(process.name))
    return found


def cases(setup: Setup) -> list[Case]:
    """One."""
    sizes = setup.sizes

    def turn(contestant: Contestant) -> Turn:
        def run() -> dict[str, float]:
            name = fresh_name()
            with contestant.ticket(name) as ticket:
                owner, waiter = setup.pool.workers(2)
                owner.start(own, ticket)
                owner.hear(sizes.patience)
                waiter.start(wait, ticket)
                waiter.hear(sizes.patience)
                wait_until_asleep(waiter.pid)
                wait_until_asleep(owner.pid)
                used = burnt([owner.pid, waiter.pid, *helpers(name)], FACTOR * sizes.seconds)
                owner.say("give it")
                for each in (owner, waiter):
                    each.result(sizes.patience)
                return {CPU.name: used}

        return run

    locks = [each for each in setup.selection.of(Kind.LOCK) if not each.local]
    return [case("lock", "CPU time while one waits", [CPU], locks, turn, base=None)]


def burnt(pids: list[int], seconds: float) -> float:
    """Per cent of a core that these processes use in that time, and the other threads of this one:
    a thread that looks after a namespace may be in any process that is attached."""

    def used() -> int:
        mine = cpu_ns(os.getpid(), but=threading.get_native_id())
        return mine + sum(map(cpu_ns, pids))

    begin, before = time.monotonic_ns(), used()
    time.sleep(seconds)
    return 100 * (used() - before) / (time.monotonic_ns() - begin)


SUITE = Suite(
    "idle",
    "CPU time burnt while blocked",
    "One process sleeps for a lock that another has. What the two, the broker if there is one, and"
    " threads that look after the dead have run in that time, by the kernel's account.",
    cases,
)
