"""Can the model explain what calls returned that were made at the same time? (Wing and Gong's
search.)

A history is what several threads called, when each call began and returned, and what it returned.
It is explained by an order of instants: each call that does not wait has one, a wait has one at
which it takes or queues, and if it queues and its time is up, one at which it gives up. An instant
lies between the begin and the return of its call, and in that order the model has to give the same
results and to end in the state that was read afterwards. No wait gives up before its time is up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..model import BLOCKED, Model, Object, RefusedError, Result

What = Literal["release", "unlock", "set", "reset", "pulse", "state", "wait"]
#: An object as a tuple: count, owner (a thread's number), abandoned.
State = tuple[int, Any, bool]


@dataclass(frozen=True)
class Call:
    """One call. ``objects`` are numbers; a wait may signal one object before, and have an alert."""

    what: What
    objects: tuple[int, ...]
    n: int = 1
    everything: bool = False
    alert: int | None = None
    signal: int | None = None
    timeout: float = 0

    def __str__(self) -> str:
        names = ", ".join("XYZ"[number] for number in self.objects)
        if self.what != "wait":
            return f"{self.what}({names}{f', {self.n}' if self.what == 'release' else ''})"
        text = (
            f"wait_{'all' if self.everything else 'any'}({names}, timeout={self.timeout * 1e3:g} ms"
        )
        text += f", alert={'XYZ'[self.alert]}" if self.alert is not None else ""
        return text + (f"; signal {'XYZ'[self.signal]} before)" if self.signal is not None else ")")


@dataclass(frozen=True)
class Record:
    """A call that was made. ``result``: the state before, a state, a ``Result``, None for a wait
    whose time was up, or in a word why it was refused."""

    call: Call
    begin: int
    end: int
    result: Any


@dataclass(frozen=True)
class History:
    """What each thread did, and the objects before and after."""

    before: Model
    after: tuple[State, ...]
    threads: tuple[tuple[Record, ...], ...]

    def __str__(self) -> str:
        records = [(r.begin, number, r) for number, many in enumerate(self.threads) for r in many]
        first = min((begin for begin, _, _ in records), default=0)
        lines = [f"before: {states(self.before)}"]
        for begin, number, record in sorted(records, key=lambda each: each[:2]):
            span = f"{(begin - first) / 1e3:9.1f} {(record.end - first) / 1e3:9.1f} us"
            lines.append(f"{span}  {'ABCDEFGH'[number]}  {record.call} -> {record.result}")
        return "\n".join([*lines, f"after: {self.after}"])


def states(model: Model) -> tuple[State, ...]:
    """The objects of a model as tuples."""
    return tuple(map(state_of, model.objects))


def state_of(it: Object) -> State:
    """One of them."""
    return it.count, it.owner, it.abandoned


# ---- the search ----

BEGINNING, SIGNALED, QUEUED = range(3)


@dataclass
class _At:
    """A point of the search: the model, how many calls of each thread are over, and how far the
    next one is."""

    model: Model
    done: list[int]
    stage: list[int]

    def key(self) -> tuple[Any, ...]:
        """What the future depends on."""
        return states(self.model), (*self.model.waits,), (*self.done,), (*self.stage,)

    def copy(self) -> _At:
        """To be changed. What is queued never changes."""
        model = Model(
            [copy.copy(each) for each in self.model.objects],
            dict(self.model.waits),
            dict(self.model.results),
        )
        return _At(model, [*self.done], [*self.stage])


@dataclass
class Explainer:
    """Looks for an order of instants. ``queued``: who waits is served in the order of arrival, by
    whoever signals. Without it a wait is one instant, at which it could or could not take."""

    history: History
    queued: bool = True
    seen: set[tuple[Any, ...]] = field(default_factory=set)

    def explains(self) -> bool:
        """Is there one?"""
        many = len(self.history.threads)
        waiting = [_At(self.history.before, [0] * many, [BEGINNING] * many)]
        while waiting:
            at = waiting.pop()
            if (key := at.key()) in self.seen:
                continue
            self.seen.add(key)
            if self._is_over(at):
                return True
            waiting.extend(reversed([*self._moves(at)]))
        return False

    def _next(self, at: _At, thread: int) -> Record | None:
        records = self.history.threads[thread]
        return records[at.done[thread]] if at.done[thread] < len(records) else None

    def _is_over(self, at: _At) -> bool:
        left = [number for number in range(len(at.done)) if self._next(at, number)]
        return not left and states(at.model) == self.history.after

    def _moves(self, at: _At) -> Iterator[_At]:
        """The next instant: of a call that began before any other call returned that has not had
        its last instant yet. Those that return first are tried first."""
        pending = [(r.end, t, r) for t in range(len(at.done)) if (r := self._next(at, t))]
        horizon = min((end for end, _, _ in pending), default=0)
        for _, thread, record in sorted(pending, key=lambda each: each[:2]):
            if self._earliest(at, thread, record) <= horizon:
                after = at.copy()
                if self._instant(after, thread, record) and self._told(after):
                    yield after

    def _earliest(self, at: _At, thread: int, record: Record) -> int:
        """A wait gives up when its time is up, and not before."""
        patience = int(record.call.timeout * 1e9) if at.stage[thread] == QUEUED else 0
        return record.begin + patience

    def _instant(self, at: _At, thread: int, record: Record) -> bool:
        """Does the thread's next instant agree with what the call returned?"""
        call, stage = record.call, at.stage[thread]
        if call.what != "wait":
            return self._finish(at, thread, _change(at.model, thread, call) == record.result)
        if stage == QUEUED:
            return record.result is None and self._finish(
                at, thread, at.model.cancel(thread) is None
            )
        if stage == BEGINNING and call.signal is not None:
            refused = _signal(at.model, thread, call.signal)
            if refused:
                return self._finish(at, thread, record.result == refused)
            at.stage[thread] = SIGNALED
            return not isinstance(record.result, str)
        return self._wait(at, thread, record)

    def _wait(self, at: _At, thread: int, record: Record) -> bool:
        """Takes or queues; a poll, or any wait without queues, gives up at the same instant."""
        call = record.call
        got = at.model.wait(thread, call.objects, call.everything, call.alert)
        if got != BLOCKED:
            return self._finish(at, thread, got == record.result)
        if call.timeout == 0 or not self.queued:
            at.model.cancel(thread)
            return self._finish(at, thread, record.result is None)
        at.stage[thread] = QUEUED
        return True

    def _told(self, at: _At) -> bool:
        """Those whom the last instant has served must have returned with just that."""
        for thread in [number for number in range(len(at.done)) if number in at.model.results]:
            got, record = at.model.result(thread), self._next(at, thread)
            if record is None or not self._finish(at, thread, got == record.result):
                return False
        return True

    def _finish(self, at: _At, thread: int, agrees: bool) -> bool:
        at.done[thread] += 1
        at.stage[thread] = BEGINNING
        return agrees


def _change(model: Model, thread: int, call: Call) -> object:
    """The result of a call that does not wait, in the model."""
    it = call.objects[0]
    try:
        match call.what:
            case "release":
                return model.release(it, call.n)
            case "unlock":
                return model.unlock(it, thread)
            case "state":
                return state_of(model.objects[it])
            case what:
                return getattr(model, what)(it)
    except RefusedError as refused:
        return refused.args[0]


def _signal(model: Model, thread: int, it: int) -> str | None:
    """The signal of a signal-and-wait; why it was refused, if it was."""
    what: dict[str, What] = {"semaphore": "release", "mutex": "unlock"}
    result = _change(model, thread, Call(what.get(model.objects[it].kind, "set"), (it,)))
    return result if isinstance(result, str) else None


def explains(history: History, *, queued: bool = True) -> bool:
    """Can the model explain it?"""
    return Explainer(history, queued).explains()


def took(index: int, *, abandoned: bool = False, alerted: bool = False) -> Result:
    """The result of a wait."""
    return Result(index, abandoned, alerted)


def thread(*records: tuple[Call, int, int, object]) -> tuple[Record, ...]:
    """A thread of a history that is written by hand."""
    return tuple(Record(*each) for each in records)


def history(before: Model, after: Sequence[State], *threads: tuple[Record, ...]) -> History:
    """A history that is written by hand."""
    return History(before, tuple(after), threads)
