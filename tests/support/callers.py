"""Threads of the test's own process that make calls for it, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import shmsync

from .watchdog import PATIENCE, eventually


class Caller:
    """A thread that makes calls for the test."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.answers: SimpleQueue[object] = SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while call := self.calls.get():
            try:
                answer = call()
            except Exception as error:
                answer = error
            self.answers.put(answer)

    def do(self, call: Callable[[], object]) -> Any:
        """What the call gives or raises there."""
        self.calls.put(call)
        answer = self.answers.get(timeout=PATIENCE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """Returns when the kernel has forgotten the thread."""
        self.calls.put(None)
        task = Path(f"/proc/self/task/{self.thread.native_id}")
        eventually(lambda: not task.exists(), "the end of a thread")


def own_id(namespace: shmsync.Namespace, thread: Caller) -> int:
    """The thread's owner id, as a mutex shows it that it owns."""
    mutex = thread.do(lambda: namespace.mutex(owned=True))
    owner = mutex.state().owner
    thread.do(mutex.release)
    mutex.close()
    return int(owner)
