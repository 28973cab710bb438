"""Kills a process before every step of an operation, and looks at what it leaves.

``python -m tests.crash.every_step OPERATION`` prints a line of JSON. For n = 0, 1, 2, ... a victim
is forked that does the operation in the traced module and dies before its step n, until one lives
to the end. After each death a survivor, attached all along through the ordinary module, has to be
able to use the directory and to register a thread; then a process attaches, which collects the
dead, and the tables are checked. With ``--recovery``, each death in the gate is followed by a
second victim, which recovers and dies before each step of that. It ends with the first problem.

This is a program of its own because a process that has attached, or has threads, cannot fork
victims that begin with nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Queue
from typing import TYPE_CHECKING, Any

import posix_ipc

from ..mending.verdicts import put_in_place

if TYPE_CHECKING:
    from shmsync import Acquired, Mutex

PATIENCE = 30.0
STEPS_MAX = 5000

Pointer = Any


class Victim:
    """What a victim does, in raw calls of the traced module."""

    def __init__(self, name: str, engine: str) -> None:
        from shmsync._traced import ffi, lib
        from shmsync.engine import by_name

        self.ffi, self.lib, self.name = ffi, lib, name
        self.engine = by_name(engine).number
        self.mapping: Pointer = ffi.NULL

    def attach(self) -> None:
        """Attaches; creates the segment if there is none."""
        path = self.ffi.new("char[]", f"/shmsync-{self.name}".encode())
        request = self.ffi.new("struct ss_attach *")
        request.shm_name = path
        request.new_engine = self.engine
        request.capacity, request.threads, request.mode = 8, 8, 0o600
        request.flags = self.lib.SS_CREATE
        code = -errno.ESTALE
        while code == -errno.ESTALE:
            shm = posix_ipc.SharedMemory(f"/shmsync-{self.name}", posix_ipc.O_CREAT, mode=0o600)
            request.fd = shm.fd
            code = self.lib.ss_attach(request)
            shm.close_fd()
        assert code == 0, code
        self.mapping = request.ns

    def open(self, name: str, *, create: bool) -> Pointer:
        """Opens a mutex."""
        text = self.ffi.new("char[]", name.encode())
        request = self.ffi.new("struct ss_open *")
        request.ns, request.name, request.name_length = self.mapping, text, len(name)
        request.flags = self.lib.SS_CREATE if create else 0
        request.initial = {"kind": self.lib.SS_MUTEX}
        code = self.lib.ss_open(request)
        assert code == 0, code
        return request.handle

    def poll(self, handle: Pointer) -> None:
        """Takes the mutex if it is free; registers the thread."""
        wait = self.ffi.new("struct ss_wait *")
        wait.handles[0], wait.count = handle, 1
        self.lib.ss_wait(wait)


def attach(victim: Victim) -> Callable[[], object]:
    """Attaching to a segment in use."""
    return victim.attach


def create(victim: Victim) -> Callable[[], object]:
    """Making an object."""
    victim.attach()
    return partial(victim.open, "victim", create=True)


def open_(victim: Victim) -> Callable[[], object]:
    """Opening an object that others have open."""
    victim.attach()
    return partial(victim.open, "shared", create=False)


def close(victim: Victim) -> Callable[[], object]:
    """Closing an object that nobody else has open."""
    victim.attach()
    handle = victim.open("victim", create=True)
    return partial(victim.lib.ss_close, handle)


def register(victim: Victim) -> Callable[[], object]:
    """Registering a thread, and acquiring."""
    victim.attach()
    handle = victim.open("shared", create=False)
    return partial(victim.poll, handle)


def detach(victim: Victim) -> Callable[[], object]:
    """Leaving, with a registered thread."""
    victim.attach()
    handle = victim.open("victim", create=True)
    victim.poll(handle)
    victim.lib.ss_mutex_release(handle)
    victim.lib.ss_close(handle)
    return partial(victim.lib.ss_detach, victim.mapping)


OPERATIONS = {
    each.__name__.strip("_"): each for each in (attach, create, open_, close, register, detach)
}


def die_before(scene: Scene, operation: str, step: int) -> bool:
    """Forks a victim. True if it was killed, False if it came to the end of the operation."""
    pid = os.fork()
    if pid == 0:
        try:
            victim = Victim(scene.name, scene.engine)
            act = OPERATIONS[operation](victim)
            victim.lib.step_count_from_0()
            victim.lib.step_kill_before(step)
            act()
            os._exit(0)
        except BaseException as error:  # nothing of a victim may get back to the driver's code
            print(f"victim: {error!r}", file=sys.stderr)
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"victim ended with {status}"
    return os.WIFSIGNALED(status)


def take(mutex: Mutex, told: Queue[Acquired]) -> None:
    """What a thread of the survivor does: registers, acquires, releases."""
    told.put(mutex.acquire(timeout=PATIENCE))
    mutex.release()


def survive(name: str, engine: str, link: Connection) -> None:
    """The survivor: holds the shared mutex's handle, and uses the namespace when asked to."""
    from shmsync import Namespace

    namespace = Namespace(name, engine=engine, capacity=8, threads=8)
    shared = namespace.mutex("shared")
    link.send("ready")
    while link.recv() == "use":
        made = namespace.event(create=True)
        again = namespace.open("shared")
        told: Queue[Acquired] = Queue()
        thread = threading.Thread(target=take, args=(shared, told))
        thread.start()
        thread.join(PATIENCE)
        made.close()
        again.close()
        link.send(not thread.is_alive() and bool(told.get()))
    namespace.close()


class ProblemError(Exception):
    """Something is wrong with what a death has left."""


def remove(name: str) -> None:
    """The segment's name, which the survivor did not live to remove."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"/dev/shm/shmsync-{name}")


class Scene:
    """A segment with a survivor in it."""

    def __init__(self, name: str, engine: str) -> None:
        self.name = name
        self.engine = engine
        self.link, far = Pipe()
        self.survivor = os.fork()
        if self.survivor == 0:
            try:
                survive(name, engine, far)
            finally:
                os._exit(0)
        assert self._hear() == "ready"

    def _hear(self) -> Any:
        if not self.link.poll(PATIENCE):
            raise ProblemError("the survivor is stuck")
        try:
            return self.link.recv()
        except EOFError:
            raise ProblemError("the survivor got an error") from None

    def aftermath(self) -> None:
        """Raises ``ProblemError`` if something is wrong after a death."""
        from ..support.checkers import alive_in, problems, read

        self.link.send("use")
        if not self._hear():
            raise ProblemError("the survivor could not acquire")
        if not self._collect():
            raise ProblemError("an attach failed or hung")
        found = problems(read(self.name), alive_in(self.name))
        if found:
            raise ProblemError(", ".join(found))

    def _collect(self) -> bool:
        pid = os.fork()
        if pid == 0:
            from shmsync import Namespace

            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(PATIENCE))
            try:
                Namespace(self.name, create=False).close()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0

    def gate_is_dead(self) -> bool:
        """Did the last victim die in the gate?"""
        from shmsync.inspect import snapshot

        return snapshot(self.name).gate_tid == 0 and self._gate_word() & 0x40000000 != 0

    def _gate_word(self) -> int:
        from ..support.checkers import SIZES

        with open(f"/dev/shm/shmsync-{self.name}", "rb") as file:
            file.seek(SIZES["header"])
            return int.from_bytes(file.read(4), sys.byteorder)

    def close(self) -> None:
        """Lets the survivor go, or ends it if it will not."""
        os.kill(self.survivor, signal.SIGKILL)
        os.waitpid(self.survivor, 0)


def every_step(scene: Scene, operation: str) -> Iterator[str]:
    """One death before each step; yields what comes before each look at what it left."""
    step = 0
    while step < STEPS_MAX and die_before(scene, operation, step):
        yield f"before step {step}"
        step += 1


def every_recovery(scene: Scene, operation: str, stride: int) -> Iterator[str]:
    """For deaths in the gate (every ``stride``-th): one death before each step of the recovery."""
    for step in range(0, STEPS_MAX, stride):
        for again in range(STEPS_MAX):
            if not die_before(scene, operation, step):
                return
            if not scene.gate_is_dead():
                scene.aftermath()
                break
            recoverer_killed = die_before(scene, "attach", again)
            yield f"before step {step}, recoverer before step {again}"
            if not recoverer_killed:
                break


def run(name: str, engine: str, operation: str, stride: int) -> dict[str, Any]:
    """The report: how many deaths, and the first problem."""
    scene, kills, where = Scene(name, engine), 0, "before the first death"
    deaths = every_recovery(scene, operation, stride) if stride else every_step(scene, operation)
    problem = None
    try:
        for death in deaths:
            where = death
            kills += 1
            scene.aftermath()
        where = "at the end"
        scene.aftermath()
    except (ProblemError, AssertionError) as error:
        problem = f"{where}: {error}"
    scene.close()
    return {"operation": operation, "kills": kills, "problem": problem}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.every_step", description=__doc__)
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("--engine", default="handoff")
    parser.add_argument("--recovery", type=int, default=0, metavar="STRIDE")
    parser.add_argument("--module", help="a traced module to use in place of the installed one")
    arguments = parser.parse_args()
    if arguments.module:
        put_in_place(arguments.module)
    name = f"steps-{os.getpid()}"
    report = run(name, arguments.engine, arguments.operation, arguments.recovery)
    remove(name)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
