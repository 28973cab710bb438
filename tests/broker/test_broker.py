"""One broker for each namespace: how it begins, whom it serves, what its death does, how it ends.

All of it on esync, which every machine has.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

import shmsync
from shmsync import (
    Acquired,
    BrokenError,
    CapacityError,
    MutexState,
    Namespace,
    SemaphoreState,
    UnsupportedError,
    broker,
    wait_all,
)
from shmsync._native import lib

from ..conftest import unique_name
from ..segment.helpers import NOBODY, Child, become, error_of, in_child, needs_root
from ..support.checkers import path_of
from ..support.peek import until_waiting
from ..support.watchdog import PATIENCE, eventually

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def opened(name: str, *, threads: int = 16, persistent: bool = False) -> Namespace:
    """The namespace of that name, on esync."""
    return Namespace(name, engine="esync", capacity=256, threads=threads, persistent=persistent)


@contextmanager
def namespace(*, threads: int = 16, persistent: bool = False) -> Iterator[Namespace]:
    """A new one. Whoever still uses it, its name is gone at the end."""
    made = opened(unique_name("broker"), threads=threads, persistent=persistent)
    try:
        with made:
            yield made
    finally:
        if os.path.exists(path_of(made.name)):
            shmsync.unlink(made.name)


def brokers(name: str) -> list[psutil.Process]:
    """The processes that serve a namespace of that name."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line[1:4] == ["-m", "shmsync.broker", name]:
            found.append(process)
    return found


def the_broker(name: str) -> psutil.Process:
    """There must be just one."""
    [found] = brokers(name)
    return found


def sockets() -> str:
    """All Unix sockets of the machine."""
    return Path("/proc/net/unix").read_text()


def socket_of(ns: Namespace) -> str:
    """The name of its broker's socket, as /proc/net/unix writes it."""
    return broker.address(ns._identity()[1]).replace("\0", "@")


def is_gone(name: str, address: str) -> bool:
    """Neither process nor socket is left."""
    return not brokers(name) and address not in sockets()


def descriptors() -> int:
    """How many this process has."""
    return len(os.listdir("/proc/self/fd"))


# ---- beginning and ending ----


def test_it_comes_with_the_first_user_and_goes_with_the_last() -> None:
    before = descriptors()
    with namespace() as first:
        address = socket_of(first)
        one = the_broker(first.name)
        with opened(first.name) as second:
            second.mutex("m").acquire()
            assert the_broker(first.name).pid == one.pid
            second.mutex("m").release()
        assert address in sockets()
    eventually(lambda: is_gone(first.name, address), "the end of the broker")
    assert not os.path.exists(path_of(first.name))
    assert descriptors() == before


def come_at_once(link: Connection, name: str) -> bool:
    """Opens the namespace when told, counts in it, and says which process the broker is."""
    link.recv()
    with opened(name) as ns:
        mutex, count = ns.mutex("m"), ns.semaphore("count", 0)
        for _ in range(20):
            with mutex:
                count.release()
        link.send(the_broker(name).pid)
        link.recv()
    return count.closed


def test_of_many_starters_one_starts_it() -> None:
    for _ in range(3):
        name = unique_name("starters")
        with ExitStack() as stack:
            crowd = [
                stack.enter_context(Child(lambda link, name=name: come_at_once(link, name)))  # type: ignore[misc]
                for _ in range(4)
            ]
            for child in crowd:
                child.say()
            assert len({child.hear() for child in crowd}) == 1
            with opened(name) as ns:
                assert ns.semaphore("count", 0, create=False).state().count == 80
            for child in crowd:
                assert child.ask() is True
        eventually(lambda name=name: not brokers(name), "the end of the broker")  # type: ignore[misc]


def test_it_has_a_session_of_its_own_and_nothing_of_its_starter() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    with namespace() as ns:
        process = the_broker(ns.name)
        assert process.name() == broker.PROCESS_NAME
        assert (process.terminal(), process.cwd()) == (None, "/")
        assert process.ppid() != os.getpid()
        assert os.getsid(process.pid) != os.getsid(0)
        places = {os.readlink(place) for place in Path(f"/proc/{process.pid}/fd").iterdir()}
        pipe = os.readlink(f"/proc/self/fd/{write}")
        assert pipe not in places
        own = {place for place in places if not place.startswith(("socket:", "anon_inode:"))}
        assert own == {os.devnull, path_of(ns.name)}
        for number in (signal.SIGINT, signal.SIGHUP):
            process.send_signal(number)
        assert ns.event().set() is False
    os.close(read)
    os.close(write)


STARTS = """
import sys, shmsync
ns = shmsync.Namespace(sys.argv[1], create=True, engine="esync")
print(ns.event("e").set())
"""


def test_nobody_waits_for_it() -> None:
    """Who reads a starter's output to its end gets there, though the broker lives on."""
    name = unique_name("shell")

    def stay(link: Connection) -> None:
        link.recv()
        with opened(name):
            link.send("stays")
            link.recv()

    with Child(stay) as other:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTS + "input()", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"False\n"
        assert other.ask() == "stays"
        output, _ = starter.communicate(b"\n", timeout=PATIENCE)
        assert (output, starter.returncode) == (b"", 0)
        assert the_broker(name)
        other.say()
        assert other.hear() is None
    eventually(lambda: not brokers(name), "the end of the broker")


def test_closing_and_opening_again_leaves_no_descriptor() -> None:
    with namespace() as ns:
        ns.mutex("warm").close()
        before = descriptors()
        for _ in range(20):
            with ns.mutex("m"), opened(ns.name) as again:
                assert again.mutex("m", create=False).state().count == 1
                ns.event()
        assert descriptors() == before


def test_programs_that_a_client_starts_inherit_nothing_of_it() -> None:
    with namespace() as ns:
        objects = [ns.event(), ns.mutex()]
        listed = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, check=True
        )
        assert b"eventfd" not in listed.stdout
        assert len(objects) == 2


# ---- its clients' deaths ----


@pytest.mark.parametrize("last", [False, True])
def test_killed_clients_leave_their_mutexes_abandoned_and_no_broker(last: bool) -> None:
    name = unique_name("killed")

    def own(link: Connection) -> None:
        with opened(name) as ns:
            held = ns.mutex("m", owned=True)
            link.send(held.state().count)
            link.recv()

    with Child(own) as owner:
        assert owner.hear() == 1
        if not last:
            with opened(name) as ns:
                mutex = ns.mutex("m", create=False)
                owner.kill()
                assert mutex.acquire(timeout=PATIENCE) is Acquired.ABANDONED
                mutex.release()
        owner.kill()
        eventually(lambda: not brokers(name), "the end of the broker")
    with opened(name) as anew:
        assert anew.mutex("m").state() == MutexState(0, 0, False)


# ---- its own death ----


def test_killed_under_its_clients_it_leaves_them_broken_until_the_last_has_gone() -> None:
    name = unique_name("broken")

    def sleep(link: Connection) -> tuple[str, str]:
        with opened(name) as ns:
            link.send(pickle.dumps(ns.semaphore("s", 0)))
            return error_of(ns.semaphore("s", 0).acquire)

    with Child(sleep) as sleeper:
        sleeper.hear()
        with opened(name) as ns:
            semaphore = ns.semaphore("s", 0)
            until_waiting(semaphore, 1)
            the_broker(name).kill()
            assert sleeper.hear()[0] == "BrokenError"
            sleeper.wait()
            with pytest.raises(BrokenError, match="broker was killed"):
                ns.event("new")
            with pytest.raises(BrokenError):
                semaphore.release()
            newcomer = in_child(lambda: error_of(lambda: opened(name)))
            assert newcomer[0] == "BrokenError"
            assert not brokers(name)
    with opened(name) as anew:
        assert anew.created
        assert anew.semaphore("s", 3).acquire(timeout=0)


@pytest.mark.parametrize("everything", [False, True])
def test_a_wait_for_several_notices_its_death_too(everything: bool) -> None:
    name = unique_name("broken")

    def sleep(link: Connection) -> tuple[str, str]:
        with opened(name) as ns:
            semaphores = [ns.semaphore("s", 0), ns.semaphore("t", 0)]
            link.send("sleeps")
            wait = wait_all if everything else shmsync.wait_any
            return error_of(lambda: wait(semaphores))

    with Child(sleep) as sleeper:
        sleeper.hear()
        with opened(name) as ns:
            until_waiting(ns.semaphore("s"), 1)
        the_broker(name).kill()
        assert sleeper.hear()[0] == "BrokenError"


def test_a_persistent_namespace_survives_its_brokers() -> None:
    with namespace(persistent=True) as ns:
        ns.semaphore("s", 5).acquire()
        ns.event("e", manual_reset=True, signaled=True)
        ns.close()
        eventually(lambda: not brokers(ns.name), "the end of the broker")
        with opened(ns.name) as again:
            assert again.semaphore("s", create=False).state() == SemaphoreState(4, 2**31 - 1)
            assert again.event("e", create=False).wait(0)
            the_broker(ns.name).kill()
            eventually(lambda: lib.ss_broker_state(again._mapping) < 0, "its death")
        with opened(ns.name) as once_more:
            assert once_more.semaphore("s", create=False).acquire(timeout=0)
            assert once_more.semaphore("s", create=False).state().count == 3


# ---- whom it serves ----


@needs_root
def test_it_refuses_another_users_process() -> None:
    with namespace() as ns:
        address, slot = broker.address(ns._identity()[1]), ns.event("e")

        def ask() -> tuple[str, str]:
            become(NOBODY)
            # As somebody who does not mind whose broker it is.
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.connect(address)
                connection.send(broker._REQUEST.pack(slot.slot, slot.generation))
                data, got, _, _ = socket.recv_fds(connection, 4, 1)
            return data.hex(), str(got)

        assert in_child(ask) == ((-13 & 0xFFFFFFFF).to_bytes(4, "little").hex(), "[]")
        assert slot.set() is False


@needs_root
def test_it_does_not_keep_another_users_silent_connections() -> None:
    with namespace() as ns:
        address, process = broker.address(ns._identity()[1]), the_broker(ns.name)
        before = process.num_fds()

        def keep_silent() -> list[str]:
            become(NOBODY)
            connections = []
            for _ in range(5):
                connections.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                connections[-1].connect(address)
            return [each.recv(100).hex() for each in connections]  # until it has closed them

        assert in_child(keep_silent) == [""] * 5
        eventually(lambda: process.num_fds() == before, "the end of the child's own connection")
        assert ns.event("e").set() is False


@needs_root
def test_a_client_trusts_no_other_users_broker() -> None:
    name = unique_name("planted")

    def plant(link: Connection) -> None:
        where = link.recv()
        become(NOBODY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(where)
            listener.listen()
            link.send("listens")
            link.recv()

    with Child(plant) as planter, opened(name) as ns:
        the_broker(name).kill()
        eventually(lambda: not brokers(name), "its death")
        planter.ask(broker.address(ns._identity()[1]))
        with pytest.raises(UnsupportedError, match="65534"):
            ns.event()
        planter.say()


# ---- fork ----


def test_a_forked_child_has_a_connection_of_its_own_and_outlives_its_parent() -> None:
    name = unique_name("family")

    def parent(link: Connection) -> None:
        ns = opened(name)
        event, mutex = ns.event("e"), ns.mutex("m", owned=True)
        has_tried, tells = os.pipe()
        child = os.fork()
        if child == 0:
            link.send((event.wait(PATIENCE), bool(mutex.acquire(timeout=0)), os.getpid()))
            os.write(tells, b"x")
            link.recv()
            link.send((ns.semaphore("new", 2).state().count, mutex.acquire(timeout=PATIENCE).name))
            link.recv()
            mutex.release()
            ns.close()
            os._exit(0)
        event.set()
        os.read(has_tried, 1)
        os._exit(0)

    with Child(parent) as family:
        signaled, took, child = family.hear()
        assert (signaled, took) == (True, False)
        assert family.wait() == 0
        assert the_broker(name)
        assert family.ask() == (2, "ABANDONED")
        family.say()
        eventually(lambda: not psutil.pid_exists(child), "the end of the child")
    eventually(lambda: not brokers(name), "the end of the broker")


# ---- exhaustion ----


def exhaust(limit: int, hard: int) -> Callable[[], tuple[str, str, int, bool]]:
    """Makes objects until there is no descriptor left; the error, how many, and whether the rest
    goes on after that."""

    def body() -> tuple[str, str, int, bool]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        with opened(unique_name("exhausted")) as ns:
            made: list[shmsync.Event] = []
            try:
                while len(made) < 250:
                    made.append(ns.event())
            except CapacityError as error:
                failure = type(error).__name__, str(error)
            else:
                failure = "", ""
            many = len(made)
            for event in made[-5:]:
                event.close()
            eventually(lambda: not error_of(ns.event)[0], "room for another")
            return (*failure, many, made[0].set() is False and made[0].wait(0))

    return body


def test_a_process_without_descriptors_left_is_told_the_limit_and_how_to_raise_it() -> None:
    name, text, many, goes_on = in_child(exhaust(64, 4096))
    assert name == "CapacityError"
    assert "this process" in text
    assert "RLIMIT_NOFILE is 64" in text
    assert "ulimit -n" in text
    assert many > 30
    assert goes_on


def test_a_broker_without_descriptors_left_is_named() -> None:
    """Its limit is its starter's hard one."""
    name, text, many, _ = in_child(exhaust(60, 60))
    assert name == "CapacityError"
    assert "RLIMIT_NOFILE is 60" in text
    assert many > 30
