"""A lock is given to one who sleeps for it: how long until he has it."""

from __future__ import annotations

import os
import time

from shmsync_tools.bench.contestants import Contestant, Kind, Ticket, opened
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import (
    shared_words,
    spin_until,
    spread_of_times,
    wait_until_asleep,
    words,
)
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.worker import Conversation, Fd

METRICS = (
    Metric("p50", "us", "median of the hand-overs"),
    Metric("p99", "us", "99th percentile"),
    Metric("max", "us", "the longest"),
)
BASE = "mp.Lock"
#: What the two tell each other: the number of the hand-over that is to come, that is waited for,
#: that has been; and when it was.
NEXT, WAITS, DONE, WHEN = range(4)
OVER = -1


def hold(
    me: Conversation, ticket: Ticket, memory: Fd, waiter: int, samples: int, seconds: float
) -> list[int]:
    """Owns the lock, and releases it whenever the other one sleeps. Gives the hand-overs in ns, as
    many as fit into that time, at least one."""
    shared, took = words(memory), []
    with opened(ticket) as lock:
        lock.take()
        end = time.monotonic() + seconds
        for number in range(1, samples + 1):
            shared[NEXT] = number
            spin_until(shared, WAITS, number)
            wait_until_asleep(waiter)
            begin = time.monotonic_ns()
            lock.give()
            spin_until(shared, DONE, number)
            took.append(shared[WHEN] - begin)
            lock.take()
            if time.monotonic() > end:
                break
        shared[NEXT] = OVER
        lock.give()
    return took


def want(me: Conversation, ticket: Ticket, memory: Fd) -> None:
    """Waits for the lock, notes when it has it, and gives it back; until it is over."""
    shared, number = words(memory), 0
    with opened(ticket) as lock:
        while True:
            while shared[NEXT] == number:
                os.sched_yield()
            number = shared[NEXT]
            if number == OVER:
                return
            shared[WAITS] = number
            lock.take()
            shared[WHEN] = time.monotonic_ns()
            lock.give()
            shared[DONE] = number


def cases(setup: Setup) -> list[Case]:
    """One."""
    sizes = setup.sizes

    def turn(contestant: Contestant) -> Turn:
        def run() -> dict[str, float]:
            with contestant.ticket(fresh_name()) as ticket, shared_words() as memory:
                holder, waiter = setup.pool.workers(2)
                seconds = 2 * sizes.seconds
                holder.start(hold, ticket, memory, waiter.pid, sizes.samples, seconds)
                waiter.start(want, ticket, memory)
                took = holder.result(seconds + sizes.patience)
                waiter.result(sizes.patience)
                return spread_of_times(took)

        return run

    locks = [each for each in setup.selection.of(Kind.LOCK) if not each.local]
    title = "from the release until the one who slept has the lock"
    return [case("lock", title, METRICS, locks, turn, base=BASE)]


SUITE = Suite(
    "handover",
    "Hand-over to a blocked waiter",
    "Two unrelated processes. The owner releases only when the kernel says that all threads of the"
    " other one sleep; both read CLOCK_MONOTONIC.",
    cases,
)
