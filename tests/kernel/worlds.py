"""Where a program can be run: the model, the kernel, an engine. And how two runs are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..model import BLOCKED, Model, RefusedError, Result
from .differences import Difference, difference
from .sequences import ALERT, QUEUED, TIMEOUT, Call, Program, Recorded, Step, Thing

#: The kernel's word for what the model refuses.
ERRNOS = {"argument": "EINVAL", "limit": "EOVERFLOW", "owner": "EPERM"}


class World(Protocol):
    """The objects of one program, and its callers."""

    def do(self, call: Call) -> Step:
        """Makes a call. Returns when every wait that it has ended has returned, and every other one
        sleeps."""


def words_of(result: Result) -> str:
    """A result in the record's words."""
    if result == BLOCKED:
        return QUEUED
    if result.alerted:
        return ALERT
    return f"{result.index} abandoned" if result.abandoned else str(result.index)


class ModelWorld:
    """The model."""

    def __init__(self, things: Sequence[Thing]) -> None:
        self.model = Model()
        self.deadlines: dict[str, int | None] = {}  # of the waits that go on
        for thing in things:
            self._make(thing)

    def _make(self, thing: Thing, model: Model | None = None) -> None:
        model = model or self.model
        match thing.kind:
            case "sem":
                model.semaphore(thing.count, thing.maximum)
            case "mutex":
                model.mutex(thing.owner or None, thing.count)
            case kind:
                model.event(manual=kind == "manual", signaled=bool(thing.count))

    def do(self, call: Call) -> Step:
        """One instant."""
        try:
            answer = self._answer(call)
        except RefusedError as refused:
            answer = ERRNOS[refused.args[0]]
        return Step(call, answer, self._woken(call), tuple(self.states()))

    def _answer(self, call: Call) -> str:
        model, number = self.model, call.objects[0] if call.objects else 0
        match call.what:
            case "make":
                assert call.thing
                self._make(call.thing, Model())
            case "release":
                return str(model.release(number, call.n))
            case "unlock":
                return str(model.unlock(number, call.letter))
            case "kill":
                model.kill(number, call.letter)
            case "set" | "reset" | "pulse":
                return str(int(getattr(model, call.what)(number)))
            case "any" | "all":
                return self._wait(call)
        return "ok"

    def _wait(self, call: Call) -> str:
        result = self.model.wait(call.letter, call.objects, call.what == "all", call.alert)
        if result == BLOCKED and call.polls:
            self.model.cancel(call.letter)
            return TIMEOUT
        if result == BLOCKED:
            self.deadlines[call.letter] = call.by
        return words_of(result)

    def _woken(self, call: Call) -> dict[str, str]:
        woken = {}
        for letter, by in [*self.deadlines.items()]:
            if letter not in self.model.waits:
                woken[letter] = words_of(self.model.result(letter))
            elif call.what == "interrupt" and call.letter == letter:
                self.model.cancel(letter)
                woken[letter] = "EINTR"
            elif call.what == "clock" and by is not None and call.by is not None and by <= call.by:
                self.model.cancel(letter)
                woken[letter] = TIMEOUT
            else:
                continue
            del self.deadlines[letter]
        return woken

    def states(self) -> Iterator[str]:
        """The objects, in the record's words."""
        for it in self.model.objects:
            if it.kind != "mutex":
                yield str(it.count)
            elif it.count:
                yield f"{it.owner}*{it.count}"
            else:
                yield "abandoned" if it.abandoned else "free"


@dataclass(frozen=True)
class Disagreement:
    """A step at which a world does not do what the kernel did."""

    program: Program
    number: int
    kernel: Step
    other: Step

    def __str__(self) -> str:
        calls = "\n".join(f"    {call}" for call in self.program.calls[: self.number])
        things = ", ".join(str(thing) for thing in self.program.things)
        return (
            f"{self.program.seed}, call {self.number}: on {things}\n{calls}\n"
            f"  kernel: {self.kernel}\n  other:  {self.other}"
        )


class NoSuchCallError(Exception):
    """The world cannot make this call; ``args[0]`` says why."""


@dataclass
class Account:
    """What comparing has shown besides: how many steps were compared, how often a difference was
    one that is known, which calls a world could not make, and how many came after those and could
    not be made any more."""

    steps: int = 0
    explained: Counter[Difference] = field(default_factory=Counter)
    no_such_call: Counter[str] = field(default_factory=Counter)
    cut: int = 0


def compare(recorded: Recorded, world: World, account: Account) -> Disagreement | None:
    """Makes the recorded calls in a world: the first step at which it does otherwise.

    A call that it cannot make is left out if it changed nothing in the kernel, as most do that are
    refused. Else the program ends there."""
    before = initial(recorded.program.things)
    for number, step in enumerate(recorded.steps):
        changed = step.states != before or step.woken or step.answer == QUEUED
        before = step.states
        try:
            other = world.do(step.call)
        except NoSuchCallError as error:
            account.no_such_call[error.args[0]] += 1
            if changed:
                account.cut += len(recorded.steps) - number - 1
                return None
            continue
        account.steps += 1
        if other == step:
            continue
        reason = difference(step, other)
        if reason is None:
            return Disagreement(recorded.program, number, step, other)
        account.explained[reason] += 1
    return None


def initial(things: Sequence[Thing]) -> tuple[str, ...]:
    """The states of objects that were just made."""
    return tuple(ModelWorld(things).states())
