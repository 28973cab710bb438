"""Engines: which there are, and what each one promises. The algorithms are in ``native/``.

``python -c "import shmsync.engine as e; print(e.table())"`` prints the table in the README.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, auto

from shmsync._native import lib


class Semantics(Flag):
    """What an engine keeps of NT's semantics under every interleaving. A missing flag is a declared
    deviation: the conformance suite expects it, and the README's table shows it."""

    ATOMIC_WAIT_ALL = auto()
    EXACT_PULSE = auto()
    FIFO = auto()
    NO_BARGING = auto()
    NO_LOST_WAKEUP = auto()
    ONE_WAKEUP = auto()
    ALERT_LAST = auto()
    ABANDONED_IN_WAIT_ALL = auto()
    RECURSION_LIMIT = auto()
    TIMEOUT_HONOURED = auto()
    KILL_SAFE = auto()
    PULSE_RESETS = auto()
    OWN_MUTEX_IN_WAIT_ALL = auto()


#: What each flag means, in the words of the README's table.
MEANING: dict[Semantics, str] = {
    Semantics.ATOMIC_WAIT_ALL: "wait-all takes all objects at one instant, or none",
    Semantics.EXACT_PULSE: "pulse, and set followed by reset, release exactly those who wait",
    Semantics.FIFO: "waiters are served in the order of their arrival",
    Semantics.NO_BARGING: "a release hands over: no newcomer takes what a waiter was woken for",
    Semantics.NO_LOST_WAKEUP: "nobody sleeps beside an object that he could take",
    Semantics.ONE_WAKEUP: "one token wakes one waiter",
    Semantics.ALERT_LAST: "a signaled object wins over a signaled alert",
    Semantics.ABANDONED_IN_WAIT_ALL: "wait-all takes an abandoned mutex and reports it",
    Semantics.RECURSION_LIMIT: "a mutex at its recursion limit is not signaled; it does not wrap",
    Semantics.TIMEOUT_HONOURED: "a timeout ends every wait",
    Semantics.PULSE_RESETS: "a pulse of a set event resets it",
    Semantics.OWN_MUTEX_IN_WAIT_ALL: "wait-all takes a mutex that is the caller's already",
    Semantics.KILL_SAFE: "kill -9 at any instruction loses and forges no token and no wake-up",
}


@dataclass(frozen=True)
class Engine:
    """One algorithm under the common API.

    ``number`` is its number in the segment's header, ``semantics`` what it promises, ``summary``
    one line for people, ``reasons`` why it may not work here, by errno. ``brokered``: its objects
    are file descriptors, which a broker hands out.
    """

    name: str
    number: int
    semantics: Semantics
    summary: str
    reasons: Mapping[int, str] = field(default_factory=dict)
    brokered: bool = False

    def check(self) -> str | None:
        """None if the engine works on this kernel and machine, else the reason why it does not."""
        code = lib.ss_engine_probe(self.number)
        if code == 0:
            return None
        return self.reasons.get(-code) or os.strerror(-code)


def engines() -> dict[str, Engine]:
    """All engines that this build knows, by name."""
    from shmsync.engines import esync, fsync, handoff, ntsync

    known = (handoff.ENGINE, fsync.ENGINE, esync.ENGINE, ntsync.ENGINE)
    return {engine.name: engine for engine in known}


def by_name(name: str) -> Engine:
    """The engine of that name; ``ValueError`` that lists the names if there is none."""
    known = engines()
    if name not in known:
        raise ValueError(f"unknown engine {name!r}; this build has: {', '.join(known)}")
    return known[name]


def by_number(number: int) -> Engine | None:
    """The engine with that number in a segment's header, or None."""
    return next((engine for engine in engines().values() if engine.number == number), None)


#: The engine of a new namespace for which none was asked for.
DEFAULT = "handoff"


def table() -> str:
    """The engines and what they promise, as a Markdown table."""
    known = engines()
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in known) + " |",
        "|---|" + "---|" * len(known),
    ]
    for flag, meaning in MEANING.items():
        marks = ("yes" if flag in engine.semantics else "no" for engine in known.values())
        lines.append(f"| {meaning} | " + " | ".join(marks) + " |")
    return "\n".join(lines)
