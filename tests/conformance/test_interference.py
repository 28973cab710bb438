"""What signal handlers and deaths may do in the middle of a call."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmsync import Acquired, Namespace, NotFoundError, unlink

from ..conftest import unique_name

ROOT = Path(__file__).parents[2]

#: A handler closes the namespace, again and again, while the program opens objects in it.
HANDLER_CLOSES = """
import signal, sys
from shmsync import ClosedError, Namespace

opened = None

def close(*_):
    if opened is not None:
        opened.close()

signal.signal(signal.SIGALRM, close)
for round in range(400):
    opened = Namespace(sys.argv[1])
    signal.setitimer(signal.ITIMER_REAL, 0.0002 + round % 7 * 0.00005)
    try:
        while True:
            opened.event()
            opened.engine
    except ClosedError:
        pass
print("done")
"""

#: Attaches, says so, and stays.
STAYS = """
import sys
from shmsync import Namespace

namespace = Namespace(sys.argv[1])
lock = namespace.mutex("lock")
if len(sys.argv) > 2:
    lock.acquire()
print("here", flush=True)
sys.stdin.read()
"""


def test_a_handler_may_close_the_namespace_that_is_being_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANDLER_CLOSES, unique_name()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_death_is_noticed_though_the_one_who_looks_is_gone(end: signal.Signals) -> None:
    """The first three to attach, one of which sweeps, are killed or stopped at once."""
    name = unique_name()
    children: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", STAYS, name, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        return child

    try:
        first = [start() for _ in range(3)]
        owner = start("own")
        with Namespace(name) as namespace:
            lock = namespace.mutex("lock", create=False)
            for child in first:
                os.kill(child.pid, end)
            owner.kill()
            assert lock.acquire(timeout=30) is Acquired.ABANDONED
            lock.release()
    finally:
        for child in children:
            child.kill()
            child.communicate()
        with contextlib.suppress(NotFoundError):  # the last to use it may have been killed
            unlink(name)
