"""The system calls of ``handoff``, as strace sees them: none where nobody is in the way, one for
each sleep and one for each wake. With and without ``shmsync._fast``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shmsync import Namespace

from .conftest import unique_name
from .support.watchdog import eventually

#: Lets strace show where something begins: files that nobody has, asked for.
MARKS = """
import os, sys
from shmsync.fast import WHY_NOT
def mark(name):
    assert (WHY_NOT is None) == (os.environ["SHMSYNC_FAST"] != "0"), WHY_NOT
    try:
        os.stat("/mark/" + name)
    except OSError:
        pass
"""

#: Every call that one exchange can serve, and those that only need the gate.
ALONE = (
    MARKS
    + """
import gc
from shmsync import Namespace, wait_all, wait_any
gc.disable()
with Namespace(sys.argv[1]) as ns:
    mutex, unfair = ns.mutex(), ns.mutex(fair=False)
    semaphore, empty = ns.semaphore(), ns.semaphore(None, 0)
    event, manual = ns.event(), ns.event(manual_reset=True, signaled=True)
    def once():
        for lock in (mutex, unfair, semaphore):
            lock.acquire(), lock.release()
            with lock:
                pass
        empty.acquire(timeout=0)
        mutex.acquire(timeout=5), mutex.release()
        event.set(), event.is_set(), event.wait(), event.set(), event.clear(), event.pulse()
        manual.wait(), manual.wait(timeout=0), manual.state(), semaphore.state()
        with wait_any([empty, semaphore]):
            pass
        with wait_all([mutex, semaphore, manual]):
            pass
        wait_all([mutex, empty], timeout=0)
    once()
    mark("begin")
    for _ in range(50):
        once()
    mark("end")
"""
)

#: Sleeps until a token comes.
SLEEPER = (
    MARKS
    + """
from shmsync import Namespace
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # no spinning
with Namespace(sys.argv[1], create=False) as ns:
    tokens = ns.semaphore("tokens")
    tokens.acquire(timeout=0.001)  # a thread's first sleep registers it, and counts the CPUs
    mark("begin")
    tokens.acquire()
    mark("end")
"""
)

#: Wakes who sleeps, when it is told to.
WAKER = (
    MARKS
    + """
from shmsync import Namespace
with Namespace(sys.argv[1], create=False) as ns:
    tokens = ns.semaphore("tokens")
    print("ready", flush=True)
    sys.stdin.readline()
    mark("begin")
    tokens.release()
    mark("end")
"""
)


def works() -> bool:
    """Is there a strace that may trace?"""
    strace = shutil.which("strace")
    command = [strace or "false", "-o", "/dev/null", "true"]
    return subprocess.run(command, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not works(), reason="no strace that may trace (Debian: apt-get install strace)"
)


@pytest.fixture(params=["fast", "cffi"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which module makes the calls in child processes."""
    monkeypatch.setenv("SHMSYNC_FAST", "1" if request.param == "fast" else "0")


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A namespace with no token in it."""
    with Namespace(unique_name(), engine="handoff") as made:
        yield made


Start = Callable[[str, str, Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a program under strace, which writes its system calls to a file."""
    started = []

    def begin(code: str, name: str, log: Path) -> subprocess.Popen[str]:
        log.touch()
        command = ["strace", "-f", "-o", str(log), sys.executable, "-c", code, name]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else ():
            child.kill()
        process.communicate()


def between_marks(log: Path) -> list[str]:
    """The names of the system calls between the two marks; "late" for a sleep whose time was up. A
    call that was interrupted to show another thread's is there once."""
    _, middle, _ = re.split(r".*/mark/(?:begin|end).*\n", log.read_text())
    lines = (line.split(maxsplit=1)[1] for line in middle.splitlines())
    calls = ["late" if "ETIMEDOUT" in line else line for line in lines]
    return [call.split("(")[0] for call in calls if not call.startswith(("<...", "---", "+++"))]


@pytest.mark.usefixtures("ways")
def test_nobody_in_the_way_there_is_no_system_call(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(ALONE, unique_name(), log)
    process.communicate()
    assert process.returncode == 0
    assert between_marks(log) == []


@pytest.mark.usefixtures("ways")
def test_one_system_call_for_a_sleep_and_one_for_a_wake(
    start: Start, tmp_path: Path, space: Namespace
) -> None:
    tokens = space.semaphore("tokens", 0)
    waker = start(WAKER, space.name, tmp_path / "waker")
    assert waker.stdout is not None
    assert waker.stdout.readline() == "ready\n"
    sleeper = start(SLEEPER, space.name, tmp_path / "sleeper")
    eventually(lambda: sleeps_in_futex(tmp_path / "sleeper"), "the sleep")
    waker.communicate("go\n")
    sleeper.communicate()
    assert (waker.returncode, sleeper.returncode, tokens.state().count) == (0, 0, 0)
    # A sleep of a second ends, to look whether somebody has died. On one CPU, whoever waits gives
    # way before he sleeps, unless that was for nothing a moment ago.
    slept = [each for each in between_marks(tmp_path / "sleeper") if each != "late"]
    assert slept in (["futex"], ["sched_yield", "futex"])
    assert between_marks(tmp_path / "waker") == ["futex"]


def sleeps_in_futex(log: Path) -> bool:
    """Has strace seen the beginning of a sleep after the mark?"""
    _, mark, after = log.read_text().rpartition("/mark/begin")
    return mark != "" and "futex(" in after


@pytest.mark.usefixtures("ways")
def test_the_marks_are_seen(start: Start, tmp_path: Path) -> None:
    """A call between them is, too."""
    process = start(MARKS + "mark('begin'), os.getppid(), mark('end')", "", tmp_path / "log")
    process.communicate()
    assert between_marks(tmp_path / "log") == ["getppid"]
