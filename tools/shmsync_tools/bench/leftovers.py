"""What processes that were killed left behind. Everything that the benchmark makes has its
coordinator's pid in its name."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_numbers = itertools.count()


def token() -> str:
    """What is in the name of everything that this process, or a worker of it, makes."""
    return f"shmbench-{_coordinator}-"


# A worker makes things too; the coordinator tells it who it is, in its environment.
COORDINATOR = "SHMSYNC_BENCH_COORDINATOR"
_coordinator = os.environ.get(COORDINATOR) or str(os.getpid())

FASTIPC = Path("/dev/shm/fastipc")
_had_fastipc = FASTIPC.exists()


def fresh_name() -> str:
    """A name that nobody else uses."""
    return f"{token()}{os.getpid()}-{next(_numbers)}"


def left(name: str | None = None) -> Iterator[Path]:
    """Files and folders that have this in their name; the token if it is not given."""
    for folder in (Path("/dev/shm"), FASTIPC, Path(tempfile.gettempdir())):
        yield from folder.glob(f"*{name or token()}*")


def sweep() -> None:
    """Removes them, and the folder of fastipc if it is empty and was not there before."""
    for path in left():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not _had_fastipc:
        with suppress(OSError):
            FASTIPC.rmdir()
