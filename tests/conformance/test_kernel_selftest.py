"""The cases of the kernel's selftest for ntsync (tools/testing/selftests/drivers/ntsync/ntsync.c).

Its owners 123 and 456 are actors here: processes, or threads of one. Arguments that only ntsync
accepts are errors of the API. As there, the whole state of every object is looked at after every
call.
"""

from __future__ import annotations

import mmap
import sys
import threading
from pathlib import Path

import pytest

from shmsync import (
    Acquired,
    Event,
    EventState,
    Handle,
    LimitError,
    Mutex,
    MutexState,
    Namespace,
    NotOwnerError,
    Semaphore,
    SemaphoreState,
    wait_all,
    wait_any,
)
from shmsync.engine import Engine, Semantics

from ..conftest import Settles, StartActors
from ..support.actors import ActorThread
from ..support.watchdog import eventually
from .needs import needs

ABANDONED = Acquired.ABANDONED
ACQUIRED = Acquired.ACQUIRED
TIMED_OUT = Acquired.TIMED_OUT


def took(index: int, handle: Handle, *, abandoned: bool = False, alerted: bool = False) -> object:
    """An actor's answer to a wait that succeeded."""
    return {"index": index, "slot": handle.slot, "abandoned": abandoned, "alerted": alerted}


def share(handle: Handle, key: str, *threads: ActorThread) -> None:
    """Opens a named object in the processes of some actors."""
    for actor in {thread.actor: thread for thread in threads}.values():
        actor.make(key, type(handle).__name__.lower(), handle.name)


def dies(owner: ActorThread, mutex: Mutex) -> None:
    """The thread ends, and that has come to the mutex."""
    owner.end()
    eventually(lambda: mutex.state().abandoned, "abandonment")


# ---- semaphore_state ----


def test_semaphore_counts_down_to_zero_and_never_above_its_maximum(ns: Namespace) -> None:
    with pytest.raises(ValueError, match="initial"):
        ns.semaphore(None, 3, maximum=2)
    sem = ns.semaphore(None, 2, maximum=2)
    assert sem.state() == SemaphoreState(2, 2)
    with pytest.raises(ValueError, match="one or more"):
        sem.release(0)
    with pytest.raises(LimitError):
        sem.release(1)
    assert sem.state() == SemaphoreState(2, 2)
    for left in (1, 0):
        assert sem.acquire(timeout=0) is ACQUIRED
        assert sem.state() == SemaphoreState(left, 2)
    assert sem.acquire(timeout=0) is TIMED_OUT
    assert sem.state() == SemaphoreState(0, 2)
    with pytest.raises(LimitError):
        sem.release(3)
    assert sem.state() == SemaphoreState(0, 2)
    assert sem.release(2) == 0
    assert sem.state() == SemaphoreState(2, 2)
    assert [sem.acquire(timeout=0) for _ in range(2)] == [ACQUIRED] * 2
    assert sem.release(1) == 0
    with pytest.raises(LimitError):
        sem.release(2**32 - 1)
    assert sem.state() == SemaphoreState(1, 2)


# ---- mutex_state ----


def test_mutex_counts_how_often_its_owner_took_it(ns: Namespace, start: StartActors) -> None:
    mutex = ns.mutex("mutex")
    owner, other = start("123", "456")
    share(mutex, "m", owner, other)
    assert [owner.method("m", "acquire", timeout=0) for _ in range(2)] == [ACQUIRED, ACQUIRED]
    first = mutex.state()
    assert first == MutexState(2, first.owner, False)
    assert first.owner != 0
    with pytest.raises(NotOwnerError):
        other.method("m", "release")
    assert mutex.state() == first
    assert owner.method("m", "release") == 2
    assert mutex.state() == MutexState(1, first.owner, False)
    assert owner.method("m", "release") == 1
    assert mutex.state() == MutexState(0, 0, False)
    with pytest.raises(NotOwnerError):
        owner.method("m", "release")
    assert [other.method("m", "acquire", timeout=0) for _ in range(2)] == [ACQUIRED, ACQUIRED]
    second = mutex.state()
    assert second == MutexState(2, second.owner, False)
    assert second.owner != first.owner
    assert other.method("m", "release") == 2
    assert owner.method("m", "acquire", timeout=0) == TIMED_OUT
    assert mutex.state() == MutexState(1, second.owner, False)


def test_mutex_of_a_dead_owner_is_abandoned_until_somebody_takes_it(
    ns: Namespace, start: StartActors
) -> None:
    mutex = ns.mutex("mutex")
    [actor] = start("owners")
    share(mutex, "m", actor)
    for _ in range(2):
        owner = actor.thread("123")
        owner.method("m", "acquire", timeout=0)
        owner.method("m", "acquire", timeout=0)
        dies(owner, mutex)
        assert mutex.state() == mutex.state() == MutexState(0, 0, True)
        assert actor.method("m", "acquire", timeout=0) == ABANDONED
        assert (mutex.state().count, mutex.state().abandoned) == (1, False)
        assert actor.method("m", "acquire", timeout=0) == ACQUIRED
        assert [actor.method("m", "release"), actor.method("m", "release")] == [2, 1]
        assert actor.method("m", "acquire", timeout=0) == ACQUIRED
        assert actor.method("m", "release") == 1


#: Where an engine keeps the recursion count, from the beginning of an object's slot.
RECURSION_AT = {"fsync": 4, "handoff": 0, "esync": 4}


@needs(Semantics.RECURSION_LIMIT, shows=True)
def test_mutex_at_its_recursion_limit_times_out(engine: Engine, ns: Namespace) -> None:
    if engine.name not in RECURSION_AT:
        pytest.skip("the kernel keeps the count")
    mutex = ns.mutex("mutex", owned=True)
    path = Path(f"/dev/shm/shmsync-{ns.name}")
    objects_at = path.stat().st_size - 4096 * (64 + 200)  # the last two parts of the segment
    at = objects_at + 64 * mutex.slot + RECURSION_AT[engine.name]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as segment:
        segment[at : at + 4] = b"\xff" * 4
    owner = mutex.state().owner
    assert mutex.state() == MutexState(2**32 - 1, owner, False)
    assert mutex.acquire(timeout=0) is TIMED_OUT
    assert mutex.state() == MutexState(2**32 - 1, owner, False)


# ---- manual_event_state, auto_event_state ----


def test_manual_reset_event_stays_signaled_until_it_is_cleared(ns: Namespace) -> None:
    event = ns.event(manual_reset=True)
    assert event.state() == EventState(True, False)
    assert [event.set(), event.set()] == [False, True]
    assert event.wait(0) is True
    assert event.state() == EventState(True, True)
    assert [event.clear(), event.clear()] == [True, False]
    assert event.wait(0) is False
    assert event.set() is False
    assert event.pulse() is True
    assert event.state() == EventState(True, False)
    assert event.pulse() is False
    assert event.state() == EventState(True, False)


def test_auto_reset_event_lets_one_wait_pass(ns: Namespace) -> None:
    event = ns.event(signaled=True)
    assert event.state() == EventState(False, True)
    assert event.set() is True
    assert event.wait(0) is True
    assert event.state() == EventState(False, False)
    assert event.clear() is False
    assert event.wait(0) is False
    assert event.set() is False
    assert event.pulse() is True
    assert event.state() == EventState(False, False)
    assert event.pulse() is False
    assert event.state() == EventState(False, False)


# ---- test_wait_any ----


def test_wait_any_takes_the_first_that_is_signaled(ns: Namespace, start: StartActors) -> None:
    sem, mutex = ns.semaphore("sem", 2, maximum=3), ns.mutex("mutex")
    one, two = start("123", "456")
    share(sem, "s", one, two)
    share(mutex, "m", one, two)
    for sem_left, mutex_count in ((1, 0), (0, 0), (0, 1)):
        expected = took(1, mutex) if mutex_count else took(0, sem)
        assert one.wait_any("s", "m") == expected
        assert (sem.state().count, mutex.state().count) == (sem_left, mutex_count)
    sem.release()
    assert one.wait_any("s", "m") == took(0, sem)
    assert one.wait_any("s", "m") == took(1, mutex)
    assert mutex.state().count == 2
    assert two.wait_any("s", "m") is None


def test_wait_any_reports_a_mutex_that_a_dead_owner_left(ns: Namespace, start: StartActors) -> None:
    sem, mutex = ns.semaphore("sem", 0, maximum=3), ns.mutex("mutex")
    [actor] = start("456")
    share(sem, "s", actor)
    share(mutex, "m", actor)
    owner = actor.thread("123")
    assert owner.wait_any("s", "m") == took(1, mutex)
    dies(owner, mutex)
    assert actor.wait_any("s", "m") == took(1, mutex, abandoned=True)
    assert actor.wait_any("s", "m") == took(1, mutex)
    assert mutex.state().count == 2


def test_wait_any_on_the_same_object_64_times_takes_one_token(ns: Namespace) -> None:
    sem = ns.semaphore(None, 2, maximum=3)
    result = wait_any([sem] * 64, 0)
    assert result is not None
    assert (result.index, result.handle) == (0, sem)
    assert sem.state() == SemaphoreState(1, 3)


@pytest.mark.parametrize("wait", [wait_any, wait_all])
def test_wait_takes_at_least_one_and_at_most_64_handles(ns: Namespace, wait: object) -> None:
    assert callable(wait)
    events = [ns.event(manual_reset=True, signaled=True) for _ in range(65)]
    with pytest.raises(ValueError, match="no handles"):
        wait([], 0)
    with pytest.raises(LimitError, match="65"):
        wait(events, 0)
    assert wait(events[:64], 0).index == 0


# ---- test_wait_all ----


@needs(Semantics.OWN_MUTEX_IN_WAIT_ALL)
def test_wait_all_takes_all_or_leaves_everything(ns: Namespace, start: StartActors) -> None:
    sem, mutex = ns.semaphore("sem", 2, maximum=3), ns.mutex("mutex")
    one, two = start("123", "456")
    share(sem, "s", one, two)
    share(mutex, "m", one, two)
    assert one.wait_all("s", "m") == took(0, sem)
    owner = mutex.state().owner
    assert sem.state() == SemaphoreState(1, 3)
    assert mutex.state() == MutexState(1, owner, False)
    assert two.wait_all("s", "m") is None
    assert sem.state() == SemaphoreState(1, 3)
    assert mutex.state() == MutexState(1, owner, False)
    assert one.wait_all("s", "m") == took(0, sem)
    assert sem.state() == SemaphoreState(0, 3)
    assert mutex.state() == MutexState(2, owner, False)
    assert one.wait_all("s", "m") is None
    assert sem.state() == SemaphoreState(0, 3)
    assert mutex.state() == MutexState(2, owner, False)
    assert sem.release(3) == 0
    assert one.wait_all("s", "m") == took(0, sem)
    assert sem.state() == SemaphoreState(2, 3)
    assert mutex.state() == MutexState(3, owner, False)


@needs(Semantics.ABANDONED_IN_WAIT_ALL, shows=True)
def test_wait_all_takes_a_mutex_that_a_dead_owner_left(ns: Namespace, start: StartActors) -> None:
    sem, mutex = ns.semaphore("sem", 2, maximum=3), ns.mutex("mutex")
    [actor] = start("456")
    share(sem, "s", actor)
    share(mutex, "m", actor)
    owner = actor.thread("123")
    owner.method("m", "acquire")
    dies(owner, mutex)
    assert actor.wait_all("s", "m") == took(0, sem, abandoned=True)
    assert (sem.state().count, mutex.state().count) == (1, 1)


def test_wait_all_leaves_a_manual_reset_event_set(ns: Namespace) -> None:
    sem, event = ns.semaphore(None, 1), ns.event(manual_reset=True, signaled=True)
    assert wait_all([sem, event], 0)
    assert (sem.state().count, event.is_set()) == (0, True)


def test_wait_all_refuses_the_same_object_twice(ns: Namespace) -> None:
    sem, event = ns.semaphore("sem", 2), ns.event(signaled=True)
    second_handle = ns.semaphore("sem")
    for handles, alert in (([sem, sem], None), ([sem, second_handle], None), ([sem, event], event)):
        with pytest.raises(ValueError, match="twice"):
            wait_all(handles, 0, alert=alert)
    assert (sem.state().count, event.is_set()) == (2, True)


# ---- wake_any ----


def test_waiting_any_gets_the_token_that_is_released(
    ns: Namespace, start: StartActors, settles: Settles
) -> None:
    sem, mutex = ns.semaphore("sem", 0, maximum=3), ns.mutex("mutex", owned=True)
    [waiter] = start("456")
    share(sem, "s", waiter)
    share(mutex, "m", waiter)
    waiter.start("wait", ["s", "m"], False, None, None)
    waiter.until_blocked()
    assert sem.release() == 0
    settles(lambda: sem.state() == SemaphoreState(0, 3))
    assert waiter.finish() == took(0, sem)


def test_waiting_any_gets_the_mutex_only_with_its_last_release(
    ns: Namespace, start: StartActors, settles: Settles
) -> None:
    sem, mutex = ns.semaphore("sem", 0, maximum=3), ns.mutex("mutex", owned=True)
    mutex.acquire()
    me = mutex.state().owner
    [waiter] = start("456")
    share(sem, "s", waiter)
    share(mutex, "m", waiter)
    waiter.start("wait", ["s", "m"], False, None, None)
    waiter.until_blocked()
    assert mutex.release() == 2
    waiter.until_blocked()
    assert mutex.state() == MutexState(1, me, False)
    assert mutex.release() == 1
    settles(lambda: mutex.state().count == 1)
    assert mutex.state().owner not in (0, me)
    assert waiter.finish() == took(1, mutex)


@pytest.mark.parametrize("manual", [False, True])
def test_waiting_any_gets_an_event_that_is_set(
    ns: Namespace, start: StartActors, settles: Settles, manual: bool
) -> None:
    sem, event = ns.semaphore("sem", 0), ns.event("event", manual_reset=manual)
    [waiter] = start("456")
    share(sem, "s", waiter)
    share(event, "e", waiter)
    waiter.start("wait", ["s", "e"], False, None, None)
    waiter.until_blocked()
    assert event.set() is False
    settles(lambda: event.is_set() is manual)
    assert waiter.finish() == took(1, event)


@needs(Semantics.EXACT_PULSE)
@pytest.mark.parametrize("manual", [False, True])
def test_waiting_any_gets_an_event_that_is_pulsed(
    ns: Namespace, start: StartActors, manual: bool
) -> None:
    sem, event = ns.semaphore("sem", 0), ns.event("event", manual_reset=manual)
    [waiter] = start("456")
    share(sem, "s", waiter)
    share(event, "e", waiter)
    waiter.start("wait", ["s", "e"], False, None, None)
    waiter.until_blocked()
    assert event.pulse() is False
    assert event.is_set() is False
    assert waiter.finish() == took(1, event)


@pytest.mark.parametrize("everything", [False, True])
def test_wait_whose_handles_are_all_closed_goes_on_to_its_timeout(
    ns: Namespace, start: StartActors, everything: bool
) -> None:
    sem, mutex = ns.semaphore("sem", 0), ns.mutex("mutex", owned=True)
    [waiter] = start("456")
    share(sem, "s", waiter)
    share(mutex, "m", waiter)
    closer = waiter.thread("closer")
    waiter.start("wait", ["s", "m"], everything, 1.0, None)
    waiter.until_blocked()
    closer.method("s", "close")
    closer.method("m", "close")
    sem.close()
    mutex.close()
    waiter.until_blocked()
    assert waiter.finish() is None


# ---- wake_all ----


def test_waiting_all_takes_nothing_until_all_are_signaled_together(
    ns: Namespace, start: StartActors, settles: Settles
) -> None:
    sem, mutex = ns.semaphore("sem", 0, maximum=3), ns.mutex("mutex", owned=True)
    manual = ns.event("manual", manual_reset=True, signaled=True)
    auto = ns.event("auto", signaled=True)
    [waiter] = start("456")
    for handle, key in ((sem, "s"), (mutex, "x"), (manual, "m"), (auto, "a")):
        share(handle, key, waiter)
    waiter.start("wait", ["s", "x", "m", "a"], True, None, None)
    waiter.until_blocked()
    assert sem.release() == 0
    waiter.until_blocked()
    assert sem.state() == SemaphoreState(1, 3)
    assert sem.acquire(timeout=0) is ACQUIRED
    assert mutex.release() == 1
    waiter.until_blocked()
    assert mutex.state() == MutexState(0, 0, False)
    assert manual.clear() is True
    assert sem.release(2) == 0
    waiter.until_blocked()
    assert sem.state() == SemaphoreState(2, 3)
    assert auto.clear() is True
    assert manual.set() is False
    waiter.until_blocked()
    assert auto.set() is False
    settles(lambda: mutex.state().count == 1)
    assert sem.state() == SemaphoreState(1, 3)
    assert (manual.is_set(), auto.is_set()) == (True, False)
    assert waiter.finish() == took(0, sem)


# ---- alert_any, alert_all ----


def two_semaphores(ns: Namespace) -> tuple[Semaphore, Semaphore]:
    """With 0 tokens and 1."""
    return ns.semaphore("s0", 0, maximum=2), ns.semaphore("s1", 1, maximum=2)


@needs(Semantics.ALERT_LAST, shows=("fsync",))
def test_wait_any_prefers_its_objects_to_its_alert(ns: Namespace) -> None:
    sems, alert = two_semaphores(ns), ns.event(manual_reset=True, signaled=True)
    result = wait_any(sems, 0, alert=alert)
    assert result is not None
    assert (result.index, result.handle, result.alerted) == (1, sems[1], False)


@needs(Semantics.ALERT_LAST, shows=("esync",))
def test_wait_all_prefers_its_objects_to_its_alert(ns: Namespace) -> None:
    sems, alert = two_semaphores(ns), ns.event(signaled=True)
    sems[0].release()
    result = wait_all(sems, 0, alert=alert)
    assert result is not None
    assert (result.index, result.handle, result.alerted) == (0, sems[0], False)
    assert alert.is_set()


@pytest.mark.parametrize("wait", [wait_any, wait_all])
def test_alert_ends_a_wait_with_an_index_after_the_last(ns: Namespace, wait: object) -> None:
    assert callable(wait)
    sems = (ns.semaphore(None, 0), ns.semaphore(None, 0))
    manual, auto = ns.event(manual_reset=True, signaled=True), ns.event(signaled=True)
    for _ in range(2):
        result = wait(sems, 0, alert=manual)
        assert (result.index, result.handle, result.alerted) == (2, manual, True)
    assert wait(sems, 0, alert=auto).alerted
    assert wait(sems, 0, alert=auto) is None, "an auto-reset alert is consumed"


@pytest.mark.parametrize("everything", [False, True])
def test_alert_wakes_a_wait(ns: Namespace, start: StartActors, everything: bool) -> None:
    sems = ns.semaphore("s0", 0), ns.semaphore("s1", 0)
    alert = ns.event("alert")
    [waiter] = start("456")
    for handle, key in ((sems[0], "s0"), (sems[1], "s1"), (alert, "alert")):
        share(handle, key, waiter)
    waiter.start("wait", ["s0", "s1"], everything, None, "alert")
    waiter.until_blocked()
    alert.set()
    assert waiter.finish() == took(2, alert, alerted=True)
    assert not alert.is_set()


# ---- stress_wait ----


class Counter:
    """Adds 1 in two steps that a switch of threads can come between."""

    value = 0

    def add(self, mutex: Mutex, begin: Event, times: int) -> None:
        """Adds 1 so many times, holding the mutex each time."""
        assert begin.wait()
        for _ in range(times):
            assert mutex.acquire() is ACQUIRED
            value = self.value
            self.value = value + 1
            mutex.release()


def test_four_threads_that_count_under_a_mutex_lose_nothing(ns: Namespace) -> None:
    mutex, begin, counter = ns.mutex(), ns.event(manual_reset=True), Counter()
    threads = [threading.Thread(target=counter.add, args=(mutex, begin, 10_000)) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        begin.set()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.value == 40_000
