"""F18 to F25: pulse, set and reset."""

from __future__ import annotations

import errno

from shmsync_tools.lab.real import namespace, prevented_if, refusal
from shmsync_tools.lab.scenario import Finding, ScriptedStage, occurs_if, scenario
from shmsync_tools.lab.schedules import (
    as_far_as,
    in_all_schedules,
    outcomes,
    returned_before,
    settle,
    slept_before,
)
from shmsync_tools.stage import (
    Call,
    Object,
    State,
    Thread,
    clear,
    pulse,
    read,
    release,
    set_,
    unlock,
    wait,
)

TIMED_OUT = -errno.ETIMEDOUT
#: Steps after which one who waits for a lock that is held has been seen to do so.
SPINS = 20


@scenario(18, engines=("fsync", "esync", "handoff"))
def pulse_lost(stage: ScriptedStage) -> Finding:
    """A pulse releases nobody"""
    e = stage.event("E", manual=True)
    v, w = stage.thread("V", wait(e)), stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))

    def left() -> list[str]:
        asleep = [each for each in (v, w) if each.state is State.SLEEPING]
        return [each.name for each in asleep if slept_before(stage, each, p)]

    stage.start()
    tried = in_all_schedules(stage, lambda: bool(left()), ordered=True)
    stage.say("V and W sleep on E")
    v.run()
    w.run()
    stage.say(
        "P sets E, wakes both, and pauses; they do not run within the pause; P resets E",
        handoff="P sets E, hands it to V and W, and resets it, all inside the gate",
    )
    p.run()
    stage.say("V and W run, find E reset, and sleep on", handoff="V and W run")
    settle([v, w, p])
    return tried.occurs_if(
        p.state is State.DONE and bool(left()),
        f"The pulse is over, and {' and '.join(left())}, who waited when it came, sleep on.",
        nt="A pulse releases every thread that waits at that instant: V and W.",
        otherwise="whoever slept on E when P came is released.",
    )


def _until_pulsed(stage: ScriptedStage, thread: Thread) -> None:
    """Holds a thread between the set and the reset of a pulse."""
    if stage.engine == "handoff":
        thread.until("store", "pulsing", times=2)
    else:
        thread.until("yield")


@scenario(19, engines=("fsync", "esync", "handoff"))
def pulse_releases_late_comers(stage: ScriptedStage) -> Finding:
    """A pulse releases those who come later, and the same one again"""
    e = stage.event("E", manual=True)
    p = stage.thread("P", pulse(e))
    n = stage.thread("N", wait(e), wait(e))
    w = stage.thread("W", wait(e))

    def passed() -> int:
        return sum(each.finished for each in n.results)

    stage.start()
    tried = in_all_schedules(stage, lambda: passed() > 1)
    stage.say("W sleeps on E", handoff="W sleeps for E")
    w.run()
    stage.say("P sets E, and pauses", handoff="P sets E, and is held before it resets it")
    _until_pulsed(stage, p)
    stage.say(
        "N, who was not there when E was set, waits for E, twice",
        handoff="N, who was not there, comes for E: P is at it, so N waits for the gate",
    )
    n.run()
    stage.say("P resets E", handoff="P resets E, gives the gate free and wakes W; N sleeps")
    settle([p, n, w])
    return tried.occurs_if(
        passed() > (0 if stage.engine == "handoff" else 1),
        f"One pulse let one thread pass {passed()} times, though it was not waiting when the pulse"
        " began.",
        nt="A pulse releases those who wait at that instant, each once: at most one of N's waits"
        " succeeds.",
        otherwise="one pulse never lets N pass twice, and not at all if it came later, as here.",
    )


@scenario(20, engines=("fsync", "esync", "handoff"))
def pulse_undoes_a_set(stage: ScriptedStage) -> Finding:
    """A pulse undoes a set that came after it"""
    e = stage.event("E", manual=True)
    w = stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))
    # With esync a poll would pass, by the slot alone (F21).
    asks = read(e) if stage.engine == "esync" else wait(e, timeout=0)
    s = stage.thread("S", set_(e), asks)

    def undone() -> bool:
        asked = s.results[1]
        said = asked.code == TIMED_OUT or (asked.finished and asks.text == "E.state()")
        return returned_before(stage, w, s) and said and not asked.state["signaled"]

    stage.start()
    tried = in_all_schedules(stage, undone, ordered=True)
    stage.say("W sleeps on E")
    w.run()
    stage.say(
        "P sets E, wakes W, and pauses", handoff="P sets E, serves W, and is held before its reset"
    )
    _until_pulsed(stage, p)
    stage.say(
        "W runs and passes: the pulse has had its effect", handoff="W sleeps until the gate is free"
    )
    w.run()
    stage.say(
        "S sets E: it is set already",
        handoff="S is to set E: P is at it, so S waits",
        esync="S sets E: a second token",
    )
    as_far_as(s, 1)
    stage.say("P resets E", handoff="P resets E; then S sets it", esync="P reads both tokens")
    settle([p, w])
    stage.say("S polls E", esync="S asks whether E is set")
    s.run()
    return tried.occurs_if(
        undone(),
        "S set E after W had already been released by the pulse. The pulse's reset took the set"
        " away: E is reset, and S"
        + stage.by_engine(
            "'s poll timed out.", esync=" is told so. (E's slot says that it is set: as in F21.)"
        ),
        nt="The pulse is over when W is released; S's set comes after it, and E stays set: S"
        " passes.",
        otherwise="a set that came after W's release is never taken away.",
    )


@scenario(21, engines=("fsync", "esync", "handoff"))
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


@scenario(22, engines=("fsync", "esync", "handoff"))
def pulse_and_wait_all(stage: ScriptedStage) -> Finding:
    """A pulse does not complete a wait-all"""
    e, y = stage.event("E", manual=True), stage.event("Y", signaled=True)
    w = stage.thread("W", wait(e, y, all=True))
    p = stage.thread("P", pulse(e))
    stage.start()
    tried = in_all_schedules(
        stage, lambda: w.state is State.SLEEPING and slept_before(stage, w, p), ordered=True
    )
    stage.say("W waits for E and Y; Y is set, and W sleeps on E", handoff="W sleeps for E and Y")
    w.run()
    stage.say(
        "P sets E, wakes W, and pauses; W does not run within the pause; P resets E",
        handoff="P sets E, finds that W has all now, and takes both in W's name; P resets E",
    )
    p.run()
    stage.say("W runs, finds E reset, and sleeps on", handoff="W runs")
    settle([w, p])
    return tried.occurs_if(
        p.state is State.DONE and w.state is State.SLEEPING,
        "When E was pulsed, E and Y were signaled together, and W waited for just that. W sleeps"
        " on, and Y is still set.",
        nt="The pulse completes W's wait: W has Y when the pulse returns.",
        otherwise="W, if it slept when P came, has both.",
    )


@scenario(23, engines=("fsync", "esync", "handoff"))
def set_and_reset(stage: ScriptedStage) -> Finding:
    """Set followed by reset releases nobody"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x), clear(x))
    stage.start()
    tried = in_all_schedules(
        stage, lambda: w.state is State.SLEEPING and slept_before(stage, w, s), ordered=True
    )
    stage.say("W sleeps on X", handoff="W sleeps for X")
    w.run()
    stage.say(
        "S sets X, which wakes W, and resets it before W runs",
        handoff="S sets X, which hands it to W, and resets it before W runs",
    )
    s.run()
    stage.say("W runs, finds X reset, and sleeps on", handoff="W runs: it has had X all the time")
    settle([w, s])
    return tried.occurs_if(
        s.state is State.DONE and w.state is State.SLEEPING,
        "X was set while W waited for it, and W sleeps on. (S's reset was told that X was still"
        f" set: {s.results[1].code}.)",
        nt="The set hands X to W before it returns, and the reset finds it reset.",
        otherwise="W, if it slept when S came, has X when the set returns.",
    )


@scenario(24, engines=("fsync", "esync", "handoff", "ntsync"))
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


@scenario(25, engines=("fsync", "handoff", "ntsync"))
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


@scenario(25, engines=("esync",))
def set_taken_by_a_reset(stage: ScriptedStage) -> Finding:
    """A set is taken by a reset that is half done"""
    x = stage.event("X", signaled=True)
    a = stage.thread("A", clear(x))
    s = stage.thread("S", set_(x))
    w = stage.thread("W", wait(x))
    t = stage.thread("T", set_(x))
    stage.start()
    stage.say("A resets X's slot, and is held before it reads the eventfd")
    a.until("read", x)
    stage.say("S sets X: the slot was reset, and the eventfd has two tokens now")
    s.run(SPINS)
    stage.say("A reads both")
    settle([a, s])
    stage.say("W waits for X, whose slot says that it is set")
    w.run()
    said = a.results[0].code, s.results[0].code
    lost = said == (1, 0) and w.state is State.SLEEPING
    stage.say("T sets X once more")
    settle([t, w])
    return occurs_if(
        lost,
        "A's reset found X set, and S's set found it reset: the set came second. Yet the eventfd"
        " was empty, and W slept beside a slot that said that X is set, until T set X once more. (A"
        " set writes whatever the slot says. One of Wine's server would not: there is none here.)",
        nt="Set and reset happen one after the other.",
        otherwise="Checked by this one script: S sets X before A begins or after A is done, and W"
        " has it.",
    )


def _is_set_at_the_end(stage: ScriptedStage) -> bool:
    """Is X set, or should it be since A's reset was over when S began its second set?"""
    reset = [each.after for each in stage.returns if each.thread == "A"]
    second_set = [i for i, step in enumerate(stage.trace) if (step.thread, step.call) == ("S", 1)]
    return stage.words()["X"][0] == 1 or reset[0] <= second_set[0]
