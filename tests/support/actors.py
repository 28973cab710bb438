"""Actors: real processes that a test drives one call at a time.

    actor = Actor("A", namespace)
    actor.make("lock", "mutex", "the lock")
    actor.method("lock", "acquire", timeout=0)          # a call that does not block
    actor.start("method", "lock", "acquire")            # one that may
    actor.until_blocked()
    ...
    assert actor.finish() == Acquired.ACQUIRED

Errors that a call raises in the actor are raised again here, as the same class. Every wait for an
answer is bounded: an actor that does not answer is killed, and the test fails by name.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shmsync import errors

from . import actor_main
from .peek import is_blocked
from .watchdog import PATIENCE, eventually

ROOT = Path(__file__).parents[2]


def error_of(name: str, message: str) -> BaseException:
    """The exception that an actor reports."""
    for module in (errors, builtins, actor_main):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found(message)
    return AssertionError(f"the actor raised {name}: {message}")


class ActorThread:
    """One thread of an actor. ``Actor`` itself is the main one."""

    actor: Actor

    def __init__(self, actor: Actor, name: str) -> None:
        self.actor = actor
        self.name = name
        self.tid = 0
        self._pending: int | None = None

    def start(self, op: str, *args: object, **kwargs: object) -> None:
        """Starts a call and does not wait for it."""
        assert self._pending is None, f"{self!r} is still busy"
        self._pending = self.actor.send(self.name, op, args, kwargs)

    def finish(self, patience: float = PATIENCE) -> Any:
        """The value of the call that was started, or its error."""
        assert self._pending is not None, f"{self!r} has nothing to finish"
        reply = self.actor.reply(self._pending, patience)
        self._pending = None
        if "error" in reply:
            raise error_of(reply["error"], reply["message"])
        return reply["ok"]

    def call(self, op: str, *args: object, **kwargs: object) -> Any:
        """A whole call."""
        self.start(op, *args, **kwargs)
        return self.finish()

    def method(self, key: str, method: str, *args: object, **kwargs: object) -> Any:
        """A call of a handle's method."""
        return self.call("method", key, method, *args, **kwargs)

    def make(self, key: str, kind: str, *args: object, **options: object) -> bool:
        """``key`` becomes ``namespace.<kind>(...)``; was the object created?"""
        return bool(self.call("make", key, kind, *args, **options))

    def wait_any(self, *keys: str, timeout: float | None = 0, alert: str | None = None) -> Any:
        """``wait_any`` on handles by key: a dict, or None."""
        return self.call("wait", keys, False, timeout, alert)

    def wait_all(self, *keys: str, timeout: float | None = 0, alert: str | None = None) -> Any:
        """``wait_all`` on handles by key: a dict, or None."""
        return self.call("wait", keys, True, timeout, alert)

    def busy(self) -> bool:
        """Has the call that was started not finished yet?"""
        assert self._pending is not None
        return not self.actor.has_reply(self._pending)

    def blocked(self) -> bool:
        """Does the call sleep in a wait at this moment?"""
        return self.busy() and is_blocked(self.actor.namespace, self.actor.pid, self.tid)

    def until_blocked(self) -> None:
        """Returns once the call sleeps in a wait; fails the test if it finishes instead."""
        eventually(lambda: self.blocked() or not self.busy(), f"{self!r} blocks or finishes, which")
        if not self.busy():
            pytest.fail(f"{self!r} should be blocked, but finished with {self.finish()!r}")

    def end(self) -> None:
        """Ends the thread (not the process) and returns when it is gone."""
        self.actor.reply(self.actor.send(self.name, "end", (), {}), PATIENCE)

    def __repr__(self) -> str:
        return f"thread {self.name} of actor {self.actor.label}"


class Actor(ActorThread):
    """A process, and its main thread."""

    def __init__(self, label: str, namespace: str) -> None:
        super().__init__(self, "main")
        self.label = label
        self.namespace = namespace
        self._replies: dict[int, dict[str, Any]] = {}
        self._unread = b""
        self._sent: list[str] = []  # what was asked for; request n is element n - 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.actor_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            bufsize=0,
        )
        self.pid = self.process.pid

    def ready(self) -> Actor:
        """Waits until the process runs and has attached; after this, make calls."""
        self.tid = self.reply(0, PATIENCE)["ok"]
        self.call("attach", self.namespace, create=False)
        return self

    def thread(self, name: str) -> ActorThread:
        """Starts a further thread in the process."""
        thread = ActorThread(self, name)
        thread.tid = self.reply(self.send(name, "thread", (), {}), PATIENCE)["ok"]
        return thread

    def exit(self, code: int = 0) -> int:
        """Ends the process in an orderly way; its exit status."""
        self.send("main", "exit", (code,), {})
        return self.gone()

    def kill(self) -> int:
        """Ends the process with SIGKILL; returns when it is gone."""
        self.process.send_signal(signal.SIGKILL)
        return self.gone()

    def gone(self) -> int:
        """Waits for the process to end; its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.discard()
            pytest.fail(f"actor {self.label} did not end within {PATIENCE:.0f} s")

    def discard(self) -> None:
        """Leaves no process and no pipe behind, whatever state the actor is in."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    # ---- the protocol ----

    def send(
        self, thread: str, op: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> int:
        """Sends a request; its number."""
        self._sent.append(f"{op}{args} on thread {thread}")
        number = len(self._sent)
        request = {"id": number, "thread": thread, "op": op, "args": args, "kwargs": kwargs}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        return number

    def has_reply(self, number: int) -> bool:
        """Has this request been answered?"""
        self._read(0)
        return number in self._replies

    def reply(self, number: int, patience: float) -> dict[str, Any]:
        """The answer to a request; kills the actor and fails the test if there is none in time."""
        deadline = time.monotonic() + patience
        while number not in self._replies:
            left = deadline - time.monotonic()
            if left <= 0:
                self.discard()
                asked = self._sent[number - 1] if number else "start"
                pytest.fail(f"actor {self.label}: no answer to {asked} in {patience:.0f} s")
            self._read(left)
        return self._replies.pop(number)

    def _read(self, timeout: float) -> None:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], timeout)[0]:
            return
        data = os.read(fd, 65536)
        if not data:
            pytest.fail(
                f"actor {self.label} ended ({self.process.wait(PATIENCE)}) without an answer"
            )
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            reply = json.loads(line)
            self._replies[reply["id"]] = reply
