"""Closing: what is refused afterwards, what goes on, what stays."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from shmsync import (
    Acquired,
    ClosedError,
    Handle,
    Namespace,
    NotFoundError,
    inspect,
    signal_and_wait,
    wait_all,
    wait_any,
)

from ..conftest import StartActors, unique_name
from ..support.checkers import check, path_of
from ..support.peek import until_waiting
from ..support.watchdog import PATIENCE, eventually
from .helpers import Child, collect, segment, users_of


def mapped(name: str) -> int:
    """How often this process has the namespace's segment mapped."""
    return Path("/proc/self/maps").read_text().count(path_of(name) + "\n")


# ---- what is refused ----

CALLS: dict[str, Callable[[Any], object]] = {
    "mutex.acquire": lambda ns: ns.mutex("m").acquire,
    "mutex.release": lambda ns: ns.mutex("m").release,
    "mutex.with": lambda ns: ns.mutex("m").__enter__,
    "mutex.state": lambda ns: ns.mutex("m").state,
    "semaphore.acquire": lambda ns: ns.semaphore("s").acquire,
    "semaphore.release": lambda ns: ns.semaphore("s").release,
    "semaphore.with": lambda ns: ns.semaphore("s").__enter__,
    "semaphore.state": lambda ns: ns.semaphore("s").state,
    "event.set": lambda ns: ns.event("e").set,
    "event.clear": lambda ns: ns.event("e").clear,
    "event.pulse": lambda ns: ns.event("e").pulse,
    "event.is_set": lambda ns: ns.event("e").is_set,
    "event.wait": lambda ns: ns.event("e").wait,
    "event.state": lambda ns: ns.event("e").state,
}


@pytest.mark.parametrize("label", CALLS)
def test_every_call_on_a_closed_handle_is_a_closed_error(label: str) -> None:
    with segment() as namespace:
        call: Any = CALLS[label](namespace)
        handle: Handle = call.__self__
        handle.close()
        handle.close()
        assert handle.closed
        assert "closed" in repr(handle)
        with pytest.raises(ClosedError, match="closed"):
            call()
        assert not namespace.closed


def test_waits_with_a_closed_handle_among_others_are_closed_errors_and_take_nothing() -> None:
    with segment() as namespace:
        good, bad = namespace.semaphore("good", 3), namespace.event("bad", signaled=True)
        bad.close()
        calls: list[Callable[[], object]] = [
            lambda: wait_any([good, bad]),
            lambda: wait_any([bad, good]),
            lambda: wait_all([good, bad]),
            lambda: wait_all([bad, good]),
            lambda: wait_any([good], alert=bad),
            lambda: signal_and_wait(good, bad),
            lambda: signal_and_wait(bad, good),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                call()
        assert good.state().count == 3
        good.close()
        assert namespace.objects() == ()  # no call is counted as in flight


def test_every_call_on_a_closed_namespace_is_a_closed_error() -> None:
    with segment() as namespace:
        handle = namespace.event("event")
        namespace.close()
        namespace.close()
        assert namespace.closed
        assert handle.closed
        assert "closed" in repr(namespace)
        calls: list[Callable[[], object]] = [
            namespace.mutex,
            namespace.semaphore,
            namespace.event,
            lambda: namespace.open("event"),
            namespace.objects,
            lambda: namespace.engine,
            lambda: pickle.dumps(namespace),
            handle.set,
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                call()


def test_a_collected_handle_is_closed() -> None:
    with segment() as namespace:
        handle = namespace.event("event")
        other = namespace.event("event")
        assert users_of(handle) == 1  # handles of one process are one user
        del handle
        gc.collect()
        assert [found.name for found in namespace.objects()] == ["event"]
        del other
        gc.collect()
        assert namespace.objects() == ()


def test_a_collected_namespace_is_left_once_its_handles_are_gone() -> None:
    namespace = Namespace(unique_name(), capacity=16, threads=4)
    name = namespace.name
    handle = namespace.event("event")
    del namespace
    gc.collect()
    assert handle.set() is False
    assert Path(path_of(name)).exists()
    del handle
    gc.collect()
    assert not Path(path_of(name)).exists()
    assert not mapped(name)


def test_two_namespaces_of_one_process_are_one_mapping_and_one_user() -> None:
    with segment() as one:
        with Namespace(one.name) as other:
            assert mapped(one.name) == 1
            assert len(inspect.snapshot(one.name).processes) == 1
            lock, same = one.mutex("lock"), other.mutex("lock")
            lock.acquire()
            assert same.acquire(timeout=0) == Acquired.ACQUIRED  # one thread is one owner
            assert (same.release(), lock.release()) == (2, 1)
        assert lock.acquire(timeout=0)
        assert same.closed
        lock.release()


# ---- closing during a wait ----


def in_wait(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_wait_goes_on_when_another_thread_closes_the_handle(ns: Namespace) -> None:
    event = ns.event("event")
    thread, results = in_wait(event.wait)
    until_waiting(event, 1)
    event.close()
    with pytest.raises(ClosedError):
        event.wait(0)
    again = ns.event("event")
    assert not again.created  # it lives: somebody waits on it
    assert again.slot == event.slot
    again.set()
    thread.join(PATIENCE)
    assert results == [True]
    again.close()
    assert ns.objects() == ()


def test_a_wait_goes_on_when_the_namespace_is_closed(ns: Namespace) -> None:
    with Namespace(ns.name) as second:
        tokens, event = second.semaphore("tokens", 0), second.event("event")
        thread, results = in_wait(lambda: wait_any([tokens, event]))
        until_waiting(event, 1)
    assert second.closed
    assert ns.semaphore("tokens").release() == 0
    thread.join(PATIENCE)
    (result,) = results
    assert result
    assert ns.objects() == ()


def test_a_wait_goes_on_when_its_process_closes_all_it_has(
    ns: Namespace, start: StartActors
) -> None:
    (actor,) = start("A")
    waiter = actor.thread("waiter")
    actor.make("event", "event", "event")
    waiter.start("method", "event", "wait")
    waiter.until_blocked()
    actor.method("event", "close")
    event = ns.event("event")
    assert not event.created
    event.set()
    assert waiter.finish() is True


def test_a_wait_that_times_out_after_the_close_gives_the_object_back(ns: Namespace) -> None:
    event = ns.event("event")
    thread, results = in_wait(lambda: event.wait(0.2))
    until_waiting(event, 1)
    event.close()
    thread.join(PATIENCE)
    assert results == [False]
    assert ns.objects() == ()


def test_signals_do_not_end_a_wait_whose_handle_was_closed(ns: Namespace) -> None:
    event, tokens = ns.event("event"), ns.semaphore("tokens", 0)
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    main = threading.main_thread().ident
    assert main is not None

    def close_and_signal() -> None:
        until_waiting(event, 1)
        event.close()
        for number in range(1, 4):
            signal.pthread_kill(main, signal.SIGUSR1)
            eventually(lambda: len(handled) == number, "the handler runs")  # noqa: B023
        again = ns.event("event")
        tokens.release(1 if again.created else 2)  # 2: it was there all the time
        again.set()

    helper = threading.Thread(target=close_and_signal)
    helper.start()
    try:
        assert event.wait(PATIENCE / 2) is True
    finally:
        helper.join(PATIENCE)
        signal.signal(signal.SIGUSR1, before)
    assert tokens.state().count == 2


# ---- closing what is owned ----


def test_a_mutex_lives_while_it_is_owned_though_nobody_has_it_open() -> None:
    with segment() as namespace:
        lock = namespace.mutex("lock")
        lock.acquire()
        lock.close()
        (left,) = namespace.objects()
        assert (left.name, left.users) == ("lock", 0)
        again = namespace.mutex("lock", exclusive=False)
        assert not again.created
        assert again.release() == 1
        again.close()
        assert namespace.objects() == ()
        check(namespace.name)


def test_the_mapping_of_an_owned_mutex_outlives_its_namespace_until_the_release() -> None:
    name = unique_name()
    with Namespace(name, capacity=16, threads=4) as namespace:
        namespace.mutex("lock").acquire()
    assert mapped(name) == 1  # unmapping would leave the C library's list of held locks dangling
    assert Path(path_of(name)).exists()
    with Namespace(name, create=False) as again:
        lock = again.mutex("lock", create=False)
        assert lock.state().count == 1
        assert lock.release() == 1
    assert mapped(name) == 0
    assert not Path(path_of(name)).exists()


def own_and_close(link: Connection) -> None:
    """Closes all it has, owning a mutex; stays."""
    namespace = Namespace(link.recv(), create=False)
    lock = namespace.mutex("lock")
    link.send(lock.acquire())
    lock.close()
    namespace.close()
    link.send("closed")
    link.recv()


def test_a_process_that_closed_everything_still_owns_until_it_dies() -> None:
    with Child(own_and_close) as child, segment() as namespace:
        lock = namespace.mutex("lock")
        child.say(namespace.name)
        assert child.hear() == Acquired.ACQUIRED
        assert child.hear() == "closed"
        assert lock.acquire(timeout=0) == Acquired.TIMED_OUT
        child.kill()
        assert lock.acquire(timeout=PATIENCE) == Acquired.ABANDONED
        lock.release()
        collect(namespace.name)


def test_a_namespace_closed_by_one_thread_leaves_once_the_others_have_ended() -> None:
    name = unique_name()
    namespace = Namespace(name, capacity=16, threads=4)
    lock = namespace.mutex("lock")
    registered, leave = threading.Event(), threading.Event()

    def register_and_stay() -> None:
        with lock:
            pass
        registered.set()
        leave.wait(PATIENCE)

    thread = threading.Thread(target=register_and_stay)
    thread.start()
    assert registered.wait(PATIENCE)
    namespace.close()
    assert mapped(name) == 1
    leave.set()
    thread.join(PATIENCE)

    def another_use_cleans_up() -> bool:
        Namespace(unique_name(), capacity=1, threads=1).close()
        return not mapped(name) and not os.path.exists(path_of(name))

    eventually(another_use_cleans_up, "the segment is left")


# ---- the last user ----


def test_an_object_goes_with_its_last_handle(ns: Namespace, start: StartActors) -> None:
    (actor,) = start("A")
    event = ns.event("event")
    assert actor.make("event", "event", "event") is False
    event.close()
    assert actor.method("event", "is_set") is False
    assert ns.event("event").created is False
    gc.collect()
    actor.method("event", "close")
    with pytest.raises(NotFoundError):
        ns.open("event")
    assert ns.event("event").created
    check(ns.name)


@pytest.mark.parametrize("orderly", [True, False], ids=["exit", "killed"])
def test_an_object_goes_with_its_last_process(
    ns: Namespace, start: StartActors, orderly: bool
) -> None:
    (actor,) = start("A")
    actor.make("event", "event", "event", signaled=True, manual_reset=True)
    actor.exit() if orderly else actor.kill()
    event = ns.event("event")
    assert event.created
    assert not event.is_set()
    collect(ns.name)


def test_processes_that_exit_at_the_same_time_leave_no_file() -> None:
    exiting = "import sys, shmsync; ns = shmsync.Namespace(sys.argv[1]); input()"
    for _ in range(8):
        name = unique_name()
        processes = [
            subprocess.Popen([sys.executable, "-c", exiting, name], stdin=subprocess.PIPE)
            for _ in range(2)
        ]
        try:
            eventually(lambda: users_count(name) == 2, "both have attached")  # noqa: B023
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            for process in processes:
                process.wait(PATIENCE)
            left = os.path.exists(path_of(name))
        finally:
            for process in processes:
                process.kill()
                process.communicate()
            Path(path_of(name)).unlink(missing_ok=True)
        assert not left


def test_a_process_that_takes_its_time_to_exit_keeps_nobody_waiting() -> None:
    slow = """
import atexit, sys
atexit.register(input)  # runs after all that the library has registered
import shmsync
namespace = shmsync.Namespace(sys.argv[1])
print("attached", flush=True)
input()
atexit.register(print, "exits", flush=True)
"""
    with segment() as namespace:
        process = subprocess.Popen(
            [sys.executable, "-c", slow, namespace.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"attached\n"
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"exits\n"
            eventually(lambda: "_wait" in wchan(process.pid) or "read" in wchan(process.pid))
            collect(namespace.name)
        finally:
            process.kill()
            process.communicate()


def wchan(pid: int) -> str:
    """What in the kernel a process sleeps in."""
    return Path(f"/proc/{pid}/wchan").read_text()


def users_count(name: str) -> int:
    """How many living processes a namespace has; 0 if there is none."""
    try:
        return sum(process.alive for process in inspect.snapshot(name).processes)
    except OSError:
        return 0
