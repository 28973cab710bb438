"""The storm: processes that use 50 objects in every way, and are killed and stopped at any time.

Many of the kills come while all others stand still, and many of those hit somebody in the gate:
when another has recovered from that, the words and queues have to be right, with whoever waits in
them. And every second all who live give back what they have and stand still. Then a new process
attaches, which collects the dead, and has to find: every invariant of the segment's bytes; nothing
of the dead; as many tokens as can be there by what the dead have written down before they died;
news of each owner who died, for one next owner; and every object usable.

SHMSYNC_STORM_SECONDS says for how long it blows; SHMSYNC_LARGE=1 means ten minutes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import shmsync
from shmsync import Acquired, Event, Mutex, Namespace, inspect
from shmsync.engine import Engine, Semantics

from ..conftest import unique_name
from ..segment.helpers import Child, in_child
from ..support.checkers import (
    FIELDS,
    SIZES,
    TID_MASK,
    alive_in,
    dead_threads,
    path_of,
    problems,
    read,
    waits_of,
)
from ..support.peek import thread_state
from ..support.watchdog import PATIENCE, eventually, seen
from .board import GUARDS, LEAVING, TOKENS, Board, Has, enter_section, leave_section
from .worker import GUARD_NAMES, STOP, TOKEN_NAMES, TOKENS_EACH, Process, open_object

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
DEFAULT_SECONDS = "600" if os.environ.get("SHMSYNC_LARGE") else "20"
SECONDS = float(os.environ.get("SHMSYNC_STORM_SECONDS", DEFAULT_SECONDS))
#: The threads of the eight processes.
SHAPES = (1, 1, 1, 2, 2, 3, 3, 4)
ROUND_SECONDS = 1.0
#: On average between two kills, and how many of them are stops that end some time instead.
KILL_SECONDS, STOPS = 0.015, 0.08
#: How many of the kills are to hit somebody in the gate, if one can be caught there.
AIMED = 0.5
#: How many are killed while all others stand still.
LOOKS = 0.4
#: The number of the process that looks, where a life is asked for.
INSPECTOR = 1


# ---- helpers that are processes too ----


class Gate:
    """The gate as one of the keeper's things."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def go_through(self) -> None:
        """Takes it, which recovers if its last holder died in it, and leaves it."""
        self.namespace.open(STOP).close()


def keep(link: Connection, name: str, engine: str) -> None:
    """Keeps the counted objects open, puts tokens back, and sets and clears the stop."""
    with Namespace(name, engine=engine, capacity=96, threads=128) as namespace:
        kept: dict[str, Any] = {
            name: open_object(namespace, name) for name in (STOP, *TOKEN_NAMES, *GUARD_NAMES)
        }
        kept["gate"] = Gate(namespace)
        link.send("ready")
        while (command := link.recv()) != "end":
            label, method, *arguments = command
            link.send(getattr(kept[label], method)(*arguments))


def use(handle: object) -> None:
    """An object works."""
    if isinstance(handle, Mutex):
        assert handle.acquire(timeout=PATIENCE), f"{handle!r} could not be had"
        assert handle.release() == 1
    elif isinstance(handle, Event):
        handle.set()
        assert handle.is_set()
        assert handle.wait(PATIENCE)
        handle.clear()
    else:
        assert isinstance(handle, shmsync.Semaphore)
        if not handle.acquire(timeout=0):
            handle.release()
            assert handle.acquire(timeout=0)


def look(name: str, board: Board) -> dict[str, Any]:
    """What a new process finds: problems, counts, and in how many mutexes news was still waiting.
    It makes itself the next owner of all counted mutexes."""
    with Namespace(name, create=False) as namespace:
        image = read(name)
        found = problems(image, alive_in(name)) + dead_threads(image)
        if found:
            return {"problems": found}
        tokens = [namespace.semaphore(label).state().count for label in TOKEN_NAMES]
        for number, label in enumerate(GUARD_NAMES):
            guard = namespace.mutex(label)
            got = guard.acquire(timeout=PATIENCE)
            assert got, f"{label} could not be had"
            enter_section(board.guarded[number], INSPECTOR, got is Acquired.ABANDONED)
            leave_section(board.guarded[number], INSPECTOR)
            guard.release()
        for known in namespace.objects():
            if known.name and known.name not in (STOP, *TOKEN_NAMES):
                use(namespace.open(known.name))
        return {"problems": problems(read(name), alive_in(name)), "tokens": tokens}


# ---- the books ----


@dataclass
class Losses:
    """What the dead of a round have taken with them, for sure and perhaps."""

    sure: list[int]
    perhaps: list[int]

    @staticmethod
    def none(many: int) -> Losses:
        """Of so many objects."""
        return Losses([0] * many, [0] * many)

    def add(self, states: Any, *, sure: bool = False) -> None:
        """Adds what a dead lane had, and clears it. ``sure``: it had not taken what it was about
        to take, and had given back what it was to give back."""
        for number, has in enumerate(states):
            self.sure[number] += has == Has.TAKEN
            perhaps = has in (Has.PERHAPS_TAKEN, Has.PERHAPS_GIVEN_BACK)
            self.perhaps[number] += perhaps and not sure
            states[number] = Has.NOTHING


@dataclass
class Running:
    """A process of the storm."""

    pid: int
    lanes: tuple[int, ...]
    stopped_until: float = 0

    def has_ended(self) -> bool:
        """Is there something to bury?"""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, how) is not None

    def is_stopped(self) -> bool:
        """Does it stand still, in all its threads?"""
        states = [thread_state(self.pid, int(tid)) for tid in os.listdir(f"/proc/{self.pid}/task")]
        return all(state in ("T", "Z", "X", "") for state in states)


@dataclass
class Storm:
    """The driver. It has nothing open itself, since its children would inherit it."""

    name: str
    board: Board
    random: random.Random
    keeper: Child
    file: int
    processes: list[Running] = field(default_factory=list)
    life: int = INSPECTOR
    dead: set[int] = field(default_factory=set)
    counts: list[int] = field(default_factory=lambda: [TOKENS_EACH] * TOKENS)
    news: list[int] = field(default_factory=lambda: [0] * GUARDS)
    tokens: Losses = field(default_factory=lambda: Losses.none(TOKENS))
    guards: Losses = field(default_factory=lambda: Losses.none(GUARDS))
    seen: Counter[str] = field(default_factory=Counter)

    # ---- birth and death ----

    def bear(self, lanes: tuple[int, ...]) -> None:
        """A new process."""
        for lane in lanes:
            self.life += 1
            self.board.lanes[lane].life = self.life
            self.board.lanes[lane].tid = self.board.lanes[lane].parked = 0
            self.board.lanes[lane].does("start")
        pid = os.fork()
        if pid == 0:
            Process(self.name, self.board, lanes, SEED).run()
        self.processes.append(Running(pid, lanes))

    def bury(self, process: Running, queued: set[int] | None = None) -> None:
        """It is dead: writes down what its threads had, and who they were. Those that were
        ``queued`` (their thread ids) had taken nothing of what they waited for."""
        for number in process.lanes:
            lane = self.board.lanes[number]
            self.seen[lane.what.decode().split(" ")[0]] += 1
            self.seen["(steps)"] += lane.progress
            lane.progress = 0
            self.dead.add(lane.life)
            waited = queued is not None and lane.tid in queued
            self.seen["(killed in a queue)"] += waited
            self.tokens.add(lane.tokens, sure=waited)
            self.guards.add(lane.guards, sure=waited)

    def kill(self) -> None:
        """One of them, wherever it is; another takes its place."""
        process = self.in_the_gate() if self.random.random() < AIMED else None
        process = process or self.random.choice(self.processes)
        if self.random.random() < LOOKS:
            self.kill_among_frozen(process)
        else:
            self.end_one(process)
            self.bury(process)
        self.bear(process.lanes)

    def wait_for(self, process: Running, expected: int) -> None:
        """It ends, in that way and no other."""
        how = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
        complaints = "\n".join(self.board.lanes[n].complaint.decode() for n in process.lanes)
        assert how == expected, f"process {process.pid} ended by itself ({how})\n{complaints}"

    def end_one(self, process: Running) -> None:
        """Returns when it is gone."""
        self.processes.remove(process)
        os.kill(process.pid, signal.SIGKILL)
        self.wait_for(process, -signal.SIGKILL)
        self.seen["(kills)"] += 1

    def kill_among_frozen(self, process: Running) -> None:
        """This one. Nothing happens between that and the recovery, if it was in the gate."""
        process.stopped_until = 0
        self.freeze()
        in_the_way = self.holder() not in (None, process)
        doing = [self.board.lanes[number].what.decode() for number in process.lanes]
        self.end_one(process)
        queued = None
        if not in_the_way:
            queued = self.look_at_the_frozen(f"after the death of who did {doing}")
        self.thaw()
        self.bury(process, queued)

    def in_the_gate(self) -> Running | None:
        """A process that was caught there, and is stopped now; None if none was soon."""
        for _ in range(3000):
            if not (process := self.holder()):
                continue
            os.kill(process.pid, signal.SIGSTOP)
            eventually(process.is_stopped, "a stop")
            if self.holder() is process:
                self.seen["(caught in the gate)"] += 1
                self.seen["(caught in a transaction)"] += self.control("undo_length") > 0
                return process
            os.kill(process.pid, signal.SIGCONT)
        return None

    def holder(self) -> Running | None:
        """Who of us holds the gate at this moment?"""
        tid = self.control("gate") & TID_MASK
        for process in self.processes if tid else ():
            if os.path.exists(f"/proc/{process.pid}/task/{tid}"):
                return process
        return None

    def control(self, field: str) -> int:
        """The first word of a field of the control block."""
        at = SIZES["header"] + FIELDS["control", field][0]
        return int.from_bytes(os.pread(self.file, 4, at), "little")

    def stop(self) -> None:
        """One of them, in the gate if one can be caught there, for as long as a few slices of those
        who want it."""
        process = self.in_the_gate() or self.random.choice(self.processes)
        os.kill(process.pid, signal.SIGSTOP)
        process.stopped_until = time.monotonic() + self.random.uniform(0, 0.4)
        self.seen["(stops)"] += 1

    def wake(self, before: float) -> None:
        """Those whose stop is over."""
        for process in self.processes:
            if 0 < process.stopped_until <= before:
                process.stopped_until = 0
                os.kill(process.pid, signal.SIGCONT)

    # ---- a round ----

    def blow(self, seconds: float) -> None:
        """Kills and stops for so long."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            due = now + self.random.expovariate(1 / KILL_SECONDS)
            seen(lambda: time.monotonic() >= due)  # noqa: B023
            self.wake(time.monotonic())
            if self.random.random() < STOPS:
                self.stop()
            else:
                self.kill()
        self.wake(end + 1)

    def freeze(self) -> None:
        """Stops all."""
        for process in self.processes:
            os.kill(process.pid, signal.SIGSTOP)
        for process in self.processes:
            eventually(process.is_stopped, "a stop")

    def thaw(self) -> None:
        """All go on, but for those who are stopped for longer."""
        for process in self.processes:
            if not process.stopped_until:
                os.kill(process.pid, signal.SIGCONT)

    def look_at_the_frozen(self, when: str) -> set[int]:
        """What all have left must be right. Perhaps one has died in the gate; nobody lives there.
        Gives the ids of the threads that are queued."""
        self.ask_keeper("gate", "go_through")
        image = read(self.name)
        found = problems(image)
        assert not found, "\n".join([when, *found])
        waiting = waits_of(image)
        self.seen["(looks at who waits)"] += 1
        self.seen["(waiters seen)"] += len(waiting)
        return {image.thread(slot, "tid") for slot in waiting}

    def ask_keeper(self, label: str, method: str, *arguments: int) -> None:
        """A call of the keeper's."""
        self.keeper.ask((label, method, *arguments))

    def all_lanes(self) -> list[int]:
        """Those that somebody has."""
        return [lane for process in self.processes for lane in process.lanes]

    def calm(self) -> None:
        """All stand still, and have nothing."""
        self.board.phase += 1
        self.ask_keeper(STOP, "set")
        lanes = [self.board.lanes[number] for number in self.all_lanes()]
        phase = self.board.phase
        if not seen(lambda: all(lane.parked == phase for lane in lanes) or self.ended()):
            pytest.fail(f"some are stuck\n{self.report()}")
        for process in self.ended():
            self.processes.remove(process)
            self.wait_for(process, -signal.SIGKILL)

    def check(self) -> None:
        """What a new process finds agrees with the books, which begin anew."""
        found = in_child(lambda: look(self.name, self.board))
        assert not found["problems"], "\n".join(found["problems"])
        for number, count in enumerate(found["tokens"]):
            most = self.counts[number] - self.tokens.sure[number]
            least = most - self.tokens.perhaps[number]
            assert least <= count <= most, f"token {number}: {count}, not {least} to {most}"
            self.seen["(tokens lost)"] += self.counts[number] - count
            if count < TOKENS_EACH:
                self.ask_keeper(f"token {number}", "release", TOKENS_EACH - count)
        self.counts = [TOKENS_EACH] * TOKENS
        self.check_news()
        self.tokens, self.guards = Losses.none(TOKENS), Losses.none(GUARDS)

    def check_news(self) -> None:
        """Each death in a section was told once, to the next owner."""
        for number, guarded in enumerate(self.board.guarded):
            told = guarded.news - self.news[number]
            least = self.guards.sure[number]
            most = least + self.guards.perhaps[number]
            assert least <= told <= most, f"guard {number}: told {told}, not {least} to {most}"
            self.news[number] = guarded.news
            self.seen["(told of a dead owner)"] += told
            found = guarded.found[: guarded.heirs]
            assert set(found) <= self.dead, f"guard {number}: a living owner was called dead"
            assert len(set(found)) == len(found), f"guard {number}: told twice of one death"

    def go_on(self) -> None:
        """The next round."""
        self.ask_keeper(STOP, "clear")
        self.board.phase += 1

    def leave(self) -> None:
        """All survivors use every object once more, and end in an orderly way."""
        self.ask_keeper(STOP, "clear")
        self.board.phase = LEAVING
        for process in [*self.processes]:
            if not seen(process.has_ended):
                pytest.fail(f"process {process.pid} does not leave\n{self.report()}")
            self.processes.remove(process)
            self.wait_for(process, 0)
            self.bury(process)

    # ---- reporting ----

    def ended(self) -> list[Running]:
        """Those that have ended by themselves, which they shall not."""
        return [process for process in self.processes if process.has_ended()]

    def report(self) -> str:
        """What everybody is doing."""
        lines = []
        for process in self.processes:
            for number in process.lanes:
                lane = self.board.lanes[number]
                task = Path(f"/proc/{process.pid}/task/{lane.tid}")
                kernel = [said(task / part) for part in ("stat", "wchan", "syscall", "stack")]
                doing = f"parked {lane.parked} {lane.what.decode()!r} after {lane.progress}"
                lines.append(f"{process.pid} lane {number} life {lane.life} {doing}: {kernel}")
        with inspect.Reader(self.name) as reader:
            snapshot = reader.snapshot()
        threads = "\n".join(map(repr, snapshot.threads))
        return "\n".join([*lines, inspect.describe(snapshot), threads])

    def end(self) -> None:
        """Leaves no process, whatever has happened."""
        for process in self.processes:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
        self.processes = []


def said(path: Path) -> str:
    """What the kernel says of a thread, in one line."""
    try:
        return " ".join(path.read_text().split()[:30])
    except OSError as error:
        return type(error).__name__


def while_it_blows(storm: Storm, seconds: float) -> None:
    """All rounds."""
    end = time.monotonic() + seconds
    while True:
        storm.blow(min(ROUND_SECONDS, seconds))
        storm.calm()
        storm.check()
        storm.seen["(rounds)"] += 1
        if time.monotonic() >= end:
            return
        storm.go_on()


@pytest.mark.seconds(SECONDS * 2 + 120)
@pytest.mark.needs(Semantics.KILL_SAFE)
def test_nothing_is_lost_or_forged_in_a_storm(engine: Engine) -> None:
    name, board = unique_name("storm"), Board()
    print(f"rerun: SHMSYNC_SEED={SEED} SHMSYNC_STORM_SECONDS={SECONDS:g} pytest tests/stress -rP")
    with Child(lambda link: keep(link, name, engine.name)) as keeper:
        try:
            assert keeper.hear() == "ready"
            with open(path_of(name), "rb") as file:
                run(Storm(name, board, random.Random(SEED), keeper, file.fileno()))
            keeper.say("end")
            assert keeper.wait() == 0
            assert not Path(path_of(name)).exists()
        finally:
            Path(path_of(name)).unlink(missing_ok=True)


def run(storm: Storm) -> None:
    """From the first birth to the last survivor's leaving."""
    first = 0
    try:
        for many in SHAPES:
            storm.bear(tuple(range(first, first + many)))
            first += many
        while_it_blows(storm, SECONDS)
        storm.leave()
        assert problems(read(storm.name), alive_in(storm.name)) == []
    finally:
        storm.end()
        print(", ".join(f"{what} {many}" for what, many in storm.seen.most_common()))
