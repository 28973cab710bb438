"""A recorded column of the matrix: the one of ntsync, which few machines have; and how a run is
compared with it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from shmsync_tools.lab import matrix, record
from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.scenario import SCENARIOS, Verdict
from shmsync_tools.lab.schedules import every_schedule, outcomes
from shmsync_tools.stage import SOME_TIME, Stage, outcome, set_, wait

from shmsync import cli
from shmsync.engine import by_name
from tests.lab import test_scenarios, test_scenarios_death

RECORD = Path(__file__).parent.parent / "data" / "ntsync-lab.json"
VERDICTS = test_scenarios.NTSYNC | test_scenarios_death.NTSYNC

without_the_device = pytest.mark.skipif(
    by_name("ntsync").check() is None, reason="there is a /dev/ntsync here"
)
with_the_device = pytest.mark.skipif(
    by_name("ntsync").check() is not None, reason="there is no /dev/ntsync here"
)


@pytest.fixture
def kept() -> record.Record:
    """The committed record."""
    return record.load(RECORD)


@pytest.fixture
def of_fsync(tmp_path: Path) -> Path:
    """A record that was just made of an engine that works everywhere."""
    path = tmp_path / "fsync.json"
    assert cli.main(["lab", "matrix", "--engine", "fsync", "--record", str(path)]) == 0
    return path


# ---- the record ----


def test_the_record_is_complete_and_says_where_it_comes_from(kept: record.Record) -> None:
    assert kept.engine == "ntsync"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", kept.kernel)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", kept.date)
    assert kept.answers.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("number", CATALOGUE, ids=lambda number: f"F{number}")
def test_a_recorded_answer_is_the_one_that_the_table_says(number: int, kept: record.Record) -> None:
    answer = kept.answers[number]
    matrix.all_scenarios()
    assert answer.finding.verdict is VERDICTS[number], answer.seen
    assert answer.forced == SCENARIOS[number, "ntsync"].forced
    for text in (answer.seen, answer.nt):
        assert re.fullmatch(r"([A-Z0-9]|wait_all\().*[.)]", text, re.DOTALL), text
        assert not re.search(r"/dev/shm/shmsync|lab-\d|  |\{", text), text
    assert answer.seen.startswith("Checked ") or answer.finding.verdict is not Verdict.CANNOT_OCCUR


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda told: told["cells"].pop("F7"), "incomplete or out of order: F7"),
        (lambda told: told["cells"]["F7"].update(verdict="perhaps"), "'perhaps' is not a valid"),
        (lambda told: told.pop("kernel"), "'kernel'"),
    ],
)
def test_a_record_that_is_none_is_refused(
    spoil: object, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(RECORD.read_text())
    assert callable(spoil)
    spoil(told)
    path = tmp_path / "spoiled.json"
    path.write_text(json.dumps(told))
    for option in ("--compare", "--with-record"):
        assert cli.main(["lab", "matrix", option, str(path)]) == cli.Exit.USAGE
        assert complaint in capsys.readouterr().err


# ---- comparing ----


@pytest.mark.seconds(120)
def test_a_run_is_compared_with_a_record(
    of_fsync: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lab", "matrix", "--compare", str(of_fsync)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "0 differences from what was recorded on Linux " in told.err


@pytest.mark.seconds(120)
def test_a_planted_difference_is_found(of_fsync: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = record.load(of_fsync)
    other = replace(old.answers[2], verdict="cannot occur")
    words = replace(old.answers[9], seen="Checked in another way.")
    record.write(replace(old, answers=old.answers | {2: other, 9: words}), of_fsync)
    assert cli.main(["lab", "matrix", "--compare", str(of_fsync)]) == cli.Exit.NO
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("F2: recorded cannot occur, now occurs: B sleeps")
    assert lines[1].startswith("F9: seen was recorded as 'Checked in another way.', and is now ")
    assert "2 differences" in told.err


@without_the_device
@pytest.mark.parametrize("option", ["--compare", "--engine"])
def test_without_the_engine_nothing_is_compared(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = str(RECORD) if option == "--compare" else "ntsync"
    assert cli.main(["lab", "matrix", option, value]) == cli.Exit.UNAVAILABLE
    assert "ntsync does not work here: " in capsys.readouterr().err


def test_a_record_is_of_one_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["--engine", "fsync", "--engine", "handoff", "--record", str(tmp_path / "two.json")]
    assert cli.main(["lab", "matrix", *two]) == cli.Exit.USAGE
    assert "a record is of one engine" in capsys.readouterr().err
    assert not (tmp_path / "two.json").exists()


# ---- in the matrix ----


@without_the_device
def test_the_matrix_says_what_is_not_available_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "fill", lambda names, progress: [])
    assert cli.main(["lab", "matrix"]) == 0
    table = capsys.readouterr().out
    assert table.count(" not available here\n") == 63 + 1
    reason = by_name("ntsync").check()
    assert reason
    assert f"ntsync not available here: {reason}" in " ".join(table.split())
    assert table.endswith("ntsync: 63 not available here\n")
    assert cli.main(["lab", "matrix", "--short"]) == 0
    assert "| not available here | F1-F63 |" in capsys.readouterr().out
    assert cli.main(["lab", "matrix", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["not run"] == {"ntsync": f"not available here: {reason}"}
    assert told["entries"][0]["cells"]["ntsync"]["verdict"] is None


@without_the_device
def test_a_record_stands_in_for_an_engine(
    kept: record.Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matrix, "fill", lambda names, progress: [])
    assert cli.main(["lab", "matrix", "--with-record", str(RECORD)]) == 0
    table = capsys.readouterr().out
    assert "ntsync (recorded)" in table
    assert f"ntsync recorded on Linux {kept.kernel}, {kept.date}; not available here: " in table
    assert "F43 ntsync occurs, forced: " in table
    assert "ntsync: 7 occurs, 42 cannot occur, 8 prevented by the API, 6 not reproduced" in table
    assert (
        cli.main(["lab", "matrix", "--engine", "ntsync", "--json", "--with-record", str(RECORD)])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["engines"] == ["ntsync"]
    cell = told["entries"][42]["cells"]["ntsync"]
    assert (cell["verdict"], cell["recorded"]) == ("occurs", kept.origin)


@with_the_device
def test_with_the_engine_a_record_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lab", "matrix", "--engine", "ntsync", "--short"]
    assert cli.main(arguments) == 0
    live = capsys.readouterr().out
    assert cli.main([*arguments, "--with-record", str(RECORD)]) == 0
    assert capsys.readouterr().out == live


# ---- the stage of the driver ----


@with_the_device
def test_the_schedules_that_differ_end_in_every_way_that_there_is() -> None:
    with Stage("ntsync") as stage:
        x = stage.event("X")
        stage.thread("A", wait(x, timeout=SOME_TIME))
        stage.thread("B", set_(x))
        stage.thread("C", wait(x, timeout=0))
        stage.start()

        def end() -> tuple[object, ...]:
            return (*map(outcome, stage.threads), stage.states()["X"].signaled)

        few = [end() for _ in outcomes(stage)]
        every = [end() for _ in every_schedule(stage)]
        assert set(few) == set(every)
        assert len(few) < len(every)
        assert len(set(few)) == 3
