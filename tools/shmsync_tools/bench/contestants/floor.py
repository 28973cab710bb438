"""What nobody can be faster than: the kernel's and the C library's own, called from a loop in C
(``native/bench/``, an optional module), and what Python takes to call anything."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from shmsync_tools.bench.measure import nanoseconds
from shmsync_tools.bench.model import AbsentError, Turn
from shmsync_tools.bench.pool import Pool
from shmsync_tools.bench.worker import Conversation

MODULE = "shmsync._bench"
#: The bytes of a robust mutex.
MUTEX_BYTES = 64


def module() -> Any:
    """The C module. Raises ``AbsentError``."""
    try:
        return importlib.import_module(MODULE)
    except ImportError as error:
        raise AbsentError(f"absent ({error}); built with shmsync from its source") from None


def address(memory: Any) -> int:
    """Where a writable buffer lies."""
    ffi = module().ffi
    return int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))


def checked(code: int) -> int:
    """The result of a loop, or the error that it stands for."""
    if code < 0:
        raise OSError(-code, "a loop of the C module failed")
    return code


def in_c(me: Conversation, loop_ms: float, function: str, *arguments: int) -> float:
    """Nanoseconds of one round of a loop in C, the loop itself subtracted."""
    lib = module().lib
    loop = partial(getattr(lib, function), *arguments)
    rounds, took = 64, 0
    while took < loop_ms * 1e6 / 8:
        rounds *= 2
        took = checked(loop(rounds))
    rounds = round(rounds * loop_ms * 1e6 / took)
    return max(checked(loop(rounds)) - checked(lib.bench_nothing(rounds)), 0) / rounds


def calls_of_nothing(me: Conversation, loop_ms: float) -> float:
    """Nanoseconds of two calls of a bound method written in C that does nothing."""
    call = ().__len__
    return nanoseconds((call, call), loop_ms)


#: Loops in C that stand beside a pair of calls: label, function, arguments, what it is.
LOOPS: tuple[tuple[str, str, tuple[int, ...], str], ...] = (
    ("C: futex semaphore", "bench_futex_semaphore", (), "down and up, without a system call"),
    ("C: pthread mutex", "bench_pthread_mutex", (0,), "lock and unlock, of one process"),
    ("C: robust mutex", "bench_pthread_mutex", (1,), "lock and unlock, robust and shared"),
    ("C: getpid", "bench_getpid", (), "one system call that does nothing"),
)
CALLS_OF_NOTHING = "Python: two calls"


def described() -> dict[str, str]:
    """All floors that stand beside a pair of calls, with what they are."""
    return {CALLS_OF_NOTHING: "of bound C methods that do nothing"} | {
        label: text for label, _, _, text in LOOPS
    }


def turns(pool: Pool, loop_ms: float, patience: float, metric: str) -> dict[str, Turn]:
    """The floors of a pair of calls."""

    def turn(task: Callable[..., float], *arguments: object) -> Turn:
        def run() -> dict[str, float]:
            if task is in_c:
                module()
            return {metric: pool.workers(1)[0].call(task, loop_ms, *arguments, seconds=patience)}

        return run

    found = {CALLS_OF_NOTHING: turn(calls_of_nothing)}
    for label, function, arguments, _ in LOOPS:
        found[label] = turn(in_c, function, *arguments)
    return found
