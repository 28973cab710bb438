"""Mutexes that need not be fair: everything else that a mutex is, and nobody is forgotten."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shmsync import Acquired, Mutex, Namespace
from shmsync.engine import Semantics

from ..conftest import StartActors
from ..support.watchdog import eventually
from .needs import needs

#: Takes and releases a mutex as fast as it can, until its standard input ends.
GREEDY = """
import sys, threading
from shmsync import Namespace
enough = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), enough.set()), daemon=True).start()
with Namespace(sys.argv[1], create=False) as ns:
    mutex = ns.mutex("m")
    with mutex:
        print("ready", flush=True)
    while not enough.is_set():
        with mutex:
            pass
"""


@pytest.fixture
def unfair(ns: Namespace) -> Mutex:
    """A mutex that need not be fair."""
    return ns.mutex("m", fair=False)


@contextmanager
def greedy(ns: Namespace) -> Iterator[None]:
    """A process that always wants the mutex."""
    command = [sys.executable, "-c", GREEDY, ns.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.communicate()
    assert process.returncode == 0


def test_an_unfair_mutex_is_recursive_and_owned(unfair: Mutex, start: StartActors) -> None:
    [other] = start("other")
    other.make("m", "mutex", "m")
    assert unfair.acquire() is Acquired.ACQUIRED
    assert unfair.acquire() is Acquired.ACQUIRED
    assert other.method("m", "acquire", timeout=0.01) == Acquired.TIMED_OUT
    assert [unfair.release(), unfair.release()] == [2, 1]
    assert other.method("m", "acquire") == Acquired.ACQUIRED


def test_an_unfair_mutex_tells_of_its_owners_death(unfair: Mutex, start: StartActors) -> None:
    owner, waiter = start("owner", "waiter")
    for actor in (owner, waiter):
        actor.make("m", "mutex", "m")
    owner.method("m", "acquire")
    waiter.start("method", "m", "acquire")
    waiter.until_blocked()
    owner.kill()
    assert waiter.finish() == Acquired.ABANDONED
    assert unfair.acquire(timeout=0) is Acquired.TIMED_OUT


@pytest.mark.usefixtures("unfair")
def test_who_waits_for_an_unfair_mutex_gets_it_from_those_who_never_stop(ns: Namespace) -> None:
    """Would they only be woken, they would lose nearly every race against two who run."""
    mutex = ns.mutex("m")
    with greedy(ns), greedy(ns):
        for _ in range(100):
            with mutex:
                assert mutex.state().count == 1


def test_one_release_of_an_unfair_mutex_is_enough_for_all_who_wait(
    unfair: Mutex, start: StartActors
) -> None:
    actors = start("A", "B", "C")
    unfair.acquire()
    for actor in actors:
        actor.make("m", "mutex", "m")
        actor.start("method", "m", "acquire")
        actor.until_blocked()
    unfair.release()
    left = list(actors)
    while left:
        eventually(lambda: any(not each.busy() for each in left), "the next owner")
        [owner] = [each for each in left if not each.busy()]
        assert owner.finish() == Acquired.ACQUIRED
        owner.method("m", "release")
        left.remove(owner)


@needs(Semantics.FIFO)
def test_a_mutex_stays_as_fair_as_it_was_made(ns: Namespace, start: StartActors) -> None:
    mutex = ns.mutex("m", owned=True)
    actors = start("A", "B", "C")
    for actor in actors:
        actor.make("m", "mutex", "m", fair=False)
        actor.start("method", "m", "acquire")
        actor.until_blocked()
    mutex.release()
    for actor in actors:
        assert actor.finish() == Acquired.ACQUIRED
        assert all(other.busy() for other in actors[actors.index(actor) + 1 :])
        actor.method("m", "release")
