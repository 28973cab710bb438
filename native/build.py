"""Builds the C modules from native/ with cffi. Called by setup.py (`cffi_modules`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cffi import FFI

# setuptools runs this file with the project's root as the current directory, and wants relative
# paths.
NATIVE = Path("native")


def module(name: str, sources: Iterable[Path], includes: Sequence[str], *api: str) -> FFI:
    """A cffi module of these sources, with these folders of native/ first on the include path."""
    builder = FFI()
    for header in api:
        builder.cdef((NATIVE / header).read_text())
    builder.set_source(
        name,
        "#include <stdint.h>\n" + "".join(f'#include "{header}"\n' for header in api),
        sources=sorted(map(str, sources)),
        depends=sorted(map(str, NATIVE.glob("**/*.h"))),
        include_dirs=[*(str(NATIVE / folder) for folder in includes), str(NATIVE)],
        libraries=["rt"],  # shm_open, before glibc 2.34
        extra_compile_args=["-std=gnu11", "-O3", "-Wall", "-Wextra", "-pthread"],
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )
    return builder


def plain() -> FFI:
    """The production module: the seam's operations are the real ones."""
    return module("shmsync._native", NATIVE.glob("*.c"), ["plain"], "api.h")


def traced() -> FFI:
    """The same sources, with every operation on shared state a step: for tests and the lab only."""
    sources = [*NATIVE.glob("*.c"), *NATIVE.glob("traced/*.c")]
    return module("shmsync._traced", sources, ["traced"], "api.h", "traced/trace_api.h")


def bench() -> FFI:
    """Loops that measure, with nothing of the production module in them: for the benchmark only."""
    includes = ["plain", "bench"]
    return module("shmsync._bench", NATIVE.glob("bench/*.c"), includes, "bench/bench_api.h")
