"""Every interleaving of the small programs, on every engine, held against the model; and each of
them again with participants killed at every step.

After each ending somebody comes by who recovers from a death in the gate and reaps the dead, and
the segment is checked (``support/checkers.py``). SHMSYNC_LARGE=1 explores to the end, or to ten
million schedules, what CI explores as far as it fits.
"""

from __future__ import annotations

import os

import pytest
from shmsync_tools.stage import Stage

from shmsync.engine import Engine, Semantics, by_name, engines

from ..support.explore import (
    explore,
    explore_far,
    failures,
    from_text,
    replay,
    report,
    to_text,
)
from .programs import BARGING, EXACT, FAULTY, PROGRAMS, RELAXED, five_at_two_semaphores

LARGE = bool(os.environ.get("SHMSYNC_LARGE"))
SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
EXACT_ENGINES = [
    name
    for name, each in engines().items()
    if each.semantics == ~Semantics(0) and not each.brokered  # the kernel's steps are its own
]
#: Programs of an exact engine: also those that fsync gets wrong.
ALL = {**RELAXED, **EXACT, **FAULTY, "owner_dies": PROGRAMS["owner_dies"]}
#: Small enough for a second kill, which strikes whoever recovers from the first.
TWICE = ("set_against_timeout", "pulse_against_waiter", "timeout_against_hand_over")


def explored(
    engine: str, name: str, schedules_max: int, *, kills: int = 0, slices: int = 0
) -> None:
    """Explores a program as far as it goes; fails the test if there is an ending that the model
    cannot explain, or that leaves the segment wrong."""
    with Stage(engine) as stage:
        PROGRAMS[name](stage)
        stage.start(history=True)
        searches = explore_far(stage, schedules_max=schedules_max, kills=kills, slices=slices)
        for found in searches:
            print(f"{engine} {name}, {kills} kills, {slices} slices: {found}")
            wrong = failures(stage, found)
            assert not wrong, report(name, stage, *wrong[0])
        assert searches[0].exhausted or searches[0].schedules == schedules_max


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize("program", RELAXED)
def test_the_model_explains_every_interleaving(engine: Engine, program: str) -> None:
    if engine.name == "ntsync":
        pytest.skip("the kernel's steps are its own")
    explored(engine.name, program, 10_000_000 if LARGE else 100_000)


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize("program", [*EXACT, *FAULTY])
@pytest.mark.parametrize("name", EXACT_ENGINES)
def test_an_exact_engine_is_right_where_others_fail(name: str, program: str) -> None:
    explored(name, program, 10_000_000 if LARGE else 100_000)


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize(("kills", "slices"), [(0, 0), (1, 0), (0, 2)])
@pytest.mark.parametrize("program", BARGING)
def test_a_mutex_that_need_not_be_fair_is_right(program: str, kills: int, slices: int) -> None:
    many = 100_000 if kills + slices == 0 else 8_000
    explored("handoff", program, 10_000_000 if LARGE else many, kills=kills, slices=slices)


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize("program", ALL)
@pytest.mark.parametrize("name", EXACT_ENGINES)
def test_a_kill_at_any_step_is_survived(name: str, program: str) -> None:
    explored(name, program, 10_000_000 if LARGE else 8_000, kills=1)


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize("kills", [0, 1])
@pytest.mark.parametrize("program", ALL)
@pytest.mark.parametrize("name", EXACT_ENGINES)
def test_a_gate_that_cannot_be_had_is_survived(name: str, program: str, kills: int) -> None:
    """Its holder is slow, or stopped: others come back from it with empty hands, twice."""
    explored(name, program, 10_000_000 if LARGE else 2_000, kills=kills, slices=2)


@pytest.mark.seconds(7200 if LARGE else 200)
@pytest.mark.parametrize("program", ALL if LARGE else TWICE)
@pytest.mark.parametrize("name", EXACT_ENGINES)
def test_who_recovers_may_be_killed_at_any_step_too(name: str, program: str) -> None:
    explored(name, program, 10_000_000 if LARGE else 10_000, kills=2)


@pytest.mark.in_segment("esync gets it wrong (test_eventfd.py)")
@pytest.mark.seconds(7200 if LARGE else 300)
def test_a_large_program_is_explored_as_far_as_it_goes(engine: Engine) -> None:
    explored(engine.name, five_at_two_semaphores.__name__, 1_000_000 if LARGE else 5_000)


@pytest.mark.parametrize("program", FAULTY)
def test_the_explorer_finds_what_fsync_does_wrong(program: str) -> None:
    """The failures that Wine's FSYNC has are found, not just looked for."""
    with Stage("fsync") as stage:
        PROGRAMS[program](stage)
        stage.start(history=True)
        found = explore(stage)
        assert found.exhausted
        wrong = failures(stage, found)
        assert wrong
        why, outcome = wrong[0]
        print(report(program, stage, why, outcome))
        again = replay(stage, from_text(to_text(outcome.schedule)))
        assert again == outcome.ending


@pytest.mark.parametrize("program", PROGRAMS)
def test_random_schedules_are_explained_too(engine: Engine, program: str) -> None:
    exact = by_name(engine.name).semantics == ~Semantics(0)
    if program not in RELAXED and not exact:
        return  # what fsync gets wrong has tests of its own
    with Stage(engine.name) as stage:
        PROGRAMS[program](stage)
        stage.start(history=True)
        found = explore(stage, random=2000, seed=SEED, kills=2 if exact else 0)
        wrong = failures(stage, found)
        assert not wrong, f"SHMSYNC_SEED={SEED}\n" + report(program, stage, *wrong[0])
