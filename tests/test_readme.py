"""What the README shows is what the project does."""

from __future__ import annotations

from pathlib import Path

from shmsync import engine

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_engines_is_the_one_that_the_declarations_give() -> None:
    assert engine.table() in README
