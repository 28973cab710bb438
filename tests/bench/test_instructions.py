"""Instructions per operation: the record, the README's table, and the comparison of two runs. The
counting itself takes the virtual machine: tools/vm/check."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from shmsync_tools.bench import counting, floor, instructions
from shmsync_tools.bench.instructions import Record

NAME = "mutex: wait, release: handoff"


def with_figure(record: Record, change: float) -> Record:
    """The same with one figure changed, to so many times what it was."""
    operations = {key: dict(value) for key, value in record.counts.operations.items()}
    operations[counting.MUTEX]["handoff"] = round(change * operations[counting.MUTEX]["handoff"])
    counts = dataclasses.replace(record.counts, operations=operations)
    return dataclasses.replace(record, counts=counts)


@pytest.fixture
def record() -> Record:
    return instructions.committed()


def test_the_readme_shows_the_record(record: Record) -> None:
    assert instructions.table(record) in instructions.README.read_text()


def test_the_record_has_every_operation_of_every_engine(record: Record) -> None:
    assert tuple(record.counts.operations) == counting.OPERATIONS
    for figures in record.counts.operations.values():
        assert set(counting.ENGINES) <= set(figures) <= set(counting.CONTESTANTS)
        assert min(figures.values()) > 0
    assert record.counts.floors.keys() == counting.FLOORS.keys() | counting.LOCKS.keys()


def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record
    assert record.to_json() == instructions.RECORD.read_text()


def test_what_differs_by_more_than_a_hundredth_is_found(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(instructions.compare(record.counts, with_figure(record, 1.02).counts)) == 1
    assert instructions.check(record, with_figure(record, 2)) == 1
    said = capsys.readouterr().out
    assert NAME in said
    assert "+100.0 %" in said
    assert instructions.COMMAND in said


def test_what_differs_by_less_is_not(record: Record) -> None:
    assert instructions.check(record, with_figure(record, 0.995)) == 0


def test_a_figure_that_is_missing_or_new_is_found(record: Record) -> None:
    fewer = dataclasses.replace(record.counts, floors={})
    lost = instructions.compare(record.counts, fewer)
    assert len(lost) == len(counting.FLOORS) + len(counting.LOCKS)
    assert "floor: getpid: is not counted any more" in lost
    assert "floor: getpid: 328, new" in instructions.compare(
        fewer, dataclasses.replace(fewer, floors={"getpid": 328})
    )


def test_another_kernel_or_compiler_is_told_with_the_differences(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(with_figure(record, 2), kernel="99.1")
    assert instructions.check(record, other) == 1
    said = capsys.readouterr().out
    assert f"another kernel: {record.kernel}, not 99.1" in said
    assert "another compiler" not in said


def test_a_new_record_takes_the_old_ones_place_in_the_readme(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{instructions.table(record)}\nafter\n")
    monkeypatch.setattr(instructions, "README", readme)
    other = with_figure(record, 2)
    instructions.show_in_readme(record, other)
    assert readme.read_text() == f"before\n{instructions.table(other)}\nafter\n"
    with pytest.raises(instructions.RefusedError, match=r"does not show"):
        instructions.show_in_readme(record, other)


def test_check_reads_the_file_that_it_is_given(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.json"
    file.write_text(with_figure(record, 2).to_json())
    monkeypatch.setattr(instructions, "count", lambda: record)
    assert instructions.main(["--check"]) == 0
    assert instructions.main(["--check", str(file)]) == 1


@pytest.mark.parametrize(
    ("nanoseconds", "counts"), [(2.0, True), (2.0007, True), (2.02, False), (0.27, False)]
)
def test_a_clock_counts_if_a_loop_takes_exactly_its_instructions(
    nanoseconds: float, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "count_down", lambda rounds: round(nanoseconds * rounds))
    assert counting.clock_counts_instructions() == counts


def test_a_guest_does_not_write_what_would_be_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHMSYNC_VM", "1")
    assert instructions.main(["--record"]) == 69
    assert "run --record outside" in capsys.readouterr().err
