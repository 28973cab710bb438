"""Runs as pictures: bars of ratios, and curves of what a call costs against numbers.

Needs matplotlib, which is optional: ``pip install 'shmsync[bench]'``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shmsync_tools.bench import figures, machine
from shmsync_tools.bench.model import AbsentError, Metric
from shmsync_tools.bench.results import CaseResult, Run
from shmsync_tools.bench.tables import number, quantity

RATIOS, SCALING = "ratios.svg", "scaling.svg"

#: Panels of the bars: suite, case, metric, title.
PANELS: tuple[tuple[str, str, str, str], ...] = (
    ("uncontended", "lock", "ns", "Lock: acquire and release, nobody there"),
    ("pingpong", "two-cores", "rate", "Ping-pong of two processes on two cores"),
    ("handover", "lock", "p50", "Hand-over to a sleeping waiter"),
    ("contended", "4", "rate", "Four processes want one lock"),
    ("uncontended", "event", "ns", "Event: set and wait"),
    ("waits", "any-64", "ns", "Wait for any of 64, the last is ready"),
)
#: Panels of the curves: prefix of the cases, metric, label of the axis, title.
CURVES: tuple[tuple[str, str, str, str], ...] = (
    ("objects", "pair", "objects in the namespace", "Objects: acquire, release"),
    ("processes", "pair", "attached processes", "Processes: acquire, release"),
    ("waiters", "pair", "waiting threads", "Waiters: acquire, release beside them"),
    ("waiters", "release", "waiting threads", "Waiters: release to one of them"),
)
ENGINE_COLOURS = {
    "handoff": "#c2410c",
    "fsync": "#7c3aed",
    "esync": "#0f766e",
    "ntsync": "#1d4ed8",
    "mp.Semaphore": "#6b7280",
}
OURS_COLOUR, OTHER_ENGINES, STDLIB, PEERS, FLOOR = (
    "#c2410c",
    "#f0a27c",
    "#64748b",
    "#a8b3c2",
    "#dfe3e8",
)
INK, GRID = "#1f2937", "#e5e7eb"


def pyplot() -> Any:
    """matplotlib, set to draw text as text. Raises ``AbsentError``."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise AbsentError(
            f"plots need matplotlib ({error}); pip install 'shmsync[bench]'"
        ) from None
    matplotlib.use("svg")
    found = importlib.import_module("matplotlib.pyplot")
    found.rcParams.update(
        {
            # The same picture for the same run: no random ids, and no date below.
            "svg.hashsalt": "shmsync",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#9ca3af",
        }
    )
    return found


def write(figure: Any, path: Path) -> Path:
    """Writes a picture and lets go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot().close(figure)
    # The same without the blanks that matplotlib leaves at the ends of lines.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path


# ---- bars ----------------------------------------------------------------------------------------


def ratios(run: Run) -> Any:
    """A panel for each case: how long everybody takes, by the base. None if there is no case."""
    found = [
        (title, case, metric)
        for suite, name, metric, title in PANELS
        if (case := run.case(suite, name)) and len(bars(case, metric)) > 1
    ]
    if not found:
        return None
    plt = pyplot()
    rows = (len(found) + 1) // 2
    pairs = [found[i : i + 2] for i in range(0, len(found), 2)]
    heights = [max(len(bars(case, metric)) for _, case, metric in pair) + 4 for pair in pairs]
    figure, grid = plt.subplots(
        rows,
        2,
        figsize=(12, 0.215 * sum(heights) + 0.4),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axes, panel in zip(grid.flat, found, strict=False):
        _panel(axes, *panel)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel(caption(run), fontsize=8.5, color="#6b7280")
    return figure


def bars(case: CaseResult, metric_name: str) -> list[tuple[str, float, float]]:
    """Label, time as a multiple of the base's, and the value itself; the fastest first."""
    metric = _metric(case, metric_name)
    base = case.measured_base
    found = []
    for label, outcome in case.outcomes.items():
        value, ratio = outcome.median(metric_name), case.ratio(label, metric_name)
        if base and value and ratio:
            found.append((label, 1 / ratio if metric.higher else ratio, value))
    return sorted(found, key=lambda bar: bar[1])


def _metric(case: CaseResult, name: str) -> Metric:
    return next(metric for metric in case.metrics if metric.name == name)


def _panel(axes: Any, title: str, case: CaseResult, metric_name: str) -> None:
    unit, drawn = _metric(case, metric_name).unit, bars(case, metric_name)
    lengths = [bar[1] for bar in drawn]
    # A bar on a log axis has no zero to begin at; it begins at the left edge.
    low, high = min(lengths) / 1.6, max(lengths)
    places = range(len(drawn))
    axes.barh(
        places,
        [length - low for length in lengths],
        left=low,
        color=[colour(label) for label, _, _ in drawn],
        height=0.72,
    )
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=2)
    halo = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    for place, (_, length, value) in zip(places, drawn, strict=True):
        at = length * (high / low) ** 0.012
        text = quantity(value, unit)
        axes.text(at, place, text, va="center", fontsize=8.5, bbox=halo, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** 0.25)
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_yticks(places, [label for label, _, _ in drawn])
    for (label, _, _), text in zip(drawn, axes.get_yticklabels(), strict=True):
        text.set_fontweight("bold" if label.startswith(figures.OURS) else "normal")
    _decades(axes.xaxis, few=high / low < 50)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(f"time, {case.measured_base} = 1 (less is better)", fontsize=8.5)


def _decades(axis: Any, *, few: bool) -> None:
    """Ticks at powers of ten, and between them if there are few."""
    ticker = importlib.import_module("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5) if few else (1,)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,g}")


def colour(label: str) -> str:
    """Ours stand out, floors step back."""
    if label.startswith(figures.OURS):
        return OURS_COLOUR
    if label.startswith(("fsync", "esync", "ntsync")):
        return OTHER_ENGINES
    if label.startswith(("C: ", "Python: ")):
        return FLOOR
    return STDLIB if label.startswith(("mp.", "threading.")) else PEERS


def caption(run: Run) -> str:
    """Where it was measured."""
    return f"{run.date[:10]}, {machine.sentence(run.machine)}; medians of {run.rounds} rounds"


# ---- curves --------------------------------------------------------------------------------------


def scaling(run: Run) -> Any:
    """What a call costs against numbers. None if there is no case."""
    found = [panel for panel in CURVES if len(figures.curve(run, panel[0])) > 1]
    if not found:
        return None
    plt = pyplot()
    figure, grid = plt.subplots(
        1, len(found), figsize=(3.2 * len(found) + 0.4, 3.4), squeeze=False, layout="constrained"
    )
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, found, strict=True):
        handles |= _curves(axes, run, *panel)
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False
    )
    figure.supxlabel(caption(run), fontsize=8, color="#6b7280")
    return figure


def duration(nanos: float) -> str:
    """The label of a tick: 10 us."""
    for name, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanos >= size:
            return f"{nanos / size:g} {name}"
    return f"{nanos:g} ns"


def _curves(
    axes: Any, run: Run, prefix: str, metric: str, label: str, title: str
) -> dict[str, Any]:
    drawn = {}
    cases = figures.curve(run, prefix)
    for name, line_colour in ENGINE_COLOURS.items():
        points = [
            (count, value)
            for count, case in cases
            if name in case.outcomes and (value := case.outcomes[name].median(metric)) is not None
        ]
        if points:
            xs, ys = zip(*points, strict=True)
            (drawn[name],) = axes.plot(
                xs, ys, marker="o", markersize=4, linewidth=1.8, color=line_colour
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # At least two decades, so that a flat curve looks flat.
    middle = (low * high) ** 0.5
    axes.set_ylim(min(low, middle / 10), max(high, middle * 10))
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
    axes.set_xlabel(label, fontsize=9)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5)
    _decades(axes.xaxis, few=False)
    _decades(axes.yaxis, few=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    return drawn


# ---- without matplotlib --------------------------------------------------------------------------

BAR_CHARACTERS = 40


def as_text(run: Run) -> str:
    """The bars as text, where there is no matplotlib."""
    parts = []
    for suite, name, metric_name, title in PANELS:
        case = run.case(suite, name)
        drawn = bars(case, metric_name) if case else []
        if case and len(drawn) > 1:
            unit = _metric(case, metric_name).unit
            parts.append(f"{title} (time, {case.measured_base} = 1)\n{_text_bars(drawn, unit)}")
    return "\n\n".join(parts)


def _text_bars(drawn: Sequence[tuple[str, float, float]], unit: str) -> str:
    from math import log

    low, high = drawn[0][1] / 1.6, drawn[-1][1]
    width = max(len(label) for label, _, _ in drawn)

    def bar(length: float) -> str:
        return "#" * max(1, round(BAR_CHARACTERS * log(length / low) / log(high / low)))

    return "\n".join(
        f"{label:<{width}}  {bar(length):<{BAR_CHARACTERS}}"
        f"  {number(length):>7}  {quantity(value, unit)}"
        for label, length, value in drawn
    )
