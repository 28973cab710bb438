"""How long objects live: while somebody has them open, owns them, or waits on them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from typing import Any

import pytest

import shmsync
from shmsync import (
    Acquired,
    ClosedError,
    Event,
    ExistsError,
    KindError,
    MutexState,
    Namespace,
    NotFoundError,
    SemaphoreState,
)

from ..conftest import StartActors
from ..support.peek import until_waiting
from ..support.watchdog import eventually


def test_object_goes_with_its_last_handle(ns: Namespace) -> None:
    first = ns.semaphore("s", 3)
    second = ns.semaphore("s")
    first.close()
    assert second.state().count == 3
    second.close()
    with pytest.raises(NotFoundError):
        ns.semaphore("s", create=False)
    assert ns.semaphore("s", 5).state().count == 5


def test_object_goes_with_the_last_process_that_has_it(ns: Namespace, start: StartActors) -> None:
    one, two = start("one", "two")
    for actor in (one, two):
        actor.make("s", "semaphore", "s", 7)
    one.exit()
    assert ns.semaphore("s", create=False).state().count == 7
    two.kill()
    with pytest.raises(NotFoundError):
        ns.semaphore("s", create=False)


def test_collected_handle_is_closed(ns: Namespace) -> None:
    handle = ns.event("e")
    gone = weakref.ref(handle)
    del handle
    gc.collect()
    assert gone() is None
    with pytest.raises(NotFoundError):
        ns.open("e")


def test_owned_mutex_lives_without_a_handle_until_its_owner_releases_or_ends(
    ns: Namespace, start: StartActors
) -> None:
    """NT lets its name go with the last handle; here ownership keeps the object."""
    [actor] = start("owner")
    owner = actor.thread("owner")
    owner.make("m", "mutex", "m", owned=True)
    owner.method("m", "close")
    again = ns.mutex("m", create=False)
    assert again.state().count == 1
    again.close()
    owner.end()
    # Dead owners own nothing, so nobody keeps it.
    with pytest.raises(NotFoundError):
        ns.mutex("m", create=False)


def test_closing_does_not_release_a_mutex(ns: Namespace) -> None:
    mutex, other = ns.mutex("m", owned=True), ns.mutex("m")
    owner = mutex.state().owner
    mutex.close()
    assert other.state() == MutexState(1, owner, False)
    assert other.release() == 1


def test_closing_does_not_end_a_wait_and_the_object_can_be_opened_anew(
    ns: Namespace, start: StartActors
) -> None:
    [actor] = start("waiter")
    actor.make("e", "event", "e")
    closer = actor.thread("closer")
    actor.start("method", "e", "wait")
    actor.until_blocked()
    closer.method("e", "close")
    with pytest.raises(ClosedError):
        closer.method("e", "is_set")
    actor.until_blocked()
    event = ns.event("e", create=False)
    event.set()
    assert actor.finish() is True
    event.close()
    with pytest.raises(NotFoundError):
        ns.event("e", create=False)


@pytest.mark.parametrize("everything", [False, True])
def test_signal_handler_does_not_end_a_wait_whose_handles_were_closed(
    ns: Namespace, start: StartActors, everything: bool
) -> None:
    """The wait goes back to Python for the handler, and must still be the same wait afterwards."""
    semaphore, event = ns.semaphore("s", 0), ns.event("e", signaled=everything)
    [actor] = start("waiter")
    actor.make("s", "semaphore", "s")
    actor.make("e", "event", "e")
    actor.call("on_signal", signal.SIGUSR1, "count")
    helper = actor.thread("helper")
    actor.start("wait", ["s", "e"], everything, None, None)
    actor.until_blocked()
    helper.method("s", "close")
    helper.method("e", "close")
    os.kill(actor.pid, signal.SIGUSR1)
    eventually(lambda: helper.call("signals_seen") == 1, "the handler")
    actor.until_blocked()
    semaphore.release()
    assert actor.finish()["index"] == 0
    assert (semaphore.state().count, event.is_set()) == (0, False)


def calls(handle: Any) -> list[Any]:
    """All that can be done with a handle."""
    found = [handle.state]
    if isinstance(handle, Event):
        found += [handle.set, handle.clear, handle.pulse, handle.is_set, lambda: handle.wait(0)]
    else:
        found += [handle.release, lambda: handle.acquire(timeout=0), handle.__enter__]
    return found


def test_closed_handle_refuses_every_call_and_can_be_closed_again(ns: Namespace) -> None:
    for handle in (ns.mutex(), ns.semaphore(), ns.event()):
        assert handle.closed is False
        handle.close()
        assert handle.closed is True
        for call in calls(handle):
            with pytest.raises(ClosedError):
                call()
        handle.close()


def test_closed_namespace_closes_its_handles(ns: Namespace) -> None:
    with Namespace(ns.name) as again:
        handle, other = again.semaphore("s"), ns.semaphore("s", create=False)
    with pytest.raises(ClosedError):
        handle.state()
    with pytest.raises(ClosedError):
        again.semaphore("s")
    assert other.acquire(timeout=0) is Acquired.ACQUIRED


def test_closing_a_namespace_does_not_end_the_waits_in_it(ns: Namespace) -> None:
    semaphore = ns.semaphore("s", 0)
    again = Namespace(ns.name)
    inner = again.semaphore("s")
    results: list[object] = []
    waiter = threading.Thread(target=lambda: results.append(inner.acquire()))
    waiter.start()
    until_waiting(semaphore, 1)
    again.close()
    until_waiting(semaphore, 1)
    semaphore.release()
    waiter.join()
    assert results == [Acquired.ACQUIRED]


def test_handle_keeps_its_namespace(ns: Namespace) -> None:
    handle = Namespace(ns.name).semaphore(None, 2)
    gc.collect()
    assert handle.namespace.name == ns.name
    assert handle.state().count == 2


def test_existing_object_ignores_what_a_second_creator_asks_for(ns: Namespace) -> None:
    semaphore, event = ns.semaphore("s", 1, maximum=3), ns.event("e")
    assert ns.semaphore("s", 2, maximum=9).state() == SemaphoreState(1, 3)
    again = ns.event("e", manual_reset=True, signaled=True)
    assert again.state() == event.state()
    assert (semaphore.created, again.created) == (True, False)


def test_create_and_exclusive_say_what_must_exist(ns: Namespace) -> None:
    for make in (ns.mutex, ns.semaphore, ns.event):
        with pytest.raises(NotFoundError):
            make("x", create=False)
        made = make("x", exclusive=True)
        with pytest.raises(ExistsError):
            make("x", exclusive=True)
        assert make("x", create=False).slot == made.slot
        made.close()


def test_name_belongs_to_one_kind(ns: Namespace) -> None:
    made = {"m": ns.mutex("m"), "s": ns.semaphore("s"), "e": ns.event("e")}
    for name, handle in made.items():
        for make in (ns.mutex, ns.semaphore, ns.event):
            if make.__name__ != type(handle).__name__.lower():
                with pytest.raises(KindError, match=name):
                    make(name)
        opened = ns.open(name)
        assert (type(opened), opened.slot) == (type(handle), handle.slot)


def test_names_are_case_sensitive_and_may_have_slashes(ns: Namespace) -> None:
    names = ["case", "Case", "case/a", "case/A", "\u00e9", "e\u0301", "x" * 200]
    handles = [ns.semaphore(name, number) for number, name in enumerate(names)]
    assert len({handle.slot for handle in handles}) == len(names)
    for number, name in enumerate(names):
        assert ns.semaphore(name, create=False).state().count == number


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("a\nb", ValueError), ("x" * 201, shmsync.LimitError), (1, TypeError)],
)
def test_wrong_names_are_refused(ns: Namespace, name: Any, error: type[Exception]) -> None:
    for make in (ns.mutex, ns.semaphore, ns.event, ns.open):
        with pytest.raises(error):
            make(name)


def test_slot_is_used_again_under_another_generation(ns: Namespace) -> None:
    first = ns.semaphore(None, 3)
    first.close()
    second = ns.mutex()
    assert second.slot == first.slot
    assert second.generation != first.generation
    assert second.state() == MutexState(0, 0, False)


def test_closing_in_one_thread_while_others_call_never_crashes(ns: Namespace) -> None:
    """Each call either works or says that the handle is closed."""
    for _ in range(50):
        semaphore = ns.semaphore("s", 1)
        refused: list[bool] = []

        def use(it: Any = semaphore, refused: list[bool] = refused) -> None:
            try:
                while True:
                    it.release()
                    it.acquire(timeout=0)
            except ClosedError:
                refused.append(True)

        threads = [threading.Thread(target=use) for _ in range(2)]
        for thread in threads:
            thread.start()
        semaphore.close()
        for thread in threads:
            thread.join()
        assert refused == [True, True]
    eventually(lambda: not [o for o in ns.objects() if o.name == "s"], "the end of the object")
