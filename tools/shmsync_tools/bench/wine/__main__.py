"""``python -m shmsync_tools.bench.wine``: what the objects of a wineserver cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from shmsync_tools.bench.wine import Session, WineError, medians, version, why_absent


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 69 if there is no Wine; 70 if it fails."""
    parser = argparse.ArgumentParser(
        "python -m shmsync_tools.bench.wine",
        description="Measures the objects of a wineserver by a Windows program under Wine, in"
        " nanoseconds per operation. Makes a Wine prefix of its own, and removes it.",
    )
    parser.add_argument("--json", metavar="FILE", help="write it as JSON; - is stdout")
    options = parser.parse_args(arguments)
    if reason := why_absent():
        print(f"Wine is {reason}", file=sys.stderr)
        return 69
    try:
        with Session() as session:
            sync, figures = session.sync(), medians(session)
    except WineError as error:
        print(error, file=sys.stderr)
        return 70
    text = json.dumps({"version": version(), "sync": sync, "ns": figures}, indent=2) + "\n"
    if options.json == "-":
        print(text, end="")
        return 0
    if options.json:
        Path(options.json).write_text(text)
    print(f"{version()}, objects by {sync}: ns per operation")
    for name, figure in figures.items():
        print(f"  {name:12s} {figure:10,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
