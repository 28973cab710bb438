"""An engine and the model do the same things, one after the other, and must agree about everything.

Two threads of this process make the calls in turn, each call on one of them, none blocking; now and
then one of the threads ends and another takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import shmsync
from shmsync import EventState, Handle, MutexState, NotOwnerError, SemaphoreState
from shmsync.engine import Engine, Semantics

from ..conftest import unique_name
from ..model import BLOCKED, Model, Object, RefusedError, Result
from ..support.callers import Caller, own_id
from ..support.watchdog import eventually

#: What a call raises where the model refuses it.
REFUSALS: dict[str, type[Exception]] = {
    "argument": ValueError,
    "limit": shmsync.LimitError,
    "owner": NotOwnerError,
}


@dataclass(frozen=True)
class Thing:
    """An object: its number in the model, and our handle."""

    number: int
    handle: Any


class Lockstep(RuleBasedStateMachine):
    """Subclasses name the engine."""

    engine: Engine
    semaphores = Bundle[Thing]("semaphores")
    mutexes = Bundle[Thing]("mutexes")
    events = Bundle[Thing]("events")
    things = semaphores | mutexes | events
    callers = st.sampled_from([0, 1])

    def __init__(self) -> None:
        super().__init__()
        name = unique_name(self.engine.name)
        self.namespace = shmsync.Namespace(name, engine=self.engine.name, capacity=64, threads=16)
        self.model = Model()
        self.all: list[Thing] = []
        self.threads = [Caller(), Caller()]
        self.ids = [own_id(self.namespace, thread) for thread in self.threads]

    def teardown(self) -> None:
        """Leaves nothing behind."""
        for thread in self.threads:
            thread.end()
        self.namespace.close()

    def lacks(self, flag: Semantics) -> bool:
        """Is this a declared deviation of the engine?"""
        return not self.engine.semantics & flag

    def both(self, thread: int, ours: Callable[[], object], model: Callable[[], object]) -> object:
        """Makes a call on both sides. The value, or None where both refuse."""
        try:
            expected = model()
        except RefusedError as refused:
            with pytest.raises(REFUSALS[refused.args[0]]):
                self.threads[thread].do(ours)
            return None
        value = self.threads[thread].do(ours)
        assert value == expected
        return value

    # ---- creating: a few, so that the calls meet ----

    def add(self, handle: Handle, number: int) -> Thing:
        """A pair."""
        self.all.append(Thing(number, handle))
        return self.all[-1]

    @precondition(lambda self: len(self.all) < 5)
    @rule(target=semaphores, initial=st.integers(-1, 3), maximum=st.integers(0, 3))
    def create_semaphore(self, initial: int, maximum: int) -> Thing | MultipleResults[Thing]:
        """Or not, if the counts do not fit."""
        try:
            number = self.model.semaphore(initial, maximum)
        except RefusedError:
            with pytest.raises(ValueError, match="must be"):
                self.namespace.semaphore(None, initial, maximum=maximum)
            return multiple()
        return self.add(self.namespace.semaphore(None, initial, maximum=maximum), number)

    @precondition(lambda self: len(self.all) < 5)
    @rule(target=mutexes, thread=callers, owned=st.booleans())
    def create_mutex(self, thread: int, owned: bool) -> Thing:
        """Free, or the thread's."""
        mutex = self.threads[thread].do(lambda: self.namespace.mutex(owned=owned))
        return self.add(mutex, self.model.mutex(thread if owned else None))

    @precondition(lambda self: len(self.all) < 5)
    @rule(target=events, manual=st.booleans(), signaled=st.booleans())
    def create_event(self, manual: bool, signaled: bool) -> Thing:
        """Of either kind."""
        event = self.namespace.event(manual_reset=manual, signaled=signaled)
        return self.add(event, self.model.event(manual=manual, signaled=signaled))

    # ---- changing ----

    @rule(thread=callers, thing=semaphores, n=st.integers(-1, 3) | st.just(2**32))
    def release(self, thread: int, thing: Thing, n: int) -> None:
        """Semaphore.release."""
        self.both(
            thread, lambda: thing.handle.release(n), lambda: self.model.release(thing.number, n)
        )

    @rule(thread=callers, thing=mutexes)
    def unlock(self, thread: int, thing: Thing) -> None:
        """Mutex.release."""
        self.both(thread, thing.handle.release, lambda: self.model.unlock(thing.number, thread))

    @rule(thread=callers, thing=events, call=st.sampled_from(["set", "reset", "pulse"]))
    def change(self, thread: int, thing: Thing, call: str) -> None:
        """Event.set, clear, pulse."""
        is_set = self.model.objects[thing.number].count > 0
        if call == "pulse" and is_set and self.lacks(Semantics.PULSE_RESETS):
            return
        ours = getattr(thing.handle, "clear" if call == "reset" else call)
        self.both(thread, ours, lambda: getattr(self.model, call)(thing.number))

    # ---- waiting ----

    def poll(self, thread: int, *arguments: Any) -> Result | None:
        """A wait in the model whose time is up at once."""
        return self.ended(thread, self.model.wait(thread, *arguments))

    def ended(self, thread: int, result: Result) -> Result | None:
        """The result, or None for one that is still blocked."""
        return self.model.cancel(thread) if result == BLOCKED else result

    @rule(thread=callers, thing=things)
    def acquire(self, thread: int, thing: Thing) -> None:
        """A poll of one object by its own method."""
        result = self.poll(thread, [thing.number])
        expected = 0 if result is None else 2 if result.abandoned else 1
        if isinstance(thing.handle, shmsync.Event):
            assert self.threads[thread].do(lambda: thing.handle.wait(0)) is bool(expected)
        else:
            assert self.threads[thread].do(lambda: thing.handle.acquire(False)) == expected

    @rule(
        thread=callers,
        waited=st.lists(things, max_size=3),
        everything=st.booleans(),
        alert=st.none() | events,
    )
    def wait(self, thread: int, waited: list[Thing], everything: bool, alert: Thing | None) -> None:
        """A poll of several."""
        if self.deviates(thread, waited, everything, alert):
            return
        wait = shmsync.wait_all if everything else shmsync.wait_any
        handles = [thing.handle for thing in waited]
        alert_handle, alert_number = (alert.handle, alert.number) if alert else (None, None)

        def ours() -> Result | None:
            result = wait(handles, 0, alert=alert_handle)
            if result is None:
                return None
            assert result.handle is [*handles, alert_handle][result.index]
            return Result(result.index, bool(result.abandoned), result.alerted)

        numbers = [thing.number for thing in waited]
        self.both(thread, ours, lambda: self.poll(thread, numbers, everything, alert_number))

    def deviates(
        self, thread: int, waited: list[Thing], everything: bool, alert: Thing | None
    ) -> bool:
        """Would the engine answer otherwise by declaration?"""
        objects = [self.model.objects[thing.number] for thing in waited]
        several = everything and len(objects) > 1
        if several and self.lacks(Semantics.ABANDONED_IN_WAIT_ALL):
            return any(it.abandoned for it in objects)
        if several and self.lacks(Semantics.OWN_MUTEX_IN_WAIT_ALL):
            mine = [it for it in objects if it.kind == "mutex" and it.owner == thread]
            return bool(mine) or self.prefers_alert(thread, objects, alert)
        return not several and self.prefers_alert(thread, objects, alert)

    def prefers_alert(self, thread: int, objects: list[Object], alert: Thing | None) -> bool:
        """Are an object and the alert signaled, and is the alert looked at first?"""
        if alert is None or not self.lacks(Semantics.ALERT_LAST):
            return False
        signaled = any(it.signaled_for(thread) for it in objects)
        return signaled and self.model.objects[alert.number].count > 0

    @rule(thread=callers, signal=things, waited=things)
    def signal_and_wait(self, thread: int, signal: Thing, waited: Thing) -> None:
        """signal_and_wait, as a poll."""

        def ours() -> Result | None:
            result = shmsync.signal_and_wait(signal.handle, waited.handle, 0)
            return None if result is None else Result(result.index, bool(result.abandoned))

        def model() -> Result | None:
            numbers = signal.number, waited.number
            return self.ended(thread, self.model.signal_and_wait(thread, *numbers))

        self.both(thread, ours, model)

    # ---- dying ----

    @rule(thread=callers)
    def end_thread(self, thread: int) -> None:
        """The thread ends, and another one starts. Engines may learn of it a little later."""
        self.threads[thread].end()
        self.model.die(thread)
        eventually(lambda: all(map(self.agrees, self.all)), "the news of a death")
        self.threads[thread] = Caller()
        self.ids[thread] = own_id(self.namespace, self.threads[thread])

    # ---- agreeing ----

    def state(self, it: Object) -> object:
        """An object of the model as its handle's ``state()``."""
        match it.kind:
            case "semaphore":
                return SemaphoreState(it.count, it.maximum)
            case "mutex":
                owner = 0 if it.owner is None else self.ids[int(str(it.owner))]
                return MutexState(it.count, owner, it.abandoned)
            case kind:
                return EventState(kind == "manual", bool(it.count))

    def agrees(self, thing: Thing) -> bool:
        """Is the object in the state that the model has?"""
        return bool(thing.handle.state() == self.state(self.model.objects[thing.number]))

    @invariant()
    def all_objects_are_as_in_the_model(self) -> None:
        """After every step."""
        for thing in self.all:
            assert thing.handle.state() == self.state(self.model.objects[thing.number])


@pytest.mark.seconds(300)
def test_engine_and_model_agree_about_every_call(engine: Engine) -> None:
    machine = type("Lockstep", (Lockstep,), {"engine": engine})
    profile = settings(max_examples=100, stateful_step_count=50, deadline=None, print_blob=True)
    run_state_machine_as_test(machine, settings=profile)
