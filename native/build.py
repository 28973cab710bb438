"""Builds shmsync._native from native/*.c with cffi. Called by setup.py (`cffi_modules`)."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

# setuptools runs this file with the project's root as the current directory, and wants relative
# paths.
NATIVE = Path("native")
SOURCES = sorted(str(path) for path in NATIVE.glob("*.c"))
HEADERS = sorted(str(path) for path in NATIVE.glob("**/*.h"))


def module(name: str, seam: str) -> FFI:
    """A cffi module of all C sources, with the seam headers of one variant first on the include
    path."""
    builder = FFI()
    builder.cdef((NATIVE / "api.h").read_text())
    builder.set_source(
        name,
        '#include <stdint.h>\n#include "api.h"\n',
        sources=SOURCES,
        depends=HEADERS,
        include_dirs=[str(NATIVE / seam), str(NATIVE)],
        extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread"],
        libraries=["rt"],  # shm_open, before glibc 2.34
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )
    return builder


def plain() -> FFI:
    """The production module: the seam's operations are the real ones."""
    return module("shmsync._native", "plain")
