"""How the suites make their cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter

from shmsync_tools.bench.contestants import Contestant, wineserver
from shmsync_tools.bench.leftovers import fresh_name
from shmsync_tools.bench.model import AbsentError, Case, Metric, Setup, Turn
from shmsync_tools.bench.worker import Task


def case(
    name: str,
    title: str,
    metrics: Iterable[Metric],
    contestants: Iterable[Contestant],
    turn: Callable[[Contestant], Turn],
    *,
    base: str | None,
    besides: Mapping[str, Turn] | None = None,
    label: Callable[[Contestant], str] = attrgetter("key"),
) -> Case:
    """A case in which every contestant's turn is what ``turn`` makes for it, if it can take part;
    ``besides`` are turns of others."""
    taking_part = list(contestants)
    turns = {label(each): _if_present(each, turn(each)) for each in taking_part}
    notes = {label(each): each.remark for each in taking_part}
    turns |= besides or {}
    if wineserver.LABEL in turns:
        notes[wineserver.LABEL] = wineserver.NOTE
    return Case(name, title, tuple(metrics), turns, base, notes)


def _if_present(contestant: Contestant, turn: Turn) -> Turn:
    def run() -> Mapping[str, float]:
        if reason := contestant.absent():
            raise AbsentError(reason)
        return turn()

    return run


def alone(setup: Setup, task: Task, metric: Metric, *arguments: object) -> Callable[..., Turn]:
    """Turns in which one worker opens the contestant and does the task, which gives the metric."""

    def turn(contestant: Contestant) -> Turn:
        def run() -> dict[str, float]:
            with contestant.ticket(fresh_name()) as ticket:
                worker = setup.pool.workers(1)[0]
                patience = setup.sizes.patience
                return {metric.name: worker.call(task, ticket, *arguments, seconds=patience)}

        return run

    return turn


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def pin(*cores: int) -> None:
    """Lets the calling thread run on these cores only."""
    os.sched_setaffinity(0, cores)
