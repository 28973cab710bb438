"""Forked children that talk, fresh interpreters, and byte-range locks like the library's."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

import shmsync
from shmsync import Namespace, inspect
from shmsync.engine import Engine

from ..conftest import unique_name
from ..support.checkers import check, path_of
from ..support.watchdog import PATIENCE, seen

ROOT = Path(__file__).parents[2]
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


class Raised:
    """What a child says when its function raised."""

    def __init__(self, error: BaseException) -> None:
        self.name = type(error).__name__
        self.text = "".join(traceback.format_exception(error))


class Child:
    """A forked child that runs ``body(link)`` and says what it returned. Gone after the ``with``.

    One that is to attach on its own account must be forked before this process attaches: a child
    inherits what its parent has open.
    """

    def __init__(self, body: Callable[[Connection], object]) -> None:
        self.link, theirs = Pipe()
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            _run(body, theirs)
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.link.close()

    def say(self, message: object = None) -> None:
        """Sends the child a message."""
        self.link.send(message)

    def hear(self, patience: float = PATIENCE / 2) -> Any:
        """The child's next message; the test fails if it raised, died, or says nothing."""
        if not self.link.poll(patience):
            pytest.fail(f"child {self.pid} says nothing for {patience:.0f} s")
        try:
            message = self.link.recv()
        except EOFError:
            pytest.fail(f"child {self.pid} ended ({self.wait()}) without a word")
        if isinstance(message, Raised):
            pytest.fail(f"the child raised\n{message.text}")
        return message

    def ask(self, message: object = None) -> Any:
        """Sends a message and returns the next one."""
        self.say(message)
        return self.hear()

    def wait(self) -> int:
        """The exit status, of a signal negative; the child must be about to end."""
        if self._status is None and not seen(self._reap):
            self.kill()
            pytest.fail(f"child {self.pid} did not end within {PATIENCE:.0f} s")
        assert self._status is not None
        return self._status

    def _reap(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self._status = os.waitstatus_to_exitcode(status)
        return pid != 0

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends a signal that ends the child; returns when it is gone."""
        if self._status is None:
            os.kill(self.pid, number)
        return self.wait()


def _run(body: Callable[[Connection], object], link: Connection) -> None:
    status = 1
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        link.send(body(link))
        status = 0
    except EOFError:
        pass  # the parent is gone
    except BaseException as error:
        link.send(Raised(error))
    finally:
        os._exit(status)


def in_child(body: Callable[[], object]) -> Any:
    """What the function returns in a forked child."""
    with Child(lambda _link: body()) as child:
        value = child.hear()
        assert child.wait() == 0
    return value


def python(code: str, *arguments: str, prefix: Sequence[str] = ()) -> str:
    """What a fresh interpreter prints; it must succeed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def collect(name: str) -> None:
    """Attaches in another process, which collects what the dead left; then checks the tables."""
    python("import sys, shmsync; shmsync.Namespace(sys.argv[1], create=False).close()", name)
    check(name)


def error_of(call: Callable[[], object]) -> tuple[str, str]:
    """Class and text of the error of a call, to be sent elsewhere; ("", "") if there is none."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def name_of(place: Path) -> str:
    """The namespace of a file."""
    return place.name.removeprefix("shmsync-")


def become(user: int) -> None:
    """Gives up all privileges for those of this user, for good."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


@contextmanager
def byte_held(name: str, byte: int, *, exclusive: bool = False) -> Iterator[None]:
    """Holds a byte-range lock of the segment's file, as a process of any version would. Byte 1,
    shared, means that the segment is in use."""
    fd = os.open(path_of(name), os.O_RDWR)
    try:
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
        yield
    finally:
        os.close(fd)


def users_of(handle: shmsync.Handle) -> int:
    """How many processes have the handle's object open."""
    with inspect.Reader(handle.namespace.name) as reader:
        found = reader.object(handle.slot)
    assert found is not None
    return found.users


@contextmanager
def segment(
    *,
    capacity: int = 16,
    threads: int = 4,
    mode: int = 0o600,
    persistent: bool = False,
    engine: Engine | None = None,
) -> Iterator[Namespace]:
    """A new small namespace, whose file is removed at the end, whoever still uses it."""
    namespace = Namespace(
        unique_name("segment"),
        engine=engine.name if engine else None,
        exclusive=True,
        capacity=capacity,
        threads=threads,
        mode=mode,
        persistent=persistent,
    )
    try:
        with namespace:
            yield namespace
    finally:
        if os.path.exists(path_of(namespace.name)):
            shmsync.unlink(namespace.name)
