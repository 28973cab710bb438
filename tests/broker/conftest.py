"""What every test gets in tests/broker."""

from ..segment.conftest import _interrupted, _nothing_mapped

__all__ = ["_interrupted", "_nothing_mapped"]
