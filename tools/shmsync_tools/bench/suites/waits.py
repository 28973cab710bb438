"""Waits for any and for all of several, which are ready: no sleep."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import shmsync
from shmsync_tools.bench.contestants import FLOOR, Contestant, Kind, floors, wineserver
from shmsync_tools.bench.contestants.ours import Ours, new_namespace
from shmsync_tools.bench.contestants.peers import Iceoryx2
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.measure import nanoseconds
from shmsync_tools.bench.model import Case, Metric, Setup, Suite, Turn
from shmsync_tools.bench.suites.common import case, cores, pin
from shmsync_tools.bench.worker import Conversation

ROUND = Metric("ns", "ns", "time of signal and wait")

ANY_BASE, ALL_BASE = "eventfd, poll", "mp.Semaphore, each"


def ours_any(me: Conversation, name: str, engine: str, count: int, loop_ms: float) -> float:
    """Nanoseconds of set of the last auto-reset event, and a wait for any."""
    pin(cores()[-1])
    with new_namespace(name, engine) as namespace:
        handles = [namespace.event() for _ in range(count)]
        return nanoseconds((handles[-1].set, partial(shmsync.wait_any, handles)), loop_ms)


def ours_all(me: Conversation, name: str, engine: str, count: int, loop_ms: float) -> float:
    """Nanoseconds of a wait for all of so many semaphores that have tokens enough."""
    pin(cores()[-1])
    with new_namespace(name, engine) as namespace:
        handles = [namespace.semaphore(None, 2**30) for _ in range(count)]
        return nanoseconds((partial(shmsync.wait_all, handles),), loop_ms)


def eventfd_any(me: Conversation, interface: str, count: int, loop_ms: float) -> float:
    """Nanoseconds of a write to the last eventfd, poll or epoll of all, and the read."""
    pin(cores()[-1])
    with ExitStack() as stack:
        fds = [os.eventfd(0) for _ in range(count)]
        for fd in fds:
            stack.callback(os.close, fd)
        poller: Any = select.poll() if interface == "poll" else select.epoll()
        for fd in fds:
            poller.register(fd, select.POLLIN)

        def take() -> None:
            for fd, _ in poller.poll():
                os.eventfd_read(fd)

        return nanoseconds((partial(os.eventfd_write, fds[-1], 1), take), loop_ms)


def iceoryx2_any(me: Conversation, name: str, count: int, loop_ms: float) -> float:
    """Nanoseconds of a notification, the wait of a WaitSet, and taking the news from the
    listener."""
    pin(cores()[-1])
    peer = Iceoryx2()
    iceoryx2 = peer.imported()
    nodes = [peer.service(f"{name}-{i}") for i in range(count)]
    listeners = [service.listener_builder().create() for _, service in nodes]
    notify = nodes[-1][1].notifier_builder().create().notify
    waitset = iceoryx2.WaitSetBuilder.new()
    waitset = waitset.signal_handling_mode(iceoryx2.SignalHandlingMode.Disabled)
    waitset = waitset.create(iceoryx2.ServiceType.Ipc)
    guards = [(waitset.attach_notification(listener), listener) for listener in listeners]

    def take() -> None:
        for attachment in waitset.wait_and_process()[0]:
            for guard, listener in reversed(guards):
                if attachment.has_event_from(guard):
                    listener.try_wait()
                    break

    return nanoseconds((notify, take), loop_ms)


def one_by_one(me: Conversation, make: str, count: int, loop_ms: float) -> float:
    """Nanoseconds of taking a token of each of so many, one after the other."""
    pin(cores()[-1])
    if make == "mp.Semaphore":
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        takes = [context.Semaphore(2**30).acquire for _ in range(count)]
        return nanoseconds((lambda: [take() for take in takes],), loop_ms)
    fds = [os.eventfd(2**30, os.EFD_SEMAPHORE) for _ in range(count)]
    try:
        return nanoseconds((lambda: [os.eventfd_read(fd) for fd in fds],), loop_ms)
    finally:
        for fd in fds:
            os.close(fd)


def cases(setup: Setup) -> list[Case]:
    """Any and all, of each number."""
    sizes, selection = setup.sizes, setup.selection
    engines = [each for each in selection.of(Kind.EVENT) if isinstance(each, Ours)]

    def run(task: Callable[..., float], *arguments: object) -> Turn:
        def turn() -> dict[str, float]:
            worker = setup.pool.workers(1)[0]
            took = worker.call(task, *arguments, sizes.loop_ms, seconds=sizes.patience)
            return {ROUND.name: took}

        return turn

    def any_of(count: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            if isinstance(contestant, Ours):
                return run(ours_any, fresh_name(), contestant.engine, count)
            return run(iceoryx2_any, fresh_name(), count)

        besides = {}
        if selection.has("eventfd"):
            besides["eventfd, poll"] = run(eventfd_any, "poll", count)
            besides["eventfd, epoll"] = run(eventfd_any, "epoll", count)
        if selection.has(FLOOR):
            besides["C: eventfd, poll"] = floor_poll(setup, count)
        besides |= in_wine(setup, f"any {count}")
        listening = [each for each in selection.of(Kind.EVENT) if each.family == "iceoryx2"]
        title = f"wait for any of {count}, of which the last is signaled"
        return case(
            f"any-{count}",
            title,
            [ROUND],
            [*engines, *listening],
            turn,
            base=ANY_BASE,
            besides=besides,
        )

    def all_of(count: int) -> Case:
        def turn(contestant: Contestant) -> Turn:
            assert isinstance(contestant, Ours)
            return run(ours_all, fresh_name(), contestant.engine, count)

        besides = {}
        for family, label in (("multiprocessing", "mp.Semaphore"), ("eventfd", "eventfd")):
            if selection.has(family):
                besides[f"{label}, each"] = run(one_by_one, label, count)
        besides |= in_wine(setup, f"all {count}")
        title = f"wait for all of {count}, which are signaled (others: one after the other)"
        return case(f"all-{count}", title, [ROUND], engines, turn, base=ALL_BASE, besides=besides)

    return [any_of(n) for n in sizes.wide] + [all_of(n) for n in sizes.wide]


def in_wine(setup: Setup, name: str) -> dict[str, Turn]:
    """The same on Windows' objects."""
    if not setup.selection.has(wineserver.FAMILY):
        return {}
    return {wineserver.LABEL: wineserver.turn(name, setup.sizes.loop_ms, ROUND.name)}


def floor_poll(setup: Setup, count: int) -> Turn:
    """Poll of so many eventfds, in C."""

    def turn() -> dict[str, float]:
        floors.loops()
        worker = setup.pool.workers(1)[0]
        took = worker.call(
            floors.in_c,
            setup.sizes.loop_ms,
            "eventfd_poll",
            count,
            seconds=setup.sizes.patience,
        )
        return {ROUND.name: took}

    return turn


SUITE = Suite(
    "waits",
    "Waits for any and for all of several",
    "One worker on one core. Only a wineserver takes all or none as we do: what else stands beside"
    " wait-all takes one after the other, and would keep the first ones if it had to sleep for the"
    " last.",
    cases,
)
