"""Fork: the child has what its parent has open, and owns nothing. And spawn, and exec."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from shmsync import Acquired, Event, Mutex, MutexState, Namespace, NotOwnerError, Semaphore, inspect
from shmsync.engine import Engine

from ..conftest import unique_name
from ..support.checkers import check, path_of
from ..support.peek import until_waiting
from ..support.watchdog import PATIENCE, eventually
from .helpers import Child, become, collect, error_of, in_child, segment, users_of

# ---- what the child has and owns ----


def test_a_forked_child_owns_nothing_until_it_acquires(ns: Namespace) -> None:
    lock = ns.mutex("lock")
    lock.acquire()
    owner = lock.state().owner

    def child(link: Connection) -> None:
        link.send(lock.acquire(timeout=0))
        link.send(error_of(lock.release)[0])
        link.send(lock.state().owner)
        link.recv()
        link.send((lock.acquire(timeout=0), lock.state().owner != owner))
        link.recv()
        link.send(lock.release())

    with Child(child) as forked:
        assert forked.hear() == Acquired.TIMED_OUT
        assert forked.hear() == "NotOwnerError"
        assert forked.hear() == owner
        assert lock.state() == MutexState(1, owner, False)
        assert lock.release() == 1
        assert forked.ask() == (Acquired.ACQUIRED, True)
        assert lock.acquire(timeout=0) == Acquired.TIMED_OUT
        with pytest.raises(NotOwnerError):
            lock.release()
        assert forked.ask() == 1
        forked.hear()
        assert forked.wait() == 0
    with lock as acquired:
        assert acquired == Acquired.ACQUIRED


@pytest.mark.parametrize("acquire_first", [False, True])
def test_the_end_of_a_child_takes_nothing_from_its_parent(
    ns: Namespace, acquire_first: bool
) -> None:
    lock, other = ns.mutex("lock"), ns.mutex("other")
    lock.acquire()

    def child() -> bool:
        return bool(other.acquire()) if acquire_first else True

    assert in_child(child) is True
    assert lock.state().count == 1
    wanted = Acquired.ABANDONED if acquire_first else Acquired.ACQUIRED
    assert other.acquire(timeout=PATIENCE) == wanted
    assert (other.release(), lock.release()) == (1, 1)


def test_a_mutex_of_a_child_that_leaves_by_os_exit_is_abandoned(ns: Namespace) -> None:
    lock = ns.mutex("lock")

    def child(link: Connection) -> None:
        link.send(lock.acquire())
        link.recv()
        os._exit(7)

    with Child(child) as forked:
        assert forked.hear() == Acquired.ACQUIRED
        forked.say()
        assert lock.acquire(timeout=PATIENCE) == Acquired.ABANDONED
        assert forked.wait() == 7
    lock.release()


def test_fork_while_another_thread_waits(ns: Namespace) -> None:
    event, lock = ns.event("event"), ns.mutex("lock")
    results: list[bool] = []
    waiter = threading.Thread(target=lambda: results.append(event.wait()))
    waiter.start()
    until_waiting(event, 1)

    def child(link: Connection) -> None:
        link.send(users_of(event))
        link.send(lock.acquire(timeout=PATIENCE))
        lock.release()
        event.close()  # the parent's call is not in flight here
        link.send(users_of(lock))
        again = ns.event("event", create=False)
        again.set()
        link.recv()

    with Child(child) as forked:
        assert forked.hear() == 2
        assert forked.hear() == Acquired.ACQUIRED
        assert forked.hear() == 2
        waiter.join(PATIENCE)
        assert results == [True]
        assert users_of(event) == 2
        forked.say()
        forked.hear()


def test_fork_while_another_thread_owns(ns: Namespace) -> None:
    lock, done = ns.mutex("lock"), ns.event("done")
    owned = threading.Event()

    def own() -> None:
        with lock:
            owned.set()
            done.wait()

    owner = threading.Thread(target=own)
    owner.start()
    assert owned.wait(PATIENCE)
    assert in_child(lambda: lock.acquire(timeout=0)) == Acquired.TIMED_OUT
    assert lock.state().count == 1
    done.set()
    owner.join(PATIENCE)
    with lock as acquired:
        assert acquired == Acquired.ACQUIRED


def test_fork_from_a_thread(ns: Namespace) -> None:
    lock = ns.mutex("lock")
    results: list[object] = []

    def fork_owning() -> None:
        with lock:
            results.append(in_child(lambda: error_of(lock.release)[0]))
            results.append(lock.state().count)

    thread = threading.Thread(target=fork_owning)
    thread.start()
    thread.join(PATIENCE)
    assert results == ["NotOwnerError", 1]


def test_fork_while_another_thread_opens_and_closes_namespaces() -> None:
    names = [unique_name() for _ in range(4)]
    rounds: list[int] = []
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for name in names:
                with Namespace(name, capacity=16, threads=64) as namespace:
                    namespace.event("event").set()
            rounds.append(1)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    children = []
    try:
        for _ in range(30):  # living on, with whatever the thread had open at that instant
            children.append(Child(lambda link: link.recv()))
        for _ in range(3):
            before = len(rounds)
            eventually(lambda: len(rounds) > before, "the thread goes on")  # noqa: B023
    finally:
        stop.set()
        thread.join(PATIENCE)
        for child in children:
            with child:
                pass
        for name in names:  # a child may have been the last user
            with Namespace(name):
                pass
    assert not [name for name in names if os.path.exists(path_of(name))]


# ---- the child's references count ----

MANY = 300


def test_what_the_parent_closes_after_fork_lives_on_in_the_child() -> None:
    with segment(capacity=512) as namespace:
        handles = [namespace.semaphore(f"{n}", n, maximum=MANY) for n in range(MANY)]

        def child(link: Connection) -> None:
            link.recv()
            link.send([handle.state().count for handle in handles])
            link.recv()
            for handle in handles:
                handle.release()
            link.send([namespace.open(f"{n}").slot for n in range(MANY)])
            link.recv()

        with Child(child) as forked:
            for handle in handles:
                handle.close()
            assert forked.ask() == list(range(MANY))
            assert len(namespace.objects()) == MANY
            assert {found.users for found in namespace.objects()} == {1}
            assert forked.ask() == [handle.slot for handle in handles]
            assert namespace.semaphore("7").state().count == 8
            check(namespace.name)
            forked.kill()
        collect(namespace.name)
        assert namespace.objects() == ()


def test_a_child_killed_before_it_uses_anything_leaves_nothing() -> None:
    with segment() as namespace:
        event = namespace.event("event")
        for _ in range(50):  # more than there are process slots
            with Child(lambda link: link.recv()) as child:
                child.kill()
            assert event.set() is False
            event.clear()
        event.close()
        collect(namespace.name)
        assert namespace.objects() == ()
        assert namespace.event("event").created


def fork_and_leave(link: Connection, name: str, leave: Callable[[Namespace], None]) -> None:
    """A process that opens much, forks a child that uses it, and leaves in its own way."""
    namespace = Namespace(name, create=False)
    handles = [namespace.event(f"{n}") for n in range(10)]
    lock = namespace.mutex("lock")
    lock.acquire()
    if os.fork():
        leave(namespace)
    link.recv()
    link.send([handle.set() for handle in handles])
    link.send(int(lock.acquire(timeout=PATIENCE)))
    link.recv()
    os._exit(0)


def stay_until_killed(namespace: Namespace) -> None:
    namespace.event("forked").set()
    threading.Event().wait()


def exit_at_once(namespace: Namespace) -> None:
    namespace.event("forked").set()
    os._exit(0)


@pytest.mark.parametrize("leave", [stay_until_killed, exit_at_once])
def test_a_child_outlives_its_parent(engine: Engine, leave: Callable[[Namespace], None]) -> None:
    names: list[str] = []

    def parent(link: Connection) -> None:
        fork_and_leave(link, link.recv(), leave)

    with Child(parent) as family, segment(capacity=64, threads=8, engine=engine) as namespace:
        names.append(namespace.name)
        forked = namespace.event("forked")
        family.say(namespace.name)
        assert forked.wait(PATIENCE)
        family.kill() if leave is stay_until_killed else family.wait()
        assert family.ask() == [False] * 10
        assert family.hear() == Acquired.ABANDONED
        assert namespace.event("3", create=False).is_set()
        collect(namespace.name)
        family.say()
        # The grandchild is nobody's child here; its byte tells when it is gone.
        eventually(lambda: sum(p.alive for p in inspect.snapshot(names[0]).processes) == 1)
        collect(namespace.name)


def test_an_orphan_keeps_the_namespace_and_removes_nothing_while_it_lives() -> None:
    def parent(link: Connection) -> None:
        name = link.recv()
        namespace = Namespace(name, capacity=16, threads=4)
        event = namespace.event("event")
        if os.fork():
            namespace.close()
            link.send("closed")
            os._exit(0)
        link.recv()
        link.send(event.set())
        namespace.close()
        os._exit(0)

    name = unique_name()
    with Child(parent) as family:
        assert family.ask(name) == "closed"
        assert family.wait() == 0
        assert os.path.exists(path_of(name))
        with Namespace(name, create=False) as namespace:
            assert not namespace.event("event", create=False).is_set()
        assert family.ask() is False
        eventually(lambda: not os.path.exists(path_of(name)), "the last user removes the file")


# ---- forks that fail, and forks of forks ----


def test_nested_forks_each_own_for_themselves(ns: Namespace) -> None:
    lock, count = ns.mutex("lock"), ns.semaphore("count", 0)

    def descend(depth: int) -> None:
        with lock:
            count.release()
        if depth:
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
            else:
                try:
                    descend(depth - 1)
                finally:
                    os._exit(0)
        with lock:
            count.release()

    assert in_child(lambda: descend(4)) is None
    assert count.state().count == 10
    assert lock.acquire(timeout=0) == Acquired.ACQUIRED
    lock.release()
    collect(ns.name)


def fail_to_fork() -> object:
    """Forks that fail, in a process that may have no more; then one that works."""
    if os.geteuid() == 0:
        become(54321)  # root is not bound by the limit
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    with (
        Child(lambda link: Namespace(link.recv(), create=False).engine) as attacher,
        Namespace(unique_name(), capacity=16, threads=3) as namespace,
    ):
        event, lock = namespace.event("event"), namespace.mutex("lock")
        lock.acquire()
        for _ in range(20):  # more than there are process slots
            resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
            assert error_of(os.fork)[0] == "BlockingIOError"
            resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
            assert event.set() is False
            assert event.clear() is True
            assert lock.acquire(timeout=0) == Acquired.ACQUIRED
        assert lock.state().count == 21
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        assert error_of(os.fork)[0] == "BlockingIOError"
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        assert len(os.listdir("/proc/self/fd")) == before
        assert in_child(event.set) is False
        assert event.is_set()
        assert attacher.ask(namespace.name) == namespace.engine  # and collects the dead
        assert attacher.wait() == 0
        for _ in range(21):
            lock.release()
        return [process.open_objects for process in inspect.snapshot(namespace.name).processes]


def test_a_fork_that_fails_leaves_nothing_behind() -> None:
    assert in_child(fail_to_fork) == [2]


def test_fork_in_a_process_whose_namespace_is_closed() -> None:
    with segment() as namespace:
        event = namespace.event("event")
        namespace.close()
        assert in_child(lambda: error_of(event.set)[0]) == "ClosedError"
        assert in_child(lambda: error_of(lambda: namespace.event("new"))[0]) == "ClosedError"
        with Namespace(namespace.name, capacity=16, threads=4) as again:
            assert in_child(lambda: again.event("event").created) is True


def test_a_child_closes_without_harm_to_its_parent() -> None:
    with segment() as namespace:
        event = namespace.event("event")

        def child() -> None:
            event.close()
            namespace.close()
            gc.collect()

        for _ in range(20):
            assert in_child(child) is None
        assert event.set() is False
        assert os.path.exists(path_of(namespace.name))
        check(namespace.name)


# ---- multiprocessing and exec ----


def add_up(lock: Mutex, tokens: Semaphore, done: Event) -> None:
    for _ in range(100):
        with lock:
            tokens.release()
    done.set()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_handles_are_arguments_of_multiprocessing(ns: Namespace, method: str) -> None:
    lock, tokens = ns.mutex(), ns.semaphore(None, 0)
    events = [ns.event() for _ in range(3)]
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=add_up, args=(lock, tokens, event)) for event in events]  # type: ignore[attr-defined]
    for worker in workers:
        worker.start()
    assert all(event.wait(PATIENCE) for event in events)
    for worker in workers:
        worker.join(PATIENCE)
        assert worker.exitcode == 0
        worker.close()
    assert tokens.state().count == 300
    if method == "forkserver":
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def test_exec_gives_up_what_the_process_owned_and_had_open(ns: Namespace) -> None:
    lock, gone = ns.mutex("lock"), ns.event("gone")

    def child(link: Connection) -> None:
        theirs = [ns.event("theirs"), ns.mutex("lock")]
        link.send((lock.acquire(), len(theirs)))
        link.recv()
        os.execvp("sleep", ["sleep", "1000"])

    with Child(child) as forked:
        assert forked.hear() == (Acquired.ACQUIRED, 2)
        forked.say()
        assert lock.acquire(timeout=PATIENCE) == Acquired.ABANDONED
        lock.release()
        assert os.path.exists(f"/proc/{forked.pid}")
        collect(ns.name)
        assert ns.event("theirs").created
        assert gone.set() is False
