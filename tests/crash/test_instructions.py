"""Processes killed at chosen machine instructions of what they do in the gate.

A victim is traced. It is let run until it wants the gate, which the test holds; then it gets the
gate, is stepped so many instructions further, and is killed. So every kill lands inside the gate,
and every part of a transaction has its turn: before and after each entry of the log, word, and
commit. SHMSYNC_KILLS=10000 kills at every instruction.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shmsync import Namespace, NotFoundError

from ..segment.helpers import collect, segment
from ..segment.test_undo import GATE, LENGTH, Memory, libc
from ..support.checkers import problems, read

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
#: Kills for each operation, spread over its instructions.
KILLS = int(os.environ.get("SHMSYNC_KILLS", "40"))

TRACEME, CONTINUE, STEP, SYSCALL = 0, 7, 9, 24
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
TID_MASK = 0x3FFFFFFF
PAGE = os.sysconf("SC_PAGE_SIZE")

libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def may_trace() -> bool:
    """Can a child be traced here? (Containers may forbid it.)"""
    pid = os.fork()
    if pid == 0:
        os._exit(libc.ptrace(TRACEME, 0, None, None) != 0)
    return os.waitpid(pid, 0)[1] == 0


pytestmark = pytest.mark.skipif(
    FUTEX is None or not may_trace(), reason="tracing is not possible here"
)


class Victim:
    """A traced child. It has what its parent has open, prepares, stops, and then does the thing."""

    def __init__(self, prepare: Callable[[], object], operate: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                prepare()
                libc.ptrace(TRACEME, 0, None, None)
                os.kill(os.getpid(), signal.SIGSTOP)
                operate()
            finally:
                os._exit(0)
        self.stopped()

    def stopped(self) -> None:
        """Waits until it stops; it must not end."""
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), f"the victim ended: {status:#x}"

    def go(self, request: int) -> None:
        """Lets it run until its next stop of that kind."""
        assert libc.ptrace(request, self.pid, None, None) == 0
        self.stopped()

    def wants_gate(self, gate: int) -> bool:
        """Is it about to sleep until the gate is free?"""
        call = Path(f"/proc/{self.pid}/syscall").read_text().split()
        return call[0] == str(FUTEX) and int(call[1], 16) % PAGE == gate % PAGE

    def kill(self) -> None:
        """Ends it, wherever it is."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def inside(memory: Memory, victim: Victim) -> bool:
    """Does the victim have the gate?"""
    return memory.get(GATE, 4) & TID_MASK == victim.pid


def enter_gate(memory: Memory, victim: Victim) -> None:
    """Brings the victim to its first instruction with the gate."""
    memory.lock_gate()
    try:
        while not victim.wants_gate(GATE):
            victim.go(SYSCALL)
    finally:
        memory.unlock_gate()
    while not inside(memory, victim):
        victim.go(STEP)


def step(memory: Memory, victim: Victim, most: int) -> int:
    """Steps as long as the victim has the gate; how many times."""
    steps = 0
    while steps < most and inside(memory, victim):
        victim.go(STEP)
        steps += 1
    return steps


@dataclass(frozen=True)
class Operation:
    """What a victim does: something untraced, then the call to die in."""

    prepare: Callable[[Namespace], object]
    operate: Callable[[Namespace], object]


def nothing(_namespace: Namespace) -> None:
    pass


# Handles that are never collected: dying closes them.
_left: list[Any] = []


def leave_open(namespace: Namespace) -> None:
    _left.extend([namespace.event("kept"), namespace.semaphore(None), namespace.event("left")])


def leave_nothing_open(namespace: Namespace) -> None:
    """Also not what the parent had open. The thread is registered."""
    register(namespace)
    for handle in list(namespace._handles):
        handle.close()


def free_two_slots(namespace: Namespace) -> None:
    for handle in [namespace.event("x"), namespace.event("y")]:
        handle.close()


def attach_anew(namespace: Namespace) -> None:
    """On its own account, with nothing inherited."""
    namespace.close()
    _left.append(Namespace(namespace.name, create=False))


def leave_a_mutex(namespace: Namespace) -> None:
    _left.append(namespace.mutex(None))


def register(namespace: Namespace) -> None:
    """As whoever takes a mutex is."""
    with namespace.mutex(None):
        pass


def fork(_namespace: Namespace) -> None:
    if os.fork() == 0:
        os._exit(0)


OPERATIONS = {
    "create": Operation(nothing, lambda ns: ns.event("new")),
    "create in a freed slot": Operation(free_two_slots, lambda ns: ns.event("new")),
    "create anonymous": Operation(nothing, lambda ns: ns.semaphore(None, 3)),
    "create owned": Operation(register, lambda ns: _left.append(ns.mutex("owned", owned=True))),
    "open": Operation(attach_anew, lambda _: _left[-1].mutex("other")),
    "close the last": Operation(leave_open, lambda _: _left[-1].close()),
    "close one of two": Operation(leave_open, lambda _: _left[0].close()),
    "register": Operation(leave_a_mutex, lambda _: _left[-1].acquire()),
    "deregister": Operation(leave_nothing_open, lambda ns: ns.close()),
    "attach": Operation(lambda ns: ns.close(), lambda ns: Namespace(ns.name, create=False)),
    "fork": Operation(leave_open, fork),
}
#: For others nothing changes if a process closes one of two handles; an attach is mostly looking.
CHANGES_LITTLE = {"close one of two", "attach"}


@pytest.fixture
def busy() -> Iterator[Namespace]:
    """A namespace with two objects that this process keeps."""
    with segment(capacity=16, threads=8) as namespace:
        kept, other = (
            namespace.event("kept", signaled=True, manual_reset=True),
            namespace.mutex("other"),
        )
        yield namespace
        assert kept.is_set()
        assert other.acquire(timeout=0)
        other.release()
        collect(namespace.name)
        assert [found.name for found in namespace.objects()] == ["kept", "other"]
        assert {found.users for found in namespace.objects()} == {1}


@pytest.mark.seconds(120)
@pytest.mark.parametrize("label", OPERATIONS)
def test_a_kill_at_any_instruction_in_the_gate_leaves_the_tables_right(
    busy: Namespace, label: str
) -> None:
    operation, random_ = OPERATIONS[label], random.Random(SEED)
    memory = Memory(busy.name)

    def die_after(steps: int) -> int:
        victim = Victim(lambda: operation.prepare(busy), lambda: operation.operate(busy))
        try:
            enter_gate(memory, victim)
            return step(memory, victim, steps)
        finally:
            victim.kill()

    total = die_after(10**6)
    stride = max(total / KILLS, 1)
    killed, undone = 0, 0
    for number in range(min(KILLS, total)):
        steps = int(number * stride + random_.random() * stride)
        killed += die_after(steps) == steps
        undone += memory.get(LENGTH, 4) > 0
        with pytest.raises(NotFoundError):
            busy.open("nothing of that name")
        found = problems(read(busy.name))
        assert not found, f"killed after {steps} of {total} instructions: {found}"
    print(f"SHMSYNC_SEED={SEED}: {killed} kills in {total} instructions, {undone} in a transaction")
    assert killed > min(KILLS, total) / 2
    assert undone or label in CHANGES_LITTLE
