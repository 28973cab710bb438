"""F18 to F25: pulse, set and reset."""

from __future__ import annotations

import errno

from shmsync_tools.lab.real import namespace, prevented_if, refusal
from shmsync_tools.lab.scenario import Finding, ScriptedStage, occurs_if, scenario
from shmsync_tools.lab.schedules import outcomes, settle
from shmsync_tools.stage import (
    Call,
    Object,
    State,
    clear,
    pulse,
    read,
    release,
    set_,
    unlock,
    wait,
)

TIMED_OUT = -errno.ETIMEDOUT


@scenario(18, engines=("fsync",))
def pulse_lost(stage: ScriptedStage) -> Finding:
    """A pulse releases nobody"""
    e = stage.event("E", manual=True)
    v, w = stage.thread("V", wait(e)), stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))
    stage.start()
    stage.say("V and W sleep on E")
    v.run()
    w.run()
    stage.say("P sets E, wakes both, and pauses; they do not run within the pause; P resets E")
    p.run()
    stage.say("V and W run, find E reset, and sleep on")
    settle([v, w, p])
    asleep = [each.name for each in (v, w) if each.state is State.SLEEPING]
    return occurs_if(
        p.state is State.DONE and bool(asleep),
        f"The pulse is over, and {' and '.join(asleep)}, who waited when it came, sleep on.",
        nt="A pulse releases every thread that waits at that instant: V and W.",
        otherwise="V and W were released.",
    )


@scenario(19, engines=("fsync",))
def pulse_releases_late_comers(stage: ScriptedStage) -> Finding:
    """A pulse releases those who come later, and the same one again"""
    e = stage.event("E", manual=True)
    p = stage.thread("P", pulse(e))
    n = stage.thread("N", wait(e), wait(e), wait(e))
    stage.start()
    stage.say("P sets E, and pauses")
    p.until("yield")
    stage.say("N, who was not there when E was set, waits for E, three times")
    n.run()
    stage.say("P resets E")
    settle([p, n])
    passed = sum(each.finished for each in n.results)
    return occurs_if(
        passed > 1,
        f"One pulse let one thread pass {passed} times, though it was not waiting when the pulse"
        " began.",
        nt="A pulse releases those who wait at that instant, each once: at most one of N's waits"
        " succeeds.",
        otherwise=f"{passed} of N's waits succeeded.",
    )


@scenario(20, engines=("fsync",))
def pulse_undoes_a_set(stage: ScriptedStage) -> Finding:
    """A pulse undoes a set that came after it"""
    e = stage.event("E", manual=True)
    w = stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))
    s = stage.thread("S", set_(e))
    n = stage.thread("N", wait(e, timeout=0))
    stage.start()
    stage.say("W sleeps on E")
    w.run()
    stage.say("P sets E, wakes W, and pauses")
    p.until("yield")
    stage.say("W runs and passes: the pulse has had its effect")
    w.run()
    stage.say("S sets E: it is set already")
    s.run()
    stage.say("P resets E")
    settle([p, w, s])
    stage.say("N polls E")
    n.run()
    passed = w.state is State.DONE
    return occurs_if(
        passed and s.state is State.DONE and n.results[0].code == TIMED_OUT,
        "S set E after W had already been released by the pulse. The pulse's reset took the set"
        " away: E is reset, and N's poll timed out.",
        nt="The pulse is over when W is released; S's set comes after it, and E stays set: N"
        " passes.",
        otherwise="E is set after S's set.",
    )


@scenario(21, engines=("fsync",))
def pulse_of_a_set_event(stage: ScriptedStage) -> Finding:
    """A pulse leaves a set event in two minds"""
    e = stage.event("E", manual=True, signaled=True)
    y = stage.event("Y", manual=True, signaled=True)
    p = stage.thread("P", pulse(e), *_views(stage, [e, y]), set_(e), *_views(stage, [e, y]))
    stage.start()
    stage.say("P pulses E, which is set, and asks whether it is set in three ways")
    p.until_call(4)
    stage.say("P sets E, and asks again")
    p.run()
    after_pulse, after_set = p.results[1:4], p.results[5:8]
    minds = [
        (any_.code == 0, all_.code == 0, bool(query.state["signaled"]))
        for any_, all_, query in (after_pulse, after_set)
    ]
    return occurs_if(
        minds != [(False, False, False), (True, True, True)],
        f"Wait-any, wait-all and query say {minds[0]} after the pulse and {minds[1]} after a set.",
        nt="A pulse of a set event resets it, for everybody.",
        otherwise="Checked by the one schedule that one thread has: after the pulse a wait-any, a"
        " wait-all and a query agree that E is reset, and after a set that it is set. An event is"
        " one word, and all look at that.",
    )


def _views(stage: ScriptedStage, objects: list[Object]) -> tuple[Call, Call, Call]:
    """Three ways to ask whether the first object is set; the others are."""
    first = objects[0]
    return wait(first, timeout=0), wait(*objects, all=True, timeout=0), read(first)


@scenario(22, engines=("fsync",))
def pulse_and_wait_all(stage: ScriptedStage) -> Finding:
    """A pulse does not complete a wait-all"""
    e, y = stage.event("E", manual=True), stage.event("Y", signaled=True)
    w = stage.thread("W", wait(e, y, all=True))
    p = stage.thread("P", pulse(e))
    stage.start()
    stage.say("W waits for E and Y; Y is set, and W sleeps on E")
    w.run()
    stage.say("P sets E, wakes W, and pauses; W does not run within the pause; P resets E")
    p.run()
    stage.say("W runs, finds E reset, and sleeps on")
    settle([w, p])
    return occurs_if(
        p.state is State.DONE and w.state is State.SLEEPING,
        "When E was pulsed, E and Y were signaled together, and W waited for just that. W sleeps"
        " on, and Y is still set.",
        nt="The pulse completes W's wait: W has Y when the pulse returns.",
        otherwise="W was released.",
    )


@scenario(23, engines=("fsync",))
def set_and_reset(stage: ScriptedStage) -> Finding:
    """Set followed by reset releases nobody"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x), clear(x))
    stage.start()
    stage.say("W sleeps on X")
    w.run()
    stage.say("S sets X, which wakes W, and resets it before W runs")
    s.run()
    stage.say("W runs, finds X reset, and sleeps on")
    settle([w, s])
    return occurs_if(
        s.state is State.DONE and w.state is State.SLEEPING,
        "X was set while W waited for it, and W sleeps on. (S's reset was told that X was still"
        f" set: {s.results[1].code}.)",
        nt="The set hands X to W before it returns, and the reset finds it reset.",
        otherwise="W was released.",
    )


@scenario(24, engines=("fsync",))
def wrong_kind(stage: ScriptedStage) -> Finding:
    """Calls on an object of another kind"""
    m, s, x = stage.mutex("M"), stage.semaphore("S", 3), stage.event("X")
    wrong = [clear(m), pulse(m), set_(m), clear(s), pulse(s), unlock(s)]
    wrong += [release(x, 30), unlock(x), release(m)]
    a = stage.thread("A", *wrong)
    stage.start()
    stage.say("A makes every call on objects of the other kinds")
    a.run()
    codes = {each.code for each in a.results}
    refused, misplaced = _wrong_kinds_in_python(stage.engine)
    return prevented_if(
        codes == {-errno.EPROTOTYPE}
        and stage.words() == stage.first_words
        and refused == {"KindError"}
        and not misplaced,
        "A handle knows its object's kind: a Mutex has no clear(), an Event no release(); opening"
        " an object as another kind raises KindError; and the C below refuses each of"
        f" {len(wrong)} such calls without touching anything.",
        nt="The call is refused: the object is of another type.",
        otherwise=f"The calls returned {codes}; opening as another kind raised {refused}; methods"
        f" that should not be there: {misplaced}.",
    )


def _wrong_kinds_in_python(engine: str) -> tuple[set[str], list[str]]:
    """What opening an object as another kind raises, and methods that its handle should lack."""
    with namespace(engine, "kind") as ns:
        mutex, event = ns.mutex("m"), ns.event("e")
        refused = {refusal(lambda: ns.event("m")), refusal(lambda: ns.semaphore("e"))}
        misplaced = [name for name in ("set", "clear", "pulse") if hasattr(mutex, name)]
        misplaced += [name for name in ("release", "acquire") if hasattr(event, name)]
    return refused, misplaced


@scenario(25, engines=("fsync",))
def set_lost_in_a_reset(stage: ScriptedStage) -> Finding:
    """A set is lost in a reset that is half done"""
    x = stage.event("X", signaled=True)
    a = stage.thread("A", clear(x))
    s = stage.thread("S", set_(x), set_(x))
    w = stage.thread("W", wait(x))
    stage.start()
    schedules = lost = 0
    for count in outcomes(stage):
        schedules += count
        lost += count * (w.state is State.SLEEPING and _is_set_at_the_end(stage))
    stage.restart()
    stage.say("A is about to reset X; S sets it first")
    s.until_call(1)
    stage.say("A resets X, in one step")
    a.run()
    stage.say("W sleeps on X, until S sets it once more")
    w.run()
    settle([s, w])
    return occurs_if(
        lost > 0,
        f"In {lost} of {schedules} schedules W sleeps although X was set and not reset since.",
        nt="Set and reset happen one after the other.",
        otherwise=f"Checked in all schedules of A, S and W that differ ({schedules}): W never"
        " sleeps while X is set, or after a set that no reset followed. A reset is one step, so"
        " nothing fits into it.",
    )


def _is_set_at_the_end(stage: ScriptedStage) -> bool:
    """Is X set, or should it be since A's reset was over when S began its second set?"""
    reset = [each.after for each in stage.returns if each.thread == "A"]
    second_set = [i for i, step in enumerate(stage.trace) if (step.thread, step.call) == ("S", 1)]
    return stage.words()["X"][0] == 1 or reset[0] <= second_set[0]
