"""The tools that the suite stands on: "blocked" means blocked, and what hangs fails by name."""

from __future__ import annotations

import os
import signal

import pytest

from shmsync import LimitError, Namespace
from shmsync.engine import Engine, Semantics, engines

from ..conftest import StartActors
from ..support.peek import thread_state
from ..support.watchdog import seen
from .needs import needs


def test_blocked_means_asleep_in_a_wait(ns: Namespace, start: StartActors) -> None:
    semaphore = ns.semaphore("s", 0)
    [actor] = start("A")
    actor.make("s", "semaphore", "s")
    actor.start("on_signal", signal.SIGUSR1, "count")
    assert seen(lambda: not actor.busy())
    assert thread_state(actor.pid, actor.tid) == "S", "it sleeps, but in no wait"
    assert not actor.blocked()
    assert actor.finish() is None
    actor.start("method", "s", "acquire")
    actor.until_blocked()
    assert actor.blocked()
    os.kill(actor.pid, signal.SIGSTOP)
    assert seen(lambda: thread_state(actor.pid, actor.tid) == "T")
    assert not actor.blocked(), "it waits, but does not sleep"
    os.kill(actor.pid, signal.SIGCONT)
    semaphore.release()
    assert actor.finish()


def test_until_blocked_fails_if_the_call_finishes(ns: Namespace, start: StartActors) -> None:
    [actor] = start("A")
    actor.make("s", "semaphore", "s", 1)
    actor.start("method", "s", "acquire")
    with pytest.raises(pytest.fail.Exception, match="should be blocked, but finished"):
        actor.until_blocked()


def test_actor_that_does_not_answer_is_killed_and_named(ns: Namespace, start: StartActors) -> None:
    [actor] = start("sleeper")
    actor.make("s", "semaphore", "s", 0)
    actor.start("method", "s", "acquire")
    with pytest.raises(pytest.fail.Exception, match=r"sleeper: no answer to method.*acquire"):
        actor.finish(patience=0.1)
    assert actor.process.returncode == -signal.SIGKILL


def test_actor_that_dies_fails_the_test_that_waits_for_it(
    ns: Namespace, start: StartActors
) -> None:
    [actor] = start("A")
    actor.make("s", "semaphore", "s", 0)
    actor.start("method", "s", "acquire")
    os.kill(actor.pid, signal.SIGKILL)
    with pytest.raises(pytest.fail.Exception, match=r"ended \(-9\) without an answer"):
        actor.finish()


def test_errors_of_an_actor_are_raised_as_what_they_are(ns: Namespace, start: StartActors) -> None:
    [actor] = start("A")
    actor.make("s", "semaphore", "s", 1, maximum=1)
    with pytest.raises(LimitError, match="maximum"):
        actor.method("s", "release")


@needs(Semantics(0))
def test_every_engine_that_works_here_is_tested(engine: Engine) -> None:
    assert engines()[engine.name] == engine
    assert engine.check() is None
