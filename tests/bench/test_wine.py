"""A wineserver as a peer. What takes a Wine is skipped without one; that it is missing, and what to
do about it, is said in any case."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from shmsync_tools.bench import wine
from shmsync_tools.bench.contestants import wineserver
from shmsync_tools.bench.model import AbsentError
from shmsync_tools.bench.results import Outcome
from shmsync_tools.bench.runner import quiet, run_suite
from shmsync_tools.bench.suites import SUITES
from shmsync_tools.bench.wine.__main__ import main

from .conftest import MakeSetup

ABSENT = wine.why_absent()
needs_wine = pytest.mark.skipif(ABSENT is not None, reason=f"Wine is {ABSENT}")


@pytest.fixture
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a folder that is empty at first."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_what_is_missing_is_said_and_how_to_get_it(no_tools: Path) -> None:
    reason = wine.why_absent()
    assert reason is not None
    assert "apt-get install gcc-mingw-w64-x86-64 wine" in reason
    for tool in wine.NEEDED:
        assert tool in reason
    program(no_tools, "wine")
    program(no_tools, "wineserver")
    reason = wine.why_absent()
    assert reason is not None
    assert reason.endswith("apt-get install gcc-mingw-w64-x86-64")
    program(no_tools, wine.COMPILER)
    assert wine.why_absent() is None


def test_without_a_wine_the_command_says_so(
    no_tools: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 69
    assert "apt-get install" in capsys.readouterr().err


def test_a_tool_that_fails_is_named_and_nothing_stays(
    no_tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for tool in wine.NEEDED:
        program(no_tools, tool)
    home = no_tools / "tmp"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    assert main([]) == 70
    assert re.search(f"{wine.COMPILER} .*status 3", capsys.readouterr().err)
    assert not list(home.iterdir())


def test_the_names_are_those_that_the_program_knows() -> None:
    source = wine.SOURCE.read_text()
    for name in wine.NAMES:
        word, _, size = name.partition(" ")
        assert (f'"{word} "' if size else f'"{word}"') in source


@pytest.fixture(scope="module")
def session() -> Iterator[wine.Session]:
    with wine.Session() as made:
        yield made


@needs_wine
@pytest.mark.seconds(400)
def test_everything_is_measured(session: wine.Session) -> None:
    found = session.measure(loop_ms=2)
    assert tuple(found) == wine.NAMES
    assert min(found.values()) > 0
    assert (wine.version() or "").startswith("wine-")
    assert session.sync() in ("wineserver", "ntsync")
    assert session.sync() == "wineserver" or os.path.exists("/dev/ntsync")


@needs_wine
@pytest.mark.seconds(400)
def test_what_the_program_does_not_know_is_an_error(session: wine.Session) -> None:
    with pytest.raises(wine.WineError, match="any 65"):
        session.measure(["any 65"])


@needs_wine
@pytest.mark.seconds(400)
def test_a_session_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with wine.Session() as made:
        assert list(made._servers())
    assert not list(made._servers())
    assert not list(tmp_path.iterdir())


# ---- in `shmsync bench` ----

#: Where it takes part.
CASES = {
    "uncontended": {"lock", "semaphore", "event"},
    "waits": {"any-2", "any-8", "all-2", "all-8"},
    "pingpong": {"two-cores"},
}


def outcomes(setup: MakeSetup, suite: str) -> dict[str, Outcome]:
    """What became of the wineserver in each case of a suite."""
    cases = run_suite(setup("handoff", wineserver.FAMILY), SUITES[suite], quiet)
    return {
        case.name: case.outcomes[wineserver.LABEL]
        for case in cases
        if wineserver.LABEL in case.outcomes
    }


def test_without_a_wine_the_row_says_how_to_get_one(no_tools: Path, setup: MakeSetup) -> None:
    found = outcomes(setup, "waits")
    assert set(found) == CASES["waits"]
    for outcome in found.values():
        assert "apt-get install" in (outcome.absent or "")
        assert not outcome.values


@needs_wine
@pytest.mark.seconds(400)
@pytest.mark.parametrize("suite", CASES)
def test_a_wineserver_stands_beside_the_others(
    suite: str, setup: MakeSetup, monkeypatch: pytest.MonkeyPatch, session: wine.Session
) -> None:
    monkeypatch.setattr(wineserver, "_session", lambda: session)
    if session.sync() != "wineserver":
        pytest.skip("this Wine has its objects in the kernel")
    if suite == "pingpong" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    found = outcomes(setup, suite)
    assert set(found) == CASES[suite]
    for outcome in found.values():
        assert not outcome.absent
        assert not outcome.failed
        assert min(value for values in outcome.values.values() for value in values) > 0
        assert outcome.note == wineserver.NOTE


@needs_wine
def test_a_wine_that_has_its_objects_in_the_kernel_is_no_wineserver(
    monkeypatch: pytest.MonkeyPatch, session: wine.Session
) -> None:
    monkeypatch.setattr(wineserver, "_session", lambda: session)
    monkeypatch.setattr(session, "sync", lambda: "ntsync")
    with pytest.raises(AbsentError, match="ntsync"):
        wineserver.nanoseconds("mutex", 1)


@needs_wine
def test_a_session_that_cannot_be_made_is_said_in_every_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wineserver, "_session", lambda: wine.WineError("no prefix"))
    with pytest.raises(wine.WineError, match="no prefix"):
        wineserver.nanoseconds("mutex", 1)
