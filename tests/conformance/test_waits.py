"""Waits on several objects, signal_and_wait, results and arguments: what the other suites leave
out."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import shmsync
from shmsync import (
    ClosedError,
    KindError,
    LimitError,
    Mutex,
    Namespace,
    NotOwnerError,
    SemaphoreState,
    WaitResult,
    signal_and_wait,
    wait_all,
    wait_any,
)
from shmsync.engine import Semantics

from ..conftest import Settles, StartActors, unique_name
from ..support.peek import until_waiting
from .needs import needs

BOTH = pytest.mark.parametrize("wait", [wait_any, wait_all])


def index(result: WaitResult | None) -> int:
    """Of a wait that should have succeeded."""
    assert result is not None
    return result.index


# ---- many objects ----


def test_wait_any_on_64_objects_finds_each_of_them(ns: Namespace) -> None:
    events = [ns.event() for _ in range(64)]
    for number, event in enumerate(events):
        event.set()
        assert index(wait_any(events, 0)) == number
        assert wait_any(events, 0) is None


def test_wait_all_on_64_objects_needs_each_of_them(ns: Namespace) -> None:
    semaphores = [ns.semaphore(None, 1) for _ in range(64)]
    for semaphore in semaphores:
        semaphore.acquire()
        assert wait_all(semaphores, 0) is None
        semaphore.release()
    assert index(wait_all(semaphores, 0)) == 0
    assert [semaphore.state().count for semaphore in semaphores] == [0] * 64


@pytest.mark.parametrize("everything", [False, True])
def test_sleeping_on_64_objects_and_an_alert_ends_with_any_of_them(
    ns: Namespace, start: StartActors, everything: bool
) -> None:
    events = [ns.event(str(number), signaled=everything) for number in range(64)]
    alert = ns.event("alert")
    [actor] = start("waiter")
    keys = [str(number) for number in range(64)]
    for key in [*keys, "alert"]:
        actor.make(key, "event", key)
    for number in (0, 31, 63):
        events[number].clear()
        actor.start("wait", keys, everything, None, "alert")
        actor.until_blocked()
        events[number].set()
        expected = 0 if everything else number
        assert actor.finish()["index"] == expected
        for event in events:
            event.set() if everything else event.clear()
    events[5].clear()
    actor.start("wait", keys, everything, None, "alert")
    actor.until_blocked()
    alert.set()
    assert actor.finish()["alerted"]


def test_waiting_for_one_of_several_wakes_for_each_of_them(
    ns: Namespace, start: StartActors
) -> None:
    semaphore, auto, manual = ns.semaphore("s", 0), ns.event("a"), ns.event("m", manual_reset=True)
    [actor] = start("waiter")
    for kind, key in (("semaphore", "s"), ("event", "a"), ("event", "m")):
        actor.make(key, kind, key)
    releases: list[Callable[[], object]] = [semaphore.release, auto.set, manual.set]
    for number, signals in enumerate(releases):
        actor.start("wait", ["s", "a", "m"], False, None, None)
        until_waiting(semaphore, 1)
        signals()
        assert actor.finish()["index"] == number


def test_all_waiters_of_a_manual_reset_event_pass(ns: Namespace, start: StartActors) -> None:
    event = ns.event("e", manual_reset=True)
    actors = start("A", "B", "C")
    for actor in actors:
        actor.make("e", "event", "e")
        actor.start("method", "e", "wait")
    until_waiting(event, 3)
    event.set()
    assert [actor.finish() for actor in actors] == [True] * 3


def test_release_of_n_lets_n_waiters_pass(
    ns: Namespace, start: StartActors, settles: Settles
) -> None:
    semaphore = ns.semaphore("s", 0)
    actors = start("A", "B", "C")
    for actor in actors:
        actor.make("s", "semaphore", "s")
        actor.start("method", "s", "acquire")
    until_waiting(semaphore, 3)
    semaphore.release(2)
    settles(lambda: semaphore.state().count == 0)
    until_waiting(semaphore, 1)
    semaphore.release(3)
    assert all(actor.finish() for actor in actors)
    assert semaphore.state().count == 2


@needs(Semantics.FIFO)
def test_waiters_are_served_in_the_order_of_their_arrival(
    ns: Namespace, start: StartActors
) -> None:
    semaphore = ns.semaphore("s", 0)
    actors = start("A", "B", "C")
    for number, actor in enumerate(actors):
        actor.make("s", "semaphore", "s")
        actor.start("method", "s", "acquire")
        until_waiting(semaphore, number + 1)
    for number, actor in enumerate(actors):
        semaphore.release()
        assert actor.finish()
        until_waiting(semaphore, 2 - number)


def skip_where_stopping_ends_a_wait(ns: Namespace) -> None:
    """The kernel's driver takes a thread that is stopped off its queues, and puts it back at their
    ends when it continues: seen on 7.3.4."""
    if ns.engine == "ntsync":
        pytest.skip("a stopped thread waits for nothing")


@needs(Semantics.NO_BARGING)
def test_what_a_waiter_was_woken_for_cannot_be_taken_by_a_newcomer(
    ns: Namespace, start: StartActors
) -> None:
    """The waiter's process is stopped, so it cannot have run; it owns the token all the same."""
    skip_where_stopping_ends_a_wait(ns)
    semaphore = ns.semaphore("s", 0)
    [actor] = start("waiter")
    actor.make("s", "semaphore", "s")
    actor.start("method", "s", "acquire")
    actor.until_blocked()
    os.kill(actor.pid, signal.SIGSTOP)
    semaphore.release()
    assert not semaphore.acquire(timeout=0)
    os.kill(actor.pid, signal.SIGCONT)
    assert actor.finish()


@needs(Semantics.EXACT_PULSE)
def test_set_and_clear_at_once_releases_who_waits(ns: Namespace, start: StartActors) -> None:
    skip_where_stopping_ends_a_wait(ns)
    event = ns.event("e", manual_reset=True)
    [actor] = start("waiter")
    actor.make("e", "event", "e")
    actor.start("method", "e", "wait")
    actor.until_blocked()
    os.kill(actor.pid, signal.SIGSTOP)
    event.set()
    event.clear()
    os.kill(actor.pid, signal.SIGCONT)
    assert actor.finish() is True


# ---- results ----


def test_result_names_the_handle_and_is_true_at_index_0(ns: Namespace) -> None:
    first, second = ns.semaphore(None, 1), ns.event(signaled=True)
    result = wait_any([first, second], 0)
    assert result
    assert (result.index, result.handle, result.abandoned) == (0, first, False)
    result = wait_any([first, second], 0)
    assert result
    assert (result.index, result.handle) == (1, second)
    assert wait_any([first, second], 0) is None


def test_result_as_context_manager_gives_back_what_was_taken(ns: Namespace) -> None:
    mutex, semaphore = ns.mutex(), ns.semaphore(None, 2)
    auto, manual = ns.event(signaled=True), ns.event(manual_reset=True, signaled=True)
    result = wait_all([mutex, semaphore, auto, manual], 0)
    assert result
    with result as entered:
        assert entered is result
        assert (mutex.state().count, semaphore.state().count, auto.is_set()) == (1, 1, False)
    assert (mutex.state().count, semaphore.state().count) == (0, 2)
    assert (auto.is_set(), manual.is_set()) == (False, True)


def test_result_of_a_wait_any_gives_back_only_what_it_took(ns: Namespace) -> None:
    semaphore, mutex = ns.semaphore(None, 0), ns.mutex()
    result = wait_any([semaphore, mutex], 0)
    assert result
    with pytest.raises(KeyError), result:
        raise KeyError
    assert (semaphore.state().count, mutex.state().count) == (0, 0)


def test_result_of_an_alert_gives_nothing_back(ns: Namespace) -> None:
    semaphore, alert = ns.semaphore(None, 0), ns.event(signaled=True)
    result = wait_any([semaphore], 0, alert=alert)
    assert result
    with result:
        assert result.alerted
    assert (semaphore.state().count, alert.is_set()) == (0, False)


# ---- duplicates, one object twice ----


def test_wait_any_may_name_an_object_twice(ns: Namespace) -> None:
    mutex = ns.mutex()
    assert index(wait_any([mutex, mutex], 0)) == 0
    assert mutex.state().count == 1


@needs(Semantics.OWN_MUTEX_IN_WAIT_ALL)
def test_wait_all_of_a_mutex_that_is_mine_takes_it_once_more(ns: Namespace) -> None:
    mutex, semaphore = ns.mutex(owned=True), ns.semaphore(None, 1)
    assert index(wait_all([mutex, semaphore], 0)) == 0
    assert (mutex.state().count, semaphore.state().count) == (2, 0)


# ---- timeouts ----


@BOTH
@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_wait_without_time_is_a_poll(ns: Namespace, wait: Any, timeout: float) -> None:
    semaphore = ns.semaphore(None, 1)
    assert wait([semaphore], timeout)
    assert wait([semaphore], timeout) is None


@BOTH
def test_wait_lasts_as_long_as_was_asked_for(ns: Namespace, start: StartActors, wait: Any) -> None:
    ns_semaphore, event = ns.semaphore("s", 0), ns.event("e", signaled=True)
    [actor] = start("waiter")
    actor.make("s", "semaphore", "s")
    actor.make("e", "event", "e")
    keys = ["s", "e"] if wait is wait_all else ["s"]
    result, seconds = actor.call("timed_wait", keys, wait is wait_all, 0.2)
    assert result is None
    assert seconds >= 0.2
    assert (ns_semaphore.state().count, event.is_set()) == (0, True)


@BOTH
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(float("nan"), ValueError), (float("inf"), OverflowError), (1e300, OverflowError)],
)
def test_wait_refuses_times_that_are_none(
    ns: Namespace, wait: Any, timeout: float, error: type[Exception]
) -> None:
    semaphore = ns.semaphore(None, 1)
    with pytest.raises(error):
        wait([semaphore], timeout)
    with pytest.raises(error):
        signal_and_wait(semaphore, semaphore, timeout)
    assert semaphore.state().count == 1


def test_longest_time_that_threading_allows_is_a_wait(ns: Namespace, start: StartActors) -> None:
    semaphore = ns.semaphore("s", 0)
    [actor] = start("waiter")
    actor.make("s", "semaphore", "s")
    actor.start("method", "s", "acquire", timeout=threading.TIMEOUT_MAX)
    actor.until_blocked()
    semaphore.release()
    assert actor.finish() == 1


# ---- signal_and_wait ----


def test_signal_and_wait_signals_one_and_takes_the_other(ns: Namespace) -> None:
    semaphore, event = ns.semaphore(None, 0, maximum=1), ns.event(manual_reset=True)
    mutex = ns.mutex(owned=True)
    assert signal_and_wait(semaphore, event, 0) is None
    assert semaphore.state().count == 1, "the signal stays given"
    assert index(signal_and_wait(event, semaphore, 0)) == 0
    assert (semaphore.state().count, event.is_set()) == (0, True)
    assert index(signal_and_wait(mutex, event, 0)) == 0
    assert mutex.state().count == 0


def test_signal_and_wait_on_one_object_always_succeeds(ns: Namespace) -> None:
    event = ns.event()
    for _ in range(1000):
        assert signal_and_wait(event, event, 0)
    assert not event.is_set()


def test_signal_that_fails_means_no_wait(ns: Namespace) -> None:
    full, event, mutex = ns.semaphore(None, 1, maximum=1), ns.event(signaled=True), ns.mutex()
    with pytest.raises(LimitError):
        signal_and_wait(full, event, 0)
    with pytest.raises(NotOwnerError):
        signal_and_wait(mutex, event, 0)
    assert event.is_set()
    assert full.state() == SemaphoreState(1, 1)


def test_signal_and_wait_looks_at_both_handles_before_it_signals(ns: Namespace) -> None:
    event, closed = ns.event(), ns.event()
    closed.close()
    with pytest.raises(ClosedError):
        signal_and_wait(event, closed, 0)
    with pytest.raises(TypeError):
        signal_and_wait(event, None, 0)  # type: ignore[arg-type]
    assert not event.is_set()


def test_two_processes_take_turns_with_signal_and_wait(ns: Namespace, start: StartActors) -> None:
    ping, pong = ns.event("ping"), ns.event("pong")
    [actor] = start("other")
    actor.make("ping", "event", "ping")
    actor.make("pong", "event", "pong")
    actor.start("wait", ["ping"], False, None, None)
    actor.until_blocked()
    for _ in range(20):
        ping.set()
        assert actor.finish()["index"] == 0
        actor.start("signal_and_wait", "pong", "ping", None)
        assert pong.wait()
    ping.set()
    assert actor.finish()["index"] == 0


# ---- arguments ----


@BOTH
def test_wait_on_a_closed_handle_takes_nothing(ns: Namespace, wait: Any) -> None:
    semaphore, closed = ns.semaphore(None, 1), ns.event(signaled=True)
    closed.close()
    for handles in ([semaphore, closed], [closed, semaphore]):
        with pytest.raises(ClosedError):
            wait(handles, 0)
    with pytest.raises(ClosedError):
        wait([semaphore], 0, alert=closed)
    assert semaphore.state().count == 1


@BOTH
def test_wait_on_handles_of_two_namespaces_is_refused(ns: Namespace, wait: Any) -> None:
    with Namespace(unique_name(), engine=ns.engine) as other:
        here, there = ns.semaphore(None, 1), other.semaphore(None, 1)
        with pytest.raises(ValueError, match="two namespaces"):
            wait([here, there], 0)
        with pytest.raises(ValueError, match="two namespaces"):
            wait([here], 0, alert=other.event())
        with pytest.raises(ValueError, match="two namespaces"):
            signal_and_wait(here, there, 0)
        assert (here.state().count, there.state().count) == (1, 1)
        shmsync.unlink(other.name)


def test_two_instances_of_a_namespace_are_one(ns: Namespace) -> None:
    """Their handles can be waited for together, and the calling thread is one owner in both."""
    with Namespace(ns.name) as again:
        here, there = ns.mutex("m"), again.mutex("m")
        semaphore = again.semaphore(None, 1)
        assert wait_all([here, semaphore], 0)
        assert there.acquire(timeout=0)
        with pytest.raises(ValueError, match="twice"):
            wait_all([here, there], 0)
        assert [here.release(), there.release()] == [2, 1]


@BOTH
def test_alert_must_be_an_event(ns: Namespace, wait: Any) -> None:
    semaphore, mutex = ns.semaphore(None, 1), ns.mutex()
    with pytest.raises(KindError):
        wait([semaphore], 0, alert=mutex)
    assert semaphore.state().count == 1


@BOTH
@pytest.mark.parametrize("wrong", [None, 1, "handle"])
def test_wait_on_what_is_no_handle_is_a_type_error(ns: Namespace, wait: Any, wrong: Any) -> None:
    semaphore = ns.semaphore(None, 1)
    with pytest.raises(TypeError):
        wait([semaphore, wrong], 0)
    assert semaphore.state().count == 1


def test_wait_takes_any_iterable_of_handles(ns: Namespace) -> None:
    mutexes: list[Mutex] = [ns.mutex() for _ in range(3)]
    assert index(wait_all(tuple(mutexes), 0)) == 0
    assert [mutex.state().count for mutex in mutexes] == [1, 1, 1]
