"""The same bound for tests that hang as in tests/segment."""

from ..segment.conftest import _interrupted

__all__ = ["_interrupted"]
