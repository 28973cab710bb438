"""Builds variants of the traced module: everything once, then one engine's file and a link for each
variant."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distutils.core import Extension

    from .mends import Mend

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
SECONDS = 120
#: Compilers and interpreters at a time.
PARALLEL = 2


@dataclass(frozen=True)
class Verdict:
    """What the lab says of one entry: the verdict's text, or that the script does not fit the
    engine any more, and what was seen."""

    text: str
    seen: str


@dataclass(frozen=True)
class Report:
    """What the lab says of one variant: a verdict for each entry that was asked for, and what of
    the basics does not work."""

    verdicts: dict[int, Verdict]
    complaints: list[str]


def _run(command: list[str]) -> str:
    """What a command prints; its errors, if it fails, in an exception."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _extension(folder: Path) -> Extension:
    """The traced module as native/build.py describes it, with cffi's C file written to a folder."""
    spec = importlib.util.spec_from_file_location("native_build", NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with contextlib.chdir(ROOT):  # it works with paths relative to the project
        spec.loader.exec_module(module)
        made: Extension = module.traced().distutils_extension(str(folder), verbose=False)
        return made


class Workshop:
    """The objects of the traced module in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        extension = _extension(folder)
        self._sources = [ROOT / source for source in extension.sources]
        includes = [*extension.include_dirs, sysconfig.get_path("include")]
        self._flags = [
            *[f"-I{ROOT / include}" for include in includes],
            *extension.extra_compile_args,
            *["-O0", "-fPIC", "-c"],
        ]
        self._libraries = [*extension.extra_link_args, *[f"-l{x}" for x in extension.libraries]]
        with ThreadPoolExecutor(PARALLEL) as pool:
            made = pool.map(self._compile, self._sources)
            self._objects = dict(zip(self._sources, made, strict=True))

    def _compile(self, source: Path, *, name: str | None = None) -> Path:
        made = self._folder / f"{name or source.stem}.o"
        _run([os.environ.get("CC", "cc"), *self._flags, str(source), "-o", str(made)])
        return made

    def _sources_with(self, file: str) -> list[Path]:
        """That source, or those that include that header."""
        if not file.endswith(".h"):
            return [NATIVE / file]
        return [each for each in self._sources if f'#include "{file}"' in each.read_text()]

    def build(self, name: str, mend: Mend | None = None) -> Path:
        """The module with an engine mended, or as it is."""
        objects = dict(self._objects)
        folder = self._folder / name
        folder.mkdir()
        if mend is not None:
            mended = mend.apply((NATIVE / mend.file).read_text())
            (folder / mend.file).write_text(mended)
            for source in self._sources_with(mend.file):
                copy = folder / source.name
                if source.name != mend.file:  # it finds the mended header beside it
                    copy.write_text(source.read_text())
                objects[source] = self._compile(copy, name=f"{name}/{source.stem}")
        module = folder / "_traced.abi3.so"
        command = [os.environ.get("CC", "cc"), "-shared", "-o", str(module)]
        _run([*command, *map(str, objects.values()), *self._libraries])
        return module

    def report(
        self, name: str, engine: str, numbers: Iterable[int], mend: Mend | None = None
    ) -> Report:
        """What the lab says of these entries on an engine, with the module built for it; of all
        entries, if there are no numbers."""
        module = self.build(name, mend)
        command = [sys.executable, "-m", "tests.mending.verdicts", str(module), engine]
        found = json.loads(_run([*command, *map(str, numbers)]))
        verdicts = {int(number): Verdict(**each) for number, each in found["verdicts"].items()}
        return Report(verdicts, found["complaints"])
