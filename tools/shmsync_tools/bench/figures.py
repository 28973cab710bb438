"""What was to be reached, as ratios of medians of one run, and what a run has reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shmsync_tools.bench.results import CaseResult, Run

OURS = "handoff"
UNFAIR = "handoff fair=False"


@dataclass(frozen=True)
class Figure:
    """One aim. ``value`` gives what a run has reached, None if the run does not have what it takes;
    ``at_most`` or ``at_least`` is the limit."""

    aim: str
    value: Callable[[Run], float | None]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "x"

    def judge(self, run: Run) -> Reached:
        """What this run has reached."""
        value = self.value(run)
        return Reached(self, value, None if value is None else self._is_met(value))

    def _is_met(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)

    @property
    def limit(self) -> str:
        """The limit, as it is written."""
        if self.at_least is not None:
            return f">= {self.at_least:g}{self._suffix}"
        assert self.at_most is not None
        return f"<= {self.at_most:g}{self._suffix}"

    def text(self, value: float | None) -> str:
        """A value, as it is written."""
        return "not measured" if value is None else f"{value:.3g}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return {"x": " x", "%": " %"}[self.unit]


@dataclass(frozen=True)
class Reached:
    """What a run has reached of an aim; ``met`` is None if the run cannot say."""

    figure: Figure
    value: float | None
    met: bool | None

    @property
    def answer(self) -> str:
        """Yes, no, or that it was not measured."""
        return {True: "yes", False: "no", None: "not measured"}[self.met]


def ratio(suite: str, case: str, mine: str, base: str, metric: str | None = None) -> _Value:
    """One median by another, of the same case."""

    def value(run: Run) -> float | None:
        return divided(
            median(run, suite, case, mine, metric), median(run, suite, case, base, metric)
        )

    return value


def median(run: Run, suite: str, case: str, label: str, metric: str | None = None) -> float | None:
    """The median of a metric (the case's first) of a contestant."""
    found = run.case(suite, case)
    if found is None or label not in found.outcomes:
        return None
    return found.outcomes[label].median(metric or found.primary.name)


def divided(value: float | None, by: float | None) -> float | None:
    """The ratio, if both are there."""
    return value / by if value is not None and by else None


_Value = Callable[[Run], float | None]


def futex_and_calls(run: Run) -> float | None:
    """Round trips on one core by those of a futex in C that also pays what Python takes for its
    calls: each of the two processes makes two in a round trip, one after the other on one core."""
    ours = median(run, "pingpong", "one-core", OURS)
    futex = median(run, "pingpong", "one-core", "C: futex")
    calls = median(run, "uncontended", "semaphore", "Python: two calls")
    if ours is None or futex is None or calls is None:
        return None
    return ours / (1 / (1 / futex + 2 * calls / 1e9))


def unfair_if_there(run: Run) -> str:
    """The lock that contended figures are of: the unfair one, where there is one."""
    there = median(run, "contended", "4", UNFAIR) is not None
    return UNFAIR if there else OURS


def contended(run: Run) -> float | None:
    """Throughput of four processes, by mp.Lock's."""
    return ratio("contended", "4", unfair_if_there(run), "mp.Lock")(run)


def slowest_share(run: Run) -> float | None:
    """What the slowest of the four gets, of the same lock."""
    return median(run, "contended", "4", unfair_if_there(run), "share")


def flat(prefix: str, low: int, high: int) -> _Value:
    """The worst cost with up to ``high`` of them, by that with ``low``."""

    def value(run: Run) -> float | None:
        costs = {
            count: cost
            for count, case in curve(run, prefix)
            if low <= count <= high
            and OURS in case.outcomes
            and (cost := case.outcomes[OURS].median("pair")) is not None
        }
        if low not in costs or high not in costs:
            return None
        return max(costs.values()) / costs[low]

    return value


def curve(run: Run, prefix: str) -> list[tuple[int, CaseResult]]:
    """The cases of the suite "cost" that differ in that number, by it."""
    found = [
        (int(case.name.removeprefix(f"{prefix}-")), case)
        for case in run.cases
        if case.suite == "cost" and case.name.startswith(f"{prefix}-")
    ]
    return sorted(found, key=lambda each: each[0])


#: The whole list.
FIGURES: tuple[Figure, ...] = (
    Figure(
        "uncontended mutex pair, of mp.Lock's",
        ratio("uncontended", "lock", OURS, "mp.Lock"),
        at_most=0.7,
    ),
    Figure(
        "uncontended semaphore pair, of mp.Lock's",
        ratio("uncontended", "semaphore", OURS, "mp.Lock"),
        at_most=0.7,
    ),
    Figure(
        "event set and wait, of mp.Event's",
        ratio("uncontended", "event", OURS, "mp.Event"),
        at_most=0.1,
    ),
    Figure(
        "ping-pong on two cores, by mp.Semaphore's",
        ratio("pingpong", "two-cores", OURS, "mp.Semaphore"),
        at_least=5,
    ),
    Figure(
        "ping-pong on two cores, by fastipc's",
        ratio("pingpong", "two-cores", OURS, "fastipc.NamedSemaphore"),
        at_least=1,
    ),
    Figure(
        "ping-pong on one core, by a raw futex in C and two Python calls a side",
        futex_and_calls,
        at_least=0.95,
    ),
    Figure(
        "ping-pong on one core, by mp.Semaphore's",
        ratio("pingpong", "one-core", OURS, "mp.Semaphore"),
        at_least=1,
    ),
    Figure(
        "hand-over to a blocked waiter, p50, of mp.Lock's",
        ratio("handover", "lock", OURS, "mp.Lock", "p50"),
        at_most=1,
    ),
    Figure(
        "contended by 4 processes (fair=False, if there is that), by mp.Lock's",
        contended,
        at_least=1,
    ),
    Figure("what the slowest of these 4 gets", slowest_share, at_least=20, unit="%"),
    Figure(
        "wait for any of 64, the last ready, of 64 eventfds with poll",
        ratio("waits", "any-64", OURS, "eventfd, poll"),
        at_most=0.2,
    ),
    Figure(
        "news of a dead owner, of a bare robust pthread mutex's",
        ratio("death", "lock", OURS, "C: robust mutex"),
        at_most=2,
    ),
    Figure(
        "CPU time while blocked, of a core, for a waiter",
        lambda run: median(run, "idle", "lock", OURS),
        at_most=0.1,
        unit="%",
    ),
    Figure(
        "cost with up to 100,000 objects, of that with 10",
        flat("objects", 10, 100_000),
        at_most=1.2,
    ),
    Figure("cost with up to 100 processes, of that with 1", flat("processes", 1, 100), at_most=1.2),
)


def judge(run: Run) -> list[Reached]:
    """All aims."""
    return [figure.judge(run) for figure in FIGURES]
