"""What an engine must still do when it has been mended: a failure that goes away because nothing
works any more would show nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial

from shmsync_tools.stage import (
    Call,
    Object,
    Stage,
    State,
    clear,
    pulse,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

TIMED_OUT = -errno.ETIMEDOUT


class Everything:
    """One object of each kind, and how each is signaled."""

    def __init__(self, stage: Stage, *, signaled: bool) -> None:
        self.mutex = stage.mutex("M")
        self.semaphore = stage.semaphore("S", int(signaled), maximum=1)
        self.auto = stage.event("X", signaled=signaled)
        self.manual = stage.event("E", manual=True, signaled=signaled)

    def others(self) -> list[tuple[Object, Call]]:
        """All but the mutex, which is signaled from the beginning."""
        return [
            (self.semaphore, release(self.semaphore)),
            (self.auto, set_(self.auto)),
            (self.manual, set_(self.manual)),
        ]

    def all(self) -> list[Object]:
        """All four."""
        return [self.mutex, self.semaphore, self.auto, self.manual]


def is_free(stage: Stage, mutex: Object) -> bool:
    """Is it nobody's, and not abandoned?"""
    state = stage.states()[mutex.name]
    return (state.owner, state.count, state.abandoned) == (None, 0, False)


def alone(stage: Stage) -> bool:
    """One thread, on objects that nobody else wants."""
    it = Everything(stage, signaled=True)
    polls = [wait(each, timeout=0) for each in (*it.all(), *it.all())]
    full = [release(it.semaphore), release(it.semaphore), clear(it.manual)]
    a = stage.thread("A", *polls, *full, wait(it.manual, timeout=0), *[unlock(it.mutex)] * 2)
    stage.start()
    a.run()
    codes = [result.code for result in a.results]
    return (
        a.state is State.DONE
        and codes[:8] == [0, 0, 0, 0, 0, TIMED_OUT, TIMED_OUT, 0]
        and codes[8:12] == [0, -errno.EOVERFLOW, 1, TIMED_OUT]
        and is_free(stage, it.mutex)
    )


def at_once(stage: Stage) -> bool:
    """A wait for all of what is signaled."""
    it = Everything(stage, signaled=True)
    a = stage.thread("A", wait(*it.all(), all=True))
    stage.start()
    a.run()
    found = stage.states()
    return (
        a.state is State.DONE
        and (found["M"].owner, found["M"].count) == (a.number, 1)
        and (found["S"].count, found["X"].signaled, found["E"].signaled) == (0, False, True)
    )


def after_a_sleep(stage: Stage, number: int, *, all_of_them: bool) -> bool:
    """A wait that ends when somebody signals an object: for any of it and a mutex that another
    thread keeps, or for all of it and a mutex that is free."""
    it = Everything(stage, signaled=False)
    awaited, signal = it.others()[number]
    w = stage.thread("W", wait(awaited, it.mutex, all=all_of_them))
    s = stage.thread("S", *([] if all_of_them else [wait(it.mutex)]), signal)
    stage.start()
    if not all_of_them:
        s.until_call(1)
    w.run()
    slept = w.state is State.SLEEPING
    s.run()
    w.run()
    return slept and w.state is State.DONE


def after_a_release(stage: Stage, *, all_of_them: bool) -> bool:
    """A wait for a mutex (and an event that is set) that ends when its owner releases it."""
    it = Everything(stage, signaled=True)
    awaited = [it.mutex, it.auto] if all_of_them else [it.mutex]
    o = stage.thread("O", wait(it.mutex), unlock(it.mutex))
    w = stage.thread("W", wait(*awaited, all=all_of_them), unlock(it.mutex))
    stage.start()
    o.until_call(1)
    w.run()
    slept = w.state is State.SLEEPING
    o.run()
    w.run()
    return slept and w.state is State.DONE and is_free(stage, it.mutex)


def after_a_death(stage: Stage) -> bool:
    """A wait for a mutex whose owner dies."""
    m = stage.mutex("M")
    o = stage.thread("O", wait(m))
    w = stage.thread("W", wait(m))
    k = stage.thread("K", sweep())
    stage.start()
    o.run()
    w.run()
    slept = w.state is State.SLEEPING
    o.kill()
    k.run()
    w.run()
    return slept and w.state is State.DONE and w.results[0].abandoned == 1


def pulsed(stage: Stage) -> bool:
    """A pulse that the waiter looks at in time."""
    e = stage.event("E", manual=True)
    w = stage.thread("W", wait(e))
    p = stage.thread("P", pulse(e))
    stage.start()
    w.run()
    p.until("yield")
    w.run()
    p.run()
    return w.state is State.DONE and not stage.states()["E"].signaled


def complaints(engine: str) -> Iterator[str]:
    """What does not work."""
    checks: dict[str, Callable[[Stage], bool]] = {
        "one thread alone": alone,
        "wait-all at once": at_once,
        "an owner's death": after_a_death,
        "a pulse": pulsed,
    }
    for how in (False, True):
        label = "wait-all" if how else "wait-any"
        checks[f"{label} after a release"] = partial(after_a_release, all_of_them=how)
        for number in range(3):
            checks[f"{label} after signal {number}"] = partial(
                after_a_sleep, number=number, all_of_them=how
            )
    for name, check in checks.items():
        with Stage(engine) as stage:
            if not check(stage):
                yield name
