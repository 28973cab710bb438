"""Instructions per operation, the kernel's and ours, of shmsync's engines and of what there is
beside them.

    tools/vm/run --icount -- python -m shmsync_tools.bench.instructions

counts in a virtual machine, whose clock advances by one nanosecond an instruction; outside of one
this command starts it. Instructions are not time (no caches, no mispredicted branches), but they
are the same in every run: --check compares them with the committed record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from shmsync import _native
from shmsync_tools.bench.counting import (
    CONTESTANTS,
    LOCKS,
    Counts,
    clock_counts_instructions,
    measure,
)

ROOT = Path(__file__).parents[3]
RECORD: Final = Path(__file__).with_name("instructions.json")
README: Final = ROOT / "README.md"
MODULE: Final = "shmsync_tools.bench.instructions"
#: How the record and the README's table are made anew.
COMMAND: Final = f"python -m {MODULE} --record"
#: Two runs may differ by that much of a figure, and by the rounding.
TOLERANCE: Final = 0.01
#: Seconds that the guest may take.
PATIENCE: Final = 900


class RefusedError(Exception):
    """This cannot be done here; the message says what can."""


@dataclass(frozen=True)
class Record:
    """Counts, and what they were counted on."""

    kernel: str
    compiler: str
    libc: str
    python: str
    date: str
    counts: Counts

    @classmethod
    def from_json(cls, text: str) -> Record:
        """What ``to_json`` made."""
        raw: dict[str, Any] = json.loads(text)
        return cls(**{**raw, "counts": Counts(**raw["counts"])})

    def to_json(self) -> str:
        """One figure a line, so that a change can be read."""
        return json.dumps(asdict(self), indent=2) + "\n"


def committed() -> Record:
    """The record that the README shows."""
    return Record.from_json(RECORD.read_text())


# ---- counting ----


def _compiler() -> str:
    """What shmsync's C was compiled with, as the compiler notes in what it makes."""
    assert _native.__file__
    found = re.search(rb"GCC: \([^)]*\) ([\d.]+)", Path(_native.__file__).read_bytes())
    return f"gcc {found[1].decode()}" if found else "unknown"


def count_here() -> Record:
    """Counts in this machine, whose clock does."""
    return Record(
        kernel=platform.release(),
        compiler=_compiler(),
        libc=" ".join(platform.libc_ver()),
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        counts=measure(),
    )


def count_in_guest() -> Record:
    """Starts the virtual machine and counts there."""
    runner = ROOT / "tools/vm/run"
    if not runner.exists():
        raise RefusedError(
            "this machine's clock does not count instructions. In a checkout of shmsync's source"
            " tools/vm/run --icount starts one whose clock does"
        )
    command = [str(runner), "--icount", "--", "python", "-m", MODULE, "--json", "-"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RefusedError(f"tools/vm/run ended with status {done.returncode}; see above")
    return Record.from_json(done.stdout)


def count() -> Record:
    """Counts, here or in a guest."""
    if clock_counts_instructions():
        return count_here()
    if "SHMSYNC_VM" in os.environ:
        raise RefusedError("this guest's clock does not count; start it by tools/vm/run --icount")
    return count_in_guest()


# ---- comparing ----


def _figures(counts: Counts) -> dict[str, int]:
    """All figures, by what they are."""
    figures = {f"floor: {name}": figure for name, figure in counts.floors.items()}
    for operation, by_name in counts.operations.items():
        figures |= {f"{operation}: {name}": figure for name, figure in by_name.items()}
    return figures


def compare(old: Counts, new: Counts) -> list[str]:
    """Where the second differs by more than a hundredth, a line each."""
    before, now = _figures(old), _figures(new)
    found = [f"{name}: is not counted any more" for name in before.keys() - now.keys()]
    found += [f"{name}: {now[name]:,}, new" for name in now.keys() - before.keys()]
    for name in before.keys() & now.keys():
        change = now[name] - before[name]
        if abs(change) > max(1, TOLERANCE * before[name]):
            percent = 100 * change / before[name]
            found.append(f"{name}: {before[name]:,} before, {now[name]:,} now ({percent:+.1f} %)")
    return sorted(found)


def largest_difference(old: Counts, new: Counts) -> float:
    """Of the figures that both have, as a part of the figure."""
    before, now = _figures(old), _figures(new)
    return max(abs(now[name] - before[name]) / before[name] for name in before.keys() & now.keys())


def _other_conditions(old: Record, new: Record) -> Iterator[str]:
    for what in ("kernel", "compiler", "libc", "python"):
        before, now = getattr(old, what), getattr(new, what)
        if before != now:
            yield f"(the record is of another {what}: {before}, not {now})"


def check(old: Record, new: Record) -> int:
    """Says where a run differs from a record; 1 if it does."""
    found = compare(old.counts, new.counts)
    print(
        f"{len(_figures(new.counts))} figures, {len(found)} differ by more than 1 % from those of"
        f" {old.date}; the largest difference is"
        f" {100 * largest_difference(old.counts, new.counts):.2f} %"
    )
    for line in found:
        print(f"  {line}")
    if found:
        for line in _other_conditions(old, new):
            print(line)
        print(f"If that is meant to be, make the record and the README's table anew: {COMMAND}")
    return bool(found)


# ---- showing ----


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(record: Record) -> str:
    """The record as Markdown, as it stands in the README."""
    names = [f"`{name}`" for name in CONTESTANTS]
    lines = [_row(["instructions", *names]), "|---|" + "--:|" * len(names)]
    for operation, figures in record.counts.operations.items():
        cells = [f"{figures[name]:,}" if name in figures else "" for name in CONTESTANTS]
        lines.append(_row([operation, *cells]))
    floors = ", ".join(
        f"{name} {figure:,}" for name, figure in record.counts.floors.items() if name not in LOCKS
    )
    locks = ", ".join(
        f"{name} {figure:,}" for name, figure in record.counts.floors.items() if name in LOCKS
    )
    where = f"Linux {record.kernel}, {record.compiler}, {record.libc}, Python {record.python}"
    text = f"For comparison, in C: {floors}. In Python, acquire and release: {locks}."
    caption = textwrap.fill(f"{text} ({where}, {record.date}.)", 100, break_on_hyphens=False)
    return "\n".join([*lines, "", caption])


def show_in_readme(old: Record, new: Record) -> None:
    """Puts the new table in the place of the old one."""
    text = README.read_text()
    if table(old) not in text:
        raise RefusedError(f"{README.name} does not show the table of {RECORD.name}")
    README.write_text(text.replace(table(old), table(new)))


def make_record() -> Record:
    """Counts, and replaces the record and the README's table."""
    if "SHMSYNC_VM" in os.environ:
        raise RefusedError("what a guest writes is lost: run --record outside, it starts a guest")
    old, new = committed(), count()
    show_in_readme(old, new)
    RECORD.write_text(new.to_json())
    return new


# ---- the command line ----

EPILOG = f"""\
examples:
  python -m {MODULE}                counts, and prints a table
  python -m {MODULE} --check        and compares with the record
  {COMMAND}       makes the record and the README's table anew
  python -m {MODULE} --table        the record, without counting

exit status: 0; 1 if --check finds a difference; 69 if this machine cannot count
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"python -m {MODULE}",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", metavar="FILE", help="write it as JSON; - is stdout")
    what.add_argument(
        "--check",
        type=Path,
        nargs="?",
        const=RECORD,
        metavar="FILE",
        help="compare with a file that --json has written, or with the committed record",
    )
    what.add_argument("--record", action="store_true", help="make record and README anew")
    what.add_argument("--table", action="store_true", help="print the record, and count nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.table:
        print(table(committed()))
    elif options.record:
        print(table(make_record()))
    elif options.check:
        return check(Record.from_json(options.check.read_text()), count())
    elif options.json == "-":
        print(count().to_json(), end="")
    elif options.json:
        Path(options.json).write_text(count().to_json())
    else:
        print(table(count()))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    try:
        return _run(_parser().parse_args(arguments))
    except RefusedError as error:
        print(f"{MODULE}: {error}", file=sys.stderr)
        return 69


if __name__ == "__main__":
    sys.exit(main())
