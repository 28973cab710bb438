"""F1 to F17: waiting for several objects at once."""

from __future__ import annotations

import errno
from functools import partial

from shmsync import wait_all
from shmsync_tools.lab.real import namespace, prevented_if, refusal
from shmsync_tools.lab.scenario import (
    Finding,
    ScriptedStage,
    Verdict,
    occurs_if,
    scenario,
)
from shmsync_tools.lab.schedules import circle, outcomes, settle
from shmsync_tools.stage import (
    SOME_TIME,
    Grant,
    State,
    Thread,
    abandon,
    clear,
    read,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

TIMED_OUT = -errno.ETIMEDOUT
ABANDONED = 2**32 - 1
#: How often a circle is run through before it counts as endless.
LAPS = 20


def _got(thread: Thread, call: int = 0) -> bool:
    """Has that call returned, and got what it waited for?"""
    result = thread.results[call]
    return result.finished and result.code == 0


@scenario(1, engines=("fsync",))
def half_done(stage: ScriptedStage) -> Finding:
    """A wait-all that is half done can be seen"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x, timeout=0), read(x), set_(x))
    c = stage.thread("C", clear(y))
    stage.start()
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    a.until("cas", y)
    stage.say("B polls X, asks for its state, and sets it")
    b.run()
    stage.say("C resets Y")
    c.run()
    stage.say("A does not get Y, puts X back, and sleeps: it has taken nothing")
    settle([a, b, c])
    polled, state, set_before = b.results
    return occurs_if(
        b.state is State.DONE
        and (polled.code, state.state["signaled"], set_before.code) == (TIMED_OUT, 0, 0)
        and a.state is State.SLEEPING,
        "X was set from the beginning and nobody ever got it, A least of all; yet B's poll timed"
        " out, B's query said that X was reset, and B's set reported the same.",
        nt="A gets both or neither. It did not get both, so X was set all the time: B's poll takes"
        " it.",
        otherwise="What B saw of X agrees with what A got.",
    )


@scenario(2, engines=("fsync",))
def roll_back_without_wake(stage: ScriptedStage) -> Finding:
    """A roll back wakes nobody: B sleeps beside a set event"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x))
    c = stage.thread("C", clear(y), set_(x))
    stage.start()
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    a.until("cas", y)
    stage.say("B finds X reset, and sleeps")
    b.run()
    stage.say("C resets Y")
    c.until_call(1)
    stage.say("A does not get Y, and puts X back without waking anybody")
    a.run()
    settle([b])
    lost = b.state is State.SLEEPING and stage.words()["X"][0] == 1
    stage.say("C sets X: it is set already, so again nobody is woken")
    settle([c, b])
    return occurs_if(
        lost and b.state is State.SLEEPING and stage.words()["X"][0] == 1,
        "B sleeps although X, all that it waits for, is set. Another set did not wake it either:"
        " it found X set and did nothing.",
        nt="A never had X, so X was set when B came: B takes it at once.",
        otherwise="B got X.",
    )


@scenario(3, engines=("fsync",))
def roll_back_of_an_owned_mutex(stage: ScriptedStage) -> Finding:
    """A roll back frees a mutex that was the caller's before"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    z = stage.event("Z", signaled=True)
    a = stage.thread("A", wait(m), wait(m), wait(m, y, all=True, timeout=SOME_TIME), unlock(m))
    b = stage.thread("B", wait(m, z, all=True, timeout=0), unlock(m))
    c = stage.thread("C", clear(y))
    stage.start()
    stage.say("A acquires M twice")
    a.until_call(2)
    stage.say("A finds its own M and Y available, and is held before it takes Y")
    a.until("cas", y)
    stage.say("C resets Y")
    c.run()
    stage.say("A does not get Y, and rolls back: M, which was its own all the time, becomes free")
    a.run()
    stage.say("B waits for M and Z, and releases M once")
    b.run()
    if a.can(Grant.TIMEOUT):
        stage.say("A's deadline comes; it releases M, which it believes to own")
        a.time_out()
    settle([a, b])
    return occurs_if(
        _got(b) and a.results[3].code == -errno.EPERM,
        "A acquired M twice and never released it, yet B got it: two owners. A's release was"
        f" refused. A's recursion count stayed in M: B, who acquired it once, had"
        f" {b.results[1].code} to release.",
        nt="A's wait-all did not succeed and so changed nothing. M is A's, and B's poll times out.",
        otherwise="B did not get M while A owned it.",
    )


@scenario(4, engines=("fsync",))
def roll_back_of_an_abandoned_mutex(stage: ScriptedStage) -> Finding:
    """A roll back forgets that a mutex was abandoned"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True))
    b = stage.thread("B", wait(m), read(y))
    c = stage.thread("C", clear(y))
    d = stage.thread("D", wait(m, timeout=0))
    k = stage.thread("K", sweep())
    stage.start()
    stage.say("A finds M free and Y set, and is held before it takes M")
    a.until("cas", m)
    _dies_owning(stage, b, k)
    stage.say("A takes the abandoned M, and is held before it takes Y")
    a.until("cas", y)
    was_told = stage.words()["M"][0] not in (0, ABANDONED)
    stage.say("C resets Y")
    c.run()
    stage.say("A does not get Y, and puts M back as a free mutex")
    a.run()
    stage.say("D takes M")
    settle([d, a])
    return occurs_if(
        was_told and _got(d) and d.results[0].abandoned == 0,
        "B died owning M, and A's wait-all, which knew it, did not succeed. D is the next to own M,"
        " and is told nothing of the death.",
        nt="M stays abandoned until somebody acquires it: D gets M and is told.",
        otherwise="D got M and was told that it was abandoned.",
    )


def _dies_owning(stage: ScriptedStage, victim: Thread, sweeper: Thread) -> None:
    """The victim gets what its first call asks for, is killed before its second, and its mutexes
    are abandoned."""
    stage.say(f"{victim.name} takes M and is killed; the sweeper {sweeper.name} finds it dead")
    victim.until_call(1)
    victim.kill()
    sweeper.finish()


@scenario(5, engines=("fsync",))
def ghost_signal(stage: ScriptedStage) -> Finding:
    """A roll back signals an event that was reset meanwhile"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(x), clear(y))
    c = stage.thread("C", wait(x, timeout=0))
    stage.start()
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    a.until("cas", y)
    stage.say("B resets X, then Y")
    b.run()
    stage.say("A does not get Y, and puts X back: it is set again")
    a.run()
    settle([b, a])
    stage.say("C polls X")
    settle([c])
    return occurs_if(
        _got(c) and a.state is State.SLEEPING,
        "Nobody set X after B had reset it, and yet C's poll found it set.",
        nt="A's wait-all has taken nothing and puts nothing back: X is reset, and C times out.",
        otherwise="X stayed reset.",
    )


@scenario(6, engines=("fsync",))
def above_the_maximum(stage: ScriptedStage) -> Finding:
    """A roll back lifts a semaphore above its maximum"""
    s, y = stage.semaphore("S", 1, maximum=1), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, y, all=True))
    b = stage.thread("B", release(s), clear(y))
    stage.start()
    stage.say("A finds S and Y available, takes S, and is held before it takes Y")
    a.until("cas", y)
    stage.say("B releases S, which seems to be empty, and resets Y")
    b.run()
    stage.say("A does not get Y, and puts its token back")
    a.run()
    settle([b, a])
    count, maximum = stage.words()["S"]
    return occurs_if(
        count > maximum,
        f"S holds {count} tokens, and its maximum is {maximum}. B's release should have been"
        " refused.",
        nt="A's wait-all has taken nothing, so S is full: B's release fails, and S keeps its one"
        " token.",
        otherwise=f"S holds {count} of {maximum}.",
    )


@scenario(
    7,
    engines=("fsync",),
    forced="A is declared dead while it still runs (the sweeper declares only dead threads dead)",
)
def abandonment_overwritten(stage: ScriptedStage) -> Finding:
    """A roll back overwrites an abandonment"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True))
    c = stage.thread("C", clear(y))
    d = stage.thread("D", wait(m, timeout=0))
    k = stage.thread("K", abandon(m))
    stage.start()
    stage.say("A finds M free and Y set, takes M, and is held before it takes Y")
    a.until("cas", y)
    stage.say("K declares the owner of M dead, though A only stands still")
    k.finish()
    abandoned = stage.words()["M"][0] == ABANDONED
    stage.say("C resets Y")
    c.run()
    stage.say("A does not get Y, and stores that M is free over its abandonment")
    a.run()
    stage.say("D takes M")
    settle([d, a])
    return occurs_if(
        abandoned and _got(d) and d.results[0].abandoned == 0,
        "M was abandoned in A's name. A's roll back stored over that, and D, the next owner, is"
        " told nothing.",
        nt="A wait-all that fails changes nothing: M stays abandoned, and D is told.",
        otherwise="D was told that M was abandoned.",
    )


@scenario(8, engines=("fsync",))
def roll_back_into_the_wrong_object(stage: ScriptedStage) -> Finding:
    """A roll back puts tokens into the wrong object"""
    x, m = stage.event("X", signaled=True), stage.mutex("M")
    a = stage.thread("A", wait(x, m, all=True, timeout=0))
    b = stage.thread("B", wait(m, timeout=0))
    c = stage.thread("C", wait(m, timeout=0))
    stage.start()
    schedules = two_owners = wrong = 0
    for count in outcomes(stage):
        schedules += count
        got = [_got(each) for each in (a, b, c)]
        two_owners += count * (sum(got) > 1)
        wrong += count * (stage.words()["X"][0] != (0 if got[0] else 1))
    stage.restart()
    stage.say("A finds X set and M free, takes X, and is held before it takes M")
    a.until("cas", m)
    stage.say("B takes M")
    b.run()
    stage.say("A does not get M, and puts X back into X")
    a.run()
    stage.say("C does not get M, which is B's")
    settle([c, b, a])
    return occurs_if(
        bool(two_owners or wrong),
        f"M had two owners in {two_owners} schedules, X was wrong in {wrong}.",
        nt="Nothing is taken, so nothing has to be put back: X is set, M is B's.",
        otherwise=f"Checked in all schedules of A, B and C that differ ({schedules}): none gives M"
        " two owners, and X ends set unless A has it. Each object is put back by itself, into its"
        " own word.",
    )


@scenario(9, engines=("fsync",))
def own_mutex(stage: ScriptedStage) -> Finding:
    """A wait-all on a mutex of one's own never ends"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m), wait(m, y, all=True, timeout=0))
    stage.start()
    stage.say("A acquires M")
    a.until_call(1)
    stage.say("A waits for M, which is its own, and Y")
    endless = circle(stage, [a], laps=LAPS)
    return occurs_if(
        not _got(a, 1),
        f"A goes round in a circle of {endless} steps." if endless else "A did not get both.",
        nt="The wait succeeds at once, and M is owned twice.",
        otherwise="Checked by the one schedule that one thread has: the wait succeeded at once, and"
        f" M's count is {stage.words()['M'][1]}. A mutex of A's own counts as available whenever A"
        " looks.",
    )


def _wait_all_on_an_abandoned_mutex(stage: ScriptedStage) -> tuple[Thread, int]:
    """A waits for M, which is abandoned, and Y. The second value: steps in a lap, 0 if A does not
    go round in circles."""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))
    b = stage.thread("B", wait(m), read(y))
    k = stage.thread("K", sweep())
    stage.start()
    _dies_owning(stage, b, k)
    stage.say("A waits for M, which is abandoned, and Y, which is set")
    return a, circle(stage, [a], laps=LAPS)


def _is_refused_a_sleep(stage: ScriptedStage) -> bool:
    last = [step for step in stage.trace if step.op == "sleep"][-1]
    return last.result == -errno.EINVAL


_ABANDONED_NT = "A gets both objects at once, and is told that M was abandoned."


@scenario(10, engines=("fsync",))
def abandoned_mutex_sleeps(stage: ScriptedStage) -> Finding:
    """A wait-all sleeps beside an abandoned mutex"""
    a, lap = _wait_all_on_an_abandoned_mutex(stage)
    if lap and _is_refused_a_sleep(stage):
        return Finding(
            Verdict.NOT_REPRODUCED,
            "This kernel (6.7 or newer) refuses the value that A would sleep on, so A does not"
            " sleep: it spins (F11).",
            _ABANDONED_NT,
        )
    return occurs_if(
        a.state is State.SLEEPING,
        "M is abandoned and Y is set, which is all that A waits for, and A sleeps until M changes.",
        nt=_ABANDONED_NT,
        otherwise="A got both.",
    )


@scenario(11, engines=("fsync",))
def abandoned_mutex_spins(stage: ScriptedStage) -> Finding:
    """A wait-all on an abandoned mutex spins"""
    a, lap = _wait_all_on_an_abandoned_mutex(stage)
    if a.state is State.SLEEPING:
        return Finding(
            Verdict.NOT_REPRODUCED,
            "This kernel (before 6.7) takes the value that A sleeps on, so A does not spin: it"
            " sleeps (F10).",
            _ABANDONED_NT,
        )
    return occurs_if(
        lap > 0 and _is_refused_a_sleep(stage) and not a.can(Grant.TIMEOUT),
        f"A went {LAPS} times round the same {lap} steps, which leave everything as it was: it"
        " looks at M, is refused the sleep, and looks again. It never sleeps, so its deadline"
        " cannot end it.",
        nt=_ABANDONED_NT,
        otherwise="A got both.",
    )


@scenario(12, engines=("fsync",))
def the_same_object_twice(stage: ScriptedStage) -> Finding:
    """The same object twice in one wait-all"""
    x, s = stage.event("X", signaled=True), stage.semaphore("S", 2)
    m = stage.mutex("M")
    a = stage.thread("A", *(wait(each, each, all=True, timeout=0) for each in (x, s, m)))
    stage.start()
    stage.say("A waits for the same object twice: X, then S, then M")
    a.run()
    codes = {result.code for result in a.results}
    with namespace(stage.engine, "twice") as ns:
        handles = [ns.event(signaled=True), ns.semaphore(initial=2), ns.mutex()]
        refused = {refusal(partial(wait_all, [each, each])) for each in handles}
    return prevented_if(
        codes == {-errno.EINVAL}
        and refused == {"ValueError"}
        and stage.words() == stage.first_words,
        "wait_all([x, x]) raises ValueError, for events, semaphores and mutexes; nothing was"
        " touched.",
        nt="The call is refused as a wrong argument.",
        otherwise=f"The calls returned {codes}, and in Python {refused}.",
    )


@scenario(13, engines=("fsync",))
def missed_instant(stage: ScriptedStage) -> Finding:
    """The one instant is missed"""
    x, y = stage.event("X"), stage.event("Y")
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", set_(y), set_(x), clear(x), set_(x), clear(x), set_(x), clear(x))
    stage.start()
    stage.say("A finds X reset, and sleeps on it")
    a.run()
    stage.say("B sets Y")
    b.until_call(1)
    missed = 0
    for again in ("", " again", " a third time"):
        stage.say(f"B sets X{again}, which wakes A; before A runs, B resets X")
        b.until_call(b.call + 2)
        stage.say("A finds X reset, and sleeps on")
        a.run()
        missed += a.state is State.SLEEPING
    return occurs_if(
        missed == 3,
        "Three times X and Y were both set, A was woken each time, and A still sleeps: it has to"
        " run while both are set, and did not.",
        nt="A has both objects when B's first set of X returns.",
        otherwise="A got both.",
    )


def _against_each_other(stage: ScriptedStage, timeout: int) -> tuple[list[Thread], int]:
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True, timeout=timeout))
    b = stage.thread("B", wait(y, x, all=True, timeout=timeout))
    stage.start()
    stage.say("A and B take turns, a step each")
    return [a, b], circle(stage, [a, b], laps=LAPS)


@scenario(14, engines=("fsync",))
def opposite_orders(stage: ScriptedStage) -> Finding:
    """Two wait-alls in opposite order go on for ever"""
    threads, lap = _against_each_other(stage, SOME_TIME)
    return occurs_if(
        lap > 0,
        f"Each takes its first object, fails at its second and puts the first back: {LAPS} times"
        f" the same {lap} steps, after which everything is as it was. X and Y are there all the"
        " time, and neither A nor B gets them.",
        nt="One of them gets both at once, and the other waits.",
        otherwise="They came to an end: " + _states(threads) + ".",
    )


@scenario(15, engines=("fsync",))
def deadline_not_seen(stage: ScriptedStage) -> Finding:
    """A retrying wait-all does not see its deadline"""
    threads, lap = _against_each_other(stage, 0)
    return occurs_if(
        lap > 0,
        f"Both calls are polls, with a timeout of 0. {LAPS} rounds of {lap} steps later, neither"
        " has returned: they only look at the deadline where they would sleep, and each finds an"
        " object set whenever it looks.",
        nt="A poll returns at once: one gets both objects, the other times out.",
        otherwise="They came to an end: " + _states(threads) + ".",
    )


def _states(threads: list[Thread]) -> str:
    return ", ".join(f"{each.name} is {each.state.name.lower()}" for each in threads)


@scenario(16, engines=("fsync",))
def owned_zero_times(stage: ScriptedStage) -> Finding:
    """An owned mutex with a count of zero"""
    m, n, y = stage.mutex("M"), stage.mutex("N"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(n, y, all=True))
    q = stage.thread("Q", read(m), read(n))
    stage.start()
    stage.say("A takes M, and is held before it counts")
    a.until("store", "M.word1")
    stage.say("B takes N in a wait-all, takes Y, and is held before it counts")
    b.until("store", "N.word1")
    stage.say("Q asks for the state of both")
    settle([q])
    seen = [(bool(each.state["owner"]), each.state["count"]) for each in q.results]
    settle([a, b, q])
    return occurs_if(
        (True, 0) in seen,
        "Q was told that M and N are owned, zero times. (N is seen so for longer: B counts only"
        " after it has taken everything.)",
        nt="A query sees a mutex free, or owned once; never between.",
        otherwise="Q saw owner and count that belong together.",
    )


@scenario(17, engines=("fsync",))
def no_common_instant(stage: ScriptedStage) -> Finding:
    """A wait-all succeeds though the objects were never signaled together"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    e, z = stage.event("E", manual=True, signaled=True), stage.event("Z", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(y), clear(x), set_(y))
    c = stage.thread("C", wait(e, z, all=True))
    d = stage.thread("D", clear(e), read(z))
    stage.start()
    stage.say("A finds X and Y set, and is held before it takes X")
    a.until("cas", x)
    stage.say("B resets Y")
    _as_far_as(b, 1)
    stage.say("A takes X, and is held before it takes Y")
    a.step()
    stage.say("B resets X, and sets Y")
    b.run()
    stage.say("A takes Y")
    settle([a, b])
    stage.say("C finds E and Z set, and is held before it takes Z (it does not take E)")
    c.until("cas", z)
    stage.say("D resets E, and looks: Z is still set")
    d.run()
    stage.say("C takes Z")
    settle([c, d])
    automatic = _got(a) and [each.code for each in b.results] == [1, 0, 0]
    manual = _got(c) and d.results[0].code == 1 and bool(d.results[1].state["signaled"])
    return occurs_if(
        automatic or manual,
        _no_common_instant_seen(automatic, manual),
        nt="A wait-all tests and takes at one instant, at which all its objects are signaled: A and"
        " C had to take before the resets, or wait.",
        otherwise="What A and C got was there at one instant.",
    )


def _as_far_as(thread: Thread, call: int) -> None:
    """As ``until_call``, but a thread that blocks on the way may."""
    while thread.call < call and thread.can():
        thread.step()


def _no_common_instant_seen(automatic: bool, manual: bool) -> str:
    seen = []
    if automatic:
        seen.append(
            "A took X and Y. It had not taken Y when Y was reset (it was set before), it had taken"
            " X when X was reset (it was not set any more), and in between Y was reset: at no"
            " instant could A take both."
        )
    if manual:
        seen.append(
            "C took Z, and with it passed E, which D had reset while Z was still there to be seen."
        )
    return " ".join(seen)
