"""Every interleaving of the small programs, on every engine, held against the model."""

from __future__ import annotations

import os

import pytest
from shmsync_tools.stage import Stage

from shmsync.engine import Engine

from ..support.explore import explore, explore_far, failures, from_text, replay, report, to_text
from .programs import FAULTY, RELAXED, Program, five_at_two_semaphores

#: With it, programs that CI explores up to a bound are explored to the end: minutes to hours.
LARGE = bool(os.environ.get("SHMSYNC_LARGE"))


@pytest.mark.parametrize("program", RELAXED.values(), ids=RELAXED.keys())
def test_the_model_explains_every_interleaving(engine: Engine, program: Program) -> None:
    with Stage(engine.name) as stage:
        program(stage)
        stage.start()
        found = explore(stage, schedules_max=10_000_000 if LARGE else 1_000_000)
        print(f"{engine.name} {program.__name__}: {found}")
        wrong = failures(stage, found)
        assert not wrong, report(program.__name__, stage, *wrong[0])
        assert found.exhausted


def test_a_large_program_is_explored_as_far_as_it_goes(engine: Engine) -> None:
    with Stage(engine.name) as stage:
        five_at_two_semaphores(stage)
        stage.start()
        searches = explore_far(stage, schedules_max=1_000_000 if LARGE else 60_000)
        for found in searches:
            print(f"{engine.name} five_at_two_semaphores: {found}")
            wrong = failures(stage, found)
            assert not wrong, report("five_at_two_semaphores", stage, *wrong[0])
        assert searches[0].exhausted or any(
            found.exhausted and "preemptions" in found.method for found in searches
        )


@pytest.mark.parametrize("program", FAULTY.values(), ids=FAULTY.keys())
def test_the_explorer_finds_what_fsync_does_wrong(program: Program) -> None:
    """The failures that Wine's FSYNC has are found, not just looked for."""
    with Stage("fsync") as stage:
        program(stage)
        stage.start()
        found = explore(stage)
        assert found.exhausted
        wrong = failures(stage, found)
        assert wrong
        why, outcome = wrong[0]
        print(report(program.__name__, stage, why, outcome))
        again = replay(stage, from_text(to_text(outcome.schedule)))
        assert again == outcome.ending


@pytest.mark.parametrize("program", RELAXED.values(), ids=RELAXED.keys())
def test_random_schedules_are_explained_too(engine: Engine, program: Program) -> None:
    seed = int(os.environ.get("SHMSYNC_SEED", "1"))
    with Stage(engine.name) as stage:
        program(stage)
        stage.start()
        found = explore(stage, random=2000, seed=seed)
        wrong = failures(stage, found)
        assert not wrong, f"SHMSYNC_SEED={seed}\n" + report(program.__name__, stage, *wrong[0])
