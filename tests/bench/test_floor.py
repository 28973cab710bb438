"""The loops in C do what they say: what they take and give back is looked up, and who has to sleep
in them is woken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import mmap

import pytest
from shmsync_tools.bench import floor

from shmsync import Namespace

from ..support.watchdog import eventually

ROUNDS = 100
#: Deadline of what should end long before.
PATIENCE_NS = 20 * 10**9


def soon() -> int:
    return time.monotonic_ns() + PATIENCE_NS


@contextmanager
def child(body: Callable[[], object]) -> Iterator[int]:
    """A forked process that runs the body; killed in the end, and it must not have failed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        eventually(
            lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "its end"
        )
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL)


@pytest.fixture
def memory() -> Iterator[mmap]:
    """Shared with the children."""
    with mmap(-1, floor.ROBUST_SIZE) as shared:
        yield shared


# ---- shmsync's calls ----


def test_a_wait_takes_a_token_a_round(ns: Namespace) -> None:
    empty, full = ns.semaphore(None, 0), ns.semaphore(None, 1000)
    assert floor.wait([empty, full], ROUNDS) > 0
    assert (empty.state().count, full.state().count) == (0, 1000 - ROUNDS)


def test_a_wait_for_all_takes_a_token_of_each(ns: Namespace) -> None:
    both = [ns.semaphore(None, 1000), ns.semaphore(None, 500)]
    assert floor.wait(both, ROUNDS, all_of_them=True) > 0
    assert [each.state().count for each in both] == [1000 - ROUNDS, 500 - ROUNDS]


def test_pairs_leave_everything_as_it_was(ns: Namespace) -> None:
    mutex, semaphore, event = ns.mutex(), ns.semaphore(None, 3), ns.event()
    before = [mutex.state(), semaphore.state(), event.state()]
    pairs = (
        floor.wait_release(mutex, ROUNDS),
        floor.wait_release(semaphore, ROUNDS),
        floor.set_wait(event, ROUNDS),
        floor.set_clear(event, ROUNDS),
        floor.read(mutex, ROUNDS),
    )
    assert min(pairs) > 0
    assert [mutex.state(), semaphore.state(), event.state()] == before


def test_what_a_call_refuses_is_an_error(ns: Namespace) -> None:
    semaphore = ns.semaphore(None, 1, maximum=1)
    with pytest.raises(OSError, match="Invalid argument"):
        floor.wait([semaphore, semaphore], ROUNDS, all_of_them=True)
    semaphore.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        floor.read(semaphore, ROUNDS)


def test_two_threads_play_ping_pong(ns: Namespace) -> None:
    ping, pong = ns.semaphore(None, 0), ns.semaphore(None, 0)
    answers: list[int] = []

    def answer() -> None:
        answers.append(floor.ping_pong([pong], ping, ROUNDS, first=False, deadline=soon()))

    thread = threading.Thread(target=answer)
    thread.start()
    assert floor.ping_pong([ping], pong, ROUNDS, first=True, deadline=soon()) > 0
    thread.join()
    assert answers[0] > 0
    assert (ping.state().count, pong.state().count) == (0, 0)


def test_who_plays_alone_times_out(ns: Namespace) -> None:
    ping, pong = ns.semaphore(None, 0), ns.semaphore(None, 0)
    with pytest.raises(TimeoutError):
        floor.ping_pong([ping], pong, ROUNDS, first=True, deadline=1)
    assert pong.state().count == 1


# ---- floors ----

FLOORS: dict[str, Callable[[int], int]] = {
    "nothing": floor.nothing,
    "getpid": floor.getpid,
    "clock_gettime": floor.clock_gettime,
    "compare_and_swap": floor.compare_and_swap,
    "futex_semaphore": floor.futex_semaphore,
    "futex_calls": floor.futex_calls,
    "futex_calls, private": lambda rounds: floor.futex_calls(rounds, shared=False),
    "robust_mutex": floor.robust_mutex,
    "plain_mutex": floor.plain_mutex,
    "eventfd": floor.eventfd,
    "eventfd_poll": lambda rounds: floor.eventfd_poll(64, rounds),
}


@pytest.mark.parametrize("name", FLOORS)
def test_a_floor_takes_the_longer_the_more_rounds(name: str) -> None:
    few = min(FLOORS[name](10) for _ in range(5))
    many = min(FLOORS[name](20_000) for _ in range(5))
    assert 0 <= few < many


def test_floors_leave_no_descriptors() -> None:
    before = os.listdir("/proc/self/fd")
    for run in FLOORS.values():
        run(10)
    with pytest.raises(OSError, match="Invalid argument"):
        floor.eventfd_poll(65, 10)
    assert os.listdir("/proc/self/fd") == before


DRIVER: dict[str, Callable[[int], int]] = {
    "semaphore": floor.driver_semaphore,
    "mutex": floor.driver_mutex,
    "event": floor.driver_event,
    "any": lambda rounds: floor.driver_wait(64, rounds),
    "all": lambda rounds: floor.driver_wait(64, rounds, all_of_them=True),
}


@pytest.mark.parametrize("name", DRIVER)
def test_the_kernels_own_driver(name: str) -> None:
    if os.path.exists("/dev/ntsync"):
        assert DRIVER[name](ROUNDS) > 0
    else:
        with pytest.raises(FileNotFoundError):
            DRIVER[name](ROUNDS)


def test_two_processes_take_turns_by_a_futex(memory: mmap) -> None:
    with child(lambda: floor.futex_ping_pong(memory, 1, ROUNDS, deadline=soon())):
        assert floor.futex_ping_pong(memory, 0, ROUNDS, spins=10, deadline=soon()) > 0
    assert memory[:4] == bytes(4)


def test_a_turn_that_never_comes_times_out(memory: mmap) -> None:
    with pytest.raises(TimeoutError):
        floor.futex_ping_pong(memory, 1, ROUNDS, deadline=1)


def test_two_processes_take_turns_by_eventfds() -> None:
    ping, pong = os.eventfd(0), os.eventfd(0)
    try:
        with child(lambda: floor.eventfd_ping_pong(pong, ping, 1, ROUNDS)):
            assert floor.eventfd_ping_pong(ping, pong, 0, ROUNDS) > 0
    finally:
        os.close(ping)
        os.close(pong)


def own_and_tell(memory: mmap, told: int) -> None:
    floor.robust_lock(memory)
    os.eventfd_write(told, 1)
    signal.pause()


def test_the_death_of_an_owner_is_heard_of_after_the_kill(memory: mmap) -> None:
    floor.robust_make(memory)
    told = os.eventfd(0)
    killed: list[int] = []
    try:
        with child(lambda: own_and_tell(memory, told)) as owner:
            os.eventfd_read(told)

            def kill() -> None:
                eventually(lambda: floor.robust_is_awaited(memory), "the waiter's sleep")
                killed.append(time.monotonic_ns())
                os.kill(owner, signal.SIGKILL)

            thread = threading.Thread(target=kill)
            thread.start()
            heard = floor.robust_await_death(memory, deadline=soon())
            thread.join()
    finally:
        os.close(told)
    assert killed[0] < heard


def test_a_robust_mutex_that_nobody_owns_has_no_dead_owner(memory: mmap) -> None:
    floor.robust_make(memory)
    with pytest.raises(PermissionError):
        floor.robust_await_death(memory, deadline=soon())
    assert not floor.robust_is_awaited(memory)


# ---- who loads it ----


def test_the_package_and_its_command_do_not_load_the_loops() -> None:
    code = "import shmsync, shmsync.cli, sys; sys.exit('shmsync._bench' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
