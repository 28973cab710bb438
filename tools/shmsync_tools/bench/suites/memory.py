"""What objects and threads take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from shmsync import Namespace
from shmsync.inspect import path_of
from shmsync_tools.bench.contestants import Contestant, Kind, Part, everybody
from shmsync_tools.bench.contestants.ours import CAPACITY, Ours
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case, fresh_name
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
OBJECTS = 400


def _resident() -> int:
    """Bytes of this process that are in memory, private and shared."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(kb) for kb in re.findall(r"^Rss: +(\d+)", text, re.MULTILINE))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def of_objects(me: Conversation, key: str, name: str) -> dict[str, float]:
    """Makes objects, and sees how much more the process has."""
    contestant = everybody()[Kind.SEMAPHORE, key]
    with ExitStack() as stack:
        make = _maker(contestant, stack, name)
        # What the first ones bring with them (a helper process, pages of the heap) is not counted.
        for number in range(-OBJECTS // 10, 0):
            make(number)
        resident, descriptors = _resident(), _descriptors()
        for number in range(OBJECTS):
            make(number)
        return {
            "memory": max(0, _resident() - resident) / OBJECTS,
            "fds": (_descriptors() - descriptors) / OBJECTS,
        }


def _maker(contestant: Contestant, stack: ExitStack, name: str) -> Callable[[int], object]:
    kept: list[Any] = []
    if isinstance(contestant, Ours):
        size = {"capacity": 2 * OBJECTS, "threads": 8}
        namespace = Namespace(name, engine=contestant.engine, exclusive=True, **size)
        stack.callback(namespace.close)
        return lambda number: kept.append(namespace.semaphore(f"semaphore {number}", 0))
    if contestant.local:
        return lambda number: kept.append(contestant.open(None, Part.BOTH))
    return lambda number: stack.enter_context(contestant.make(f"{name}x{number + OBJECTS}"))


def segment_bytes(name: str, engine: str, capacity: int, threads: int) -> int:
    """The size of the segment of such a namespace."""
    size = {"capacity": capacity, "threads": threads}
    with Namespace(name, engine=engine, exclusive=True, **size):
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

    def run(task: Callable[..., dict[str, float]], argument: str) -> Turn:
        def turn() -> dict[str, float]:
            # A new process: what another one has freed would be used again.
            (worker,) = setup.pool.workers(1)
            setup.pool.kill(worker)
            (worker,) = setup.pool.workers(1)
            patience = setup.sizes.patience
            found: dict[str, float] = worker.call(task, argument, fresh_name(), seconds=patience)
            return found

        return turn

    semaphores = setup.selection.of(Kind.SEMAPHORE)
    ours = [each for each in semaphores if isinstance(each, Ours)]
    return [
        case(
            "objects",
            f"memory for each of {OBJECTS} semaphores",
            OBJECT,
            semaphores,
            lambda each: run(of_objects, each.key),
            base="mp.Semaphore",
        ),
        case(
            "slots",
            "bytes of the segment that are set aside, used or not",
            SLOT,
            ours,
            lambda each: run(of_slots, each.key),
            base="handoff",
        ),
    ]


SUITE = Suite(
    "memory",
    "Memory for each object and thread",
    "Resident memory of one process, private and shared, divided by the number of objects, Python's"
    " own objects included. What the kernel keeps for itself (eventfds, pipes, SysV) does not show.",
    cases,
)
