"""Two processes that wake each other in turns."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import repeat

from shmsync_tools.bench.contestants import (
    FLOOR,
    Contestant,
    Kind,
    Part,
    Ticket,
    floors,
    opened,
    wineserver,
)
from shmsync_tools.bench.contestants.ours import Ours
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import mapped, shared_words
from shmsync_tools.bench.model import AbsentError, Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.pool import Worker
from shmsync_tools.bench.suites.common import case, cores, pin
from shmsync_tools.bench.worker import Conversation, Fd

RATE = Metric("rate", "/s", "round trips in a second", higher=True)
BASE = "mp.Semaphore"
FUTEX = "C: futex"
#: Looks of the futex in C before it sleeps, where it may spin: about 20 us.
SPINS = 2000
#: Round trips in the first runs; by how much a run may be longer than the one before it; and about
#: how many runs there are.
FEW, GROWTH, PARTS = 50, 4, 5
#: The loops in C end after that, if the other side does not play.
DEADLINE_NS = 10**10


def play(me: Conversation, mine: Ticket, theirs: Ticket, first: bool, cores: list[int]) -> None:
    """Plays as many round trips as it is told, and says how many ns they took; until 0."""
    pin(*cores)
    with opened(mine, Part.TAKES) as here, opened(theirs, Part.GIVES) as there:
        take, give = here.take, there.give
        me.say("ready")
        while times := me.hear():
            begin = time.perf_counter_ns()
            if first:
                for _ in repeat(None, times):
                    give()
                    take()
            else:
                for _ in repeat(None, times):
                    take()
                    give()
            took = time.perf_counter_ns() - begin
            me.say(took)


def play_in_c(me: Conversation, memory: Fd, spins: int, role: int, cores: list[int]) -> None:
    """The same with one futex word, in C."""
    pin(*cores)
    shared = mapped(memory)
    me.say("ready")
    while times := me.hear():
        deadline = time.monotonic_ns() + DEADLINE_NS
        play = floors.loops().futex_ping_pong
        me.say(play(shared, role, times, spins=spins, deadline=deadline))


def label(contestant: Contestant) -> str:
    """Our engines play twice, with semaphores and with events."""
    ours = isinstance(contestant, Ours) and contestant.kind is Kind.EVENT
    return f"{contestant.key} event" if ours else contestant.key


def rate(workers: list[Worker], seconds: float, patience: float) -> float:
    """Round trips in a second of two workers that play. A few at first and then more and more,
    since it may be fast for a while and slow then (both on their feet, or both asleep)."""
    for each in workers:
        each.hear(patience)
    times, played, nanos = FEW, 0, 0
    _played(workers, times, patience)
    while nanos < seconds * 1e9:
        took = _played(workers, times, patience)
        played, nanos = played + times, nanos + took
        times = max(FEW, min(GROWTH * times, round(times * seconds * 1e9 / took / PARTS)))
    for each in workers:
        each.say(0)
    for each in workers:
        each.result(patience)
    return played * 1e9 / nanos


def _played(workers: list[Worker], times: int, patience: float) -> int:
    for each in workers:
        each.say(times)
    took: int = max(each.hear(patience) for each in workers)
    return took


def cases(setup: Setup) -> list[Case]:
    """On one core and on two."""
    sizes, selection = setup.sizes, setup.selection
    allowed = cores()

    def made(name: str, title: str, places: list[int], wanted: int) -> Case:
        def check() -> None:
            if len(places) < wanted:
                raise AbsentError("not available here: this process may use one core only")

        def turn(contestant: Contestant) -> Turn:
            def run() -> dict[str, float]:
                check()
                with ExitStack() as stack:
                    tickets = [
                        stack.enter_context(contestant.ticket(fresh_name())) for _ in range(2)
                    ]
                    workers = setup.pool.workers(2)
                    for i, each in enumerate(workers):
                        each.start(play, tickets[i], tickets[1 - i], i == 0, places)
                    return {RATE.name: rate(workers, sizes.seconds, sizes.patience)}

            return run

        def in_c(spins: int) -> Turn:
            def run() -> dict[str, float]:
                check()
                floors.loops()
                with shared_words() as memory:
                    workers = setup.pool.workers(2)
                    for i, each in enumerate(workers):
                        each.start(play_in_c, memory, spins, i, places)
                    return {RATE.name: rate(workers, sizes.seconds, sizes.patience)}

            return run

        besides = {}
        if selection.has(FLOOR):
            besides[FUTEX] = in_c(0)
            if wanted > 1:
                besides[f"{FUTEX}, spinning"] = in_c(SPINS)
        if selection.has(wineserver.FAMILY) and wanted > 1:
            besides[wineserver.LABEL] = wineserver.rate_turn(sizes.seconds, RATE.name)
        playing = [e for e in selection.of(Kind.SEMAPHORE, Kind.EVENT) if not e.local]
        return case(name, title, [RATE], playing, turn, base=BASE, besides=besides, label=label)

    return [
        made("one-core", "round trips of two processes on one core", allowed[:1], 1),
        made("two-cores", "round trips of two processes on two cores", allowed[:2], 2),
    ]


SUITE = Suite(
    "pingpong",
    "Two processes wake each other in turns",
    "Two unrelated processes, which may run on one core, or on two, with one object for each"
    " direction, which they open by name. What spins is fast on two idle cores; see the notes.",
    cases,
)
