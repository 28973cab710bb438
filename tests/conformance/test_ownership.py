"""Who owns a mutex, and what becomes of it when the owner ends."""

from __future__ import annotations

import threading
import warnings

import pytest

from shmsync import (
    AbandonedMutexWarning,
    Acquired,
    MutexState,
    Namespace,
    NotOwnerError,
)
from shmsync.engine import Semantics

from ..conftest import StartActors
from ..support.watchdog import eventually
from .needs import needs


def test_created_owned_means_owned_by_the_calling_thread(ns: Namespace) -> None:
    mutex = ns.mutex("m", owned=True)
    assert mutex.created
    assert mutex.state().count == 1
    assert mutex.release() == 1


def test_created_owned_on_an_existing_mutex_changes_nothing(ns: Namespace) -> None:
    first = ns.mutex("m")
    second = ns.mutex("m", owned=True)
    assert (first.created, second.created) == (True, False)
    assert first.state() == MutexState(0, 0, False)


def test_owner_is_the_thread_not_the_handle(ns: Namespace) -> None:
    first, second = ns.mutex("m"), ns.mutex("m")
    first.acquire()
    assert second.acquire(timeout=0) is Acquired.ACQUIRED
    assert [first.release(), second.release()] == [2, 1]


def test_each_thread_has_an_owner_id_of_its_own(ns: Namespace) -> None:
    mutex, owners = ns.mutex(), []

    def own() -> None:
        with mutex:
            owners.append(mutex.state().owner)

    own()
    for _ in range(2):
        thread = threading.Thread(target=own)
        thread.start()
        thread.join()
    own()
    assert owners[0] == owners[3]
    assert len(set(owners)) == 3


def test_other_thread_of_the_process_neither_takes_nor_releases(
    ns: Namespace, start: StartActors
) -> None:
    ns.mutex("m")
    [actor] = start("process")
    actor.make("m", "mutex", "m")
    other = actor.thread("other")
    actor.method("m", "acquire")
    assert other.method("m", "acquire", timeout=0) == Acquired.TIMED_OUT
    with pytest.raises(NotOwnerError):
        other.method("m", "release")
    assert actor.method("m", "release") == 1


@pytest.mark.parametrize("end", ["thread", "exit", "kill"])
@pytest.mark.parametrize("times", [1, 3])
def test_owner_that_ends_in_whatever_way_abandons_its_mutex(
    ns: Namespace, start: StartActors, end: str, times: int
) -> None:
    mutex = ns.mutex("m")
    [actor] = start("owner")
    actor.make("m", "mutex", "m")
    owner = actor.thread("owner") if end == "thread" else actor
    for _ in range(times):
        owner.method("m", "acquire")
    match end:
        case "thread":
            owner.end()
        case "exit":
            assert actor.exit(3) == 3
        case "kill":
            assert actor.kill() == -9
    eventually(lambda: mutex.state() == MutexState(0, 0, True), "abandonment")
    assert mutex.acquire(timeout=0) is Acquired.ABANDONED
    assert mutex.state().abandoned is False
    assert mutex.acquire(timeout=0) is Acquired.ACQUIRED
    assert [mutex.release(), mutex.release()] == [2, 1]


def test_all_mutexes_of_a_dead_owner_are_abandoned_and_no_others(
    ns: Namespace, start: StartActors
) -> None:
    mutexes = [ns.mutex(str(number)) for number in range(5)]
    mutexes[4].acquire()
    [actor] = start("owner")
    for number in range(4):
        actor.make(str(number), "mutex", str(number))
    for number in (0, 2, 3):
        actor.method(str(number), "acquire")
    actor.method("3", "release")
    actor.kill()
    eventually(lambda: [m.state().abandoned for m in mutexes[:3:2]] == [True, True], "abandonment")
    assert [mutex.state().abandoned for mutex in mutexes] == [True, False, True, False, False]


@pytest.mark.parametrize("end", ["thread", "exit", "kill"])
def test_waiter_gets_the_mutex_of_an_owner_that_ends(
    ns: Namespace, start: StartActors, end: str
) -> None:
    ns.mutex("m")
    actor, waiter = start("owner", "waiter")
    for each in (actor, waiter):
        each.make("m", "mutex", "m")
    owner = actor.thread("owner") if end == "thread" else actor
    owner.method("m", "acquire")
    waiter.start("method", "m", "acquire")
    waiter.until_blocked()
    if end == "thread":
        owner.end()
    elif end == "exit":
        actor.exit()
    else:
        actor.kill()
    assert waiter.finish() == Acquired.ABANDONED
    assert waiter.method("m", "release") == 1


def test_waiter_among_several_objects_is_told_which_was_abandoned(
    ns: Namespace, start: StartActors
) -> None:
    mutex = ns.mutex("m")
    ns_semaphore = ns.semaphore("s", 0)
    actor, waiter = start("owner", "waiter")
    for each in (actor, waiter):
        each.make("m", "mutex", "m")
        each.make("s", "semaphore", "s")
    actor.method("m", "acquire")
    waiter.start("wait", ["s", "m"], False, None, None)
    waiter.until_blocked()
    actor.kill()
    expected = {"index": 1, "slot": mutex.slot, "abandoned": True, "alerted": False}
    assert waiter.finish() == expected
    assert ns_semaphore.state().count == 0


@needs(Semantics.ABANDONED_IN_WAIT_ALL)
def test_waiter_for_all_gets_what_a_dead_owner_left(ns: Namespace, start: StartActors) -> None:
    mutex = ns.mutex("m")
    semaphore = ns.semaphore("s", 1)
    actor, waiter = start("owner", "waiter")
    for each in (actor, waiter):
        each.make("m", "mutex", "m")
        each.make("s", "semaphore", "s")
    actor.method("m", "acquire")
    waiter.start("wait", ["m", "s"], True, None, None)
    waiter.until_blocked()
    actor.kill()
    expected = {"index": 0, "slot": mutex.slot, "abandoned": True, "alerted": False}
    assert waiter.finish() == expected
    assert semaphore.state().count == 0


def test_waiter_that_is_killed_takes_nothing_with_it(ns: Namespace, start: StartActors) -> None:
    semaphore = ns.semaphore("s", 0)
    dying, waiter = start("dying", "waiter")
    for each in (dying, waiter):
        each.make("s", "semaphore", "s")
        each.start("method", "s", "acquire")
        each.until_blocked()
    dying.kill()
    semaphore.release()
    assert waiter.finish() == Acquired.ACQUIRED
    assert semaphore.state().count == 0


def test_with_on_an_abandoned_mutex_warns_and_holds_it(ns: Namespace, start: StartActors) -> None:
    mutex = ns.mutex("m")
    [actor] = start("owner")
    actor.make("m", "mutex", "m")
    actor.method("m", "acquire")
    actor.kill()
    eventually(lambda: mutex.state().abandoned, "abandonment")
    with pytest.warns(AbandonedMutexWarning, match="died"):
        acquired = mutex.__enter__()
    assert acquired is Acquired.ABANDONED
    assert mutex.state().count == 1
    mutex.__exit__(None, None, None)
    assert mutex.state() == MutexState(0, 0, False)


def test_with_whose_warning_is_an_error_does_not_hold_the_mutex(
    ns: Namespace, start: StartActors
) -> None:
    mutex = ns.mutex("m")
    [actor] = start("owner")
    actor.make("m", "mutex", "m")
    actor.method("m", "acquire")
    actor.kill()
    eventually(lambda: mutex.state().abandoned, "abandonment")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AbandonedMutexWarning), mutex:
            pytest.fail("the block must not run")
    assert mutex.state() == MutexState(0, 0, True), "the next one is still to be told"


def test_death_reaches_a_process_that_has_never_waited_nor_owned(
    ns: Namespace, start: StartActors
) -> None:
    """All that this process ever does is to look."""
    mutex = ns.mutex("m")
    [actor] = start("owner")
    actor.make("m", "mutex", "m")
    actor.method("m", "acquire")
    actor.kill()
    eventually(lambda: mutex.state().abandoned, "abandonment")
