"""Builds the C modules from native/ with cffi. Called by setup.py (`cffi_modules`)."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

# setuptools runs this file with the project's root as the current directory, and wants relative
# paths.
NATIVE = Path("native")


def module(name: str, seam: str, *api: str, own_sources: bool = False) -> FFI:
    """A cffi module of all C sources, with the seam of one variant first on the include path."""
    sources = [*NATIVE.glob("*.c"), *((NATIVE / seam).glob("*.c") if own_sources else ())]
    builder = FFI()
    for header in api:
        builder.cdef((NATIVE / header).read_text())
    builder.set_source(
        name,
        "#include <stdint.h>\n" + "".join(f'#include "{header}"\n' for header in api),
        sources=sorted(map(str, sources)),
        depends=sorted(map(str, NATIVE.glob("**/*.h"))),
        include_dirs=[str(NATIVE / seam), str(NATIVE)],
        libraries=["rt"],  # shm_open, before glibc 2.34
        extra_compile_args=["-std=gnu11", "-O3", "-Wall", "-Wextra", "-pthread"],
        extra_link_args=["-pthread"],
        py_limited_api=True,
    )
    return builder


def plain() -> FFI:
    """The production module: the seam's operations are the real ones."""
    return module("shmsync._native", "plain", "api.h")


def traced() -> FFI:
    """The same sources, with every operation on shared state a step: for tests and the lab only."""
    return module("shmsync._traced", "traced", "api.h", "traced/trace_api.h", own_sources=True)
