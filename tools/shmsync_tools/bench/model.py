"""What is measured: metrics, cases, suites, and how much of everything a run does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shmsync_tools.bench.contestants import Selection
    from shmsync_tools.bench.pool import Pool


class AbsentError(Exception):
    """A contestant cannot take part here, for this reason."""


class HangError(Exception):
    """A step did not end in its time."""


class TaskError(Exception):
    """What a worker did failed; the message is what the worker said of
    it."""


@dataclass(frozen=True)
class Metric:
    """One number that a turn gives. ``title`` says what it is, ``higher`` whether more is
    better."""

    name: str
    unit: str
    title: str
    higher: bool = False


#: Runs one contestant once; gives a value for each metric of its case.
Turn = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Case:
    """Contestants that do the same thing, in turns. The first metric is what ratios and noise are
    judged by; ratios are to the contestant ``base`` (None: absolute values count)."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    turns: Mapping[str, Turn]
    base: str | None
    #: Of contestants that take part in a way that a reader has to know.
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """How much a run does of everything.

    rounds: turns of every contestant. loop_ms: length of a loop of calls. samples: hand-overs and
    the like in a turn. seconds: length of what runs for a time. patience: seconds after which a
    turn counts as hanging. deaths: owners killed in a turn. objects, waiters, processes: the
    numbers that costs are measured against. fan_out: waiters of one event.
    """

    rounds: int
    loop_ms: float
    samples: int
    seconds: float
    patience: float
    deaths: int
    objects: tuple[int, ...]
    waiters: tuple[int, ...]
    processes: tuple[int, ...]
    fan_out: tuple[int, ...]
    contenders: tuple[int, ...] = (2, 4, 8)
    wide: tuple[int, ...] = (2, 8, 64)


FULL = Sizes(
    rounds=5,
    loop_ms=20,
    samples=200,
    seconds=0.5,
    patience=10,
    deaths=4,
    objects=(10, 100, 1000, 10_000, 100_000),
    waiters=(1, 10, 100, 1000),
    processes=(1, 10, 100),
    fan_out=(1, 10, 100, 1000),
)
LARGE = replace(FULL, objects=(*FULL.objects, 1_000_000), patience=120)
QUICK = Sizes(
    rounds=3,
    loop_ms=2,
    samples=20,
    seconds=0.05,
    patience=5,
    deaths=1,
    objects=(10, 1000, 10_000),
    waiters=(1, 100),
    processes=(1, 20),
    fan_out=(1, 100),
)


@dataclass(frozen=True)
class Setup:
    """What a suite makes its cases from: who takes part, how much, and the processes to do it
    in."""

    selection: Selection
    sizes: Sizes
    pool: Pool


@dataclass(frozen=True)
class Suite:
    """A family of cases. ``note`` is what a reader has to know of how it is measured."""

    name: str
    title: str
    note: str
    cases: Callable[[Setup], list[Case]]
