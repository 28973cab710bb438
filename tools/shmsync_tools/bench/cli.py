"""``shmsync bench``: how fast shmsync is on this machine, beside what people use today."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from shmsync.cli import Exit, Parser, RefusedError, add_command, add_json, print_json
from shmsync.engine import engines
from shmsync.inspect import columns
from shmsync_tools.bench import figures, plots, results, runner, tables, wine
from shmsync_tools.bench.contestants import (
    FLOOR,
    Selection,
    everybody,
    floors,
    peer_families,
    wineserver,
)
from shmsync_tools.bench.model import FULL, LARGE, QUICK, AbsentError, Setup
from shmsync_tools.bench.pool import Pool
from shmsync_tools.bench.suites import SUITES

STDOUT = "-"
NONE = "none"
WIDTH = 100

DESCRIPTION = """\
Measures shmsync beside multiprocessing, other packages and the bare kernel, all of them in turns in
one run, and says how much the run is to be trusted.
"""

EPILOG = """\
begin here:
  shmsync bench list                        the suites, and who can take part here
  shmsync bench run --quick                 everything, in a minute or two: roughly right
  shmsync bench run --json results.json     everything, in about twelve minutes
  shmsync bench figures results.json        what was to be reached, and what was
  shmsync bench plot results.json -o .      two pictures

Most peers are optional: pip install 'shmsync[bench]' brings them, and matplotlib for the pictures.
"""

RUN_EPILOG = """\
how to read it:
  Every contestant has a turn in every round, so that what disturbs the machine disturbs all. The
  tables show the median of the rounds, the lowest, and the spread (highest less lowest, as a part
  of the median). "ratio" is the median by the median of the base, in the same run; compare ratios,
  not the times of two runs. A case is called NOISY if the base itself swung by more than a quarter:
  then the machine did something else meanwhile, and its ratios say little.

  What hangs is killed after some seconds and said to hang; the run goes on. Nothing is left behind,
  not after Ctrl-C either.

engines and peers:
  --engines handoff,fsync   only these of ours            --engines none   none of ours
  --peers multiprocessing   only this one of the others   --peers none     none of them
  `shmsync bench list` names them. "floor" is what is below: loops in C over the kernel.

examples:
  shmsync bench run uncontended pingpong
  shmsync bench run waits --engines handoff --peers eventfd
  shmsync bench run --quick --json - | jq '.cases[] | select(.noisy) | .name'
  shmsync bench run --json results.json --plot ratios.svg
"""


def main(argv: Sequence[str]) -> int:
    """Runs one command of the benchmark; returns its exit status."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.run(arguments)
    return status


# ---- the command line ----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="shmsync bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_add_list, _add_run, _add_table, _add_figures, _add_plot):
        add(commands)
    return parser


def _add_list(commands: Any) -> None:
    parser = add_command(
        commands,
        "list",
        _list,
        summary="list the suites and the contestants",
        description="Lists what is measured, and who takes part: with version, or with the reason\n"
        "why it cannot take part here.",
        epilog="examples:\n  shmsync bench list\n  shmsync bench list --json | jq '.contestants'\n",
    )
    add_json(parser)


def _add_run(commands: Any) -> None:
    parser = add_command(
        commands,
        "run",
        _run,
        summary="measure",
        description="Runs all suites, or those that are named, and prints a table for each case.",
        epilog=RUN_EPILOG,
    )
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="SUITE",
        help=f"{', '.join(SUITES)}; all if none is given",
    )
    parser.add_argument(
        "--engines",
        type=_names_of("engine", list(engines())),
        default=list(engines()),
        metavar="NAMES",
        help="only these of our engines, with commas between them; or none",
    )
    parser.add_argument(
        "--peers",
        type=_names_of("peer", peer_families()),
        default=peer_families(),
        metavar="NAMES",
        help="only these of the others; or none",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything there; - is the output")
    parser.add_argument(
        "--plot",
        metavar="FILE.svg",
        help="draw the bars there, and the curves in FILE-scaling.svg",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show what the measuring processes print"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a minute or two instead of twelve")
    size.add_argument("--large", action="store_true", help="up to 1,000,000 objects")


def _add_table(commands: Any) -> None:
    parser = add_command(
        commands,
        "table",
        _table,
        summary="print the tables of a run again",
        description="Prints the tables of a run, or its short ones for a README.",
        epilog="examples:\n"
        "  shmsync bench table results.json\n"
        "  shmsync bench table results.json --markdown\n",
    )
    _add_file(parser)
    parser.add_argument("--markdown", action="store_true", help="the short tables, as Markdown")


def _add_figures(commands: Any) -> None:
    parser = add_command(
        commands,
        "figures",
        _figures,
        summary="say what was to be reached, and what was",
        description="Judges the aims that shmsync has set itself by a run. Exit status 1 if one\n"
        "is missed or was not measured.",
        epilog="examples:\n"
        "  shmsync bench figures results.json\n"
        "  shmsync bench figures results.json --json | jq '.[] | select(.met | not)'\n",
    )
    _add_file(parser)
    add_json(parser)


def _add_plot(commands: Any) -> None:
    parser = add_command(
        commands,
        "plot",
        _plot,
        summary="draw a run",
        description=f"Draws {plots.RATIOS} and {plots.SCALING}. Without matplotlib it prints the\n"
        "bars as text, and exits with status 69.",
        epilog="examples:\n  shmsync bench plot results.json -o pictures\n",
    )
    _add_file(parser)
    parser.add_argument(
        "-o", dest="folder", default=".", metavar="DIR", help="where; here if not given"
    )


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what `run --json` wrote; - is the input")


def _names_of(what: str, known: list[str]) -> Callable[[str], list[str]]:
    """A type of arguments: names with commas between them."""

    def parse(text: str) -> list[str]:
        if text == NONE:
            return []
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"no {what} {name!r}; there are {', '.join(known)}, or {NONE}"
                )
        return names

    return parse


# ---- list ----------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    found = _contestants()
    if arguments.json:
        suites = [{"name": s.name, "title": s.title, "note": s.note} for s in SUITES.values()]
        print_json({"suites": suites, "contestants": found})
        return Exit.OK
    for suite in SUITES.values():
        print(f"{suite.name:<12} {suite.title}")
        print(textwrap.indent(textwrap.fill(suite.note, WIDTH - 13), " " * 13))
    print()
    rows = [
        (
            each["name"],
            ", ".join(each["kinds"]),
            each["family"],
            each["version"] or "",
            each["absent"] or each["note"],
        )
        for each in found
    ]
    print(columns(("CONTESTANT", "AS", "CALLED", "VERSION", "NOTE"), rows))
    return Exit.OK


def _contestants() -> list[dict[str, Any]]:
    """All that can take part, and what is below; what has one label is one."""
    found: dict[str, dict[str, Any]] = {}
    for each in everybody().values():
        entry = found.setdefault(
            each.key,
            {
                "name": each.key,
                "kinds": [],
                "family": each.family,
                "version": each.version(),
                "absent": each.absent(),
                "note": each.remark,
            },
        )
        entry["kinds"].append(each.kind.value)
    return [*found.values(), _wineserver(), *_floors()]


def _wineserver() -> dict[str, Any]:
    return {
        "name": wineserver.LABEL,
        "kinds": list(wineserver.KINDS),
        "family": wineserver.FAMILY,
        "version": wine.version(),
        "absent": wine.why_absent(),
        "note": wineserver.NOTE,
    }


def _floors() -> list[dict[str, Any]]:
    try:
        floors.loops()
        reason = None
    except AbsentError as error:
        reason = str(error)
    return [
        {
            "name": label,
            "kinds": ["what is below"],
            "family": FLOOR,
            "version": None,
            "absent": reason if label.startswith("C: ") else None,
            "note": note,
        }
        for label, note in floors.described().items()
    ]


# ---- run -----------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        raise RefusedError(Exit.USAGE, f"no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    if arguments.plot and not arguments.plot.endswith(".svg"):
        raise RefusedError(
            Exit.USAGE, f"--plot wants a name that ends in .svg, not {arguments.plot!r}"
        )
    chosen = [SUITES[name] for name in arguments.suites or SUITES]
    sizes, mode = (FULL, "full")
    if arguments.quick:
        sizes, mode = QUICK, "quick"
    elif arguments.large:
        sizes, mode = LARGE, "large"
    signal.signal(signal.SIGTERM, _end)
    terminal = sys.stderr.isatty()
    progress = runner.on_terminal if terminal else runner.quiet
    try:
        with Pool(verbose=arguments.verbose) as pool:
            setup = Setup(Selection(arguments.engines, arguments.peers), sizes, pool)
            run = runner.run(setup, chosen, mode, progress)
    finally:
        if terminal:
            runner.clear_line()
    return _deliver(run, arguments)


def _end(number: int, _: object) -> NoReturn:
    """Ends as Ctrl-C does, so that nothing is left behind."""
    sys.exit(128 + number)


def _deliver(run: results.Run, arguments: argparse.Namespace) -> int:
    """Prints and writes what was asked for."""
    value = json.dumps(results.to_json(run), indent=1)
    if arguments.json == STDOUT:
        print(value)
    else:
        print(tables.text(run))
    if arguments.json and arguments.json != STDOUT:
        Path(arguments.json).write_text(value + "\n")
    if not arguments.plot:
        return Exit.OK
    bars = Path(arguments.plot)
    curves = bars.with_name(f"{bars.stem}-scaling.svg")
    return _draw(run, {bars: plots.ratios, curves: plots.scaling})


def _draw(run: results.Run, wanted: Mapping[Path, Callable[[results.Run], Any]]) -> int:
    """Draws, or prints text where there is no matplotlib. What is said goes to standard error."""
    try:
        for path, draw in wanted.items():
            figure = draw(run)
            if figure is None:
                print(f"{path}: the run has nothing to draw there", file=sys.stderr)
            else:
                print(f"{plots.write(figure, path)} drawn", file=sys.stderr)
    except AbsentError as error:
        print(f"{error}\n\n{plots.as_text(run)}", file=sys.stderr)
        return Exit.UNAVAILABLE
    return Exit.OK


# ---- what was run --------------------------------------------------------------------------------


def read(name: str) -> results.Run:
    """The run in a file. Raises ``RefusedError``."""
    try:
        text = sys.stdin.read() if name == STDOUT else Path(name).read_text()
    except FileNotFoundError:
        raise RefusedError(
            Exit.NOT_FOUND, f"there is no {name}; `shmsync bench run --json {name}` makes it"
        ) from None
    try:
        return results.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(Exit.USAGE, f"{name} cannot be read: {error}") from None


def _table(arguments: argparse.Namespace) -> int:
    run = read(arguments.file)
    print(tables.markdown(run) if arguments.markdown else tables.text(run))
    return Exit.OK


def _figures(arguments: argparse.Namespace) -> int:
    run = read(arguments.file)
    judged = figures.judge(run)
    if arguments.json:
        print_json(
            [
                {
                    "aim": each.figure.aim,
                    "limit": each.figure.limit,
                    "reached": each.value,
                    "met": each.met,
                }
                for each in judged
            ]
        )
    else:
        print(f"{tables.head(run)}\n\n{tables.figures_table(run)}\n\n{tables.noise(run)}")
    return Exit.OK if all(each.met for each in judged) else Exit.NO


def _plot(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.folder)
    wanted = {folder / plots.RATIOS: plots.ratios, folder / plots.SCALING: plots.scaling}
    return _draw(read(arguments.file), wanted)
