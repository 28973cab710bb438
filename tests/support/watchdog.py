"""Bounds for everything that may block, and waiting for what is seen instead of for a time to
pass."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

Seen = TypeVar("Seen")

#: Seconds after which a test run is ended with the stacks of all threads.
TEST_SECONDS = 60.0
#: Seconds after which something that should happen soon counts as never happening. Below
#: TEST_SECONDS, so that a test that waits for an actor fails by name and leaves the rest of the run
#: alone.
PATIENCE = 20.0
#: Pause between two looks. Nothing depends on its length.
PAUSE = 0.001

_stderr: list[int] = []


def remember_stderr() -> None:
    """Keeps the real standard error, which pytest is about to capture, for the stacks."""
    if not _stderr:
        _stderr.append(os.dup(2))


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Ends the process with all stacks if the body takes longer than this: a native call may hang
    with no way to raise an exception in it."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=_stderr[0] if _stderr else 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def seen(look: Callable[[], Seen], patience: float = PATIENCE) -> Seen:
    """What ``look`` gives, as soon as it is truthy, or at last when patience runs out."""
    deadline = time.monotonic() + patience
    while not (value := look()) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    return value


def eventually(look: Callable[[], object], what: str = "it") -> None:
    """Fails the test unless ``look`` becomes truthy."""
    if not seen(look):
        pytest.fail(f"{what} did not happen within {PATIENCE:.0f} s")
