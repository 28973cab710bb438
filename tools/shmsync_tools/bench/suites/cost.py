"""Does a call cost more when there are more objects, more waiters, more processes?"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import shmsync
from shmsync import Namespace
from shmsync_tools.bench.contestants import Contestant, Kind, Part, Ticket, opened
from shmsync_tools.bench.contestants.ours import CAPACITY, THREADS, Ours, new_namespace
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import Call, nanoseconds, wait_until_asleep
from shmsync_tools.bench.model import AbsentError, Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case
from shmsync_tools.bench.suites.fanout import STACK_BYTES
from shmsync_tools.bench.worker import Conversation, die_with_parent

PAIR = Metric("pair", "ns", "acquire and release of a semaphore")
OBJECTS = (
    PAIR,
    Metric("any", "ns", "wait for any of two, and release"),
    Metric("open", "ns", "open one by name, and close it"),
)
WAITERS = (
    Metric("release", "ns", "release to one of those who wait, mean until all are released"),
    Metric("pair", "ns", "acquire and release of another semaphore, free, beside them"),
)
BASE = "handoff"
#: The waiters' threads are spread over so many processes.
PROCESSES = 4
#: Descriptors that a process needs for other things.
SPARE_DESCRIPTORS = 100


# ---- objects -------------------------------------------------------------------------------------


def among_objects(
    me: Conversation, name: str, engine: str, count: int, loop_ms: float
) -> dict[str, float]:
    """What calls of two objects cost in a namespace with so many, all open."""
    with new_namespace(name, engine, count + CAPACITY) as namespace:
        handles = [namespace.semaphore(f"object {i}") for i in range(count)]
        one, other = handles[count // 3], handles[2 * count // 3]
        wait = partial(shmsync.wait_any, (other, one))
        open_one = partial(namespace.semaphore, one.name, create=False)
        return {
            "pair": nanoseconds((one.acquire, one.release), loop_ms),
            "any": nanoseconds((wait, other.release), loop_ms),
            "open": nanoseconds((lambda: open_one().close(),), loop_ms),
        }


def check_descriptors(contestant: Ours, count: int) -> None:
    """Engines whose objects are descriptors are limited by how many a process may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if contestant.engine in ("esync", "ntsync") and count + SPARE_DESCRIPTORS > limit:
        raise AbsentError(f"not available here: {count} descriptors, and the limit is {limit}")


# ---- waiters -------------------------------------------------------------------------------------


def wait_in_threads(me: Conversation, ticket: Ticket, count: int) -> None:
    """So many threads take a token each. They share one handle."""
    threading.stack_size(STACK_BYTES)
    with opened(ticket, Part.TAKES) as semaphore:
        started = threading.Semaphore(0)

        def take() -> None:
            started.release()
            semaphore.take()

        threads = [threading.Thread(target=take) for _ in range(count)]
        for thread in threads:
            thread.start()
        for _ in threads:
            started.acquire()
        me.say("waiting")
        for thread in threads:
            thread.join()


def beside_waiters(
    me: Conversation, ticket: Ticket, pids: list[int], count: int, loop_ms: float
) -> dict[str, float]:
    """What a pair costs while they all sleep, and what it takes to release them."""
    for pid in pids:
        wait_until_asleep(pid)
    with opened(ticket, Part.GIVES) as semaphore:
        pair = nanoseconds(_another_pair(ticket), loop_ms)
        give = semaphore.give
        begin = time.perf_counter_ns()
        for _ in range(count):
            give()
        took = time.perf_counter_ns() - begin
    return {"release": took / count, "pair": pair}


def _another_pair(ticket: Ticket) -> tuple[Call, Call]:
    if ticket.key == "mp.Semaphore":
        import multiprocessing

        other: Any = multiprocessing.get_context("spawn").Semaphore()
    else:
        other = Namespace(ticket.payload, create=False).semaphore("another")
    return other.acquire, other.release


def waiters_turn(setup: Setup, contestant: Contestant, count: int) -> Turn:
    """Threads of some processes wait, another process measures."""
    patience = setup.sizes.patience

    def run() -> dict[str, float]:
        processes = min(PROCESSES, count)
        with contestant.ticket(fresh_name()) as ticket:
            measuring, *waiting = setup.pool.workers(1 + processes)
            for i, each in enumerate(waiting):
                each.start(wait_in_threads, ticket, (count + i) // processes)
            for each in waiting:
                each.hear(patience)
            pids = [each.pid for each in waiting]
            found: dict[str, float] = measuring.call(
                beside_waiters, ticket, pids, count, setup.sizes.loop_ms, seconds=patience
            )
            for each in waiting:
                each.result(patience)
            return found

    return run


# ---- processes -----------------------------------------------------------------------------------


def among_processes(
    me: Conversation, ticket: Ticket, count: int, loop_ms: float
) -> dict[str, float]:
    """What a pair costs while so many processes are attached, this one among them. The others are
    forked from here before anything is attached, and attach by name."""
    ready, children = os.pipe(), []
    try:
        for _ in range(count - 1):
            children.append(_forked(partial(_stay, ticket.payload, ready)))
        for _ in children:
            assert os.read(ready[0], 1) == b"!", "a process could not attach"
        with Namespace(ticket.payload, create=False) as namespace:
            one = namespace.semaphore("another")
            return {"pair": nanoseconds((one.acquire, one.release), loop_ms)}
    finally:
        for end in ready:
            os.close(end)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _forked(run: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        die_with_parent()
        run()
    finally:
        os._exit(1)


def _stay(name: str, ready: tuple[int, int]) -> None:
    namespace = Namespace(name, create=False)
    os.write(ready[1], b"!")
    signal.pause()
    namespace.close()


# ---- the cases -----------------------------------------------------------------------------------


def cases(setup: Setup) -> list[Case]:
    """One for each number of each."""
    sizes, selection = setup.sizes, setup.selection
    ours = [each for each in selection.of(Kind.SEMAPHORE) if isinstance(each, Ours)]
    peers = [each for each in selection.of(Kind.SEMAPHORE) if each.key == "mp.Semaphore"]

    def objects(count: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            assert isinstance(contestant, Ours)

            def run() -> dict[str, float]:
                check_descriptors(contestant, count)
                (worker,) = setup.pool.workers(1)
                arguments = (fresh_name(), contestant.engine, count, sizes.loop_ms)
                found: dict[str, float] = worker.call(
                    among_objects, *arguments, seconds=sizes.patience
                )
                return found

            return run

        title = f"in a namespace with {count:,} objects"
        return case(f"objects-{count}", title, OBJECTS, ours, turn, base=BASE)

    def waiters(count: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            return waiters_turn(setup, contestant, count)

        threads = "thread that waits" if count == 1 else "threads that wait"
        title = f"with {count:,} {threads} for the same semaphore"
        return case(f"waiters-{count}", title, WAITERS, [*ours, *peers], turn, base=BASE)

    def processes(count: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            def run() -> dict[str, float]:
                with contestant.ticket(fresh_name()) as ticket:
                    (worker,) = setup.pool.workers(1)
                    arguments = (ticket, count, sizes.loop_ms)
                    found: dict[str, float] = worker.call(
                        among_processes, *arguments, seconds=sizes.patience
                    )
                    return found

            return run

        title = f"with {count:,} process{'es' if count > 1 else ''} attached"
        return case(f"processes-{count}", title, [PAIR], ours, turn, base=BASE)

    assert max(sizes.waiters) < THREADS
    return (
        [objects(count) for count in sizes.objects]
        + [waiters(count) for count in sizes.waiters]
        + [processes(count) for count in sizes.processes]
    )


SUITE = Suite(
    "cost",
    "Cost against numbers",
    "The same calls in a namespace with more and more objects, waiting threads (of up to 4"
    " processes), and attached processes (forked from one that is not attached; each attaches by"
    " name).",
    cases,
)
