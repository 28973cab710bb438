"""What processes get from calls that overlap, on the real build, is what the model can explain.

Rounds of a few short random calls: all processes begin at the same time; when all have returned,
the objects are read. So each round is a history of its own, with known states before and after.
SHMSYNC_LARGE=1 makes many more rounds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest

from shmsync.engine import Engine, Semantics

from ..conftest import unique_name
from .hammer import Hammer, random_call
from .history import explains

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
ROUNDS = int(
    os.environ.get("SHMSYNC_ROUNDS", "20000" if os.environ.get("SHMSYNC_LARGE") else "250")
)
HANDS, CALLS = 4, 4
OBJECTS = {
    "a mutex": ("mutex",),
    "a semaphore": ("semaphore",),
    "an auto event": ("auto",),
    "a manual event": ("manual",),
    "two auto events": ("auto", "auto"),
    "one of each": ("mutex", "semaphore", "auto"),
    "with a manual event": ("semaphore", "manual", "auto"),
}
#: What FSYNC gets right, one object at a time. (Its poll of a semaphore may miss a token.)
SIMPLE = ("a mutex", "an auto event", "a manual event")


def hammer(engine: Engine, kinds: Sequence[str], *, simple: bool, queued: bool) -> None:
    """All rounds; fails with the history of one that nothing explains."""
    random_ = random.Random(f"{SEED} {kinds}")
    hands = Hammer(unique_name("linear"), engine.name, kinds, HANDS)
    overlaps = 0
    try:
        for number in range(ROUNDS):
            plans = [
                [random_call(random_, kinds, simple=simple) for _ in range(CALLS)]
                for _ in range(HANDS)
            ]
            history = hands.round(plans)
            assert explains(history, queued=queued), (
                f"round {number}; again: SHMSYNC_SEED={SEED} pytest tests/linear -k"
                f" '{engine.name}'\n{history}"
            )
            records = [record for thread in history.threads for record in thread]
            overlaps += sum(a.begin < b.begin < a.end for a in records for b in records)
    finally:
        hands.close()
    print(f"SHMSYNC_SEED={SEED}: {ROUNDS} rounds of {HANDS} x {CALLS} calls, {overlaps} overlaps")
    assert overlaps


@pytest.mark.seconds(60 + ROUNDS / 20)
@pytest.mark.needs(
    Semantics.ATOMIC_WAIT_ALL
    | Semantics.EXACT_PULSE
    | Semantics.FIFO
    | Semantics.NO_BARGING
    | Semantics.ALERT_LAST
)
@pytest.mark.parametrize("objects", OBJECTS)
def test_overlapping_calls_are_explained(engine: Engine, objects: str) -> None:
    hammer(engine, OBJECTS[objects], simple=False, queued=True)


@pytest.mark.seconds(60 + ROUNDS / 20)
@pytest.mark.parametrize("objects", SIMPLE)
def test_overlapping_calls_on_one_object_are_explained(engine: Engine, objects: str) -> None:
    if engine.name == "esync":
        pytest.skip("an object of ESYNC is two halves that do not change at one instant: F41")
    hammer(engine, OBJECTS[objects], simple=True, queued=bool(engine.semantics & Semantics.FIFO))
