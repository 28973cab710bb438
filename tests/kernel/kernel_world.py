"""Programs on the real driver. Each caller has a thread, in which it waits.

Nothing here depends on how long anything takes. That a wait is queued is seen in /proc: its thread
sleeps in the wait's ioctl. The driver wakes in the call that signals, so when that has returned,
who still sleeps was not woken. Deadlines are times of CLOCK_REALTIME, which is set by this program,
and stands still otherwise as far as deadlines matter: hence this runs in a virtual machine only.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ..support.watchdog import eventually
from . import ntsync
from .sequences import ALERT, LETTERS, OWNERS, QUEUED, TIMEOUT, Call, Step, Thing

#: Nanoseconds of CLOCK_REALTIME between two ticks of a program's clock.
TICK = 1000 * 10**9
_WAITS = {hex(ntsync.WAIT_ANY), hex(ntsync.WAIT_ALL)}


class Waiter:
    """A thread that waits for a caller, one wait after the other."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self._wait: Callable[[], str] | None = None
        self._go = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        task = f"/proc/self/task/{self._thread.native_id}"
        self._stat = os.open(f"{task}/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._place = _Place(task)

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._wait is None:
                return
            self.answer = self._wait()

    def begin(self, wait: Callable[[], str]) -> None:
        """Begins a wait. ``answer`` is what came of it, or None."""
        self.answer, self._wait = None, wait
        self._go.release()

    def is_settled(self) -> bool:
        """Has the wait returned, or does it sleep?"""
        return self.answer is not None or self._sleeps()

    def _sleeps(self) -> bool:
        """Asked twice where it is, since it could leave the ioctl, and then sleep elsewhere."""
        if not self._place.is_wait():
            return False
        state = os.pread(self._stat, 512, 0).rpartition(b")")[2].split()[0]
        return state == b"S" and self._place.is_wait()

    def interrupt(self) -> None:
        """Sends it a signal."""
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, signal.SIGUSR1)

    def end(self) -> None:
        """Ends the thread, which must not be in a wait."""
        self._wait = None
        self._go.release()
        self._thread.join()
        os.close(self._stat)
        self._place.close()


class _Place:
    """Where in the kernel a thread is: its system call, or where that is not told, the function
    that it sleeps in."""

    def __init__(self, task: str) -> None:
        try:
            self._fd = os.open(f"{task}/syscall", os.O_RDONLY | os.O_CLOEXEC)
            self._tells_calls = bool(os.pread(self._fd, 10, 0))
        except OSError:
            self._fd = os.open(f"{task}/wchan", os.O_RDONLY | os.O_CLOEXEC)
            self._tells_calls = False

    def is_wait(self) -> bool:
        """Is it in an ioctl that waits?"""
        text = os.pread(self._fd, 200, 0).decode()
        if self._tells_calls:  # "16 0x3 0xc0284e82 ...", or "running"
            return text.split()[2:3] != [] and text.split()[2] in _WAITS
        return text.startswith("ntsync")

    def close(self) -> None:
        """Closes its file."""
        os.close(self._fd)


class Waiters:
    """The threads of all callers, used by one program after the other."""

    def __init__(self) -> None:
        # A handler, so that the signal interrupts and does not kill; Python's do not restart calls.
        self._before = signal.signal(signal.SIGUSR1, lambda *_: None)
        self.of = {letter: Waiter() for letter, owner in OWNERS.items() if owner}

    def __enter__(self) -> Waiters:
        return self

    def __exit__(self, *_: object) -> None:
        for waiter in self.of.values():
            waiter.end()
        signal.signal(signal.SIGUSR1, self._before)


class KernelWorld:
    """The objects of a program in an instance of the driver of their own."""

    def __init__(self, things: Sequence[Thing], waiters: Waiters) -> None:
        self.things = things
        self.waiters = waiters
        self.queued: dict[str, int | None] = {}  # letter -> when its wait's time is up
        self.device = ntsync.Device()
        self.objects = [self._make(thing) for thing in things]
        # The same object again has another descriptor: it is the object that counts.
        self.twins = [os.dup(each.fd) for each in self.objects]
        self.began = time.clock_gettime_ns(time.CLOCK_REALTIME)
        self.now = 0

    def _make(self, thing: Thing) -> ntsync.File:
        match thing.kind:
            case "sem":
                return self.device.semaphore(thing.count, thing.maximum)
            case "mutex":
                return self.device.mutex(OWNERS[thing.owner or "Z"], thing.count)
            case kind:
                return self.device.event(manual=kind == "manual", signaled=bool(thing.count))

    def do(self, call: Call) -> Step:
        """Makes the call, and waits until everybody has returned or sleeps."""
        try:
            answer = self._answer(call)
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        woken = self._woken(call)
        return Step(call, answer, woken, tuple(self._states()))

    def _answer(self, call: Call) -> str:
        it = self.objects[call.objects[0]] if call.objects else None
        match call.what:
            case "any" | "all":
                return self._wait(call)
            case "make":
                assert call.thing
                self._make(call.thing).close()
            case "clock":
                assert call.by
                self.now = call.by
                time.clock_settime_ns(time.CLOCK_REALTIME, self.began + self.now * TICK + 1)
            case "interrupt":
                self.waiters.of[call.letter].interrupt()
            case _:
                assert it
                return self._change(it, call)
        return "ok"

    def _change(self, it: ntsync.File, call: Call) -> str:
        match it:
            case ntsync.Semaphore():
                return str(it.release(call.n))
            case ntsync.Mutex() if call.what == "unlock":
                return str(it.unlock(OWNERS[call.letter]))
            case ntsync.Mutex():
                it.kill(OWNERS[call.letter])
                return "ok"
            case _:
                return str(getattr(it, call.what)())

    # ---- waits ----

    def _wait(self, call: Call) -> str:
        if call.polls:
            return self._waited(call)
        waiter = self.waiters.of[call.letter]
        waiter.begin(lambda: self._waited(call))
        eventually(waiter.is_settled, f"that '{call}' returns or sleeps")
        if waiter.answer is None:
            self.queued[call.letter] = call.by
            return QUEUED
        return waiter.answer

    def _waited(self, call: Call) -> str:
        """What a wait returns, in words."""
        flags, deadline = 0, ntsync.FOREVER
        if call.polls:
            deadline = 0
        elif call.by is not None:
            flags, deadline = ntsync.REALTIME, self.began + call.by * TICK
        try:
            taken = self.device.wait(
                [*self._descriptors(call)],
                OWNERS[call.letter],
                deadline,
                all=call.what == "all",
                alert=0 if call.alert is None else self.twins[call.alert],
                flags=flags,
            )
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        if taken is None:
            return TIMEOUT
        # All of no objects are signaled, so an alert never ends that wait: its index is just 0.
        is_alert = call.alert is not None and taken.index == len(call.objects)
        what = ALERT if is_alert and (call.objects or call.what == "any") else str(taken.index)
        return what + (" abandoned" if taken.abandoned else "")

    def _descriptors(self, call: Call) -> Iterator[int]:
        seen: set[int] = set()
        for number in call.objects:
            yield self.twins[number] if number in seen else self.objects[number].fd
            seen.add(number)

    def _woken(self, call: Call) -> dict[str, str]:
        """Who has returned from a wait that was queued before the call."""
        woken = {}
        for letter, by in [*self.queued.items()]:
            if call.letter == letter and call.waits:
                continue
            waiter = self.waiters.of[letter]
            time_is_up = call.what == "clock" and by is not None and by <= self.now
            if time_is_up or (call.what == "interrupt" and call.letter == letter):
                eventually(lambda: waiter.answer is not None, f"the end of {letter}'s wait")  # noqa: B023
            eventually(waiter.is_settled, f"that {letter} returns or sleeps")
            if waiter.answer is not None:
                woken[letter] = waiter.answer
                del self.queued[letter]
        return woken

    # ---- looking ----

    def _states(self) -> Iterator[str]:
        for thing, it in zip(self.things, self.objects, strict=True):
            match it:
                case ntsync.Semaphore():
                    count, maximum = it.read()
                    assert maximum == thing.maximum
                    yield str(count)
                case ntsync.Mutex():
                    owner, count, abandoned = it.read()
                    assert (owner == 0) == (count == 0)
                    assert not (abandoned and count)
                    free = "abandoned" if abandoned else "free"
                    yield f"{LETTERS[owner]}*{count}" if count else free
                case ntsync.Event():
                    manual, signaled = it.read()
                    assert bool(manual) == (thing.kind == "manual")
                    yield str(signaled)

    def close(self) -> None:
        """Ends what still waits, and closes everything."""
        for letter in self.queued:
            self.waiters.of[letter].interrupt()
        for letter in self.queued:
            waiter = self.waiters.of[letter]
            eventually(lambda: waiter.answer is not None, "the end of a wait")  # noqa: B023
        for twin in self.twins:
            os.close(twin)
        for it in self.objects:
            it.close()
        self.device.close()
