"""What the farm's programs agree on: the names, the numbers, and a file that they all write into.

The file, called the ledger, is plain shared memory that no program could write safely without the
locks. So it also proves them: two workers on one GPU, or a job done twice, would show in it.
"""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Self

GPUS = 4
LEASE = 3
WORKERS = 5
JOBS = 40
#: The worker that is killed, in the middle of booking its first job.
VICTIM = 2

QUIT = "quit"
LEDGER = "ledger"
HOLDING = "victim is holding the ledger"


def gpu(number: int) -> str:
    """Name of a GPU's mutex. Owning it is having the lease."""
    return f"gpu/{number}"


def job_event(worker: int) -> str:
    """Name of the event that gives a worker its next job."""
    return f"worker/{worker}/job"


def idle_event(worker: int) -> str:
    """Name of the event by which a worker asks for a job."""
    return f"worker/{worker}/idle"


def leased(job: int) -> list[int]:
    """The GPUs of a job: all but one, so that any two jobs want some GPU both."""
    return [number for number in range(GPUS) if number != job % GPUS]


class Ledger:
    """The file, as 64-bit words.

    ``lines[w]``, the jobs that worker w booked, and ``total`` belong together: whoever holds the
    ledger's mutex may change them, and leaves them equal. The rest is written by one program at a
    time: ``occupants[g]`` by who leases GPU g, ``assigned[w]`` by the coordinator, the others by
    worker w.
    """

    _TOTAL, _CLASHES, _OCCUPANTS, _WORKERS, _DONE = 0, 1, 8, 16, 64
    _SIZE = 8 * (_DONE + JOBS)

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, self._SIZE)
            self._map = mmap.mmap(fd, self._SIZE)
        finally:
            os.close(fd)
        self._bytes = memoryview(self._map)
        words = self._words = self._bytes.cast("Q")
        self.occupants = words[self._OCCUPANTS : self._OCCUPANTS + GPUS]
        fields = [words[self._WORKERS + 8 * i : self._WORKERS + 8 * i + WORKERS] for i in range(5)]
        self.assigned, self.lines, self.retries, self.told_ns, self.mended = fields
        self.done = words[self._DONE : self._DONE + JOBS]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        views = [self.occupants, self.assigned, self.lines, self.retries, self.told_ns, self.mended]
        for view in (*views, self.done, self._words, self._bytes):
            view.release()
        self._map.close()

    @property
    def total(self) -> int:
        """Jobs booked, the sum that must equal all lines."""
        return self._words[self._TOTAL]

    @total.setter
    def total(self, value: int) -> None:
        self._words[self._TOTAL] = value

    def has_booked(self, jobs: int) -> bool:
        """Whether at least so many jobs are booked."""
        return self.total >= jobs

    @property
    def clashes(self) -> int:
        """How often a worker found another one on a GPU that it had leased. Must stay 0."""
        return self._words[self._CLASHES]

    def occupy(self, numbers: list[int], worker: int) -> None:
        """A worker begins to use its GPUs: nobody may be on them."""
        for number in numbers:
            if self.occupants[number] != 0:
                self._words[self._CLASHES] += 1
            self.occupants[number] = worker + 1

    def vacate(self, numbers: list[int], worker: int) -> None:
        """A worker is done with its GPUs: nobody else may have come."""
        for number in numbers:
            if self.occupants[number] != worker + 1:
                self._words[self._CLASHES] += 1
            self.occupants[number] = 0
