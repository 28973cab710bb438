"""What the README shows is what the project does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shmsync import engine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n# (\w+\.py): .*?\n(.*?)```", README, re.DOTALL)


def test_the_table_of_engines_is_the_one_that_the_declarations_give() -> None:
    assert engine.table() in README


@pytest.mark.seconds(120)
@pytest.mark.parametrize(
    "command",
    re.findall(r"<!-- shmsync (.*) -->", README),
)
def test_what_a_command_prints_is_what_stands_there(command: str) -> None:
    kernel = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    if "matrix" in command and kernel < (6, 7):
        pytest.skip("before Linux 6.7 F10 occurs in place of F11")
    done = subprocess.run(
        [sys.executable, "-m", "shmsync", *command.split()],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
    )
    readme = README
    if engine.by_name("ntsync").check() is None:  # it is run, then
        readme = README.replace("`ntsync` (recorded)", "`ntsync`")
    assert done.stdout
    assert done.stdout in readme, done.stderr


def test_the_two_programs_meet_by_name() -> None:
    programs = {
        name: code.replace("render-farm", f"readme-{os.getpid()}") for name, code in EXAMPLES
    }
    assert set(programs) == {"worker.py", "boss.py"}
    boss = subprocess.Popen(
        [sys.executable, "-c", programs["boss.py"]], stdout=subprocess.PIPE, text=True
    )
    try:
        # The event goes with its last user, and a worker's signal with it if the boss is not there
        # yet. So workers are run until the boss has seen one.
        while boss.poll() is None:
            subprocess.run([sys.executable, "-c", programs["worker.py"]], check=True, timeout=60)
        output, _ = boss.communicate(timeout=60)
    finally:
        boss.kill()
        boss.wait()
    assert output == "frame-done!\n"
