"""F26 to F35: who gets an object, and when a wait ends without."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from shmsync_tools.lab.real import namespace
from shmsync_tools.lab.scenario import Finding, ScriptedStage, Verdict, occurs_if, scenario
from shmsync_tools.lab.schedules import (
    WINES,
    Tried,
    circle,
    every_schedule,
    in_all_schedules,
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
    release,
    set_,
    unlock,
    wait,
)

TIMED_OUT = -errno.ETIMEDOUT
#: How often a circle is run through before it counts as endless.
LAPS = 20
#: Number of a system call, and its argument that says by which clock the deadline goes.
FUTEX_WAITV, CLOCK_ARGUMENT = "449", 5
FUTEX, OPERATION_ARGUMENT, FUTEX_CLOCK_REALTIME = "202", 2, 0x100
#: It takes a span of time, not a deadline.
PPOLL = "271"
CLOCK_REALTIME, CLOCK_MONOTONIC = 0, 1


@scenario(26, engines=("fsync", "esync", "handoff"))
def robbed(stage: ScriptedStage) -> Finding:
    """The woken waiter is robbed"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m), unlock(m))
    w = stage.thread("W", wait(m))
    n = stage.thread("N", wait(m), unlock(m), wait(m), unlock(m), wait(m))

    def owned_and_wanted() -> None:
        o.until_call(1)
        w.run()

    def overtaken() -> bool:
        n.run()
        settle([o, n, w])
        return n.results[0].finished or not w.results[0].finished

    stage.start()
    tried = Tried()
    if stage.engine not in WINES:
        tried = when_stopped(stage, o, overtaken, kill=False, begin=owned_and_wanted)
    stage.say("O owns M, and W sleeps on it")
    owned_and_wanted()
    stage.say(
        "O releases M and wakes W; before W runs, N comes and takes M",
        handoff="O hands M to W; before W runs, N comes for M",
    )
    o.run()
    robbed = 0
    for call in (1, 3, 5):
        while n.call < call and n.can():
            n.step()
        robbed += n.results[call - 1].finished
        stage.say("W runs, finds M owned, and sleeps again", handoff="W has M, and N sleeps for it")
        w.run()
        if stage.engine not in WINES:
            break
        if call < 5:
            stage.say("N releases M, which wakes W, and takes it again before W runs")
    return tried.occurs_if(
        robbed == 3 and w.state is State.SLEEPING,
        "M was released three times while W waited for it, and three times N, who came later, took"
        " it from under W's nose.",
        nt="M is W's when O's release returns, and N waits.",
        otherwise="N, who came meanwhile, never got M before W.",
    )


@scenario(27, engines=("fsync", "esync", "handoff"))
def last_come_first_served(stage: ScriptedStage) -> Finding:
    """Last come, first served"""
    s = stage.semaphore("S")
    v, w = stage.thread("V", wait(s)), stage.thread("W", wait(s))
    r = stage.thread("R", release(s))
    stage.start()
    tried = in_all_schedules(
        stage,
        lambda: (w.state, v.state) == (State.DONE, State.SLEEPING) and slept_before(stage, v, w),
        ordered=True,
    )
    stage.say("V comes first and sleeps on S, then W")
    v.run()
    w.run()
    stage.say(
        "R releases one token, and wakes both", handoff="R releases one token, and hands it to V"
    )
    r.run()
    stage.say("W is the first to run")
    settle([w, v])
    return tried.occurs_if(
        w.state is State.DONE and v.state is State.SLEEPING,
        "V came before W, and W got the token. V sleeps on.",
        nt="V gets the token.",
        otherwise="W never has the token while V sleeps, if V slept before W came.",
    )


@scenario(28, engines=("fsync", "esync", "handoff"))
def herd(stage: ScriptedStage) -> Finding:
    """One token wakes everybody"""
    s = stage.semaphore("S")
    sleepers = [stage.thread(f"W{i}", wait(s)) for i in range(1, 6)]
    r = stage.thread("R", release(s))

    def woken() -> int:
        polled = [step.thread for step in stage.trace if step.op == "poll"]
        polled_again = len(polled) - len(set(polled))
        return polled_again + sum(step.result for step in stage.trace if step.op == "wake")

    def crowd() -> bool:
        settle([*sleepers, r])
        return woken() > 1

    stage.start()
    tried = Tried()
    if stage.engine not in WINES:
        tried = when_stopped(stage, r, crowd, kill=False, begin=lambda: settle(sleepers))
    stage.say("five threads sleep on S")
    settle(sleepers)
    stage.say("R releases one token")
    r.run()
    stage.say("all that were woken run: one gets the token", handoff="the one that was woken runs")
    settle([*sleepers, r])
    asleep = sum(each.state is State.SLEEPING for each in sleepers)
    return tried.occurs_if(
        woken() > 1,
        f"One token woke {woken()} threads, of which {asleep} found nothing and sleep again.",
        nt="One token wakes one thread.",
        otherwise=f"one token of five sleepers woke {woken()}, and {asleep} sleep on undisturbed.",
    )


@scenario(29, engines=("fsync", "esync", "handoff"))
def wake_wasted(stage: ScriptedStage) -> Finding:
    """A wake goes to one who no longer needs it"""
    s, x = stage.semaphore("S"), stage.event("X")
    v = stage.thread("V", wait(x, s))
    w = stage.thread("W", wait(s))
    r = stage.thread("R", release(s), set_(x))
    stage.start()
    tried = in_all_schedules(stage, lambda: sleeps_beside(stage, w, "S"), unless=("fsync",))
    stage.say("V sleeps on X and S, W on S")
    v.run()
    w.run()
    stage.say("R releases S, and sets X before those who were woken run")
    r.run()
    stage.say(
        "V finds X set, and takes that",
        handoff="V was handed the token",
        esync="V polls X and S, and takes the first that is ready",
    )
    v.run()
    stage.say("does W get the token?")
    settle([w, v, r])
    nt = "Each signal goes to a waiter that still needs it: V has S or X, W the other."
    seen = "The wake for S went to V, who took X. W sleeps beside a token."
    if stage.engine != "fsync":
        return tried.occurs_if(
            sleeps_beside(stage, w, "S"),
            seen,
            nt=nt,
            otherwise="W never sleeps beside a token. "
            + stage.by_engine(
                "A wake is sent to one who has been served.",
                esync="Whoever polls S wakes for a token (F28), and nobody sleeps on S before he"
                " has polled it.",
            ),
        )
    if sleeps_beside(stage, w, "S"):
        return Finding(Verdict.OCCURS, seen, nt)
    return Finding(
        Verdict.NOT_REPRODUCED,
        "An early version of FSYNC woke as many as there were tokens. This is the later one, which"
        " wakes everybody (F28), and with that the same script ends well: W was woken too, and got"
        " the token.",
        nt,
    )


@scenario(30, engines=("fsync", "esync", "handoff"))
def spinning(stage: ScriptedStage) -> Finding:
    """Spinning takes too much, or sleeps on an old value"""
    s = stage.semaphore("S", 3)
    a = stage.thread("A", *(wait(s) for _ in range(4)))
    stage.start()
    stage.say("A takes the three tokens, one a call, and waits for a fourth")
    a.run()
    grab = stage.by_engine("cas", esync="read")
    taken = [step for step in stage.trace if step.op == grab and step.result]
    expected = [step.old for step in stage.trace if step.op == "sleep"]
    nt = "One wait takes one token, and sleeps only while there is none."
    # Of handoff: its first wait, pending. A poll expects nothing.
    asleep_for = {"fsync": [0], "esync": []}.get(stage.engine, [0x100])
    asleep = a.state is State.SLEEPING
    if len(taken) != 3 or expected != asleep_for or a.call != 3 or not asleep:
        seen = f"{len(taken)} tokens were taken in {a.call} calls; slept on values {expected}."
        return Finding(Verdict.OCCURS, seen, nt)
    return Finding(
        Verdict.NOT_REPRODUCED,
        "It was a patch that made waits spin before they sleep, "
        + stage.by_engine(
            "and this engine is FSYNC without it.",
            esync="made for FSYNC; there is no value that a poll could expect.",
            handoff="with the grab inside. This engine may look a few times before it queues, where"
            " there is more than one processor, but each look ends with the first grab; on the"
            " stage it does not look again.",
        )
        + " Run all the same: each wait took one token with one "
        + stage.by_engine("compare-and-swap", esync="read")
        + ", and the last one slept "
        + stage.by_engine(
            "on the value 0.",
            esync="until there is another.",
            handoff="on a word of its own, which changes only when it is handed a token.",
        ),
        nt,
    )


@scenario(31, engines=("fsync", "esync", "handoff"))
def poll_fails(stage: ScriptedStage) -> Finding:
    """A poll fails though a token was there all along"""
    s = stage.semaphore("S", 2)
    a = stage.thread("A", wait(s, timeout=0))
    b = stage.thread("B", wait(s))

    tokens = 2 if stage.engine == "esync" else 0  # which of the words says how many there are

    def refused() -> bool:
        fewest = min(step.words["S"][tokens] for step in stage.trace)
        return a.results[0].code == TIMED_OUT and fewest > 0

    stage.start()
    tried = in_all_schedules(stage, refused, unless=("fsync",))
    stage.say(
        "A reads 2, and is held before its compare-and-swap",
        esync="A reads 2 in the slot, and is held before it takes a token",
    )
    a.until(stage.by_engine("cas", esync="read"), s)
    stage.say("B takes a token")
    b.run()
    stage.say(
        "A finds 1 where it expects 2, and gives up",
        handoff="A finds 1 where it expects 2, and takes that",
        esync="A takes the other",
    )
    settle([a, b])
    fewest = min(step.words["S"][tokens] for step in stage.trace)
    return tried.occurs_if(
        refused(),
        f"A's poll timed out, though S never had fewer than {fewest} token.",
        nt="A takes a token.",
        otherwise="A always gets a token.",
    )


@scenario(32, engines=("fsync", "esync", "handoff"))
def deadline_beside_a_set_event(stage: ScriptedStage) -> Finding:
    """A deadline ends a wait beside a set event"""
    x = stage.event("X")
    a = stage.thread("A", wait(x, timeout=SOME_TIME))
    b = stage.thread("B", set_(x))
    stage.start()
    if stage.engine == "fsync":
        ends = [_too_late(stage, a) for _ in every_schedule(stage)]
        tried = Tried(len(ends), sum(ends))
        stage.restart()
    else:
        tried = in_all_schedules(stage, lambda: _too_late(stage, a), unless=("fsync",))
    stage.say("A sleeps on X", handoff="A sleeps for X")
    a.run()
    stage.say(
        "B sets X, and is held before it wakes A",
        handoff="B hands X to A, and is held before it wakes A",
        esync="B sets X's slot, and is held before it writes the token, which wakes A",
    )
    b.until(stage.by_engine("wake", esync="write"))
    stage.say("A's deadline comes", esync="A's deadline comes, and A looks once more: no token yet")
    if a.can(Grant.TIMEOUT):
        a.time_out()
    settle([a, b])
    return tried.occurs_if(
        tried.failed > 0 and a.results[0].code == TIMED_OUT and stage.states()["X"].signaled,
        "X was set while A still waited, and A returned that its time was up, without a last look."
        f" That is so in {tried.failed} of all {tried.runs} schedules of A's wait, B's set and the"
        " deadline.",
        nt="A has been given X, and that wins over the deadline.",
        otherwise="A never times out after X was set. "
        + stage.by_engine(
            "A result that is there wins, late or not.",
            esync="The kernel ends a poll with a last look.",
        ),
    )


def _too_late(stage: ScriptedStage, a: Thread) -> bool:
    """Was X set before A's deadline came, and A timed out?"""
    if stage.engine == "fsync":
        ops = [step.op for step in stage.trace if step.op in ("timeout", "swap")]
        return ops == ["swap", "timeout"] and a.results[0].code == TIMED_OUT
    late = [i for i, step in enumerate(stage.trace) if step.op == "timeout"]
    done = [each.after for each in stage.returns if each.thread == "B"]
    return a.results[0].code == TIMED_OUT and bool(late and done) and done[0] <= late[0]


@scenario(33, engines=("fsync", "handoff", "ntsync"))
def alert_first(stage: ScriptedStage) -> Finding:
    """The alert goes before the objects"""
    x, e = stage.event("X", signaled=True), stage.event("E", signaled=True)
    a = stage.thread("A", wait(x, alert=e))
    stage.start()
    tried = in_all_schedules(stage, lambda: a.results[0].index == 1)
    stage.say("A waits for X, with E as its alert; both are set")
    a.run()
    return tried.occurs_if(
        a.results[0].finished and a.results[0].index == 1 and stage.states()["X"].signaled,
        "The alert ended the wait and was consumed, and X, which was set too, was left.",
        nt="A takes X, and E stays set.",
        otherwise="A, alone, takes X, and the alert is left.",
    )


@scenario(33, engines=("esync",))
def alert_first_after_a_sleep(stage: ScriptedStage) -> Finding:
    """The alert goes before the objects, for who has slept"""
    x, e = stage.event("X"), stage.event("E")
    a = stage.thread("A", wait(x, alert=e))
    b = stage.thread("B", set_(x), set_(e))
    stage.start()
    stage.say("A waits for X, with E as its alert, and sleeps")
    a.run()
    stage.say("B sets X, which wakes A, and E before A runs")
    b.run()
    stage.say("A runs")
    settle([a])
    return occurs_if(
        a.results[0].finished and a.results[0].index == 1 and stage.states()["X"].signaled,
        "X was set, then the alert. The alert ended the wait and was consumed, and X was left. (Who"
        " finds an object signaled before he sleeps takes that.)",
        nt="A has X when B's first set returns, and E stays set.",
        otherwise="A has X, and the alert is left.",
    )


@scenario(34, engines=("fsync", "esync", "handoff"), stage=False)
def clock_change(engine: str) -> Finding:
    """A change of the clock ends a wait"""
    nt = "A relative timeout knows no time of day."
    with namespace(engine, "clock") as ns:
        x = ns.event()
        clock, got = _clock_of_a_wait(lambda: x.wait(timeout=3600), x.set)
    if clock not in (CLOCK_MONOTONIC, None) or not got:
        return Finding(Verdict.OCCURS, f"The wait went by clock {clock} and gave {got}.", nt)
    scheme, names = {
        "esync": ("ESYNC", "takes the span of time that is left, whatever the clock says")
    }.get(engine, ("FSYNC", "names the monotonic clock"))
    looked = (
        f"Looked at in a thread that waits for an hour: the system call that it sleeps in {names}."
        if clock is not None
        else "(This machine does not show the system call that a thread sleeps in.)"
    )
    return Finding(
        Verdict.NOT_REPRODUCED,
        f"Wine's {scheme} goes by the time of day; this engine keeps deadlines on the monotonic"
        f" clock, which nobody can set. {looked} (The system's clock was not changed for this: that"
        " needs root, and everything else on the machine would notice.)",
        nt,
    )


def _clock_of_a_wait(
    wait: Callable[[], bool], end: Callable[[], object]
) -> tuple[int | None, bool]:
    """The clock that a waiting thread's system call names: -1 if it returned by itself, None if the
    machine does not show it; and what the wait gave after it was ended."""
    gave: list[bool] = []
    waiter = threading.Thread(target=lambda: gave.append(wait()), daemon=True)
    waiter.start()
    task = Path(f"/proc/self/task/{waiter.native_id}")
    clock: int | None = -1
    while clock == -1 and waiter.is_alive():
        os.sched_yield()
        try:
            call = (task / "syscall").read_text().split()
        except OSError:
            clock = None if task.exists() else -1
        else:
            if call[0] == FUTEX_WAITV:
                clock = int(call[CLOCK_ARGUMENT], 16)
            elif call[0] == FUTEX:
                by_time_of_day = int(call[OPERATION_ARGUMENT], 16) & FUTEX_CLOCK_REALTIME
                clock = CLOCK_REALTIME if by_time_of_day else CLOCK_MONOTONIC
            elif call[0] == PPOLL:
                clock = CLOCK_MONOTONIC
    end()
    waiter.join()
    return clock, gave == [True]


@scenario(35, engines=("esync",))
def priority_turned_around(stage: ScriptedStage) -> Finding:
    """A spin lock turns priority around"""
    e = stage.event("E", manual=True)
    low = stage.thread("L", set_(e))
    high = stage.thread("H", set_(e))
    stage.start()
    stage.say("L begins to set E, has the lock of its slot, and is held there by H, who comes")
    low.until("swap", e)
    stage.say("H sets E. Whoever goes by priority lets H on as long as it can go on")
    lap = circle(stage, [high], laps=LAPS)
    done = high.state is State.DONE
    settle([low, high])
    return occurs_if(
        not done and lap == 1,
        f"H took the same step {LAPS} times, which left everything as it was: it spins for a lock"
        " that L has. It never sleeps, so where H has the only processor, and the scheduler goes by"
        " priority, L never runs and H never ends. (Threads on the stage have no priorities: it was"
        " the script that let H on.) And nothing orders the grabs of those who are woken (F27).",
        nt="No thread holds a lock of the kernel's while it cannot run.",
        otherwise="Checked by this one script: H, let on alone, came to its end.",
    )


@scenario(35, engines=("fsync", "handoff"))
def priorities(stage: ScriptedStage) -> Finding:
    """Priorities count for nothing"""
    s = stage.semaphore("S")
    v, w = stage.thread("V", wait(s)), stage.thread("W", wait(s))
    r = stage.thread("R", release(s))
    stage.start()
    winners = []
    for first, second in ((v, w), (w, v)):
        stage.restart()
        stage.say("V and W sleep on S")
        settle([v, w])
        stage.say(
            "R releases one token, and wakes both", handoff="R hands one token to V, who came first"
        )
        r.run()
        stage.say(f"{first.name} is the first to run")
        settle([first, second])
        winners += [each.name for each in (v, w) if each.state is State.DONE]
    decides = stage.by_engine(
        "So it is the kernel's scheduler that decides, with priorities if it has some, and nothing"
        " in the engine (F27).",
        handoff="So the order of arrival decides, and no priority: a thread of high priority waits"
        " for its turn.",
    )
    return Finding(
        Verdict.NOT_REPRODUCED,
        f"Threads on the stage have no priorities, and {stage.engine} has no spin lock whose holder"
        " could be kept from running. What was run: two sleepers, one token, and both orders after"
        f" the wake; the token went to {winners[0]} in the one and to {winners[1]} in the other."
        f" {decides}",
        "The kernel knows who waits, and orders and boosts by rules of its own.",
    )
