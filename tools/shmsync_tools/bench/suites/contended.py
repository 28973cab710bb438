"""Several processes want one lock all the time."""

from __future__ import annotations

import os
import sys
import time

from shmsync_tools.bench.contestants import Contestant, Kind, Ticket, opened
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import shared_words, words
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, TaskError, Turn
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.worker import Conversation, Fd

METRICS = (
    Metric("rate", "/s", "acquisitions in a second, of all together", higher=True),
    Metric("share", "%", "what the slowest process got of them", higher=True),
)
BASE = "mp.Lock"
#: Acquisitions between two looks at the clock.
BATCH = 20
#: What polls, or goes through files, gets so many times longer.
SLOW = 2
#: Until all have heard that it begins.
START_SECONDS = 0.02


def contend(
    me: Conversation, ticket: Ticket, memory: Fd, seconds: float, batch: int
) -> tuple[int, float]:
    """Counts in shared memory, under the lock, for that time, at least once. Gives how often, and
    how long it really took."""
    shared, count = words(memory), 0
    with opened(ticket) as lock:
        take, give = lock.take, lock.give
        me.say("ready")
        begin: float = me.hear()
        time.sleep(max(0.0, begin - time.monotonic()))
        while not count or time.monotonic() < begin + seconds:
            for _ in range(batch):
                take()
                shared[0] += 1
                give()
            count += batch
        return count, time.monotonic() - begin


def cases(setup: Setup) -> list[Case]:
    """One for each number of processes."""
    sizes = setup.sizes

    def made(processes: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            batch, factor = (1, SLOW) if contestant.slow else (BATCH, 1)

            def run() -> dict[str, float]:
                seconds = sizes.seconds * factor
                with contestant.ticket(fresh_name()) as ticket, shared_words() as memory:
                    workers = setup.pool.workers(processes)
                    for each in workers:
                        each.start(contend, ticket, memory, seconds, batch)
                    for each in workers:
                        each.hear(sizes.patience)
                    begin = time.monotonic() + START_SECONDS
                    for each in workers:
                        each.say(begin)
                    done = [each.result(seconds + sizes.patience) for each in workers]
                    return judged(done, counter(memory))

            return run

        locks = [each for each in setup.selection.of(Kind.LOCK) if not each.local]
        title = f"{processes} processes add one under a lock, again and again"
        return case(str(processes), title, METRICS, locks, turn, base=BASE)

    return [made(processes) for processes in sizes.contenders]


def counter(memory: Fd) -> int:
    """What was counted."""
    return int.from_bytes(os.pread(memory.number, 8, 0), sys.byteorder)


def judged(done: list[tuple[int, float]], counted: int) -> dict[str, float]:
    """Throughput and fairness, if no addition was lost."""
    counts = [count for count, _ in done]
    if sum(counts) != counted:
        raise TaskError(f"excludes nobody: {sum(counts) - counted} of {sum(counts)} updates lost")
    return {
        "rate": sum(counts) / max(seconds for _, seconds in done),
        "share": 100 * min(counts) / sum(counts),
    }


SUITE = Suite(
    "contended",
    "One lock, several processes",
    "Unrelated processes on all cores that are allowed. Each adds one to a word in shared memory"
    " under the lock; an addition that got lost ends the contestant. An equal share is 50, 25 or"
    " 12.5 %.",
    cases,
)
