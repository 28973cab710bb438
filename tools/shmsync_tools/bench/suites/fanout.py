"""One set releases everybody who waits for a manual-reset event."""

from __future__ import annotations

import os
import statistics
import threading
import time

from shmsync_tools.bench.contestants import Contestant, Kind, Opened, Part, Ticket, opened
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import Call, wait_until_asleep
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.pool import Worker
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.worker import Conversation

METRICS = (
    Metric("last", "us", "from the set until the last waiter runs"),
    Metric("set", "us", "what the call of set takes"),
)
BASE = "mp.Event"
#: Processes that the waiting threads are spread over.
PROCESSES = 4
STACK_BYTES = 256 * 1024
#: Repetitions in a turn: so many waiters are woken in all, but not more often than that.
WOKEN, REPETITIONS_MAX = 200, 10


class Waiters:
    """Threads that wait for an event once, and note when they are woken."""

    def __init__(self, take: Call, count: int) -> None:
        self._started = threading.Semaphore(0)
        self._times: list[int] = []
        self._take = take
        self._threads = [threading.Thread(target=self._wait) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._started.acquire()

    def _wait(self) -> None:
        self._started.release()
        self._take()
        self._times.append(time.monotonic_ns())

    def last(self) -> int:
        """When the last one was woken, in ns of CLOCK_MONOTONIC."""
        for thread in self._threads:
            thread.join()
        return max(self._times)


def wait(me: Conversation, ticket: Ticket, count: int) -> None:
    """Has so many threads wait, says when the last of them was woken; as often as it is told."""
    threading.stack_size(STACK_BYTES)
    with opened(ticket, Part.TAKES) as event:
        while me.hear():
            waiters = Waiters(event.take, count)
            me.say("waiting")
            me.say(waiters.last())


def give(me: Conversation, ticket: Ticket, waiting: list[int]) -> None:
    """Sets the event once all of these processes sleep, says when, and resets it; as often as it is
    told."""
    with opened(ticket, Part.GIVES) as event:
        while me.hear():
            for pid in waiting:
                wait_until_asleep(pid)
            begin = time.monotonic_ns()
            event.give()
            me.say((begin, time.monotonic_ns()))
            me.hear()
            if event.clear:
                event.clear()
            me.say("reset")


def among_threads(me: Conversation, ticket: Ticket, count: int, times: int) -> dict[str, float]:
    """All of that in one process."""
    threading.stack_size(STACK_BYTES)
    with opened(ticket) as event:
        return _medians([_among_threads(event, count) for _ in range(times)])


def _among_threads(event: Opened, count: int) -> tuple[int, int, int]:
    waiters = Waiters(event.take, count)
    wait_until_asleep(os.getpid(), but=threading.get_native_id())
    begin = time.monotonic_ns()
    event.give()
    end = time.monotonic_ns()
    last = waiters.last()
    assert event.clear is not None
    event.clear()
    return begin, end, last


def _medians(seen: list[tuple[int, int, int]]) -> dict[str, float]:
    return {
        "last": statistics.median(last - begin for begin, _, last in seen) / 1e3,
        "set": statistics.median(end - begin for begin, end, _ in seen) / 1e3,
    }


def _once(giver: Worker, waiters: list[Worker], patience: float) -> tuple[int, int, int]:
    for each in waiters:
        each.say(True)
    for each in waiters:
        each.hear(patience)
    giver.say(True)
    begin, end = giver.hear(patience)
    last = max(each.hear(patience) for each in waiters)
    giver.say("all are awake")
    giver.hear(patience)
    return begin, end, last


def cases(setup: Setup) -> list[Case]:
    """One for each number of waiters."""
    patience = setup.sizes.patience

    def made(count: int) -> Case:
        times = max(1, min(REPETITIONS_MAX, WOKEN // count))

        def turn(contestant: Contestant) -> Turn:
            def run() -> dict[str, float]:
                with contestant.ticket(fresh_name()) as ticket:
                    if contestant.local:
                        (worker,) = setup.pool.workers(1)
                        found: dict[str, float] = worker.call(
                            among_threads, ticket, count, times, seconds=patience
                        )
                        return found
                    return fan_out(setup, ticket, count, times)

            return run

        waiters = f"{count} waiter{'s' if count > 1 else ''}"
        title = f"one set of a manual-reset event wakes {waiters}"
        return case(str(count), title, METRICS, setup.selection.of(Kind.GATE), turn, base=BASE)

    return [made(count) for count in setup.sizes.fan_out]


def fan_out(setup: Setup, ticket: Ticket, count: int, times: int) -> dict[str, float]:
    """Waiters spread over some processes, and one process that sets."""
    patience = setup.sizes.patience
    processes = min(PROCESSES, count)
    giver, *waiters = setup.pool.workers(1 + processes)
    giver.start(give, ticket, [each.pid for each in waiters])
    for i, each in enumerate(waiters):
        each.start(wait, ticket, (count + i) // processes)
    seen = [_once(giver, waiters, patience) for _ in range(times)]
    for each in (giver, *waiters):
        each.say(False)
    for each in (giver, *waiters):
        each.result(patience)
    return _medians(seen)


SUITE = Suite(
    "fanout",
    "One set wakes many",
    "The waiters are threads, spread over up to 4 unrelated processes (threading: of one process),"
    " so their waits for the interpreter lock are part of the figure. Set when the kernel says that"
    " all of them sleep.",
    cases,
)
