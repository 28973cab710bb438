"""How a test declares what it needs of an engine (tests/conftest.py acts on it)."""

from __future__ import annotations

import pytest

from shmsync.engine import Semantics


def needs(flags: Semantics, *, shows: bool = False) -> pytest.MarkDecorator:
    """The test needs these flags. ``shows``: where they are missing it fails each time,
    single-threaded and by an assertion, so it is run and must fail; else it is skipped there."""
    return pytest.mark.needs(flags, shows=shows)
