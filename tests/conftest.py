"""What every test gets: a bound on its time, and a check that it leaves nothing behind.

Tests that take ``engine`` run once for each engine. What a test needs of an engine beyond the
common ground it declares with ``@needs``:

    @needs(Semantics.FIFO)                    skipped on an engine without it; the lab shows it
    @needs(Semantics.ALERT_LAST, shows=True)  must fail on an engine without it
    @needs(..., shows=("fsync",))             must fail on these, and hold on the others
    @pytest.mark.in_segment("why")            not for engines whose objects are file descriptors
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest

import shmsync
from shmsync._native import lib
from shmsync.engine import Engine, Semantics, engines

from .support.actors import Actor
from .support.watchdog import TEST_SECONDS, eventually, remember_stderr, watchdog

SHM = Path("/dev/shm")
_numbers = itertools.count()


def unique_name(word: str = "test") -> str:
    """A namespace's name that nobody else uses; with the pid, so that leftovers can be told
    apart."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers, and lets Ctrl-C through, which a shell's background jobs ignore: what
    the tests start would ignore it too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    remember_stderr()
    config.addinivalue_line("markers", "needs(flags, shows): what a test needs of an engine")
    config.addinivalue_line("markers", "in_segment(why): not for brokered engines")
    config.addinivalue_line("markers", "seconds(n): bound of a test that takes long")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run per engine; those that cannot run here are skipped with their reason."""
    if "engine" in metafunc.fixturenames:
        params = []
        for name, engine in engines().items():
            reason = engine.check()
            marks = [pytest.mark.skip(reason=f"{name}: {reason}")] if reason else []
            params.append(pytest.param(engine, id=name, marks=marks))
        metafunc.parametrize("engine", params)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turns what an engine lacks into a skip, or into a failure that is expected."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        engine: Engine | None = callspec.params.get("engine") if callspec else None
        for mark in item.iter_markers("in_segment") if engine else ():
            assert engine is not None
            if engine.brokered:
                item.add_marker(pytest.mark.skip(reason=f"{engine.name}: {mark.args[0]}"))
        for mark in item.iter_markers("needs") if engine else ():
            assert engine is not None
            missing = mark.args[0] & ~engine.semantics
            if not missing:
                continue
            names = ", ".join(str(flag.name) for flag in missing)
            shows = mark.kwargs.get("shows")
            if isinstance(shows, tuple) and engine.name not in shows:
                continue
            if shows:
                reason = f"{engine.name} lacks {names}"
                item.add_marker(
                    pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)
                )
            else:
                item.add_marker(pytest.mark.skip(reason=f"needs {names}: shown in the failure lab"))


def _left() -> set[str]:
    return {path.name for path in SHM.glob(f"shmsync-*-{os.getpid()}-*")}


def _children() -> list[psutil.Process]:
    tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    return [child for child in psutil.Process().children(recursive=True) if child.pid != tracker]


def _idle_brokers() -> list[str]:
    """Namespaces of this process that have a broker and nobody who uses them. (Brokers are nobody's
    children.)"""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            *program, name, _, segment = (process / "cmdline").read_text().rstrip("\0").split("\0")
            if program[-1:] != ["shmsync.broker"] or f"-{os.getpid()}-" not in name:
                continue
            fd = os.open(process / "fd" / segment, os.O_RDWR)
        except (OSError, ValueError):
            continue
        if not lib.ss_in_use(fd):
            found.append(name)
        os.close(fd)
    return found


@pytest.fixture(autouse=True)
def _bounded(request: pytest.FixtureRequest) -> Iterator[None]:
    marker = request.node.get_closest_marker("seconds")
    with watchdog(marker.args[0] if marker else TEST_SECONDS):
        yield


@pytest.fixture(autouse=True)
def _nothing_left_behind(_bounded: None) -> Iterator[None]:
    segments = _left()
    yield
    assert _left() == segments, "the test left segments in /dev/shm"
    assert _children() == [], "the test left processes"
    eventually(lambda: not _idle_brokers(), "the end of every broker")


@pytest.fixture
def ns(engine: Engine) -> Iterator[shmsync.Namespace]:
    """A namespace of the engine under test, with nothing in it."""
    with shmsync.Namespace(
        unique_name(engine.name), engine=engine.name, exclusive=True
    ) as namespace:
        try:
            yield namespace
        finally:
            shmsync.unlink(namespace.name)


StartActors = Callable[..., list[Actor]]


@pytest.fixture
def start(ns: shmsync.Namespace) -> Iterator[StartActors]:
    """``start("A", "B")``: actors in the namespace, gone after the test."""
    started: list[Actor] = []

    def start_actors(*labels: str) -> list[Actor]:
        new = [Actor(label, ns.name) for label in labels]
        started.extend(new)
        return [actor.ready() for actor in new]

    yield start_actors
    for actor in started:
        actor.discard()


Settles = Callable[[Callable[[], object]], None]


@pytest.fixture
def settles(engine: Engine) -> Settles:
    """``settles(predicate)``: it holds, or will soon. Where an engine hands objects over, a call
    has already changed everything when it returns, so there the predicate must hold at once."""

    def check(predicate: Callable[[], object]) -> None:
        if engine.semantics & Semantics.NO_BARGING:
            assert predicate()
        else:
            eventually(predicate, "what the test waits for")

    return check
