"""``shmsync._fast`` beside ``shmsync.calls``: it is in use, is documented the same, and knows when
a handle is not to be used any more. That both do the same, the conformance suite shows, which
tools/test runs with each."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import sysconfig
import threading

import pytest

from shmsync import (
    AbandonedMutexWarning,
    Acquired,
    ClosedError,
    Event,
    Mutex,
    Namespace,
    Semaphore,
    calls,
    fast,
    wait_any,
)

from .conftest import unique_name
from .support.watchdog import eventually

CLASSES: dict[type, type] = {
    Mutex: calls.MutexCalls,
    Semaphore: calls.SemaphoreCalls,
    Event: calls.EventCalls,
}
METHODS = [
    (cls, name)
    for cls, written in CLASSES.items()
    for name, value in vars(written).items()
    if callable(value)
]

#: A handle is used by the finalizer of somebody who is garbage together with it.
GARBAGE = """
import gc, sys
from shmsync import ClosedError, Namespace
class User:
    def __del__(self):
        for use in self.uses:
            try:
                use()
            except ClosedError:
                continue
            print("no error")
gc.disable()
ns = Namespace(sys.argv[1], capacity=65536)
mutex, tokens, event = ns.mutex(), ns.semaphore(), ns.event()
with mutex, tokens:
    event.set()
user = User()
user.me = user
user.uses = [mutex.acquire, mutex.release, mutex.state, tokens.acquire, tokens.release]
user.uses += [event.set, event.clear, event.is_set, event.wait, event.pulse]
del ns, mutex, tokens, event, user
gc.collect()
print("done")
"""


def test_it_is_in_use_where_it_can_be() -> None:
    """It is optional, so a build that fails would not show otherwise."""
    wanted = not sysconfig.get_config_var("Py_GIL_DISABLED")
    assert (fast.WHY_NOT is None) == (wanted and os.environ.get("SHMSYNC_FAST") != "0")


@pytest.mark.parametrize(("cls", "name"), METHODS)
def test_its_methods_are_documented_like_those_that_they_stand_in_for(cls: type, name: str) -> None:
    method, written = getattr(cls, name), getattr(CLASSES[cls], name)
    assert (inspect.getdoc(method) or "") == (inspect.getdoc(written) or "")
    names = [list(inspect.signature(each).parameters) for each in (method, written)]
    assert names[0] == names[1]


@pytest.mark.parametrize("way", ["0", "1"])
def test_a_handle_that_is_garbage_is_closed(way: str) -> None:
    environment = {**os.environ, "SHMSYNC_FAST": way, "MALLOC_PERTURB_": "165"}
    command = [sys.executable, "-c", GARBAGE, unique_name()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_nobody_opens_a_closed_handle_again() -> None:
    with Namespace(unique_name()) as ns:
        event, other = ns.event(), ns.event()
        event.close()
        with pytest.raises(AttributeError):
            event.closed = False  # type: ignore[misc]
        for use in (event.set, event.wait, event.is_set, lambda: wait_any([other, event])):
            with pytest.raises(ClosedError):
                use()


@pytest.mark.parametrize("arguments", [(), (None,), (None, None, None, None)])
def test_exit_takes_what_a_with_gives_it(arguments: tuple[None, ...]) -> None:
    with Namespace(unique_name()) as ns:
        mutex, semaphore = ns.mutex(owned=True), ns.semaphore()
        for lock in (mutex, semaphore):
            with pytest.raises(TypeError):
                lock.__exit__(*arguments)
        assert (mutex.state().count, semaphore.state().count) == (1, 1)
        mutex.release()


@pytest.mark.skipif(fast.WHY_NOT is not None, reason="shmsync._fast is not in use")
def test_enter_of_cpython_314_does_what_enter_does() -> None:
    with Namespace(unique_name()) as ns:
        mutex, semaphore = ns.mutex(), ns.semaphore(None, 1)
        assert [fast.enter(mutex), fast.enter(semaphore)] == [Acquired.ACQUIRED] * 2
        assert (mutex.state().count, semaphore.state().count) == (1, 0)
        mutex.release()
        leave_abandoned(mutex)
        with pytest.warns(AbandonedMutexWarning) as caught:
            assert fast.enter(mutex) is Acquired.ABANDONED
        assert caught[0].filename == __file__, "it is about the one who enters"
        mutex.release()
        for handle in (ns.event(), object()):
            with pytest.raises(TypeError):
                fast.enter(handle)  # type: ignore[arg-type]
        mutex.close()
        with pytest.raises(ClosedError):
            fast.enter(mutex)


def leave_abandoned(mutex: Mutex) -> None:
    """Has a thread end that owns it."""
    thread = threading.Thread(target=mutex.acquire)
    thread.start()
    thread.join()
    eventually(lambda: mutex.state().abandoned, "abandonment")


def test_who_enters_an_abandoned_mutex_is_warned_where_the_with_statement_is() -> None:
    with Namespace(unique_name()) as ns:
        mutex = ns.mutex()
        leave_abandoned(mutex)
        with pytest.warns(AbandonedMutexWarning) as caught, mutex:
            assert caught[0].filename == __file__


#: As a sub-interpreter does that shares the main one's extension modules.
TWICE = """
import sys
import shmsync
first = dict(sys.modules)
for name in [name for name in sys.modules if name.partition(".")[0] == "shmsync"]:
    del sys.modules[name]
import shmsync
from shmsync import fast
with shmsync.Namespace(sys.argv[1]) as ns, ns.mutex() as acquired:
    print(acquired is shmsync.Acquired.ACQUIRED, fast.WHY_NOT)
"""


@pytest.mark.skipif(fast.WHY_NOT is not None, reason="shmsync._fast is not in use")
def test_a_second_import_goes_through_cffi() -> None:
    command = [sys.executable, "-c", TWICE, unique_name()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True shmsync._fast belongs to another import of shmsync\n"
