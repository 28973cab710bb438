"""``python -m tests.interleave.planted MODULE PROGRAM``: explores a program in a traced module that
is not the installed one, and prints what is wrong as JSON."""

from __future__ import annotations

import json
import sys

from ..mending.verdicts import put_in_place


def wrong(program: str) -> dict[str, object]:
    """How many schedules were run, and the first failure's report."""
    from shmsync_tools.stage import Stage

    from ..support.explore import explore, failures, report
    from .programs import PROGRAMS

    with Stage("fsync") as stage:
        PROGRAMS[program](stage)
        stage.start()
        found = explore(stage)
        failed = failures(stage, found)
        text = report(program, stage, *failed[0]) if failed else ""
        return {"schedules": found.schedules, "failures": len(failed), "first": text}


if __name__ == "__main__":
    put_in_place(sys.argv[1])
    print(json.dumps(wrong(sys.argv[2])))
