"""Who waits on what, read without locks from a segment, and whether they really sleep.

A thread publishes its wait just before it sleeps. "Blocked" therefore means both: the wait is
published, and the kernel says that the thread sleeps (state S in /proc).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import shmsync
from shmsync._native import ffi, lib

from .watchdog import eventually


@dataclass(frozen=True)
class Waiter:
    """A thread that has published a wait."""

    pid: int
    tid: int
    objects: tuple[int, ...]

    def sleeps(self) -> bool:
        """Is the thread in an interruptible sleep?"""
        return thread_state(self.pid, self.tid) == "S"


def thread_state(pid: int, tid: int) -> str:
    """The kernel's state letter of a thread, empty if there is no such thread."""
    try:
        stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


class Peek:
    """A read-only view of a namespace's segment."""

    def __init__(self, namespace: str) -> None:
        fd = os.open(f"/dev/shm/shmsync-{namespace}", os.O_RDONLY)
        try:
            peek, why = ffi.new("struct ss_peek **"), ffi.new("uint32_t *")
            result = lib.ss_peek_open(fd, peek, why)
            assert result == 0, f"cannot look at {namespace}: {result}, reason {why[0]}"
            self._peek: Any = peek[0]
        finally:
            os.close(fd)

    def __enter__(self) -> Peek:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lib.ss_peek_close(self._peek)

    def waiters(self) -> Iterator[Waiter]:
        """All threads that have published a wait."""
        header = ffi.new("struct ss_peek_header *")
        thread, process = ffi.new("struct ss_peek_thread *"), ffi.new("struct ss_peek_process *")
        lib.ss_peek_header(self._peek, header)
        for slot in range(header.threads_end):
            assert lib.ss_peek_thread(self._peek, slot, thread) == 0
            if not thread.used or not thread.wait_kind:
                continue
            assert lib.ss_peek_process(self._peek, thread.process, process) == 0
            yield Waiter(process.pid, thread.tid, tuple(thread.waits[0 : thread.wait_count]))

    def waiter_count(self, slot: int) -> int:
        """How many threads wait on an object, as inspection counts them."""
        found = ffi.new("struct ss_peek_object *")
        assert lib.ss_peek_object(self._peek, slot, found) == 0
        return int(found.waiters)

    def registered(self) -> set[int]:
        """Thread ids of all registered threads, dead ones too until they are reaped."""
        header, thread = ffi.new("struct ss_peek_header *"), ffi.new("struct ss_peek_thread *")
        lib.ss_peek_header(self._peek, header)
        tids = set()
        for slot in range(header.threads_end):
            assert lib.ss_peek_thread(self._peek, slot, thread) == 0
            if thread.used:
                tids.add(int(thread.tid))
        return tids


def is_blocked(namespace: str, pid: int, tid: int) -> bool:
    """Has this thread published a wait, and does it sleep?"""
    with Peek(namespace) as peek:
        waits = any((w.pid, w.tid) == (pid, tid) for w in peek.waiters())
    return waits and thread_state(pid, tid) == "S"


def until_waiting(handle: shmsync.Handle, count: int) -> None:
    """Returns once exactly ``count`` threads sleep in a wait on the handle's object."""

    def settled() -> bool:
        with Peek(handle.namespace.name) as peek:
            waiters = [w for w in peek.waiters() if handle.slot in w.objects]
            counted = peek.waiter_count(handle.slot)
        return counted == len(waiters) == count and all(w.sleeps() for w in waiters)

    eventually(settled, f"{count} sleeping waiters on {handle!r}")
