"""F63: the gate, and who is stopped in it.

On the stage a thread that cannot have the gate waits for it without end. What its deadline and a
signal do meanwhile is looked at in real processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from shmsync import Event, Mutex, Namespace
from shmsync_tools.lab.real import PATIENCE, TRACED_INSTEAD, namespace, refusal
from shmsync_tools.lab.scenario import Finding, ScriptedStage, occurs_if, scenario
from shmsync_tools.lab.schedules import settle
from shmsync_tools.stage import State, set_, sweep, unlock, wait

#: Seconds until a deadline or a signal comes to somebody who waits for the gate.
SOON = 0.2
#: Stops itself in the step after the lock of the gate, as it opens an event.
STOPS_IN_THE_GATE = """
from shmsync import Namespace
lib, view = traced.lib, traced.ffi.new("struct step_view *")
with Namespace(sys.argv[1], create=False) as ns:
    ns.event("first")
    lib.step_count_from_0()
    lib.step_record(1)
    ns.event("second")
    lib.step_record(0)
    for number in range(lib.step_recorded()):
        lib.step_get(number, view)
        if traced.ffi.string(view.op_name) == b"lock":
            break
    print("ready", flush=True)
    sys.stdin.readline()
    lib.step_count_from_0()
    lib.step_stop_before(number + 1)
    ns.event("third")
"""


class _SignalError(Exception):
    """What the handler of a signal raises."""


@dataclass(frozen=True)
class _Meanwhile:
    """What came of calls that were made while a process was stopped inside the gate, and after it
    was continued."""

    uncontended: bool
    deadline_came: bool
    signal_came: bool
    set_went_on: bool
    all_in_the_end: bool


@contextmanager
def _process_in_the_gate(ns: Namespace, waits: list[Future[bool]]) -> Iterator[int]:
    """A process that is stopped inside the gate once these waits have begun; gives its id."""
    command = [sys.executable, "-c", TRACED_INSTEAD + STOPS_IN_THE_GATE, ns.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while sum(each.waiters for each in ns.objects()) < len(waits):
                if any(each.done() for each in waits):
                    break
                os.sched_yield()
            process.stdin.write(b"\n")
            process.stdin.flush()
            seen = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert seen is not None
            assert seen.si_code == os.CLD_STOPPED, "it has ended and not stopped"
            yield process.pid
        finally:
            process.kill()


def _interrupted(ns: Namespace) -> bool:
    """Does a signal end an opening?"""

    def handler(number: int, frame: object) -> None:
        raise _SignalError

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, SOON)
    try:
        return refusal(lambda: ns.event("interrupted")) == _SignalError.__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _uncontended(mutex: Mutex, event: Event) -> bool:
    """Calls on objects that nobody else wants."""
    mutex.acquire()
    mutex.release()
    event.set()
    return event.wait(0)


def _went_on(setting: Future[bool], engine: str) -> bool:
    """Has a set come to its end? Of handoff's one sees only that it has not yet."""
    if engine != "handoff":
        setting.result(PATIENCE)
    return setting.done()


def _while_stopped(engine: str) -> _Meanwhile:
    with namespace(engine, "F63") as ns, ThreadPoolExecutor(3) as pool:
        wanted, never, unwanted = ns.event("wanted"), ns.event("never"), ns.event("unwanted")
        mutex = ns.mutex("mutex")
        _uncontended(mutex, unwanted)  # this thread is registered from here on
        waiting, leaving = (
            pool.submit(wanted.wait, PATIENCE),
            pool.submit(never.wait, SOON),
        )
        with _process_in_the_gate(ns, [waiting, leaving]) as process:
            uncontended = _uncontended(mutex, unwanted)
            deadline_came = not leaving.result()
            setting = pool.submit(wanted.set)
            signal_came = _interrupted(ns)
            set_went_on = _went_on(setting, engine)
            os.kill(process, signal.SIGCONT)
            ended = waiting.result() and setting.result() is not None
        opened = refusal(lambda: ns.event("later")) == "none"
    return _Meanwhile(uncontended, deadline_came, signal_came, set_went_on, ended and opened)


@scenario(63, engines=("fsync", "esync", "handoff", "ntsync"))
def stopped_in_the_gate(stage: ScriptedStage) -> Finding:
    """A process is stopped inside the gate, and others come"""
    m, e = stage.mutex("M"), stage.event("E")
    p = stage.thread("P", sweep())
    n = stage.thread("N", wait(m), unlock(m))
    w = stage.thread("W", wait(e))
    s = stage.thread("S", set_(e))
    k = stage.thread("K", sweep())
    stage.start()
    stage.say("W sleeps for E")
    w.run()
    stage.say("P enters the gate, to look for dead threads, and stands still there")
    p.until("unlock", "gate")
    stage.say("N acquires and releases M, which nobody else wants, without the gate")
    n.run()
    stage.say(
        "S sets E, without the gate, and W has it",
        handoff="S has to hand E to W, and waits for the gate",
    )
    s.run()
    w.run()
    stage.say("K needs the gate, and waits for it")
    k.run()
    blocked = [each.name for each in (s, k) if each.state is State.BLOCKED]
    stage.say("P goes on, and with it all others")
    settle([p, s, w, k])
    real = _while_stopped(stage.engine)
    return occurs_if(
        bool(blocked) and all(each.state is State.DONE for each in stage.threads),
        f"While P stood still inside the gate, {' and '.join(blocked)} could not go on, and N did"
        f" not notice. {_told(real, stage.engine)}",
        nt="The kernel's own lock is never held by code that somebody could stop.",
        otherwise="Nobody needed the gate.",
    )


def _told(real: _Meanwhile, engine: str) -> str:
    """What was seen with a real process, and whether it is what it has to be."""
    handoff = engine == "handoff"
    wanted = _Meanwhile(True, True, True, not handoff, True)
    assert real == wanted, real
    return (
        "With a real process that had stopped itself inside the gate: acquire, release, set and"
        " wait on objects that nobody else wanted worked; a waiter left at its deadline; a set with"
        f" a waiter {'waited for the gate' if handoff else 'woke it'}; opening an object waited for"
        " the gate, and a signal (as Ctrl-C is one) ended that. Once the process was continued,"
        " everything went on."
    )
