"""The engine ntsync: F36 to F63, where the scripts of the others do not fit.

The state of an object is the kernel's, so a thread that is killed leaves every object as before its
call or as after it. What is left in shared memory is the directory, and who lives.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from fcntl import ioctl

from shmsync_tools.lab.real import python
from shmsync_tools.lab.scenario import Finding, ScriptedStage, Verdict, occurs_if, scenario
from shmsync_tools.lab.scenarios.death import DEAD_ALIVE, OWNER_DIED, forge
from shmsync_tools.lab.scenarios.kernel import ENGINES, TIMED_OUT, dies_owning, got, nt
from shmsync_tools.lab.scenarios.memory import COUNT_MAX, LONG_MAX, STRANGER, place_of
from shmsync_tools.lab.schedules import (
    as_far_as,
    in_all_schedules,
    settle,
    sleeps_beside,
    when_stopped,
)
from shmsync_tools.stage import (
    Object,
    State,
    Thread,
    clear,
    end,
    pulse,
    read,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

# ---- F36 to F46: threads that die in the middle of something ----


@scenario(36, engines=ENGINES)
def set_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A set is killed, and the waiter has the event or it is reset"""
    x = stage.event("X")
    w = stage.thread("W", wait(x))
    s = stage.thread("S", set_(x))

    def lost() -> bool:
        settle([w])
        return got(w) == stage.states()["X"].signaled and (got(w) or sleeps_beside(stage, w, "X"))

    stage.start()
    tried = when_stopped(stage, s, lost, kill=True, begin=w.run)
    stage.say("W sleeps on X; S sets it, and is killed before its call returns")
    w.run()
    s.until("ioctl")
    s.step()
    if s.state is State.READY:
        s.kill()
    settle([w])
    return tried.occurs_if(
        not got(w),
        "W sleeps on, although S had set X.",
        nt=nt(36),
        otherwise="X is W's or still reset; it is never set beside a sleeper.",
    )


@scenario(37, engines=ENGINES)
def release_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A release is killed, and the waiter has the mutex"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    w = stage.thread("W", wait(m))
    k = stage.thread("K", sweep())
    abandoned = []

    def owned_and_wanted() -> None:
        h.until_call(1)
        w.run()

    def lost() -> bool:
        settle([w, k])
        abandoned.append(w.results[0].abandoned)
        return not got(w) or stage.states()["M"].owner != w.number

    stage.start()
    tried = when_stopped(stage, h, lost, kill=True, begin=owned_and_wanted)
    stage.say("H takes M, and W sleeps for it; H releases M, and is killed before it returns")
    owned_and_wanted()
    h.until("ioctl")
    h.step()
    h.kill()
    settle([w, k])
    return tried.occurs_if(
        not got(w),
        "W sleeps on, although M is free.",
        nt=nt(37),
        otherwise=f"W owns M, {sum(abandoned)} times told that H died owning it, once a sweep had"
        f" found H dead, and {len(abandoned) - sum(abandoned)} times handed over.",
    )


@scenario(38, engines=ENGINES)
def killed_in_a_release(stage: ScriptedStage) -> Finding:
    """A release is killed: is the mutex owned or free?"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m), unlock(m))
    n = stage.thread("N", wait(m, timeout=0))
    k = stage.thread("K", sweep())
    seen: set[tuple[bool, int, int]] = set()

    def between() -> bool:
        state = stage.states()["M"]
        settle([k, n])
        seen.add((state.owner == h.number, state.count, n.results[0].abandoned))
        return not got(n)

    stage.start()
    tried = when_stopped(stage, h, between, kill=True)
    stage.say("H takes M, and is killed before it releases it; K finds it dead; N takes M")
    dies_owning(h, k)
    n.run()
    return tried.occurs_if(
        not seen <= {(True, 1, 1), (False, 0, 0)},
        f"Owned by H, count, and whether N was told of a death: {sorted(seen)}.",
        nt=nt(38),
        otherwise="M was owned once, and N was told of the death after a sweep, or M was free, and"
        " N was not.",
    )


@scenario(39, engines=ENGINES)
def acquirer_killed_anywhere(stage: ScriptedStage) -> Finding:
    """An acquirer is killed: is the mutex lost?"""
    m, n = stage.mutex("M"), stage.mutex("N")
    a = stage.thread("A", wait(m), wait(m, n, all=True))
    k = stage.thread("K", sweep())
    b = stage.thread("B", wait(m, timeout=0), wait(n, timeout=0), unlock(m), unlock(n))

    def lost() -> bool:
        settle([k, b])
        return b.state is not State.DONE or any(each.code < 0 for each in b.results)

    stage.start()
    tried = when_stopped(stage, a, lost, kill=True)
    stage.say("A takes M, and then M and N, and is killed before that returns")
    a.until_call(1)
    a.until("wait")
    a.step()
    a.kill()
    stage.say("K finds A dead; B takes M and N, and releases them")
    settle([k, b])
    return tried.occurs_if(
        b.state is not State.DONE or any(each.code < 0 for each in b.results),
        "A was killed, and a mutex could not be taken any more.",
        nt=nt(39),
        otherwise="after a sweep both mutexes could be taken and released every time.",
    )


@scenario(40, engines=ENGINES)
def killed_in_a_call_of_an_event(stage: ScriptedStage) -> Finding:
    """A setter is killed: does everybody else stand still?"""
    e = stage.event("E", manual=True)
    v = stage.thread("V", set_(e), clear(e), pulse(e), wait(e, timeout=0))
    o = stage.thread("O", set_(e), clear(e), pulse(e), set_(e), wait(e))
    w = stage.thread("W", wait(e))

    def stuck() -> bool:
        settle([o, w])
        return any(each.state is not State.DONE for each in (o, w))

    stage.start()
    tried = when_stopped(stage, v, stuck, kill=True, begin=w.run)
    stage.say("W sleeps on E; V sets E, and is killed; O sets, clears, pulses, sets and waits")
    w.run()
    v.until_call(1)
    v.kill()
    settle([o, w])
    return tried.occurs_if(
        stuck(),
        "V was killed, and O's calls did not come to an end.",
        nt=nt(40),
        otherwise="all calls of O came to their end, and W was released.",
    )


@scenario(41, engines=ENGINES)
def semaphore_has_one_count(stage: ScriptedStage) -> Finding:
    """A semaphore is never empty and full at once"""
    s = stage.semaphore("S", 1, maximum=1)
    a = stage.thread("A", wait(s), release(s))
    b = stage.thread("B", wait(s, timeout=0), release(s), wait(s, timeout=0), release(s))

    def wrong() -> bool:
        b.run()
        return b.state is not State.DONE or any(each.code < 0 for each in b.results[1:])

    stage.start()
    tried = when_stopped(stage, a, wrong, kill=True)
    stage.say("A takes the token, and is killed; B polls, releases, polls and releases again")
    a.until_call(1)
    a.kill()
    return tried.occurs_if(
        wrong(),
        "S was empty and full at once, or a token was lost.",
        nt=nt(41),
        otherwise="whatever A left, B could put a token in where it found none, and take the one"
        " that it had put in.",
    )


@scenario(42, engines=ENGINES)
def wait_all_killed_anywhere(stage: ScriptedStage) -> Finding:
    """A wait-all is killed: it had taken all or nothing"""
    s = stage.semaphore("S", 1, maximum=1)
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    a = stage.thread("A", wait(s, x, y, all=True))
    b = stage.thread("B", *(wait(each, timeout=0) for each in (s, x, y)))
    untouched = []

    def halves() -> bool:
        b.run()
        codes = {each.code for each in b.results}
        untouched.append(codes == {0})
        return codes not in ({0}, {TIMED_OUT})

    stage.start()
    tried = when_stopped(stage, a, halves, kill=True)
    stage.say("A is killed before its wait, which is one step; B polls all three")
    a.until("wait")
    a.kill()
    b.run()
    return tried.occurs_if(
        not all(got(b, call) for call in range(3)),
        f"A has taken nothing, and B's polls answered {[each.code for each in b.results]}.",
        nt=nt(42),
        otherwise=f"B found all three untouched {sum(untouched)} times, and else none of them: they"
        " were A's, and have died with it.",
    )


def _declared_dead_too_early(t: Thread, k: Thread, m: Object, stage: ScriptedStage) -> None:
    """Thread number 0 stands before it takes M while a sweep takes it for dead; then it goes on."""
    stage.say("T is held before it takes M")
    t.until("wait", m)
    stage.say("forced: the sweeper finds T's sign of life given up, although T lives, and reaps T")
    k.until("trylock", "thread 0 liveness")
    forge(k, OWNER_DIED)
    as_far_as(k, 1)
    stage.say("T goes on, and takes M with the id that the sweeper has just buried")


@scenario(43, engines=ENGINES, forced=DEAD_ALIVE)
def acquired_after_the_sweep(stage: ScriptedStage) -> Finding:
    """A mutex is taken after the sweep for its owner, who is never swept again"""
    m = stage.mutex("M")
    t = stage.thread("T", wait(m), end())
    k = stage.thread("K", sweep(), sweep())
    w = stage.thread("W", wait(m))
    stage.start()
    _declared_dead_too_early(t, k, m, stage)
    t.run()
    stage.say("T ends; W wants M; the sweeper sweeps again")
    w.run()
    settle([k, w])
    return occurs_if(
        w.state is State.SLEEPING and stage.states()["M"].owner == t.number,
        "T is gone and M is its for ever: the second sweep did not look at T's slot any more, which"
        " the first had freed, and nobody else tells the driver of a death. W sleeps.",
        nt=nt(43),
        otherwise="Checked by this one script, with all that it forces: W got M.",
    )


@scenario(44, engines=ENGINES, forced=DEAD_ALIVE + "; and the generation in an owner's id")
def owner_id_reused(stage: ScriptedStage) -> Finding:
    """A new thread gets the id of a mutex's dead owner, and owns the mutex"""
    m, e = stage.mutex("M"), stage.event("E")
    t = stage.thread("T", wait(m))
    k = stage.thread("K", sweep())
    n = stage.thread("N", wait(e, timeout=0), unlock(m))
    stage.start(registered=False)
    _declared_dead_too_early(t, k, m, stage)
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
        "N released a mutex that it had never acquired: to the driver an owner is a number, and N"
        " has T's. T, which believes that it holds M, is alone with that belief.",
        nt=nt(44),
        otherwise=f"Checked by this one script, with all that it forces: N's release answered"
        f" {n.results[1].code}.",
    )


@scenario(45, engines=ENGINES)
def abandoned_in_one_step(stage: ScriptedStage) -> Finding:
    """A sweep is stopped anywhere, and the next owner comes"""
    m = stage.mutex("M")
    h = stage.thread("H", wait(m))
    k, j = stage.thread("K", sweep()), stage.thread("J", sweep())
    b = stage.thread("B", wait(m), unlock(m))
    c = stage.thread("C", wait(m))

    def owner_dies() -> None:
        h.finish()
        h.kill()

    def never_released() -> bool:
        b.run()
        settle([k, j, b])
        settle([c])
        return b.results[1].code != 1 or not got(c)

    stage.start()
    held = when_stopped(stage, k, never_released, kill=False, begin=owner_dies)
    killed = when_stopped(stage, k, never_released, kill=True, begin=owner_dies)
    stage.say("H takes M, and is killed; K tells the driver so, and is held there")
    owner_dies()
    k.until("ioctl", m)
    k.step()
    stage.say("B takes M, and releases it; C takes it; K goes on")
    b.run()
    settle([c])
    settle([k])
    return held.occurs_if(
        bool(killed.failed) or b.results[1].code != 1 or not got(c),
        f"B's only release answered {b.results[1].code} instead of 1, or did not free M.",
        nt=nt(45),
        otherwise="B takes M and frees it with one release, then C has it; and so after each of"
        f" {killed.runs} kills of the sweeper, once another one has come.",
    )


@scenario(46, engines=ENGINES)
def never_asleep_beside_a_free_mutex(stage: ScriptedStage) -> Finding:
    """A thread comes for a mutex that others take and release"""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m), read(m))
    a = stage.thread("A", wait(m))
    b = stage.thread("B", wait(m), unlock(m))
    k = stage.thread("K", sweep())

    def asleep() -> bool:
        settle([b, a])
        return not got(a) or b.results[0].abandoned + a.results[0].abandoned != 1

    stage.start()
    tried = when_stopped(stage, a, asleep, kill=False, begin=lambda: dies_owning(o, k))
    stage.say("O dies owning M, and K finds it dead; A is held before its wait")
    dies_owning(o, k)
    a.until("wait")
    stage.say("B takes M, and releases it; A takes it")
    settle([b, a])
    return tried.occurs_if(
        not got(a),
        "A sleeps, and M is free.",
        nt=nt(46),
        otherwise="A, with B taking and releasing M meanwhile, always ends with M, and one of the"
        " two is told of O's death. To look and to queue is one act inside the driver.",
    )


# ---- F48 to F62: shared memory, limits and costs ----


@scenario(48, engines=ENGINES)
def stranger_scribbles(stage: ScriptedStage) -> Finding:
    """Another process writes into the segment"""
    m = stage.mutex("M")
    s = stage.semaphore("S", 1, maximum=1)
    e = stage.event("E")
    a = stage.thread("A", wait(m), unlock(m))
    b = stage.thread("B", wait(m, timeout=0))
    c = stage.thread("C", wait(s, timeout=0), wait(s, timeout=0))
    d = stage.thread("D", wait(e, timeout=0), set_(e))
    stage.start()
    stage.say("A takes M, and C the only token of S")
    a.until_call(1)
    c.until_call(1)
    stage.say("another process writes into what the segment says of M, S and E: free, full, set")
    _scribble({b: 0, c: COUNT_MAX, d: 1}, at=-8)
    settle([b, a, c])
    as_far_as(d, 1)
    polls = [b.results[0].code, c.results[1].code, d.results[0].code]
    stage.say("it writes that E is a mutex; D sets E")
    _scribble({d: 2}, at=0)
    d.run()
    return occurs_if(
        polls != [TIMED_OUT] * 3 or a.results[1].code != 1 or d.results[1].code != -errno.EBADMSG,
        f"After another process had written, the polls answered {polls}, A's release"
        f" {a.results[1].code}, and D's set {d.results[1].code}.",
        nt=nt(48),
        otherwise="Checked by writing over all that the segment says of three objects' states: it"
        " changed nothing, for the states are the kernel's. The directory is not: who writes over"
        " an object's kind makes it unusable (EBADMSG, which was seen), but gives or takes none.",
    )


def _scribble(changes: dict[Thread, int], *, at: int) -> None:
    """A process of its own writes to the words that are ``at`` bytes from those that the threads
    stand before: the kinds of their objects."""
    for thread, value in changes.items():
        thread.until("load")
        path, offset = place_of(thread)
        run = python(STRANGER, "F48", path, f"{offset + at}={value}")
        assert run.returncode == 0, run.stderr


@scenario(52, engines=ENGINES)
def counts_at_their_limit(stage: ScriptedStage) -> Finding:
    """Sets and releases at the limit"""
    e = stage.event("E")
    s = stage.semaphore("S", LONG_MAX, maximum=LONG_MAX)
    a = stage.thread("A", set_(e), set_(e), wait(e, timeout=0), wait(e, timeout=0))
    b = stage.thread("B", release(s), release(s, LONG_MAX))
    stage.start()
    stage.say("A sets E twice, and polls it twice; B releases S, which is as full as any can be")
    settle([a, b])
    answers = [[each.code for each in thread.results] for thread in (a, b)]
    count = stage.states()["S"].count
    return occurs_if(
        answers != [[0, 1, 0, TIMED_OUT], [-errno.EOVERFLOW] * 2] or count != LONG_MAX,
        f"E's calls and S's answered {answers}, and S has {count} tokens.",
        nt=nt(52),
        otherwise="Checked at the limits: an event that is set twice ends exactly one poll, and a"
        " full semaphore refuses a release and keeps its count. There is no second counter.",
    )


#: Requests of the driver's that lead it past what the API gives: numbers, and structs of two words.
CREATE_MUTEX, UNLOCK, READ_MUTEX, WAIT_ANY = 0x40084E84, 0xC0084E85, 0x80084E8C, 0xC0284E82


@scenario(53, engines=ENGINES, forced="the recursion count: the mutex is made with it")
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
    stage.say("B takes M twice; R reads its state; B releases it once; A tries to take it")
    b.until_call(2)
    r.run()
    settle([b, a])
    answers = _at_the_limit()
    wanted = [errno.ETIMEDOUT, errno.ETIMEDOUT, COUNT_MAX, COUNT_MAX - 1]
    return tried.occurs_if(
        answers != wanted or torn(),
        f"At the limit the driver answered {answers} instead of {wanted}, or R read an owner with"
        " a count that is not its.",
        nt=nt(53),
        otherwise="R reads an owner with that owner's count. At the limit, in a mutex that was made"
        " with a count of 2^32 - 1, its owner's poll and another's timed out, and one release"
        " counted down by one.",
    )


def _at_the_limit() -> list[int]:
    """What the driver says of a mutex at its limit: to its owner's poll, to another's, to a release
    (the count before it), and how much is left."""
    device = os.open("/dev/ntsync", os.O_RDWR | os.O_CLOEXEC)
    mutex = ioctl(device, CREATE_MUTEX, _two_words(1, COUNT_MAX))
    try:
        answers = [_poll_as(device, mutex, owner) for owner in (1, 2)]
        for request in (UNLOCK, READ_MUTEX):
            state = _two_words(1, 0)
            ioctl(mutex, request, state)
            answers.append(int.from_bytes(state[4:], sys.byteorder))
        return answers
    finally:
        os.close(mutex)
        os.close(device)


def _two_words(first: int, second: int) -> bytearray:
    return bytearray(struct.pack("=2I", first, second))


def _poll_as(device: int, mutex: int, owner: int) -> int:
    """The error of a poll for a mutex; 0 if it was taken."""
    wanted = ctypes.c_int32(mutex)
    request = struct.pack("=2Q6I", 0, ctypes.addressof(wanted), 1, 0, 0, owner, 0, 0)
    try:
        ioctl(device, WAIT_ANY, request)
    except OSError as error:
        return error.errno or -1
    return 0


@scenario(62, engines=ENGINES)
def cost(stage: ScriptedStage) -> Finding:
    """What a call costs"""
    m, e = stage.mutex("M"), stage.event("E")
    a = stage.thread("A", wait(m), unlock(m))
    w = stage.thread("W", wait(e))
    stage.start()
    stage.say("A takes M, which nobody else wants, and releases it")
    a.finish()
    steps = len(stage.trace)
    calls = sum(step.op in ("ioctl", "wait") for step in stage.trace)
    stage.say("W waits for an event that nobody sets")
    w.run()
    assert w.state is State.SLEEPING
    return Finding(
        Verdict.NOT_REPRODUCED,
        "Frame rates and processor loads of games are measurements, not interleavings. Counted"
        f" instead: a mutex that nobody else wants is taken and released in {steps} steps, of which"
        f" {calls} are system calls; W sleeps after {len(stage.trace) - steps} steps, and takes no"
        " more until it is served. What costs is that every call is a system call.",
        nt=nt(62),
    )
