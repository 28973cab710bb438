"""Names: of namespaces and of objects, up to their limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shmsync
from shmsync import LimitError, Namespace, NotFoundError, inspect

from ..conftest import unique_name
from ..support.checkers import check, path_of

Open = Callable[[str], object]


@pytest.fixture
def small() -> Iterator[Namespace]:
    """A namespace with room for a few objects."""
    with Namespace(unique_name(), capacity=16, threads=4) as namespace:
        yield namespace


def padded(length: int, pad: str) -> str:
    """A name of so many bytes that nobody else uses."""
    name = unique_name("long")
    missing = length - len(name.encode())
    return name + pad * (missing // len(pad.encode())) + "x" * (missing % len(pad.encode()))


@pytest.mark.parametrize("pad", ["x", "é", "語", "🔒"])
def test_a_namespace_of_200_bytes_works_and_one_of_201_is_too_long(pad: str) -> None:
    name = padded(200, pad)
    assert len(name.encode()) == 200
    with Namespace(name, capacity=16, threads=4) as namespace:
        assert Path(path_of(name)).exists()
        assert namespace.name == name
        assert inspect.snapshot(name).name == name
        check(name)
    assert not Path(path_of(name)).exists()
    with pytest.raises(LimitError, match="201 bytes"):
        Namespace(name + "x")
    with pytest.raises(LimitError):
        shmsync.unlink(name + "x")


@pytest.mark.parametrize("pad", ["x", "é", "語", "🔒"])
def test_an_object_of_200_bytes_works_and_one_of_201_is_too_long(
    small: Namespace, pad: str
) -> None:
    name = padded(200, pad)
    event = small.event(name)
    assert small.open(name).slot == event.slot
    assert [o.name for o in small.objects()] == [name]
    for call in (small.event, small.mutex, small.semaphore, small.open):
        with pytest.raises(LimitError, match="201 bytes"):
            call(name + "x")
    with pytest.raises(NotFoundError):  # one byte less is another name
        small.open(name[:-1])
    check(small.name)


@pytest.mark.parametrize("bad", ["", "\n", "a\0b", "\x1b[2J", "\x7f", "\x80", "\x9f", "a\udc80"])
def test_empty_names_control_characters_and_lone_surrogates_are_value_errors(
    small: Namespace, bad: str
) -> None:
    for call in (Namespace, shmsync.unlink, small.event, small.mutex, small.semaphore, small.open):
        with pytest.raises(ValueError, match=r"name|surrogates"):
            call(bad)
    assert small.objects() == ()


def test_a_slash_is_for_objects_only(small: Namespace) -> None:
    before = set(os.listdir("/dev/shm"))
    for call in (Namespace, shmsync.unlink):
        for name in ("a/b", "/", "../../tmp/x"):
            with pytest.raises(ValueError, match="'/'"):
                call(name)
    assert set(os.listdir("/dev/shm")) == before
    event = small.event("a/b/../c", signaled=True)
    assert small.open("a/b/../c").slot == event.slot


@pytest.mark.parametrize("bad", [None, 3, b"name"])
def test_a_namespaces_name_is_a_str(bad: object) -> None:
    with pytest.raises(TypeError, match="str"):
        Namespace(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [3, b"name"])
def test_an_objects_name_is_a_str_or_none(small: Namespace, bad: object) -> None:
    with pytest.raises(TypeError, match="str"):
        small.event(bad)  # type: ignore[arg-type]


def test_names_that_only_look_alike_are_different(small: Namespace) -> None:
    names = ["name", "Name", "name ", " name", "näme", "na\u0308me", "nam", "name.", "."]
    handles = {name: small.event(name, exclusive=True) for name in names}
    assert len({handle.slot for handle in handles.values()}) == len(names)
    for name, handle in handles.items():
        assert small.open(name).slot == handle.slot
    check(small.name)


def test_many_names_in_few_buckets_are_all_found(small: Namespace) -> None:
    handles = [small.event(f"event {number}") for number in range(16)]
    assert [small.open(f"event {n}").slot for n in range(16)] == [h.slot for h in handles]
    check(small.name)
    for handle in handles[::2]:
        handle.close()
    for number in range(16):
        if number % 2:
            assert small.open(f"event {number}").slot == handles[number].slot
        else:
            with pytest.raises(NotFoundError):
                small.open(f"event {number}")
    check(small.name)
