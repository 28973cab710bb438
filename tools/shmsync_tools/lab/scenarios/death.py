"""F36 to F47: threads and processes that die in the middle of something.

Threads are killed before a chosen step. The sweeper, which does the wineserver's part at the death
of a thread, is a thread of the program: K.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator

from shmsync._traced import ffi
from shmsync_tools.lab.real import TRACED_INSTEAD, python
from shmsync_tools.lab.scenario import (
    Finding,
    ScriptedStage,
    Verdict,
    occurs_if,
    scenario,
)
from shmsync_tools.lab.schedules import (
    as_far_as,
    settle,
    settle_late,
    sleeps_beside,
    stopped_at_each_step,
    when_stopped,
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
#: More steps than calls take that nobody holds up.
SPINS = 100


def killed_at_each_step(stage: ScriptedStage, victim: Thread, others: str) -> Iterator[int]:
    """Plays the program once for each step of the victim, with the victim killed before that step.
    What the others do then is the caller's business."""
    for number in stopped_at_each_step(stage, victim, kill=True):
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


@scenario(36, engines=("handoff",))
def set_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A set is killed, and the waiter looks again"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x))

    def lost() -> bool:
        settle_late([w])
        return (
            w.state is State.DONE if stage.states()["X"].signaled else sleeps_beside(stage, w, "X")
        )

    stage.start()
    tried = when_stopped(stage, s, lost, kill=True, begin=w.run)
    stage.say("W sleeps for X")
    w.run()
    stage.say("S hands X to W, and is killed before it wakes W")
    s.until("wake")
    s.kill()
    stage.say("W's sleep, a second at most, is over; it takes the gate, and looks")
    w.look_again()
    w.run()
    return tried.occurs_if(
        w.state is not State.DONE,
        "W sleeps on after it has looked again, although S had set X.",
        nt="Setting an event and releasing its waiter is one step of the kernel: either S died"
        " before it, and X is clear, or W has X.",
        otherwise="after W's next look X is W's or still clear; it is never set beside a sleeper."
        " Who next takes the gate undoes what S had not committed, and finishes what it had.",
    )


@scenario(36, engines=("esync",))
def set_killed_and_made_up_for(stage: ScriptedStage) -> Finding:
    """A set of an auto event is killed, and the next one makes up for it"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x))
    t = stage.thread("T", set_(x))

    def lost() -> bool:
        settle([w])
        t.run()
        settle([w])
        return w.state is not State.DONE

    stage.start()
    tried = when_stopped(stage, s, lost, kill=True, begin=w.run)
    stage.say("W sleeps on X")
    w.run()
    stage.say("S sets X's slot, and is killed before it writes the token")
    s.until("write", x)
    s.kill()
    stage.say("T sets X once more: the slot says that it is set, but a set writes all the same")
    t.run()
    settle([w])
    return tried.occurs_if(
        w.state is not State.DONE,
        "W sleeps beside a set event, and a second, complete set did not wake it.",
        nt="Setting an event and releasing its waiter is one step of the kernel: either S died"
        " before it, and X is clear, or W has X.",
        otherwise="the next set always wakes W, for a set of an auto event writes whatever its slot"
        " says. (After a set of a manual event that was killed there is no next: F40.)",
    )


@scenario(37, engines=("fsync", "esync"))
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
    stage.say(
        "H frees M, and is killed before it wakes W",
        esync="H frees M in its slot, and is killed before it writes the token, which wakes W",
    )
    h.until(stage.by_engine("wake", esync="write"), m)
    h.kill()
    stage.say("the sweeper finds no mutex that H owns: M has no owner any more")
    k.finish()
    w.run()
    return occurs_if(
        w.state is State.SLEEPING and stage.words()["M"][0] == 0,
        "M is free and W sleeps on it. The sweep did not help, since M no longer named the dead"
        " thread; W sleeps "
        + stage.by_engine(
            "until somebody else takes M and releases it.",
            esync="for ever: the wake is the token, without which nobody gets M any more (F38).",
        ),
        nt="A release hands over in one step: either H died owning M, and W gets it abandoned, or"
        " W has it.",
        otherwise="W got M after the sweep.",
    )


@scenario(37, engines=("handoff",))
def release_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A release is killed, and the waiter looks again"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    w = stage.thread("W", wait(m))
    abandoned = []

    def owned_and_wanted() -> None:
        h.until_call(1)
        w.run()

    def lost() -> bool:
        settle_late([w])
        abandoned.append(w.results[0].abandoned)
        return w.state is not State.DONE or stage.states()["M"].owner != w.number

    stage.start()
    tried = when_stopped(stage, h, lost, kill=True, begin=owned_and_wanted)
    stage.say("H takes M; W finds M owned, and sleeps")
    owned_and_wanted()
    stage.say("H hands M to W, and is killed before it wakes W")
    h.until("wake")
    h.kill()
    stage.say("W's sleep is over, at H's death or a tenth of a second later, and it looks")
    settle_late([w])
    return tried.occurs_if(
        w.state is not State.DONE,
        "W sleeps on after it has looked again, although M is free.",
        nt="A release hands over in one step: either H died owning M, and W gets it abandoned, or"
        " W has it.",
        otherwise=f"W owns M, {sum(abandoned)} times told that H died owning it, and"
        f" {len(abandoned) - sum(abandoned)} times handed over.",
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


@scenario(38, engines=("handoff",))
def killed_in_a_release(stage: ScriptedStage) -> Finding:
    """A release is killed: is the mutex owned or free?"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    n = stage.thread("N", wait(m, timeout=0))
    seen: set[tuple[bool, int, int]] = set()

    def between() -> bool:
        state = stage.states()["M"]
        n.run()
        told = n.results[0].abandoned
        seen.add((state.owner == h.number, state.count, told))
        return n.results[0].code != 0

    stage.start()
    tried = when_stopped(stage, h, between, kill=True)
    stage.say("H takes M, and is killed before it releases it")
    h.until_call(1)
    h.until("cas", m)
    h.kill()
    stage.say("N takes M")
    n.run()
    return tried.occurs_if(
        not seen <= {(True, 1, 1), (False, 0, 0)},
        f"Owned by H, count, and whether N was told of a death: {sorted(seen)}.",
        nt="Count and owner change in one step: killed before it, H owned M once; after it, M is"
        " free and not abandoned.",
        otherwise="M was owned once, and N was told of the death, or M was free, and N was not."
        " Owner and count are one word.",
    )


@scenario(38, engines=("esync",))
def killed_between_the_owner_and_the_token(stage: ScriptedStage) -> Finding:
    """An owner is killed in its release, and the mutex is lost"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    k = stage.thread("K", sweep())
    n = stage.thread("N", wait(m, timeout=0), wait(m))
    stage.start()
    stage.say("H takes M")
    h.until_call(1)
    stage.say("H clears count and owner, and is killed before it writes the token")
    h.until("write", m)
    free = stage.states()["M"]
    h.kill()
    stage.say("the sweeper finds no mutex that H owns")
    k.finish()
    stage.say("N polls M, and waits for it")
    n.run()
    return occurs_if(
        free.owner is None
        and n.results[0].code == -errno.ETIMEDOUT
        and n.state is State.SLEEPING
        and stage.states()["M"].owner is None,
        "M names no owner and is not abandoned, and nobody can have it: its token died with H. N's"
        " poll timed out, and N sleeps for a mutex that nobody will ever release.",
        nt="Owner and signal change in one step: killed before it, H owned M, and N gets it"
        " abandoned; after it, M is free, and N gets it.",
        otherwise="Checked by this one script: N got M.",
    )


@scenario(39, engines=("fsync", "esync", "handoff"))
def acquirer_killed_half_way(stage: ScriptedStage) -> Finding:
    """An acquirer is killed half way: is the mutex lost?"""
    m = stage.mutex("M")
    n = stage.mutex("N")
    # With esync a wait-all with a mutex of one's own would not end (F9).
    other = stage.event("Y", signaled=True) if stage.engine == "esync" else m
    a = stage.thread("A", wait(m), wait(other, n, all=True))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m, timeout=0), wait(n, timeout=0), unlock(m), unlock(n))
    stage.start()
    lost = kills = 0
    for _ in killed_at_each_step(stage, a, "K sweeps; B takes M and N, and releases them"):
        k.finish()
        b.run()
        kills += 1
        lost += b.state is not State.DONE or any(result.code < 0 for result in b.results)
    if stage.engine == "esync":
        stage.restart()
        stage.say("A reads M's token, and is killed before it writes its name")
        a.until("read", m)
        a.step()
        a.kill()
        stage.say("K finds no mutex of A's; B polls M and N, and releases them")
        k.finish()
        b.run()
    return occurs_if(
        lost > 0,
        f"After {lost} of {kills} kills a mutex could not be taken any more: its token was gone,"
        " and it named no owner who could be found dead.",
        nt="Taking a mutex is one step; a killed owner leaves it abandoned.",
        otherwise=f"Checked by killing the acquirer before each of its {kills} steps (wait-any,"
        " then wait-all of two): after a sweep both mutexes could be taken and released every"
        " time. ESYNC loses the mutex between its token and its owner; here "
        + stage.by_engine(
            "the owner's id is what is taken, by one compare-and-swap.",
            handoff="owner and count are one word, and of two both are taken, or none.",
        ),
    )


@scenario(40, engines=("fsync", "esync"))
def killed_with_the_lock_of_an_event(stage: ScriptedStage) -> Finding:
    """A setter is killed holding the event's lock: does everybody else spin?"""
    e = stage.event("E", manual=True)
    v = stage.thread("V", set_(e), clear(e), pulse(e), wait(e, timeout=0))
    o = stage.thread("O", set_(e), clear(e), pulse(e), set_(e), wait(e))
    stage.start()
    stuck = kills = 0
    for _ in killed_at_each_step(stage, v, "O sets, clears, pulses, sets and waits"):
        o.run(SPINS)
        kills += 1
        stuck += o.state is not State.DONE
    if stage.engine == "esync":
        stage.restart()
        stage.say("V begins to set E, locks its slot, and is killed")
        v.until("swap", e)
        v.kill()
        stage.say("O sets E")
        o.run(SPINS)
    return occurs_if(
        stuck > 0,
        f"After {stuck} of {kills} kills the calls of the other thread did not come to an end: it"
        " spins for a lock whose holder is dead.",
        nt="The kernel's locks are not held by threads that can be killed.",
        otherwise=f"Checked by killing a thread that sets, clears, pulses and polls a manual-reset"
        f" event before each of its {kills} steps: all calls of another thread came to their"
        " end every time. ESYNC has a spinlock beside the event; here there is one word, changed"
        " by one exchange.",
    )


@scenario(40, engines=("handoff",))
def killed_in_the_gate(stage: ScriptedStage) -> Finding:
    """A setter is killed inside the gate: does everybody else stand still?"""
    e = stage.event("E", manual=True)
    v = stage.thread("V", set_(e), clear(e), pulse(e), wait(e, timeout=0))
    o = stage.thread("O", set_(e), clear(e), pulse(e), set_(e), wait(e))
    w = stage.thread("W", wait(e))

    def stuck() -> bool:
        settle_late([o, w])
        return any(each.state is not State.DONE for each in (o, w))

    stage.start()
    tried = when_stopped(stage, v, stuck, kill=True, begin=w.run)
    stage.say("W sleeps for E")
    w.run()
    stage.say("V sets E, and is killed inside the gate")
    v.until("store", e)
    v.kill()
    stage.say("O sets, clears, pulses, sets and waits; it takes the gate after the dead V")
    settle([o, w])
    return tried.occurs_if(
        o.state is not State.DONE,
        "V was killed inside the gate, and O's calls did not come to an end.",
        nt="The kernel's locks are not held by threads that can be killed.",
        otherwise="with a waiter asleep, so that it goes through the gate, all calls of O came to"
        " their end, and W was released. The kernel hands on the lock of a dead holder.",
    )


@scenario(41, engines=("fsync", "esync", "handoff"))
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
    if stage.engine == "esync":
        stage.restart()
        stage.say("A reads S's token, and is killed before it counts down")
        a.until("read", s)
        a.step()
        a.kill()
        stage.say("B polls, releases, polls and releases again")
        b.run()
    return occurs_if(
        wrong > 0,
        f"After {wrong} of {kills} kills S was empty and full at once, or a token was lost: a poll"
        " found none, and a release no room.",
        nt="A semaphore is one count under one lock.",
        otherwise=f"Checked by killing a thread that takes and returns the only token of a"
        f" semaphore with maximum 1 before each of its {kills} steps: whatever it left, B could"
        " put a token in where it found none, and take the one that it had put in. ESYNC keeps a"
        " count in shared memory beside the kernel's; here there is one word.",
    )


@scenario(42, engines=("fsync", "esync"))
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
    taken = 2 if stage.engine == "esync" else 0  # which word says that X is
    while stage.words()["X"][taken] != 0 and a.can():
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


@scenario(42, engines=("handoff",))
def wait_all_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A wait-all is killed half way: what it had taken is put back"""
    s = stage.semaphore("S", 1, maximum=1)
    x = stage.event("X", signaled=True)
    y = stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, x, y, all=True))
    b = stage.thread("B", wait(s, timeout=0), wait(x, timeout=0), wait(y, timeout=0))
    untouched = []

    def halves() -> bool:
        b.run()
        codes = {result.code for result in b.results}
        untouched.append(codes == {0})
        return b.state is not State.DONE or codes not in ({0}, {-errno.ETIMEDOUT})

    stage.start()
    tried = when_stopped(stage, a, halves, kill=True)
    stage.say("A takes S and X, and is killed before it takes Y")
    stage.until_taking(a, y)
    a.kill()
    stage.say("B polls all three; it takes the gate next, and undoes what A had begun")
    b.run()
    codes = [result.code for result in b.results]
    return tried.occurs_if(
        codes != [0, 0, 0],
        f"A's wait never succeeded, and B's polls answered {codes}.",
        nt="A wait-all takes everything in one step: killed before it, A leaves all three set.",
        otherwise=f"B found all three untouched {sum(untouched)} times, and else none of them: they"
        " were A's, and have died with it.",
    )


def declared_dead_too_early(t: Thread, k: Thread, m: Object, stage: ScriptedStage) -> None:
    """Thread number 0 stands before it takes M while a sweep takes it for dead; then it goes on."""
    stage.say("T finds M free, and is held before it takes it")
    t.until(stage.by_engine("cas", esync="read"), m)
    stage.say("forced: the sweeper finds T's sign of life given up, although T lives, and reaps T")
    k.until("trylock", "thread 0 liveness")
    forge(k, OWNER_DIED)
    as_far_as(k, 1)
    stage.say("T goes on, and takes M with the id that the sweeper has just buried")


DEAD_ALIVE = (
    "the sweep of a living thread: its sign of life is overwritten, as the kernel would do if it"
    " took it for dead"
)


@scenario(43, engines=("fsync", "esync", "handoff"), forced=DEAD_ALIVE)
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
    settle_late([w])
    return occurs_if(
        w.state is State.SLEEPING and stage.states()["M"].owner == t.number,
        "T is gone and M names it as its owner for ever: the second sweep did not look at T's"
        " slot any more, which the first had freed. W sleeps.",
        nt="A thread's mutexes are abandoned when it can no longer run; there is no later"
        " acquisition.",
        otherwise="Checked by this one script, with all that it forces: M named T, whose id the"
        " sweep had buried. W asked whether that owner lives, was told that it does not, and got M"
        " as abandoned.",
    )


@scenario(
    44, engines=("fsync", "esync"), forced=DEAD_ALIVE + "; and the generation in an owner's id"
)
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


@scenario(44, engines=("handoff",))
def slot_of_a_dead_owner(stage: ScriptedStage) -> Finding:
    """A new thread gets the slot of a mutex's dead owner: does it own the mutex?"""
    m = stage.mutex("M")
    e = stage.event("E")
    t = stage.thread("T", wait(m))
    k = stage.thread("K", sweep())
    n = stage.thread("N", wait(e, timeout=0), unlock(m))

    def released() -> bool:
        k.run()
        n.run()
        return n.state is not State.DONE or n.results[1].code != -errno.EPERM

    stage.start(registered=False)
    tried = when_stopped(stage, t, released, kill=True)
    stage.say("T registers, takes M and is killed; K finds it dead, and abandons M")
    t.finish()
    t.kill()
    k.finish()
    stage.say("N registers, gets T's slot, and releases M, which it has never taken")
    n.run()
    return tried.occurs_if(
        n.results[1].code != -errno.EPERM,
        f"N's release of a mutex that it had never taken answered {n.results[1].code}.",
        nt="An owner is a thread, not a number.",
        otherwise="N, who got T's slot, was refused every time. The slot has another generation,"
        " and is given away only after all that its last thread owned is abandoned: when an id"
        " comes round, 8,191 threads later in one slot, no mutex names it.",
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


@scenario(45, engines=("esync",))
def abandoned_before_its_token(stage: ScriptedStage) -> Finding:
    """A sweep is held anywhere, and the next owner has to wait for the token"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m), unlock(m))
    c = stage.thread("C", wait(m))

    def owner_dies() -> None:
        h.finish()
        h.kill()

    def never_released() -> bool:
        b.run()
        settle([k, b])
        settle([c])
        return b.results[1].code != 1 or c.state is not State.DONE

    stage.start()
    tried = when_stopped(stage, k, never_released, kill=False, begin=owner_dies)
    stage.say("H takes M, and is killed")
    owner_dies()
    stage.say("the sweeper marks M abandoned, and is held before it clears the count")
    k.until("store", "M.word1")
    stage.say("B comes for M, whose eventfd has no token yet, and sleeps")
    b.run()
    stage.say("the sweeper clears the count and writes the token; B takes M and releases it")
    settle([k, b])
    stage.say("C takes M")
    c.run()
    return tried.occurs_if(
        b.results[1].code != 1 or c.state is not State.DONE,
        f"B's only release answered {b.results[1].code} instead of 1, or did not free M.",
        nt="Abandoning is one step: B comes before it or after it.",
        otherwise="B takes M and frees it with one release, then C has it. Both stores come before"
        " the token, without which nobody has M.",
    )


@scenario(45, engines=("handoff",))
def abandoned_in_one_step(stage: ScriptedStage) -> Finding:
    """A sweep is stopped anywhere, and the next owner comes"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m), unlock(m))
    c = stage.thread("C", wait(m))

    def owner_dies() -> None:
        h.finish()
        h.kill()

    def never_released() -> bool:
        b.run()
        settle_late([b] if k.state is State.DEAD else [k, b])
        settle_late([c])
        return b.results[1].code != 1 or c.state is not State.DONE

    stage.start()
    tried = when_stopped(stage, k, never_released, kill=False, begin=owner_dies)
    killed = when_stopped(stage, k, never_released, kill=True, begin=owner_dies)
    stage.say("H takes M, and is killed")
    owner_dies()
    stage.say("the sweeper makes M abandoned, and is held before it commits that")
    k.until("store", m)
    k.step()
    stage.say("B comes for M, and has to wait for the gate, which the sweeper holds")
    b.run()
    stage.say("the sweeper goes on; B takes M and releases it, and C takes it")
    settle([k, b])
    c.run()
    return tried.occurs_if(
        bool(killed.failed) or b.results[1].code != 1 or c.state is not State.DONE,
        f"B's only release answered {b.results[1].code} instead of 1, or did not free M.",
        nt="Abandoning is one step: B comes before it or after it.",
        otherwise=f"B takes M and frees it with one release, then C has it; and so after each of"
        f" {killed.runs} kills of the sweeper.",
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


@scenario(46, engines=("esync",))
def awake_beside_a_free_mutex(stage: ScriptedStage) -> Finding:
    """A thread polls a mutex that others take and release"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m))
    k = stage.thread("K", sweep())
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(m), unlock(m))

    def owner_dies() -> None:
        o.finish()
        o.kill()
        k.finish()

    def asleep() -> bool:
        b.run()
        settle([a, b])
        return a.state is not State.DONE or b.results[0].abandoned + a.results[0].abandoned != 1

    stage.start()
    tried = when_stopped(stage, a, asleep, kill=False, begin=owner_dies)
    stage.say("O dies owning M, which the sweeper marks abandoned")
    owner_dies()
    stage.say("A finds M abandoned, and is held before it takes it")
    a.until("read", m)
    stage.say("B takes M and releases it: M is free")
    b.finish()
    stage.say("A takes that")
    a.run()
    return tried.occurs_if(
        a.state is not State.DONE,
        "A sleeps, and M is free.",
        nt="Free or abandoned is one look under one lock.",
        otherwise="A, with B taking and releasing M meanwhile, always ends with M, and one of the"
        " two is told of O's death. A poll does not sleep beside a token.",
    )


@scenario(46, engines=("handoff",))
def never_asleep_beside_a_free_mutex(stage: ScriptedStage) -> Finding:
    """A thread comes for a mutex that others take and release"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m))
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(m), unlock(m))

    def owner_dies() -> None:
        o.finish()
        o.kill()

    def asleep() -> bool:
        b.run()
        settle([a, b])
        return a.state is not State.DONE or b.results[0].abandoned + a.results[0].abandoned != 1

    stage.start()
    tried = when_stopped(stage, a, asleep, kill=False, begin=owner_dies)
    stage.say("O dies owning M, and nobody has noticed")
    owner_dies()
    stage.say("A finds out, inside the gate, and is held before it takes M")
    a.until("store", m, times=2)
    stage.say("B comes for M, and has to wait for the gate")
    b.run()
    stage.say("A takes M; B sleeps for it")
    settle([a, b])
    return tried.occurs_if(
        a.state is not State.DONE,
        "A sleeps, and M is free.",
        nt="Free or abandoned is one look under one lock.",
        otherwise="A, with B taking and releasing M meanwhile, always ends with M, and one of the"
        " two is told of O's death. To look and to queue is one act inside the gate.",
    )


#: Opens an object in a forked child, killed before its step 0, 1, 2, ..., and one in the parent.
KILLED_WHILE_OPENING = """
import os, sys
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


@scenario(47, engines=("fsync", "esync", "handoff", "ntsync"), stage=False)
def killed_with_a_private_lock(engine: str) -> Finding:
    """A thread is killed holding a lock of its own process"""
    run = python(TRACED_INSTEAD + KILLED_WHILE_OPENING, "F47", engine)
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
