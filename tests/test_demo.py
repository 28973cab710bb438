"""The demo and the set-up scripts: what a newcomer runs first."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .support.watchdog import seen

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"


@pytest.fixture
def farm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the demo's programs share."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("shmsync_tools.demo.farm")


def segments_of_demos() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("shmsync-demo-*")}


# ---- the demo ----


def start_demo() -> subprocess.Popen[str]:
    """The demo, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "shmsync_tools.demo"],
        env=os.environ | {"PYTHONPATH": str(TOOLS)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


@pytest.mark.seconds(120)
def test_the_demo_runs_and_all_its_checks_hold() -> None:
    demo = start_demo()
    out, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, out
    assert "All as it should be" in out.splitlines()[-1]
    assert len(re.findall(r"^   ok    ", out, re.MULTILINE)) == 7
    assert "WRONG" not in out
    assert re.search(r"worker [0-4] got the lock \d+ ms after the kill, as Acquired.ABANDONED", out)
    (name,) = set(re.findall(r'the name "(demo-\d+)"', out))
    assert f"shmsync-{name}" not in segments_of_demos()


@pytest.mark.seconds(120)
def test_an_interrupted_demo_leaves_no_process_and_no_segment() -> None:
    demo = start_demo()
    assert demo.stdout is not None
    try:
        while "holds the ledger's lock" not in demo.stdout.readline():
            assert demo.poll() is None
        os.killpg(demo.pid, signal.SIGINT)
        demo.communicate(timeout=60)
        assert demo.returncode != 0
        assert seen(lambda: not group_exists(demo.pid)), "programs of the demo still run"
        assert f"shmsync-demo-{demo.pid}" not in segments_of_demos()
    finally:
        if group_exists(demo.pid):
            os.killpg(demo.pid, signal.SIGKILL)


def group_exists(pid: int) -> bool:
    """Whether any process of the group lives."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_ledger_notices_two_workers_on_one_gpu(farm: ModuleType, tmp_path: Path) -> None:
    path = str(tmp_path / "ledger")
    with farm.Ledger(path) as mine, farm.Ledger(path) as theirs:
        mine.occupy([0, 1], worker=3)
        mine.vacate([0, 1], worker=3)
        theirs.occupy([1, 2], worker=0)
        theirs.vacate([1, 2], worker=0)
        assert mine.clashes == 0
        mine.occupy([0, 1], worker=3)
        theirs.occupy([1, 2], worker=0)
        assert mine.clashes == 1
        mine.vacate([0, 1], worker=3)
        assert theirs.clashes == 2


def test_any_two_jobs_of_the_demo_want_the_same_gpu(farm: ModuleType) -> None:
    leases = [set(farm.leased(job)) for job in range(farm.JOBS)]
    assert all(len(lease) == farm.LEASE for lease in leases)
    assert all(one & other for one in leases for other in leases)


# ---- the scripts ----


def run_script(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(TOOLS / name), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH of a machine with the usual tools, but no compiler."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "mktemp", "rm", "dirname", "cat", "tr", "sort", "find", "xargs"):
        path = shutil.which(tool)
        assert path is not None
        (tools / tool).symlink_to(path)
    return str(tools)


def test_set_up_without_a_compiler_names_the_packages_to_install(bare_path: str) -> None:
    done = run_script("setup.sh", "demo", PATH=bare_path, PYTHON=sys.executable)
    assert done.returncode == 69
    assert "gcc" in done.stderr
    assert re.search(r"Debian or Ubuntu: +apt-get install .*gcc libc6-dev", done.stderr)
    assert re.search(r"Fedora: +dnf install .*gcc glibc-devel", done.stderr)


def test_set_up_without_a_python_that_is_new_enough_says_so(bare_path: str) -> None:
    done = run_script("setup.sh", "demo", PATH=bare_path, PYTHON="/bin/false")
    assert done.returncode == 69
    assert "Python 3.11 or newer (PYTHON=/bin/false is not)" in done.stderr
    assert "python3-venv" in done.stderr
    assert "python3-devel" in done.stderr


def test_the_tests_need_unshare_and_the_demo_does_not(bare_path: str) -> None:
    assert "unshare" in run_script("setup.sh", "test", PATH=bare_path).stderr
    assert "unshare" not in run_script("setup.sh", "demo", PATH=bare_path).stderr


def test_the_test_command_explains_its_options() -> None:
    done = run_script("test", "--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert run_script("test", "--nonsense").returncode == 64


def test_the_ci_runs_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1] == 'tools/test "$@"'
