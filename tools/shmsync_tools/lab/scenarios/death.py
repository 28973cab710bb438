"""F36 to F47: threads and processes that die in the middle of something.

Threads are killed before a chosen step. The sweeper, which does the wineserver's part at the death
of a thread, is a thread of the program: K.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator

from shmsync._traced import ffi
from shmsync_tools.lab.real import python
from shmsync_tools.lab.scenario import (
    Finding,
    ScriptedStage,
    Verdict,
    occurs_if,
    scenario,
)
from shmsync_tools.stage import (
    Object,
    State,
    Thread,
    clear,
    end,
    pulse,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

#: The owner-died bit of a robust mutex's lock word, as the kernel sets it.
OWNER_DIED = 0x40000000


def as_far_as(thread: Thread, call: int) -> None:
    """Grants steps until the thread is in its call of that number, or can go no further."""
    while thread.call < call and thread.can():
        thread.step()


def killed_at_each_step(stage: ScriptedStage, victim: Thread, others: str) -> Iterator[int]:
    """Plays the program once for each step of the victim, with the victim killed before that step.
    What the others do then is the caller's business."""
    victim.finish()
    steps = len(stage.trace)
    for number in range(steps):
        stage.restart()
        for _ in range(number):
            victim.step()
        victim.kill()
        stage.say(others)
        yield number


def forge(thread: Thread, value: int, *, offset: int = 0) -> None:
    """Writes to the word that a thread stands before (or one ``offset`` bytes from it), as whoever
    maps the segment can."""
    address = thread._view().pending_address + offset
    ffi.cast("uint32_t *", address)[0] = value


@scenario(36, engines=("fsync",))
def set_killed_before_its_wake(stage: ScriptedStage) -> Finding:
    """A set is killed before it wakes, and no later set makes up for it"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x))
    t = stage.thread("T", set_(x), sweep())
    stage.start()
    stage.say("W finds X clear, and sleeps")
    w.run()
    stage.say("S signals X, and is killed before it wakes W")
    s.until("wake", x)
    s.kill()
    stage.say("T sets X once more, finds it set and wakes nobody; sweeping changes nothing")
    t.finish()
    w.run()
    return occurs_if(
        w.state is State.SLEEPING and stage.words()["X"][0] == 1,
        "W sleeps beside a signaled event, and a second, complete set did not wake it: it found"
        " X signaled and took the wake-up for given.",
        nt="Setting an event and releasing its waiter is one step of the kernel: either S died"
        " before it, and X is clear, or W has X.",
        otherwise="The second set woke W.",
    )


@scenario(37, engines=("fsync",))
def release_killed_before_its_wake(stage: ScriptedStage) -> Finding:
    """A release is killed before it wakes: sleepers beside a free mutex"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    w = stage.thread("W", wait(m))
    k = stage.thread("K", sweep())
    stage.start()
    stage.say("H takes M")
    h.until_call(1)
    stage.say("W finds M owned, and sleeps")
    w.run()
    stage.say("H frees M, and is killed before it wakes W")
    h.until("wake", m)
    h.kill()
    stage.say("the sweeper finds no mutex that H owns: M has no owner any more")
    k.finish()
    w.run()
    return occurs_if(
        w.state is State.SLEEPING and stage.words()["M"][0] == 0,
        "M is free and W sleeps on it. The sweep did not help, since M no longer named the dead"
        " thread; W sleeps until somebody else takes M and releases it.",
        nt="A release hands over in one step: either H died owning M, and W gets it abandoned, or"
        " W has it.",
        otherwise="W got M after the sweep.",
    )


@scenario(38, engines=("fsync",))
def killed_between_the_halves_of_a_release(stage: ScriptedStage) -> Finding:
    """A mutex that was as good as released is reported abandoned"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    k = stage.thread("K", sweep())
    n = stage.thread("N", wait(m, timeout=0))
    stage.start()
    stage.say("H takes M")
    h.until_call(1)
    stage.say("H counts its recursion down to 0, and is killed before it clears the owner")
    h.until("store", m)
    count = stage.words()["M"][1]
    h.kill()
    stage.say("the sweeper finds H's id in M")
    k.finish()
    stage.say("N takes M")
    n.run()
    taken = n.results[0]
    return occurs_if(
        count == 0 and taken.code == 0 and taken.abandoned == 1,
        "M's count said that nobody held it, yet N was told that its owner had died owning it."
        " Harmless here (N checks what M protects for nothing), but a state that NT never has.",
        nt="Count and owner change in one step: killed before it, H owned M once; after it, M is"
        " free and not abandoned.",
        otherwise="N got M without a word about a death.",
    )


@scenario(39, engines=("fsync",))
def acquirer_killed_half_way(stage: ScriptedStage) -> Finding:
    """An acquirer is killed half way: is the mutex lost?"""
    m = stage.mutex("M")
    n = stage.mutex("N")
    a = stage.thread("A", wait(m), wait(m, n, all=True))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m, timeout=0), wait(n, timeout=0), unlock(m), unlock(n))
    stage.start()
    lost = kills = 0
    for _ in killed_at_each_step(stage, a, "K sweeps; B takes M and N, and releases them"):
        k.finish()
        b.run()
        kills += 1
        lost += b.state is not State.DONE or any(result.code < 0 for result in b.results)
    return occurs_if(
        lost > 0,
        f"After {lost} of {kills} kills a mutex could not be taken any more.",
        nt="Taking a mutex is one step; a killed owner leaves it abandoned.",
        otherwise=f"Checked by killing the acquirer before each of its {kills} steps (wait-any,"
        " then wait-all of two): after a sweep both mutexes could be taken and released every"
        " time. ESYNC loses the mutex between its token and its owner; here the owner's id"
        " is what is taken, by one compare-and-swap.",
    )


@scenario(40, engines=("fsync",))
def killed_with_the_lock_of_an_event(stage: ScriptedStage) -> Finding:
    """A setter is killed holding the event's lock: does everybody else spin?"""
    e = stage.event("E", manual=True)
    v = stage.thread("V", set_(e), clear(e), pulse(e), wait(e, timeout=0))
    o = stage.thread("O", set_(e), clear(e), pulse(e), set_(e), wait(e))
    stage.start()
    stuck = kills = 0
    for _ in killed_at_each_step(stage, v, "O sets, clears, pulses, sets and waits"):
        o.run()
        kills += 1
        stuck += o.state is not State.DONE
    return occurs_if(
        stuck > 0,
        f"After {stuck} of {kills} kills the calls of the other thread did not come to an end.",
        nt="The kernel's locks are not held by threads that can be killed.",
        otherwise=f"Checked by killing a thread that sets, clears, pulses and polls a manual-reset"
        f" event before each of its {kills} steps: all calls of another thread came to their"
        " end every time. ESYNC has a spinlock beside the event; here there is one word, changed"
        " by one exchange.",
    )


@scenario(41, engines=("fsync",))
def semaphore_between_its_halves(stage: ScriptedStage) -> Finding:
    """A semaphore between its two halves: empty and full at once?"""
    s = stage.semaphore("S", 1, maximum=1)
    a = stage.thread("A", wait(s), release(s))
    b = stage.thread("B", wait(s, timeout=0), release(s), wait(s, timeout=0), release(s))
    stage.start()
    wrong = kills = 0
    for _ in killed_at_each_step(stage, a, "B polls, releases, polls and releases again"):
        b.run()
        kills += 1
        wrong += b.state is not State.DONE or any(result.code < 0 for result in b.results[1:])
    return occurs_if(
        wrong > 0,
        f"After {wrong} of {kills} kills S was empty and full at once, or a token was lost.",
        nt="A semaphore is one count under one lock.",
        otherwise=f"Checked by killing a thread that takes and returns the only token of a"
        f" semaphore with maximum 1 before each of its {kills} steps: whatever it left, B could"
        " put a token in where it found none, and take the one that it had put in. ESYNC keeps a"
        " count in shared memory beside the kernel's; here there is one word.",
    )


@scenario(42, engines=("fsync",))
def wait_all_killed_half_way(stage: ScriptedStage) -> Finding:
    """A wait-all is killed half way: what it had taken is gone"""
    s = stage.semaphore("S", 1, maximum=1)
    x = stage.event("X", signaled=True)
    y = stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, x, y, all=True))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(s, timeout=0), wait(x, timeout=0), wait(y, timeout=0))
    stage.start()
    stage.say("A takes S and X, and is killed before it takes Y")
    while stage.words()["X"][0] != 0 and a.can():
        a.step()
    a.kill()
    stage.say("the sweeper finds no mutex of A's; semaphores and events have no owner")
    k.finish()
    stage.say("B polls all three")
    b.run()
    codes = [result.code for result in b.results]
    return occurs_if(
        codes == [-errno.ETIMEDOUT, -errno.ETIMEDOUT, 0],
        "A's wait never succeeded, since Y is still signaled; but S's only token and X's signal are"
        " gone for good.",
        nt="A wait-all takes everything in one step: killed before it, A leaves all three set.",
        otherwise=f"B's polls answered {codes}: S and X were not taken without Y.",
    )


def declared_dead_too_early(t: Thread, k: Thread, m: Object, stage: ScriptedStage) -> None:
    """Thread number 0 stands before it takes M while a sweep takes it for dead; then it goes on."""
    stage.say("T finds M free, and is held before it takes it")
    t.until("cas", m)
    stage.say("forced: the sweeper finds T's sign of life given up, although T lives, and reaps T")
    k.until("trylock", "thread 0 liveness")
    forge(k, OWNER_DIED)
    as_far_as(k, 1)
    stage.say("T goes on, and takes M with the id that the sweeper has just buried")


DEAD_ALIVE = (
    "the sweep of a living thread: its sign of life is overwritten, as the kernel would do if it"
    " took it for dead"
)


@scenario(43, engines=("fsync",), forced=DEAD_ALIVE)
def acquired_after_the_sweep(stage: ScriptedStage) -> Finding:
    """A mutex is taken after the sweep for its owner, who is never swept again"""
    m = stage.mutex("M")
    t = stage.thread("T", wait(m), end())
    k = stage.thread("K", sweep(), sweep())
    w = stage.thread("W", wait(m))
    stage.start()
    declared_dead_too_early(t, k, m, stage)
    t.run()
    stage.say("T ends; W wants M; the sweeper sweeps again")
    w.run()
    k.finish()
    w.run()
    return occurs_if(
        w.state is State.SLEEPING and stage.owner_name(stage.words()["M"][0]) == "T",
        "T is gone and M names it as its owner for ever: the second sweep did not look at T's"
        " slot any more, which the first had freed. W sleeps.",
        nt="A thread's mutexes are abandoned when it can no longer run; there is no later"
        " acquisition.",
        otherwise="T was refused, and W got M.",
    )


@scenario(44, engines=("fsync",), forced=DEAD_ALIVE + "; and the generation in an owner's id")
def owner_id_reused(stage: ScriptedStage) -> Finding:
    """A new thread gets the id of a mutex's dead owner, and owns the mutex"""
    m = stage.mutex("M")
    e = stage.event("E")
    t = stage.thread("T", wait(m))
    k = stage.thread("K", sweep())
    n = stage.thread("N", wait(e, timeout=0), unlock(m))
    stage.start(registered=False)
    declared_dead_too_early(t, k, m, stage)
    t.run()
    stage.say("N registers, and gets T's slot")
    n.until("load", "thread 0 generation")
    stage.say("forced: the slot's generation comes round to T's (in fact 8,191 threads later)")
    forge(n, 1)
    as_far_as(n, 1)
    stage.say("N releases M, which it has never taken")
    n.run()
    return occurs_if(
        n.results[1].code == 1,
        "N released a mutex that it had never acquired, since its id is the one in M. T, which"
        " believes that it holds M, is alone with that belief.",
        nt="An owner is a thread, not a number.",
        otherwise=f"N's release answered {n.results[1].code}: no thread has M under that id.",
    )


@scenario(45, engines=("fsync",))
def abandoned_owner_before_count(stage: ScriptedStage) -> Finding:
    """The sweep clears the count of the next owner, who can never release"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m), unlock(m))
    c = stage.thread("C", wait(m))
    stage.start()
    stage.say("H takes M, and is killed")
    h.finish()
    h.kill()
    stage.say("the sweeper marks M abandoned, and is held before it clears the count")
    k.until("store", "M.word1")
    stage.say("B takes M, and counts 1")
    as_far_as(b, 1)
    stage.say("the sweeper clears the count, now B's")
    k.finish()
    as_far_as(b, 1)
    stage.say("B releases: 0 - 1 is not 0, so M stays B's")
    b.run()
    c.run()
    return occurs_if(
        b.state is State.DONE
        and b.results[1].code == 0
        and stage.owner_name(stage.words()["M"][0]) == "B"
        and c.state is State.SLEEPING,
        "B's only release answered 0 instead of 1 and did not free M, whose count is now -1. C"
        " sleeps.",
        nt="Abandoning is one step: B comes before it or after it.",
        otherwise=f"B's release answered {b.results[1].code}, and C got M.",
    )


@scenario(46, engines=("fsync",))
def asleep_beside_a_free_mutex(stage: ScriptedStage) -> Finding:
    """A thread sleeps on a mutex that is free"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m))
    k = stage.thread("K", sweep())
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(m), unlock(m))
    stage.start()
    stage.say("O dies owning M, which the sweeper marks abandoned")
    o.finish()
    o.kill()
    k.finish()
    stage.say("A finds M not free but abandoned, and is held before it takes it as that")
    a.until("cas", m, times=2)
    stage.say("B takes M and releases it: M is free")
    b.finish()
    stage.say("A finds M not abandoned but 0, and sleeps for as long as it is 0")
    a.run()
    return occurs_if(
        a.state is State.SLEEPING and stage.words()["M"][0] == 0,
        "A sleeps, and M is free: A gave the kernel the 0 that it had found as the value to sleep"
        " on.",
        nt="Free or abandoned is one look under one lock.",
        otherwise="A looked again, and got M.",
    )


#: Opens an object in a forked child, killed before its step 0, 1, 2, ..., and one in the parent.
KILLED_WHILE_OPENING = """
import importlib.util, os, sys
from pathlib import Path

# The traced module takes the place of the plain one, before anybody imports that.
folder = Path(importlib.util.find_spec("shmsync").origin).parent
spec = importlib.util.spec_from_file_location("shmsync._traced", next(folder.glob("_traced*.so")))
traced = importlib.util.module_from_spec(spec)
spec.loader.exec_module(traced)
sys.modules["shmsync._native"] = traced
from shmsync import Namespace

steps = 0
with Namespace(sys.argv[1], engine=sys.argv[2], exclusive=True) as ns:
    while True:
        child = os.fork()
        if child == 0:
            traced.lib.step_count_from_0()
            traced.lib.step_kill_before(steps)
            ns.semaphore(f"new {steps}")
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ns.semaphore(f"mine {steps}").release()
        if code == 0:
            break
        assert code == -9, code
        steps += 1
print(steps)
"""


@scenario(47, engines=("fsync",), stage=False)
def killed_with_a_private_lock(engine: str) -> Finding:
    """A thread is killed holding a lock of its own process"""
    run = python(KILLED_WHILE_OPENING, "F47", engine)
    assert run.returncode == 0, run.stderr
    kills = int(run.stdout)
    assert kills > 10, "opening an object takes more steps than that"
    return Finding(
        Verdict.NOT_REPRODUCED,
        "A lock private to a process can only outlive its holder if a thread is killed alone, and"
        f" on Linux {signal.SIGKILL.name} takes the whole process with all its private locks."
        f" Tried: a child was killed before each of the {kills} steps in which it opens an object,"
        " its private lock held; its parent opened and used another object after every one.",
        nt="TerminateThread can do it to any lock of the process; the kernel's own objects are"
        " not affected.",
    )
