"""What a scenario is, and how it is run.

A scenario shows for one entry of the catalogue and one or more engines whether the failure occurs.
It is a function that gets an empty stage (threads under the scheduler, see
``shmsync_tools.stage``), puts objects and threads on it, runs a script of steps, looks, and returns
a ``Finding``:

    @scenario(2, engines=("fsync",))
    def lost_wake_up(stage: ScriptedStage) -> Finding:
        x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
        a = stage.thread("A", wait(x, y, all=True))
        ...
        stage.start()
        stage.say("A takes X, and is held before it tries Y")
        a.until("cas", y)
        ...
        return occurs_if(b.state is State.SLEEPING and stage.words()["X"][0] == 1,
                         "B sleeps although X is signaled", nt="X stays B's: ...")

It may not sleep, ask the clock or depend on chance: the same run gives the same finding every time.
A scenario that needs real processes takes no stage (``stage=False``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from shmsync._traced import lib
from shmsync_tools.stage import Call, Grant, Object, Result, Stage, State, Step, Thread

#: Steps after which no other thread goes on by itself.
WAKES_NOBODY = frozenset({"load", "store", "swap", "cas", "or", "sleep", "read", "poll", "wait"})


class Verdict(Enum):
    """What a cell of the matrix says."""

    OCCURS = "occurs"
    CANNOT_OCCUR = "cannot occur"
    PREVENTED = "prevented by the API"
    NOT_REPRODUCED = "not reproduced"


@dataclass(frozen=True)
class Finding:
    """What a scenario has found: the verdict; what was seen that proves it, in one or two
    sentences; and what NT does in the same situation."""

    verdict: Verdict
    seen: str
    nt: str


@dataclass(frozen=True)
class Note:
    """A remark of the script between two steps: it stands before step number ``before`` of the
    trace."""

    before: int
    text: str


@dataclass(frozen=True)
class Returned:
    """A call has returned: after step number ``after`` of the trace (0: before the first). ``text``
    is what it says to its caller."""

    after: int
    thread: str
    call: int
    text: str


@dataclass(frozen=True)
class Run:
    """One scenario, run: everything that a trace or a drawing needs."""

    number: int
    engine: str
    title: str
    finding: Finding
    #: Names of the threads, in order, with the calls that each makes, as a reader would write
    #: them.
    threads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Names of the objects, in order, with their kinds.
    objects: dict[str, str] = field(default_factory=dict)
    #: The words of each object before the first step.
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: Where each thread stood at the end: "done", "sleeping", "dead", ...
    ended: dict[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()
    returns: tuple[Returned, ...] = ()
    #: Names of the threads by the owner ids that stand in the mutexes' words.
    owners: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A registered scenario."""

    number: int
    engines: tuple[str, ...]
    title: str
    run_on: Callable[[ScriptedStage], Finding] | Callable[[str], Finding]
    stage: bool
    #: What it forces that the API does not do (a forged id, a sweep of a living thread), or None.
    forced: str | None

    def run(self, engine: str) -> Run:
        """Runs it on an engine."""
        if not self.stage:
            finding = self.run_on(engine)  # type: ignore[arg-type]
            return Run(self.number, engine, self.title, finding)
        stage = ScriptedStage(engine)
        with stage:
            finding = self.run_on(stage)  # type: ignore[arg-type]
            return Run(
                self.number,
                engine,
                self.title,
                finding,
                {each.name: tuple(call.text for call in each.calls) for each in stage.threads},
                {each.name: each.kind for each in stage.objects},
                stage.first_words,
                {each.name: each.state.name.lower() for each in stage.threads},
                tuple(stage.trace),
                tuple(stage.notes),
                tuple(stage.returns),
                stage.owners,
            )


class ScriptedStage(Stage):
    """A stage whose script comments on what it does, and that notes what the calls return."""

    def __init__(self, engine: str) -> None:
        super().__init__(engine)
        self.notes: list[Note] = []
        self.returns: list[Returned] = []
        self.owners: dict[int, str] = {}
        self.first_words: dict[str, tuple[int, ...]] = {}
        self._progress: dict[int, tuple[int, bool]] = {}

    def restart(self) -> None:
        super().restart()
        self.notes = []
        self.returns = []
        self._progress = {}
        self.first_words = self.words()
        self._note_returns(self.threads)

    def grant(self, thread: Thread, grant: Grant) -> None:
        before = len(self.trace)
        super().grant(thread, grant)
        alone = all(step.op in WAKES_NOBODY for step in self.trace[before:])
        self._note_returns([thread] if alone else self.threads)

    def say(self, text: str, **instead: str) -> None:
        """A remark for the reader of the trace, about the steps that follow; ``instead`` for the
        engines of these names."""
        self.notes.append(Note(len(self.trace), self.by_engine(text, **instead)))

    def by_engine(self, text: str, **instead: str) -> str:
        """A text, or what stands for it with the engine of this stage."""
        return instead.get(self.engine, text)

    def until_taking(self, thread: Thread, object_: Object) -> None:
        """Holds a thread before it takes an object in a wait for several: fsync takes each by a
        compare-and-swap, esync by a read, handoff stores to each under the gate."""
        thread.until({"handoff": "store", "esync": "read"}.get(self.engine, "cas"), object_)

    def _note_returns(self, threads: Sequence[Thread]) -> None:
        for thread in threads:
            view = thread._view()
            progress = (view.op, view.state in (State.DONE, State.ENDED))
            if self._progress.get(thread.number) != progress:
                self._progress[thread.number] = progress
                self._note_returns_of(thread)

    def _note_returns_of(self, thread: Thread) -> None:
        self.owners[int(lib.sched_owner_id(thread.number))] = thread.name
        self.owners.pop(0, None)
        known = {each.call for each in self.returns if each.thread == thread.name}
        for number in range(min(thread.call + 1, len(thread.calls))):
            if number not in known and thread.results[number].finished:
                text = answer(self, thread.calls[number], thread.results[number])
                self.returns.append(Returned(len(self.trace), thread.name, number, text))


def answer(stage: Stage, call: Call, result: Result) -> str:
    """What a call that has returned says to its caller, for a reader."""
    if result.code == -errno.ETIMEDOUT:
        return "timed out"
    if result.code < 0:
        return errno.errorcode[-result.code]
    if call.what == lib.CALL_READ:
        return _state(stage, call.objects[0].kind, result.state)
    if call.what != lib.CALL_WAIT:
        return "" if call.text == "sweep()" else f"was {result.code}"
    if call.alert is not None and result.index == len(call.objects):
        return f"alerted by {call.alert.name}"
    taken = call.objects if call.all else call.objects[result.index : result.index + 1]
    abandoned = " (abandoned)" if result.abandoned else ""
    return f"took {' and '.join(each.name for each in taken)}{abandoned}"


def _state(stage: Stage, kind: str, state: dict[str, int]) -> str:
    if kind == "semaphore":
        return f"count {state['count']} of {state['maximum']}"
    if kind == "mutex":
        abandoned = ", abandoned" if state["abandoned"] else ""
        return f"owner {stage.owner_name(state['owner'])}, count {state['count']}{abandoned}"
    return "set" if state["signaled"] else "reset"


SCENARIOS: dict[tuple[int, str], Scenario] = {}


def scenario(
    number: int, *, engines: tuple[str, ...], stage: bool = True, forced: str | None = None
) -> Callable[[Callable[..., Finding]], Callable[..., Finding]]:
    """Registers a function as the scenario of a catalogue entry for some engines. The first line of
    its docstring is its title."""

    def register(function: Callable[..., Finding]) -> Callable[..., Finding]:
        title = (function.__doc__ or function.__name__).strip().splitlines()[0]
        for engine in engines:
            assert (number, engine) not in SCENARIOS, f"F{number} on {engine} twice"
            SCENARIOS[number, engine] = Scenario(number, engines, title, function, stage, forced)
        return function

    return register


def occurs_if(failed: bool, seen: str, *, nt: str, otherwise: str = "") -> Finding:
    """The failure occurs if the observation holds; else it cannot occur by this script, and
    ``otherwise`` says what was seen instead."""
    if failed:
        return Finding(Verdict.OCCURS, seen, nt)
    return Finding(Verdict.CANNOT_OCCUR, otherwise or f"not seen: {seen}", nt)
