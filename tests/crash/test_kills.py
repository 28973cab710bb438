"""Processes killed at random instants of everything they do, while others go on."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest

from shmsync import Acquired, Namespace, inspect, wait_all, wait_any
from shmsync.engine import Engine

from ..conftest import unique_name
from ..segment.helpers import Child
from ..support.checkers import FIELDS, SIZES, check, path_of

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
KILLS = int(os.environ.get("SHMSYNC_KILLS", "500"))
#: What a victim does; it keeps the number of what it is at in a shared byte.
PHASES = (
    "starting",
    "attaching",
    "creating",
    "opening",
    "acquiring",
    "holding",
    "releasing",
    "waiting",
    "forking",
    "closing",
    "leaving",
)
PHASE = {name: number for number, name in enumerate(PHASES)}
#: Those where a victim is long enough that some kills land there, whatever the machine.
LONG = {"attaching", "creating", "waiting"}
PR_SET_PDEATHSIG = 1
#: Of the control block: the gate's word, with the bit that the kernel sets; the log's length.
GATE = FIELDS["control", "gate"][0]
LENGTH = FIELDS["control", "undo_length"][0]
OWNER_DIED = 0x40000000
#: Bound of one step of a survivor. Without a fault it takes microseconds.
STUCK_SECONDS = 10


class Victim:
    """The life of a victim: everything, over and over, much of it with what others use too."""

    def __init__(self, name: str, phase: mmap.mmap, number: int, seed: int) -> None:
        self.name = name
        self.phase = phase
        self.number = number
        self.random = random.Random(seed)

    def at(self, phase: str) -> None:
        self.phase[self.number] = PHASE[phase]

    def label(self, kind: str) -> str:
        return f"{kind} {self.random.randrange(3)}"

    def live(self) -> None:
        """Attaches, uses, leaves."""
        while True:
            self.at("attaching")
            with Namespace(self.name, create=False) as namespace:
                for _ in range(self.random.randint(1, 4)):
                    self.use(namespace)
                self.at("leaving")

    def use(self, namespace: Namespace) -> None:
        self.at("creating")
        for _ in range(30):
            namespace.event(self.label("passing")).close()
        own = [namespace.event(), namespace.semaphore(f"own {self.number}", 0)]
        lock = namespace.mutex(None, owned=True)
        self.at("opening")
        shared = namespace.mutex(self.label("mutex"))
        tokens = namespace.semaphore(self.label("semaphore"), 1)
        event = namespace.event(self.label("event"))
        self.at("acquiring")
        if shared.acquire(timeout=0.0005) != Acquired.TIMED_OUT:
            self.at("holding")
            tokens.acquire(timeout=0)
            self.at("releasing")
            tokens.release()
            shared.release()
        self.at("waiting")
        event.set()
        wait_any([tokens, event], self.random.choice([0, 0.0001]))
        wait_all([own[0], event], 0.0001)
        if self.random.random() < 0.02:
            self.at("forking")
            self.fork(namespace)
        lock.release()
        self.at("closing")
        for handle in (*own, tokens, event, shared, lock):
            handle.close()

    def fork(self, namespace: Namespace) -> None:
        pid = os.fork()
        if pid == 0:
            namespace.event(self.label("event")).set()
            os._exit(0)
        os.waitpid(pid, 0)


def nursery(link: Connection, phase: mmap.mmap, name: str) -> None:
    """Bears victims, from a process that has all modules and no namespace open."""
    while True:
        command, number, seed = link.recv()
        if command == "bury":
            os.waitpid(number, 0)
            link.send(None)
            continue
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if command == "attach":
                Namespace(name, create=False).close()
                os._exit(0)
            Victim(name, phase, number, seed).live()
        link.send(pid)


class Killer:
    """Keeps two victims alive, and kills them one after the other."""

    def __init__(self, child: Child, phase: mmap.mmap, random_: random.Random) -> None:
        self.child = child
        self.phase = phase
        self.random = random_
        self.pids: dict[int, int] = {}
        self.landed: Counter[str] = Counter()

    def bear(self, number: int) -> None:
        """A new victim; returns when it is past its birth."""
        self.phase[number] = PHASE["starting"]
        self.pids[number] = self.child.ask(("bear", number, self.random.getrandbits(32)))
        end = time.monotonic() + STUCK_SECONDS
        while self.phase[number] == PHASE["starting"]:
            assert time.monotonic() < end, f"victim {number} does not start"

    def kill(self, number: int, name: str) -> None:
        """Kills a victim at a random instant."""
        kill_at = time.perf_counter() + self.random.expovariate(1 / 0.002)
        while time.perf_counter() < kill_at:
            pass
        pid = self.pids.pop(number)
        os.kill(pid, signal.SIGKILL)
        self.child.ask(("bury", pid, 0))
        self.landed[PHASES[self.phase[number]]] += 1
        with open(path_of(name), "rb") as file:  # unless somebody has recovered already
            control = file.read(SIZES["header"] + SIZES["control"])[SIZES["header"] :]
        word, length = (int.from_bytes(control[at : at + 4], "little") for at in (GATE, LENGTH))
        self.landed["(seen in the gate)"] += bool(word & OWNER_DIED)
        self.landed["(seen in a transaction)"] += bool(word & OWNER_DIED and length)

    def collect(self) -> None:
        """A newcomer attaches, which collects the dead, and leaves."""
        self.child.ask(("bury", self.child.ask(("attach", 0, 0)), 0))


class StuckError(AssertionError):
    """A survivor's step did not come back."""


@contextmanager
def never_stuck(what: str) -> Iterator[None]:
    """The body takes less than STUCK_SECONDS."""

    def interrupt(_number: int, _frame: object) -> None:
        raise StuckError(f"{what} is stuck")

    before = signal.signal(signal.SIGALRM, interrupt)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, STUCK_SECONDS)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, max(rest - 0.001, 0.001) if rest else 0)


def survive(namespace: Namespace, round_: int) -> None:
    """What must go on for those who live, whoever died where."""
    with never_stuck("creating"):
        fresh = namespace.event(f"fresh {round_}", exclusive=True)
        anonymous = namespace.semaphore(None, 2)
    with never_stuck("opening"):
        again = namespace.event(f"fresh {round_}", create=False)
        shared = [namespace.mutex("mutex 0"), namespace.semaphore("semaphore 1", 1)]
    assert (again.slot, anonymous.release()) == (fresh.slot, 2)
    with never_stuck("closing"):
        for handle in (fresh, again, anonymous, *shared):
            handle.close()
    with never_stuck("looking"):
        seen = inspect.snapshot(namespace.name)
        assert inspect.describe(seen)
    assert [found.name for found in seen.objects if found.name == "kept"] == ["kept"]


@pytest.mark.seconds(240)
@pytest.mark.parametrize("others", [False, True], ids=["alone", "among others"])
def test_survivors_go_on_wherever_others_are_killed(engine: Engine, others: bool) -> None:
    phase = mmap.mmap(-1, mmap.PAGESIZE)
    name = unique_name("kills")
    with Child(lambda link: nursery(link, phase, name)) as child:
        killer = Killer(child, phase, random.Random(SEED))
        with Namespace(name, engine=engine.name, capacity=48, threads=12) as namespace:
            kept = namespace.mutex("kept")
            kept.acquire()
            kill_many(killer, namespace, others)
            assert [found.name for found in namespace.objects()] == ["kept"]
            assert kept.release() == 1
    print(f"rerun: SHMSYNC_SEED={SEED} SHMSYNC_KILLS={KILLS} pytest tests/crash/test_kills.py -rP")
    print(", ".join(f"{phase} {count}" for phase, count in killer.landed.most_common()))
    # Joining a broker takes so long that few get further.
    assert engine.brokered or KILLS < 500 or set(killer.landed) >= LONG


def kill_many(killer: Killer, namespace: Namespace, others: bool) -> None:
    """All the kills, with another victim that lives meanwhile or without."""
    if others:
        killer.bear(1)
    for round_, number in zip(range(KILLS), itertools.cycle([0, 1] if others else [0])):
        killer.bear(number)
        killer.kill(1 - number if others else number, namespace.name)
        survive(namespace, round_)
        if round_ % 50 == 49:
            for left in list(killer.pids):
                killer.kill(left, namespace.name)
            killer.collect()
            check(namespace.name)
            if others:
                killer.bear(number)
    for left in list(killer.pids):
        killer.kill(left, namespace.name)
    killer.collect()
    check(namespace.name)
