"""Runs one schedule of a program and prints its steps, as failing tests ask for."""

from __future__ import annotations

import argparse

from shmsync_tools.stage import Stage

from ..support.explore import from_text
from .programs import PROGRAMS


def _parser() -> argparse.ArgumentParser:
    titles = (
        f"  {name}: {(program.__doc__ or '').splitlines()[0]}" for name, program in PROGRAMS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.interleave",
        description=__doc__,
        epilog="programs:\n" + "\n".join(titles),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", choices=PROGRAMS, metavar="NAME")
    parser.add_argument(
        "schedule",
        help="numbers of threads in order; 1t: its deadline comes, 1r: it looks again,"
        " 1k: it is killed, 1s: it gives up waiting for a lock",
    )
    parser.add_argument("--engine", required=True)
    return parser


def main() -> None:
    """The command."""
    arguments = _parser().parse_args()
    with Stage(arguments.engine) as stage:
        PROGRAMS[arguments.program](stage)
        stage.start(history=True)
        stage.play(from_text(arguments.schedule))
        for step in stage.trace:
            change = f"{step.old} -> {step.now}" if step.word else ""
            print(f"{step.thread} {step.op:10} {step.word:22} {change:24} {step.place}")
        for thread in stage.threads:
            print(thread, [result.code for result in thread.results if result.finished])


if __name__ == "__main__":
    main()
