"""The matrix: what each engine makes of each entry of the catalogue. Every cell is a scenario that
was run."""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from shmsync.engine import engines
from shmsync_tools.lab import scenarios
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.scenario import SCENARIOS, Run, Scenario, Verdict

WIDTH = 100


class NoScenarioError(Exception):
    """An engine has no scenario for an entry."""


@dataclass(frozen=True)
class Cell:
    """One engine's answer to one entry. ``problem`` says why there is none, if ``run`` is None."""

    number: int
    engine: str
    run: Run | None
    problem: str = ""

    @property
    def text(self) -> str:
        """The verdict, in the matrix's words."""
        return self.run.finding.verdict.value if self.run else f"FAILED: {self.problem}"


@cache
def all_scenarios() -> dict[tuple[int, str], Scenario]:
    """Every scenario, by entry and engine."""
    for module in pkgutil.iter_modules(scenarios.__path__):
        importlib.import_module(f"{scenarios.__name__}.{module.name}")
    return SCENARIOS


def scenario_of(number: int, engine: str) -> Scenario:
    """The scenario of an entry for an engine."""
    found = all_scenarios().get((number, engine))
    if found is None:
        raise NoScenarioError(f"F{number} has no scenario for the engine {engine}")
    return found


def lab_engines() -> list[str]:
    """The engines that the lab has scenarios for."""
    staged = {engine for _, engine in all_scenarios()}
    return [name for name in engines() if name in staged]


def usable_engines() -> list[str]:
    """Those that work on this machine."""
    return [name for name in lab_engines() if engines()[name].check() is None]


def fill(
    names: Sequence[str], *, progress: Callable[[int, str], None] = lambda number, engine: None
) -> list[Cell]:
    """Runs all scenarios on these engines. A scenario that breaks off leaves a cell with a
    problem, and the rest is run all the same."""
    cells = []
    for number in CATALOGUE:
        for engine in names:
            progress(number, engine)
            cells.append(_cell(number, engine))
    return cells


def _cell(number: int, engine: str) -> Cell:
    try:
        return Cell(number, engine, scenario_of(number, engine).run(engine))
    except NoScenarioError as error:
        return Cell(number, engine, None, str(error))
    except Exception as error:
        return Cell(number, engine, None, f"{type(error).__name__}: {error}")


# ---- as text ----


def table(cells: Sequence[Cell]) -> str:
    """The matrix, then how each cell that does not simply occur was arrived at, then the sums."""
    names = list(dict.fromkeys(cell.engine for cell in cells))
    found = {(cell.number, cell.engine): cell for cell in cells}
    title_width = max(len(entry.title) for entry in CATALOGUE.values())
    widths = {name: max(len(name), *map(len, _texts(cells, name))) for name in names}
    heads = "  ".join(name.ljust(widths[name]) for name in names)
    lines = [f"{'':4} {'':{title_width}}  {heads}".rstrip()]
    chapter = ""
    for number, entry in CATALOGUE.items():
        if entry.chapter != chapter:
            chapter = entry.chapter
            lines += ["", f"{chapter}"]
        row = "  ".join(_short(found[number, name]).ljust(widths[name]) for name in names)
        lines.append(f"F{number:<3} {entry.title:{title_width}}  {row}".rstrip())
    return "\n".join([*lines, "", *_reasons(cells), "", *_sums(cells, names)])


def short_table(cells: Sequence[Cell]) -> str:
    """Which entries have which verdict, a column for each engine, as Markdown."""
    names = list(dict.fromkeys(cell.engine for cell in cells))
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for text in _order():
        columns = [
            ranges([cell.number for cell in cells if cell.engine == name and _short(cell) == text])
            for name in names
        ]
        if any(columns):
            lines.append(f"| {text} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers of entries, neighbours joined: "F1-F7, F11"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"F{r[0]}" + (f"-F{r[-1]}" if len(r) > 1 else "") for r in runs)


def _short(cell: Cell) -> str:
    return cell.text if cell.run else "FAILED"


def _texts(cells: Iterable[Cell], engine: str) -> list[str]:
    return [_short(cell) for cell in cells if cell.engine == engine]


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """How it was checked that something cannot occur, or why it was not reproduced; and what was
    forced."""
    lines = ["how that was checked, or why not:"]
    for cell in cells:
        if cell.run is None:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}")
            continue
        forced = SCENARIOS[cell.number, cell.engine].forced
        if cell.run.finding.verdict is not Verdict.OCCURS:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}: {cell.run.finding.seen}")
        elif forced:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}, forced: {forced}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
    )


def _sums(cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
    lines = []
    for name in names:
        counts = Counter(_texts(cells, name))
        sums = ", ".join(f"{counts[text]} {text}" for text in _order() if counts[text])
        lines.append(f"{name}: {sums}")
    return lines


def _order() -> list[str]:
    return [*(verdict.value for verdict in Verdict), "FAILED"]


# ---- as JSON ----


def as_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """The matrix, for programs."""
    return {
        "engines": list(dict.fromkeys(cell.engine for cell in cells)),
        "entries": [
            {
                "number": number,
                "title": entry.title,
                "chapter": entry.chapter,
                "schemes": list(entry.schemes),
                "cells": {cell.engine: _cell_json(cell) for cell in cells if cell.number == number},
            }
            for number, entry in CATALOGUE.items()
        ],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    if cell.run is None:
        return {"verdict": None, "problem": cell.problem}
    finding = cell.run.finding
    forced = SCENARIOS[cell.number, cell.engine].forced
    return {
        "verdict": finding.verdict.value,
        "seen": finding.seen,
        "nt": finding.nt,
        "forced": forced,
    }
