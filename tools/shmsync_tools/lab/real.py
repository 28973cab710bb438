"""What scenarios without a stage need: namespaces of the public API, and real processes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shmsync import Namespace
from shmsync_tools.lab.scenario import Finding, Verdict

#: Seconds after which a child that should have ended long ago counts as hanging.
PATIENCE = 30.0

#: Code that lets the traced module take the place of the plain one, before anybody imports that.
TRACED_INSTEAD = """
import importlib.util, sys
from pathlib import Path
folder = Path(importlib.util.find_spec("shmsync").origin).parent
spec = importlib.util.spec_from_file_location("shmsync._traced", next(folder.glob("_traced*.so")))
traced = importlib.util.module_from_spec(spec)
spec.loader.exec_module(traced)
sys.modules["shmsync._native"] = traced
"""

_numbers = itertools.count()


def unique_name(label: str) -> str:
    """A namespace's name that nobody else uses."""
    return f"lab-{os.getpid()}-{next(_numbers)}-{label}"


@contextmanager
def namespace(engine: str, label: str, *, capacity: int = 64) -> Iterator[Namespace]:
    """An empty namespace, gone afterwards."""
    with Namespace(
        unique_name(label), engine=engine, exclusive=True, capacity=capacity, threads=16
    ) as made:
        yield made


def python(code: str, label: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, to its end. Its first argument is a new name for a
    namespace; it leaves none behind."""
    command = [sys.executable, "-c", code, unique_name(label), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def refusal(call: Callable[[], object]) -> str:
    """The name of the exception that a call raises, or "none"."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "none"


def prevented_if(refused: bool, seen: str, *, nt: str, otherwise: str) -> Finding:
    """The API prevents the failure if the observation holds; else it occurs, as ``otherwise``
    says."""
    if refused:
        return Finding(Verdict.PREVENTED, seen, nt)
    return Finding(Verdict.OCCURS, otherwise, nt)
