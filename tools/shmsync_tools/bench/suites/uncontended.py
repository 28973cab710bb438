"""Nobody else there: what taking and giving back costs."""

from __future__ import annotations

from shmsync_tools.bench.contestants import (
    FLOOR,
    Contestant,
    Kind,
    Ticket,
    floors,
    opened,
    wineserver,
)
from shmsync_tools.bench.measure import nanoseconds
from shmsync_tools.bench.model import Case, Metric, Setup, Suite
from shmsync_tools.bench.suites.common import alone, case, cores, pin
from shmsync_tools.bench.worker import Conversation

PAIR = Metric("ns", "ns", "time of the calls")
#: The cases in which a wineserver stands beside the others, and what they are called there.
IN_WINE = {"lock": "mutex", "semaphore": "semaphore", "event": "event"}
BASE, EVENT_BASE = "mp.Lock", "mp.Event"


def use(me: Conversation, ticket: Ticket, loop_ms: float) -> float:
    """Nanoseconds of one use by one process: a lock is taken first, the others are given first."""
    pin(cores()[-1])
    with opened(ticket) as it:
        if ticket.kind is Kind.LOCK:
            return nanoseconds((it.take, it.give), loop_ms, it.thing)
        calls = (it.give, it.take) if it.clear is None else (it.give, it.take, it.clear)
        return nanoseconds(calls, loop_ms, it.thing)


def cases(setup: Setup) -> list[Case]:
    """One for each kind."""
    sizes = setup.sizes

    def of(*kinds: Kind) -> list[Contestant]:
        return setup.selection.of(*kinds)

    def made(name: str, title: str, contestants: list[Contestant], base: str) -> Case:
        besides = {}
        if setup.selection.has(FLOOR) and base == BASE:
            besides = floors.turns(setup.pool, sizes.loop_ms, sizes.patience, PAIR.name)
        if setup.selection.has(wineserver.FAMILY) and name in IN_WINE:
            besides[wineserver.LABEL] = wineserver.turn(IN_WINE[name], sizes.loop_ms, PAIR.name)
        turn = alone(setup, use, PAIR, sizes.loop_ms)
        return case(name, title, [PAIR], contestants, turn, base=base, besides=besides)

    mp_lock = [each for each in of(Kind.LOCK) if each.key == BASE]
    return [
        made("lock", "acquire and release of a free lock", of(Kind.LOCK), BASE),
        made(
            "semaphore",
            "release and acquire of a semaphore (mp.Lock: acquire and release)",
            mp_lock + of(Kind.SEMAPHORE),
            BASE,
        ),
        made("event", "set, and wait, which resets (or: and clear)", of(Kind.EVENT), EVENT_BASE),
        made("manual-event", "set, wait, clear of a manual-reset event", of(Kind.GATE), EVENT_BASE),
    ]


SUITE = Suite(
    "uncontended",
    "One process, nobody else there",
    "A loop of calls in one worker on one core, as a program writes them: lock.acquire();"
    " lock.release(). The empty loop is measured and subtracted, the garbage collector is off (in"
    " all suites).",
    cases,
)
