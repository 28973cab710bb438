"""What nobody can be faster than: the kernel's and the C library's own, called from a loop in C
(``floor``, an optional module), and what Python takes to call anything."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from types import ModuleType

from shmsync_tools.bench.measure import PARTS, nanoseconds
from shmsync_tools.bench.model import AbsentError, Turn
from shmsync_tools.bench.pool import Pool
from shmsync_tools.bench.worker import Conversation


def loops() -> ModuleType:
    """The loops in C: the module ``floor``. Raises ``AbsentError``."""
    try:
        return importlib.import_module("shmsync_tools.bench.floor")
    except ImportError as error:
        raise AbsentError(f"absent ({error}); it is built with shmsync from its source") from None


def in_c(me: Conversation, loop_ms: float, function: str, *arguments: int) -> float:
    """Nanoseconds of one round of a loop in C, the loop itself subtracted."""
    floor = loops()
    loop = getattr(floor, function)
    rounds, took = 64, 0
    while took < loop_ms * 1e6 / PARTS / 2:
        rounds *= 2
        took = loop(*arguments, rounds)
    rounds = round(rounds * loop_ms * 1e6 / PARTS / took)
    times = (loop(*arguments, rounds) - floor.nothing(rounds) for _ in range(PARTS))
    return max(float(statistics.median(times)), 0) / rounds


def calls_of_nothing(me: Conversation, loop_ms: float) -> float:
    """Nanoseconds of two calls of a bound method written in C that does nothing."""
    call = [].reverse
    return nanoseconds((call, call), loop_ms)


#: Loops in C that stand beside a pair of calls: label, function, what it is.
LOOPS: tuple[tuple[str, str, str], ...] = (
    ("C: futex semaphore", "futex_semaphore", "down and up, without a system call"),
    ("C: pthread mutex", "plain_mutex", "lock and unlock, of one process"),
    ("C: robust mutex", "robust_mutex", "lock and unlock, robust and shared"),
    ("C: getpid", "getpid", "one system call that does nothing"),
)
CALLS_OF_NOTHING = "Python: two calls"


def described() -> dict[str, str]:
    """All floors that stand beside a pair of calls, with what they are."""
    return {CALLS_OF_NOTHING: "of bound C methods that do nothing"} | {
        label: text for label, _, text in LOOPS
    }


def turns(pool: Pool, loop_ms: float, patience: float, metric: str) -> dict[str, Turn]:
    """The floors of a pair of calls."""

    def turn(task: Callable[..., float], *arguments: object) -> Turn:
        def run() -> dict[str, float]:
            if task is in_c:
                loops()
            return {metric: pool.workers(1)[0].call(task, loop_ms, *arguments, seconds=patience)}

        return run

    found = {CALLS_OF_NOTHING: turn(calls_of_nothing)}
    for label, function, _ in LOOPS:
        found[label] = turn(in_c, function)
    return found
