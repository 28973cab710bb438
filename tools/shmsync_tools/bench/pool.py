"""The coordinator's side of the workers: starts them, gives them tasks, kills those that hang."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from shmsync_tools.bench import leftovers, worker
from shmsync_tools.bench.model import HangError, TaskError

STDERR = 2
#: How long an idle worker may take to end.
END_SECONDS = 5


class Worker:
    """One worker process. A task is a function at the top level of a module; it gets a
    ``Conversation`` before its own arguments."""

    def __init__(self, output: int) -> None:
        ours, theirs = worker.pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shmsync_tools.bench.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, leftovers.COORDINATOR: str(os.getpid())},
            )
        self._channel = worker.Channel(ours)
        self.busy = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def start(self, task: worker.Task, *arguments: object) -> None:
        """Starts a task."""
        assert not self.busy, f"{task} on a worker that has not finished"
        self.busy = True
        self._channel.say((task, arguments))

    def say(self, value: object = None) -> None:
        """Sends a value to the task's ``hear``."""
        self._channel.say(value)

    def hear(self, seconds: float) -> Any:
        """What the task says next. Raises ``HangError`` if it says nothing for that long."""
        kind, value = self._next(seconds)
        assert kind == "said", f"the task ended early, with {value!r}"
        return value

    def result(self, seconds: float) -> Any:
        """What the task returns. Raises ``HangError`` if it takes longer."""
        kind, value = self._next(seconds)
        assert kind == "done", f"the task is not over; it said {value!r}"
        return value

    def call(self, task: worker.Task, *arguments: object, seconds: float) -> Any:
        """Starts a task and waits for its result."""
        self.start(task, *arguments)
        return self.result(seconds)

    def _next(self, seconds: float) -> tuple[str, Any]:
        if not select.select([self._channel.socket], [], [], max(seconds, 0))[0]:
            raise HangError(f"hangs: nothing for {seconds:.3g} s")
        try:
            kind, value = self._channel.hear()
        except (EOFError, ConnectionResetError):
            raise TaskError(f"the process ended, {self._process.wait()}") from None
        if kind != "said":
            self.busy = False
        if kind == "failed":
            raise TaskError(value)
        return kind, value

    def kill(self) -> int:
        """Kills it (what it has forked goes with it). Returns the instant before, in ns of
        CLOCK_MONOTONIC."""
        before = time.monotonic_ns()
        self._process.kill()
        self._process.wait()
        self._channel.socket.close()
        return before

    def close(self) -> None:
        """Lets it end, and kills it if it does not."""
        if not self.busy:
            self._channel.socket.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
        self.kill()


class Pool:
    """Workers, started when they are first asked for and used again. A context manager: none
    outlives it. ``verbose``: what they print (tracebacks, complaints of multiprocessing's resource
    tracker) goes to standard error."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._workers: list[Worker] = []
        self._output = STDERR if verbose else subprocess.DEVNULL

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for each in self._workers:
            each.close()
        self._workers.clear()

    def workers(self, count: int) -> list[Worker]:
        """That many idle workers."""
        while len(self._workers) < count:
            self._workers.append(Worker(self._output))
        return self._workers[:count]

    def kill(self, victim: Worker) -> int:
        """Kills one; the next who asks gets a new one. Returns the instant before."""
        self._workers.remove(victim)
        return victim.kill()

    def discard_busy(self) -> None:
        """Kills those that have not finished their tasks."""
        for each in [each for each in self._workers if each.busy]:
            self.kill(each)
