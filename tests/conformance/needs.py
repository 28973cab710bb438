"""How a test declares what it needs of an engine (tests/conftest.py acts on it)."""

from __future__ import annotations

import pytest

from shmsync.engine import Semantics


def needs(flags: Semantics, *, shows: bool | tuple[str, ...] = False) -> pytest.MarkDecorator:
    """The test needs these flags. ``shows``: where they are missing it fails each time,
    single-threaded and by an assertion, so it is run and must fail; else it is skipped there. Names
    of engines: it must fail on these, and hold on the others, which lack the flag for another
    reason."""
    return pytest.mark.needs(flags, shows=shows)
