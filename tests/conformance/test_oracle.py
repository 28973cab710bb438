"""Small scenarios whose answers a real wineserver gave (tests/data/wine-oracle.jsonl), replayed.

Each runs twice: with its threads in one process, as recorded, and with a process for each of them.
Which scenarios are not run, and why, and which answers differ, is in tests/support/oracle_notes.py.
"""

from __future__ import annotations

import pytest

from shmsync.engine import Engine, Semantics

from ..conftest import StartActors
from ..support.oracle import Interpreter
from ..support.oracle_notes import (
    BEFORE,
    LEFT_OUT,
    MEANS,
    NEEDS,
    NOT_FOR_THE_MODEL,
    NOT_RUN,
    OURS,
    SHOWS,
    Scenario,
    scenarios,
)
from ..support.oracle_worlds import EngineWorld
from .needs import needs


def _runs() -> list[object]:
    runs: list[object] = []
    for scenario in scenarios():
        if scenario.case in NOT_RUN:
            continue
        flags = NEEDS.get(scenario.case, Semantics(0))
        marks = [needs(flags, shows=SHOWS.get(scenario.case, False))]
        threads = scenario.letters() - {"P", "Q"}
        placements = ["threads", "processes"] if threads else ["threads"]
        for placement in placements:
            name = f"{scenario.case}-{placement}"
            runs.append(pytest.param(scenario, placement, marks=marks, id=name))
    return runs


@pytest.mark.parametrize(("scenario", "placement"), _runs())
def test_engine_answers_as_the_wineserver_did(
    engine: Engine, start: StartActors, scenario: Scenario, placement: str
) -> None:
    letters = scenario.letters()
    own_processes = letters if placement == "processes" else letters & {"P", "Q"}
    scenario.replay(Interpreter(EngineWorld(engine, start, own_processes)))


def test_every_note_is_about_a_scenario_and_most_scenarios_run() -> None:
    cases = {scenario.case for scenario in scenarios()}
    notes = [*BEFORE, *MEANS, *OURS, *LEFT_OUT, *NEEDS, *SHOWS, *NOT_RUN, *NOT_FOR_THE_MODEL]
    assert not set(notes) - cases
    assert len(cases) == 99
    assert len(cases - set(NOT_RUN)) == 88
