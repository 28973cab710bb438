"""Processes that make the calls that they are told, all at the same time, and write down what came
of it."""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from shmsync import (
    EventState,
    LimitError,
    MutexState,
    Namespace,
    NotOwnerError,
    SemaphoreState,
    signal_and_wait,
    wait_all,
    wait_any,
)

from ..model import Model
from ..segment.helpers import Child
from ..support.watchdog import PATIENCE
from .history import Call, History, Record, State, What, took

TIMEOUTS = (0, 0, 0.0005, 0.003)
CHANGES: dict[str, tuple[What, ...]] = {
    "semaphore": ("release",),
    "mutex": ("unlock",),
    "auto": ("set", "set", "reset", "pulse"),
    "manual": ("set", "reset", "pulse"),
}
MAXIMUM = 2


def make(namespace: Namespace, kind: str, number: int) -> Any:
    """An object of the kind; it exists for the second who asks."""
    name = f"{kind} {number}"
    match kind:
        case "semaphore":
            return namespace.semaphore(name, 1, maximum=MAXIMUM)
        case "mutex":
            return namespace.mutex(name)
        case _:
            return namespace.event(name, manual_reset=kind == "manual")


def raw_state(handle: Any) -> State:
    """A handle's state; the owner is an owner id, or None."""
    match handle.state():
        case SemaphoreState(count, _):
            return count, None, False
        case MutexState(count, owner, abandoned):
            return count, owner or None, abandoned
        case EventState(_, signaled):
            return int(signaled), None, False
        case other:
            raise AssertionError(other)


class Hand:
    """What one process does."""

    def __init__(self, link: Connection, name: str, kinds: Sequence[str], go: mmap.mmap) -> None:
        self.link = link
        self.go = go
        self.namespace = Namespace(name, create=False)
        self.handles = [make(self.namespace, kind, n) for n, kind in enumerate(kinds)]

    def run(self) -> None:
        """Says who it is; then makes the calls of each round."""
        own = self.namespace.mutex(owned=True)
        self.link.send(own.state().owner)
        own.release()
        own.close()
        while plan := self.link.recv():
            number, calls = plan
            while struct.unpack_from("=I", self.go)[0] != number:
                os.sched_yield()
            self.link.send([self.record(call) for call in calls])
        self.namespace.close()

    def record(self, call: Call) -> tuple[int, int, object]:
        """One call: begin, end and result."""
        begin = time.monotonic_ns()
        try:
            result = self.do(call)
        except NotOwnerError:
            result = "owner"
        except LimitError:
            result = "limit"
        return begin, time.monotonic_ns(), result

    def do(self, call: Call) -> object:
        """Its result, as the model has it."""
        handles = [self.handles[number] for number in call.objects]
        match call.what:
            case "release":
                return handles[0].release(call.n)
            case "unlock":
                return handles[0].release()
            case "state":
                return raw_state(handles[0])
            case "reset":
                return handles[0].clear()
            case "wait":
                return self.wait(call, handles)
            case what:
                return getattr(handles[0], what)()

    def wait(self, call: Call, handles: list[Any]) -> object:
        """A wait of any sort."""
        alert = None if call.alert is None else self.handles[call.alert]
        if call.signal is not None:
            got = signal_and_wait(self.handles[call.signal], handles[0], call.timeout)
        else:
            got = (wait_all if call.everything else wait_any)(handles, call.timeout, alert=alert)
        if got is None:
            return None
        return took(got.index, abandoned=bool(got.abandoned), alerted=got.alerted)


class Hammer:
    """Some processes and the objects that they use, seen from outside."""

    def __init__(self, name: str, engine: str, kinds: Sequence[str], hands: int) -> None:
        self.kinds = kinds
        self.go = mmap.mmap(-1, mmap.PAGESIZE)
        self.number = 0
        self.children = [
            Child(lambda link: Hand(link, link.recv(), kinds, self.go).run()) for _ in range(hands)
        ]
        self.namespace = Namespace(name, engine=engine, exclusive=True, capacity=16, threads=16)
        self.handles = [make(self.namespace, kind, n) for n, kind in enumerate(kinds)]
        self.owners = [child.ask(name) for child in self.children]

    def state(self) -> tuple[State, ...]:
        """The objects, while nobody does anything."""
        return tuple(self.known(raw_state(handle)) for handle in self.handles)

    def known(self, state: State) -> State:
        """The same with the number of the owner."""
        count, owner, abandoned = state
        return count, None if owner is None else self.owners.index(owner), abandoned

    def recorded(self, call: Call, begin: int, end: int, result: Any) -> Record:
        """What a process says of a call, in the model's terms."""
        return Record(call, begin, end, self.known(result) if call.what == "state" else result)

    def model(self) -> Model:
        """The model in that state."""
        model = Model()
        for kind, (count, owner, _) in zip(self.kinds, self.state(), strict=True):
            match kind:
                case "semaphore":
                    model.semaphore(count, MAXIMUM)
                case "mutex":
                    model.mutex(owner, count)
                case _:
                    model.event(manual=kind == "manual", signaled=bool(count))
        return model

    def round(self, plans: Sequence[Sequence[Call]]) -> History:
        """All make their calls at the same time."""
        before, self.number = self.model(), self.number + 1
        for child, plan in zip(self.children, plans, strict=True):
            child.say((self.number, plan))
        struct.pack_into("=I", self.go, 0, self.number)
        answers = [child.hear(PATIENCE / 2) for child in self.children]
        threads = tuple(
            tuple(self.recorded(call, *answer) for call, answer in zip(plan, many, strict=True))
            for plan, many in zip(plans, answers, strict=True)
        )
        return History(before, self.state(), threads)

    def close(self) -> None:
        """Nothing is left."""
        for child in self.children:
            child.kill()
            child.link.close()
        self.namespace.close()


def random_call(random_: random.Random, kinds: Sequence[str], *, simple: bool) -> Call:
    """Some call. ``simple``: on one object, and no pulse."""
    it = random_.randrange(len(kinds))
    roll = random_.random()
    if roll < (0.6 if kinds[it] == "mutex" else 0.4):  # so that it is not owned for ever
        what = random_.choice([w for w in CHANGES[kinds[it]] if w != "pulse" or not simple])
        return Call(what, (it,), n=random_.choice([1, 1, 2]) if what == "release" else 1)
    if random_.random() < 0.1:
        return Call("state", (it,))
    timeout, roll = random_.choice(TIMEOUTS), random_.random()
    if roll < 0.4 or simple:
        return Call("wait", (it,), timeout=timeout)
    if roll < 0.5:
        return Call("wait", (it,), signal=random_.randrange(len(kinds)), timeout=timeout)
    objects = random_.sample(range(len(kinds)), random_.randint(1, len(kinds)))
    others = [n for n, kind in enumerate(kinds) if n not in objects and kind in ("auto", "manual")]
    alert = random_.choice(others) if others and random_.random() < 0.5 else None
    return Call(
        "wait", tuple(objects), everything=random_.random() < 0.5, alert=alert, timeout=timeout
    )
