"""Who may come in: permission bits, other users, other pid namespaces."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from shmsync import Acquired, BrokenError, Namespace
from shmsync.engine import Engine

from ..conftest import unique_name
from ..support.checkers import check, path_of
from ..support.watchdog import eventually
from .helpers import (
    NOBODY,
    Child,
    become,
    collect,
    error_of,
    in_child,
    name_of,
    needs_root,
    python,
    segment,
)

#: Options of a namespace that is open to all.
FOR_ALL = {"mode": 0o666, "capacity": 16, "threads": 4}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(name: str) -> int:
    return stat.S_IMODE(Path(path_of(name)).stat().st_mode)


@pytest.mark.parametrize("mask", [0o077, 0o000, 0o777])
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o640, 0o600])
def test_the_umask_has_no_say_in_the_mode(mask: int, mode: int) -> None:
    with umask(mask), segment(mode=mode) as namespace:
        assert mode_of(namespace.name) == mode


def test_the_default_mode_is_for_the_user_alone() -> None:
    with umask(0), segment() as namespace:
        assert mode_of(namespace.name) == 0o600


def test_a_segment_made_anew_has_the_new_mode() -> None:
    name = unique_name()
    Path(path_of(name)).touch(0o644)
    with Namespace(name, mode=0o660):
        assert mode_of(name) == 0o660


# ---- other users ----


def as_nobody(link: Connection) -> object:
    """Opens namespaces as another user: hears (name, options), says how it went."""
    become(NOBODY)
    opened = []
    while True:
        name, options = link.recv()
        try:
            opened.append(Namespace(name, **options))
        except Exception as error:
            link.send((type(error).__name__, str(error)))
        else:
            link.send(("", opened[-1].engine))


@needs_root
def test_another_user_is_refused_by_the_default_mode() -> None:
    with Child(as_nobody) as child, segment() as namespace:
        for options in ({}, {"create": False}, {"mode": 0o666}):
            assert child.ask((namespace.name, options))[0] == "PermissionError"


@needs_root
@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "left behind"])
def test_a_planted_segment_does_not_catch_a_default_caller(place: Path, in_use: bool) -> None:
    name = name_of(place)
    with Child(as_nobody) as child:
        assert child.ask((name, FOR_ALL))[0] == ""
        if not in_use:
            child.kill()
        before = place.stat()
        for mode in (0o600, 0o700):
            for create in (True, False):
                with pytest.raises(BrokenError, match=f"user {NOBODY}.*mode="):
                    Namespace(name, mode=mode, create=create)
        after = place.stat()
        assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


@needs_root
def test_a_planted_empty_file_does_not_catch_a_default_caller(place: Path) -> None:
    place.touch()
    os.chown(place, NOBODY, NOBODY)
    place.chmod(0o666)
    with pytest.raises(BrokenError, match=f"user {NOBODY}"):
        Namespace(name_of(place))
    assert place.stat().st_size == 0


@needs_root
def test_a_default_caller_is_refused_by_a_segment_that_is_open_to_all() -> None:
    with Child(as_nobody) as child, segment(mode=0o666) as namespace:
        error, text = child.ask((namespace.name, {}))
        assert error == "BrokenError"
        assert "user 0" in text


def own_and_wait(link: Connection) -> object:
    """As another user: owns a mutex of a namespace that is open to all."""
    become(NOBODY)
    lock = Namespace(link.recv(), mode=0o666).mutex("lock")
    link.send(lock.acquire(timeout=0) == Acquired.ACQUIRED)
    return link.recv()


@pytest.mark.in_segment("a broker serves one user")
@needs_root
def test_two_users_who_both_say_so_share_a_segment(engine: Engine) -> None:
    with (
        Child(own_and_wait) as child,
        segment(engine=engine, mode=0o666) as namespace,
    ):
        lock = namespace.mutex("lock")
        assert child.ask(namespace.name) is True
        assert lock.acquire(timeout=0) == Acquired.TIMED_OUT
        child.kill()
        assert lock.acquire() == Acquired.ABANDONED
        lock.release()
        eventually(lambda: error_of(lambda: Namespace(namespace.name, mode=0o666))[0] == "")


@needs_root
def test_a_user_makes_anew_what_another_user_left_open_to_all() -> None:
    name = unique_name()
    with Child(as_nobody) as child:
        assert child.ask((name, FOR_ALL))[0] == ""
        child.kill()
    with Namespace(name, mode=0o660) as namespace:
        assert namespace.created
        check(name)
    assert not Path(path_of(name)).exists()


# ---- other pid namespaces ----

ELSEWHERE = ["unshare", "--pid", "--fork", "--mount-proc"]

OPEN = """
import sys
from shmsync import Namespace
try:
    namespace = Namespace(sys.argv[1], create=False)
except Exception as error:
    print(type(error).__name__, error, sep=":")
else:
    print("open", sorted(str(thing.name) for thing in namespace.objects()))
"""


def elsewhere(code: str, *arguments: str) -> str:
    """What a fresh interpreter in a pid namespace of its own prints."""
    try:
        python("print()", prefix=ELSEWHERE)
    except (AssertionError, OSError):
        pytest.skip("pid namespaces are not allowed here")
    return python(code, *arguments, prefix=ELSEWHERE)


@needs_root
def test_a_segment_that_another_pid_namespace_uses_is_refused() -> None:
    with segment() as namespace:
        error, _, text = elsewhere(OPEN, namespace.name).partition(":")
        assert error == "UnsupportedError"
        assert "pid namespace" in text
        check(namespace.name)


@needs_root
def test_a_persistent_segment_moves_to_the_pid_namespace_that_uses_it() -> None:
    with segment(persistent=True) as namespace:
        namespace.event("event")
        namespace.close()
        assert elsewhere(OPEN, namespace.name) == "open ['event']"
        with Namespace(namespace.name, create=False) as again:
            assert again.event("event", create=False).set() is False
            assert elsewhere(OPEN, namespace.name).startswith("UnsupportedError")


NEW_PID_NAMESPACE = 0x20000000


@needs_root
def test_a_child_forked_into_another_pid_namespace_is_told_so() -> None:
    with segment() as namespace:
        event, lock = namespace.event("event"), namespace.mutex("lock")

        def fork_elsewhere() -> list[str] | None:
            if ctypes.CDLL(None).unshare(NEW_PID_NAMESPACE) != 0:
                return None
            return in_child(lambda: [error_of(event.set)[0], error_of(lock.acquire)[0]])  # type: ignore[no-any-return]

        errors = in_child(fork_elsewhere)
        if errors is None:
            pytest.skip("pid namespaces are not allowed here")
        assert errors == ["UnsupportedError"] * 2
        assert event.set() is False
        collect(namespace.name)
