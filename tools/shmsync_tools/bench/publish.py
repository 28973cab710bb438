"""Remakes what the README shows of the benchmark: the raw values of a run in ``docs/bench``, both
pictures, and the tables between the README's markers. ``tools/bench`` runs this."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from shmsync_tools.bench import cli, tables

ROOT = Path(__file__).parents[3]
FOLDER = "docs/bench"
RESULTS = f"{FOLDER}/results.json"
#: What stands before the tables, which the README's test runs too, and behind them.
COMMAND = f"<!-- shmsync bench table {RESULTS} --markdown -->"
END = "<!-- end of the tables -->"


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmark, unless it is told to show the last run again."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="a run of a minute or two, to try it out")
    how.add_argument("--again", action="store_true", help="no new run: the values that are there")
    wanted = parser.parse_args(arguments)
    results = ROOT / RESULTS
    if not wanted.again:
        results.parent.mkdir(parents=True, exist_ok=True)
        quick = ["--quick"] if wanted.quick else []
        if status := cli.main(["run", *quick, "--json", str(results)]):
            return status
    if status := cli.main(["plot", str(results), "-o", str(results.parent)]):
        return status
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(), tables.markdown(cli.read(str(results)))))
    print(f"{readme} has the tables of {results}", file=sys.stderr)
    return 0


def with_tables(readme: str, text: str) -> str:
    """The README with these tables between the markers. ``ValueError`` if it has no markers."""
    between = re.compile(f"(?<={re.escape(COMMAND)}\n).*?(?={re.escape(END)})", re.DOTALL)
    changed, count = between.subn(lambda _: f"{text}\n", readme)
    if count != 1:
        raise ValueError(f"the README needs one {COMMAND} and one {END} behind it")
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
