"""What the tasks of all suites share: loops of calls, words in shared memory, and looks whether
somebody sleeps."""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat

from shmsync_tools.bench.model import HangError
from shmsync_tools.bench.worker import Fd

Call = Callable[[], object]

WORDS_BYTES = 4096
#: Seconds after which somebody who should sleep is said not to.
ASLEEP_SECONDS = 10
#: Loops that a measurement is cut into, so that who else runs for a moment spoils one of them only.
PARTS = 5


# ---- loops ---------------------------------------------------------------------------------------


def _loop(calls: Sequence[Call], thing: object) -> Callable[[int], int]:
    """A loop around some calls, which gives the ns that so many rounds of it take. A method of the
    thing is called as programs call it, with the look-up of its name. (Made anew each time: the
    interpreter adapts a loop's code to what it calls.)"""
    names = {"thing": thing, "repeat": repeat, "now": time.perf_counter_ns}
    body = ["pass"]
    for i, call in enumerate(calls):
        method = getattr(call, "__name__", "")
        names[f"call_{i}"] = call
        is_written_out = thing is not None and getattr(thing, method, None) == call
        body.append(f"thing.{method}()" if is_written_out else f"call_{i}()")
    lines = "".join(f"        {line}\n" for line in body)
    source = f"def loop(times, {', '.join(f'{name}={name}' for name in names)}):\n"
    source += (
        f"    begin = now()\n    for _ in repeat(None, times):\n{lines}    return now() - begin\n"
    )
    exec(source, names)
    loop: Callable[[int], int] = names["loop"]  # type: ignore[assignment]
    return loop


def nanoseconds(calls: Sequence[Call], loop_ms: float, thing: object = None) -> float:
    """Of some calls, one after the other: the median of some loops of about that length together.
    What the loop itself takes is subtracted. ``thing``: what they are methods of, if a program
    would call them so."""
    empty, loop = _loop((), None), _loop(calls, thing)
    times, took = 1, loop(1)
    while took < loop_ms * 1e6 / PARTS / 2:
        times *= 2
        took = loop(times)
    times = max(1, round(times * loop_ms * 1e6 / PARTS / took))
    parts = (loop(times) - empty(times) for _ in range(PARTS))
    return max(statistics.median(parts), 0) / times


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value that this fraction of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def spread_of_times(nanos: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in us."""
    return {
        "p50": statistics.median(nanos) / 1e3,
        "p99": quantile(nanos, 0.99) / 1e3,
        "max": max(nanos) / 1e3,
    }


# ---- words in shared memory ----------------------------------------------------------------------


@contextmanager
def shared_words() -> Iterator[Fd]:
    """Memory to be passed to workers, which see it through ``words``."""
    fd = os.memfd_create("shmsync-bench-words")
    try:
        os.truncate(fd, WORDS_BYTES)
        yield Fd(fd)
    finally:
        os.close(fd)


def mapped(fd: Fd) -> mmap.mmap:
    """Shared memory in this process. Closes the descriptor."""
    mapping = mmap.mmap(fd.number, WORDS_BYTES)
    os.close(fd.number)
    return mapping


def words(fd: Fd) -> memoryview:
    """Shared memory as 64-bit integers. Closes the descriptor."""
    return memoryview(mapped(fd)).cast("q")


def spin_until(seen: memoryview, word: int, value: int) -> None:
    """Until a word has that value. Lets others run meanwhile, so it also works on one core."""
    while seen[word] != value:
        os.sched_yield()


# ---- who sleeps ----------------------------------------------------------------------------------


def _state(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def _threads(folder: str, but: int) -> list[str]:
    return [thread for thread in os.listdir(folder) if thread != str(but)]


def is_asleep(pid: int, but: int = 0) -> bool:
    """Do all threads of a process sleep, but for one of them?"""
    folder = f"/proc/{pid}/task"
    try:
        return all(_state(f"{folder}/{thread}/stat") == "S" for thread in _threads(folder, but))
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False


def wait_until_asleep(pid: int, but: int = 0) -> None:
    """Until all threads of a process sleep, but for one of them: two looks in a row, so that one
    who was just on his way from one lock to the next is not taken for one who waits. Raises
    ``HangError`` if they do not."""
    looks, deadline = 0, time.monotonic() + ASLEEP_SECONDS
    while looks < 2:
        looks = looks + 1 if is_asleep(pid, but) else 0
        os.sched_yield()
        if time.monotonic() > deadline:
            raise HangError(f"does not sleep within {ASLEEP_SECONDS} s")


def cpu_ns(pid: int, but: int = 0) -> int:
    """The time that the threads of a process have run, but for one of them, in ns: schedstat is
    finer than the ticks of stat."""
    total = 0
    folder = f"/proc/{pid}/task"
    for thread in _threads(folder, but):
        with open(f"{folder}/{thread}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total
