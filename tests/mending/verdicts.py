"""``python -m tests.mending.verdicts MODULE ENGINE [NUMBER ...]``: runs scenarios of the lab for an
engine on a traced module that is not the installed one, and prints as JSON the verdicts, and what
does not work any more."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
import sys
from collections.abc import Iterator


def put_in_place(path: str) -> None:
    """Makes a module file the ``shmsync._traced`` of this process."""
    spec = importlib.util.spec_from_file_location("shmsync._traced", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["shmsync._traced"] = module


def verdicts(wanted: str, numbers: set[int]) -> Iterator[tuple[int, dict[str, str]]]:
    """Each entry's verdict, and what was seen."""
    from shmsync_tools.lab.scenario import SCENARIOS

    package = importlib.import_module("shmsync_tools.lab.scenarios")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for (number, engine), scenario in sorted(SCENARIOS.items()):
        if engine != wanted or (numbers and number not in numbers):
            continue
        try:
            finding = scenario.run(engine).finding
            yield number, {"text": finding.verdict.value, "seen": finding.seen}
        except AssertionError as error:
            yield number, {"text": "the script does not fit", "seen": str(error)}


if __name__ == "__main__":
    put_in_place(sys.argv[1])
    from .basics import complaints

    print(
        json.dumps(
            {
                "verdicts": dict(verdicts(sys.argv[2], set(map(int, sys.argv[3:])))),
                "complaints": list(complaints(sys.argv[2])),
            }
        )
    )
