"""The scenarios F36 to F63: what each finds, every time the same."""

from __future__ import annotations

import re

import pytest
from shmsync_tools.lab.matrix import all_scenarios, usable_engines
from shmsync_tools.lab.scenario import SCENARIOS, Verdict

OCCURS, CANNOT = Verdict.OCCURS, Verdict.CANNOT_OCCUR
PREVENTED, NOT = Verdict.PREVENTED, Verdict.NOT_REPRODUCED

#: What the entries of the second half are on fsync.
FSYNC = {
    **dict.fromkeys((36, 37, 38, 42, 43, 44, 45, 46, 48, 49, 50, 53, 54, 63), OCCURS),
    **dict.fromkeys((39, 40, 41, 52, 55), CANNOT),
    **dict.fromkeys((51, 56, 58, 59, 60, 61), PREVENTED),
    **dict.fromkeys((47, 57, 62), NOT),
}
#: And on handoff. What occurs: ntsync's convention of previous values, and what user space cannot
#: mend.
HANDOFF = {
    **dict.fromkeys(range(36, 64), CANNOT),
    **dict.fromkeys((48, 49, 50, 54, 63), OCCURS),
    **dict.fromkeys((51, 56, 58, 59, 60, 61), PREVENTED),
    **dict.fromkeys((47, 57, 62), NOT),
}
#: And on esync.
ESYNC = {
    **dict.fromkeys((37, 38, 39, 40, 41, 42, 43, 44, 48, 49, 50, 52, 53, 54, 55, 63), OCCURS),
    **dict.fromkeys((36, 45, 46), CANNOT),
    **dict.fromkeys((51, 56, 58, 59, 60, 61), PREVENTED),
    **dict.fromkeys((47, 57, 62), NOT),
}
#: And on ntsync, where there is a device; tests/lab/test_record.py has it everywhere.
NTSYNC = {
    **dict.fromkeys(range(36, 64), CANNOT),
    **dict.fromkeys((43, 44, 49, 50, 54, 55, 63), OCCURS),
    **dict.fromkeys((51, 56, 58, 59, 60, 61), PREVENTED),
    **dict.fromkeys((47, 57, 62), NOT),
}
VERDICTS = {"fsync": FSYNC, "esync": ESYNC, "handoff": HANDOFF, "ntsync": NTSYNC}
CELLS = [(number, engine) for number in range(36, 64) for engine in VERDICTS]
HERE = [cell for cell in CELLS if cell[1] in usable_engines()]
#: Those that force something which the API does not do.
FORCED = {
    "fsync": {43, 44, 52, 53},
    "esync": {43, 44, 52, 53},
    "handoff": {43, 52, 53},
    "ntsync": {43, 44, 53},
}


def in_words(cell: int | str) -> str:
    return f"F{cell}" if isinstance(cell, int) else cell


def test_there_is_a_scenario_for_each_entry() -> None:
    assert {key for key in all_scenarios() if key[0] >= 36} == set(CELLS)
    for verdicts in VERDICTS.values():
        assert verdicts.keys() == set(range(36, 64))


@pytest.mark.parametrize(("number", "name"), HERE, ids=in_words)
def test_the_verdict_is_the_same_on_every_run(number: int, name: str) -> None:
    scenario = SCENARIOS[number, name]
    run = scenario.run(name)
    assert run.finding.verdict is VERDICTS[name][number], run.finding.seen
    assert run == scenario.run(name)
    assert bool(scenario.forced) == (number in FORCED[name])


@pytest.mark.parametrize(("number", "name"), HERE, ids=in_words)
def test_a_finding_says_what_was_seen_and_what_nt_does(number: int, name: str) -> None:
    run = SCENARIOS[number, name].run(name)
    for text in (run.finding.seen, run.finding.nt):
        assert re.fullmatch(r"[A-Z0-9].*[.)]", text, re.DOTALL), text
        assert not re.search(r"/dev/shm/shmsync|lab-\d|  |\{", text), text
    if VERDICTS[name][number] is CANNOT:
        assert run.finding.seen.startswith("Checked ")


@pytest.mark.parametrize(("number", "name"), HERE, ids=in_words)
def test_a_script_on_a_stage_leaves_a_trace_with_notes(number: int, name: str) -> None:
    scenario = SCENARIOS[number, name]
    run = scenario.run(name)
    assert bool(run.steps) == scenario.stage
    if scenario.stage:
        assert run.notes
        assert {step.thread for step in run.steps} <= set(run.threads)
        assert all(0 <= note.before <= len(run.steps) for note in run.notes)
