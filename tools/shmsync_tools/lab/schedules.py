"""Many schedules of the program on a stage: all of them, or all that differ; and circles.

A scenario holds threads at chosen steps and so plays one schedule. Where the point is that
something happens in none, or how often it happens, these play the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shmsync._traced import ffi, lib
from shmsync_tools.lab.scenario import Finding, ScriptedStage, Verdict
from shmsync_tools.stage import Grant, Stage, State, Step, Thread, sleeps

#: More than any program of the lab has.
SCHEDULES_MAX = 1_000_000
STEPS_MAX = 2000
#: The engines that follow Wine, of which a script shows most failures.
WINES = ("fsync", "esync")
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


@dataclass(frozen=True)
class Tried:
    """What came of looking for a failure in many runs of a program: in how many of how many it was
    seen, and how the runs were made."""

    runs: int = 0
    failed: int = 0
    how: str = ""

    def occurs_if(self, failed: bool, seen: str, *, nt: str, otherwise: str) -> Finding:
        """The failure occurs if the script has shown it or one of the runs has; else it cannot
        occur, as far as they reach, and ``otherwise`` says what was seen instead."""
        if failed:
            return Finding(Verdict.OCCURS, seen, nt)
        if self.failed:
            return Finding(Verdict.OCCURS, f"In {self.failed} of {self.runs} runs: {seen}", nt)
        checked = f"Checked {self.how}: " if self.runs else ""
        return Finding(Verdict.CANNOT_OCCUR, checked + otherwise, nt)


def in_all_schedules(
    stage: ScriptedStage,
    failure: Callable[[], bool],
    *,
    ordered: bool = False,
    unless: Sequence[str] = WINES,
) -> Tried:
    """Looks for a failure wherever the program can end. Not with engines of which the script shows
    it: the loops of fsync and esync have schedules without an end (F11, F14, F35). ``ordered``: the
    failure is told by what came before what in the history of calls, so every order of that is
    tried too."""
    if stage.engine in unless:
        return Tried()
    runs = failed = 0
    lib.sched_history(ordered)
    for count in outcomes(stage):
        runs += count
        failed += count * failure()
    lib.sched_history(False)
    stage.restart()
    names = [thread.name for thread in stage.threads]
    who = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return Tried(runs, failed, f"in all schedules of {who} that differ ({runs})")


def stopped_at_each_step(
    stage: Stage, thread: Thread, begin: Callable[[], object] = lambda: None, *, kill: bool
) -> Iterator[int]:
    """Plays the program once for each step that the thread takes alone, after ``begin``, and stops
    it before that step: kills it, or holds it. What comes then is the caller's business. Gives in
    the number of the step."""
    begin()
    before = len(stage.trace)
    thread.run()
    for number in range(len(stage.trace) - before):
        stage.restart()
        begin()
        for _ in range(number):
            thread.step()
        if kill:
            thread.kill()
        yield number


def when_stopped(
    stage: ScriptedStage,
    thread: Thread,
    failure: Callable[[], bool],
    *,
    kill: bool,
    begin: Callable[[], object] = lambda: None,
) -> Tried:
    """Looks for a failure after the thread was killed or held before each of its steps. ``failure``
    lets the others go on and says what came of it."""
    runs = failed = 0
    for _ in stopped_at_each_step(stage, thread, begin, kill=kill):
        runs += 1
        failed += failure()
    stage.restart()
    how = "killing" if kill else "holding"
    return Tried(runs, failed, f"by {how} {thread.name} before each of its {runs} steps")


def settle_late(threads: Sequence[Thread]) -> None:
    """As ``settle``, and who sleeps then looks again, twice: after a kill that can help."""
    settle(threads)
    for thread in [*threads, *threads]:
        if thread.can(Grant.RELOOK):
            thread.look_again()
            settle(threads)


def as_far_as(thread: Thread, call: int) -> None:
    """Grants steps until the thread is in its call of that number, or can go no further."""
    while thread.call < call and thread.can():
        thread.step()


def slept_before(stage: Stage, thread: Thread, other: Thread, call: int = 0) -> bool:
    """Did the thread sleep, for the first time, before another one began a call?"""
    asleep = [i for i, s in enumerate(stage.trace) if s.thread == thread.name and sleeps(s)]
    begun = [i for i, s in enumerate(stage.trace) if (s.thread, s.call) == (other.name, call)]
    return bool(asleep and begun) and asleep[0] < begun[0]


def returned_before(stage: ScriptedStage, thread: Thread, other: Thread, call: int = 0) -> bool:
    """Has the thread's first call returned before another one began a call?"""
    ends = [each.after for each in stage.returns if (each.thread, each.call) == (thread.name, 0)]
    begun = [i for i, s in enumerate(stage.trace) if (s.thread, s.call) == (other.name, call)]
    return bool(ends and begun) and ends[0] <= begun[0]


def sleeps_beside(stage: Stage, thread: Thread, name: str) -> bool:
    """Does the thread sleep though the object of that name is signaled?"""
    state, kinds = stage.states()[name], {each.name: each.kind for each in stage.objects}
    free = state.owner is None if kinds[name] == "mutex" else state.count > 0 or state.signaled
    return thread.state is State.SLEEPING and free


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
