"""The catalogue, the matrix and the command ``shmsync lab``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shmsync_tools.lab import cli as lab_cli
from shmsync_tools.lab import matrix
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.scenario import Finding, Scenario, ScriptedStage, Verdict

from shmsync import cli
from shmsync.engine import Engine, engines

VERDICTS = {verdict.value for verdict in Verdict}
SECONDS = 120


def shmsync(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-m", "shmsync", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def broken(stage: ScriptedStage) -> Finding:
    """A script that does not fit"""
    raise AssertionError("A never stands before that step")


@pytest.fixture
def with_a_broken_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """F5 breaks off, and F6 has no scenario."""
    scenarios = dict(matrix.all_scenarios())
    scenarios[5, "fsync"] = Scenario(5, ("fsync",), "broken", broken, True, None)
    del scenarios[6, "fsync"]
    monkeypatch.setattr(matrix, "all_scenarios", lambda: scenarios)


# ---- the catalogue ----


def test_the_catalogue_is_complete() -> None:
    assert list(CATALOGUE) == list(range(1, 64))
    assert all(number == entry.number for number, entry in CATALOGUE.items())
    assert len({entry.title for entry in CATALOGUE.values()}) == 63


@pytest.mark.parametrize("number", sorted(CATALOGUE), ids=lambda number: f"F{number}")
def test_an_entry_is_told_in_sentences(number: int) -> None:
    entry = CATALOGUE[number]
    for text in (entry.text, entry.nt):
        assert text.endswith((".", ".)"))
        assert "  " not in text
        assert "\n" not in text
    assert len(entry.title) < 75
    assert not entry.title.endswith(".")
    assert entry.schemes in (("esync",), ("fsync",), ("esync", "fsync"), ())
    assert bool(entry.schemes) == (number != 63)
    assert entry.chapter


# ---- the matrix ----


def test_every_entry_has_a_scenario_for_every_engine() -> None:
    assert {"handoff", "fsync", "esync"} <= set(matrix.lab_engines()) <= set(engines())
    wanted = {(number, name) for number in CATALOGUE for name in matrix.lab_engines()}
    assert matrix.all_scenarios().keys() == wanted


@pytest.mark.seconds(300)
def test_three_runs_of_the_matrix_are_equal() -> None:
    runs = [shmsync("lab", "matrix", "--json") for _ in range(3)]
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 3
    assert runs[0].stdout == runs[1].stdout == runs[2].stdout
    told = json.loads(runs[0].stdout)
    assert set(told["engines"]) == set(matrix.lab_engines())
    assert set(told["engines"]) - set(told["not run"]) == set(matrix.usable_engines())
    assert [entry["number"] for entry in told["entries"]] == list(CATALOGUE)
    for entry in told["entries"]:
        assert entry["cells"].keys() == set(told["engines"])
        for name in matrix.usable_engines():
            cell = entry["cells"][name]
            assert cell["verdict"] in VERDICTS
            assert cell["seen"]
            assert cell["nt"]


def test_the_table_has_a_line_for_each_entry_and_a_reason_for_each_cell_that_needs_one() -> None:
    cells = matrix.fill(["fsync"])
    table = matrix.table(cells)
    lines = table.splitlines()
    flat = " ".join(table.split())
    for cell in cells:
        title = CATALOGUE[cell.number].title
        mine = [line for line in lines if line.startswith(f"F{cell.number} ") and title in line]
        assert [line.endswith(f"  {cell.text}") for line in mine] == [True]
        assert cell.run is not None
        if cell.run.finding.verdict is not Verdict.OCCURS:
            reason = f"F{cell.number} fsync {cell.text}: {cell.run.finding.seen}"
            assert " ".join(reason.split())[:60] in flat
    for number in (7, 43, 44):
        assert f"F{number} fsync occurs, forced:" in table
    sums = [int(word) for word in lines[-1].replace(",", "").split() if word.isdecimal()]
    assert sum(sums) == 63


def test_the_titles_of_the_scenarios_are_one_line() -> None:
    for scenario in matrix.all_scenarios().values():
        assert 10 < len(scenario.title) < 100
        assert not scenario.title.endswith(".")


@pytest.mark.seconds(120)
@pytest.mark.usefixtures("with_a_broken_scenario")
def test_a_scenario_that_breaks_off_is_reported_and_the_rest_is_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["lab", "matrix", "--json"]) == cli.Exit.NO
    entries = json.loads(capsys.readouterr().out)["entries"]
    verdicts = {entry["number"]: entry["cells"]["fsync"]["verdict"] for entry in entries}
    assert [number for number, verdict in verdicts.items() if verdict is None] == [5, 6]
    problems = [entries[number - 1]["cells"]["fsync"]["problem"] for number in (5, 6)]
    assert problems[0] == "AssertionError: A never stands before that step"
    assert problems[1] == "F6 has no scenario for the engine fsync"
    assert cli.main(["lab", "matrix"]) == cli.Exit.NO
    table = capsys.readouterr().out
    assert "2 FAILED" in table
    assert "F5 fsync FAILED: AssertionError: A never stands before that step" in table


# ---- the command ----


def test_list_finds_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "list"]) == 0
    assert len([x for x in capsys.readouterr().out.splitlines() if x.startswith("  F")]) == 63
    assert cli.main(["lab", "list", "lost", "WAKE-UP"]) == 0
    assert "F2 " in capsys.readouterr().out
    assert cli.main(["lab", "list", "--json", "pulse"]) == 0
    told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {18, 19, 20} <= {entry["number"] for entry in told} < set(CATALOGUE)
    assert cli.main(["lab", "list", "no such word"]) == cli.Exit.NO
    assert "no entry" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["F7", "f7", "7"])
def test_show_tells_an_entry(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "show", name]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"F7: {CATALOGUE[7].title}\n")
    assert " ".join(CATALOGUE[7].text.split()) in " ".join(told.split())
    assert "shmsync lab run F7 --engine fsync --trace" in told
    assert "forced: " in told
    assert cli.main(["lab", "show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenarios"][0]["engines"] == [
        "fsync",
        "esync",
        "handoff",
    ]


def test_run_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "run", "F2"]) == 0
    plain = capsys.readouterr().out
    assert "occurs: B sleeps" in plain
    assert "NT: " in plain
    assert "cas" not in plain
    assert cli.main(["lab", "run", "F2", "--engine", "fsync", "--trace"]) == 0
    traced = capsys.readouterr().out
    assert "store X: 0 -> 1" in traced
    assert ".kind" not in traced
    assert cli.main(["lab", "run", "F2", "--all-steps"]) == 0
    assert "load X.kind" in capsys.readouterr().out
    assert cli.main(["lab", "run", "F7", "--trace"]) == 0
    assert "forced: A is declared dead" in capsys.readouterr().out


def test_run_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "run", "F4", "--engine", "fsync", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["finding"]["verdict"] == "occurs"
    assert run["threads"]["A"] == ["wait_all(M, Y)"]
    assert set(run["owners"].values()) == {"A", "B", "C", "D", "K"}
    assert run["steps"][0]["word"] == "M.kind"
    assert run["notes"][0]["before"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "F64"], "there is no F64; the catalogue has F1 to F63"),
        (["run", "F0"], "there is no F0"),
        (["show", "two"], "there is no two"),
        (["run", "F2", "--engine", "nope"], "invalid choice: 'nope'"),
        (["report"], "-o/--output"),
        ([], "COMMAND"),
        (["nope"], "invalid choice: 'nope'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["lab", *arguments])
    assert end.value.code == cli.Exit.USAGE
    told = capsys.readouterr().err
    assert message in told
    assert "--help` shows examples" in told


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["run"], ["matrix"], ["report"]])
def test_help_teaches(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["lab", *command, "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert f"usage: {' '.join(['shmsync', 'lab', *command])}" in told
    assert "shmsync lab " in told.split("usage:")[1].split("\n", 1)[1]


@pytest.mark.usefixtures("with_a_broken_scenario")
def test_an_engine_without_a_scenario_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lab", "run", "F6"]) == cli.Exit.UNAVAILABLE
    assert "F6 has no scenario for the engine fsync" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--engine", "all"], ["--engine", "handoff"]])
def test_a_machine_on_which_no_engine_works_is_told_why(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Engine, "check", lambda engine: "it is too old")
    assert cli.main(["lab", "matrix", *arguments]) == cli.Exit.UNAVAILABLE
    assert "handoff does not work here: it is too old" in capsys.readouterr().err


def test_the_lab_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shmsync_tools.lab.cli", None)
    assert cli.main(["lab", "list"]) == cli.Exit.UNAVAILABLE
    assert "the lab is not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "lab " in capsys.readouterr().out


@pytest.mark.seconds(120)
def test_the_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "lab.html"
    assert cli.main(["lab", "report", "-o", str(page)]) == 0
    assert page.read_text().startswith("<!")
    nowhere = tmp_path / "no such folder" / "lab.html"
    assert cli.main(["lab", "report", "-o", str(nowhere)]) == cli.Exit.OS_ERROR
    assert "no such folder" in capsys.readouterr().err


def test_progress_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "fill", lambda names, progress: progress(3, "fsync") or [])
    assert cli.main(["lab", "matrix", "--json"]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert lab_cli.main(["matrix", "--json"]) == 0
    assert "F3 of 63, fsync" in capsys.readouterr().err
