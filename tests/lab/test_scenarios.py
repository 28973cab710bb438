"""The scenarios F1 to F35: what each finds, every time the same; and what they are made with."""

from __future__ import annotations

import math
import os

import pytest
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.matrix import all_scenarios, scenario_of, usable_engines
from shmsync_tools.lab.scenario import Verdict
from shmsync_tools.lab.schedules import circle, every_schedule, outcomes, settle
from shmsync_tools.stage import SOME_TIME, Stage, State, clear, set_, wait

OCCURS, CANNOT = Verdict.OCCURS, Verdict.CANNOT_OCCUR
PREVENTED, NOT = Verdict.PREVENTED, Verdict.NOT_REPRODUCED


def kernel() -> tuple[int, ...]:
    """The running kernel's version, e.g. (6, 7)."""
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


#: What the entries of the first half are on fsync.
FSYNC = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23), OCCURS),
    **dict.fromkeys((26, 27, 28, 31, 32, 33), OCCURS),
    **dict.fromkeys((8, 9, 21, 25), CANNOT),
    **dict.fromkeys((12, 24), PREVENTED),
    **dict.fromkeys((29, 30, 34, 35), NOT),
    10: NOT if kernel() >= (6, 7) else OCCURS,
    11: OCCURS if kernel() >= (6, 7) else NOT,
}
#: And on handoff.
HANDOFF = {
    **dict.fromkeys(range(1, 36), CANNOT),
    **dict.fromkeys((12, 24), PREVENTED),
    **dict.fromkeys((30, 34, 35), NOT),
}
#: And on esync.
ESYNC = {
    **dict.fromkeys((1, 5, 6, 8, 9, 13, 14, 15, 16, 17), OCCURS),
    **dict.fromkeys((18, 19, 20, 21, 22, 23, 25, 26, 27, 28, 33, 35), OCCURS),
    **dict.fromkeys((2, 3, 4, 7, 10, 11, 29, 31, 32), CANNOT),
    **dict.fromkeys((12, 24), PREVENTED),
    **dict.fromkeys((30, 34), NOT),
}
#: And on ntsync, where there is a device; tests/lab/test_record.py has it everywhere.
NTSYNC = {
    **dict.fromkeys(range(1, 36), CANNOT),
    **dict.fromkeys((12, 24), PREVENTED),
    **dict.fromkeys((30, 34, 35), NOT),
}
VERDICTS = {"fsync": FSYNC, "esync": ESYNC, "handoff": HANDOFF, "ntsync": NTSYNC}
HERE = [name for name in VERDICTS if name in usable_engines()]
CELLS = [(number, engine) for number in range(1, 36) for engine in HERE]


def in_words(cell: int | str) -> str:
    return f"F{cell}" if isinstance(cell, int) else cell


def test_the_table_is_complete() -> None:
    for verdicts in VERDICTS.values():
        assert verdicts.keys() == set(range(1, 36))


@pytest.mark.parametrize(("number", "name"), CELLS, ids=in_words)
def test_the_verdict_is_the_same_on_every_run(number: int, name: str) -> None:
    scenario = scenario_of(number, name)
    run = scenario.run(name)
    assert run.finding.verdict is VERDICTS[name][number], run.finding.seen
    assert run == scenario.run(name)
    assert bool(scenario.forced) == (number == 7)


@pytest.mark.parametrize(("number", "name"), CELLS, ids=in_words)
def test_a_run_tells_what_was_seen_and_what_nt_does(number: int, name: str) -> None:
    run = scenario_of(number, name).run(name)
    for text in (run.finding.seen, run.finding.nt):
        assert text.endswith((".", ".)")), text
        assert text[0].isupper() or text.startswith("wait_all("), text
    if VERDICTS[name][number] is CANNOT:
        assert run.finding.seen.startswith("Checked ")
    assert bool(run.threads) == scenario_of(number, name).stage
    assert run.notes or not run.threads


@pytest.mark.parametrize("name", HERE)
def test_findings_do_not_say_the_same(name: str) -> None:
    runs = [scenario_of(number, name).run(name) for number in VERDICTS[name]]
    assert len({run.finding.seen for run in runs}) == len(runs)


def test_a_scenario_of_something_else_would_be_noticed() -> None:
    unknown = {number for number, _ in all_scenarios()} - CATALOGUE.keys()
    assert not unknown


def test_runs_know_the_owners_and_what_calls_returned() -> None:
    run = scenario_of(3, "fsync").run("fsync")
    assert set(run.owners.values()) == {"A", "B", "C"}
    assert [each.text for each in run.returns if each.thread == "A"] == [
        "took M",
        "took M",
        "timed out",
        "EPERM",
    ]
    assert run.returns == tuple(sorted(run.returns, key=lambda each: each.after))


# ---- what scenarios are made with ----


def test_every_schedule_is_every_order_of_the_steps() -> None:
    with Stage("fsync") as stage:
        x, y = stage.event("X"), stage.event("Y")
        stage.thread("A", set_(x))
        stage.thread("B", set_(y), clear(y))
        stage.start()
        seen = []
        for _ in every_schedule(stage):
            assert stage.words() == {"X": (1, 0), "Y": (0, 0)}
            seen.append("".join(step.thread for step in stage.trace))
        a, b = seen[0].count("A"), seen[0].count("B")
        assert len(seen) == len(set(seen)) == math.comb(a + b, a)


def test_every_schedule_has_the_deadlines_in_it() -> None:
    with Stage("fsync") as stage:
        x = stage.event("X")
        a = stage.thread("A", wait(x, timeout=SOME_TIME))
        stage.thread("B", set_(x))
        stage.start()
        codes = {(a.results[0].code == 0, stage.words()["X"][0]) for _ in every_schedule(stage)}
        assert codes == {(True, 0), (False, 1)}


def test_outcomes_are_all_ways_to_end() -> None:
    with Stage("fsync") as stage:
        x = stage.event("X")
        a = stage.thread("A", wait(x, timeout=0))
        b = stage.thread("B", wait(x, timeout=0))
        c = stage.thread("C", set_(x))
        stage.start()
        found = set()
        counted = 0
        for count in outcomes(stage):
            assert c.state is State.DONE
            found.add((a.results[0].code == 0, b.results[0].code == 0, stage.words()["X"][0]))
            counted += count
        assert found == {(True, False, 0), (False, True, 0), (False, False, 1)}
        assert counted > len(found)


def test_a_circle_has_an_end_or_is_one() -> None:
    with Stage("fsync") as stage:
        x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
        a = stage.thread("A", wait(x, y, all=True))
        b = stage.thread("B", wait(y, x, all=True))
        stage.start()
        assert circle(stage, [a, b], laps=5) == 14
        stage.restart()
        assert circle(stage, [a], laps=5) == 0
        assert a.state is State.DONE
        stage.restart()
        assert circle(stage, [b, a], laps=6) == 14


def test_settling_lets_everybody_run_as_far_as_it_gets() -> None:
    with Stage("fsync") as stage:
        x, y = stage.event("X"), stage.event("Y")
        a = stage.thread("A", wait(x), set_(y))
        b = stage.thread("B", wait(y))
        c = stage.thread("C", set_(x), wait(y))
        stage.start()
        settle([a, b])
        assert (a.state, b.state) == (State.SLEEPING, State.SLEEPING)
        settle([a, b, c])
        assert (a.state, b.state, c.state) == (State.DONE, State.DONE, State.SLEEPING)
        assert not any(thread.can() for thread in stage.threads)
