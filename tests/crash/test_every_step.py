"""A kill before every step of every operation on the tables, and of the recovery from it.

SHMSYNC_LARGE=1 tries every death in the gate, instead of some, with every death of its recoverer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shmsync.engine import Engine

from ..mending.mends import Mend
from ..mending.workshop import ROOT, Workshop

OPERATIONS = ("attach", "create", "open", "close", "register", "detach")
STRIDE = 1 if os.environ.get("SHMSYNC_LARGE") else 5


def change(file: str, why: str, *lines: tuple[str, str]) -> Mend:
    """A fault: pairs of what the source says and what it shall say."""
    return Mend(why, lines, file)


#: Faults planted in what makes the tables survive a kill, with the run that has to find each.
PLANTED: dict[str, tuple[tuple[str, ...], Mend]] = {
    "a write without an undo entry": (
        ("create",),
        change(
            "directory.c",
            "the bucket's old head is not restored",
            (
                "undo_write32(ns, bucket, segment_link(*index));",
                "store32_release(bucket, segment_link(*index));",
            ),
        ),
    ),
    "a commit in the middle of a transaction": (
        ("create",),
        change(
            "directory.c",
            "the slot is taken before anything is in it",
            (
                "load32_relaxed(&segment_object(ns, *index)->next));\n        return 0;",
                "load32_relaxed(&segment_object(ns, *index)->next));\n        undo_commit(ns);"
                "\n        return 0;",
            ),
        ),
    ),
    "a word that is written before its entry": (
        ("close",),
        change(
            "gate.c",
            "a kill between the two leaves a new word without an entry",
            (
                "undo_log(ns, (uint64_t)((uint8_t *)word - ns->base), load32_relaxed(word));",
                "uint32_t old = load32_relaxed(word); store32_release(word, value);"
                " undo_log(ns, (uint64_t)((uint8_t *)word - ns->base), old);",
            ),
        ),
    ),
    "a recovery that forgets the first entry": (
        ("create", "--recovery", "5"),
        change(
            "gate.c",
            "the loop ends one too early",
            ("    while (length > 0) {", "    while (length > 1) {"),
        ),
    ),
}


def run(operation: str, *options: str) -> dict[str, Any]:
    """What the driver reports."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.every_step", operation, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


WORDS_ONLY = pytest.mark.in_segment("descriptors of the traced build are its own process's")


@WORDS_ONLY
@pytest.mark.seconds(300)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_before_any_step_leaves_the_tables_right(engine: Engine, operation: str) -> None:
    report = run(operation, "--engine", engine.name)
    print(f"{operation}: killed before each of {report['kills']} steps")
    assert report["problem"] is None
    assert report["kills"] > 10


@WORDS_ONLY
@pytest.mark.seconds(600)
@pytest.mark.parametrize("operation", ["create", "close"])
def test_a_recoverer_may_be_killed_before_any_step_too(engine: Engine, operation: str) -> None:
    report = run(operation, "--engine", engine.name, "--recovery", str(STRIDE))
    print(f"{operation}: {report['kills']} recoverers killed")
    assert report["problem"] is None
    assert report["kills"] > 100


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The objects of the traced module, to plant faults in."""
    return Workshop(tmp_path_factory.mktemp("planted"))


@pytest.mark.seconds(300)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(workshop: Workshop, fault: str) -> None:
    arguments, planted = PLANTED[fault]
    module: Path = workshop.build(fault.replace(" ", "-"), planted)
    report = run(*arguments, "--module", str(module))
    assert report["problem"], f"{fault}: not found in {report['kills']} kills"
    print(f"{fault}: {report['problem']}")
