"""Building variants of the traced module."""

from __future__ import annotations

import pytest

from ..mending.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The objects of the traced module, to plant faults in."""
    return Workshop(tmp_path_factory.mktemp("planted"))
