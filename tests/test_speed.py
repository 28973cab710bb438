"""The uncontended path of ``handoff`` beside that of ``fsync``: a ratio of two times, taken in
turns in one run. What each takes is printed (``-s``), never asserted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from shmsync import Namespace, wait_any
from shmsync.engine import by_name

from .conftest import unique_name

ROUNDS, CALLS = 15, 2000
RATIO_MAX = 1.1
PAIRS = ("mutex: acquire, release", "semaphore: acquire, release", "event: set, wait", "wait_any")


def pairs(namespace: Namespace) -> Iterator[Callable[[], object]]:
    """A call for each of PAIRS: what nobody else touches, taken and given back."""
    mutex, semaphore = namespace.mutex(), namespace.semaphore()
    event, other = namespace.event(), namespace.semaphore(None, 0)
    yield lambda: (mutex.acquire(), mutex.release())
    yield lambda: (semaphore.acquire(), semaphore.release())
    yield lambda: (event.set(), event.wait())
    yield lambda: (wait_any([semaphore, other]), semaphore.release())


def nanoseconds(call: Callable[[], object]) -> float:
    """Of one of CALLS calls."""
    begin = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - begin) / CALLS


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=PAIRS)
def test_uncontended_handoff_is_no_slower_than_fsync(number: int) -> None:
    if by_name("fsync").check() is not None:
        pytest.skip("fsync does not work here: no futex_waitv")
    with ExitStack() as stack:
        calls = {}
        for engine in ("handoff", "fsync"):
            namespace = stack.enter_context(Namespace(unique_name(), engine=engine))
            calls[engine] = list(pairs(namespace))[number]
        times = [{name: nanoseconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    best = {name: min(each[name] for each in times) for name in calls}
    ratio = best["handoff"] / best["fsync"]
    print(f"{PAIRS[number]}: {best['handoff']:.0f} ns, fsync {best['fsync']:.0f} ns: {ratio:.2f}")
    assert ratio <= RATIO_MAX
