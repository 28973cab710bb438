"""Runs suites: every contestant in turn, round after round, so that what disturbs the machine for a
while disturbs all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from shmsync_tools.bench import machine
from shmsync_tools.bench.leftovers import sweep
from shmsync_tools.bench.model import (
    AbsentError,
    Case,
    HangError,
    Setup,
    Suite,
    Turn,
)
from shmsync_tools.bench.results import CaseResult, Outcome, Run

#: Told where the run is: suite, round, rounds, case, contestant.
Progress = Callable[[str, int, int, str, str], None]


def run(setup: Setup, suites: Iterable[Suite], mode: str, progress: Progress) -> Run:
    """Runs the suites, one after the other."""
    begin = time.monotonic()
    chosen, where = list(suites), machine.describe()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    cases = []
    for suite in chosen:
        cases += run_suite(setup, suite, progress)
    where["load_after"] = machine.load()
    return Run(
        date=date,
        mode=mode,
        rounds=setup.sizes.rounds,
        seconds=round(time.monotonic() - begin, 1),
        machine=where,
        versions=machine.versions(),
        suites={each.name: {"title": each.title, "note": each.note} for each in chosen},
        cases=cases,
    )


def run_suite(setup: Setup, suite: Suite, progress: Progress) -> list[CaseResult]:
    """All cases of a suite in turn in each round, so that they can be compared with each other."""
    cases = [case for case in suite.cases(setup) if case.turns]
    results = [_nothing_yet(suite.name, case) for case in cases]
    rounds = setup.sizes.rounds
    try:
        for number in range(1, rounds + 1):
            for case, result in zip(cases, results, strict=True):
                for label, turn in case.turns.items():
                    progress(suite.name, number, rounds, case.name, label)
                    _take_turn(setup, turn, result.outcomes[label])
    finally:
        setup.pool.discard_busy()
        sweep()
    return results


def _nothing_yet(suite: str, case: Case) -> CaseResult:
    outcomes = {label: Outcome(note=case.notes.get(label, "")) for label in case.turns}
    return CaseResult(suite, case.name, case.title, case.base, case.metrics, outcomes)


def _take_turn(setup: Setup, turn: Turn, outcome: Outcome) -> None:
    """One turn of one contestant, unless it is absent or has failed before."""
    if outcome.absent or outcome.failed:
        return
    try:
        values = turn()
    except AbsentError as error:
        outcome.absent = str(error)
    except HangError as error:
        outcome.failed = str(error)
    except Exception as error:  # a peer's code, which may raise anything; the run goes on
        outcome.failed = f"fails ({type(error).__name__}: {error})"
    else:
        _add(outcome, values)
    setup.pool.discard_busy()


def _add(outcome: Outcome, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        outcome.values.setdefault(name, []).append(value)


# ---- progress ------------------------------------------------------------------------------------


def quiet(suite: str, number: int, rounds: int, case: str, label: str) -> None:
    """Says nothing."""


def on_terminal(suite: str, number: int, rounds: int, case: str, label: str) -> None:
    """One line that is written over."""
    text = f"{suite}: round {number} of {rounds}: {case}: {label}"
    print(f"\r{text[:78]:<78}", end="", file=sys.stderr, flush=True)


def clear_line() -> None:
    """Removes it."""
    print("\r" + " " * 78 + "\r", end="", file=sys.stderr, flush=True)
