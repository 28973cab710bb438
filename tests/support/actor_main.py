"""The program of an actor: a process that does what it is told, one JSON line at a time.

    {"id": 3, "thread": "main", "op": "method", "args": ["lock", "acquire"], "kwargs": {}}
    {"id": 3, "ok": 1}    or    {"id": 3, "error": "NotOwnerError", "message": "..."}

Calls run on named threads, "main" being the process's main thread (only that one sees signals). The
lines are read by a further thread, so that an actor whose threads all block still notices that its
standard input was closed, and goes away.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import pickle
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import shmsync

Request = dict[str, Any]


class HandlerError(Exception):
    """What the actor's signal handler raises."""


def plain(value: object) -> object:
    """A call's value as JSON can say it."""
    match value:
        case shmsync.WaitResult():
            return {
                "index": value.index,
                "slot": value.handle.slot,
                "abandoned": bool(value.abandoned),
                "alerted": bool(value.alerted),
            }
        case shmsync.SemaphoreState():
            return {"count": value.count, "maximum": value.maximum}
        case shmsync.MutexState():
            return {"count": value.count, "owner": value.owner, "abandoned": value.abandoned}
        case shmsync.EventState():
            return {"manual_reset": value.manual_reset, "signaled": value.signaled}
        case _:
            return value


def lines_of(fd: int) -> Iterator[bytes]:
    """Lines of a file descriptor. (A thread that sits in ``sys.stdin`` would upset an orderly
    exit.)"""
    rest = b""
    while data := os.read(fd, 65536):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def only_the_main_thread_gets_signals() -> None:
    """For the other threads. Else a signal may be noted by one of them while the main thread, which
    is to act on it, is already past what it should interrupt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class Worker:
    """A named thread, which runs calls one after the other."""

    def __init__(self, driver: Driver, thread: threading.Thread | None = None) -> None:
        self.requests: SimpleQueue[Request | None] = SimpleQueue()
        self.driver = driver
        self.tid = 0
        if thread is None:
            started = threading.Event()
            thread = threading.Thread(target=self.run, args=(started,), daemon=True)
            thread.start()
            started.wait()
        else:
            self.tid = threading.get_native_id()

    def run(self, started: threading.Event | None = None) -> None:
        """Runs requests until None."""
        self.tid = threading.get_native_id()
        if started:
            only_the_main_thread_gets_signals()
            started.set()
        while True:
            try:
                request = self.requests.get()
            except (KeyboardInterrupt, HandlerError):  # came too late for the call it was meant for
                continue
            if request is None:
                return
            reply = self.driver.perform(request)
            self.driver.send(reply)


class Driver:
    """The actor's namespace, its handles by key, its threads by name, and the calls it
    understands."""

    def __init__(self) -> None:
        self.namespace: shmsync.Namespace | None = None
        self.handles: dict[str, Any] = {}
        self.main = Worker(self, threading.main_thread())
        self.workers = {"main": self.main}
        self.signals_seen = 0
        self.armed = False

    # ---- the protocol ----

    def send(self, reply: dict[str, object]) -> None:
        """One line, in one write: several threads reply."""
        os.write(1, json.dumps(reply).encode() + b"\n")

    def perform(self, request: Request) -> dict[str, object]:
        """The reply to one request."""
        try:
            operation = getattr(self, "do_" + request["op"])
            value = operation(*request["args"], **request["kwargs"])
            return {"id": request["id"], "ok": plain(value)}
        except SystemExit:
            raise
        except BaseException as error:  # Ctrl-C is an answer too
            reply = {"error": type(error).__name__, "message": str(error)}
            return {"id": request["id"], **reply}

    def read_requests(self) -> None:
        """Hands each line to its thread; closing the input ends the process."""
        only_the_main_thread_gets_signals()
        for line in lines_of(0):
            request = json.loads(line)
            if request["op"] == "thread":
                worker = self.workers[request["thread"]] = Worker(self)
                self.send({"id": request["id"], "ok": worker.tid})
            elif request["op"] == "end":
                self.end(self.workers.pop(request["thread"]))
                self.send({"id": request["id"], "ok": None})
            else:
                self.workers[request["thread"]].requests.put(request)
        os._exit(0)

    def end(self, worker: Worker) -> None:
        """Ends a thread and returns when the kernel has forgotten it (joining is not enough)."""
        worker.requests.put(None)
        while Path(f"/proc/self/task/{worker.tid}").exists():
            time.sleep(0.001)

    # ---- calls: namespaces and handles ----

    def do_attach(self, name: str, **options: Any) -> int:
        """Opens the namespace all later calls are about."""
        self.namespace = shmsync.Namespace(name, **options)
        return self.main.tid

    def do_make(self, key: str, kind: str, *args: Any, **options: Any) -> bool:
        """``key`` becomes ``namespace.<kind>(...)``; was it created?"""
        handle = getattr(self.namespace, kind)(*args, **options)
        self.handles[key] = handle
        return bool(handle.created)

    def do_pickle(self, key: str) -> str:
        """A handle as another process can take it."""
        return pickle.dumps(self.handles[key]).hex()

    def do_unpickle(self, key: str, pickled: str) -> None:
        """``key`` becomes the pickled handle."""
        self.handles[key] = pickle.loads(bytes.fromhex(pickled))

    def do_method(self, key: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of a handle."""
        return getattr(self.handles[key], method)(*args, **kwargs)

    def do_attribute(self, key: str, name: str) -> Any:
        """Reads an attribute of a handle."""
        return getattr(self.handles[key], name)

    def do_forget(self, key: str) -> None:
        """Drops the last reference to a handle."""
        del self.handles[key]

    # ---- calls: waits ----

    def argument(self, key: str) -> Any:
        """A handle, or what is none."""
        return None if key == "NULL" else self.handles[key]

    def do_wait(
        self, keys: Sequence[str], everything: bool, timeout: float | None, alert: str | None
    ) -> Any:
        """``wait_any`` or ``wait_all``."""
        wait = shmsync.wait_all if everything else shmsync.wait_any
        alert_handle = None if alert is None else self.handles[alert]
        return wait([self.argument(key) for key in keys], timeout, alert=alert_handle)

    def do_signal_and_wait(self, signal_key: str, wait_key: str, timeout: float | None) -> Any:
        """``signal_and_wait``."""
        signal, wait = self.argument(signal_key), self.argument(wait_key)
        return shmsync.signal_and_wait(signal, wait, timeout)

    def do_timed_wait(self, keys: Sequence[str], everything: bool, timeout: float) -> Any:
        """Like ``wait``, and the seconds it took."""
        before = time.monotonic()
        result = self.do_wait(keys, everything, timeout, None)
        return [plain(result), time.monotonic() - before]

    # ---- calls: signals, warnings, work ----

    def do_on_signal(self, number: int, action: str) -> None:
        """From now on this signal is counted ("count"), or also raises: always ("raise"), or once
        after ``armed`` was set ("raise if armed")."""

        def handler(_number: int, _frame: object) -> None:
            self.signals_seen += 1
            if action == "raise" or (action == "raise if armed" and self.armed):
                self.armed = False
                raise HandlerError

        signal.signal(number, handler)

    def do_signals_seen(self) -> int:
        """How many signals the handler has counted."""
        return self.signals_seen

    def do_with(self, key: str) -> list[str]:
        """Enters and leaves a handle as a context manager; the categories of the warnings it
        gave."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with self.handles[key]:
                pass
        return [warning.category.__name__ for warning in caught]

    def do_take_while_interrupted(self, how: str, keys: Sequence[str], tokens: int) -> int:
        """Makes a wait over and over, while a handler that raises interrupts it, until so many have
        succeeded. How many were interrupted."""
        handles = [self.handles[key] for key in keys]
        waits: dict[str, Callable[[], object]] = {
            "acquire": handles[-1].acquire,
            "wait_any": lambda: shmsync.wait_any(handles),
            "wait_all": lambda: shmsync.wait_all(handles),
        }
        # An iterator that calls the wait: Python looks for signals when a call returns, and here it
        # must not do that between the wait's return and the moment its result is in ``got``.
        outcomes = itertools.starmap(waits[how], itertools.repeat(()))
        taken = interrupted = 0
        while taken < tokens:
            got: list[object] = []
            try:
                self.armed = True
                got += itertools.islice(outcomes, 1)
                self.armed = False
            except HandlerError:  # the handler has disarmed itself, so from here on nothing raises
                interrupted += 1
            taken += len(got)
        return interrupted

    def do_enter_while_interrupted(self, key: str, times: int) -> int:
        """Enters and leaves a handle as a context manager over and over, until SIGALRM, whose
        handler raises, has interrupted that so often. How many blocks were entered."""
        handle = self.handles[key]
        entered = interrupted = 0
        signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
        while interrupted < times:
            try:
                self.armed = True
                with handle:
                    entered += 1
                    time.monotonic()  # Python looks for signals when a call returns
                    self.armed = False
            except HandlerError:
                interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        return entered

    def do_count_up(self, key: str, path: str, times: int) -> None:
        """Adds 1 to the number in a shared file, ``times`` times, each time holding the mutex."""
        mutex = self.handles[key]
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            for _ in range(times):
                with mutex:
                    (number,) = struct.unpack_from("q", shared)
                    struct.pack_into("q", shared, 0, number + 1)

    def do_exit(self, code: int) -> None:
        """Ends the process in an orderly way (on the main thread). There is no reply."""
        sys.exit(code)


def main() -> None:
    """Runs the main thread's calls."""
    driver = Driver()
    threading.Thread(target=driver.read_requests, daemon=True).start()
    driver.send({"id": 0, "ok": driver.main.tid})
    driver.main.run()


if __name__ == "__main__":
    main()
