"""F48 to F54: shared memory as an interface."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from shmsync import inspect
from shmsync._traced import ffi
from shmsync_tools.lab.real import (
    PATIENCE,
    namespace,
    prevented_if,
    python,
    refusal,
    unique_name,
)
from shmsync_tools.lab.scenario import Finding, ScriptedStage, occurs_if, scenario
from shmsync_tools.lab.scenarios.death import forge
from shmsync_tools.lab.schedules import as_far_as, circle, in_all_schedules, settle
from shmsync_tools.stage import State, Thread, read, release, set_, unlock, wait

COUNT_MAX = 2**32 - 1
LONG_MAX = 2**31 - 1
#: As much as an eventfd counts.
COUNTER_MAX = 2**64 - 2
#: How often a circle is run through before it counts as endless.
LAPS = 20


def place_of(thread: Thread) -> tuple[str, int]:
    """The file, and the offset in it, of the word that a thread stands before."""
    address = thread._view().pending_address
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, _, offset, _, _, *path = line.split(maxsplit=5)
        start, stop = (int(bound, 16) for bound in bounds.split("-"))
        if start <= address < stop:
            return path[0], address - start + int(offset, 16)
    raise AssertionError(f"{thread!r} stands before no word in a file")


#: Writes words to a file. It knows nothing of shmsync.
STRANGER = """
import mmap, sys
with open(sys.argv[2], "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    for change in sys.argv[3:]:
        offset, value = map(int, change.split("="))
        memory[offset : offset + 4] = value.to_bytes(4, sys.byteorder)
"""


def forge_counter(thread: Thread, value: int) -> None:
    """Writes to the counter that a thread stands before, as whoever has the descriptor can."""
    ffi.cast("uint64_t *", thread._view().pending_address)[0] = value


def scribble(changes: dict[Thread, int], *, wide: bool) -> None:
    """A process of its own writes to the words that the threads stand before; ``wide``: words of 64
    bits."""
    places = {place_of(thread): value for thread, value in changes.items()}
    if wide:
        places |= {(path, offset + 4): 0 for path, offset in places}
    (path,) = {path for path, _ in places}
    words = [f"{offset}={value}" for (_, offset), value in places.items()]
    run = python(STRANGER, "F48", path, *words)
    assert run.returncode == 0, run.stderr


@scenario(48, engines=("fsync", "handoff"))
def stranger_scribbles(stage: ScriptedStage) -> Finding:
    """Any process of the user may write into the segment"""
    m = stage.mutex("M")
    s = stage.semaphore("S", 1, maximum=1)
    e = stage.event("E")
    a = stage.thread("A", wait(m), unlock(m))
    b = stage.thread("B", wait(m))
    c = stage.thread("C", *[wait(s, timeout=0)] * 3)
    d = stage.thread("D", wait(e, timeout=0))
    stage.start()
    stage.say("A takes M, and C takes the only token of S")
    a.until_call(1)
    c.until_call(1)
    stage.say("A is about to release M, C to poll S once more, D to poll E, which is clear")
    a.until("load", m)
    c.until("load", s)
    d.until(stage.by_engine("cas", handoff="load"), e)
    stage.say("another process maps the file and writes: M free, 2^32 - 1 tokens in S, E signaled")
    scribble({a: 0, c: COUNT_MAX, d: 1}, wide=stage.engine == "handoff")
    b.run()
    a.run()
    c.run()
    d.run()
    return occurs_if(
        b.state is State.DONE
        and a.results[1].code == -errno.EPERM
        and [result.code for result in c.results] == [0, 0, 0]
        and d.results[0].code == 0,
        "A process that only mapped the file took M from under A (B got it, and A's release was"
        " refused), filled S above its maximum, and signaled E. Errors can be found (no call"
        " crashes or hangs on such values), lies cannot.",
        nt="The state is the kernel's; a process reaches it through its handles only.",
    )


@scenario(48, engines=("esync",))
def stranger_scribbles_into_slots(stage: ScriptedStage) -> Finding:
    """Any process of the user may write into the slots"""
    m = stage.mutex("M")
    s = stage.semaphore("S", 1, maximum=1)
    e = stage.event("E", manual=True)
    f = stage.event("F", manual=True)
    a = stage.thread("A", wait(m), unlock(m))
    b = stage.thread("B", wait(m))
    c = stage.thread("C", wait(s, timeout=0), release(s))
    d = stage.thread("D", wait(e, timeout=0))
    g = stage.thread("G", set_(f))
    stage.start()
    stage.say("A takes M, and C takes the only token of S")
    a.until_call(1)
    c.until_call(1)
    stage.say("B comes for M, C is to put its token back, D polls E, which is clear, G sets F")
    b.until("load", m)
    c.until("load", "S.word1")
    d.until("load", e)
    g.until("cas", "F.word1")
    stage.say("another process maps the file and writes: M is B's, S full, E set, F locked")
    names = {name: owner for owner, name in stage.owners.items()}
    scribble({b: names["B"], c: 1, d: 1, g: 1}, wide=False)
    settle([b, a, c, d])
    lap = circle(stage, [g], laps=LAPS)
    return occurs_if(
        b.state is State.DONE
        and [a.results[1].code, c.results[1].code] == [-errno.EPERM, -errno.EOVERFLOW]
        and d.results[0].code == 0
        and lap > 0,
        "A process that only mapped the file gave B the mutex that A had (A's release was refused),"
        " declared S full though it was empty (C cannot put its token back), let D pass E, which"
        " nobody had set, and left G spinning for a lock that nobody has. The eventfds are out of"
        " its reach, but a slot is asked first.",
        nt="The state is the kernel's; a process reaches it through its handles only.",
    )


#: Releases a semaphore once standard input ends.
TOUCHES_LATER = """
import resource, sys
from shmsync import Namespace
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
tokens = Namespace(sys.argv[1], engine=sys.argv[2], exclusive=True).semaphore("tokens", 0)
print("ready", flush=True)
sys.stdin.read()
tokens.release()
"""


@scenario(49, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def file_is_cut(engine: str) -> Finding:
    """Any process of the user may cut the segment's file"""
    name = unique_name("F49")
    path = Path(inspect.path_of(name))
    command = [sys.executable, "-c", TOUCHES_LATER, name, engine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        try:
            assert user.stdout is not None
            assert user.stdout.readline() == b"ready\n"
            reserved = path.stat().st_blocks * 512 >= path.stat().st_size > 0
            os.truncate(path, 0)
            user.communicate(timeout=PATIENCE)  # ends its standard input
        finally:
            user.kill()
            path.unlink(missing_ok=True)
    full = " A full /dev/shm cannot do the same: the file's space is reserved when it is made."
    return occurs_if(
        user.returncode == -signal.SIGBUS,
        "Another process truncated the file, and the next touch of the segment killed its user"
        " with SIGBUS." + (full if reserved else ""),
        nt="An object's memory is the kernel's.",
        otherwise=f"The user of the segment ended with code {user.returncode}.",
    )


#: Opens what another process has made, and uses it.
SECOND_HANDLE = """
import sys
from shmsync import Namespace
with Namespace(sys.argv[2], create=False) as ns:
    ns.event("door").set()
    ns.semaphore("tokens").release(3)
    ns.semaphore("tokens").acquire(timeout=0)
"""


@scenario(50, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def no_rights_per_handle(engine: str) -> Finding:
    """Every handle may do everything"""
    with namespace(engine, "F50") as ns:
        door, tokens = ns.event("door"), ns.semaphore("tokens", 0)
        run = python(SECOND_HANDLE, "F50", ns.name)
        assert run.returncode == 0, run.stderr
        done = door.is_set() and tokens.state().count == 2
    return occurs_if(
        done,
        "A second process opened both objects by name and set, released and acquired them. There"
        " is no way to give out a handle that may only wait: rights are those of the segment's"
        " file (mode=), for all of it.",
        nt="A handle opened with SYNCHRONIZE alone may wait; setting or releasing through it is"
        " refused with ACCESS_DENIED.",
    )


@scenario(51, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def release_count_wraps(engine: str) -> Finding:
    """The sum in a release wraps past the limit test"""
    with namespace(engine, "F51") as ns:
        tokens = ns.semaphore("tokens", 1)
        counts = (2**32 - 1, 2**32, 2**31, 2**31 - 1, 0, -1)
        refusals = [refusal(lambda: tokens.release(n)) for n in counts]  # noqa: B023
        count = tokens.state().count
    return prevented_if(
        refusals == ["LimitError"] * 4 + ["ValueError"] * 2 and count == 1,
        "A release of 2^32 - 1, which would make 1 + n = 0, is a LimitError, and so is every n down"
        " to the one that would pass the maximum; 0 and less is a ValueError. The count stayed 1.",
        nt="STATUS_INVALID_PARAMETER for a count that is not positive (ntsync: EOVERFLOW).",
        otherwise=f"The releases answered {refusals}, and the count is {count}.",
    )


@scenario(
    52, engines=("fsync", "handoff"), forced="an event's word, and a semaphore's count at its limit"
)
def counter_near_its_limit(stage: ScriptedStage) -> Finding:
    """A counter near its limit makes a set or a release fail half way"""
    e = stage.event("E")
    s = stage.semaphore("S", 0, maximum=LONG_MAX)
    a = stage.thread("A", set_(e), set_(e), wait(e, timeout=0), wait(e, timeout=0))
    b = stage.thread("B", release(s), release(s, LONG_MAX))
    stage.start()
    stage.say("a stranger writes the largest values: E's word all ones, S as full as any can be")
    a.until(stage.by_engine("swap", handoff="load"), e)
    forge(a, COUNT_MAX)
    b.until("load", s)
    forge(b, LONG_MAX)
    stage.say("A sets E twice, and polls it twice; B releases S")
    a.run()
    b.run()
    sets = [result.code for result in a.results[1:]]
    releases = [result.code for result in b.results]
    count = stage.states()["S"].count
    good = (
        sets == [1, 0, -errno.ETIMEDOUT]
        and releases == [-errno.EOVERFLOW] * 2
        and count == LONG_MAX
    )
    return occurs_if(
        not good,
        f"E's calls answered {sets}, S's {releases}, and S has {count} tokens.",
        nt="An event has no counter, and a semaphore has one, with a limit of its own.",
        otherwise="Checked by writing the largest values into both words: the next set of the event"
        " leaves a plain 1, which exactly one poll takes; the full semaphore refuses a release and"
        " keeps its count. ESYNC has a second counter, the eventfd's, which can refuse after the"
        " first has changed; here there is none.",
    )


@scenario(
    52, engines=("esync",), forced="the counters, as whoever has the descriptors can write them"
)
def eventfd_is_full(stage: ScriptedStage) -> Finding:
    """The counter of an eventfd is full, and a release fails half way"""
    e = stage.event("E")
    s = stage.semaphore("S", 0, maximum=5)
    a = stage.thread("A", set_(e))
    b = stage.thread("B", release(s, 2))
    stage.start()
    stage.say("A is about to set E, and B to release S")
    a.until("write", e)
    b.until("write", s)
    stage.say("forced: a stranger fills both eventfds")
    forge_counter(a, COUNTER_MAX)
    forge_counter(b, COUNTER_MAX)
    stage.say("A and B go on")
    a.run()
    b.run()
    count = stage.states()["S"].count
    return occurs_if(
        b.results[0].code == -errno.EOVERFLOW and count != 0,
        f"B's release of 2 failed, and S counts {count} tokens all the same: the slot was raised"
        f" before the eventfd refused. A's set, which wrote nothing, answered {a.results[0].code},"
        " as if all were well.",
        nt="A release that is refused leaves the count. There is no second counter.",
        otherwise=f"Checked by this one script: B's release answered {b.results[0].code}, and S"
        f" counts {count}.",
    )


@scenario(
    53, engines=("fsync", "esync"), forced="the recursion count, as 2^32 - 1 acquisitions leave it"
)
def recursion_is_a_plain_number(stage: ScriptedStage) -> Finding:
    """The recursion count wraps, and is read apart from its owner"""
    m = stage.mutex("M")
    again = wait(m, timeout=0)
    a = stage.thread("A", again, unlock(m), again, again, again, unlock(m))
    b = stage.thread("B", again, again, unlock(m), unlock(m), again)
    r = stage.thread("R", read(m))
    stage.start()
    stage.say("A holds M once; R has read that A owns it, and is held before it reads how often")
    a.until_call(1)
    r.until("load", "M.word1")
    stage.say("A releases M, and B takes it twice")
    a.until_call(2)
    b.until_call(2)
    r.run()
    seen = r.results[0].state
    torn = stage.owner_name(seen["owner"]) == "A" and seen["count"] == 2
    stage.say("B releases it; A takes it")
    b.until_call(4)
    a.until_call(3)
    stage.say("forced: A's count is what 2^32 - 1 acquisitions make it; A acquires twice more")
    a.until("load", "M.word1")
    forge(a, COUNT_MAX)
    as_far_as(a, 5)
    stage.say("A releases M once, and B tries to take it")
    a.run()
    b.run()
    stolen = b.state is State.DONE and b.results[4].code == 0
    said = "R read that A held M twice, which it never did: owner and count are two loads. " * torn
    said += "After 2^32 + 1 acquisitions one release freed M, and B got it." * stolen
    return occurs_if(
        torn or stolen,
        said.strip(),
        nt="The mutex is not signaled for its owner at the limit (ntsync: the wait times out), and"
        " owner and count are read under one lock.",
        otherwise="R read an owner with that owner's count, and A was refused at the limit.",
    )


@scenario(53, engines=("handoff",), forced="the recursion count, as 2^32 - 1 acquisitions leave it")
def recursion_has_a_limit(stage: ScriptedStage) -> Finding:
    """The recursion count at its limit, and read beside a change"""
    m = stage.mutex("M")
    again = wait(m, timeout=0)
    a = stage.thread("A", again, unlock(m))
    b = stage.thread("B", again, again, unlock(m))
    r = stage.thread("R", read(m))
    possible = {"free": {0}, "A": {1}, "B": {1, 2}}

    def torn() -> bool:
        seen = r.results[0].state
        return seen["count"] not in possible.get(stage.owner_name(seen["owner"]), set())

    stage.start()
    tried = in_all_schedules(stage, torn)
    stage.say("B takes M")
    b.until_call(1)
    stage.say("forced: B's count is what 2^32 - 1 acquisitions make it; B acquires once more")
    b.until("load", m)
    forge(b, COUNT_MAX)
    as_far_as(b, 2)
    stage.say("B releases M once; A tries to take it; R reads its state")
    b.run()
    a.run()
    r.run()
    refused = b.results[1].code == -errno.ETIMEDOUT and a.results[0].code == -errno.ETIMEDOUT
    left = stage.states()["M"]
    return tried.occurs_if(
        not refused or (left.owner, left.count) != (b.number, COUNT_MAX - 1),
        f"At the limit B's acquire answered {b.results[1].code}, and M's count is {left.count}.",
        nt="The mutex is not signaled for its owner at the limit (ntsync: the wait times out), and"
        " owner and count are read under one lock.",
        otherwise="R reads an owner with that owner's count, for they are one word. At the limit"
        " (forced) B's poll timed out, its release counted down by one, and A did not get M.",
    )


def as_long(value: int) -> int:
    """A 32-bit result as NT's LONG."""
    return (value + 2**31) % 2**32 - 2**31


@scenario(54, engines=("fsync", "esync", "handoff", "ntsync"))
def previous_values(stage: ScriptedStage) -> Finding:
    """A release returns another previous value than NT's"""
    m = stage.mutex("M")
    e = stage.event("E")
    a = stage.thread("A", wait(m), wait(m), unlock(m), unlock(m))
    b = stage.thread("B", set_(e), set_(e))
    stage.start()
    stage.say("A takes M twice, and releases it twice")
    a.finish()
    b.finish()
    releases = [as_long(result.code) for result in a.results[2:]]
    sets = [result.code for result in b.results]
    return occurs_if(
        releases != [-1, 0],
        f"The two releases of a mutex that was held twice returned {releases}. That is ntsync's"
        " convention (how often it was held), which the API states as its own; a set returns"
        f" whether the event was set ({sets}), as in NT.",
        nt="The previous SignalState, which is 1 minus that count: -1, then 0.",
        otherwise=f"The two releases returned {releases}.",
    )
