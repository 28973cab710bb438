"""Every suite once, with very little to do: who takes part gives a value for each metric. How long
anything takes is not looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shmsync_tools.bench import runner
from shmsync_tools.bench.contestants import (
    Contestant,
    Kind,
    Part,
    Ticket,
    everybody,
    opened,
)
from shmsync_tools.bench.contestants.ours import Ours, has_unfair_mutex
from shmsync_tools.bench.leftovers import fresh_name, sweep
from shmsync_tools.bench.model import TaskError
from shmsync_tools.bench.pool import Pool
from shmsync_tools.bench.results import CaseResult
from shmsync_tools.bench.suites import SUITES, contended, death
from shmsync_tools.bench.worker import Conversation

from shmsync.engine import engines

from .conftest import TINY, MakeSetup

#: Who takes part beside handoff. A killed owner of multiprocessing's is another test.
PEERS: dict[str, tuple[str, ...]] = dict.fromkeys(
    SUITES, ("multiprocessing", "eventfd", "threading", "floor")
)
PEERS["death"] = ("fcntl", "floor")


def check(case: CaseResult) -> None:
    for label, outcome in case.outcomes.items():
        assert outcome.failed is None, f"{case.name}: {label} {outcome.failed}"
        if outcome.absent:
            assert label == "handoff fair=False"
            assert not has_unfair_mutex()
            continue
        assert set(outcome.values) == {metric.name for metric in case.metrics}
        assert all(value >= 0 for values in outcome.values.values() for value in values)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_measures_all_who_take_part(setup: MakeSetup, name: str) -> None:
    cases = runner.run_suite(setup("handoff", *PEERS[name]), SUITES[name], runner.quiet)
    assert cases
    for case in cases:
        assert "handoff" in case.outcomes
        check(case)


@pytest.mark.parametrize("name", ["uncontended", "pingpong", "idle"])
def test_a_suite_runs_without_peers_on_every_engine(setup: MakeSetup, name: str) -> None:
    for engine, declared in engines().items():
        if declared.check():
            continue
        for case in runner.run_suite(setup(engine), SUITES[name], runner.quiet):
            check(case)


def test_who_never_hears_of_a_dead_owner_is_said_not_to(
    setup: MakeSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(death, "NEVER_SECONDS", 1.5)
    (case,) = runner.run_suite(setup("handoff", "posix_ipc"), SUITES["death"], runner.quiet)
    assert case.outcomes["handoff"].values["told"] == [1.0]
    assert case.outcomes["posix_ipc.Semaphore"].failed == "never: nothing for 1.5 s"


def test_an_addition_that_was_lost_ends_the_contestant() -> None:
    assert contended.judged([(75, 1.0), (25, 2.0)], 100) == {"rate": 50, "share": 25}
    with pytest.raises(TaskError, match="excludes nobody: 1 of 100 updates lost"):
        contended.judged([(75, 1.0), (25, 2.0)], 99)


# ---- contestants ----


def give(me: Conversation, ticket: Ticket) -> None:
    """Gives, when told."""
    with opened(ticket, Part.GIVES) as it:
        if ticket.kind is Kind.LOCK:
            it.take()
        me.say("ready")
        me.hear()
        it.give()
        me.hear()


def take(me: Conversation, ticket: Ticket) -> None:
    """Takes."""
    with opened(ticket, Part.TAKES) as it:
        me.say("ready")
        me.hear()
        it.take()
        if ticket.kind is Kind.LOCK:
            it.give()


def use_once(me: Conversation, ticket: Ticket) -> None:
    """Gives and takes in one process."""
    with opened(ticket) as it:
        for call in (it.take, it.give) if ticket.kind is Kind.LOCK else (it.give, it.take):
            call()


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_what_one_process_gives_another_takes(setup: MakeSetup, kind: Kind) -> None:
    pool = setup().pool
    for each in everybody().values():
        if each.kind is not kind or each.absent():
            continue
        with each.ticket(fresh_name()) as ticket:
            if each.local:
                pool.workers(1)[0].call(use_once, ticket, seconds=TINY.patience)
            else:
                hand_over(pool, ticket)
    sweep()  # iceoryx2 keeps files for all who may come


def hand_over(pool: Pool, ticket: Ticket) -> None:
    """One worker gives, and the other takes."""
    giver, taker = pool.workers(2)
    for worker, task in ((giver, give), (taker, take)):
        worker.start(task, ticket)
        worker.hear(TINY.patience)
    for worker in (taker, giver):
        worker.say("go")
    taker.result(TINY.patience)
    giver.say("end")
    giver.result(TINY.patience)


def test_an_engine_that_cannot_work_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(engines()["handoff"], reasons={1: "there is none"}, number=99)
    monkeypatch.setattr("shmsync_tools.bench.contestants.ours.by_name", lambda name: broken)
    reason = Ours("handoff", Kind.LOCK).absent()
    assert reason is not None
    assert reason.startswith("not available here: ")


def test_a_peer_that_is_not_installed_says_how_to_install_it() -> None:
    class Missing(Contestant):
        module = "shmsync_no_such_module"

    reason = Missing().absent()
    assert reason is not None
    assert reason.endswith("pip install 'shmsync[bench]'")
