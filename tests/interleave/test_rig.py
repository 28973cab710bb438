"""The rig itself: it is deterministic, its reduction leaves nothing out, it finds what is
planted."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from shmsync_tools.stage import (
    SOME_TIME,
    Grant,
    ObjectState,
    Stage,
    State,
    clear,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

from shmsync._traced import lib

from ..mending.mends import Mend
from ..mending.workshop import Workshop
from ..support.explore import (
    Ending,
    Explainer,
    explore,
    failures,
    from_text,
    in_words,
    look,
    replay,
    to_text,
)
from .planted import planted_explored
from .programs import PROGRAMS, Program

#: Programs small enough for every schedule to be run without reduction.
SMALL = (
    "waiter_and_two_releases",
    "set_against_timeout",
    "set_and_clear_against_poll",
    "poll_beside_a_taker",
    "pulse_against_waiter",
    "owner_dies_unswept",
    "two_sweepers",
)
SCHEDULES = Path(__file__).parent / "schedules"

NO_WAKE = (
    "    wake_everybody(object);\n    return previous;\n}\n\nstatic int64_t fsync_event_set",
    "    return previous;\n}\n\nstatic int64_t fsync_event_set",
)
SWAPPED = (
    "    store32_relaxed(&object->word1, previous - 1);\n    if (previous == 1) {\n"
    "        store32_release(&object->word0, 0);",
    "    if (previous == 1)\n        store32_release(&object->word0, 0);\n"
    "    store32_relaxed(&object->word1, previous - 1);\n    if (previous == 1) {",
)
TWO_STEPS = (
    "return count != 0 && cas32_acq_rel(&object->word0, count, count - 1) == count;",
    "if (count != 0)\n        store32_release(&object->word0, count - 1);\n    return count != 0;",
)
#: Sleeps that are shorter than the wait may last, after which the dead are looked for.
BOUNDED = (
    "    rc = futex_waitv(sleeps, count, wait->deadline_ns);\n",
    """\
    uint64_t until = clock_now_ns() + BUSY_LIMIT_NS;
    rc = futex_waitv(sleeps, count, until < wait->deadline_ns ? until : wait->deadline_ns);
    if (rc == -ETIMEDOUT && clock_now_ns() < wait->deadline_ns && gate_lock(wait->ns) == 0) {
        owner_reap_threads(wait->ns);
        gate_unlock(wait->ns);
        return 0;
    }
""",
)
#: Faults planted in the engine, with the program whose exploration has to find each.
PLANTED: dict[str, tuple[str, Mend]] = {
    "a lost wake-up": (
        "waiter_and_two_releases",
        Mend("a release wakes nobody", (NO_WAKE,)),
    ),
    "a release whose stores are swapped": (
        "contenders_with_recursion",
        Mend("the mutex is free before its count is", (SWAPPED,)),
    ),
    "a take that is two steps": (
        "releases_at_the_maximum",
        Mend("the count is read and written back", (TWO_STEPS,)),
    ),
}


def precedence(ending: Ending) -> frozenset[tuple[tuple[int, int], tuple[int, int]]]:
    """Which call had returned, or slept, before which other one began."""
    order = []
    for at, later in enumerate(ending.events):
        if later.kind == lib.EVENT_BEGINS:
            before = [
                e for e in ending.events[:at] if e.kind in FINISHED and e.thread != later.thread
            ]
            order += [((e.thread, e.call), (later.thread, later.call)) for e in before]
    return frozenset(order)


FINISHED = (lib.EVENT_RETURNS, lib.EVENT_SLEEPS)


def relevant(ending: Ending) -> tuple[object, ...]:
    """What of an ending does not depend on whether somebody who was done was killed afterwards: the
    mutex that he had kept is owned, or abandoned."""
    states = tuple(
        State.DONE if None not in results and state is State.DEAD else state
        for state, results in zip(ending.states, ending.results, strict=True)
    )
    objects = tuple(
        "kept" if state.owner is not None or state.abandoned else state
        for _, state in ending.objects
    )
    return ending.results, states, objects, precedence(ending)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("kills", [0, 1])
def test_reduction_finds_every_ending_that_the_plain_search_finds(name: str, kills: int) -> None:
    with Stage() as stage:
        PROGRAMS[name](stage)
        stage.start(history=True)
        reduced = explore(stage, kills=kills)
        plain = explore(stage, kills=kills, preemptions=3, schedules_max=3_000_000)
        print(f"{name}, {kills} kills: {reduced}; {plain}")
        assert reduced.exhausted
        assert plain.exhausted
        found = {relevant(outcome.ending) for outcome in reduced.outcomes}
        assert {relevant(outcome.ending) for outcome in plain.outcomes} <= found
        assert plain.schedules >= reduced.schedules


@pytest.mark.parametrize("name", SMALL)
def test_a_search_repeats_exactly(name: str) -> None:
    def search() -> object:
        with Stage() as stage:
            PROGRAMS[name](stage)
            stage.start()
            return explore(stage, kills=1), explore(stage, random=500, seed=7)

    assert search() == search()


def test_seeds_differ_and_repeat() -> None:
    with Stage() as stage:
        PROGRAMS["any_of_two"](stage)
        stage.start()
        first, again, other = (explore(stage, random=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [each.schedule for each in first.outcomes] != [each.schedule for each in other.outcomes]


def test_a_killed_thread_dies_before_each_of_its_steps() -> None:
    with Stage() as stage:
        event = stage.event("E")
        stage.thread("A", set_(event), clear(event))
        stage.start()
        found = explore(stage, kills=1)
        schedules = [outcome.schedule for outcome in found.outcomes]
        (alive,) = (each for each in schedules if (0, Grant.KILL) not in each)
        killed_after = [len(each) - 1 for each in schedules if (0, Grant.KILL) in each]
        stage.play(alive)
        assert len(stage.trace) == len(alive)
        # Endings that look the same are one; so each is the first kill that left something new.
        assert len(killed_after) >= 4
        assert found.schedules == len(alive) + 1


@pytest.mark.parametrize("registered", [True, False])
def test_a_kill_is_tried_before_each_step_behind_the_gate(registered: bool) -> None:
    """Of a sweep, and of a registration."""
    with Stage() as stage:
        s = stage.semaphore("S", count=1)
        stage.thread("A", sweep() if registered else wait(s))
        stage.start(registered=registered)
        found = explore(stage, kills=1)
        (alive,) = (e for e in found.outcomes if (0, Grant.KILL) not in e.schedule)
    assert found.exhausted
    assert found.schedules == len(alive.schedule) + 1
    print(f"registered {registered}: {len(alive.schedule)} kill points")


@pytest.mark.parametrize("registered", [True, False])
def test_who_comes_to_the_gate_after_a_kill_is_told(registered: bool) -> None:
    """Whoever dies between the lock and the unlock, which he need not be behind to be killed."""
    with Stage() as stage:
        s = stage.semaphore("S", count=2)
        a, b = (stage.thread(name, sweep() if registered else wait(s)) for name in "AB")
        stage.start(registered=registered)
        a.finish()
        steps = [(step.op, step.word) for step in stage.trace]
        begin, end = steps.index(("lock", "gate")), steps.index(("unlock", "gate"))
        for point in range(len(steps)):
            stage.play([(0, Grant.STEP)] * point)
            held = begin < point <= end
            if held:
                b.run()
                assert b.state is State.BLOCKED
                assert not b.can()
            a.kill()
            b.finish()
            assert b.results[0].code == 0
            told = [step.result for step in stage.trace if step.thread == "B" and step.op == "lock"]
            assert told == [-errno.EOWNERDEAD if held else 0]
    print(f"registered {registered}: {end - begin} kill points of {len(steps)} hold the gate")


def test_a_sleeper_can_be_killed() -> None:
    with Stage() as stage:
        e = stage.event("E")
        a, b = stage.thread("A", wait(e)), stage.thread("B", wait(e))
        c = stage.thread("C", set_(e))
        stage.start()
        a.run()
        b.run()
        a.kill()
        c.finish()
        assert [step.result for step in stage.trace if step.op == "wake"] == [1]
        b.finish()
        assert look(stage).states == (State.DEAD, State.DONE, State.DONE)


def test_a_mutex_whose_holder_was_killed_can_be_had() -> None:
    """Robust mutexes as the kernel leaves them, seen through the sweeper."""
    with Stage() as stage:
        PROGRAMS["owner_dies"](stage)
        stage.start()
        a, b, s = stage.threads
        a.until_call(1)
        b.run()
        assert b.state is State.SLEEPING
        a.kill()
        s.finish()
        assert b.run() is State.DONE
        assert b.results[0].abandoned == 1
        assert look(stage).states == (State.DEAD, State.DONE, State.DONE)


def test_nobody_can_be_granted_what_cannot_be() -> None:
    with Stage() as stage:
        m = stage.mutex("M")
        a = stage.thread("A", wait(m))
        stage.start()
        a.finish()
        assert not a.can(Grant.STEP)
        with pytest.raises(AssertionError, match="cannot be granted"):
            a.step()


def test_an_endless_program_is_cut_off_and_said_to_be_endless() -> None:
    """Two waits for all in opposite order that roll back for each other (F14)."""
    with Stage() as stage:
        x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
        stage.thread("A", wait(x, y, all=True))
        stage.thread("B", wait(y, x, all=True))
        stage.start()
        found = explore(stage, steps_max=80, schedules_max=20_000)
        assert any(outcome.ending.endless for outcome in found.outcomes)


def test_the_model_refuses_a_forged_history() -> None:
    """A canary: an ending that cannot be is not explained."""
    with Stage() as stage:
        s = stage.semaphore("S", count=1)
        stage.thread("A", wait(s))
        stage.thread("B", release(s))
        stage.start()
        found = explore(stage)
        assert not failures(stage, found)
        outcome = found.outcomes[0]
        forged = Ending(
            outcome.ending.events,
            (((0, 0, 0),), ((2, 0, 0),)),
            outcome.ending.states,
            outcome.ending.objects,
        )
        changed = type(found)(1, 1, 1, True, "forged", (type(outcome)(forged, (), 1),))
        assert failures(stage, changed)


def test_an_abandoned_program_leaves_the_stage_usable() -> None:
    with Stage() as stage:
        m = stage.mutex("M")
        a = stage.thread("A", wait(m), unlock(m))
        stage.start()
        a.step()
        stage.restart()
        a.finish()
        assert stage.words()["M"][0] == 0


# ---- kept schedules ----


def kept() -> list[Path]:
    """Schedules worth keeping: a line with the program, one with the schedule, then the ending."""
    return sorted(SCHEDULES.glob("*.txt"))


def describe(stage: Stage, ending: Ending) -> str:
    """An ending as text."""
    lines = [
        f"{thread.name} {state.name.lower()} {[None if r is None else r[0] for r in results]}"
        for thread, state, results in zip(stage.threads, ending.states, ending.results, strict=True)
    ]
    lines += [f"{name} {in_words(state)}" for name, state in ending.objects]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", kept(), ids=lambda path: path.stem)
def test_a_kept_schedule_leads_where_it_led(path: Path) -> None:
    """SHMSYNC_REWRITE=1 writes what it leads to now: look at the difference, then commit it."""
    name, schedule, expected = path.read_text().split("\n", 2)
    program: Program = PROGRAMS[name]
    with Stage() as stage:
        program(stage)
        stage.start()
        found = describe(stage, replay(stage, from_text(schedule)))
    assert to_text(from_text(schedule)) == schedule
    if os.environ.get("SHMSYNC_REWRITE"):
        path.write_text(f"{name}\n{schedule}\n{found}")
    assert found == expected


def test_there_are_kept_schedules() -> None:
    assert len(kept()) >= 3


# ---- planted faults ----


@pytest.mark.seconds(300)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(workshop: Workshop, fault: str) -> None:
    program, planted = PLANTED[fault]
    module = workshop.build(fault.replace(" ", "-"), planted)
    report = planted_explored(module, "fsync", program)
    assert report["failures"], f"{fault}: not found in {report['schedules']} schedules"
    print(f"{fault}: {report['first']}")


# ---- bounded sleeps ----


@pytest.fixture(scope="module")
def bounded(workshop: Workshop) -> Path:
    """A module whose waits sleep for a bounded time, and look for dead owners after it."""
    return workshop.build("bounded", Mend("sleeps are bounded", (BOUNDED,)))


@pytest.mark.seconds(300)
@pytest.mark.parametrize("method", [{}, {"preemptions": 2}, {"random": 2000, "seed": 1}])
def test_a_thread_looks_again_after_a_kill(bounded: Path, method: dict[str, int]) -> None:
    found = planted_explored(bounded, "fsync", "owner_dies_unswept", kills=1, **method)
    print(f"{method}: {found['schedules']} schedules, {len(found['endings'])} endings")
    assert not found["failures"], found["first"]
    late = [schedule for schedule, _ in found["endings"] if "r" in schedule]
    assert late
    assert all("k" in schedule.split("r")[0] for schedule in late)
    # B, asleep, gets the mutex of the owner whom it finds dead.
    assert any("r" in schedule and results[1] == [0] for schedule, results in found["endings"])
    # The owner also dies when everything is quiet.
    assert any("0k 1r" in schedule for schedule in late)


@pytest.mark.seconds(300)
def test_reduction_leaves_no_ending_of_re_looks_out(bounded: Path) -> None:
    """As for the other programs, with a second kill after which they may look again once more."""

    def results(**options: int) -> set[str]:
        found = planted_explored(bounded, "fsync", "owner_dies_unswept", kills=2, **options)
        assert found["exhausted"]
        return {json.dumps(results) for _, results in found["endings"]}

    assert results() == results(preemptions=2)


@pytest.mark.seconds(300)
def test_who_may_not_look_again_stays_asleep(bounded: Path) -> None:
    found = planted_explored(bounded, "fsync", "owner_dies_unswept", kills=1, relooks=0)
    assert found["exhausted"]
    assert found["failures"]
    assert not any("r" in schedule for schedule, _ in found["endings"])


@pytest.mark.seconds(300)
def test_looking_again_does_not_heal_a_lost_wake(workshop: Workshop) -> None:
    """Without a kill nobody looks again."""
    module = workshop.build("bounded-no-wake", Mend("and a wake is missing", (BOUNDED, NO_WAKE)))
    found = planted_explored(module, "fsync", "waiter_and_two_releases")
    assert found["failures"]
    assert not any("r" in schedule for schedule, _ in found["endings"])


@pytest.mark.seconds(300)
def test_the_deadline_of_a_call_ends_a_bounded_sleep(bounded: Path) -> None:
    found = planted_explored(bounded, "fsync", "set_against_timeout")
    assert not found["failures"], found["first"]
    assert {results[0][0] for _, results in found["endings"]} == {0, -errno.ETIMEDOUT}
    assert all(("t" in s) == (r[0][0] != 0) for s, r in found["endings"])


def test_a_sleep_to_the_deadline_has_no_second_look() -> None:
    with Stage() as stage:
        e = stage.event("E")
        a, b = (stage.thread("A", wait(e)), stage.thread("B", wait(e, timeout=SOME_TIME)))
        stage.start()
        for each in (a, b):
            assert not each.can(Grant.RELOOK)
            assert each.run() is State.SLEEPING
            assert not each.can(Grant.RELOOK)
        with pytest.raises(AssertionError, match="cannot be granted a RELOOK"):
            a.look_again()
        assert not a.can(Grant.TIMEOUT)
        b.time_out()
        b.finish()
        assert b.results[0].code == -errno.ETIMEDOUT


def test_schedules_as_text() -> None:
    text = "0 1t 0k 1r"
    grants = [grant for _, grant in from_text(text)]
    assert grants == [Grant.STEP, Grant.TIMEOUT, Grant.KILL, Grant.RELOOK]
    assert to_text(from_text(text)) == text


# ---- mutexes of the dead ----


@pytest.mark.parametrize("waiting", [False, True])
def test_whom_only_a_visitor_wakes_has_slept_too_long(waiting: bool) -> None:
    """A dead owner whom nobody waits for is found by whoever comes next."""
    with Stage() as stage:
        m = stage.mutex("M")
        a = stage.thread("A", wait(m))
        b = stage.thread("B", *([wait(m)] if waiting else []))
        stage.start()
        a.finish()
        b.run()
        a.kill()
        assert not Explainer(stage, look(stage), queued=True).explains()
        lib.sched_visit()
        ending = look(stage)
        assert ending.objects == (("M", ObjectState(0, 0, None, True, False)),)
        assert Explainer(stage, ending, queued=True).explains() is not waiting
