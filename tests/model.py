"""NT objects as plain Python: the dumb twin that every engine is compared with.

Each method is one instant. Threads are any hashable values; objects are numbers, so that a model
can be copied and compared. A wait that cannot succeed stays queued (``BLOCKED``) until another call
satisfies it, ``cancel`` ends it (its time is up), or its thread dies.

One list of waits in order of arrival stands for the queues of all objects: nothing ever re-queues,
so each object's own queue is that list without the waits on other things. And it is enough to try
all of a wait's objects after a change, not just the changed one: what was signaled before had no
waiter to take it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

RECURSION_MAX: Final = 2**32 - 1
COUNT_MAX: Final = 2**31 - 1
WAIT_MAX: Final = 64


class RefusedError(Exception):
    """The call was an error and changed nothing. ``args[0]`` says why: argument, limit or owner."""


def require(condition: bool, why: str = "argument") -> None:
    """Refuses the call unless the condition holds."""
    if not condition:
        raise RefusedError(why)


@dataclass(frozen=True)
class Result:
    """A wait that succeeded. ``index`` of the alert is the number of objects; of a wait-all, 0."""

    index: int
    abandoned: bool = False
    alerted: bool = False


BLOCKED: Final = Result(-1)  # no result yet


@dataclass
class Object:
    """``count`` is a semaphore's tokens, a mutex's recursion count, and 1 for an event that is
    set."""

    kind: Literal["semaphore", "mutex", "manual", "auto"]
    count: int
    maximum: int = 0
    owner: Hashable = None
    abandoned: bool = False

    def signaled_for(self, thread: Hashable) -> bool:
        """Could this thread's wait take it now?"""
        if self.kind == "mutex":
            return self.owner in (None, thread) and self.count < RECURSION_MAX
        return self.count > 0

    def take(self, thread: Hashable) -> bool:
        """Consumes what a successful wait consumes. True for a mutex whose last owner died."""
        abandoned, self.abandoned = self.abandoned, False
        if self.kind == "mutex":
            self.owner, self.count = thread, self.count + 1
        elif self.kind != "manual":
            self.count -= 1
        return abandoned


@dataclass
class Wait:
    """A queued wait. The alert is not among ``objects``."""

    objects: list[int]
    all: bool
    alert: int | None


@dataclass
class Model:
    """The objects of one namespace, the waits on them, and results that nobody has asked for
    yet."""

    objects: list[Object] = field(default_factory=list)
    waits: dict[Hashable, Wait] = field(default_factory=dict)
    results: dict[Hashable, Result] = field(default_factory=dict)

    def semaphore(self, initial: int, maximum: int = COUNT_MAX) -> int:
        """A new semaphore."""
        require(1 <= maximum <= COUNT_MAX and 0 <= initial <= maximum)
        return self._add(Object("semaphore", initial, maximum))

    def mutex(self, owner: Hashable = None, count: int = 1) -> int:
        """A new mutex, free or owned ``count`` times."""
        return self._add(Object("mutex", 0 if owner is None else count, owner=owner))

    def event(self, *, manual: bool, signaled: bool = False) -> int:
        """A new event."""
        return self._add(Object("manual" if manual else "auto", int(signaled)))

    def release(self, semaphore: int, n: int = 1) -> int:
        """Adds n tokens; gives the count before."""
        it, before = self.objects[semaphore], self.objects[semaphore].count
        require(n >= 1)
        require(before + n <= it.maximum, "limit")
        it.count += n
        self._serve()
        return before

    def unlock(self, mutex: int, thread: Hashable) -> int:
        """Releases a mutex once; gives the recursion count before."""
        it, before = self.objects[mutex], self.objects[mutex].count
        require(before > 0 and it.owner == thread, "owner")
        it.owner, it.count = thread if before > 1 else None, before - 1
        self._serve()
        return before

    def kill(self, mutex: int, owner: Hashable) -> None:
        """The owner died: the mutex is free and abandoned."""
        it = self.objects[mutex]
        require(it.count > 0 and it.owner == owner, "owner")
        it.owner, it.count, it.abandoned = None, 0, True
        self._serve()

    def set(self, event: int) -> bool:
        """Sets an event; gives whether it was set."""
        before, self.objects[event].count = self.objects[event].count, 1
        self._serve()
        return bool(before)

    def reset(self, event: int) -> bool:
        """Resets an event; gives whether it was set."""
        before, self.objects[event].count = self.objects[event].count, 0
        return bool(before)

    def pulse(self, event: int) -> bool:
        """Sets, serves whoever waits and resets, in one instant; gives whether the event was
        set."""
        before = self.set(event)
        self.reset(event)
        return before

    def wait(
        self, thread: Hashable, objects: Sequence[int], all: bool = False, alert: int | None = None
    ) -> Result:
        """Takes what it waits for, or queues."""
        everything = [*objects] if alert is None else [*objects, alert]
        require(1 <= len(objects) <= WAIT_MAX)
        require(not all or len(set(everything)) == len(everything))
        assert thread not in {**self.waits, **self.results}, "one wait at a time"
        self.waits[thread] = Wait([*objects], all, alert)
        self._try(thread, objects=True, alert=True)
        return self.result(thread)

    def signal_and_wait(self, thread: Hashable, signal: int, wait: int) -> Result:
        """Signals one object, then waits on the other. A signal that is refused means no wait."""
        match self.objects[signal].kind:
            case "semaphore":
                self.release(signal)
            case "mutex":
                self.unlock(signal, thread)
            case _:
                self.set(signal)
        return self.wait(thread, [wait])

    def result(self, thread: Hashable) -> Result:
        """The result of the thread's wait, once; ``BLOCKED`` while there is none."""
        return BLOCKED if thread in self.waits else self.results.pop(thread)

    def cancel(self, thread: Hashable) -> Result | None:
        """The wait's time is up: None, unless it already has a result, which wins."""
        return None if self.waits.pop(thread, None) else self.results.pop(thread)

    def die(self, thread: Hashable) -> None:
        """The thread ends: it waits no more, and what it owns is abandoned."""
        self.waits.pop(thread, None)
        self.results.pop(thread, None)
        for number, thing in enumerate(self.objects):
            if thing.count > 0 and thing.owner == thread:
                self.kill(number, thread)

    def _add(self, thing: Object) -> int:
        self.objects.append(thing)
        return len(self.objects) - 1

    def _serve(self) -> None:
        """Complete wait-alls first, then wait-anys and alerts, each in order of arrival."""
        for thread in [*self.waits]:
            self._try(thread, objects=self.waits[thread].all, alert=False)
        for thread in [*self.waits]:
            self._try(thread, objects=not self.waits[thread].all, alert=True)

    def _try(self, thread: Hashable, objects: bool, alert: bool) -> None:
        """Ends the thread's wait if its objects or else its alert, as far as asked for, allow
        it."""
        wait = self.waits[thread]
        ready = [o for o in wait.objects if self.objects[o].signaled_for(thread)] if objects else []
        took = ready[:1] if not wait.all else ready if ready == wait.objects else []
        if took:
            abandoned = [self.objects[o].take(thread) for o in took]
            self.results[thread] = Result(wait.objects.index(took[0]), any(abandoned))
        elif alert and wait.alert is not None and self.objects[wait.alert].signaled_for(thread):
            self.objects[wait.alert].take(thread)
            self.results[thread] = Result(len(wait.objects), alerted=True)
        if thread in self.results:
            del self.waits[thread]
