"""The engine ntsync: F1 to F35, where the scripts of the others do not fit.

A call is one step of the kernel's driver, and a wait that sleeps is served within the step of
whoever signals. So there is nothing to hold a thread in; it is held before its call, and what
matters is tried in every order that the calls can have.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from pathlib import Path

from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.real import namespace
from shmsync_tools.lab.scenario import Finding, ScriptedStage, Verdict, scenario
from shmsync_tools.lab.schedules import (
    Tried,
    as_far_as,
    in_all_schedules,
    returned_before,
    settle,
    sleeps_beside,
    slept_before,
    when_stopped,
)
from shmsync_tools.stage import (
    SOME_TIME,
    Grant,
    State,
    Thread,
    abandon,
    clear,
    pulse,
    read,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

ENGINES = ("ntsync",)
TIMED_OUT = -errno.ETIMEDOUT
#: Number of the system call that a wait sleeps in; where its request stands, and the flags in it.
IOCTL, REQUEST, FLAGS_AT, REALTIME = "16", 3, 24, 1


def nt(number: int) -> str:
    """What NT does: the driver is made to do the same."""
    return CATALOGUE[number].nt


def got(thread: Thread, call: int = 0) -> bool:
    """Has that call returned, and got what it waited for?"""
    result = thread.results[call]
    return result.finished and result.code == 0


def hold(stage: ScriptedStage, thread: Thread) -> None:
    """Holds a thread before the one step in which it takes what it waits for."""
    stage.say(f"{thread.name} is held before its wait, which is one step: it has taken nothing")
    thread.until("wait")


# ---- F1 to F17: waiting for several objects ----


@scenario(1, engines=ENGINES)
def half_done(stage: ScriptedStage) -> Finding:
    """A wait-all is never seen half done"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x, timeout=0), read(x), set_(x))
    c = stage.thread("C", clear(y))

    def seen_half() -> bool:
        polled, state, set_before = b.results
        told = polled.code, state.state["signaled"], set_before.code
        return (b.state, told, a.state) == (State.DONE, (TIMED_OUT, 0, 0), State.SLEEPING)

    stage.start()
    tried = in_all_schedules(stage, seen_half)
    hold(stage, a)
    stage.say("C resets Y; B polls X and gets it, and sets it again")
    settle([c, b])
    stage.say("A finds Y reset, and sleeps")
    a.run()
    return tried.occurs_if(
        seen_half(),
        "B found X reset, and A, who sleeps, has not got it.",
        nt=nt(1),
        otherwise="B finds X set unless A has got both. Here B came first, and A took nothing.",
    )


@scenario(2, engines=ENGINES)
def no_roll_back(stage: ScriptedStage) -> Finding:
    """A wait-all that fails puts nothing back, and leaves nobody asleep"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x))
    c = stage.thread("C", clear(y), set_(x))
    stage.start()
    tried = in_all_schedules(stage, lambda: sleeps_beside(stage, b, "X"))
    hold(stage, a)
    stage.say("C resets Y; A finds it so, and sleeps")
    as_far_as(c, 1)
    a.run()
    stage.say("B takes X, which A has never had; C sets X again")
    settle([b, c])
    return tried.occurs_if(
        sleeps_beside(stage, b, "X"),
        "B sleeps although X, all that it waits for, is set.",
        nt=nt(2),
        otherwise="B never sleeps while X is set.",
    )


@scenario(3, engines=ENGINES)
def owned_mutex_stays(stage: ScriptedStage) -> Finding:
    """A wait-all that fails leaves a mutex with its owner"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    z = stage.event("Z", signaled=True)
    a = stage.thread("A", wait(m), wait(m), wait(m, y, all=True, timeout=0), unlock(m))
    b = stage.thread("B", wait(m, z, all=True, timeout=0), read(m))
    c = stage.thread("C", clear(y))
    stage.start()

    def two_owners() -> bool:
        return got(a) and got(b) and a.results[3].code == -errno.EPERM

    tried = in_all_schedules(stage, two_owners)
    stage.say("A acquires M twice")
    a.until_call(2)
    stage.say("C resets Y; A's wait-all for M and Y fails")
    c.run()
    as_far_as(a, 3)
    stage.say("B polls for M and Z, and asks for M's state; A releases M once")
    settle([b, a])
    left = stage.states()["M"]
    return tried.occurs_if(
        two_owners() or (left.owner, left.count) != (a.number, 1),
        f"M has the owner {left.owner}, {left.count} times; A's release answered"
        f" {a.results[3].code}.",
        nt=nt(3),
        otherwise="B never gets M while A owns it, and A's release is never refused. Here A still"
        " had M once.",
    )


@scenario(4, engines=ENGINES)
def abandonment_stays(stage: ScriptedStage) -> Finding:
    """A wait-all that fails leaves a mutex abandoned"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=0))
    c = stage.thread("C", clear(y))
    d = stage.thread("D", wait(m, timeout=0))
    k = stage.thread("K", sweep(), sweep())

    def nobody_told() -> bool:
        settle([c, a, k, d])
        return not any(got(each) and each.results[0].abandoned for each in (a, d))

    stage.start()
    held = when_stopped(stage, a, nobody_told, kill=False, begin=lambda: dies_owning(b, k))
    killed = when_stopped(stage, a, nobody_told, kill=True, begin=lambda: dies_owning(b, k))
    stage.say("B takes M, and is killed; K finds it dead, and says so to the driver; C resets Y")
    dies_owning(b, k)
    c.run()
    stage.say("A does not get Y, and takes nothing; D takes M")
    settle([a, d])
    return held.occurs_if(
        bool(killed.failed) or not (got(d) and d.results[0].abandoned),
        "B died owning M, and whoever got M next was told nothing of the death.",
        nt=nt(4),
        otherwise="the next to own M is always told that its owner died, and so after each of"
        f" {killed.runs} kills of A.",
    )


def dies_owning(victim: Thread, sweeper: Thread) -> None:
    """The victim gets what its first call asks for and is killed; the sweeper finds it dead."""
    victim.until_call(1)
    victim.kill()
    as_far_as(sweeper, 1)


@scenario(5, engines=ENGINES)
def reset_stays(stage: ScriptedStage) -> Finding:
    """A wait-all that fails signals nothing"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(x), clear(y), wait(x, timeout=0))
    stage.start()
    tried = in_all_schedules(stage, lambda: got(b, 2))
    hold(stage, a)
    stage.say("B resets X; A comes, and sleeps; B resets Y, and polls X")
    as_far_as(b, 1)
    settle([a, b])
    return tried.occurs_if(
        got(b, 2),
        "Nobody set X after B had reset it, and yet B's poll found it set.",
        nt=nt(5),
        otherwise="X stays reset once B has reset it.",
    )


@scenario(6, engines=ENGINES)
def never_above_the_maximum(stage: ScriptedStage) -> Finding:
    """A wait-all that fails puts no token back"""
    s, y = stage.semaphore("S", 1, maximum=1), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, y, all=True))
    b = stage.thread("B", release(s), clear(y))

    def above() -> bool:
        return stage.states()["S"].count > 1 or (b.results[0].code == 0 and not got(a))

    stage.start()
    tried = in_all_schedules(stage, above)
    hold(stage, a)
    stage.say("B's release is refused, for S is full; B resets Y, and A sleeps")
    settle([b, a])
    return tried.occurs_if(
        above(),
        f"S holds {stage.states()['S'].count} tokens of at most one, or B's release went through"
        " while S was full.",
        nt=nt(6),
        otherwise="B's release is refused unless A has taken the token for good, and S never holds"
        " more than its one.",
    )


@scenario(
    7,
    engines=ENGINES,
    forced="A is declared dead while it still runs (the sweeper declares only dead threads dead)",
)
def abandonment_not_overwritten(stage: ScriptedStage) -> Finding:
    """A wait-all that fails stores nothing over an abandonment"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True))
    c = stage.thread("C", clear(y))
    k = stage.thread("K", abandon(m), wait(m, timeout=0))

    def forgotten() -> bool:
        return k.results[0].code >= 0 and got(k, 1) and k.results[1].abandoned == 0

    stage.start()
    tried = in_all_schedules(stage, forgotten)
    stage.say("A takes M and Y, and K declares it dead; K takes M")
    settle([a, k, c])
    return tried.occurs_if(
        forgotten(),
        "M was abandoned in A's name, and K, the next owner, is told nothing.",
        nt=nt(7),
        otherwise="whenever K declared an owner of M dead and then took M, it was told. The driver"
        " refuses (EPERM) if the dead one is not the owner.",
    )


@scenario(8, engines=ENGINES)
def nothing_in_the_wrong_object(stage: ScriptedStage) -> Finding:
    """A wait-all that fails puts no tokens anywhere"""
    x, m = stage.event("X", signaled=True), stage.mutex("M")
    a = stage.thread("A", wait(x, m, all=True, timeout=0))
    b = stage.thread("B", wait(m, timeout=0))
    c = stage.thread("C", wait(m, timeout=0))

    def wrong() -> bool:
        owners = [got(each) for each in (a, b, c)]
        return sum(owners) > 1 or stage.states()["X"].signaled == owners[0]

    stage.start()
    tried = in_all_schedules(stage, wrong)
    hold(stage, a)
    stage.say("B takes M; A fails, and C does not get M, which is B's")
    settle([b, a, c])
    return tried.occurs_if(
        wrong(),
        "M had two owners, or X was not what it had to be.",
        nt=nt(8),
        otherwise="M never has two owners, and X ends set unless A has it.",
    )


@scenario(10, engines=ENGINES)
def abandoned_mutex_is_taken(stage: ScriptedStage) -> Finding:
    """A wait-all comes to a mutex whose owner has died"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), unlock(m), wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))
    k = stage.thread("K", sweep())

    def left_out() -> bool:
        settle([k, a])
        return not got(a)

    stage.start()
    tried = when_stopped(stage, b, left_out, kill=True)
    stage.say("B takes M, and is killed; K finds it dead, and says so to the driver")
    b.until_call(3)
    b.kill()
    k.finish()
    stage.say("A waits for M and Y")
    a.run()
    return tried.occurs_if(
        not got(a) or a.results[0].abandoned != 1,
        "B died owning M, Y is set, and A did not get both, or was not told.",
        nt=nt(10),
        otherwise="A gets both, as soon as a sweep has found B dead, and here was told of it."
        " Abandoned is a state of its own in the driver, in which anybody can take the mutex.",
    )


@scenario(11, engines=ENGINES)
def abandoned_mutex_wakes(stage: ScriptedStage) -> Finding:
    """An owner dies while a wait-all sleeps for his mutex"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), unlock(m), wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))
    k = stage.thread("K", sweep())

    def queued() -> None:
        b.until_call(1)
        a.run()

    def left_out() -> bool:
        settle([k, a])
        return not got(a)

    stage.start()
    tried = when_stopped(stage, b, left_out, kill=True, begin=queued)
    stage.say("B takes M; A waits for M and Y, and sleeps")
    queued()
    asleep = a.state is State.SLEEPING
    stage.say("B is killed; K finds it dead, and says so to the driver, which serves A")
    b.kill()
    settle([k, a])
    return tried.occurs_if(
        not (asleep and got(a) and a.results[0].abandoned),
        "B died owning M, Y is set, and A did not get both, or was not told.",
        nt=nt(11),
        otherwise="A sleeps until M is free or abandoned, and then has both. It goes round in no"
        " circle: a wait is one call.",
    )


@scenario(13, engines=ENGINES)
def no_instant_missed(stage: ScriptedStage) -> Finding:
    """The one instant is not missed"""
    x, y = stage.event("X"), stage.event("Y")
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", set_(y), set_(x), clear(x), set_(x), clear(x))
    stage.start()
    tried = in_all_schedules(
        stage,
        lambda: a.state is State.SLEEPING and slept_before(stage, a, b, 3),
        ordered=True,
    )
    stage.say("A sleeps for X and Y")
    a.run()
    stage.say("B sets Y, then X, and resets X before A runs; and once more")
    b.run()
    settle([a])
    return tried.occurs_if(
        a.state is State.SLEEPING,
        "X and Y were both set while A waited for just that, and A sleeps.",
        nt=nt(13),
        otherwise="A never sleeps on after a set of X that came while it slept and Y was set.",
    )


def _against_each_other(stage: ScriptedStage, timeout: int) -> tuple[Thread, Thread]:
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True, timeout=timeout))
    b = stage.thread("B", wait(y, x, all=True, timeout=timeout))
    stage.start()
    return a, b


@scenario(14, engines=ENGINES)
def opposite_orders(stage: ScriptedStage) -> Finding:
    """Two wait-alls in opposite order"""
    a, b = _against_each_other(stage, SOME_TIME)
    tried = in_all_schedules(stage, lambda: [got(a), got(b)].count(True) != 1)
    hold(stage, a)
    stage.say("B comes from the other side, and gets both; A sleeps")
    settle([b, a])
    return tried.occurs_if(
        not got(b),
        "X and Y are there, and neither A nor B gets them, or both do.",
        nt=nt(14),
        otherwise="one of them gets both at once, and the other none.",
    )


@scenario(15, engines=ENGINES)
def deadline_is_seen(stage: ScriptedStage) -> Finding:
    """A wait-all whose objects others take does see its deadline"""
    a, b = _against_each_other(stage, 0)

    def stuck() -> bool:
        return any(each.state is not State.DONE for each in (a, b)) or got(a) == got(b)

    tried = in_all_schedules(stage, stuck)
    hold(stage, a)
    stage.say("B gets both; A's poll times out")
    settle([b, a])
    return tried.occurs_if(
        stuck(),
        "A poll did not return, or not one of the two has got both.",
        nt=nt(15),
        otherwise="both polls return: one has got both, the other timed out.",
    )


@scenario(16, engines=ENGINES)
def never_owned_zero_times(stage: ScriptedStage) -> Finding:
    """A mutex is asked for its state while it is taken"""
    m, n, y = stage.mutex("M"), stage.mutex("N"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(n, y, all=True))
    q = stage.thread("Q", read(m), read(n))

    def between() -> bool:
        seen = [(bool(each.state["owner"]), each.state["count"]) for each in q.results]
        return any(pair not in ((False, 0), (True, 1)) for pair in seen)

    stage.start()
    tried = in_all_schedules(stage, between)
    stage.say("A takes M; B is held before it takes N; Q asks for the state of both")
    a.run()
    b.until("wait")
    settle([q, b])
    return tried.occurs_if(
        between(),
        "Q was told of a mutex that is owned, zero times.",
        nt=nt(16),
        otherwise="Q is told of a mutex that is free, or owned once. The driver reads owner and"
        " count under the lock under which it changes them.",
    )


@scenario(17, engines=ENGINES)
def one_common_instant(stage: ScriptedStage) -> Finding:
    """A wait-all succeeds only at one instant"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    e, z = stage.event("E", manual=True, signaled=True), stage.event("Z", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(y), clear(x), set_(y))
    c = stage.thread("C", wait(e, z, all=True))
    d = stage.thread("D", clear(e), read(z))

    def automatic() -> bool:
        return got(a) and [each.code for each in b.results] == [1, 0, 0]

    def manual() -> bool:
        return got(c) and d.results[0].code == 1 and bool(d.results[1].state["signaled"])

    stage.start()
    tried = in_all_schedules(stage, lambda: automatic() or manual())
    hold(stage, a)
    stage.say("B resets Y; A comes, and sleeps; B resets X and sets Y")
    as_far_as(b, 1)
    settle([a, b])
    stage.say("D resets E, and sees Z set; C comes, and sleeps")
    settle([d, c])
    return tried.occurs_if(
        automatic() or manual(),
        "A took X and Y, or C passed E and took Z, at no instant at which they were set together.",
        nt=nt(17),
        otherwise="what A and C get is there at one instant, by all that B and D can see.",
    )


# ---- F18 to F23: pulse, set and reset ----


@scenario(18, engines=ENGINES)
def pulse_releases_all(stage: ScriptedStage) -> Finding:
    """A pulse releases all who wait"""
    e = stage.event("E", manual=True)
    v, w = stage.thread("V", wait(e)), stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))

    def left() -> bool:
        asleep = [each for each in (v, w) if each.state is State.SLEEPING]
        return any(slept_before(stage, each, p) for each in asleep)

    stage.start()
    tried = in_all_schedules(stage, left, ordered=True)
    stage.say("V and W sleep on E; P pulses it")
    settle([v, w])
    settle([p, v, w])
    return tried.occurs_if(
        left(),
        "The pulse is over, and one who waited when it came sleeps on.",
        nt=nt(18),
        otherwise="whoever slept on E when P came is released.",
    )


@scenario(19, engines=ENGINES)
def pulse_releases_each_once(stage: ScriptedStage) -> Finding:
    """A pulse releases nobody who comes later, and nobody twice"""
    e = stage.event("E", manual=True)
    p = stage.thread("P", pulse(e))
    n = stage.thread("N", wait(e), wait(e))
    w = stage.thread("W", wait(e))

    def passed() -> int:
        return sum(each.finished for each in n.results)

    stage.start()
    tried = in_all_schedules(stage, lambda: passed() > 1)
    stage.say("W sleeps on E; P pulses it; N comes later")
    w.run()
    settle([p, n, w])
    return tried.occurs_if(
        passed() > 0 or not got(w),
        f"One pulse let N, who came later, pass {passed()} times.",
        nt=nt(19),
        otherwise="one pulse never lets N pass twice, and not at all if it came later, as here.",
    )


@scenario(20, engines=ENGINES)
def set_after_a_pulse(stage: ScriptedStage) -> Finding:
    """A set that comes after a pulse stays"""
    e = stage.event("E", manual=True)
    w = stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))
    s = stage.thread("S", set_(e), wait(e, timeout=0))

    def undone() -> bool:
        return returned_before(stage, w, s) and s.results[1].code == TIMED_OUT

    stage.start()
    tried = in_all_schedules(stage, undone, ordered=True)
    stage.say("W sleeps on E; P pulses it, and W passes; S sets E, and polls it")
    w.run()
    settle([p, w])
    s.run()
    return tried.occurs_if(
        undone(),
        "S set E after W had been released by the pulse, and then found it reset.",
        nt=nt(20),
        otherwise="a set that came after W's release is never taken away.",
    )


@scenario(21, engines=ENGINES)
def pulse_of_a_set_event(stage: ScriptedStage) -> Finding:
    """A pulse of a set event resets it, for all who ask"""
    e = stage.event("E", manual=True, signaled=True)
    y = stage.event("Y", manual=True, signaled=True)
    views = (wait(e, timeout=0), wait(e, y, all=True, timeout=0), read(e))
    p = stage.thread("P", pulse(e), *views, set_(e), *views)
    stage.start()
    stage.say("P pulses E, which is set, and asks in three ways whether it is; sets it, and asks")
    p.run()
    minds = [
        (any_.code == 0, all_.code == 0, bool(query.state["signaled"]))
        for any_, all_, query in (p.results[1:4], p.results[5:8])
    ]
    return Tried(1, 0, "by the one schedule that one thread has").occurs_if(
        minds != [(False, False, False), (True, True, True)],
        f"Wait-any, wait-all and query say {minds[0]} after the pulse and {minds[1]} after a set.",
        nt=nt(21),
        otherwise="after the pulse a wait-any, a wait-all and a query agree that E is reset, and"
        " after a set that it is set.",
    )


@scenario(22, engines=ENGINES)
def pulse_completes_a_wait_all(stage: ScriptedStage) -> Finding:
    """A pulse completes a wait-all"""
    e, y = stage.event("E", manual=True), stage.event("Y", signaled=True)
    w = stage.thread("W", wait(e, y, all=True))
    p = stage.thread("P", pulse(e))

    def left() -> bool:
        return w.state is State.SLEEPING and slept_before(stage, w, p)

    stage.start()
    tried = in_all_schedules(stage, left, ordered=True)
    stage.say("W sleeps for E and Y, which is set; P pulses E")
    w.run()
    settle([p, w])
    return tried.occurs_if(
        left(),
        "When E was pulsed, E and Y were signaled together, and W, who waited for that, sleeps on.",
        nt=nt(22),
        otherwise="W, if it slept when P came, has both.",
    )


@scenario(23, engines=ENGINES)
def set_and_reset(stage: ScriptedStage) -> Finding:
    """Set followed by reset releases who waits"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x), clear(x))

    def left() -> bool:
        return w.state is State.SLEEPING and slept_before(stage, w, s)

    stage.start()
    tried = in_all_schedules(stage, left, ordered=True)
    stage.say("W sleeps on X; S sets X, and resets it before W runs")
    w.run()
    s.run()
    settle([w])
    return tried.occurs_if(
        left(),
        "X was set while W waited for it, and W sleeps on.",
        nt=nt(23),
        otherwise=f"W, if it slept when S came, has X when the set returns. Here the reset was told"
        f" that X had been {'set' if s.results[1].code else 'reset'} already.",
    )


# ---- F26 to F35: who gets an object ----


@scenario(26, engines=ENGINES)
def handed_over(stage: ScriptedStage) -> Finding:
    """A mutex goes to who waits for it, not to who comes by"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m), unlock(m))
    w = stage.thread("W", wait(m))
    n = stage.thread("N", wait(m))

    def owned_and_wanted() -> None:
        o.until_call(1)
        w.run()

    def overtaken() -> bool:
        settle([n, o, w])
        return got(n) or not got(w)

    stage.start()
    tried = when_stopped(stage, o, overtaken, kill=False, begin=owned_and_wanted)
    stage.say("O owns M, and W sleeps for it; O releases M; before W runs, N comes")
    owned_and_wanted()
    o.run()
    settle([n, w])
    return tried.occurs_if(
        got(n) or not got(w),
        "W waited for M, and N, who came later, took it.",
        nt=nt(26),
        otherwise="N, who came meanwhile, never got M before W: O's release hands it over.",
    )


@scenario(27, engines=ENGINES)
def first_come_first_served(stage: ScriptedStage) -> Finding:
    """First come, first served"""
    s = stage.semaphore("S")
    v, w = stage.thread("V", wait(s)), stage.thread("W", wait(s))
    r = stage.thread("R", release(s))

    def last() -> bool:
        return got(w) and v.state is State.SLEEPING and slept_before(stage, v, w)

    stage.start()
    tried = in_all_schedules(stage, last, ordered=True)
    stage.say("V sleeps on S, then W; R releases one token")
    settle([v, w])
    settle([r, w, v])
    return tried.occurs_if(
        last(),
        "V came before W, and W got the token. V sleeps on.",
        nt=nt(27),
        otherwise="W never has the token while V sleeps, if V slept before W came.",
    )


@scenario(28, engines=ENGINES)
def one_token_wakes_one(stage: ScriptedStage) -> Finding:
    """One token wakes one thread"""
    s = stage.semaphore("S")
    sleepers = [stage.thread(f"W{i}", wait(s)) for i in range(1, 6)]
    r = stage.thread("R", release(s))

    def woken() -> int:
        return sum(each.state is not State.SLEEPING for each in sleepers)

    def crowd() -> bool:
        settle([r])
        return woken() != 1

    stage.start()
    tried = when_stopped(stage, r, crowd, kill=False, begin=lambda: settle(sleepers))
    stage.say("five threads sleep on S; R releases one token")
    settle(sleepers)
    r.run()
    left = woken()
    settle(sleepers)
    return tried.occurs_if(
        left != 1,
        f"One token ended the sleep of {left} threads.",
        nt=nt(28),
        otherwise=f"one token of five sleepers ended {left} sleep in the driver; the others slept"
        " on undisturbed, as far as the system shows what its threads do.",
    )


@scenario(29, engines=ENGINES)
def no_wake_wasted(stage: ScriptedStage) -> Finding:
    """No wake goes to one who no longer needs it"""
    s, x = stage.semaphore("S"), stage.event("X")
    v = stage.thread("V", wait(x, s))
    w = stage.thread("W", wait(s))
    r = stage.thread("R", release(s), set_(x))
    stage.start()
    tried = in_all_schedules(stage, lambda: sleeps_beside(stage, w, "S"))
    stage.say("V sleeps on X and S, W on S; R sets both before anybody runs")
    settle([v, w])
    r.run()
    settle([w, v])
    return tried.occurs_if(
        sleeps_beside(stage, w, "S"),
        "W sleeps beside a token, whose wake went to V.",
        nt=nt(29),
        otherwise="W never sleeps beside a token. A wake is for one who has been served.",
    )


@scenario(30, engines=ENGINES)
def no_spinning(stage: ScriptedStage) -> Finding:
    """A wait takes one token, and does not spin"""
    s = stage.semaphore("S", 3)
    a = stage.thread("A", *(wait(s) for _ in range(4)))
    stage.start()
    stage.say("A takes the three tokens, one a call, and waits for a fourth")
    a.run()
    calls = [step.result for step in stage.trace if step.op == "wait"]
    if calls != [0, 0, 0, -errno.EAGAIN] or a.call != 3:
        return Finding(Verdict.OCCURS, f"The calls of the driver answered {calls}.", nt(30))
    return Finding(
        Verdict.NOT_REPRODUCED,
        "It was a patch that made FSYNC's waits spin before they sleep, with the grab inside; here"
        " a wait is one call of the driver's. Run all the same: each of three waits took one token"
        " with one call, and the fourth slept in its.",
        nt(30),
    )


@scenario(31, engines=ENGINES)
def poll_succeeds(stage: ScriptedStage) -> Finding:
    """A poll takes a token that is there"""
    s = stage.semaphore("S", 2)
    a = stage.thread("A", wait(s, timeout=0))
    b = stage.thread("B", wait(s))
    stage.start()
    tried = in_all_schedules(stage, lambda: a.results[0].code == TIMED_OUT)
    hold(stage, a)
    stage.say("B takes a token, and A the other")
    settle([b, a])
    return tried.occurs_if(
        a.results[0].code == TIMED_OUT,
        "A's poll timed out, though S never had fewer than one token.",
        nt=nt(31),
        otherwise="A always gets a token.",
    )


@scenario(32, engines=ENGINES)
def set_before_the_deadline(stage: ScriptedStage) -> Finding:
    """An event that is set before the deadline ends the wait"""
    x = stage.event("X")
    a = stage.thread("A", wait(x, timeout=SOME_TIME))
    b = stage.thread("B", set_(x))

    def too_late() -> bool:
        late = [i for i, step in enumerate(stage.trace) if step.op == "timeout"]
        done = [i for i, step in enumerate(stage.trace) if step.op == "ioctl"]
        return a.results[0].code == TIMED_OUT and bool(late and done) and done[0] < late[0]

    stage.start()
    tried = in_all_schedules(stage, too_late)
    stage.say("A sleeps on X; B sets X, which serves A; A's deadline comes")
    a.run()
    b.run()
    if a.can(Grant.TIMEOUT):
        a.time_out()
    settle([a])
    return tried.occurs_if(
        a.results[0].code == TIMED_OUT,
        "X was set while A still waited, and A returned that its time was up.",
        nt=nt(32),
        otherwise="A never times out after X was set. (The deadline is played by a signal to a"
        " sleeping call; the driver's own race between a wake and its timer is not.)",
    )


@scenario(34, engines=ENGINES, stage=False)
def clock_change(engine: str) -> Finding:
    """A change of the clock does not end a wait"""
    gave: list[bool] = []
    with namespace(engine, "clock") as ns:
        x = ns.event()
        waiter = threading.Thread(target=lambda: gave.append(x.wait(timeout=3600)), daemon=True)
        waiter.start()
        flags = _flags_of_a_wait(waiter)
        x.set()
        waiter.join()
    if flags is None or flags & REALTIME or gave != [True]:
        return Finding(Verdict.OCCURS, f"The wait had flags {flags} and gave {gave}.", nt(34))
    return Finding(
        Verdict.NOT_REPRODUCED,
        "The driver can be asked to go by the time of day; this engine asks for the monotonic"
        " clock, which nobody can set. Looked at in a thread that waits for an hour: the request"
        f" that it sleeps in has flags {flags}. (The system's clock was not changed for this.)",
        nt(34),
    )


def _flags_of_a_wait(waiter: threading.Thread) -> int | None:
    """The flags in the request of the ioctl that a thread sleeps in; None if it ends before."""
    path = Path(f"/proc/self/task/{waiter.native_id}/syscall")
    while waiter.is_alive():
        os.sched_yield()
        call = path.read_text().split()
        if call[0] == IOCTL:
            request = int(call[REQUEST], 16)
            return ctypes.c_uint32.from_address(request + FLAGS_AT).value
    return None


@scenario(35, engines=ENGINES)
def priorities(stage: ScriptedStage) -> Finding:
    """Priorities, and the order of arrival"""
    s = stage.semaphore("S")
    v, w = stage.thread("V", wait(s)), stage.thread("W", wait(s))
    r = stage.thread("R", release(s))
    stage.start()
    winners = []
    for first, second in ((v, w), (w, v)):
        stage.restart()
        stage.say(f"{first.name} sleeps on S, then {second.name}; R releases one token")
        settle([first])
        settle([second])
        settle([r, second, first])
        winners += [each.name for each in (v, w) if each.state is State.DONE]
    return Finding(
        Verdict.NOT_REPRODUCED,
        "ESYNC and FSYNC spin on a lock whose holder a thread of higher priority can keep from"
        " running; the driver's locks are the kernel's. What was run: two sleepers and one token,"
        f" which went to {winners[0]} when V came first, and to {winners[1]} when W did: the order"
        " of arrival decides. The threads of a stage have no priorities.",
        nt(35),
    )
