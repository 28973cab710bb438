"""The scenarios F36 to F62: what each finds, every time the same."""

from __future__ import annotations

import re

import pytest
from shmsync_tools.lab.scenario import SCENARIOS, Verdict
from shmsync_tools.lab.scenarios import death, lifetime, memory

OCCURS, CANNOT = Verdict.OCCURS, Verdict.CANNOT_OCCUR
PREVENTED, NOT = Verdict.PREVENTED, Verdict.NOT_REPRODUCED

#: What the entries of the second half are on fsync.
FSYNC = {
    **dict.fromkeys((36, 37, 38, 42, 43, 44, 45, 46, 48, 49, 50, 53, 54), OCCURS),
    **dict.fromkeys((39, 40, 41, 52, 55), CANNOT),
    **dict.fromkeys((51, 56, 58, 59, 60, 61), PREVENTED),
    **dict.fromkeys((47, 57, 62), NOT),
}
#: Those that force something which the API does not do.
FORCED = {43, 44, 52, 53}
MODULES = {death.__name__, memory.__name__, lifetime.__name__}


def test_there_is_a_scenario_for_each_entry() -> None:
    mine = {key for key, each in SCENARIOS.items() if each.run_on.__module__ in MODULES}
    assert {number for number, engine in mine if engine == "fsync"} == set(range(36, 63))
    assert FSYNC.keys() == set(range(36, 63))


@pytest.mark.parametrize("number", sorted(FSYNC), ids=lambda number: f"F{number}")
def test_the_verdict_is_the_same_on_every_run(number: int) -> None:
    scenario = SCENARIOS[number, "fsync"]
    run = scenario.run("fsync")
    assert run.finding.verdict is FSYNC[number], run.finding.seen
    assert run == scenario.run("fsync")
    assert bool(scenario.forced) == (number in FORCED)


@pytest.mark.parametrize("number", sorted(FSYNC), ids=lambda number: f"F{number}")
def test_a_finding_says_what_was_seen_and_what_nt_does(number: int) -> None:
    run = SCENARIOS[number, "fsync"].run("fsync")
    for text in (run.finding.seen, run.finding.nt):
        assert re.fullmatch(r"[A-Z0-9].*[.)]", text, re.DOTALL), text
        assert not re.search(r"/dev/shm/shmsync|lab-\d|  |\{", text), text
    if FSYNC[number] is CANNOT:
        assert run.finding.seen.startswith("Checked ")


@pytest.mark.parametrize("number", sorted(FSYNC), ids=lambda number: f"F{number}")
def test_a_script_on_a_stage_leaves_a_trace_with_notes(number: int) -> None:
    scenario = SCENARIOS[number, "fsync"]
    run = scenario.run("fsync")
    assert bool(run.steps) == scenario.stage
    if scenario.stage:
        assert run.notes
        assert {step.thread for step in run.steps} <= set(run.threads)
        assert all(0 <= note.before <= len(run.steps) for note in run.notes)
