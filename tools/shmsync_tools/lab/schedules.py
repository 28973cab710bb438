"""Many schedules of the program on a stage: all of them, or all that differ; and circles.

A scenario holds threads at chosen steps and so plays one schedule. Where the point is that
something happens in none, or how often it happens, these play the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shmsync._traced import ffi, lib
from shmsync_tools.stage import Grant, Stage, Step, Thread

#: More than any program of the lab has.
SCHEDULES_MAX = 1_000_000
STEPS_MAX = 500
#: The longest circle that is looked for, in steps.
LAP_MAX = 40


def settle(threads: Sequence[Thread], *, limit: int = STEPS_MAX) -> None:
    """Lets the threads run, in that order and again, until none can go on by itself."""
    for _ in range(limit):
        ready = [thread for thread in threads if thread.can()]
        if not ready:
            return
        for thread in ready:
            thread.run(limit)


def outcomes(stage: Stage) -> Iterator[int]:
    """Plays one schedule for each way in which the program can end; gives in how many of all
    schedules it ends so, counting as one those that only swap steps which cannot influence each
    other. When the generator is at its end, every way has been seen."""
    config = ffi.new("struct explore_config *")
    config.method = lib.EXPLORE_REDUCED
    config.schedules_max = SCHEDULES_MAX
    config.steps_max = STEPS_MAX
    explored = ffi.new("struct explore_result *")
    code = lib.explore(config, explored)
    assert code == 0, code
    assert explored.exhausted, "more schedules than can be run"
    outcome = ffi.new("struct explore_outcome *")
    found = []
    for number in range(explored.outcomes):
        lib.explore_outcome(number, outcome)
        assert not outcome.endless, "a schedule does not end"
        steps = [(each & 0xFF, each >> 8) for each in outcome.schedule[0 : outcome.steps]]
        found.append((int(outcome.count), steps))
    for count, schedule in found:
        stage.play(schedule)
        yield count


def every_schedule(stage: Stage) -> Iterator[None]:
    """Plays every schedule to its end, one after the other: at each point each thread that can take
    a step, and each deadline that can come."""
    chosen: list[tuple[int, Grant]] = []
    untried: list[list[tuple[int, Grant]]] = []
    while True:
        stage.play(chosen)
        while choices := _choices(stage):
            untried.append(choices[1:])
            chosen.append(choices[0])
            stage.grant(stage.threads[choices[0][0]], choices[0][1])
        yield
        while untried and not untried[-1]:
            untried.pop()
            chosen.pop()
        if not untried:
            return
        chosen[-1] = untried[-1].pop(0)


def _choices(stage: Stage) -> list[tuple[int, Grant]]:
    return [
        (thread.number, grant)
        for thread in stage.threads
        for grant in (Grant.STEP, Grant.TIMEOUT)
        if thread.can(grant)
    ]


def circle(stage: Stage, threads: Sequence[Thread], *, laps: int) -> int:
    """Lets the threads take turns, one step each, until they have gone round in a circle that
    often: the same steps, on the same words, with the same values, from the same state to the same
    state. Gives the number of steps in a lap; 0 if they came to an end instead."""
    begin = len(stage.trace)
    while any(thread.can() for thread in threads) and len(stage.trace) - begin < 2 * LAP_MAX * laps:
        for thread in threads:
            if thread.can():
                thread.step()
        for lap in range(1, LAP_MAX + 1):
            if _goes_round(stage.trace[begin:], lap, laps):
                return lap
    return 0


def _goes_round(steps: list[Step], lap: int, laps: int) -> bool:
    length = lap * laps
    return len(steps) >= length and all(
        steps[-i] == steps[-i - lap] for i in range(1, length - lap + 1)
    )
