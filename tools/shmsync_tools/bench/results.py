"""What a run gives: the values of every turn, what they come to, and their JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from shmsync_tools.bench.model import Metric

FORMAT = 1
#: The base of a case may swing by this much of its median, highest to lowest, without being called
#: noisy.
SWING_MAX = 0.25


@dataclass
class Outcome:
    """One contestant in one case: the values of its turns by metric. ``failed``: why there are no
    more; ``absent``: why there are none."""

    values: dict[str, list[float]] = field(default_factory=dict)
    failed: str | None = None
    absent: str | None = None
    note: str = ""

    def median(self, metric: str) -> float | None:
        """Of all turns; None without one."""
        values = self.values.get(metric)
        return statistics.median(values) if values else None

    def minimum(self, metric: str) -> float | None:
        """Of all turns; None without one."""
        values = self.values.get(metric)
        return min(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Highest less lowest, as a part of the median."""
        values, median = self.values.get(metric), self.median(metric)
        return (max(values) - min(values)) / median if values and median else None


@dataclass
class CaseResult:
    """All contestants of a case."""

    suite: str
    name: str
    title: str
    base: str | None
    metrics: tuple[Metric, ...]
    outcomes: dict[str, Outcome]

    @property
    def primary(self) -> Metric:
        """The metric that ratios and noise are judged by."""
        return self.metrics[0]

    @property
    def measured_base(self) -> str | None:
        """The contestant that ratios are to: the base, or the first that has values if it has none;
        None if nobody has, or ratios say nothing."""
        if self.base is None:
            return None
        measured = [label for label, outcome in self.outcomes.items() if outcome.values]
        return self.base if self.base in measured else next(iter(measured), None)

    def ratio(self, label: str, metric: str | None = None) -> float | None:
        """Its median to the base's."""
        name, base = metric or self.primary.name, self.measured_base
        if base is None or label not in self.outcomes:
            return None
        mine, others = self.outcomes[label].median(name), self.outcomes[base].median(name)
        return mine / others if mine is not None and others else None

    @property
    def swing(self) -> float | None:
        """The spread of the base."""
        base = self.measured_base
        return self.outcomes[base].spread(self.primary.name) if base else None

    @property
    def noisy(self) -> bool:
        """Did the base swing too much for the ratios to be trusted?"""
        return (self.swing or 0) > SWING_MAX


@dataclass
class Run:
    """A whole run."""

    date: str
    mode: str
    rounds: int
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    suites: dict[str, dict[str, str]]
    cases: list[CaseResult]

    def case(self, suite: str, name: str) -> CaseResult | None:
        """A case; None if it was not run."""
        found = (each for each in self.cases if (each.suite, each.name) == (suite, name))
        return next(found, None)

    @property
    def noisy(self) -> list[CaseResult]:
        """The cases whose base swung too much."""
        return [each for each in self.cases if each.noisy]


def to_json(run: Run) -> dict[str, Any]:
    """Plain values, with what they come to beside them."""
    value = {"format": FORMAT, **asdict(run)}
    for raw, each in zip(value["cases"], run.cases, strict=True):
        raw["base_swing"] = rounded(each.swing)
        raw["noisy"] = each.noisy
        for label, outcome in each.outcomes.items():
            raw["outcomes"][label]["values"] = {
                name: [rounded(v) for v in values] for name, values in outcome.values.items()
            }
            raw["outcomes"][label]["summary"] = {
                metric.name: _summary(each, label, metric.name)
                for metric in each.metrics
                if outcome.values
            }
    return value


def _summary(case: CaseResult, label: str, metric: str) -> dict[str, float | None]:
    outcome = case.outcomes[label]
    return {
        "min": rounded(outcome.minimum(metric)),
        "median": rounded(outcome.median(metric)),
        "spread": rounded(outcome.spread(metric)),
        "ratio": rounded(case.ratio(label, metric)),
    }


def rounded(value: float | None) -> float | None:
    """To five digits: more say nothing."""
    return None if value is None else float(f"{value:.5g}")


def from_json(value: Any) -> Run:
    """The run again. Raises ``ValueError`` if the value is not one."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError("this is not what `shmsync bench run --json` of this version writes")
    cases = [_case(raw) for raw in value["cases"]]
    names = ("date", "mode", "rounds", "seconds", "machine", "versions", "suites")
    return Run(**{name: value[name] for name in names}, cases=cases)


def _case(raw: dict[str, Any]) -> CaseResult:
    outcomes = {
        label: Outcome(each["values"], each["failed"], each["absent"], each["note"])
        for label, each in raw["outcomes"].items()
    }
    metrics = tuple(Metric(**metric) for metric in raw["metrics"])
    return CaseResult(raw["suite"], raw["name"], raw["title"], raw["base"], metrics, outcomes)
