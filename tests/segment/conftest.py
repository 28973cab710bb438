"""A bound that fails one test, before the watchdog ends the whole run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmsync import Namespace

from ..conftest import unique_name
from ..support.checkers import path_of
from ..support.watchdog import PATIENCE, eventually


@pytest.fixture(autouse=True)
def _interrupted(request: pytest.FixtureRequest) -> Iterator[None]:
    """A call that hangs but lets signals through, as all must, becomes a failure by name."""
    marker = request.node.get_closest_marker("seconds")
    seconds = marker.args[0] * 0.8 if marker else PATIENCE

    def interrupt(_number: int, _frame: object) -> None:
        pytest.fail(f"the test hangs: interrupted after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def mapped() -> int:
    """How many mappings of segments this process has, once it has left what it can leave."""
    Namespace(unique_name("sweep"), capacity=1, threads=1).close()
    return Path("/proc/self/maps").read_text().count("/dev/shm/shmsync-")


@pytest.fixture(autouse=True)
def _nothing_mapped() -> Iterator[None]:
    """Nothing stays mapped after a test: what does is owned, or its threads have not ended."""
    before = mapped()
    yield
    eventually(lambda: mapped() <= before, "all segments are unmapped")


@pytest.fixture
def place() -> Iterator[Path]:
    """The file of a name that nobody uses; whatever the test puts there is removed."""
    path = Path(path_of(unique_name("place")))
    yield path
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
