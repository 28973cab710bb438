"""Runs as text: for a terminal, and as the README's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from shmsync.inspect import columns
from shmsync_tools.bench import figures, machine
from shmsync_tools.bench.model import Metric
from shmsync_tools.bench.results import SWING_MAX, CaseResult, Outcome, Run


def number(value: float | None) -> str:
    """Three digits, without an exponent: 0.0712, 71.2, 7,120."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 100:
        return f"{rounded:,.0f}"
    digits = 0
    while abs(rounded) * 10**digits < 100 and digits < 4:
        digits += 1
    return f"{rounded:.{digits}f}"


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit; times in the unit that fits."""
    if value is None:
        return ""
    factors = {"ns": 1.0, "us": 1e3}
    if unit not in factors:
        return f"{number(value)} {unit}".strip().replace(" /", "/")
    nanos = value * factors[unit]
    for name, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanos >= size:
            return f"{number(nanos / size)} {name}"
    return f"{number(nanos)} ns"


# ---- for a terminal ------------------------------------------------------------------------------


def text(run: Run) -> str:
    """A whole run."""
    parts = [head(run)]
    for name, suite in run.suites.items():
        parts.append(f"== {name}: {suite['title']}\n{suite['note']}")
        parts += [case_table(case) for case in run.cases if case.suite == name]
    parts += [figures_table(run), noise(run)]
    return "\n\n".join(part for part in parts if part)


def head(run: Run) -> str:
    """Where and how it was made."""
    where = run.machine
    packages = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return (
        f"{run.date}, {run.mode}: {run.rounds} rounds in {run.seconds:.0f} s\n"
        f"{machine.sentence(where)}\n"
        f"load {where['load']} before, {where['load_after']} after\n{packages}"
    )


def case_table(case: CaseResult) -> str:
    """Medians of all metrics; of the first also minimum, spread and ratio."""
    first, *others = case.metrics
    titles = ["", f"{first.name}", "min", "spread"]
    titles += ["ratio"] if case.measured_base else []
    titles += [metric.name for metric in others]
    rows = [
        _row(case, label, first, others) for label, each in case.outcomes.items() if each.values
    ]
    lines = [f"-- {case.suite} {case.name}: {case.title}"]
    if rows:
        lines.append(columns([*titles, ""], rows, right=range(1, len(titles))))
    lines += [f"{label}: {each.absent}" for label, each in case.outcomes.items() if each.absent]
    lines += [
        f"{label}: {each.failed}"
        for label, each in case.outcomes.items()
        if each.failed and not each.values
    ]
    direction = "more is better" if first.higher else "less is better"
    said = [f"{first.name}: {first.title}, median ({direction})"]
    said += [f"{metric.name}: {metric.title}" for metric in others]
    if case.measured_base:
        said.append(f"ratio: to {case.measured_base}")
    lines.append("; ".join(said))
    if case.noisy:
        lines.append(swing(case))
    return "\n".join(lines)


def _row(case: CaseResult, label: str, first: Metric, others: Iterable[Metric]) -> tuple[str, ...]:
    outcome = case.outcomes[label]
    spread = outcome.spread(first.name)
    row = [
        label,
        quantity(outcome.median(first.name), first.unit),
        quantity(outcome.minimum(first.name), first.unit),
        "" if spread is None else f"{100 * spread:.0f} %",
    ]
    if case.measured_base:
        row.append(number(case.ratio(label)))
    row += [quantity(outcome.median(metric.name), metric.unit) for metric in others]
    return (*row, remark(outcome))


def remark(outcome: Outcome) -> str:
    """What has to be known of a contestant that has values."""
    failed = f"later it {outcome.failed}" if outcome.failed else ""
    return "; ".join(part for part in (failed, outcome.note) if part)


def swing(case: CaseResult) -> str:
    """That the base of a case swung too much."""
    percent = 100 * (case.swing or 0)
    return f"NOISY: {case.measured_base} itself swung by {percent:.0f} % of its median"


def noise(run: Run) -> str:
    """Which cases of the run are noisy."""
    if not run.noisy:
        return f"noise: no base swung by more than {100 * SWING_MAX:.0f} % of its median"
    names = ", ".join(f"{case.suite} {case.name}" for case in run.noisy)
    return (
        f"NOISY: in {len(run.noisy)} of {len(run.cases)} cases the base swung by more than"
        f" {100 * SWING_MAX:.0f} % of its median; do not trust their ratios: {names}"
    )


def figures_table(run: Run) -> str:
    """The aims that the run can judge."""
    rows = [_figure_row(each) for each in figures.judge(run)]
    return "== figures to reach\n" + columns(("AIM", "LIMIT", "REACHED", "MET"), rows, right=(1, 2))


def _figure_row(reached: figures.Reached) -> tuple[str, str, str, str]:
    figure = reached.figure
    return figure.aim, figure.limit, figure.text(reached.value), reached.answer


# ---- for the README ------------------------------------------------------------------------------

#: Rows of the short table: suite, case, metric, title, and what stands under multiprocessing.
ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    ("uncontended", "lock", "ns", "lock: acquire, release", "mp.Lock"),
    ("uncontended", "semaphore", "ns", "semaphore: release, acquire", "mp.Semaphore"),
    ("uncontended", "event", "ns", "event: set, wait", "mp.Event"),
    ("waits", "any-64", "ns", "wait for any of 64", ""),
    ("pingpong", "one-core", "rate", "ping-pong, one core", "mp.Semaphore"),
    ("pingpong", "two-cores", "rate", "ping-pong, two cores", "mp.Semaphore"),
    ("handover", "lock", "p50", "hand-over to a sleeper", "mp.Lock"),
    ("contended", "4", "rate", "4 processes want one lock", "mp.Lock"),
    ("fanout", "100", "last", "one set wakes 100", "mp.Event"),
    ("death", "lock", "news", "news of a dead owner", "mp.Lock"),
    ("idle", "lock", "cpu", "CPU while one waits", "mp.Lock"),
)
ENGINES = ("handoff", "fsync", "esync")


def markdown(run: Run) -> str:
    """The README's two tables."""
    return "\n\n".join((results_markdown(run), figures_markdown(run), where_markdown(run)))


def results_markdown(run: Run) -> str:
    """Medians of our engines, multiprocessing, and the best other peer between processes."""
    titles = ["", *(f"`{name}`" for name in ENGINES), "multiprocessing", "best of the others"]
    rows = []
    for suite, name, metric, title, stdlib in ROWS:
        case = run.case(suite, name)
        if case is not None:
            rows.append([title, *_cells(case, metric, stdlib)])
    return markdown_table(titles, rows)


def _cells(case: CaseResult, metric_name: str, stdlib: str) -> list[str]:
    metric = next(metric for metric in case.metrics if metric.name == metric_name)

    def cell(label: str) -> str:
        outcome = case.outcomes.get(label)
        if outcome is None:
            return "-"
        value = outcome.median(metric.name)
        return quantity(value, metric.unit) if value is not None else _why_not(outcome)

    first, *others = (cell(name) for name in ENGINES)
    if (unfair := case.outcomes.get(figures.UNFAIR)) and unfair.values:
        first += f" (`fair=False`: {cell(figures.UNFAIR)})"
    peer = best_peer(case, metric)
    return [first, *others, cell(stdlib), f"{cell(peer)} ({peer})" if peer else "-"]


def _why_not(outcome: Outcome) -> str:
    """A word for no value."""
    if outcome.failed:
        return "never" if outcome.failed.startswith("never") else "fails"
    return "-"


def best_peer(case: CaseResult, metric: Metric) -> str | None:
    """The best of those that are not ours, not multiprocessing's, and work between processes."""
    skipped = (*ENGINES, "ntsync", "mp.", "threading.", "C: ", "Python: ")
    values = {
        label: value
        for label, outcome in case.outcomes.items()
        if not label.startswith(skipped) and (value := outcome.median(metric.name)) is not None
    }
    if not values:
        return None
    return (max if metric.higher else min)(values, key=lambda label: values[label])


def figures_markdown(run: Run) -> str:
    """The aims, and what was reached."""
    rows = [list(_figure_row(each)) for each in figures.judge(run)]
    return markdown_table(["to be reached by `handoff`", "aim", "reached", ""], rows)


def where_markdown(run: Run) -> str:
    """Machine, date and noise, in a sentence each."""
    swung = len(run.noisy)
    return (
        f"Medians of {run.rounds} rounds, {run.date[:10]}: {machine.sentence(run.machine)}; load"
        f" {run.machine['load']} before the run. The base swung by more than"
        f" {100 * SWING_MAX:.0f} % in {swung} of {len(run.cases)} cases."
    )


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = [titles, ["---", *("---:" for _ in titles[1:])], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
