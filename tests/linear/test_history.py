"""The search itself: histories that have an explanation, and the like that have none."""

from __future__ import annotations

import pytest

from ..model import Model
from .history import Call, History, explains, history, thread, took

SET, RESET, PULSE = Call("set", (0,)), Call("reset", (0,)), Call("pulse", (0,))
POLL, WAIT = Call("wait", (0,)), Call("wait", (0,), timeout=3e-9)  # 3 ns
ON, OFF = (1, None, False), (0, None, False)


def event(*, manual: bool = False, signaled: bool = False) -> Model:
    """One event."""
    model = Model()
    model.event(manual=manual, signaled=signaled)
    return model


def tokens(count: int) -> Model:
    """One semaphore."""
    model = Model()
    model.semaphore(count, 10)
    return model


def mutex(owner: int | None = None) -> Model:
    """One mutex."""
    model = Model()
    model.mutex(owner)
    return model


def two_events() -> Model:
    """X and Y."""
    model = event()
    model.event(manual=False)
    return model


BOTH = Call("wait", (0, 1), everything=True, timeout=1)
EXPLAINED: dict[str, History] = {
    "nothing": history(event(), [OFF]),
    "a wait that is served": history(
        event(), [OFF], thread((WAIT, 0, 9, took(0))), thread((SET, 3, 4, False))
    ),
    "two at the same time, the later first": history(
        event(), [OFF], thread((POLL, 0, 9, took(0))), thread((SET, 3, 4, False))
    ),
    "a wait that gives up before the set": history(
        event(), [ON], thread((WAIT, 0, 9, None)), thread((SET, 3, 12, False))
    ),
    "a pulse that comes before the wait": history(
        event(), [OFF], thread((WAIT, 0, 9, None)), thread((PULSE, 0, 4, False))
    ),
    "the first in the queue is served": history(
        tokens(0),
        [OFF],
        thread((WAIT, 0, 20, took(0))),
        thread((WAIT, 5, 30, None)),
        thread((Call("release", (0,)), 10, 11, 0)),
    ),
    "both at one instant": history(
        two_events(),
        [OFF, OFF],
        thread((BOTH, 0, 9, took(0))),
        thread((SET, 1, 2, False)),
        thread((Call("set", (1,)), 3, 4, False)),
    ),
    "an unlock that is refused": history(
        mutex(1), [(1, 1, False)], thread((Call("unlock", (0,)), 0, 1, "owner"))
    ),
    "a mutex that is handed over": history(
        mutex(1),
        [(1, 0, False)],
        thread((WAIT, 0, 9, took(0))),
        thread((Call("unlock", (0,)), 3, 4, 1)),
    ),
    "signal and wait, with another call between the two": history(
        two_events(),
        [OFF, OFF],
        thread((Call("wait", (1,), signal=0, timeout=1), 0, 9, took(0))),
        thread((WAIT, 0, 5, took(0)), (Call("set", (1,)), 6, 7, False)),
    ),
}
UNEXPLAINED: dict[str, History] = {
    "another state in the end": history(event(), [ON]),
    "a lost wake-up": history(
        event(), [ON], thread((SET, 0, 1, False)), thread((WAIT, 2, 9, None))
    ),
    "two take one token": history(
        tokens(1), [OFF], thread((POLL, 0, 9, took(0))), thread((POLL, 0, 9, took(0)))
    ),
    "a token that nobody gave": history(tokens(0), [OFF], thread((WAIT, 0, 9, took(0)))),
    "a pulse that leaves it set": history(event(), [ON], thread((PULSE, 0, 4, False))),
    "a wait that took, and the token is still there": history(
        tokens(0), [ON], thread((WAIT, 0, 9, took(0))), thread((Call("release", (0,)), 3, 4, 0))
    ),
    "a token beside a waiter whose time is not up": history(
        tokens(0),
        [ON],
        thread((Call("wait", (0,), timeout=15e-9), 0, 20, None)),
        thread((Call("release", (0,)), 5, 6, 0)),
    ),
    "a wrong state before": history(event(), [ON], thread((SET, 0, 1, True))),
    "a wait-all of what was never set together": history(
        two_events(),
        [OFF, OFF],
        thread((BOTH, 0, 20, took(0))),
        thread((SET, 1, 2, False), (RESET, 3, 4, True), (Call("set", (1,)), 5, 6, False)),
    ),
    "a mutex that somebody else has": history(
        mutex(1), [(1, 0, False)], thread((WAIT, 0, 9, took(0))), thread()
    ),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_can_be_is_explained(name: str) -> None:
    assert explains(EXPLAINED[name]), EXPLAINED[name]


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_what_cannot_be_is_not(name: str) -> None:
    assert not explains(UNEXPLAINED[name])


def test_without_queues_a_wait_is_one_instant() -> None:
    for name in ("a wait that is served", "two at the same time, the later first"):
        assert explains(EXPLAINED[name], queued=False), name
    for name in ("two take one token", "a lost wake-up", "a token that nobody gave"):
        assert not explains(UNEXPLAINED[name], queued=False), name


def test_a_history_can_be_read() -> None:
    text = str(EXPLAINED["signal and wait, with another call between the two"])
    assert "A  wait_any(Y, timeout=1000 ms; signal X before) -> Result(index=0" in text
    assert text.startswith("before: ((0, None, False), (0, None, False))")
