"""What the tests of the benchmark share: a setup that does very little of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from shmsync_tools.bench import leftovers
from shmsync_tools.bench.contestants import Selection
from shmsync_tools.bench.model import Setup, Sizes
from shmsync_tools.bench.pool import Pool

TINY = Sizes(
    rounds=1,
    loop_ms=0.2,
    samples=3,
    seconds=0.01,
    patience=20,
    deaths=1,
    objects=(10, 100),
    waiters=(1, 5),
    processes=(1, 3),
    fan_out=(1, 5),
    contenders=(2,),
    wide=(2, 8),
)

MakeSetup = Callable[..., Setup]


@pytest.fixture(autouse=True)
def _swept() -> Iterator[None]:
    yield
    assert list(leftovers.left()) == [], "the benchmark left something behind"


@pytest.fixture
def setup() -> Iterator[MakeSetup]:
    """``setup("handoff", "multiprocessing", rounds=2)``: these engine and peers, and tiny sizes."""
    with Pool() as pool:

        def make(engine: str = "handoff", *peers: str, sizes: Sizes = TINY) -> Setup:
            return Setup(Selection([engine], peers), sizes, pool)

        yield make
