"""Errors: what each class is to a caller, and that every errno of the C code means something."""

from __future__ import annotations

import errno
import inspect
import os
import pickle
import re
from pathlib import Path

import pytest

import shmsync
from shmsync import errors
from shmsync.errors import FROM_ERRNO, ShmSyncError, from_errno

ROOT = Path(__file__).parents[1]

BASES: dict[type[ShmSyncError], type[Exception]] = {
    errors.ClosedError: ValueError,
    errors.NotOwnerError: RuntimeError,
    errors.LimitError: ValueError,
    errors.CapacityError: OSError,
    errors.NotFoundError: FileNotFoundError,
    errors.ExistsError: FileExistsError,
    errors.KindError: TypeError,
    errors.UnsupportedError: OSError,
    errors.BrokenError: OSError,
}

#: What C returns besides the table, and what becomes of it.
OTHERS = {
    "EINTR": "signal handlers run, and the call is made again",
    "ETIMEDOUT": "a wait says that it took nothing",
    "EBUSY": "unlink_unused says that the namespace is in use; a robust mutex is held",
    "EINVAL": "arguments that Python has checked before, or another engine: a ValueError",
    "EIO": "the operating system's own error",
    "EMFILE": "no descriptor left for the broker: a CapacityError that names the limit",
    "ENFILE": "likewise for the whole machine",
    "EOPNOTSUPP": "an engine whose namespaces cannot be persistent: an UnsupportedError",
    "EOWNERDEAD": "a robust mutex's holder died: never leaves C",
}
#: Of those, what Python itself looks for.
IN_PYTHON = {"EINTR", "ETIMEDOUT", "EBUSY", "EMFILE", "ENFILE"}


def in_c() -> set[str]:
    """The errnos that native/ returns or compares with."""
    sources = [*ROOT.glob("native/*.c"), *ROOT.glob("native/*.h"), *ROOT.glob("native/plain/*.h")]
    return {name for path in sources for name in re.findall(r"-(E[A-Z0-9]+)\b", path.read_text())}


def test_every_errno_of_the_c_code_is_in_the_table_or_dealt_with() -> None:
    table = {errno.errorcode[number] for number in FROM_ERRNO}
    assert in_c() - table - set(OTHERS) == set()
    assert not table & set(OTHERS)


def test_the_table_has_no_errno_that_the_c_code_lacks() -> None:
    assert {errno.errorcode[number] for number in FROM_ERRNO} - in_c() == set()


@pytest.mark.parametrize("name", sorted(IN_PYTHON))
def test_what_python_deals_with_is_named_there(name: str) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "shmsync").glob("*.py"))
    assert f"errno.{name}" in sources


@pytest.mark.parametrize("number", FROM_ERRNO, ids=lambda number: errno.errorcode[number])
def test_every_errno_of_the_table_becomes_its_error(number: int) -> None:
    error_class, message = FROM_ERRNO[number]
    error = from_errno(-number)
    assert type(error) is error_class
    assert message in str(error)
    assert "in other words" in str(from_errno(-number, "in other words"))
    if isinstance(error, OSError):
        assert error.errno == number
        named = from_errno(-number, filename="render-farm")
        assert isinstance(named, OSError)
        assert named.filename == "render-farm"


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL, errno.ENOLCK, 9999])
def test_any_other_errno_becomes_the_operating_systems_error(number: int) -> None:
    error = from_errno(-number, filename="render-farm")
    assert isinstance(error, OSError)
    assert not isinstance(error, ShmSyncError)
    assert (error.errno, error.filename) == (number, "render-farm")
    assert os.strerror(number) in str(error)


def test_the_classes_are_those_of_the_design() -> None:
    defined = {
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, ShmSyncError)
    }
    assert defined == {ShmSyncError, *BASES}
    for error_class, base in BASES.items():
        assert issubclass(error_class, base)
        assert issubclass(error_class, ShmSyncError)
        assert getattr(shmsync, error_class.__name__) is error_class
        assert error_class.__name__ in shmsync.__all__
        assert error_class.__doc__


@pytest.mark.parametrize("error_class", BASES)
def test_errors_travel_between_processes(error_class: type[ShmSyncError]) -> None:
    oserror = issubclass(error_class, OSError)
    error = error_class(errno.EPERM, "why", "name") if oserror else error_class("why")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert str(copy) == str(error)
