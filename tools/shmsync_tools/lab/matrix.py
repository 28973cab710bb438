"""The matrix: what each engine makes of each entry of the catalogue. Every cell is a scenario that
was run."""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from shmsync.engine import engines
from shmsync_tools.lab import scenarios
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.record import Answer, Record
from shmsync_tools.lab.scenario import SCENARIOS, Run, Scenario, Verdict

WIDTH = 100
FAILED = "FAILED"
#: What a cell says of an engine that does not work on this machine.
ABSENT = "not available here"


class NoScenarioError(Exception):
    """An engine has no scenario for an entry."""


@dataclass(frozen=True)
class Cell:
    """One engine's answer to one entry: a run's, or one of a ``record``. If there is none,
    ``problem`` says why the run broke off, or ``absent`` why the engine does not work here."""

    number: int
    engine: str
    run: Run | None
    problem: str = ""
    absent: str = ""
    record: Record | None = None

    @property
    def answer(self) -> Answer | None:
        """What was found, if anything was."""
        if self.record is not None:
            return self.record.answers[self.number]
        if self.run is None:
            return None
        finding, forced = self.run.finding, SCENARIOS[self.number, self.engine].forced
        return Answer(finding.verdict.value, finding.seen, finding.nt, forced)

    @property
    def word(self) -> str:
        """The verdict, or what stands for one, in the matrix's words."""
        return self.answer.verdict if self.answer else ABSENT if self.absent else FAILED

    @property
    def text(self) -> str:
        """The same, with the problem if there is one."""
        return f"{self.word}: {self.problem}" if self.problem else self.word


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


def fill_absent(name: str, records: Sequence[Record] = ()) -> list[Cell]:
    """The column of an engine that does not work here: from its record if there is one."""
    record = next((each for each in records if each.engine == name), None)
    reason = engines()[name].check() or ""
    return [Cell(number, name, None, "", reason, record) for number in CATALOGUE]


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
    titles = {name: name + _mark(cells, name) for name in names}
    widths = {name: max(map(len, [titles[name], *_words(cells, name)])) for name in names}
    heads = "  ".join(titles[name].ljust(widths[name]) for name in names)
    lines = [f"{'':4} {'':{title_width}}  {heads}".rstrip()]
    chapter = ""
    for number, entry in CATALOGUE.items():
        if entry.chapter != chapter:
            chapter = entry.chapter
            lines += ["", f"{chapter}"]
        row = "  ".join(found[number, name].word.ljust(widths[name]) for name in names)
        lines.append(f"F{number:<3} {entry.title:{title_width}}  {row}".rstrip())
    return "\n".join([*lines, "", *_reasons(cells), "", *_sums(cells, names)])


def short_table(cells: Sequence[Cell]) -> str:
    """Which entries have which verdict, a column for each engine, as Markdown."""
    names = list(dict.fromkeys(cell.engine for cell in cells))
    lines = [
        "| | " + " | ".join(f"`{name}`{_mark(cells, name)}" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for text in _order():
        columns = [
            ranges([cell.number for cell in cells if cell.engine == name and cell.word == text])
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


def _words(cells: Iterable[Cell], engine: str) -> list[str]:
    return [cell.word for cell in cells if cell.engine == engine]


def _mark(cells: Iterable[Cell], engine: str) -> str:
    """What stands behind the name of an engine that was not run here."""
    return " (recorded)" if any(cell.record for cell in cells if cell.engine == engine) else ""


def origins(cells: Iterable[Cell]) -> dict[str, str]:
    """Why engines have not been run, and what stands in their columns instead."""
    told = {}
    for cell in cells:
        if cell.absent:
            instead = f"{cell.record.origin}; " if cell.record else ""
            told[cell.engine] = f"{instead}{ABSENT}: {cell.absent}"
    return told


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """How it was checked that something cannot occur, or why it was not reproduced; and what was
    forced."""
    lines = ["how that was checked, or why not:"]
    for cell in cells:
        answer = cell.answer
        if cell.problem:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}")
        elif answer and answer.verdict != Verdict.OCCURS.value:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}: {answer.seen}")
        elif answer and answer.forced:
            lines += _wrapped(f"F{cell.number} {cell.engine} {cell.text}, forced: {answer.forced}")
    return lines


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
    )


def _sums(cells: Sequence[Cell], names: Sequence[str]) -> list[str]:
    lines = []
    for name, origin in origins(cells).items():
        lines += _wrapped(f"{name} {origin}")
    for name in names:
        counts = Counter(_words(cells, name))
        sums = ", ".join(f"{counts[text]} {text}" for text in _order() if counts[text])
        lines.append(f"{name}: {sums}")
    return lines


def _order() -> list[str]:
    return [*(verdict.value for verdict in Verdict), FAILED, ABSENT]


# ---- as JSON ----


def as_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """The matrix, for programs."""
    return {
        "engines": list(dict.fromkeys(cell.engine for cell in cells)),
        "not run": origins(cells),
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
    if cell.answer is None:
        return {"verdict": None, "problem": cell.problem or cell.text}
    return asdict(cell.answer) | ({"recorded": cell.record.origin} if cell.record else {})
