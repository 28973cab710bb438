"""Lifetime by name: persistent namespaces, unlinking, and making anew."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import shmsync
from shmsync import (
    Acquired,
    Event,
    ExistsError,
    MutexState,
    Namespace,
    NotFoundError,
    Semaphore,
    SemaphoreState,
    inspect,
)
from shmsync.engine import Engine
from shmsync.namespace import unlink_unused

from ..conftest import unique_name
from ..support.checkers import check, path_of
from ..support.watchdog import PATIENCE, eventually
from .helpers import (
    NOBODY,
    Child,
    become,
    collect,
    error_of,
    in_child,
    needs_root,
    python,
    segment,
)


@pytest.fixture
def name() -> Iterator[str]:
    """A namespace's name, which is free again after the test."""
    name = unique_name("lasting")
    yield name
    Path(path_of(name)).unlink(missing_ok=True)


# ---- persistent ----


def fill(name: str) -> None:
    """Makes a persistent namespace with one of everything, in some state."""
    namespace = Namespace(name, persistent=True, capacity=16, threads=4)
    namespace.semaphore("tokens", 2, maximum=5)
    namespace.event("manual", manual_reset=True, signaled=True)
    namespace.event("auto", signaled=True)
    namespace.mutex("free")
    assert namespace.mutex("held").acquire() == Acquired.ACQUIRED
    namespace.event(None, signaled=True)


def close_and_leave(name: str) -> None:
    fill(name)
    namespace = Namespace(name)
    assert namespace.mutex("held").release() == 1
    namespace.close()


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_persistent_namespace_keeps_its_named_objects_and_their_states(
    name: str, killed: bool
) -> None:
    if killed:

        def stay(link: Connection) -> None:
            fill(name)
            link.send("filled")
            link.recv()

        with Child(stay) as child:
            assert child.hear() == "filled"
            child.kill()
    else:
        assert in_child(lambda: close_and_leave(name)) is None
    with Namespace(name) as namespace:
        assert not namespace.created
        labels = sorted(str(found.name) for found in namespace.objects())
        assert labels == ["auto", "free", "held", "manual", "tokens"]
        assert namespace.semaphore("tokens").state() == SemaphoreState(2, 5)
        assert namespace.event("manual", create=False).is_set()
        assert namespace.event("auto").wait(0)
        wanted = Acquired.ABANDONED if killed else Acquired.ACQUIRED
        assert namespace.mutex("held").acquire(timeout=PATIENCE) == wanted
        assert namespace.mutex("free").state() == MutexState(0, 0, False)
        namespace.mutex("held").release()
        collect(name)
    assert Path(path_of(name)).exists()
    with Namespace(name, create=False) as namespace:
        assert not namespace.event("auto").is_set()
        check(name)


def test_persistent_is_the_creators_decision(name: str) -> None:
    with Namespace(name, capacity=16, threads=4), Namespace(name, persistent=True):
        pass
    assert not Path(path_of(name)).exists()


def test_a_persistent_namespace_exists_for_exclusive_callers(name: str) -> None:
    Namespace(name, persistent=True, capacity=16, threads=4).close()
    with pytest.raises(ExistsError):
        Namespace(name, exclusive=True)
    shmsync.unlink(name)
    with Namespace(name, exclusive=True) as namespace:
        assert namespace.created


def test_what_was_persistent_goes_by_unlink(name: str) -> None:
    with Namespace(name, persistent=True, capacity=16, threads=4) as namespace:
        namespace.event("event")
        shmsync.unlink(name)
    assert not Path(path_of(name)).exists()
    with Namespace(name, capacity=16, threads=4) as namespace:
        assert namespace.objects() == ()


# ---- unlink ----


def test_unlink_of_nothing_is_a_not_found_error(name: str) -> None:
    with pytest.raises(NotFoundError, match=name):
        shmsync.unlink(name)
    with pytest.raises(FileNotFoundError):
        shmsync.unlink(name)


def test_unlink_unused_removes_what_nobody_uses_only(name: str) -> None:
    with Namespace(name, persistent=True, capacity=16, threads=4):
        assert unlink_unused(name) is False
        assert in_child(lambda: unlink_unused(name)) is False
        assert Path(path_of(name)).exists()
    assert unlink_unused(name) is True
    assert not Path(path_of(name)).exists()


@pytest.mark.parametrize("content", [b"", bytes(4096)], ids=["empty", "zero"])
def test_what_a_killed_creator_left_can_be_unlinked(name: str, content: bytes) -> None:
    Path(path_of(name)).write_bytes(content)
    shmsync.unlink(name)
    assert not Path(path_of(name)).exists()


def wait_for_event(link: Connection) -> bool:
    """Waits for the event of a namespace."""
    namespace = Namespace(link.recv(), create=False)
    event = namespace.event("event", create=False)
    link.send("ready")
    return event.wait(PATIENCE)


def test_after_unlink_its_users_go_on_and_newcomers_are_elsewhere(engine: Engine) -> None:
    with (
        Child(wait_for_event) as user,
        Child(wait_for_event) as newcomer,
        segment(engine=engine) as old,
    ):
        event = old.event("event")
        assert user.ask(old.name) == "ready"
        shmsync.unlink(old.name)
        with Namespace(old.name, engine=engine.name, capacity=32, threads=8) as new:
            assert new.created
            later = new.event("event", exclusive=True)
            assert newcomer.ask(old.name) == "ready"
            event.set()
            assert user.hear() is True
            assert not later.is_set()
            later.set()
            assert newcomer.hear() is True
            old.close()
            assert Path(path_of(old.name)).exists()  # the old one's end does not touch the new name
            check(new.name)


def test_a_namespace_made_anew_is_another_one_for_everybody(name: str) -> None:
    with Namespace(name, capacity=16, threads=4) as old:
        ours = old.event("old")
        shmsync.unlink(name)
        with pytest.raises(NotFoundError):
            Namespace(name, create=False)
        with Namespace(name, capacity=16, threads=4) as new:
            theirs = new.event("new")
            with pytest.raises(NotFoundError):
                new.open("old")
            with pytest.raises(NotFoundError):
                old.open("new")
            with pytest.raises(ValueError, match="two namespaces"):
                shmsync.wait_any([ours, theirs])


def test_the_objects_of_a_namespace_are_not_those_of_a_later_one_of_its_name(name: str) -> None:
    with Namespace(name, capacity=16, threads=4) as old:
        ours = old.event("ours")
        shmsync.unlink(name)
        assert error_of(old.objects)[0] == "NotFoundError"
        with Namespace(name, capacity=16, threads=4) as new:
            theirs = new.event("theirs")
            assert [found.name for found in new.objects()] == [theirs.name]
            try:
                labels = [found.name for found in old.objects()]
            except NotFoundError:
                return
            assert labels == [ours.name]


# ---- pickles ----

ANSWER = """
import os, pickle, sys
try:
    thing = pickle.loads(bytes.fromhex(sys.argv[1]))
except Exception as error:
    print(type(error).__name__)
else:
    print(eval(sys.argv[2]))
"""


def elsewhere(thing: object, expression: str) -> str:
    """What an expression on ``thing`` gives in a process that gets it as a pickle."""
    pickled = thing if isinstance(thing, bytes) else pickle.dumps(thing)
    return python(ANSWER, pickled.hex(), expression)


def test_a_pickled_handle_is_the_same_object_in_an_unrelated_process(ns: Namespace) -> None:
    event, tokens, lock = ns.event(), ns.semaphore("tokens", 2), ns.mutex(None, owned=True)
    assert elsewhere(event, "thing.set()") == "False"
    assert event.is_set()
    assert elsewhere(tokens, "thing.release(), thing.name, thing.created") == "(2, 'tokens', False)"
    assert tokens.state().count == 3
    assert elsewhere(lock, "int(thing.acquire(timeout=0))") == "0"
    assert elsewhere(lock, "thing.slot, thing.generation") == str((lock.slot, lock.generation))
    lock.release()


def test_a_pickled_namespace_is_the_same_in_an_unrelated_process(ns: Namespace) -> None:
    event = ns.event("event", signaled=True)
    assert event.created
    assert elsewhere(ns, "thing.event('event').is_set(), thing.created") == "(True, False)"
    assert elsewhere(ns, "thing.engine") == ns.engine


def test_pickles_of_one_segment_share_a_namespace_and_can_be_waited_for_together(
    ns: Namespace,
) -> None:
    pair = (ns.event(signaled=True), ns.semaphore())
    check_both = (
        "thing[0].namespace is thing[1].namespace, bool(__import__('shmsync').wait_all(thing, 0))"
    )
    assert elsewhere(pair, check_both) == "(True, True)"


def test_a_pickle_holds_no_reference() -> None:
    with segment() as namespace:
        event = namespace.event("event", signaled=True)
        pickled = pickle.dumps(event)
        event.close()
        assert namespace.objects() == ()
        assert error_of(lambda: pickle.loads(pickled))[0] == "NotFoundError"
        assert elsewhere(pickled, "thing") == "NotFoundError"
        again = namespace.event("event")  # of that name, in that slot: but another one
        assert (again.created, again.slot) == (True, event.slot)
        assert error_of(lambda: pickle.loads(pickled))[0] == "NotFoundError"
        assert elsewhere(pickled, "thing") == "NotFoundError"
        assert elsewhere(again, "thing.set()") == "False"


def test_a_pickle_of_a_namespace_that_is_gone_or_made_anew_is_a_not_found_error(name: str) -> None:
    with Namespace(name, capacity=16, threads=4) as namespace:
        pickles = [pickle.dumps(namespace), pickle.dumps(namespace.event())]
    for pickled in pickles:
        assert elsewhere(pickled, "thing") == "NotFoundError"
    assert not Path(path_of(name)).exists()
    with Namespace(name, capacity=16, threads=4) as anew:
        anew.event()
        for pickled in pickles:
            assert elsewhere(pickled, "thing") == "NotFoundError"
            assert error_of(lambda: pickle.loads(pickled))[0] == "NotFoundError"  # noqa: B023


def test_pickles_in_the_same_process_are_further_handles() -> None:
    with segment() as namespace:
        event = namespace.event()
        copy: Event = pickle.loads(pickle.dumps(event))
        assert copy is not event
        assert copy.slot == event.slot
        event.close()
        assert copy.set() is False
        copy.close()
        assert namespace.objects() == ()
        original = namespace.semaphore("tokens", 3)
        tokens: Semaphore = pickle.loads(pickle.dumps(original))
        assert tokens.acquire(timeout=0)
        copied: Namespace = pickle.loads(pickle.dumps(namespace))
        assert copied.semaphore("tokens").state().count == 2
        copied.close()
        assert not namespace.closed


def test_what_is_closed_cannot_be_pickled() -> None:
    with segment() as namespace:
        event = namespace.event()
        event.close()
        assert error_of(lambda: pickle.dumps(event))[0] == "ClosedError"
        namespace.close()
        assert error_of(lambda: pickle.dumps(namespace))[0] == "ClosedError"


@needs_root
def test_a_pickle_of_what_is_open_to_others_opens_for_others() -> None:
    def as_nobody(link: Connection) -> bool:
        become(NOBODY)
        event: Event = pickle.loads(link.recv())
        return event.set()

    with Child(as_nobody) as child, segment(mode=0o666) as namespace:
        event = namespace.event()
        assert child.ask(pickle.dumps(event)) is False
        assert event.is_set()


# ---- killed, all of them ----


def test_a_namespace_whose_users_were_all_killed_is_made_anew(engine: Engine) -> None:
    def use(link: Connection) -> None:
        namespace = Namespace(link.recv(), engine=engine.name, capacity=16, threads=4)
        lock = namespace.mutex("lock")
        lock.acquire(timeout=0)
        link.send(namespace.created)
        link.recv()

    name = unique_name()
    with Child(use) as one, Child(use) as other:
        assert (one.ask(name), other.ask(name)) == (True, False)
        one.kill()
        other.kill()
    eventually(lambda: not inspect.in_use(name), "nobody uses it")
    with Namespace(name, capacity=32, threads=8) as namespace:
        assert namespace.created
        assert namespace.objects() == ()
        assert namespace.mutex("lock").acquire() == Acquired.ACQUIRED
        namespace.mutex("lock").release()
        check(name)
