"""``shmsync lab``: the catalogue of failures, each of them on demand, and the matrix."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shmsync.cli import Exit, Parser, RefusedError, add_command, add_json, print_json
from shmsync.engine import by_name, engines
from shmsync_tools.lab import matrix, record, trace
from shmsync_tools.lab.catalogue import CATALOGUE, Entry
from shmsync_tools.lab.record import Record
from shmsync_tools.lab.scenario import Run, Scenario

WIDTH = 100
ALL = "all"

DESCRIPTION = """\
Every failure that Wine's ESYNC and FSYNC are known for, on demand.

Each has a number, F1 to F63, and for each engine a scenario: a few threads, and a script that says
which of them takes its next step when. The threads run the engine's own C, compiled so that every
access to shared memory is a step. So a race that needs months of luck happens every time, and can
be looked at.
"""

EPILOG = """\
begin here:
  shmsync lab list                what is in the catalogue
  shmsync lab show F2             one failure in words
  shmsync lab run F2 --trace      see it happen, step by step
  shmsync lab matrix              which engine has which failure
  shmsync lab report -o lab.html  all of it on one page, to be opened in a browser

The folder tools/shmsync_tools/lab has a README: how to read a trace, how to write a scenario, and
what this does not show.
"""

RUN_EPILOG = """\
how to read a trace:
  Each line is a step: its number, in the column of the thread that took it what it did, and behind
  it the objects' words as they are then.
    load X: 1           it read X's word and found 1
    cas X: 1 -> 0       it found 1 as expected, and changed it to 0, in one step
    cas X fails: 0      it found 0, expected something else, and changed nothing
    swap X: 0 -> 1      it changed X to 1 and learned that it was 0
    sleep while X is 0  it sleeps in the kernel until somebody wakes the sleepers of X
    wake X: 2           it woke two sleepers of X; they go on when it is their turn
    read X fd: 1 -> 0   it took what X's eventfd had; write: it added to it, and woke who polls it
    poll X fd: sleeps   it sleeps until there is something to read; "ready": there is
    = took X, = was 1   its call returned; "was" is the state before, which set() and others return
  Words: an event's is 0 or 1; a semaphore's 2/4 is two tokens of at most four; a mutex's A x2 means
  owned twice by A. Of handoff, c behind a word: somebody is at it, inside the gate; q: somebody may
  be queued. Of esync, (1) behind a slot: what its eventfd counts; l: its spin lock is taken.
  Lines with -- say what the script does next. Steps that touch no object (such as publishing what a
  thread waits on) are left out without --all-steps; their numbers are missing.

examples:
  shmsync lab run F2
  shmsync lab run F2 --trace
  shmsync lab run F18 --engine fsync --trace --all-steps
  shmsync lab run F14 --json | jq '.[0].steps | length'
"""


def main(argv: Sequence[str]) -> int:
    """Runs one command of the lab; returns its exit status."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status


# ---- the command line ----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="shmsync lab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_list, _add_show, _add_run, _add_matrix, _add_report):
        add(commands)
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        action="append",
        metavar="ENGINE",
        choices=[*engines(), ALL],
        help=f"on this engine ({', '.join(engines())}), can be given more than once; "
        "all that work here if not given",
    )


def _add_entry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("entry", metavar="NUMBER", type=_entry, help="F1 to F63, or just 1 to 63")


def _add_list(commands: Any) -> None:
    parser = add_command(
        commands,
        "list",
        _list,
        summary="list the catalogue",
        description="Lists the failures: number, the schemes of Wine's that have it, title.",
        epilog="examples:\n  shmsync lab list\n  shmsync lab list pulse\n",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only entries that have all these words in them"
    )
    add_json(parser)


def _add_show(commands: Any) -> None:
    parser = add_command(
        commands,
        "show",
        _show,
        summary="tell one failure in words",
        description="Tells what happens in a failure, what NT does in the same situation, and how\n"
        "it can be made to happen.",
        epilog="examples:\n  shmsync lab show F2\n  shmsync lab show 2 --json\n",
    )
    _add_entry(parser)
    add_json(parser)


def _add_run(commands: Any) -> None:
    parser = add_command(
        commands,
        "run",
        _run,
        summary="make one failure happen",
        description="Runs the scenario of a failure and says what was seen: it occurs, it cannot\n"
        "occur, the API prevents it, or it is not reproduced. The exit status is 0 whatever it is.",
        epilog=RUN_EPILOG,
    )
    _add_entry(parser)
    _add_engine(parser)
    parser.add_argument("--trace", action="store_true", help="print every step that was taken")
    parser.add_argument(
        "--all-steps", action="store_true", help="in the trace, also those that touch no object"
    )
    add_json(parser)


def _add_matrix(commands: Any) -> None:
    parser = add_command(
        commands,
        "matrix",
        _matrix,
        summary="run all scenarios: which engine has which failure",
        description="Runs every scenario and prints the catalogue with a column for each engine:\n"
        "\n"
        "  occurs                it was made to happen and was seen\n"
        "  cannot occur          it was tried; below the table stands how that was checked\n"
        "  prevented by the API  the call that would cause it was made and was refused\n"
        "  not reproduced        something was run, but not that; below the table stands why\n"
        "  not available here    the engine does not work on this machine; the last lines say why\n"
        "\n"
        "A column can be written to a file, and stand in the matrix on another machine. The exit\n"
        "status is 0 if every scenario could be run, 1 if one broke off or answers otherwise than\n"
        "in the record that it is compared with.",
        epilog="examples:\n"
        "  shmsync lab matrix\n"
        "  shmsync lab matrix --short\n"
        "  shmsync lab matrix --engine fsync\n"
        "  shmsync lab matrix --with-record tests/data/ntsync-lab.json\n"
        "  tools/vm/run -- python -m shmsync lab matrix --compare tests/data/ntsync-lab.json\n"
        "  shmsync lab matrix --json | jq -r '.entries[]"
        ' | select(.cells.fsync.verdict == "occurs") | .title\'\n',
    )
    parser.add_argument(
        "--short",
        action="store_true",
        help="only which entries have which verdict, as a Markdown table",
    )
    records = parser.add_mutually_exclusive_group()
    records.add_argument(
        "--with-record",
        metavar="FILE",
        type=Path,
        help="if the engine of that record does not work here, its column is the record's",
    )
    records.add_argument(
        "--record", metavar="FILE", type=Path, help="write the column of one --engine to a file"
    )
    records.add_argument(
        "--compare",
        metavar="FILE",
        type=Path,
        help="run the engine of that record, and print what is otherwise; nothing if all is equal",
    )
    _add_engine(parser)
    add_json(parser)


def _add_report(commands: Any) -> None:
    parser = add_command(
        commands,
        "report",
        _report,
        summary="write all of it as one HTML page",
        description="Runs every scenario and writes one page that needs nothing else: the matrix,\n"
        "and for each scenario a drawn timeline beside what NT does.",
        epilog="examples:\n  shmsync lab report -o lab.html\n",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.html", required=True, type=Path, help="where to write it"
    )
    _add_engine(parser)


def _entry(text: str) -> Entry:
    digits = text.removeprefix("F").removeprefix("f")
    entry = CATALOGUE.get(int(digits)) if digits.isdecimal() else None
    if entry is None:
        raise argparse.ArgumentTypeError(f"there is no {text}; the catalogue has F1 to F63")
    return entry


def _engines(arguments: argparse.Namespace) -> list[str]:
    """The engines that were asked for, or all that work here; refuses those that do not."""
    asked: list[str] = arguments.engine or [ALL]
    usable = matrix.usable_engines()
    if ALL in asked and usable:
        return usable
    for name in matrix.lab_engines() if ALL in asked else asked:
        if reason := by_name(name).check():
            raise RefusedError(Exit.UNAVAILABLE, f"{name} does not work here: {reason}")
    return list(dict.fromkeys(asked))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


# ---- list and show -------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    words = [word.lower() for word in arguments.words]
    entries = [entry for entry in CATALOGUE.values() if _has_all(entry, words)]
    if arguments.json:
        print_json([_entry_json(entry) for entry in entries])
        return Exit.OK
    chapter = ""
    for entry in entries:
        if entry.chapter != chapter:
            print(("\n" if chapter else "") + entry.chapter)
            chapter = entry.chapter
        print(f"  F{entry.number:<3} {'+'.join(entry.schemes) or '-':11}  {entry.title}")
    if not entries:
        print(f"no entry has {' and '.join(arguments.words)} in it", file=sys.stderr)
    return Exit.OK if entries else Exit.NO


def _has_all(entry: Entry, words: Sequence[str]) -> bool:
    text = " ".join((entry.title, entry.text, entry.nt, entry.chapter, *entry.schemes)).lower()
    return all(word in text for word in words)


def _entry_json(entry: Entry) -> dict[str, Any]:
    return asdict(entry) | {"chapter": entry.chapter}


def _show(arguments: argparse.Namespace) -> int:
    entry: Entry = arguments.entry
    scenarios = [
        scenario
        for engine in engines()
        if (scenario := matrix.all_scenarios().get((entry.number, engine))) is not None
    ]
    if arguments.json:
        shown = [{"engines": s.engines, "title": s.title, "forced": s.forced} for s in scenarios]
        print_json(_entry_json(entry) | {"scenarios": shown})
        return Exit.OK
    print(f"F{entry.number}: {entry.title}\n")
    print(_wrapped(entry.text) + "\n")
    print(_wrapped(f"NT: {entry.nt}") + "\n")
    print(f"known from:  {', '.join(entry.schemes) or 'none of them'}")
    print(f"shown by:    {entry.shown}")
    for scenario in scenarios:
        for engine in scenario.engines:
            print(f"to see it:   shmsync lab run F{entry.number} --engine {engine} --trace")
        if scenario.forced:
            print(f"forced:      {scenario.forced}")
    return Exit.OK


# ---- run -----------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    entry: Entry = arguments.entry
    runs = []
    for engine in _engines(arguments):
        try:
            scenario = matrix.scenario_of(entry.number, engine)
        except matrix.NoScenarioError as error:
            raise RefusedError(Exit.UNAVAILABLE, str(error)) from None
        runs.append((scenario, scenario.run(engine)))
    if arguments.json:
        print_json([_run_json(scenario, run) for scenario, run in runs])
        return Exit.OK
    print("\n\n".join(_told(scenario, run, arguments) for scenario, run in runs))
    return Exit.OK


def _told(scenario: Scenario, run: Run, arguments: argparse.Namespace) -> str:
    forced = f"\n{_wrapped(f'forced: {scenario.forced}')}" if scenario.forced else ""
    if arguments.trace or arguments.all_steps:
        return trace.render(run, all_steps=arguments.all_steps) + forced
    return f"F{run.number} on {run.engine}: {run.title}\n\n{trace.conclusion(run)}{forced}"


def _run_json(scenario: Scenario, run: Run) -> dict[str, Any]:
    finding = {"verdict": run.finding.verdict.value, "seen": run.finding.seen, "nt": run.finding.nt}
    return asdict(run) | {
        "finding": finding,
        "forced": scenario.forced,
        "owners": {str(owner): name for owner, name in run.owners.items()},
    }


# ---- matrix and report ---------------------------------------------------------------------------


def _progress(number: int, engine: str) -> None:
    """One line on a terminal that is written over; nothing elsewhere."""
    if sys.stderr.isatty():
        print(
            f"\r\033[KF{number} of {len(CATALOGUE)}, {engine}", end="", file=sys.stderr, flush=True
        )


def _progress_ends() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _fill(names: Sequence[str]) -> list[matrix.Cell]:
    cells = matrix.fill(names, progress=_progress)
    _progress_ends()
    return cells


def _matrix(arguments: argparse.Namespace) -> int:
    if arguments.compare:
        return _compare(arguments)
    if arguments.record and (len(arguments.engine or ()) != 1 or ALL in arguments.engine):
        raise RefusedError(Exit.USAGE, "a record is of one engine: say which with --engine")
    records = [_load(arguments.with_record)] if arguments.with_record else []
    cells = _columns(arguments, records)
    if arguments.record:
        _write_record(cells, arguments.record)
    elif arguments.json:
        print_json(matrix.as_json(cells))
    elif arguments.short:
        print(matrix.short_table(cells))
    else:
        print(matrix.table(cells))
    return Exit.NO if any(cell.problem for cell in cells) else Exit.OK


def _columns(arguments: argparse.Namespace, records: Sequence[Record]) -> list[matrix.Cell]:
    """All cells: of engines that work here, and if all are wanted of those that do not."""
    asked: list[str] = arguments.engine or [ALL]
    recorded = {each.engine for each in records}
    wanted = matrix.lab_engines() if ALL in asked else list(dict.fromkeys(asked))
    usable = matrix.usable_engines()
    absent = [name for name in wanted if name not in usable and (ALL in asked or name in recorded)]
    if ALL in asked or set(wanted) - set(absent):
        arguments.engine = [name for name in asked if name not in absent]
        cells = _fill(_engines(arguments))
    else:
        cells = []
    for name in absent:
        cells += matrix.fill_absent(name, records)
    return cells


def _load(path: Path) -> Record:
    try:
        return record.load(path)
    except record.BadRecordError as error:
        raise RefusedError(Exit.USAGE, str(error)) from None


def _record_of(engine: str, cells: Sequence[matrix.Cell]) -> Record:
    return record.here(engine, {each.number: each.answer for each in cells if each.answer})


def _write_record(cells: Sequence[matrix.Cell], path: Path) -> None:
    broken = [f"F{cell.number}" for cell in cells if cell.problem]
    if broken:
        raise RefusedError(Exit.NO, f"nothing is recorded, since these broke off: {broken}")
    record.write(_record_of(cells[0].engine, cells), path)


def _compare(arguments: argparse.Namespace) -> int:
    old = _load(arguments.compare)
    arguments.engine = [old.engine]
    new = _record_of(old.engine, _fill(_engines(arguments)))
    found = list(record.differences(old, new))
    for line in found:
        print(line)
    print(
        f"{old.engine} on Linux {new.kernel}: {len(found)} differences from what was {old.origin}",
        file=sys.stderr,
    )
    return Exit.NO if found else Exit.OK


def _report(arguments: argparse.Namespace) -> int:
    from shmsync_tools.lab import report

    cells = _fill(_engines(arguments))
    report.write([cell.run for cell in cells if cell.run], arguments.output)
    for cell in cells:
        if not cell.run:
            print(f"F{cell.number} on {cell.engine}: {cell.text}", file=sys.stderr)
    return Exit.OK if all(cell.run for cell in cells) else Exit.NO
