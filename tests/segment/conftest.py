"""A bound that fails one test, before the watchdog ends the whole run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ..support.watchdog import PATIENCE


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
