"""The traced build and the plain one: same sources, and nothing of the one in the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmsync import _native, _traced

#: What only the traced seam, the scheduler and the explorer have in them.
TRACES = (b"step_", b"sched_grant", b"explore")


def binary(module: object) -> bytes:
    """The module's file."""
    path = getattr(module, "__file__", None)
    assert path
    return Path(path).read_bytes()


@pytest.mark.parametrize("trace", TRACES)
def test_the_plain_module_has_nothing_of_the_traced_one(trace: bytes) -> None:
    assert trace in binary(_traced)
    assert trace not in binary(_native)


def test_both_agree_about_the_format() -> None:
    assert _traced.lib.ss_layout_size(4096, 1024) == _native.lib.ss_layout_size(4096, 1024)


def test_no_engine_has_a_hook_for_tests() -> None:
    native = Path(__file__).parent.parent / "native"
    for source in native.glob("*.[ch]"):
        text = source.read_text()
        assert "step_" not in text, source
        assert "#ifdef" not in text, source
