"""Signals and waits: Ctrl-C ends every kind of wait, a wait that raises has taken nothing, and a
handler that returns changes nothing, the deadline included.

The waiting thread is the main thread of an actor, the only one that Python runs handlers on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from shmsync import Acquired, Namespace

from ..conftest import StartActors
from ..support.actor_main import HandlerError
from ..support.actors import Actor
from ..support.peek import Peek
from ..support.watchdog import eventually

#: Every way to wait on the mutex "m", the semaphore "s" and the event "e", none of them signaled.
WAITS: dict[str, tuple[object, ...]] = {
    "acquire of a mutex": ("method", "m", "acquire"),
    "with mutex": ("with", "m"),
    "acquire of a semaphore": ("method", "s", "acquire"),
    "with semaphore": ("with", "s"),
    "wait of an event": ("method", "e", "wait"),
    "wait_any": ("wait", ["s", "m", "e"], False, None, None),
    "wait_any with an alert": ("wait", ["s", "m"], False, None, "e"),
    "wait_all": ("wait", ["s", "m", "e"], True, None, None),
    "wait_all with an alert": ("wait", ["s", "m"], True, None, "e"),
    "signal_and_wait": ("signal_and_wait", "other", "s", None),
}


class Waiting:
    """An actor that waits on objects of which none is signaled."""

    def __init__(self, ns: Namespace, start: StartActors) -> None:
        self.ns = ns
        self.mutex = ns.mutex("m", owned=True)
        self.semaphore = ns.semaphore("s", 0)
        self.event = ns.event("e")
        self.other = ns.event("other")
        [self.actor] = start("waiter")
        for key, kind in (("m", "mutex"), ("s", "semaphore"), ("e", "event"), ("other", "event")):
            self.actor.make(key, kind, key)

    def start(self, wait: tuple[object, ...]) -> None:
        """Returns when it sleeps."""
        op, *arguments = wait
        self.actor.start(str(op), *arguments)
        self.actor.until_blocked()

    def signal_everything(self) -> None:
        """Whoever still waited would take something now."""
        self.mutex.release()
        self.semaphore.release()
        self.event.set()

    def untouched(self) -> bool:
        """Is everything that was signaled still there?"""
        states = (self.mutex.state().owner, self.semaphore.state().count, self.event.is_set())
        return states == (0, 1, True)


@pytest.fixture
def waiting(ns: Namespace, start: StartActors) -> Waiting:
    """The actor, with nothing started."""
    return Waiting(ns, start)


def waiters(ns: Namespace) -> int:
    """How many threads say that they wait."""
    with Peek(ns.name) as peek:
        return len(list(peek.waiters()))


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_ends_every_wait_and_nothing_is_taken(
    waiting: Waiting, wait: tuple[object, ...]
) -> None:
    waiting.start(wait)
    os.kill(waiting.actor.pid, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        waiting.actor.finish()
    assert waiters(waiting.ns) == 0
    waiting.signal_everything()
    assert waiting.actor.call("signals_seen") == 0
    assert waiting.untouched()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_handler_that_raises_ends_every_wait_and_nothing_is_taken(
    waiting: Waiting, wait: tuple[object, ...]
) -> None:
    waiting.actor.call("on_signal", signal.SIGUSR1, "raise")
    waiting.start(wait)
    os.kill(waiting.actor.pid, signal.SIGUSR1)
    with pytest.raises(HandlerError):
        waiting.actor.finish()
    assert waiters(waiting.ns) == 0
    waiting.signal_everything()
    assert waiting.actor.call("signals_seen") == 1
    assert waiting.untouched()


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_handler_that_returns_leaves_every_wait_as_it_was(
    waiting: Waiting, wait: tuple[object, ...]
) -> None:
    asker = waiting.actor.thread("asker")
    waiting.actor.call("on_signal", signal.SIGUSR1, "count")
    waiting.start(wait)
    for number in (1, 2, 3):
        os.kill(waiting.actor.pid, signal.SIGUSR1)
        eventually(lambda n=number: asker.call("signals_seen") == n, "the handler")  # type: ignore[misc]
        waiting.actor.until_blocked()
    waiting.signal_everything()
    assert waiting.actor.finish() is not None


@pytest.mark.parametrize("everything", [False, True])
def test_deadline_survives_handlers_that_return(waiting: Waiting, everything: bool) -> None:
    """If a signal started the time anew, this wait would not end while signals keep coming."""
    asker = waiting.actor.thread("asker")
    waiting.actor.call("on_signal", signal.SIGUSR1, "count")
    waiting.actor.start("timed_wait", ["s", "m"], everything, 0.5)
    while waiting.actor.busy():
        before = asker.call("signals_seen")
        os.kill(waiting.actor.pid, signal.SIGUSR1)
        eventually(lambda n=before: asker.call("signals_seen") > n, "the handler")  # type: ignore[misc]
    result, seconds = waiting.actor.finish()
    assert result is None
    assert seconds >= 0.5
    assert waiting.actor.call("signals_seen") >= 1


#: Waits that a release by somebody else ends; what it releases, and whether it is still there.
RACES: dict[str, tuple[tuple[object, ...], Callable[[Waiting], bool]]] = {
    "semaphore": (WAITS["acquire of a semaphore"], lambda w: w.semaphore.state().count == 1),
    "mutex": (WAITS["acquire of a mutex"], lambda w: w.mutex.state().owner == 0),
    "event": (WAITS["wait of an event"], lambda w: w.event.is_set()),
    "wait_any": (WAITS["wait_any"], Waiting.untouched),
    "wait_all": (WAITS["wait_all"], Waiting.untouched),
    "alert": (("wait", ["other"], False, None, "e"), lambda w: w.event.is_set()),
}


def interrupted(actor: Actor) -> bool:
    """How did a wait end to which Ctrl-C and its success came together?"""
    try:
        assert actor.finish()
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize(("wait", "is_there"), RACES.values(), ids=RACES.keys())
def test_ctrl_c_together_with_the_result_takes_or_raises_but_not_both(
    waiting: Waiting, wait: tuple[object, ...], is_there: Callable[[Waiting], bool]
) -> None:
    """The process is stopped in its wait, so that both are there when it goes on."""
    waiting.start(wait)
    os.kill(waiting.actor.pid, signal.SIGSTOP)
    waiting.signal_everything()
    os.kill(waiting.actor.pid, signal.SIGINT)
    os.kill(waiting.actor.pid, signal.SIGCONT)
    raised = interrupted(waiting.actor)
    assert is_there(waiting) is raised


def test_waiter_that_was_interrupted_can_wait_again(waiting: Waiting) -> None:
    waiting.start(WAITS["acquire of a semaphore"])
    os.kill(waiting.actor.pid, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        waiting.actor.finish()
    waiting.start(WAITS["acquire of a semaphore"])
    waiting.semaphore.release()
    assert waiting.actor.finish() == Acquired.ACQUIRED
    assert waiting.semaphore.state().count == 0


STORMS = {"acquire": ["s"], "wait_any": ["closed", "s"], "wait_all": ["open", "s"]}


@pytest.mark.parametrize(("how", "keys"), STORMS.items(), ids=STORMS.keys())
def test_storm_of_signals_loses_no_token_and_takes_none_twice(
    waiting: Waiting, how: str, keys: list[str]
) -> None:
    """Each token is taken by a wait that returned, or is still there after one that raised."""
    tokens = 1000
    open_ = waiting.ns.event("open", manual_reset=True, signaled=True)
    closed = waiting.ns.event("closed")
    waiting.actor.make("open", "event", "open")
    waiting.actor.make("closed", "event", "closed")
    waiting.actor.call("on_signal", signal.SIGUSR1, "raise if armed")
    waiting.actor.start("take_while_interrupted", how, keys, tokens)
    waiting.actor.until_blocked()
    for _ in range(tokens):
        os.kill(waiting.actor.pid, signal.SIGUSR1)
        waiting.semaphore.release()
        os.kill(waiting.actor.pid, signal.SIGUSR1)
    assert waiting.actor.finish() > 0
    assert waiting.semaphore.state().count == 0
    assert (open_.is_set(), closed.is_set()) == (True, False)


def test_storm_of_signals_leaves_no_mutex_owned_that_a_with_statement_did_not_enter(
    waiting: Waiting,
) -> None:
    """There is no moment at which ``with`` has taken its mutex and would not give it back."""
    waiting.mutex.release()
    waiting.actor.call("on_signal", signal.SIGALRM, "raise if armed")
    assert waiting.actor.call("enter_while_interrupted", "m", 2000) > 0
    assert waiting.mutex.state().count == 0
