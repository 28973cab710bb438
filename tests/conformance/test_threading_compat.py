"""The handles are drop-ins: the same calls on the classes of ``threading`` and on ours give the
same.

Results are compared by their truth, errors by their class (ours may be subclasses). Where ours
differ on purpose, both sides are pinned in the last part.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shmsync import Namespace

Call = Callable[[Any], object]

NAN, INFINITE, HUGE = math.nan, math.inf, threading.TIMEOUT_MAX * 2

#: Arguments of ``acquire`` that never block, on a lock that another thread holds too.
NON_BLOCKING: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((False,), {}),
    ((), {"blocking": False}),
    ((False, -1), {}),
    ((), {"timeout": 0}),
    ((), {"timeout": 0.01}),
    ((True, 0.01), {}),
    ((False,), {"timeout": 0}),
    ((False,), {"timeout": 1}),
    ((), {"timeout": -2}),
    ((), {"timeout": -0.5}),
    ((), {"timeout": NAN}),
    ((), {"timeout": HUGE}),
    ((), {"timeout": INFINITE}),
    ((), {"timeout": "1"}),
]
#: Arguments that take a free lock, and would wait for one that is not.
BLOCKING: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((True,), {}),
    ((), {"blocking": True}),
    ((), {"timeout": -1}),
    ((True, -1), {}),
    ((), {"timeout": 100}),
    ((1, 100.5), {}),
]


def outcome(call: Call, on: object) -> object:
    """The truth of a call's value, or the class of its error."""
    try:
        return bool(call(on))
    except Exception as error:
        return type(error)


def same(call: Call, theirs: object, ours: object) -> object:
    """Makes the call on both; fails unless they agree. What came of it."""
    expected, got = outcome(call, theirs), outcome(call, ours)
    if isinstance(expected, type):
        assert isinstance(got, type), f"theirs raised {expected}, ours gave {got}"
        assert issubclass(got, expected)
    else:
        assert got == expected
    return expected


def method(name: str) -> Call:
    """A call of a method, whose value does not count: it is ours, or None."""
    return lambda on: getattr(on, name)() or True


def acquire(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A call of ``acquire``."""
    return lambda lock: lock.acquire(*args, **kwargs)


# ---- RLock and Mutex ----


@pytest.mark.parametrize(("args", "kwargs"), NON_BLOCKING + BLOCKING)
def test_free_mutex_is_acquired_as_an_rlock_is(
    ns: Namespace, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs, ours = threading.RLock(), ns.mutex()
    acquired = same(acquire(args, kwargs), theirs, ours)
    release = same(lambda lock: lock.release() or True, theirs, ours)
    assert release is (True if acquired is True else RuntimeError)


@pytest.mark.parametrize(("args", "kwargs"), NON_BLOCKING)
def test_held_mutex_refuses_as_an_rlock_does(
    ns: Namespace, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs, ours = threading.RLock(), ns.mutex()
    held, give_up = threading.Event(), threading.Event()

    def hold() -> None:
        with theirs, ours:
            held.set()
            give_up.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    try:
        assert same(acquire(args, kwargs), theirs, ours) is not True
        assert same(lambda lock: lock.release(), theirs, ours) is RuntimeError
    finally:
        give_up.set()
        holder.join()


def test_mutex_is_released_as_often_as_it_was_acquired(ns: Namespace) -> None:
    theirs, ours = threading.RLock(), ns.mutex()
    for call in ("acquire", "acquire", "release", "acquire", "release", "release", "release"):
        last = same(method(call), theirs, ours)
    assert last is RuntimeError


def test_with_holds_a_mutex_for_the_block_and_nests(ns: Namespace) -> None:
    for lock in (threading.RLock(), ns.mutex()):
        with lock as entered, lock:
            assert entered
            assert lock.acquire(blocking=False)
            lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        with pytest.raises(KeyError), lock:
            raise KeyError
        with pytest.raises(RuntimeError):
            lock.release()


# ---- Semaphore ----

#: A semaphore with a negative timeout polls in ``threading`` (see below).
SEMAPHORE_CALLS = [
    (args, kwargs)
    for args, kwargs in NON_BLOCKING
    if not any(isinstance(t, float) and math.isnan(t) for t in kwargs.values())
    and not any(isinstance(t, int | float) and t < 0 for t in [*args[1:], *kwargs.values()])
    and kwargs.get("timeout") not in (HUGE, INFINITE, "1")
]


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize(("args", "kwargs"), SEMAPHORE_CALLS)
def test_semaphore_is_acquired_as_theirs(
    ns: Namespace, tokens: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    theirs, ours = threading.Semaphore(tokens), ns.semaphore(None, tokens)
    for _ in range(tokens + 1):
        same(acquire(args, kwargs), theirs, ours)
    left = ours.state().count
    for _ in range(left + 1):
        same(acquire((False,), {}), theirs, ours)
    assert ours.state().count == 0


@pytest.mark.parametrize("timeout", [HUGE, INFINITE, "1"])
def test_empty_semaphore_refuses_the_timeouts_that_theirs_refuses(
    ns: Namespace, timeout: object
) -> None:
    call = acquire((), {"timeout": timeout})
    error = same(call, threading.Semaphore(0), ns.semaphore(None, 0))
    assert error in (OverflowError, TypeError)


@pytest.mark.parametrize("n", [-1, 0, 1, 3])
def test_semaphore_is_released_as_theirs(ns: Namespace, n: int) -> None:
    theirs, ours = threading.Semaphore(0), ns.semaphore(None, 0)
    same(lambda sem: sem.release(n) or True, theirs, ours)
    for _ in range(5):
        same(acquire((False,), {}), theirs, ours)


def test_semaphore_with_a_maximum_is_a_bounded_semaphore(ns: Namespace) -> None:
    theirs, ours = threading.BoundedSemaphore(2), ns.semaphore(None, 2, maximum=2)
    for call in ("release", "acquire", "acquire", "release", "release", "release"):
        last = same(method(call), theirs, ours)
    assert last is ValueError


def test_semaphore_with_less_than_no_tokens_is_refused(ns: Namespace) -> None:
    theirs = outcome(threading.Semaphore, -1)
    assert outcome(lambda initial: ns.semaphore(None, initial), -1) is theirs is ValueError


def test_with_holds_a_token_for_the_block(ns: Namespace) -> None:
    for sem in (threading.Semaphore(1), ns.semaphore(None, 1)):
        with sem:
            assert not sem.acquire(blocking=False)
        with pytest.raises(KeyError), sem:
            raise KeyError
        assert sem.acquire(blocking=False)


# ---- Event ----


@pytest.mark.parametrize("is_set", [False, True])
@pytest.mark.parametrize("args", [(0,), (0.01,), (-1,), (-5.5,)])
def test_manual_reset_event_is_waited_for_as_theirs(
    ns: Namespace, args: tuple[Any, ...], is_set: bool
) -> None:
    theirs, ours = threading.Event(), ns.event(manual_reset=True, signaled=is_set)
    if is_set:
        theirs.set()
    assert same(lambda event: event.wait(*args), theirs, ours) is is_set
    assert same(lambda event: event.wait(timeout=args[0]), theirs, ours) is is_set
    assert same(lambda event: event.is_set(), theirs, ours) is is_set


@pytest.mark.parametrize("timeout", [HUGE, INFINITE, "1"])
def test_event_refuses_the_timeouts_that_theirs_refuses(ns: Namespace, timeout: object) -> None:
    theirs, ours = threading.Event(), ns.event(manual_reset=True)
    error = same(lambda event: event.wait(timeout), theirs, ours)
    assert error in (OverflowError, TypeError)


def test_event_that_is_set_ends_a_wait_without_a_timeout(ns: Namespace) -> None:
    theirs, ours = threading.Event(), ns.event(manual_reset=True)
    for call in ("set", "wait", "set", "wait", "clear", "clear"):
        same(method(call), theirs, ours)
        same(lambda event: event.is_set(), theirs, ours)


# ---- what differs on purpose ----


def test_none_as_timeout_waits_for_ever_on_a_mutex_too(ns: Namespace) -> None:
    assert outcome(acquire((), {"timeout": None}), threading.RLock()) is TypeError
    assert outcome(acquire((), {"timeout": None}), ns.mutex()) is True
    assert outcome(acquire((), {"timeout": None}), threading.Semaphore(1)) is True
    assert outcome(acquire((), {"timeout": None}), ns.semaphore(None, 1)) is True


@pytest.mark.parametrize("timeout", [-2, -0.5])
def test_negative_timeout_of_a_semaphore_is_an_error_like_that_of_a_lock(
    ns: Namespace, timeout: float
) -> None:
    assert outcome(acquire((), {"timeout": timeout}), threading.Semaphore(0)) is False
    assert outcome(acquire((), {"timeout": timeout}), ns.semaphore(None, 0)) is ValueError


def test_nan_is_an_error_everywhere(ns: Namespace) -> None:
    of_threading = outcome(lambda event: event.wait(NAN), threading.Event())
    assert of_threading is (ValueError if sys.version_info >= (3, 14) else False)
    for call, on in (
        (acquire((), {"timeout": NAN}), ns.mutex()),
        (acquire((), {"timeout": NAN}), ns.semaphore(None, 0)),
        (lambda event: event.wait(NAN), ns.event()),
    ):
        assert outcome(call, on) is ValueError


def test_set_and_clear_return_the_state_before(ns: Namespace) -> None:
    event = ns.event()
    assert [event.set(), event.set(), event.clear(), event.clear()] == [False, True, True, False]
    assert threading.Event().set() is None  # type: ignore[func-returns-value]
