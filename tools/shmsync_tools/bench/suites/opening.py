"""Attaching, creating, opening."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shmsync import Namespace
from shmsync_tools.bench.contestants import Contestant, Kind, Part, Ticket, everybody
from shmsync_tools.bench.contestants.ours import Ours, new_namespace
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import nanoseconds
from shmsync_tools.bench.model import Case, Metric, Setup, Suite
from shmsync_tools.bench.suites.common import alone, case
from shmsync_tools.bench.worker import Conversation, Task

CALL = Metric("us", "us", "time of the call and of its undoing")


def _us(call: Callable[[], object], loop_ms: float) -> float:
    return nanoseconds((call,), loop_ms) / 1e3


def create(me: Conversation, ticket: Ticket, loop_ms: float) -> float:
    """us of making one and removing it; ours in the namespace of the ticket."""
    contestant = everybody()[ticket.kind, ticket.key]
    if isinstance(contestant, Ours):
        with Namespace(ticket.payload, create=False) as namespace:
            return _us(lambda: namespace.semaphore("new", exclusive=True).close(), loop_ms)

    def make() -> None:
        with contestant.make(fresh_name()):
            pass

    return _us(make, loop_ms)


def open_existing(me: Conversation, ticket: Ticket, loop_ms: float) -> float:
    """us of opening one by its name and closing it; ours in a namespace that is attached
    already."""
    contestant = everybody()[ticket.kind, ticket.key]
    if isinstance(contestant, Ours):
        with Namespace(ticket.payload, create=False) as namespace:
            return _us(lambda: namespace.semaphore("object", create=False).close(), loop_ms)
    return _us(lambda: contestant.open(ticket.payload, Part.BOTH).close(), loop_ms)


def attach(me: Conversation, ticket: Ticket, loop_ms: float) -> float:
    """us of attaching to a namespace and leaving it."""
    return _us(lambda: Namespace(ticket.payload, create=False).close(), loop_ms)


def new(me: Conversation, ticket: Ticket, loop_ms: float) -> float:
    """us of making a namespace and removing it."""
    contestant = everybody()[ticket.kind, ticket.key]
    assert isinstance(contestant, Ours)
    return _us(lambda: new_namespace(fresh_name(), contestant.engine).close(), loop_ms)


def cases(setup: Setup) -> list[Case]:
    """Objects of all, and namespaces of ours."""
    loop_ms = setup.sizes.loop_ms
    semaphores = [e for e in setup.selection.of(Kind.SEMAPHORE) if not e.local]
    ours = [each for each in semaphores if isinstance(each, Ours)]
    # What cannot be opened twice: whose descriptors are passed.
    named = [each for each in semaphores if each.family not in ("eventfd", "pipe")]

    def made(name: str, title: str, contestants: Sequence[Contestant], task: Task) -> Case:
        turn = alone(setup, task, CALL, loop_ms)
        base = "posix_ipc.Semaphore" if contestants is not ours else "handoff"
        return case(name, title, [CALL], contestants, turn, base=base)

    return [
        made("create", "a semaphore is made and removed", semaphores, create),
        made("open", "a semaphore that exists is opened by name and closed", named, open_existing),
        made("attach", "a process attaches to a namespace and leaves it", ours, attach),
        made("namespace", "a namespace is made and removed", ours, new),
    ]


SUITE = Suite(
    "opening",
    "Attach, create, open",
    "With our engines an object is made in a namespace, which a process attaches to once. Those of"
    " multiprocessing have no names: 'open' is what a child does with what it inherits. esync and"
    " ntsync start a broker process for a new namespace.",
    cases,
)
