"""What objects and threads take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from shmsync import Namespace
from shmsync.inspect import path_of
from shmsync.objects import Handle
from shmsync_tools.bench.contestants import Contestant, Kind, Opened, Part, Ticket, everybody
from shmsync_tools.bench.contestants.ours import CAPACITY, Ours
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.pool import Worker
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.worker import Conversation

OBJECT = (
    Metric("memory", "B", "memory of the process for an object, private and shared"),
    Metric("fds", "", "file descriptors for an object"),
)
SLOT = (
    Metric("thread", "B", "of the segment, for a thread that may wait or own"),
    Metric("object", "B", "of the segment, for an object that may be made"),
)
#: So many objects are made, to be divided by.
OBJECTS = 200
FIRST = 20


def _resident() -> int:
    """Bytes of this process that are in memory, private and shared."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(kb) for kb in re.findall(r"^Rss: +(\d+)", text, re.MULTILINE))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def of_ours(me: Conversation, engine: str, name: str) -> dict[str, float]:
    """Of semaphores of one namespace."""
    with Namespace(
        name, engine=engine, exclusive=True, capacity=2 * OBJECTS, threads=8
    ) as namespace:

        def use(number: int) -> Handle:
            semaphore = namespace.semaphore(f"semaphore {number}", 0)
            semaphore.release()
            semaphore.acquire()
            return semaphore

        return more(use)


def of_peers(me: Conversation) -> dict[str, float]:
    """Of what the coordinator makes and sends."""
    used: list[Opened] = []

    def use(number: int) -> None:
        ticket: Ticket = me.hear()
        it = everybody()[ticket.kind, ticket.key].open(ticket.payload, Part.BOTH)
        used.append(it)
        it.give()
        it.take()

    found = more(use)
    for it in used:
        it.close()
    return found


def more(use: Callable[[int], object]) -> dict[str, float]:
    """How much more the process has for each object that is opened and used. What the first ones
    bring with them (a helper process, pages of the heap) is not counted."""
    kept = [use(number) for number in range(FIRST)]
    resident, descriptors = _resident(), _descriptors()
    kept += [use(number) for number in range(FIRST, FIRST + OBJECTS)]
    return {
        "memory": max(0, _resident() - resident) / OBJECTS,
        "fds": (_descriptors() - descriptors) / OBJECTS,
    }


def segment_bytes(name: str, engine: str, capacity: int, threads: int) -> int:
    """The size of the segment of such a namespace."""
    with Namespace(name, engine=engine, exclusive=True, capacity=capacity, threads=threads):
        return os.stat(path_of(name)).st_size


def of_slots(me: Conversation, engine: str, name: str) -> dict[str, float]:
    """Of segments that differ in one number, the difference in size."""
    more = 4096
    size = partial(segment_bytes, name, engine)
    base = size(CAPACITY, 16)
    return {
        "thread": (size(CAPACITY, 16 + more) - base) / more,
        "object": (size(CAPACITY + more, 16) - base) / more,
    }


def cases(setup: Setup) -> list[Case]:
    """Objects of all, and slots of our segments."""
    patience = setup.sizes.patience

    def new_worker() -> Worker:
        # What another task has freed would be used again.
        setup.pool.kill(setup.pool.workers(1)[0])
        return setup.pool.workers(1)[0]

    def objects(contestant: Contestant) -> Turn:
        def run() -> dict[str, float]:
            worker = new_worker()
            if isinstance(contestant, Ours):
                worker.start(of_ours, contestant.engine, fresh_name())
                found: dict[str, float] = worker.result(patience)
                return found
            with ExitStack() as stack:
                worker.start(of_peers)
                for _ in range(FIRST + OBJECTS):
                    worker.say(stack.enter_context(contestant.ticket(fresh_name())))
                found = worker.result(patience)
                return found

        return run

    def slots(contestant: Contestant) -> Turn:
        def run() -> dict[str, float]:
            worker = setup.pool.workers(1)[0]
            found: dict[str, float] = worker.call(
                of_slots, contestant.family, fresh_name(), seconds=patience
            )
            return found

        return run

    semaphores = setup.selection.of(Kind.SEMAPHORE)
    ours = [each for each in semaphores if isinstance(each, Ours)]
    title = f"memory of a process for each of {OBJECTS} semaphores that it uses"
    return [
        case("objects", title, OBJECT, semaphores, objects, base=None),
        case("slots", "the segment sets aside, used or not", SLOT, ours, slots, base=None),
    ]


SUITE = Suite(
    "memory",
    "Memory for each object and thread",
    "Resident memory of one process, private and shared, divided by the number of objects; Python's"
    " own are included. What the kernel keeps for itself (eventfds, pipes, SysV) does not show.",
    cases,
)
