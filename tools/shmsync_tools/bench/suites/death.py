"""The owner of a lock is killed while somebody sleeps for it: when does he learn of it?"""

from __future__ import annotations

import statistics
import time

from shmsync import Acquired
from shmsync_tools.bench.contestants import FLOOR, Contestant, Kind, Ticket, floors, opened
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import mapped, shared_words, wait_until_asleep
from shmsync_tools.bench.model import Case, HangError, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.suites.idle import own
from shmsync_tools.bench.worker import Conversation, Fd, Task

METRICS = (
    Metric("news", "us", "from the kill until the waiter has the lock"),
    Metric("told", "", "1: the waiter is told that the owner died", higher=True),
)
ROBUST = "C: robust mutex"
#: Seconds after which the waiter will never get it. The slowest peer looks every 250 ms.
NEVER_SECONDS = 2.0


def outlive(me: Conversation, ticket: Ticket) -> tuple[int, bool]:
    """Waits for the lock. Gives when it has it, in ns of CLOCK_MONOTONIC, and whether it was told
    that the owner died."""
    with opened(ticket) as lock:
        me.say("waits")
        got = lock.take()
        now = time.monotonic_ns()
        lock.give()
        return now, got is Acquired.ABANDONED


def own_in_c(me: Conversation, memory: Fd) -> None:
    """The same with a robust mutex of the C library."""
    floor, shared = floors.loops(), mapped(memory)
    floor.robust_make(shared)
    floor.robust_lock(shared)
    me.say("owns")
    me.hear()


def outlive_in_c(me: Conversation, memory: Fd) -> tuple[int, bool]:
    """Waits for a robust mutex, in C."""
    shared = mapped(memory)
    me.say("waits")
    deadline = time.monotonic_ns() + int(NEVER_SECONDS * 1e9)
    return floors.loops().robust_await_death(shared, deadline=deadline), True


def news(setup: Setup, owns: Task, waits: Task, what: Ticket | Fd) -> tuple[float, bool]:
    """Kills one owner. Gives the us until the waiter knows, and whether he was told."""
    patience = setup.sizes.patience
    waiter, owner = setup.pool.workers(2)
    owner.start(owns, what)
    owner.hear(patience)
    waiter.start(waits, what)
    waiter.hear(patience)
    wait_until_asleep(waiter.pid)
    killed = setup.pool.kill(owner)
    try:
        got, told = waiter.result(NEVER_SECONDS)
    except HangError:
        raise HangError(f"never: nothing for {NEVER_SECONDS:g} s") from None
    return (got - killed) / 1e3, told


def judged(seen: list[tuple[float, bool]]) -> dict[str, float]:
    """The median of the kills of a turn; told only if always told."""
    return {
        "news": statistics.median(us for us, _ in seen),
        "told": float(all(told for _, told in seen)),
    }


def cases(setup: Setup) -> list[Case]:
    """One."""
    deaths = setup.sizes.deaths

    def turn(contestant: Contestant) -> Turn:
        def once() -> tuple[float, bool]:
            with contestant.ticket(fresh_name()) as ticket:
                return news(setup, own, outlive, ticket)

        return lambda: judged([once() for _ in range(deaths)])

    def robust() -> dict[str, float]:
        floors.loops()
        seen = []
        for _ in range(deaths):
            with shared_words() as memory:
                seen.append(news(setup, own_in_c, outlive_in_c, memory))
        return judged(seen)

    besides: dict[str, Turn] = {ROBUST: robust} if setup.selection.has(FLOOR) else {}
    locks = [each for each in setup.selection.of(Kind.LOCK) if not each.local]
    title = "kill -9 of the owner, until the waiter has the lock"
    return [case("lock", title, METRICS, locks, turn, base=ROBUST, besides=besides)]


SUITE = Suite(
    "death",
    "News of a dead owner",
    "Two unrelated processes. The owner is killed when all threads of the waiter sleep. Some peers"
    " hand over silently; only who is told (1) can know that the data may be half changed.",
    cases,
)
