"""The small programs whose interleavings are explored, by name.

Each function puts two to five threads and one to three objects on a stage. ``relaxed`` programs are
those that every engine has to get right: one object at a time, no pulse, nobody dies. What the
others show of ``fsync`` is expected, and named by its number in the lab's catalogue.
"""

from __future__ import annotations

from collections.abc import Callable

from shmsync_tools.stage import (
    SOME_TIME,
    Stage,
    clear,
    end,
    pulse,
    release,
    set_,
    sweep,
    unlock,
    wait,
)

Program = Callable[[Stage], None]


def two_waiters_two_releases(stage: Stage) -> None:
    """Two waiters and two releases on one semaphore."""
    s = stage.semaphore("S")
    stage.thread("A", wait(s))
    stage.thread("B", wait(s))
    stage.thread("C", release(s))
    stage.thread("D", release(s))


def waiter_and_two_releases(stage: Stage) -> None:
    """One waiter and two releases."""
    s = stage.semaphore("S")
    stage.thread("A", wait(s))
    stage.thread("B", release(s))
    stage.thread("C", release(s))


def releases_at_the_maximum(stage: Stage) -> None:
    """Two releases where there is room for one, and a wait that makes room."""
    s = stage.semaphore("S", count=1, maximum=2)
    stage.thread("A", release(s))
    stage.thread("B", release(s))
    stage.thread("C", wait(s))


def contenders_with_recursion(stage: Stage) -> None:
    """Two contenders for a mutex, one of them twice."""
    m = stage.mutex("M")
    stage.thread("A", wait(m), wait(m), unlock(m), unlock(m))
    stage.thread("B", wait(m), unlock(m))


def three_contenders(stage: Stage) -> None:
    """Three contenders for a mutex."""
    m = stage.mutex("M")
    for name in "ABC":
        stage.thread(name, wait(m), unlock(m))


def set_against_timeout(stage: Stage) -> None:
    """A set against the timeout of a waiter on an auto-reset event."""
    e = stage.event("E")
    stage.thread("A", wait(e, timeout=SOME_TIME))
    stage.thread("B", set_(e))


def set_and_clear_against_poll(stage: Stage) -> None:
    """Set and clear of a manual-reset event, against two polls."""
    e = stage.event("E", manual=True)
    stage.thread("A", set_(e), clear(e))
    stage.thread("B", wait(e, timeout=0), wait(e, timeout=0))


def any_of_two(stage: Stage) -> None:
    """Two waits for any of two semaphores, and a release of each."""
    s, t = stage.semaphore("S"), stage.semaphore("T")
    stage.thread("A", wait(s, t), wait(s, t))
    stage.thread("B", release(s))
    stage.thread("C", release(t))


def poll_beside_a_taker(stage: Stage) -> None:
    """Two tokens, a poll and a wait: neither can ever find the semaphore empty (F31)."""
    s = stage.semaphore("S", count=2)
    stage.thread("A", wait(s, timeout=0))
    stage.thread("B", wait(s))


def all_against_any(stage: Stage) -> None:
    """A wait for all that is cut short, against a waiter on one of its objects (F1, F2)."""
    x, y = stage.event("X", signaled=True), stage.event("Y", signaled=True)
    stage.thread("A", wait(x, y, all=True))
    stage.thread("B", wait(x))
    stage.thread("C", clear(y))


def pulse_against_waiter(stage: Stage) -> None:
    """A pulse, against a waiter that may be asleep (F18)."""
    e = stage.event("E", manual=True)
    stage.thread("A", wait(e))
    stage.thread("B", pulse(e))


def owner_dies(stage: Stage) -> None:
    """An owner who may die, a contender, and the sweeper."""
    m = stage.mutex("M")
    stage.thread("A", wait(m), unlock(m))
    stage.thread("B", wait(m, timeout=SOME_TIME))
    stage.thread("S", sweep())


def owner_dies_unswept(stage: Stage) -> None:
    """An owner who may die, and a contender who has to find out for himself."""
    m = stage.mutex("M")
    stage.thread("A", wait(m), unlock(m))
    stage.thread("B", wait(m))


def event_against_any_waiter(stage: Stage) -> None:
    """Set, pulse and reset of an auto-reset event, against two who wait for it."""
    e = stage.event("E")
    stage.thread("A", wait(e, timeout=SOME_TIME))
    stage.thread("B", wait(e, timeout=SOME_TIME))
    stage.thread("C", set_(e), pulse(e), clear(e))


def event_against_all_waiter(stage: Stage) -> None:
    """Set, pulse and reset of an auto-reset event, against one who waits for it and for a token."""
    e, s = stage.event("E"), stage.semaphore("S")
    stage.thread("A", wait(e, s, all=True, timeout=SOME_TIME))
    stage.thread("B", release(s))
    stage.thread("C", pulse(e), set_(e), clear(e))


def pulse_against_any_and_all(stage: Stage) -> None:
    """A pulse of a manual-reset event, against one who waits for it and one who waits for more."""
    e, s = stage.event("E", manual=True), stage.semaphore("S", count=1)
    stage.thread("A", wait(e, timeout=SOME_TIME))
    stage.thread("B", wait(e, s, all=True, timeout=SOME_TIME))
    stage.thread("C", pulse(e))


def opposite_wait_alls(stage: Stage) -> None:
    """Two who wait for both semaphores, in opposite order, and a releaser."""
    s, t = stage.semaphore("S"), stage.semaphore("T")
    stage.thread("A", wait(s, t, all=True))
    stage.thread("B", wait(t, s, all=True))
    stage.thread("C", release(s), release(t))


def any_and_polls_against_ordered_sets(stage: Stage) -> None:
    """A wait and a poll for any of two events, against sets of the first and then the second."""
    x, y = stage.event("X"), stage.event("Y")
    stage.thread("A", wait(x, y))
    stage.thread("B", wait(x, y, timeout=0))
    stage.thread("C", set_(x), set_(y))


def all_against_any_of_a_shared_object(stage: Stage) -> None:
    """One who waits for two semaphores and one who waits for one of them."""
    s, t = stage.semaphore("S"), stage.semaphore("T", count=1)
    stage.thread("A", wait(s, t, all=True, timeout=SOME_TIME))
    stage.thread("B", wait(s, timeout=SOME_TIME))
    stage.thread("C", release(s))


def timeout_against_hand_over(stage: Stage) -> None:
    """An owner hands a mutex over, against the timeout of who waits for it."""
    m = stage.mutex("M")
    stage.thread("A", wait(m), unlock(m))
    stage.thread("B", wait(m, timeout=SOME_TIME), unlock(m))


def abandoned_in_a_wait_all(stage: Stage) -> None:
    """An owner who ends, against one who waits for his mutex and a token."""
    m, s = stage.mutex("M"), stage.semaphore("S")
    stage.thread("A", wait(m), release(s), end())
    stage.thread("B", wait(m, s, all=True))


def set_against_waiter(stage: Stage) -> None:
    """A set against one who waits for ever."""
    e = stage.event("E")
    stage.thread("A", wait(e))
    stage.thread("B", set_(e))


def hand_over_to_one_who_ends(stage: Stage) -> None:
    """A set against two who wait, of whom one ends at once."""
    e = stage.event("E")
    stage.thread("A", wait(e), end())
    stage.thread("B", wait(e, timeout=SOME_TIME))
    stage.thread("C", set_(e))


def taken_behind_the_gate(stage: Stage) -> None:
    """A token that is taken behind the gate, as the second of two objects, against a poll of it."""
    s, t = stage.semaphore("S", count=1), stage.semaphore("T")
    stage.thread("A", wait(t, s))
    stage.thread("B", wait(s, timeout=0))


def wait_all_before_wait_any(stage: Stage) -> None:
    """A token that completes a wait for all, against one who only waits for that token."""
    s, t = stage.semaphore("S"), stage.semaphore("T", count=1)
    stage.thread("A", wait(s, t, all=True))
    stage.thread("B", wait(s))
    stage.thread("C", release(s))


def timeout_and_a_second_wait(stage: Stage) -> None:
    """Two waits of one thread, of which the first may time out while a sweeper is in the gate."""
    e = stage.event("E")
    stage.thread("A", wait(e, timeout=SOME_TIME), wait(e, timeout=SOME_TIME))
    stage.thread("B", set_(e))
    stage.thread("S", sweep())


def reset_after_a_death(stage: Stage) -> None:
    """A set event and a mutex whose owner may die, one who waits for both, and a reset."""
    m, e, z = stage.mutex("M"), stage.event("E", signaled=True), stage.semaphore("Z")
    stage.thread("A", wait(m))
    stage.thread("B", wait(m, e, all=True))
    stage.thread("C", release(z), clear(e))


def poll_after_a_death(stage: Stage) -> None:
    """The same, with a poll that might rob the one who waits for both."""
    m, e, z = stage.mutex("M"), stage.event("E", signaled=True), stage.semaphore("Z")
    stage.thread("A", wait(m))
    stage.thread("B", wait(m, e, all=True))
    stage.thread("C", release(z), wait(e, timeout=0))


def set_after_a_death(stage: Stage) -> None:
    """A mutex whose owner may die, a poll for it or an event, and a set."""
    m, x, z = stage.mutex("M"), stage.event("X"), stage.semaphore("Z")
    stage.thread("A", wait(m))
    stage.thread("B", wait(m, x, timeout=0))
    stage.thread("C", release(z), set_(x))


def poll_against_set_and_clear(stage: Stage) -> None:
    """A poll for any of two events, of which one is set before the other is reset: it succeeds."""
    x, y = stage.event("X", manual=True, signaled=True), stage.event("Y", manual=True)
    stage.thread("A", wait(y, x, timeout=0))
    stage.thread("B", set_(y))
    stage.thread("C", clear(x))


def poll_against_ordered_sets(stage: Stage) -> None:
    """A poll for any of two events that are set one after the other: the second never comes
    first."""
    x, y = stage.event("X"), stage.event("Y")
    stage.thread("A", wait(x, y, timeout=0))
    stage.thread("B", set_(x))
    stage.thread("C", set_(y))


def signal_and_wait_against_waiter(stage: Stage) -> None:
    """Two who take turns: one signals the other and waits, the other does what it waits for."""
    s, e = stage.semaphore("S"), stage.event("E")
    stage.thread("A", wait(s, signal=e))
    stage.thread("B", wait(e), release(s))


def alert_against_object(stage: Stage) -> None:
    """A token and an alert, against one who waits for either."""
    s, e = stage.semaphore("S"), stage.event("E")
    stage.thread("A", wait(s, timeout=SOME_TIME, alert=e))
    stage.thread("B", set_(e))
    stage.thread("C", release(s))


def two_sweepers(stage: Stage) -> None:
    """Two sweepers, one after the other behind the gate."""
    stage.mutex("M")
    stage.thread("A", sweep())
    stage.thread("B", sweep())


def five_at_two_semaphores(stage: Stage) -> None:
    """Five threads and two semaphores: more schedules than can all be run."""
    s, t = stage.semaphore("S"), stage.semaphore("T", count=1)
    stage.thread("A", wait(s), release(t), wait(t))
    stage.thread("B", wait(s), release(t))
    stage.thread("C", wait(t), release(s))
    stage.thread("D", release(s))
    stage.thread("E", wait(t, timeout=SOME_TIME))


def bargers(stage: Stage) -> None:
    """Three contenders for a mutex that need not be fair."""
    m = stage.mutex("M", fair=False)
    for name in "ABC":
        stage.thread(name, wait(m), unlock(m))


def barger_that_comes_back(stage: Stage) -> None:
    """One who takes a mutex again and again, against one who waits for it."""
    m = stage.mutex("M", fair=False)
    stage.thread("A", wait(m), unlock(m), wait(m), unlock(m))
    stage.thread("B", wait(m), unlock(m))


def barger_against_timeout(stage: Stage) -> None:
    """A wait with a deadline, for a mutex that is taken twice; nobody else may be forgotten."""
    m = stage.mutex("M", fair=False)
    stage.thread("A", wait(m), unlock(m))
    stage.thread("B", wait(m, timeout=SOME_TIME), unlock(m))
    stage.thread("C", wait(m), unlock(m))


def barger_against_wait_all(stage: Stage) -> None:
    """A mutex that need not be fair, in a wait for it and a token."""
    m, s = stage.mutex("M", fair=False), stage.semaphore("S")
    stage.thread("A", wait(m), unlock(m))
    stage.thread("B", wait(m, s, all=True), unlock(m))
    stage.thread("C", release(s))


RELAXED: dict[str, Program] = {
    each.__name__: each
    for each in (
        waiter_and_two_releases,
        two_waiters_two_releases,
        releases_at_the_maximum,
        contenders_with_recursion,
        three_contenders,
        set_against_timeout,
        set_and_clear_against_poll,
    )
}

FAULTY: dict[str, Program] = {
    each.__name__: each
    for each in (
        poll_beside_a_taker,
        all_against_any,
        pulse_against_waiter,
        any_of_two,
        poll_against_set_and_clear,
        poll_against_ordered_sets,
    )
}

#: What only an exact engine gets right.
EXACT: dict[str, Program] = {
    each.__name__: each
    for each in (
        event_against_any_waiter,
        event_against_all_waiter,
        pulse_against_any_and_all,
        opposite_wait_alls,
        any_and_polls_against_ordered_sets,
        all_against_any_of_a_shared_object,
        timeout_against_hand_over,
        set_against_waiter,
        hand_over_to_one_who_ends,
        taken_behind_the_gate,
        wait_all_before_wait_any,
        timeout_and_a_second_wait,
        signal_and_wait_against_waiter,
        reset_after_a_death,
        poll_after_a_death,
        set_after_a_death,
        abandoned_in_a_wait_all,
        alert_against_object,
    )
}

#: With a mutex that need not be fair.
BARGING: dict[str, Program] = {
    each.__name__: each
    for each in (
        bargers,
        barger_that_comes_back,
        barger_against_timeout,
        barger_against_wait_all,
    )
}

PROGRAMS: dict[str, Program] = {
    **RELAXED,
    **BARGING,
    **EXACT,
    **FAULTY,
    "owner_dies": owner_dies,
    "owner_dies_unswept": owner_dies_unswept,
    "two_sweepers": two_sweepers,
    "five_at_two_semaphores": five_at_two_semaphores,
}
