"""``python -m tests.interleave.planted MODULE ENGINE PROGRAM [OPTIONS]``: explores a program in a
traced module that is not the installed one, and prints what came of it as JSON. OPTIONS: arguments
of ``explore``, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..mending.verdicts import put_in_place
from ..mending.workshop import ROOT


def planted_explored(module: Path, engine: str, program: str, **options: object) -> dict[str, Any]:
    """What this command says of a program."""
    command = [sys.executable, "-m", "tests.interleave.planted", str(module), engine, program]
    done = subprocess.run(
        [*command, json.dumps(options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def explored(engine: str, program: str, options: dict[str, Any]) -> dict[str, object]:
    """How many schedules were run, what each ending's schedule and codes are, how many of them
    nothing explains, and the first such failure's report."""
    from shmsync_tools.stage import Stage

    from ..support.explore import explore, failures, report, to_text
    from .programs import PROGRAMS

    with Stage(engine) as stage:
        PROGRAMS[program](stage)
        stage.start(history=True)
        found = explore(stage, **options)
        failed = failures(stage, found)
        text = report(program, stage, *failed[0]) if failed else ""
        endings = [
            [to_text(each.schedule), [[r and r[0] for r in rs] for rs in each.ending.results]]
            for each in found.outcomes
        ]
        return {
            "schedules": found.schedules,
            "exhausted": found.exhausted,
            "endings": endings,
            "failures": len(failed),
            "first": text,
        }


if __name__ == "__main__":
    put_in_place(sys.argv[1])
    _, _, ENGINE, PROGRAM, *OPTIONS = sys.argv
    print(json.dumps(explored(ENGINE, PROGRAM, json.loads("".join(OPTIONS) or "{}"))))
