"""All interleavings of a small program, and whether the model can explain how each of them ended.

The search itself is in ``native/traced/explore.c``: dynamic partial order reduction with sleep
sets, or every schedule up to a number of preemptions, or seeded random ones. It gives the different
ways in which the program ends, each with one schedule that leads there. ``explain`` then looks for
an order of the calls, one instant each, that respects who returned before whom began and in which
the model gives the same results (Wing and Gong's search): if there is none, or if somebody sleeps
beside an object that he could take, that is a failure. The line that a failure prints runs that
schedule again.

What this does not show: reorderings of a weak memory model, since a step is one indivisible access
and the next one sees it; and steps outside the seam.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shmsync_tools.stage import SOME_TIME, Call, Grant, Object, ObjectState, Stage, State

from shmsync._traced import ffi, lib
from shmsync.engine import Semantics, by_name

from ..model import BLOCKED, Model, RefusedError
from .checkers import Image, path_of, problems

#: A schedule: who was granted what, in order. As text: "0 0 1 1t 2k 0r".
Schedule = tuple[tuple[int, Grant], ...]

#: The most schedules of an exhaustive search. Programs with more are searched up to a bound.
EXHAUSTIVE_MAX = 10_000_000

_SIGNS = {Grant.STEP: "", Grant.TIMEOUT: "t", Grant.KILL: "k", Grant.RELOOK: "r", Grant.SLICE: "s"}
_GRANTS = {sign: grant for grant, sign in _SIGNS.items()}


def to_text(schedule: Schedule) -> str:
    """A schedule as one line."""
    return " ".join(f"{number}{_SIGNS[grant]}" for number, grant in schedule)


def from_text(text: str) -> Schedule:
    """The schedule that a line means."""
    return tuple(
        (int(word.rstrip("tkrs")), _GRANTS[word.lstrip("0123456789")]) for word in text.split()
    )


@dataclass(frozen=True)
class Event:
    """A call of a thread begins, falls asleep for the first time, or has returned; or the thread
    dies. ``kind`` is one of lib.EVENT_..."""

    thread: int
    call: int
    kind: int


@dataclass(frozen=True)
class Ending:
    """How a program ended: its history, what the calls returned (None: they have not), where the
    threads stand, and the states of the objects. ``problems``: what the checker of
    segments has found, once somebody had recovered and reaped."""

    events: tuple[Event, ...]
    results: tuple[tuple[tuple[int, int, int] | None, ...], ...]
    states: tuple[State, ...]
    objects: tuple[tuple[str, ObjectState], ...]
    endless: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """One ending, a schedule that leads to it, and how many of the schedules that were run did."""

    ending: Ending
    schedule: Schedule
    count: int


@dataclass(frozen=True)
class Exploration:
    """What a search has found. ``exhausted``: it has left nothing out."""

    schedules: int
    steps: int
    longest: int
    exhausted: bool
    method: str
    outcomes: tuple[Outcome, ...] = field(repr=False)

    def __str__(self) -> str:
        extent = "all" if self.exhausted else "not all"
        return f"{self.schedules} schedules ({extent}, {self.method}), {len(self.outcomes)} endings"


def look(stage: Stage) -> Ending:
    """How the program stands now."""
    raw = ffi.new("struct sched_event *")
    events = []
    for number in range(lib.sched_events()):
        lib.sched_event(number, raw)
        events.append(Event(raw.thread, raw.op, raw.kind))
    results = tuple(
        tuple(
            (each.code, each.index, each.abandoned) if each.finished else None
            for each in thread.results
        )
        for thread in stage.threads
    )
    objects = tuple(stage.states().items())
    return Ending(tuple(events), results, tuple(each.state for each in stage.threads), objects)


def replay(stage: Stage, schedule: Schedule) -> Ending:
    """Runs one schedule from the beginning. Then somebody comes by who recovers and reaps, and the
    segment is checked (unless its gate is held by a thread that the schedule has left there)."""
    lib.sched_restart()
    for number, grant in schedule:
        assert lib.sched_grant(number, grant) == 0, f"{number} cannot be granted {grant.name}"
    woken = lib.sched_visit()
    wrong = problems(Image(Path(path_of(stage.name)).read_bytes())) if woken >= 0 else []
    if woken > 0:
        wrong.append(f"{woken} would sleep for ever if nobody else came by")
    return replace(look(stage), problems=tuple(wrong))


def _outcomes(stage: Stage, count: int) -> Iterator[Outcome]:
    raw = ffi.new("struct explore_outcome *")
    for number in range(count):
        lib.explore_outcome(number, raw)
        schedule = tuple(
            (raw.schedule[i] & 0xFF, Grant(raw.schedule[i] >> 8)) for i in range(raw.steps)
        )
        ending = replay(stage, schedule)
        if raw.endless:
            ending = replace(ending, endless=True)
        yield Outcome(ending, schedule, raw.count)


def explore(
    stage: Stage,
    *,
    kills: int = 0,
    killable: Sequence[int] = range(8),
    preemptions: int | None = None,
    random: int | None = None,
    seed: int = 0,
    schedules_max: int = EXHAUSTIVE_MAX,
    steps_max: int = 3000,
    relooks: int = 2,
    slices: int = 0,
) -> Exploration:
    """Runs the schedules of the program on a started stage.

    All of them, reduced; or with ``preemptions`` all with at most so many, unreduced; or with
    ``random`` so many random ones from ``seed``. ``kills`` of the ``killable`` threads may be
    killed, at any instant; after each kill, and once nobody can go on by himself, each thread's
    bounded sleep may end ``relooks`` times. A thread that waits for a lock may give up, and try
    again, ``slices`` times. A schedule of more than ``steps_max`` steps is cut off
    and called endless."""
    method, name = lib.EXPLORE_REDUCED, "partial order reduction"
    if preemptions is not None:
        method, name = lib.EXPLORE_BOUNDED, f"at most {preemptions} preemptions"
    if random is not None:
        method, name, schedules_max = lib.EXPLORE_RANDOM, f"random, seed {seed}", random
    config = ffi.new("struct explore_config *")
    config.method = method
    config.kills = kills
    config.killable = sum(1 << number for number in killable)
    config.preemptions = preemptions or 0
    config.schedules_max = schedules_max
    config.seed = seed
    config.steps_max = steps_max
    config.relooks = relooks
    config.slices = slices
    result = ffi.new("struct explore_result *")
    code = lib.explore(config, result)
    assert code == 0, f"the search failed: {errno.errorcode.get(-code, code)}"
    return Exploration(
        result.schedules,
        result.steps,
        result.longest,
        bool(result.exhausted),
        name,
        tuple(_outcomes(stage, result.outcomes)),
    )


def explore_far(
    stage: Stage, *, schedules_max: int, kills: int = 0, slices: int = 0
) -> list[Exploration]:
    """All schedules if there are at most so many; else all with few preemptions, as many of these
    as fit, and random ones beyond. What was done is in each result's text."""
    found = [explore(stage, kills=kills, slices=slices, schedules_max=schedules_max)]
    if found[0].exhausted:
        return found
    for preemptions in range(16):
        bounded = explore(
            stage,
            kills=kills,
            slices=slices,
            preemptions=preemptions,
            schedules_max=schedules_max,
        )
        if not bounded.exhausted:
            break
        found.append(bounded)
    last = explore(stage, kills=kills, slices=slices, random=schedules_max // 10, seed=1)
    return [*found, last]


# ---- what the model says to it ----


@dataclass
class _Search:
    """The state of the search for an explaining order: the model so far, which calls have had their
    instant, and who is queued in the model."""

    model: Model
    done: set[tuple[int, int]]
    queued: set[int]


class Explainer:
    """Looks for an order of the calls of one ending in which the model gives the same results.

    ``queued``: waits queue in the model in the order of their instants, so that who came first is
    served first. Without it a wait that returned is one instant at which it could take its objects:
    all that can be asked of an engine without queues."""

    def __init__(self, stage: Stage, ending: Ending, *, queued: bool) -> None:
        self.stage = stage
        self.ending = ending
        self.queued = queued
        self.begun_at = self._calls(lib.EVENT_BEGINS)
        self.slept_at = self._calls(lib.EVENT_SLEEPS)
        self.ended_at = self._calls(lib.EVENT_RETURNS)
        self.died_at = {thread: at for (thread, _), at in self._calls(lib.EVENT_DIES).items()}
        self.seen: set[str] = set()

    def _calls(self, kind: int) -> dict[tuple[int, int], int]:
        """When that happened to each call, as a place in the history."""
        history = enumerate(self.ending.events)
        return {(each.thread, each.call): at for at, each in history if each.kind == kind}

    def explains(self) -> bool:
        """Is there such an order?"""
        return self._search(_Search(initial_model(self.stage), set(), set()))

    def _search(self, at: _Search) -> bool:
        key = repr((at.model, sorted(at.done), sorted(at.queued)))
        if key in self.seen:
            return False
        self.seen.add(key)
        if self._is_the_end(at):
            return True
        return any(self._search(after) for after in self._moves(at))

    def _is_the_end(self, at: _Search) -> bool:
        if not set(self.ended_at) <= at.done or not self._states_agree(at.model):
            return False
        for number, state in enumerate(self.ending.states):
            if state in (State.DEAD, State.ENDED) and (number, -1) not in at.done:
                return False
            call = self._next_call(at, number)
            # Nobody sleeps who could go on, or whose wait is over.
            if state is State.SLEEPING and (call is None or self._could_take(at, number, call)):
                return False
        return True

    def _could_take(self, at: _Search, number: int, call: Call) -> bool:
        model = copy.deepcopy(at.model)
        if number in at.queued:
            return model.result(number) is not BLOCKED
        return self._wait(model, number, call) is not BLOCKED

    def _next_call(self, at: _Search, number: int) -> Call | None:
        for i, call in enumerate(self.stage.threads[number].calls):
            if (number, i) not in at.done:
                return call if (number, i) in self.begun_at else None
        return None

    def _candidates(self, at: _Search) -> Iterator[tuple[int, int]]:
        """Calls that may have their instant now: begun before everything that should have had its
        own by then."""
        pending = [each for each in self.begun_at if each not in at.done]
        limits = [self._limit(at, each) for each in pending]
        limits += [died for number, died in self.died_at.items() if (number, -1) not in at.done]
        horizon = min(limits, default=0)
        for each in pending:
            if self.begun_at[each] < horizon and (each[0], each[1] - 1) not in pending:
                yield each

    def _limit(self, at: _Search, call: tuple[int, int]) -> int:
        """What begins after this comes after the call: it has returned by then; or it sleeps, and
        so is queued."""
        limits = [self.ended_at.get(call, 1 << 30)]
        if self.queued and call[0] not in at.queued:
            limits.append(self.slept_at.get(call, 1 << 30))
        return min(limits)

    def _moves(self, at: _Search) -> Iterator[_Search]:
        for number, i in self._candidates(at):
            call = self.stage.threads[number].calls[i]
            result = self.ending.results[number][i]
            if number in at.queued:
                yield from self._leave_queue(at, number, i, result)
            elif call.what == lib.CALL_WAIT:
                yield from self._begin_wait(at, number, i, call, result)
            else:
                yield from self._instant(at, number, i, call, result)
        yield from self._deaths(at)

    def _deaths(self, at: _Search) -> Iterator[_Search]:
        """A killed thread dies in the model once its last returned call has had its instant."""
        for number, state in enumerate(self.ending.states):
            if state not in (State.DEAD, State.ENDED) or (number, -1) in at.done:
                continue
            if any(each[0] == number and each not in at.done for each in self.ended_at):
                continue
            model = copy.deepcopy(at.model)
            model.die(number)
            unfinished = {each for each in self.begun_at if each[0] == number}
            yield _Search(model, at.done | unfinished | {(number, -1)}, at.queued - {number})

    def _wait(self, model: Model, number: int, call: Call) -> Any:
        objects = [self.stage.objects.index(each) for each in call.objects]
        alert = None if call.alert is None else self.stage.objects.index(call.alert)
        if call.signal is not None:
            return model.signal_and_wait(number, self.stage.objects.index(call.signal), objects[0])
        return model.wait(number, objects, call.all, alert)

    def _begin_wait(
        self, at: _Search, number: int, i: int, call: Call, result: tuple[int, int, int] | None
    ) -> Iterator[_Search]:
        model = copy.deepcopy(at.model)
        try:
            got = self._wait(model, number, call)
        except RefusedError:
            if result is not None and result[0] < 0 and result[0] != -errno.ETIMEDOUT:
                yield _Search(at.model, at.done | {(number, i)}, at.queued)
            return
        if got is not BLOCKED:
            if result is None or (result[0] == 0 and _agrees(got, result)):
                yield _Search(model, at.done | {(number, i)}, at.queued)
            return
        timed_out = result is not None and result[0] == -errno.ETIMEDOUT
        if timed_out and (not self.queued or call.deadline == 0):
            yield _Search(at.model, at.done | {(number, i)}, at.queued)
        elif self.queued:
            yield _Search(model, at.done, at.queued | {number})

    def _leave_queue(
        self, at: _Search, number: int, i: int, result: tuple[int, int, int] | None
    ) -> Iterator[_Search]:
        model = copy.deepcopy(at.model)
        if result is not None and result[0] == -errno.ETIMEDOUT:
            if model.cancel(number) is None:
                yield _Search(model, at.done | {(number, i)}, at.queued - {number})
            return
        got = model.result(number)
        if got is not BLOCKED and (result is None or _agrees(got, result)):
            yield _Search(model, at.done | {(number, i)}, at.queued - {number})

    def _instant(
        self, at: _Search, number: int, i: int, call: Call, result: tuple[int, int, int] | None
    ) -> Iterator[_Search]:
        model = copy.deepcopy(at.model)
        try:
            got = _CALLS[call.what](model, number, self.stage, call)
        except RefusedError as refused:
            expected = {"owner": -errno.EPERM, "limit": -errno.EOVERFLOW}.get(refused.args[0])
            if result is not None and result[0] == expected:
                yield _Search(at.model, at.done | {(number, i)}, at.queued)
            return
        if result is None or got is None or result[0] == int(got):
            yield _Search(model, at.done | {(number, i)}, at.queued)

    def _states_agree(self, model: Model) -> bool:
        """Are the objects in the states that the model says?"""
        for number, (_, state) in enumerate(self.ending.objects):
            says = model.objects[number]
            if says.kind == "semaphore":
                agrees = state.count == says.count
            elif says.kind != "mutex":
                agrees = state.signaled == bool(says.count)
            elif says.count > 0:
                agrees = (state.owner, state.count) == (says.owner, says.count)
            else:
                agrees = state.owner is None and state.abandoned == says.abandoned
            if not agrees:
                return False
        return True


def _agrees(got: Any, result: tuple[int, int, int]) -> bool:
    return bool(got.index == result[1] and got.abandoned == (result[2] != 0))


def _number(stage: Stage, call: Call) -> int:
    return stage.objects.index(call.objects[0])


_CALLS: dict[int, Callable[[Model, int, Stage, Call], Any]] = {
    lib.CALL_SEMAPHORE_RELEASE: lambda m, t, s, c: m.release(_number(s, c), c.amount),
    lib.CALL_MUTEX_RELEASE: lambda m, t, s, c: m.unlock(_number(s, c), t),
    lib.CALL_EVENT_SET: lambda m, t, s, c: m.set(_number(s, c)),
    lib.CALL_EVENT_RESET: lambda m, t, s, c: m.reset(_number(s, c)),
    lib.CALL_EVENT_PULSE: lambda m, t, s, c: m.pulse(_number(s, c)),
    lib.CALL_SWEEP: lambda m, t, s, c: None,
}


def initial_model(stage: Stage) -> Model:
    """The model of the objects on a stage, as they were before the program began."""
    model = Model()
    for each in stage.objects:
        state = stage.first_states[each.name]
        if each.kind == "semaphore":
            model.semaphore(state.count, state.maximum)
        elif each.kind == "mutex":
            model.mutex()
        else:
            model.event(manual=each.kind == "manual event", signaled=state.signaled)
    return model


def failures(stage: Stage, found: Exploration) -> list[tuple[str, Outcome]]:
    """The endings that nothing explains: endless ones, those that leave the segment wrong, and
    those that the model contradicts. Of an engine that serves in the order of arrival it is asked
    that it does, unless a mutex need not be fair."""
    queued = Semantics.FIFO in by_name(stage.engine).semantics
    queued = queued and all(each.fair for each in stage.objects)
    wrong = []
    for outcome in found.outcomes:
        if outcome.ending.endless:
            wrong.append(("it never ends", outcome))
        elif outcome.ending.problems:
            wrong.append((", ".join(outcome.ending.problems), outcome))
        elif not Explainer(stage, outcome.ending, queued=queued).explains():
            wrong.append(("the model cannot explain it", outcome))
    return wrong


def in_words(state: ObjectState) -> str:
    """An object's state on one line: what there is to say of it."""
    said = [f"owner {state.owner}"] if state.owner is not None else []
    said += [f"{name} {getattr(state, name)}" for name in ("count", "maximum") if vars(state)[name]]
    said += [name for name in ("abandoned", "signaled") if vars(state)[name]]
    return ", ".join(said) or "0"


def report(name: str, stage: Stage, why: str, outcome: Outcome) -> str:
    """What a failing test prints: the ending, and the line that runs its schedule again."""
    lines = [f"{name}: {why}"]
    for thread, results, state in zip(
        stage.threads, outcome.ending.results, outcome.ending.states, strict=True
    ):
        calls = ", ".join(
            f"{call.text} -> {'no answer' if result is None else result[0]}"
            for call, result in zip(thread.calls, results, strict=True)
        )
        lines.append(f"  {thread.name} {state.name.lower()}: {calls}")
    lines += [f"  {name} {in_words(state)}" for name, state in outcome.ending.objects]
    command = f"python -m tests.interleave --engine {stage.engine} {name}"
    lines.append(f"again: {command} '{to_text(outcome.schedule)}'")
    return "\n".join(lines)


__all__ = [
    "SOME_TIME",
    "Ending",
    "Explainer",
    "Exploration",
    "Object",
    "Outcome",
    "Schedule",
    "explore",
    "explore_far",
    "failures",
    "from_text",
    "in_words",
    "initial_model",
    "look",
    "replay",
    "report",
    "to_text",
]
