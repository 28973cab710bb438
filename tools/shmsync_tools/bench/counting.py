"""How many instructions an operation takes, kernel's and ours, where the clock counts them.

A virtual machine started by ``tools/vm/run --icount`` has such a clock: a nanosecond is an
instruction. Loops are C's (``floor``) unless Python's calls are what is counted, and of all rounds
the least one counts: the others were interrupted by the timer. So a figure is exact, and the same
in every run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from typing import Any, Final

from shmsync import Handle, Namespace, Semaphore, wait_all, wait_any
from shmsync_tools.bench import floor

#: Rounds of which the least counts, after one that warms up. Each is short beside the 4 ms between
#: two ticks of the guest's timer.
ROUNDS: Final = 15
PAIRS, WAITS, TRIPS = 100, 20, 20
#: Seconds for the guest to become quiet in, before anything is counted. They pass at once there.
QUIET_SECONDS: Final = 5
#: Round trips before any are counted. Who gave way while the other began, which takes him
#: milliseconds, does not do so again for 32 times as long (engine_handoff.c).
WARM_UP_TRIPS: Final = 50_000

#: Seconds that two processes may take to play ping-pong.
PATIENCE: Final = 60

#: What is counted, in the order of the table.
MUTEX, SEMAPHORE, EVENT = "mutex: wait, release", "semaphore: wait, release", "event: set, wait"
SIZES = (2, 8, 64)
ANY = {size: f"wait for any of {size}, the last is ready" for size in SIZES}
ALL = {size: f"wait for all of {size}" for size in SIZES}
PING_PONG = "ping-pong of two processes on one cpu"
PING_PONG_ANY = "the same, each waits for any of 2"
IN_PYTHON = {
    "mutex": "in Python: mutex.acquire(), release()",
    "semaphore": "in Python: semaphore.acquire(), release()",
    "event": "in Python: event.set(), wait()",
    "any": "in Python: event.set(), wait_any() of 8",
    "all": "in Python: semaphore.release(), wait_all() of 8",
}
IN_C = (MUTEX, SEMAPHORE, EVENT, *ANY.values(), *ALL.values(), PING_PONG, PING_PONG_ANY)
OPERATIONS: Final = (*IN_C, *IN_PYTHON.values())

ENGINES = ("handoff", "fsync", "esync", "ntsync")
#: The driver without shmsync around it; what can be built of eventfds; what can be built of a futex
#: (as mutex, the C library's robust one).
DRIVER, EVENTFD, FUTEX = "/dev/ntsync", "eventfd", "futex"
CONTESTANTS: Final = (*ENGINES, DRIVER, EVENTFD, FUTEX)

#: What one thread pays for the parts, counted in C.
FLOORS: Final[dict[str, Callable[[int], int]]] = {
    "getpid": floor.getpid,
    "two futex calls (wakes nobody, does not sleep)": floor.futex_calls,
    "the same on a word of one process": partial(floor.futex_calls, shared=False),
    "eventfd write, read": floor.eventfd,
    "clock_gettime": floor.clock_gettime,
    "compare-and-swap": floor.compare_and_swap,
}
#: What Python itself has, counted in Python.
LOCKS: Final[dict[str, Callable[[], Any]]] = {
    "threading.RLock": threading.RLock,
    "multiprocessing.RLock": multiprocessing.RLock,
}


@dataclass(frozen=True)
class Counts:
    """Instructions per operation: by operation and contestant, and of the floors."""

    operations: dict[str, dict[str, int]]
    floors: dict[str, int]


def clock_counts_instructions() -> bool:
    """Does a nanosecond of this machine's clock pass with every instruction?"""
    try:
        least = min(floor.count_down(100_000) for _ in range(ROUNDS))
    except OSError:  # another architecture
        return False
    return abs(least - 200_000) < 200


def count(
    run: Callable[[int], int],
    rounds: int,
    empty: Callable[[int], int] = floor.nothing,
    warm_up: int = 0,
) -> int:
    """Instructions of one of ``rounds`` operations, those of the empty loop not counted; after
    ``warm_up`` operations, or as many as are counted."""
    run(warm_up or rounds)
    least = min(run(rounds) for _ in range(ROUNDS))
    loop = min(empty(rounds) for _ in range(ROUNDS))
    return round((least - loop) / rounds)


def _python_loop(first: Callable[[], object], second: Callable[[], object], rounds: int) -> int:
    begin = time.monotonic_ns()
    for _ in range(rounds):
        first()
        second()
    return time.monotonic_ns() - begin


def _empty_python_loop(rounds: int) -> int:
    begin = time.monotonic_ns()
    for _ in range(rounds):
        pass
    return time.monotonic_ns() - begin


def count_in_python(first: Callable[[], object], second: Callable[[], object]) -> int:
    """Instructions of two calls from Python, the interpreter's with them."""
    return count(partial(_python_loop, first, second), PAIRS, _empty_python_loop)


# ---- two processes ----


@contextmanager
def _child(body: Callable[[], object]) -> Iterator[None]:
    """A forked process that does its part meanwhile, and is gone in the end, whatever happens."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _partner_plays(body: Callable[[], object]) -> None:
    signal.alarm(PATIENCE)
    body()


@contextmanager
def _partner(body: Callable[[], object]) -> Iterator[None]:
    """A child that plays ping-pong. An alarm ends whoever is left waiting.

    Both are in a real-time class. There who is woken has his turn when who woke him sleeps;
    otherwise the scheduler decides so at times, and differently at others.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    signal.alarm(PATIENCE)
    try:
        with _child(lambda: _partner_plays(body)):
            yield
    finally:
        signal.alarm(0)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _spin() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


def _busy() -> AbstractContextManager[None]:
    """Keeps the machine from idling. The clock of an idle one jumps to when the next timer is due,
    be it the timeout of who waits for a broker that waits for a file of the host's."""
    return _child(_spin)


#: All trips of a ping-pong: what the partner makes at one go.
_ALL_TRIPS = WARM_UP_TRIPS + ROUNDS * TRIPS


def _engine_ping_pong(ns: Namespace, *besides: Handle) -> int:
    """Each waits for its semaphore, or what is besides it."""
    ping, pong = ns.semaphore(None, 0), ns.semaphore(None, 0)
    with _partner(lambda: floor.ping_pong([pong, *besides], ping, _ALL_TRIPS, first=False)):
        return count(
            partial(floor.ping_pong, [ping, *besides], pong, first=True),
            TRIPS,
            warm_up=WARM_UP_TRIPS,
        )


def _futex_ping_pong() -> int:
    with mmap(-1, 4) as memory, _partner(lambda: floor.futex_ping_pong(memory, 1, _ALL_TRIPS)):
        return count(partial(floor.futex_ping_pong, memory, 0), TRIPS, warm_up=WARM_UP_TRIPS)


def _eventfd_ping_pong() -> int:
    ping, pong = os.eventfd(0), os.eventfd(0)
    try:
        with _partner(lambda: floor.eventfd_ping_pong(pong, ping, 1, _ALL_TRIPS)):
            return count(
                partial(floor.eventfd_ping_pong, ping, pong, 0), TRIPS, warm_up=WARM_UP_TRIPS
            )
    finally:
        os.close(ping)
        os.close(pong)


# ---- contestants ----


def _engine_waits(ns: Namespace) -> Iterator[tuple[str, int]]:
    tokens = (ROUNDS + 1) * WAITS
    for size in SIZES:
        with ExitStack() as stack:
            any_of = [stack.enter_context(_closing(ns, 0)) for _ in range(size - 1)]
            any_of.append(stack.enter_context(_closing(ns, tokens)))
            yield ANY[size], count(partial(floor.wait, any_of), WAITS)
            all_of = [stack.enter_context(_closing(ns, tokens)) for _ in range(size)]
            yield ALL[size], count(partial(floor.wait, all_of, all_of_them=True), WAITS)


@contextmanager
def _closing(ns: Namespace, tokens: int) -> Iterator[Semaphore]:
    semaphore = ns.semaphore(None, tokens)
    try:
        yield semaphore
    finally:
        semaphore.close()


def _engine_in_python(ns: Namespace) -> dict[str, int]:
    mutex, semaphore, event = ns.mutex(), ns.semaphore(), ns.event()
    any_of = [*(ns.event() for _ in range(7)), event]
    all_of = [*(ns.semaphore(None, (ROUNDS + 1) * PAIRS) for _ in range(7)), semaphore]
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "mutex": (mutex.acquire, mutex.release),
        "semaphore": (semaphore.acquire, semaphore.release),
        "event": (event.set, event.wait),
        "any": (event.set, partial(wait_any, any_of)),
        "all": (semaphore.release, partial(wait_all, all_of)),
    }
    return {IN_PYTHON[name]: count_in_python(*calls[name]) for name in IN_PYTHON}


def of_engine(engine: str) -> dict[str, int]:
    """Every operation on a namespace of this engine."""
    with _busy():
        ns = Namespace(f"counting-{os.getpid()}", engine=engine, exclusive=True)
    with ns:
        return {
            MUTEX: count(partial(floor.wait_release, ns.mutex()), PAIRS),
            SEMAPHORE: count(partial(floor.wait_release, ns.semaphore()), PAIRS),
            EVENT: count(partial(floor.set_wait, ns.event()), PAIRS),
            **dict(_engine_waits(ns)),
            PING_PONG: _engine_ping_pong(ns),
            PING_PONG_ANY: _engine_ping_pong(ns, ns.event()),
            **_engine_in_python(ns),
        }


def of_driver() -> dict[str, int]:
    """The same calls of the kernel's driver, from C."""
    waits = {ANY[size]: count(partial(floor.driver_wait, size), WAITS) for size in SIZES}
    for size in SIZES:
        run = partial(floor.driver_wait, size, all_of_them=True)
        waits[ALL[size]] = count(run, WAITS)
    return {
        MUTEX: count(floor.driver_mutex, PAIRS),
        SEMAPHORE: count(floor.driver_semaphore, PAIRS),
        EVENT: count(floor.driver_event, PAIRS),
        **waits,
    }


def of_eventfd() -> dict[str, int]:
    """What eventfds can do of it: no mutex, and nothing for all."""
    pair = count(floor.eventfd, PAIRS)
    waits = {ANY[size]: count(partial(floor.eventfd_poll, size), WAITS) for size in SIZES}
    return {SEMAPHORE: pair, EVENT: pair, **waits, PING_PONG: _eventfd_ping_pong()}


def of_futex() -> dict[str, int]:
    """What a single word can do of it: nothing for several objects."""
    return {
        MUTEX: count(floor.robust_mutex, PAIRS),
        SEMAPHORE: count(floor.futex_semaphore, PAIRS),
        PING_PONG: _futex_ping_pong(),
    }


def of_floors() -> dict[str, int]:
    """The parts, and Python's own locks."""
    floors = {name: count(run, PAIRS) for name, run in FLOORS.items()}
    for name, make in LOCKS.items():
        lock = make()
        floors[name] = count_in_python(lock.acquire, lock.release)
    return floors


def _in_a_process_of_its_own(body: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Because a system call on a descriptor takes longer in a process that has several threads, as
    engines may have."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, json.dumps(body()).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise ChildProcessError("a process that counts has failed")
    counts: dict[str, int] = json.loads(text)
    return counts


def measure() -> Counts:
    """Everything, in a few seconds of the machine's time."""
    time.sleep(QUIET_SECONDS)
    bodies: dict[str, Callable[[], dict[str, int]]]
    bodies = {engine: partial(of_engine, engine) for engine in ENGINES}
    bodies |= {DRIVER: of_driver, EVENTFD: of_eventfd, FUTEX: of_futex}
    by_contestant = {name: _in_a_process_of_its_own(body) for name, body in bodies.items()}
    operations = {
        operation: {
            name: counts[operation] for name, counts in by_contestant.items() if operation in counts
        }
        for operation in OPERATIONS
    }
    return Counts(operations, _in_a_process_of_its_own(of_floors))
