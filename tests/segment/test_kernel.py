"""A kernel without futex_waitv, as a filter of system calls makes it look."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shmsync import Namespace, wait_all, wait_any
from shmsync.engine import by_name, engines

from ..conftest import unique_name
from ..support.checkers import check, path_of
from ..support.peek import until_waiting
from .helpers import Child, error_of, in_child, segment

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
FUTEX_WAITV = 449  # on every architecture

# struct sock_filter: code, jump if true, jump if false, constant
LOAD_NUMBER = struct.pack("=HBBI", 0x20, 0, 0, 0)
IF_WAITV = struct.pack("=HBBI", 0x15, 0, 1, FUTEX_WAITV)
REFUSE = struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | errno.ENOSYS)
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def lose_futex_waitv() -> bool:
    """From now on this process runs on a kernel that lacks it. False if filters are not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(4, LOAD_NUMBER + IF_WAITV + REFUSE + ALLOW)
    return (
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0
        and libc.syscall(FUTEX_WAITV, None, 0, 0, None, 1) == -1
        and ctypes.get_errno() == errno.ENOSYS
    )


pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter is written for these"
)


@pytest.fixture(autouse=True)
def _filters_work() -> None:
    if not in_child(lose_futex_waitv):
        pytest.skip("this process may not filter system calls")


def test_the_engines_that_need_it_say_so_in_words() -> None:
    def reasons() -> dict[str, str | None]:
        lose_futex_waitv()
        return {name: engine.check() for name, engine in engines().items()}

    reason = in_child(reasons)["fsync"]
    assert "futex_waitv" in reason
    assert "5.16" in reason
    assert by_name("fsync").check() is None  # here it works


def test_creating_is_an_unsupported_error_that_leaves_nothing() -> None:
    name = unique_name()

    def create() -> tuple[str, str]:
        lose_futex_waitv()
        return error_of(lambda: Namespace(name, engine="fsync"))

    error, text = in_child(create)
    left = Path(path_of(name)).exists()
    Path(path_of(name)).unlink(missing_ok=True)
    assert error == "UnsupportedError"
    assert "futex_waitv" in text
    assert not left


def test_attaching_is_an_unsupported_error_and_harms_nobody() -> None:
    def attach(link: Connection) -> tuple[str, str]:
        lose_futex_waitv()
        return error_of(lambda: Namespace(link.recv(), create=False))

    with Child(attach) as child, segment(engine=by_name("fsync")) as namespace:
        event = namespace.event("event")
        error, text = child.ask(namespace.name)
        assert error == "UnsupportedError"
        assert "futex_waitv" in text
        assert child.wait() == 0
        assert event.set() is False
        assert event.wait(0)
        check(namespace.name)
        assert os.path.exists(path_of(namespace.name))


def use_without_it(link: Connection) -> None:
    """Waits of every sort, served by the test."""
    lose_futex_waitv()
    link.send(by_name("handoff").check())
    with Namespace(link.recv(), engine="handoff", create=False) as namespace:
        lock, tokens = namespace.mutex("lock"), namespace.semaphore("tokens", 0)
        event = namespace.event("event")
        results = [wait_any([tokens, event]), wait_all([lock, tokens]), wait_any([lock], 0)]
        link.send([result.index if result else None for result in results])
        link.send(int(event.wait(0.001)))
        assert (lock.release(), lock.release()) == (2, 1)


def test_handoff_does_without_it() -> None:
    with Child(use_without_it) as child, segment(engine=by_name("handoff")) as namespace:
        lock, tokens = namespace.mutex("lock", owned=True), namespace.semaphore("tokens", 0)
        event = namespace.event("event")
        assert child.hear() is None
        child.say(namespace.name)
        until_waiting(event, 1)
        assert event.set() is False
        until_waiting(lock, 1)
        tokens.release()
        lock.release()
        assert child.hear() == [1, 0, 0]
        assert child.hear() == 0
        child.hear()
        assert child.wait() == 0
        assert tokens.state().count == 0
        assert lock.acquire(timeout=0)
        lock.release()
        check(namespace.name)
