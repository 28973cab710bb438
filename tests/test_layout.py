"""The format as layout.h states it, as the compiler laid it out, and as a file has it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from shmsync import Namespace
from shmsync._native import lib
from shmsync.calls import WAIT_MAX
from shmsync.namespace import NAME_MAX

from .conftest import unique_name
from .support.checkers import FIELDS, NAME_BYTES, SIZES, Geometry, fields, path_of

LAYOUT_H = Path(__file__).parents[1] / "native" / "layout.h"

#: (capacity, threads)
SIZES_TO_TRY = [(1, 1), (1, 0xFFFF), (2, 3), (64, 64), (65, 17), (4096, 1024), (2**24, 1)]


def drawing() -> list[tuple[str, str, int, int]]:
    """The rows of the table in layout.h, as ``fields`` gives them."""
    field = re.compile(r" \*     (\w+) +(\w+) +(\d+) +(\d+)  \w.*")
    whole = re.compile(r" \*     (\w+) +(\d+) +\(size of the struct\)")
    rows = []
    for line in LAYOUT_H.read_text().splitlines():
        if match := field.fullmatch(line):
            rows.append((match[1], match[2], int(match[3]), int(match[4])))
        elif match := whole.fullmatch(line):
            rows.append((match[1], "", int(match[2]), 0))
    return rows


def test_the_drawing_is_what_the_compiler_made() -> None:
    rows = drawing()
    assert len(rows) > 40
    assert rows == list(fields())


@pytest.mark.parametrize("structure", SIZES)
def test_fields_are_aligned_and_do_not_overlap(structure: str) -> None:
    own = sorted(place for (owner, _), place in FIELDS.items() if owner == structure)
    assert own[0][0] == 0
    assert own[-1][0] + own[-1][1] <= SIZES[structure]
    assert all(start + size <= following for (start, size), (following, _) in pairwise(own))
    assert all(start % min(size & -size, 8) == 0 for start, size in own)


@pytest.mark.parametrize(("capacity", "threads"), SIZES_TO_TRY)
def test_the_parts_add_up(capacity: int, threads: int) -> None:
    geometry = Geometry(capacity, threads)
    parts = [
        ("header", 0, SIZES["header"]),
        ("control", SIZES["header"], SIZES["control"]),
        ("processes", geometry.processes_at, threads * SIZES["process_slot"]),
        ("open sets", geometry.open_sets_at, threads * geometry.set_bytes),
        ("threads", geometry.threads_at, threads * SIZES["thread_slot"]),
        ("buckets", geometry.buckets_at, geometry.buckets * 4),
        ("objects", geometry.objects_at, capacity * SIZES["object"]),
        ("names", geometry.names_at, capacity * NAME_BYTES),
        ("end", geometry.size, 0),
    ]
    for (_, start, size), (name, following, _) in pairwise(parts):
        assert 0 <= following - (start + size) < 64, name
    assert geometry.buckets >= capacity > geometry.buckets / 2 - (capacity == 1)
    assert geometry.set_bytes * 8 >= capacity
    assert lib.ss_layout_size(capacity, threads) == geometry.size


@pytest.mark.parametrize(("capacity", "threads"), [(1, 1), (16, 4), (100, 7), (4096, 1024)])
def test_a_file_has_that_size_and_is_zero_where_no_field_is(capacity: int, threads: int) -> None:
    with Namespace(unique_name(), capacity=capacity, threads=threads) as namespace:
        data = Path(path_of(namespace.name)).read_bytes()
    assert len(data) == Geometry(capacity, threads).size
    for structure, base in (("header", 0), ("control", SIZES["header"])):
        rest = bytearray(data[base : base + SIZES[structure]])
        for (owner, _), (start, size) in FIELDS.items():
            if owner == structure:
                rest[start : start + size] = bytes(size)
        assert not any(rest), structure
    start = Geometry(capacity, threads).open_sets_at
    assert not any(data[start : start + threads * Geometry(capacity, threads).set_bytes])
    assert not any(data[Geometry(capacity, threads).buckets_at :])


def test_limits_agree_with_the_format() -> None:
    assert NAME_MAX == NAME_BYTES
    assert FIELDS["thread_slot", "waits"][1] == (WAIT_MAX + 1) * 4
    assert FIELDS["control", "undo"][1] % SIZES["undo_entry"] == 0
    assert 0x31434E59534D4853.to_bytes(8, "little") == b"SHMSYNC1"
