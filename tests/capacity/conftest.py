"""What every test gets in tests/capacity."""

from ..segment.conftest import _nothing_mapped

__all__ = ["_nothing_mapped"]
