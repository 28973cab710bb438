"""Emulated eventfds under the scheduler, and what it finds in esync with them."""

from __future__ import annotations

import errno

import pytest
from shmsync_tools.lab.schedules import outcomes
from shmsync_tools.stage import (
    SOME_TIME,
    Stage,
    State,
    abandon,
    clear,
    pulse,
    release,
    set_,
    unlock,
    wait,
)

from ..support.explore import explore_far, failures
from .programs import FAULTY, PROGRAMS


def test_a_poll_sleeps_until_a_write_and_looks_again() -> None:
    with Stage("esync") as stage:
        s = stage.semaphore("S")
        a = stage.thread("A", wait(s))
        b = stage.thread("B", release(s))
        stage.start()
        assert a.run() is State.SLEEPING
        b.until("write", "S.eventfd")
        assert stage.words()["S"] == (100, 1, 0), "the slot says that there is a token already"
        assert a.state is State.SLEEPING
        b.step()
        assert a.pending
        assert (a.pending.op, a.pending.word) == ("poll", "S.eventfd")
        a.finish()
        assert (stage.words()["S"], stage.states()["S"].count) == ((100, 0, 0), 0)
        assert [step.op for step in stage.trace if step.word == "S.eventfd"] == [
            "poll",
            "write",
            "poll",
            "read",
        ]


def test_who_is_woken_for_what_somebody_else_has_read_sleeps_again() -> None:
    """F26, F28."""
    with Stage("esync") as stage:
        e = stage.event("E")
        a, b = stage.thread("A", wait(e)), stage.thread("B", wait(e))
        c = stage.thread("C", set_(e))
        stage.start()
        assert (a.run(), b.run()) == (State.SLEEPING, State.SLEEPING)
        c.finish()
        b.finish()
        assert a.run() is State.SLEEPING
        assert not stage.states()["E"].signaled


def test_a_deadline_ends_a_poll_after_a_last_look() -> None:
    with Stage("esync") as stage:
        e = stage.event("E")
        a = stage.thread("A", wait(e, timeout=SOME_TIME), wait(e, timeout=0))
        stage.start()
        a.run()
        a.time_out()
        a.finish()
        assert [result.code for result in a.results] == [-110, -110]


def test_a_restart_brings_the_counters_back() -> None:
    with Stage("esync") as stage:
        s = stage.semaphore("S", 2)
        a = stage.thread("A", wait(s), wait(s))
        stage.start()
        for _ in range(2):
            a.finish()
            assert stage.states()["S"].count == 0
            stage.restart()
        assert stage.states()["S"].count == 2


def test_endings_that_differ_only_in_a_counter_are_told_apart() -> None:
    with Stage("esync") as stage:
        x = stage.event("X", signaled=True)
        threads = [stage.thread(f"S{i}", set_(x)) for i in (1, 2)]
        threads.append(stage.thread("C", clear(x)))
        stage.start()
        ends = set()
        for _ in outcomes(stage):
            if [each.results[0].code for each in threads] == [1, 1, 1]:
                ends.add(stage.words()["X"])
        assert ends == {(0, 0, 0), (0, 0, 1), (0, 0, 2)}, "the reset comes last, and reads too soon"


@pytest.mark.parametrize("name", ["fsync", "esync", "handoff"])
def test_nobody_cannot_be_declared_dead(name: str) -> None:
    with Stage(name) as stage:
        m = stage.mutex("M")
        k = stage.thread("K", abandon(m), wait(m, timeout=0))
        stage.start()
        k.finish()
        assert [(each.code, each.abandoned) for each in k.results] == [(-errno.EPERM, 0), (0, 0)]


def test_a_roll_back_gives_all_to_the_wrong_object() -> None:
    """F8: a mutex that B has just taken becomes readable while he owns it, and C takes it too."""
    with Stage("esync") as stage:
        x, y = stage.event("X", signaled=True), stage.mutex("Y")
        a = stage.thread("A", wait(x, y, all=True))
        b = stage.thread("B", wait(y), unlock(y))
        c = stage.thread("C", wait(y))
        stage.start()
        a.until("read", "X.eventfd")
        a.step()
        b.until_call(1)
        assert stage.states()["Y"].owner == b.number
        assert c.run() is State.SLEEPING
        a.run()
        c.finish()
        assert stage.states()["Y"].owner == c.number
        assert not stage.states()["X"].signaled
        b.finish()
        assert b.results[1].code == -1, "not his any more"


def test_a_pulse_of_a_set_event_leaves_a_slot_that_says_set() -> None:
    """F21."""
    with Stage("esync") as stage:
        e = stage.event("E", manual=True, signaled=True)
        a = stage.thread("A", pulse(e), wait(e), set_(e), clear(e), wait(e, timeout=0))
        stage.start()
        a.finish()
        assert [result.code for result in a.results] == [1, 0, 1, 1, -110]


#: What fsync gets wrong and esync does not.
RIGHT = {
    "poll_beside_a_taker",
    "any_of_two",
    "poll_against_set_and_clear",
    "poll_against_ordered_sets",
}


@pytest.mark.seconds(200)
@pytest.mark.parametrize("program", FAULTY)
def test_the_search_finds_what_esync_gets_wrong(program: str) -> None:
    with Stage("esync") as stage:
        PROGRAMS[program](stage)
        stage.start()
        found = [failures(stage, each) for each in explore_far(stage, schedules_max=50_000)]
        assert any(found) is (program not in RIGHT)


def test_the_search_finds_a_token_that_is_counted_and_not_there() -> None:
    """F41: a release has counted its token, and is held before it writes it."""
    with Stage("esync") as stage:
        PROGRAMS["five_at_two_semaphores"](stage)
        stage.start()
        assert any(failures(stage, each) for each in explore_far(stage, schedules_max=5_000))
