"""The model itself: against the kernel's selftest, the wineserver's answers, and its own
invariants.

(The comments name the cases of tools/testing/selftests/drivers/ntsync/ntsync.c.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from .model import BLOCKED, COUNT_MAX, RECURSION_MAX, Model, Object, RefusedError, Result
from .support.oracle import Interpreter
from .support.oracle_notes import NOT_FOR_THE_MODEL, NOT_RUN, Scenario, scenarios
from .support.oracle_worlds import ModelWorld
from .support.watchdog import Seen


def poll(
    model: Model, thread: object, *objects: int, all: bool = False, alert: int | None = None
) -> Result | None:
    """A wait whose time is up at once."""
    result = model.wait(thread, objects, all, alert)
    return model.cancel(thread) if result == BLOCKED else result


def state(model: Model, number: int) -> tuple[object, ...]:
    """(count, maximum), (count, owner) or (signaled,)."""
    it = model.objects[number]
    if it.kind == "semaphore":
        return it.count, it.maximum
    return (it.count, it.owner) if it.kind == "mutex" else (it.count,)


# ---- the kernel's selftest ----


def test_semaphore_counts_and_never_exceeds_its_maximum() -> None:
    model = Model()
    with pytest.raises(RefusedError, match="argument"):
        model.semaphore(3, 2)
    sem = model.semaphore(2, 2)
    with pytest.raises(RefusedError, match="argument"):
        model.release(sem, 0)
    with pytest.raises(RefusedError, match="limit"):
        model.release(sem)
    assert [poll(model, 123, sem) for _ in range(3)] == [Result(0), Result(0), None]
    with pytest.raises(RefusedError, match="limit"):
        model.release(sem, 3)
    assert model.release(sem, 2) == 0
    assert poll(model, 123, sem) == poll(model, 123, sem) == Result(0)
    assert model.release(sem) == 0
    with pytest.raises(RefusedError, match="limit"):
        model.release(sem, 2**32 - 1)
    assert state(model, sem) == (1, 2)


def test_mutex_counts_recursion_has_an_owner_and_reports_a_dead_one_once() -> None:
    model = Model()
    mutex = model.mutex(123, 2)
    for nobody in (None, 456):
        with pytest.raises(RefusedError, match="owner"):
            model.unlock(mutex, nobody)
    assert state(model, mutex) == (2, 123)
    assert [model.unlock(mutex, 123), model.unlock(mutex, 123)] == [2, 1]
    with pytest.raises(RefusedError, match="owner"):
        model.unlock(mutex, 123)
    assert poll(model, 456, mutex) == poll(model, 456, mutex) == Result(0)
    assert model.unlock(mutex, 456) == 2
    assert poll(model, 123, mutex) is None
    for nobody in (None, 123):
        with pytest.raises(RefusedError, match="owner"):
            model.kill(mutex, nobody)
    for owner in (456, 123):
        model.kill(mutex, owner)
        assert model.objects[mutex] == Object("mutex", 0, abandoned=True)
        assert poll(model, 123, mutex) == Result(0, abandoned=True)
        assert model.objects[mutex] == Object("mutex", 1, owner=123)


def test_mutex_at_its_recursion_limit_is_not_signaled() -> None:
    model = Model()
    mutex = model.mutex(123, RECURSION_MAX - 1)
    assert poll(model, 123, mutex) == Result(0)
    assert poll(model, 123, mutex) is None
    assert state(model, mutex) == (RECURSION_MAX, 123)


@pytest.mark.parametrize("manual", [False, True])
def test_event_is_consumed_only_if_it_resets_itself(manual: bool) -> None:
    model = Model()
    event = model.event(manual=manual, signaled=True)
    assert model.set(event) is True
    assert poll(model, 123, event) == Result(0)
    assert model.reset(event) is manual
    assert poll(model, 123, event) is None
    assert model.set(event) is False
    assert [model.pulse(event), model.pulse(event)] == [True, False]
    assert state(model, event) == (0,)


def test_wait_any_takes_the_lowest_signaled_index_and_nothing_else() -> None:
    model = Model()
    sem, mutex = model.semaphore(2, 3), model.mutex()
    polls = [poll(model, 123, sem, mutex) for _ in range(3)]
    assert polls == [Result(0), Result(0), Result(1)]
    model.release(sem)
    assert [poll(model, 123, sem, mutex) for _ in range(2)] == [Result(0), Result(1)]
    assert state(model, mutex) == (2, 123)
    assert poll(model, 456, sem, mutex) is None
    model.kill(mutex, 123)
    assert poll(model, 456, sem, mutex) == Result(1, abandoned=True)
    assert poll(model, 456, sem, mutex) == Result(1)
    model.release(sem, 2)
    assert poll(model, 123, *[sem] * 64) == Result(0)
    assert state(model, sem) == (1, 3)
    for wrong in ([], [sem] * 65):
        with pytest.raises(RefusedError, match="argument"):
            model.wait(123, wrong)


def test_wait_all_takes_everything_or_nothing() -> None:
    model = Model()
    sem, mutex = model.semaphore(2, 3), model.mutex()
    assert poll(model, 123, sem, mutex, all=True) == Result(0)
    assert poll(model, 456, sem, mutex, all=True) is None
    assert (state(model, sem), state(model, mutex)) == ((1, 3), (1, 123))
    assert poll(model, 123, sem, mutex, all=True) == Result(0)
    assert poll(model, 123, sem, mutex, all=True) is None
    assert state(model, mutex) == (2, 123)
    model.release(sem, 3)
    model.kill(mutex, 123)
    assert poll(model, 123, sem, mutex, all=True) == Result(0, abandoned=True)
    event = model.event(manual=True, signaled=True)
    assert poll(model, 123, sem, event, all=True) == Result(0)
    assert (state(model, sem), state(model, event)) == ((1, 3), (1,))
    for duplicate in ([sem, sem], [sem, event]):
        with pytest.raises(RefusedError, match="argument"):
            model.wait(123, duplicate, all=True, alert=event)


def test_queued_wait_any_is_served_inside_the_call_that_signals() -> None:
    model = Model()
    sem, mutex = model.semaphore(0, 3), model.mutex(123, 2)
    assert model.wait(456, [sem, mutex]) == BLOCKED
    model.release(sem)
    assert (state(model, sem), model.result(456)) == ((0, 3), Result(0))
    assert model.wait(456, [sem, mutex]) == BLOCKED
    model.unlock(mutex, 123)
    assert model.result(456) == BLOCKED
    model.unlock(mutex, 123)
    assert (state(model, mutex), model.result(456)) == ((1, 456), Result(1))


def test_queued_wait_all_reserves_nothing_and_completes_at_one_instant() -> None:
    model = Model()
    sem, mutex = model.semaphore(0, 3), model.mutex(123)
    manual, auto = (model.event(manual=kind, signaled=True) for kind in (True, False))
    assert model.wait(456, [sem, mutex, manual, auto], all=True) == BLOCKED
    model.release(sem)
    assert poll(model, 123, sem) == Result(0)
    model.unlock(mutex, 123)
    assert state(model, mutex) == (0, None)
    model.reset(manual)
    model.release(sem, 2)
    model.reset(auto)
    model.set(manual)
    assert model.result(456) == BLOCKED
    model.set(auto)
    assert model.result(456) == Result(0)
    states = [state(model, each) for each in (sem, mutex, manual, auto)]
    assert states == [(1, 3), (1, 456), (1,), (0,)]


@pytest.mark.parametrize("all", [False, True])
def test_alert_is_tried_last_and_ends_a_queued_wait(all: bool) -> None:
    model = Model()
    first, second = model.semaphore(1, 2), model.semaphore(1, 2)
    alert = model.event(manual=False, signaled=True)
    assert poll(model, 1, first, second, all=all, alert=alert) == Result(0)
    model.objects[first].count = model.objects[second].count = 0
    assert poll(model, 1, first, second, all=all, alert=alert) == Result(2, alerted=True)
    assert model.wait(1, [first, second], all, alert) == BLOCKED
    model.set(alert)
    assert model.result(1) == Result(2, alerted=True)
    assert state(model, alert) == (0,)


# ---- what the selftest does not cover ----


def test_complete_wait_all_goes_before_an_older_wait_any() -> None:
    model = Model()
    event, open_ = model.event(manual=False), model.event(manual=True, signaled=True)
    model.wait("any", [event])
    model.wait("all", [event, open_], all=True)
    model.set(event)
    assert (model.result("all"), model.result("any")) == (Result(0), BLOCKED)


def test_pulse_releases_all_who_wait_on_a_manual_event_and_one_on_an_auto_event() -> None:
    for manual, released in ((True, 3), (False, 1)):
        model = Model()
        event = model.event(manual=manual)
        for thread in range(3):
            model.wait(thread, [event])
        assert model.pulse(event) is False
        results = [model.result(thread) for thread in range(3)]
        assert results == [Result(0)] * released + [BLOCKED] * (3 - released)
        assert state(model, event) == (0,)


def test_dead_thread_waits_no_more_and_its_mutexes_go_to_the_next_waiters() -> None:
    model = Model()
    mutex, sem = model.mutex("dead", 3), model.semaphore(0)
    model.wait("dead", [sem])
    model.wait("next", [sem, mutex])
    model.die("dead")
    assert model.result("next") == Result(1, abandoned=True)
    assert model.release(sem) == 0
    assert state(model, sem) == (1, COUNT_MAX)


def test_result_that_is_there_wins_over_the_timeout() -> None:
    model = Model()
    sem = model.semaphore(0)
    model.wait(1, [sem])
    model.release(sem)
    assert model.cancel(1) == Result(0)
    assert state(model, sem) == (0, COUNT_MAX)


@pytest.mark.parametrize(
    "scenario",
    [s for s in scenarios() if s.case not in NOT_RUN and s.case not in NOT_FOR_THE_MODEL],
    ids=str,
)
def test_model_answers_as_the_wineserver_did(scenario: Scenario) -> None:
    scenario.replay(Interpreter(ModelWorld()))


# ---- invariants ----

THREADS = range(4)
OBJECTS = range(5)


class AnyHistory(RuleBasedStateMachine):
    """Four threads do anything that four threads can do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.sem = self.model.semaphore(1, 3)
        self.mutexes = [self.model.mutex(), self.model.mutex()]
        self.events = [self.model.event(manual=manual) for manual in (False, True)]
        self.tokens = self.before = 1

    def free(self, thread: int) -> bool:
        """Threads that wait make no calls."""
        return thread not in self.model.waits

    @rule(
        thread=st.sampled_from(THREADS),
        objects=st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=3),
        all=st.booleans(),
        alert=st.none() | st.sampled_from([3, 4]),
        stay=st.booleans(),
    )
    def wait(
        self, thread: int, objects: list[int], all: bool, alert: int | None, stay: bool
    ) -> None:
        """A wait that stays queued, or a poll."""
        before = copy.deepcopy(self.model)
        if not self.free(thread):
            return
        try:
            result: Result | None = self.model.wait(thread, objects, all, alert)
        except RefusedError:
            assert self.model == before, "an error changes nothing"
            return
        if result == BLOCKED and not stay:
            assert self.model.cancel(thread) is None
            assert self.model == before, "a poll that fails changes nothing"
        self.count(result if result != BLOCKED else None, objects, all)

    @rule(n=st.integers(1, 3))
    def release(self, n: int) -> None:
        """Releases the semaphore."""
        if self.tokens + n > 3:
            with pytest.raises(RefusedError):
                self.model.release(self.sem, n)
        else:
            self.tokens += n
            assert self.served(lambda: self.model.release(self.sem, n)) == self.before

    @rule(thread=st.sampled_from(THREADS), which=st.sampled_from([0, 1]))
    def unlock(self, thread: int, which: int) -> None:
        """Releases a mutex, if its owner is free to do it."""
        mutex = self.mutexes[which]
        if self.free(thread) and self.model.objects[mutex].owner == thread:
            before = self.model.objects[mutex].count
            assert self.served(lambda: self.model.unlock(mutex, thread)) == before

    @rule(call=st.sampled_from(["set", "reset", "pulse"]), which=st.sampled_from([0, 1]))
    def change(self, call: str, which: int) -> None:
        """Changes an event."""
        event = self.events[which]
        before = self.model.objects[event].count
        assert self.served(lambda: getattr(self.model, call)(event)) == before

    @rule(thread=st.sampled_from(THREADS))
    def die(self, thread: int) -> None:
        """A thread ends; a new one takes its number."""
        self.served(lambda: self.model.die(thread))
        assert all(self.model.objects[mutex].owner != thread for mutex in self.mutexes)

    @precondition(lambda self: self.model.waits)
    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        """A queued wait ends."""
        thread = data.draw(st.sampled_from(sorted(self.model.waits, key=str)))
        assert self.model.cancel(thread) is None

    def served(self, call: Callable[[], Seen]) -> Seen:
        """Makes a call, and counts what the waits took that it ended."""
        self.before = self.model.objects[self.sem].count
        waits = dict(self.model.waits)
        value = call()
        for thread in [*self.model.results]:
            self.count(self.model.result(thread), waits[thread].objects, waits[thread].all)
        return value

    def count(self, result: Result | None, objects: list[int], all: bool) -> None:
        """What a wait took, it took from the semaphore exactly once."""
        took = result is not None and not result.alerted
        named = objects if all else objects[result.index : result.index + 1] if result else []
        self.tokens -= took and self.sem in named

    @invariant()
    def tokens_are_neither_lost_nor_minted(self) -> None:
        """And counts keep within their limits."""
        assert self.model.objects[self.sem].count == self.tokens
        assert 0 <= self.tokens <= 3

    @invariant()
    def no_signaled_object_has_a_waiter_that_could_take_it(self) -> None:
        """Otherwise somebody sleeps beside what he waits for."""
        for thread, wait in self.model.waits.items():
            signaled = [self.model.objects[o].signaled_for(thread) for o in wait.objects]
            assert not (all(signaled) if wait.all else any(signaled))
            assert wait.alert is None or not self.model.objects[wait.alert].signaled_for(thread)

    @invariant()
    def mutex_is_owned_exactly_if_it_is_counted(self) -> None:
        """And an owned one is not abandoned."""
        for mutex in self.mutexes:
            it = self.model.objects[mutex]
            assert (it.owner is not None) == (it.count > 0)
            assert not (it.owner is not None and it.abandoned)


TestAnyHistory = AnyHistory.TestCase
