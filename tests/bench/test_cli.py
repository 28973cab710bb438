"""``shmsync bench``: what it prints, its JSON, its exit statuses, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shmsync_tools.bench import leftovers, plots, results
from shmsync_tools.bench.model import AbsentError
from shmsync_tools.bench.suites import SUITES

from shmsync import cli
from shmsync.cli import Exit

from ..support.watchdog import eventually
from .test_figures import good_run


def bench(*arguments: str) -> tuple[int, str, str]:
    """Runs it as a program: exit status, standard output, standard error."""
    command = [sys.executable, "-m", "shmsync", "bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A run in a file."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(results.to_json(good_run())))
    return str(path)


def main(*arguments: str) -> int:
    """Runs it in this process."""
    try:
        return cli.main(["bench", *arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("command", ["", "list", "run", "table", "figures", "plot"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(*command.split(), "--help") == Exit.OK
    out = capsys.readouterr().out
    assert "shmsync bench" in out
    assert "examples:" in out or "begin here:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_list_has_every_suite_and_says_who_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("list") == Exit.OK
    out = capsys.readouterr().out
    for name in (*SUITES, "handoff", "mp.Lock", "os.eventfd", "C: robust mutex"):
        assert name in out
    assert main("list", "--json") == Exit.OK
    listed = json.loads(capsys.readouterr().out)
    assert [suite["name"] for suite in listed["suites"]] == list(SUITES)
    for each in listed["contestants"]:
        assert set(each) == {"name", "kinds", "family", "version", "absent", "note"}
    (missing,) = (each for each in listed["contestants"] if each["name"] == "filelock.FileLock")
    assert missing["absent"] is None or "pip install 'shmsync[bench]'" in missing["absent"]


def test_run_writes_json_and_nothing_else_to_the_output() -> None:
    arguments = ("--engines", "handoff", "--peers", "multiprocessing", "--quick", "--json", "-")
    status, out, err = bench("run", "uncontended", *arguments)
    assert (status, err) == (Exit.OK, "")
    value: dict[str, Any] = json.loads(out)
    run = results.from_json(value)
    assert run.mode == "quick"
    assert [case.name for case in run.cases] == ["lock", "semaphore", "event", "manual-event"]
    lock = run.cases[0]
    assert set(lock.outcomes) >= {"handoff", "mp.Lock", "mp.RLock"}
    assert not [label for label in lock.outcomes if label.startswith(("fcntl", "C: "))]
    assert len(lock.outcomes["handoff"].values["ns"]) == run.rounds
    for name in ("cpu", "cores_allowed", "kernel", "python", "load", "load_after"):
        assert run.machine[name] is not None
    assert "shmsync" in run.versions


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nonsense"), "no suite 'nonsense'; there are uncontended, "),
        (("run", "--engines", "qsync"), "no engine 'qsync'; there are handoff, "),
        (("run", "--peers", "nobody"), "no peer 'nobody'; there are multiprocessing, "),
        (("run", "--plot", "a.png"), "a name that ends in .svg"),
        (("run", "--quick", "--large"), "not allowed with"),
        (("nonsense",), "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_64_and_says_what_there_is(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main(*arguments) == Exit.USAGE
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_is_66_and_one_that_is_no_run_64(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "no-run.json"
    assert main("table", str(path)) == Exit.NOT_FOUND
    path.write_text("{}")
    assert main("table", str(path)) == Exit.USAGE
    assert "cannot be read: this is not what" in capsys.readouterr().err


def test_figures_is_1_unless_all_are_met(
    capsys: pytest.CaptureFixture[str], file: str, tmp_path: Path
) -> None:
    assert main("figures", file) == Exit.OK
    assert main("figures", file, "--json") == Exit.OK
    value = json.loads(Path(file).read_text())
    value["cases"] = value["cases"][:1]
    part = tmp_path / "part.json"
    part.write_text(json.dumps(value))
    capsys.readouterr()
    assert main("figures", str(part), "--json") == Exit.NO
    judged = json.loads(capsys.readouterr().out)
    assert [each["met"] for each in judged] == [True] + [None] * (len(judged) - 1)


def test_table_shows_a_run_again(capsys: pytest.CaptureFixture[str], file: str) -> None:
    assert main("table", file) == Exit.OK
    assert "-- uncontended lock" in capsys.readouterr().out
    assert main("table", file, "--markdown") == Exit.OK
    assert capsys.readouterr().out.startswith("|  | `handoff` |")


def test_plot_without_matplotlib_is_69_and_prints_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str, tmp_path: Path
) -> None:
    def missing() -> None:
        raise AbsentError("plots need matplotlib; pip install 'shmsync[bench]'")

    monkeypatch.setattr(plots, "pyplot", missing)
    assert main("plot", file, "-o", str(tmp_path)) == Exit.UNAVAILABLE
    err = capsys.readouterr().err
    assert "pip install" in err
    assert "####" in err


def test_plot_draws_both(capsys: pytest.CaptureFixture[str], file: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is of the extra [bench]")
    assert main("plot", file, "-o", str(tmp_path / "new")) == Exit.OK
    assert {path.name for path in (tmp_path / "new").iterdir()} == {plots.RATIOS, plots.SCALING}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_broken_off_leaves_nothing(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "shmsync", "bench", "run", "contended", "--engines", "handoff"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    token = f"shmbench-{process.pid}-"

    def left() -> list[Path]:
        return [path for path in leftovers.left(token) if path.exists()]

    def workers() -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if f"{leftovers.COORDINATOR}={process.pid}\0".encode() in environment:
                found.append(folder.name)
        return found

    try:
        eventually(lambda: left() and len(workers()) > 1, "a run that is under way")
        os.kill(process.pid, number)
        assert process.wait(timeout=30) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert left() == []
    eventually(lambda: not workers(), "the end of the workers")
