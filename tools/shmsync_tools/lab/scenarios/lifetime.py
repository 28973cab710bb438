"""F55 to F62: lifetimes, and what the API keeps away from the engines.

Most of these make the call through the public API and look at what it says.
"""

from __future__ import annotations

import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shmsync import Namespace, inspect, signal_and_wait, wait_all, wait_any
from shmsync_tools.lab.real import (
    PATIENCE,
    namespace,
    prevented_if,
    python,
    refusal,
    unique_name,
)
from shmsync_tools.lab.scenario import Finding, ScriptedStage, Verdict, occurs_if, scenario
from shmsync_tools.stage import Grant, State, Thread, unlock, wait

#: Steps that are a system call each.
SYSTEM_CALLS = {"wake", "read", "write", "poll"}

#: Makes more objects than it may have files open.
MANY_OBJECTS = """
import os, resource, sys
from shmsync import Namespace, wait_any
from shmsync.errors import CapacityError
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
with Namespace(sys.argv[1], engine=sys.argv[2], exclusive=True) as ns:
    before = len(os.listdir("/proc/self/fd"))
    events = []
    try:
        events += (ns.event(signaled=True) for _ in range(1000))
    except CapacityError as error:
        sys.exit(f"{len(events)} were made, then {type(error).__name__}: {error.strerror}")
    assert wait_any(events[-64:], 0)
    print(len(os.listdir("/proc/self/fd")) - before)
"""


@scenario(55, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def files_run_out(engine: str) -> Finding:
    """A process runs out of file descriptors"""
    run = python(MANY_OBJECTS, "F55", engine)
    more, told = run.stdout.strip(), run.stderr.strip()
    return occurs_if(
        run.returncode != 0 or more != "0",
        f"A process that may have 32 files open could not have 1,000 objects: {told}.",
        nt="Handles are limited by memory alone.",
        otherwise="Checked in a process that may have 32 files open: it made and used 1,000 events,"
        " and had not one file more open than before. An object is a slot of the segment; ESYNC"
        " has a descriptor for each.",
    )


@scenario(56, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def closed_during_a_wait(engine: str) -> Finding:
    """A handle is closed while another thread waits on it"""
    with namespace(engine, "F56") as ns, ThreadPoolExecutor(1) as pool:
        old, other = ns.event("old"), ns.event("old")
        waiting = pool.submit(old.wait, PATIENCE)
        while not waiting.done() and not any(each.waiters for each in ns.objects()):
            os.sched_yield()
        old.close()
        other.close()
        new = ns.event("new", signaled=True)
        again = ns.event("old", create=False)
        kept = new.slot != again.slot and new.is_set()
        again.set()
        released = waiting.result()
        refused = refusal(old.set)
        kept = kept and new.is_set() and not again.is_set()
    return prevented_if(
        released and kept and refused == "ClosedError",
        "While a thread waited, every handle to the event was closed and another event made. The"
        " wait held the event: it was found by name, the new one got another slot, and setting the"
        " old one ended the wait, which took nothing from the new one. Only new calls on the"
        " closed handle are refused (ClosedError).",
        nt="The wait goes on, on the old object, which it keeps alive.",
        otherwise=f"released {released}, kept {kept}, refused {refused}",
    )


@scenario(57, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def slot_reused(engine: str) -> Finding:
    """A stale reference reaches the next object in the same slot"""
    with namespace(engine, "F57") as ns:
        old = ns.event("old")
        stale, slot, generation = pickle.dumps(old), old.slot, old.generation
        old.close()
        new = ns.semaphore("new", 3)
        reused = new.slot == slot and new.generation != generation
        refused = refusal(lambda: pickle.loads(stale))
        untouched = new.state().count == 3
    assert reused, "the scenario needs a slot that is used again"
    assert refused == "NotFoundError", refused
    assert untouched
    return Finding(
        Verdict.NOT_REPRODUCED,
        "A slot is given to another object only when no handle, owner or wait has it, and under"
        " a new generation. Tried: the event's slot went to a semaphore; a pickled reference to the"
        " event is NotFoundError, and the semaphore is untouched. (ESYNC numbers its slots by file"
        " descriptors, and later FSYNC reuses them by a count that can be wrong.)",
        nt="A handle is a reference.",
    )


#: Dies with a mutex in its hands and everything open.
CRASHES = """
import os, signal, sys
from shmsync import Namespace
ns = Namespace(sys.argv[2], engine=sys.argv[3])
lock = ns.mutex("lock", owned=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

#: Says what opening a namespace says.
OPENS = """
import sys
from shmsync import Namespace
try:
    Namespace(sys.argv[2], create=False).close()
    print("none")
except OSError as error:
    print(f"{type(error).__name__}: {error.strerror}")
"""

# Where the version and the engine stand in a segment's header, in every version of the format.
VERSION_AT = 8
ENGINE_AT = 16


def with_word(path: Path, offset: int, value: int) -> int:
    """Writes a word of a file, and returns what it was."""
    with path.open("r+b") as file:
        file.seek(offset)
        (before,) = struct.unpack("=I", file.read(4))
        file.seek(offset)
        file.write(struct.pack("=I", value))
    return int(before)


def error_with(name: str, offset: int, value: int) -> str:
    """What opening a namespace that is in use says while a word of its header is another."""
    path = Path(inspect.path_of(name))
    before = with_word(path, offset, value)
    try:
        return python(OPENS, "F58", name).stdout.strip()
    finally:
        with_word(path, offset, before)


@scenario(58, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def stale_file(engine: str) -> Finding:
    """A stale file, another version, another engine"""
    name = unique_name("F58")
    run = python(CRASHES, "F58", name, engine)
    left = Path(inspect.path_of(name)).exists()
    with Namespace(name, engine=engine) as ns:
        anew = ns.created and ns.objects() == ()
        version = error_with(name, VERSION_AT, 99)
        other = error_with(name, ENGINE_AT, 99)
    assert left, run.stderr
    return prevented_if(
        anew and "format version 99" in version and "number 99" in other,
        "A process was killed and left its file: the next opener made the namespace anew. A segment"
        f" of another version is refused by name ({version.split(',')[0]}), one of another engine"
        f" too ({other.split(',')[0]}); nobody works on a segment by other rules than its own.",
        nt="Nothing is left when the last handle is gone.",
        otherwise=f"made anew {anew}; {version}; {other}",
    )


@scenario(59, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def mixed_handles(engine: str) -> Finding:
    """Handles of two kinds, or of two namespaces, in one wait"""
    with namespace(engine, "F59") as ns, namespace(engine, "F59") as theirs:
        ours, foreign = ns.event(signaled=True), theirs.event(signaled=True)
        refusals = {
            refusal(lambda: wait_any([ours, foreign], 0)),
            refusal(lambda: wait_all([ours, foreign], 0)),
            refusal(lambda: wait_any([ours], 0, alert=foreign)),
            refusal(lambda: signal_and_wait(ours, foreign, 0)),
        }
        untouched = ours.is_set() and foreign.is_set()
    return prevented_if(
        refusals == {"ValueError"} and untouched,
        "Handles of two namespaces in wait_any, wait_all, as alert, or in signal_and_wait are a"
        " ValueError, and nothing was taken.",
        nt="All kinds of objects wait together; there is one namespace.",
        otherwise=f"The waits answered {sorted(refusals)}; untouched: {untouched}.",
    )


@scenario(60, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def table_is_full(engine: str) -> Finding:
    """The table of objects is full"""
    with namespace(engine, "F60", capacity=2) as ns:
        first, second = ns.event("first", signaled=True), ns.event("second")
        refused = refusal(lambda: ns.event("third"))
        works = wait_any([second, first], 0)
        second.close()
        room = refusal(lambda: ns.event("third").close())
    return prevented_if(
        refused == "CapacityError" and works is not None and works.index == 1 and room == "none",
        "The third object in a namespace with capacity=2 is a CapacityError that names the limit;"
        " the first two go on working, and closing one makes room.",
        nt="STATUS_INSUFFICIENT_RESOURCES.",
        otherwise=f"The third object: {refused}; after a close: {room}.",
    )


@scenario(61, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def signal_and_wait_on_a_bad_handle(engine: str) -> Finding:
    """Signal-and-wait signals, and then finds the other handle bad"""
    with namespace(engine, "F61") as ns, namespace(engine, "F61") as theirs:
        event, closed, foreign = ns.event(), ns.event(), theirs.event()
        closed.close()
        refusals = [
            refusal(lambda: signal_and_wait(event, closed, 0)),
            refusal(lambda: signal_and_wait(event, foreign, 0)),
            refusal(lambda: signal_and_wait(event, None, 0)),  # type: ignore[arg-type]
        ]
        signaled = event.is_set()
    return prevented_if(
        refusals == ["ClosedError", "ValueError", "TypeError"] and not signaled,
        "A closed handle, one of another namespace and something that is no handle are refused"
        " (ClosedError, ValueError, TypeError) before anything is signaled: the event is clear.",
        nt="Both handles are checked first; a bad one leaves the other object alone.",
        otherwise=f"The calls answered {refusals}; the event is signaled: {signaled}.",
    )


def _steps_of_a_look(sleeper: Thread) -> int:
    """How many steps a sleeper takes that looks again and finds nothing; 0 if it never does."""
    before = len(sleeper.stage.trace)
    if sleeper.can(Grant.RELOOK):
        sleeper.look_again()
        sleeper.run()
    return len(sleeper.stage.trace) - before


@scenario(62, engines=("fsync", "esync", "handoff"))
def cost(stage: ScriptedStage) -> Finding:
    """Busy polling, and more time than the server that it replaces"""
    m = stage.mutex("M")
    e = stage.event("E")
    a = stage.thread("A", wait(m), unlock(m))
    w = stage.thread("W", wait(e))
    stage.start()
    stage.say("A takes M, which nobody else wants, and releases it")
    a.finish()
    steps = len(stage.trace)
    calls = sum(step.op in SYSTEM_CALLS for step in stage.trace)
    stage.say("W waits for an event that nobody sets")
    w.run()
    assert w.state is State.SLEEPING
    idle = len(stage.trace) - steps
    look = _steps_of_a_look(w)
    return Finding(
        Verdict.NOT_REPRODUCED,
        "Frame rates and processor loads of games are measurements, not interleavings. Counted"
        f" instead: a mutex that nobody else wants is taken and released in {steps} steps, {calls}"
        " of them a system call"
        + stage.by_engine(
            " (a wake-up that nobody needs)", handoff="", esync=" (a read and a write)"
        )
        + f"; W sleeps after {idle} steps, "
        + stage.by_engine(
            "and takes no more until it is woken. What costs is F28, everybody waking for one"
            " token, and the loops of F11 and F14.",
            esync="and takes no more until it is woken. What costs is the system call that nearly"
            " every operation is, F28, everybody waking for one token, and the loops of F9, F14 and"
            " F35.",
            handoff=f"and wakes once a second for {look} more, to look whether"
            " somebody was killed before he woke it. What costs is the gate: all waits that have"
            " to sleep, and what ends them, go through it one after the other.",
        ),
        nt="A system call for each; waiters sleep.",
    )
