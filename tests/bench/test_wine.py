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
from shmsync_tools.bench.wine.__main__ import main

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
    assert "apt-get install gcc-mingw-w64-x86-64 wine64" in reason
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
    assert session.version().startswith("wine-")
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
