"""F1 to F17: waiting for several objects at once."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
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
from shmsync_tools.lab.schedules import (
    Tried,
    as_far_as,
    circle,
    in_all_schedules,
    outcomes,
    settle,
    settle_late,
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


#: With handoff, of those who come while somebody is at their object.
GATE = ", so it waits for the gate"


def _got(thread: Thread, call: int = 0) -> bool:
    """Has that call returned, and got what it waited for?"""
    result = thread.results[call]
    return result.finished and result.code == 0


@scenario(1, engines=("fsync", "esync", "handoff"))
def half_done(stage: ScriptedStage) -> Finding:
    """A wait-all that is half done can be seen"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    # A set that esync makes up for A's roll back, which loses X's token (F8).
    sets = () if stage.engine == "esync" else (set_(x),)
    b = stage.thread("B", wait(x, timeout=0), read(x), *sets)
    c = stage.thread("C", clear(y))

    def seen_half() -> bool:
        polled, state, *set_before = b.results
        told = polled.code, state.state["signaled"], *(each.code for each in set_before)
        found_reset = (TIMED_OUT, 0, *(0 for _ in sets))
        return (b.state, told, a.state) == (State.DONE, found_reset, State.SLEEPING)

    stage.start()
    tried = in_all_schedules(stage, seen_half)
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say(
        "B polls X, asks for its state, and sets it",
        handoff="B polls X: A is at it" + GATE,
        esync="B polls X, and asks for its state",
    )
    b.run()
    stage.say("C resets Y", handoff="C is to reset Y, and waits too")
    c.run()
    stage.say(
        "A does not get Y, puts X back, and sleeps: it has taken nothing",
        handoff="A takes Y as well, and B and C go on",
        esync="A does not get Y, puts back what it took, into Y (F8), and sleeps",
    )
    settle([a, b, c])
    return tried.occurs_if(
        seen_half(),
        "X was set from the beginning and nobody ever got it, A least of all; yet B's poll timed"
        " out, "
        + stage.by_engine(
            "B's query said that X was reset, and B's set reported the same.",
            esync="and B's query said that X was reset.",
        ),
        nt="A gets both or neither. It did not get both, so X was set all the time: B's poll takes"
        " it.",
        otherwise="what B's poll, query and set say of X always agrees with what A got.",
    )


@scenario(2, engines=("fsync", "esync", "handoff"))
def roll_back_without_wake(stage: ScriptedStage) -> Finding:
    """A roll back wakes nobody: B sleeps beside a set event"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", wait(x))
    c = stage.thread("C", clear(y), set_(x))
    stage.start()
    tried = in_all_schedules(stage, lambda: sleeps_beside(stage, b, "X"), unless=("fsync",))
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say("B finds X reset, and sleeps", handoff="B comes for X: A is at it" + GATE)
    b.run()
    stage.say("C resets Y", handoff="C is to reset Y, and waits too")
    as_far_as(c, 1)
    stage.say(
        "A does not get Y, and puts X back without waking anybody",
        handoff="A takes Y as well, and gives the gate free; B finds X reset, and sleeps",
        esync="A does not get Y, and puts back what it took, into Y (F8): X's token is gone",
    )
    a.run()
    settle([b])
    lost = stage.engine != "fsync" or sleeps_beside(stage, b, "X")
    stage.say(
        "C sets X: it is set already, so again nobody is woken",
        handoff="C resets Y, and sets X: it hands X to B",
        esync="C sets X: its slot says so already, but a set of an auto event always writes",
    )
    settle([c, b])
    return tried.occurs_if(
        lost and sleeps_beside(stage, b, "X"),
        "B sleeps although X, all that it waits for, is set. Another set did not wake it either:"
        " it found X set and did nothing.",
        nt="A never had X, so X was set when B came: B takes it at once.",
        otherwise="B never sleeps while X is set. "
        + stage.by_engine(
            "Nothing is put back, and every set hands X on.",
            esync="Who sleeps polls, and a token that is written wakes him. (A's roll back loses"
            " X's token, F8, and with it the signal; but the next set writes another.)",
        ),
    )


@scenario(3, engines=("fsync", "handoff"))
def roll_back_of_an_owned_mutex(stage: ScriptedStage) -> Finding:
    """A roll back frees a mutex that was the caller's before"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    z = stage.event("Z", signaled=True)
    a = stage.thread("A", wait(m), wait(m), wait(m, y, all=True, timeout=0), unlock(m))
    b = stage.thread("B", wait(m, z, all=True, timeout=0), read(m))
    c = stage.thread("C", clear(y))
    stage.start()
    tried = in_all_schedules(stage, lambda: _got(b) and a.results[3].code == -errno.EPERM)
    stage.say("A acquires M twice")
    a.until_call(2)
    stage.say("A finds its own M and Y available, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say("C resets Y", handoff="C is to reset Y: A is at it" + GATE)
    c.run()
    stage.say(
        "A does not get Y, and rolls back: M, which was its own all the time, becomes free",
        handoff="A takes Y, and has M three times",
    )
    as_far_as(a, 3)
    stage.say("B waits for M and Z, and asks for M's state")
    b.run()
    stage.say("A releases M, which it believes to own")
    settle([a, b])
    return tried.occurs_if(
        _got(b) and a.results[3].code == -errno.EPERM,
        "A acquired M twice and never released it, yet B got it: two owners. A's release was"
        f" refused. A's recursion count stayed in M: B, who acquired it once, has it"
        f" {b.results[1].state['count']} times.",
        nt="A's wait-all did not succeed and so changed nothing. M is A's, and B's poll times out.",
        otherwise="B never gets M while A owns it, and A's release is never refused.",
    )


@scenario(3, engines=("esync",))
def an_owned_mutex_is_left_alone(stage: ScriptedStage) -> Finding:
    """A wait-all with a mutex of its caller's comes to no roll back"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m), wait(m), wait(m, y, all=True, timeout=0))
    b = stage.thread("B", wait(m, timeout=0), read(m))
    c = stage.thread("C", clear(y))

    def turns_to_the_wait() -> None:
        a.until_call(2)
        stage.say("A waits for its own M, and for Y")

    def freed() -> bool:
        c.run()
        settle([b])
        a.run(2 * lap)
        state = b.results[1].state
        return _got(b) or (stage.owner_name(state["owner"]), state["count"]) != ("A", 2)

    stage.start()
    turns_to_the_wait()
    lap = circle(stage, [a], laps=LAPS)
    runs = failed = 0
    for held in range(max(lap, 1)):
        stage.restart()
        turns_to_the_wait()
        a.run(held)
        failed += freed()
        runs += 1
    tried = Tried(runs, failed, f"by holding A before each of the {runs} steps of its circle (F9)")
    stage.restart()
    stage.say("A acquires M twice")
    turns_to_the_wait()
    a.run(2 * lap)
    stage.say("C resets Y, B polls M and asks for its state")
    freed()
    return tried.occurs_if(
        failed > 0,
        "A acquired M twice and never released it, yet M is free, or B's.",
        nt="A's wait-all succeeds while Y is set, and changes nothing once it is not. M is A's, and"
        " B's poll times out.",
        otherwise="B never gets M, which stays A's, twice. A's wait-all never gets as far as taking"
        " anything, since it takes its own mutex for one that is not to be had (F9); and a roll"
        " back would free no mutex: it writes to eventfds alone.",
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


@scenario(4, engines=("handoff",))
def abandonment_that_stays(stage: ScriptedStage) -> Finding:
    """A wait-all that fails leaves a mutex abandoned"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=0))
    c = stage.thread("C", clear(y))
    d = stage.thread("D", wait(m, timeout=0))

    def dies() -> None:
        b.until_call(1)
        b.kill()

    def nobody_told() -> bool:
        c.run()
        settle([a, d, c] if a.state is not State.DEAD else [d, c])
        return not any(_got(each) and each.results[0].abandoned for each in (a, d))

    stage.start()
    tried = when_stopped(stage, a, nobody_told, kill=False, begin=dies)
    killed = when_stopped(stage, a, nobody_told, kill=True, begin=dies)
    stage.say("B takes M, and is killed; C resets Y")
    dies()
    c.run()
    stage.say("A does not get Y: it takes nothing, but finds out that B is dead")
    a.run()
    stage.say("D takes M")
    d.run()
    return tried.occurs_if(
        bool(killed.failed) or not (_got(d) and d.results[0].abandoned),
        "B died owning M, and whoever got M next was told nothing of the death.",
        nt="M stays abandoned until somebody acquires it: D gets M and is told.",
        otherwise=f"the next to own M is always told that its owner died, and so after each of"
        f" {killed.runs} kills of A. Nobody takes M without all else that he waits for.",
    )


@scenario(4, engines=("esync",))
def abandonment_that_stays_in_the_slot(stage: ScriptedStage) -> Finding:
    """A wait-all that fails leaves the mark of an abandoned mutex"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=0))
    c = stage.thread("C", clear(y))
    d = stage.thread("D", wait(m, timeout=0))
    k = stage.thread("K", sweep())
    nobody = []

    def dies() -> None:
        _dies_owning(stage, b, k)

    def untold() -> bool:
        c.run()
        settle([a, d])
        nobody.append(not _got(a) and not _got(d))
        return any(_got(each) and not each.results[0].abandoned for each in (a, d))

    stage.start()
    tried = when_stopped(stage, a, untold, kill=False, begin=dies)
    dies()
    stage.say("A finds M abandoned and Y set, takes M's token, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say("C resets Y")
    c.run()
    stage.say("A does not get Y, and puts back what it took, into Y (F8)")
    a.run()
    stage.say("D polls M, whose slot still says that it is abandoned")
    d.run()
    return tried.occurs_if(
        _got(d) and not d.results[0].abandoned,
        "B died owning M, and D, who got M next, was told nothing of the death.",
        nt="M stays abandoned until somebody acquires it: D gets M and is told.",
        otherwise="nobody gets M without being told of the death, for a roll back leaves the slot"
        f" alone. ({sum(nobody)} times nobody could get M any more, since A had lost its token:"
        " F8.)",
    )


def _dies_owning(stage: ScriptedStage, victim: Thread, sweeper: Thread) -> None:
    """The victim gets what its first call asks for, is killed before its second, and its mutexes
    are abandoned."""
    stage.say(f"{victim.name} takes M and is killed; the sweeper {sweeper.name} finds it dead")
    victim.until_call(1)
    victim.kill()
    sweeper.finish()


@scenario(5, engines=("fsync", "handoff"))
def ghost_signal(stage: ScriptedStage) -> Finding:
    """A roll back signals an event that was reset meanwhile"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(x), clear(y), wait(x, timeout=0))
    stage.start()
    tried = in_all_schedules(stage, lambda: _got(b, 2))
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say("B resets X, then Y", handoff="B is to reset X: A is at it" + GATE)
    as_far_as(b, 2)
    stage.say(
        "A does not get Y, and puts X back: it is set again",
        handoff="A takes Y as well; B goes on, and resets both",
    )
    a.run()
    as_far_as(b, 2)
    stage.say("B polls X")
    settle([b, a])
    return tried.occurs_if(
        _got(b, 2),
        "Nobody set X after B had reset it, and yet B's poll found it set.",
        nt="A's wait-all has taken nothing and puts nothing back: X is reset, and B times out.",
        otherwise="X stays reset once B has reset it.",
    )


@scenario(5, engines=("esync",))
def ghost_signal_elsewhere(stage: ScriptedStage) -> Finding:
    """A roll back signals an event that was reset meanwhile, if another than it took"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(x), clear(y), wait(x, timeout=0), wait(y, timeout=0))
    stage.start()
    stage.say("A finds X and Y set, takes X, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say("B resets X, then Y")
    as_far_as(b, 2)
    stage.say("A does not get Y, and writes what it took, and one more, into Y")
    a.run()
    stage.say("B polls X, then Y")
    settle([b, a])
    ghosts = [name for name, call in (("X", 2), ("Y", 3)) if _got(b, call)]
    return occurs_if(
        bool(ghosts),
        f"Nobody set {' or '.join(ghosts)} after B had reset it, and yet B's poll found it set."
        " (FSYNC's roll back does it to X, which A had taken; this one to Y, at which A failed:"
        " F8.)",
        nt="A's wait-all has taken nothing and puts nothing back: both are reset, and B times out.",
        otherwise="X and Y stay reset once B has reset them.",
    )


@scenario(6, engines=("esync",))
def above_the_maximum_elsewhere(stage: ScriptedStage) -> Finding:
    """A roll back lifts a semaphore above its maximum, if it failed at that"""
    y, s = stage.event("Y", signaled=True), stage.semaphore("S", 1, maximum=1)
    a = stage.thread("A", wait(y, s, all=True, timeout=0))
    b = stage.thread("B", wait(s))
    c = stage.thread("C", wait(s, timeout=0), wait(s, timeout=0))
    stage.start()
    stage.say("A finds Y and S available, takes Y, and is held before it takes S")
    stage.until_taking(a, s)
    stage.say("B takes the only token of S")
    b.run()
    stage.say("A does not get S, and writes what it took, and one more, into S")
    a.run()
    stage.say("C polls S, twice")
    settle([c, a, b])
    taken = sum(each.code == 0 for each in (*b.results, *c.results))
    return occurs_if(
        taken > 1,
        f"Nobody released S, which had one token of at most one, and B and C took {taken} from it:"
        " A's roll back had minted them (F8). The count in S's slot has gone below 0. (A semaphore"
        " that A had taken first is not lifted: the slot still counts its token, and B's release"
        " would be refused.)",
        nt="A's wait-all has taken nothing and puts nothing back: B has the token, and C times out"
        " twice.",
        otherwise="B has the token, and C gets none.",
    )


@scenario(6, engines=("fsync", "handoff"))
def above_the_maximum(stage: ScriptedStage) -> Finding:
    """A roll back lifts a semaphore above its maximum"""
    s, y = stage.semaphore("S", 1, maximum=1), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, y, all=True))
    b = stage.thread("B", release(s), clear(y))

    def above() -> bool:
        state = stage.states()["S"]
        released_too_much = b.results[0].code == 0 and not _got(a)
        return state.count > state.maximum or (released_too_much and stage.engine == "handoff")

    stage.start()
    tried = in_all_schedules(stage, above)
    stage.say("A finds S and Y available, takes S, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say(
        "B releases S, which seems to be empty, and resets Y",
        handoff="B is to release S: A is at it" + GATE,
    )
    b.run()
    stage.say(
        "A does not get Y, and puts its token back",
        handoff="A takes Y as well; now S has room, and B's release is right",
    )
    a.run()
    settle([b, a])
    state = stage.states()["S"]
    return tried.occurs_if(
        above(),
        f"S holds {state.count} tokens, and its maximum is {state.maximum}. B's release should have"
        " been refused.",
        nt="A's wait-all has taken nothing, so S is full: B's release fails, and S keeps its one"
        " token.",
        otherwise="B's release is refused unless A has taken the token for good, and S never holds"
        " more than its one.",
    )


@scenario(
    7,
    engines=("fsync", "esync", "handoff"),
    forced="A is declared dead while it still runs (the sweeper declares only dead threads dead)",
)
def abandonment_overwritten(stage: ScriptedStage) -> Finding:
    """A roll back overwrites an abandonment"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True))
    c = stage.thread("C", clear(y))
    k = stage.thread("K", abandon(m), wait(m, timeout=0))

    def forgotten() -> bool:
        return k.results[0].code >= 0 and _got(k, 1) and k.results[1].abandoned == 0

    stage.start()
    tried = in_all_schedules(stage, forgotten, unless=("fsync",))
    stage.say("A finds M free and Y set, takes M, and is held before it takes Y")
    stage.until_taking(a, y)
    stage.say(
        "K declares the owner of M dead, though A only stands still",
        handoff="K is to declare the owner of M dead: A is at it" + GATE,
        esync="K is to declare the owner of M dead: its slot names none yet, so K is refused",
    )
    as_far_as(k, 1)
    stage.say("C resets Y", handoff="C is to reset Y, and waits too")
    c.run()
    stage.say(
        "A does not get Y, and stores that M is free over its abandonment",
        handoff="A takes Y as well, and has both; then K declares it dead",
        esync="A does not get Y, and writes what it took, and one more, into Y (F8)",
    )
    a.run()
    stage.say("K takes M", handoff="and K takes M, C resets Y", esync="K polls M")
    settle([k, a, c])
    return tried.occurs_if(
        forgotten(),
        "M was abandoned in A's name. A's roll back stored over that, and K, the next owner, is"
        " told nothing.",
        nt="A wait-all that fails changes nothing: M stays abandoned, and K is told.",
        otherwise="whenever K declared an owner of M dead and then took M, it was told. A wait-all"
        " that fails stores nothing"
        + stage.by_engine(".", esync=" in a slot, where the abandonment stands."),
    )


@scenario(8, engines=("fsync", "esync", "handoff"))
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
        wrong += count * (stage.states()["X"].signaled == got[0])
    stage.restart()
    stage.say("A finds X set and M free, takes X, and is held before it takes M")
    stage.until_taking(a, m)
    stage.say("B takes M", handoff="B is to take M: A is at it" + GATE)
    b.run()
    stage.say(
        "A does not get M, and puts X back into X",
        handoff="A takes M as well, and puts nothing back",
        esync="A does not get M, and writes what it took from X, and one more, into M",
    )
    a.run()
    stage.say(
        "C does not get M, which is B's",
        handoff="B and C do not get M, which is A's",
        esync="C polls M, which is B's",
    )
    settle([c, b, a])
    return occurs_if(
        bool(two_owners or wrong),
        f"M, of which B had not let go, was C's as well, and X's token was gone. In all {schedules}"
        f" schedules that differ, M had two owners in {two_owners}, X was wrong in {wrong}.",
        nt="Nothing is taken, so nothing has to be put back: X is set, M is B's.",
        otherwise=f"Checked in all schedules of A, B and C that differ ({schedules}): none gives M"
        " two owners, and X ends set unless A has it. "
        + stage.by_engine(
            "Each object is put back by itself, into its own word.",
            handoff="Nothing is put back: what is taken is taken in one commit.",
        ),
    )


@scenario(9, engines=("fsync", "esync", "handoff", "ntsync"))
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
        f"M is A's and Y is set, and A, which only polls, goes round in a circle of {endless}"
        " steps: it waits for M's eventfd, which is readable while M is free."
        if endless
        else "A did not get both.",
        nt="The wait succeeds at once, and M is owned twice.",
        otherwise="Checked by the one schedule that one thread has: the wait succeeded at once, and"
        f" M's count is {stage.states()['M'].count}. A mutex of A's own counts as available"
        " whenever A looks.",
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


def _told_of_both(a: Thread) -> bool:
    return _got(a) and a.results[0].abandoned == 1


@scenario(10, engines=("handoff",))
def abandoned_mutex_is_taken(stage: ScriptedStage) -> Finding:
    """A wait-all comes to a mutex whose owner has died"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), unlock(m), wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))

    def left_out() -> bool:
        a.run()
        return not _got(a)

    stage.start()
    tried = when_stopped(stage, b, left_out, kill=True)
    stage.say("B takes M, and is killed; nobody has noticed")
    b.until_call(3)
    b.kill()
    stage.say("A waits for M and Y, and looks whether M's owner is alive")
    a.run()
    return tried.occurs_if(
        not _told_of_both(a),
        "B died owning M, Y is set, and A did not get both, or was not told.",
        nt=_ABANDONED_NT,
        otherwise="A, who comes afterwards, gets both at once. Who finds a mutex owned asks for a"
        " sign of life of its owner before he sleeps.",
    )


@scenario(11, engines=("handoff",))
def abandoned_mutex_wakes(stage: ScriptedStage) -> Finding:
    """An owner dies while a wait-all sleeps for his mutex"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    b = stage.thread("B", wait(m), unlock(m), wait(m), read(y))
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))
    steps: list[int] = []

    def queued() -> None:
        b.until_call(1)
        a.run()

    def left_out() -> bool:
        before = len(stage.trace)
        settle_late([a])
        steps.append(len(stage.trace) - before)
        return not _got(a)

    stage.start()
    tried = when_stopped(stage, b, left_out, kill=True, begin=queued)
    stage.say(
        "B takes M; A waits for M and Y, and sleeps: on its own word, and on B's sign of life"
    )
    queued()
    stage.say("B is killed, which ends A's sleep")
    b.kill()
    a.run()
    return tried.occurs_if(
        not _told_of_both(a) or circle(stage, [a], laps=LAPS) > 0,
        "B died owning M, Y is set, and A did not get both, or was not told.",
        nt=_ABANDONED_NT,
        otherwise=f"A, who slept for M and Y, had both at most {max(steps)} steps later and took"
        " no more. It goes round in no circle.",
    )


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


@scenario(10, engines=("esync",))
def abandoned_mutex_is_readable(stage: ScriptedStage) -> Finding:
    """A wait-all comes to an abandoned mutex"""
    a, lap = _wait_all_on_an_abandoned_mutex(stage)
    return occurs_if(
        bool(lap) or not _told_of_both(a),
        "M is abandoned and Y is set, and A did not get both, or was not told.",
        nt=_ABANDONED_NT,
        otherwise="Checked by the one schedule that A has, alone: it got both, and was told. The"
        " sweep makes M's eventfd readable, and a wait-all looks at nothing else.",
    )


@scenario(11, engines=("esync",))
def abandoned_mutex_wakes_a_poll(stage: ScriptedStage) -> Finding:
    """A mutex is abandoned while a wait-all polls it"""
    m, y = stage.mutex("M"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m, y, all=True, timeout=SOME_TIME))
    b = stage.thread("B", wait(m), read(y))
    k = stage.thread("K", sweep())
    steps: list[int] = []

    def queued() -> None:
        b.until_call(1)
        a.run()
        b.kill()

    def left_out() -> bool:
        before = len(stage.trace)
        settle([a])
        steps.append(len(stage.trace) - before)
        settle([k, a])
        return not _told_of_both(a)

    stage.start()
    tried = when_stopped(stage, k, left_out, kill=False, begin=queued)
    stage.say("B takes M, A sleeps for M, and B is killed")
    queued()
    stage.say("the sweeper finds B dead, abandons M, and writes its token; A runs")
    settle([k, a])
    return tried.occurs_if(
        not _told_of_both(a),
        "B died owning M, Y is set, and A did not get both, or was not told.",
        nt=_ABANDONED_NT,
        otherwise=f"A sleeps until the token is there, of which it takes {max(steps)} steps at most"
        " to have both, and goes round in no circle: it names no value to sleep on.",
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


@scenario(12, engines=("fsync", "esync", "handoff", "ntsync"))
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


@scenario(13, engines=("fsync", "esync", "handoff"))
def missed_instant(stage: ScriptedStage) -> Finding:
    """The one instant is missed"""
    x, y = stage.event("X"), stage.event("Y")
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", set_(y), set_(x), clear(x), set_(x), clear(x), set_(x), clear(x))
    stage.start()
    tried = in_all_schedules(
        stage,
        lambda: a.state is State.SLEEPING and slept_before(stage, a, b, 5),
        ordered=True,
    )
    stage.say("A finds X reset, and sleeps" + stage.by_engine(" on it", handoff=""))
    a.run()
    stage.say("B sets Y")
    b.until_call(1)
    missed = 0
    for again in ("", " again", " a third time"):
        stage.say(
            f"B sets X{again}, which wakes A; before A runs, B resets X",
            handoff=f"B sets X{again}, and resets it",
        )
        b.until_call(b.call + 2)
        stage.say("A finds X reset, and sleeps on", handoff="A was given both by the first set")
        a.run()
        missed += a.state is State.SLEEPING
    return tried.occurs_if(
        missed == 3,
        "Three times X and Y were both set, A was woken each time, and A still sleeps: it has to"
        " run while both are set, and did not.",
        nt="A has both objects when B's first set of X returns.",
        otherwise="A never sleeps on after a set of X that came while it slept and Y was set.",
    )


def _against_each_other(
    stage: ScriptedStage, timeout: int, failure: Callable[[Sequence[Thread]], bool]
) -> tuple[Tried, list[Thread], int]:
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(x, y, all=True, timeout=timeout))
    b = stage.thread("B", wait(y, x, all=True, timeout=timeout))
    stage.start()
    tried = in_all_schedules(stage, lambda: failure([a, b]))
    stage.say("A and B take turns, a step each")
    return tried, [a, b], circle(stage, [a, b], laps=LAPS)


@scenario(14, engines=("fsync", "esync", "handoff"))
def opposite_orders(stage: ScriptedStage) -> Finding:
    """Two wait-alls in opposite order go on for ever"""
    tried, threads, lap = _against_each_other(
        stage, SOME_TIME, lambda threads: not any(map(_got, threads))
    )
    return tried.occurs_if(
        lap > 0,
        "Each takes its first object, fails at its second and "
        + stage.by_engine("puts the first back", esync="writes two tokens into that (F8)")
        + f": {LAPS} times the same {lap} steps, after which everything is as it was. X and Y are"
        " there all the time, and neither A nor B gets them.",
        nt="One of them gets both at once, and the other waits.",
        otherwise="one of them gets both at once. In turns: " + _states(threads) + ".",
    )


@scenario(15, engines=("fsync", "esync", "handoff"))
def deadline_not_seen(stage: ScriptedStage) -> Finding:
    """A retrying wait-all does not see its deadline"""
    tried, threads, lap = _against_each_other(
        stage, 0, lambda threads: any(each.state is not State.DONE for each in threads)
    )
    return tried.occurs_if(
        lap > 0,
        f"Both calls are polls, with a timeout of 0. {LAPS} rounds of {lap} steps later, neither"
        " has returned: they only look at the deadline where they would sleep, and each finds an"
        " object set whenever it looks.",
        nt="A poll returns at once: one gets both objects, the other times out.",
        otherwise="both polls return, and nothing is tried twice. In turns: "
        + _states(threads)
        + ".",
    )


def _states(threads: list[Thread]) -> str:
    return ", ".join(f"{each.name} is {each.state.name.lower()}" for each in threads)


@scenario(16, engines=("fsync", "esync", "handoff"))
def owned_zero_times(stage: ScriptedStage) -> Finding:
    """An owned mutex with a count of zero"""
    m, n, y = stage.mutex("M"), stage.mutex("N"), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(n, y, all=True))
    q = stage.thread("Q", read(m), read(n))

    def between() -> bool:
        seen = [(bool(each.state["owner"]), each.state["count"]) for each in q.results]
        return any(pair not in ((False, 0), (True, 1)) for pair in seen)

    stage.start()
    tried = in_all_schedules(stage, between)
    if stage.engine == "handoff":
        stage.say("A takes M, in one step; B takes N in a wait-all, and is held before it takes Y")
        a.run()
        stage.until_taking(b, y)
        stage.say("Q asks for the state of both, and has to wait for the gate, which B holds")
    else:
        stage.say("A takes M, and is held before it counts")
        a.until("store", "M.word1")
        stage.say("B takes N in a wait-all, takes Y, and is held before it counts")
        b.until("store", "N.word1")
        stage.say("Q asks for the state of both")
    settle([q])
    settle([a, b, q])
    return tried.occurs_if(
        between(),
        "Q was told that M and N are owned, zero times. (N is seen so for longer: B counts only"
        " after it has taken everything.)",
        nt="A query sees a mutex free, or owned once; never between.",
        otherwise="Q is told of a mutex that is free, or owned once. Owner and count are one word.",
    )


@scenario(17, engines=("fsync", "esync", "handoff"))
def no_common_instant(stage: ScriptedStage) -> Finding:
    """A wait-all succeeds though the objects were never signaled together"""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    e, z = stage.event("E", manual=True, signaled=True), stage.event("Z", signaled=True)
    a = stage.thread("A", wait(x, y, all=True))
    b = stage.thread("B", clear(y), clear(x), set_(y))
    c = stage.thread("C", wait(e, z, all=True))
    d = stage.thread("D", clear(e), read(z))

    def automatic() -> bool:
        told = [1, 1, 0] if stage.engine == "esync" else [1, 0, 0]
        return _got(a) and [each.code for each in b.results] == told

    def manual() -> bool:
        return _got(c) and d.results[0].code == 1 and bool(d.results[1].state["signaled"])

    stage.start()
    tried = in_all_schedules(stage, lambda: automatic() or manual())
    stage.say("A finds X and Y set, and is held before it takes X")
    stage.until_taking(a, x)
    stage.say("B resets Y", handoff="B is to reset Y: A is at it" + GATE)
    as_far_as(b, 1)
    stage.say("A takes X, and is held before it takes Y")
    a.step()
    stage.say("B resets X, and sets Y", handoff="B has to wait")
    b.run()
    stage.say("A takes Y", handoff="A takes Y; now B resets Y, resets X, and sets Y")
    settle([a, b])
    stage.say("C finds E and Z set, and is held before it takes Z (it does not take E)")
    stage.until_taking(c, z)
    stage.say("D resets E, and looks: Z is still set", handoff="D is to reset E" + GATE)
    d.run()
    stage.say("C takes Z", handoff="C takes Z; D finds Z gone")
    settle([c, d])
    return tried.occurs_if(
        automatic() or manual(),
        _no_common_instant_seen(stage, automatic(), manual()),
        nt="A wait-all tests and takes at one instant, at which all its objects are signaled: A and"
        " C had to take before the resets, or wait.",
        otherwise="what A and C get is there at one instant, by all that B and D can see.",
    )


def _no_common_instant_seen(stage: ScriptedStage, automatic: bool, manual: bool) -> str:
    seen = []
    if automatic:
        seen.append(
            stage.by_engine(
                "A took X and Y. It had not taken Y when Y was reset (it was set before), it had"
                " taken X when X was reset (it was not set any more), and in between Y was reset:"
                " at no instant could A take both.",
                esync="A took X and Y. It had not taken Y when Y was reset (it was set before), nor"
                " X when X was reset after that (so was it, by its slot); X was not set again, and"
                " Y only later: at no instant could A take both.",
            )
        )
    if manual:
        seen.append(
            "C took Z, and with it passed E, which D had reset while Z was still there to be seen."
        )
    return " ".join(seen)
