"""The segment's file as bytes, and what must be true of them whenever nobody is in the gate.

Everything is read through the offsets that ``native/layout.h`` states, in plain Python and without
the library, so that a mistake in ``native/`` cannot hide here too.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fcntl import F_OFD_GETLK, F_UNLCK, F_WRLCK, fcntl

from shmsync._native import ffi, lib

from .watchdog import seen

NAME_BYTES = 200
#: The robust mutexes of the control block fill a cache line each; the gate is the first.
MUTEX_BYTES = 64


def _align(offset: int) -> int:
    return (offset + 63) & ~63


def fields() -> Iterator[tuple[str, str, int, int]]:
    """(structure, field, offset, size) as the compiler laid them out; field "" for a whole struct,
    with its size as the offset."""
    row = ffi.new("struct ss_layout_field *")
    number = 0
    while lib.ss_layout_field(number, row) == 0:
        field = "" if row.field == ffi.NULL else ffi.string(row.field).decode()
        yield ffi.string(row.structure).decode(), field, row.offset, row.size
        number += 1


FIELDS = {(structure, field): (at, size) for structure, field, at, size in fields() if field}
SIZES = {structure: size for structure, field, size, _ in fields() if not field}


@dataclass(frozen=True)
class Geometry:
    """Where the parts of a segment begin, computed as layout.h says in its prose."""

    capacity: int
    threads: int

    @property
    def buckets(self) -> int:
        """The power of two that is not below the capacity."""
        return 1 << (self.capacity - 1).bit_length()

    @property
    def processes_at(self) -> int:
        """First process slot."""
        return SIZES["header"] + SIZES["control"]

    @property
    def open_sets_at(self) -> int:
        """First open set."""
        return _align(self.processes_at + self.threads * SIZES["process_slot"])

    @property
    def set_bytes(self) -> int:
        """One open set: a bit per object, in 64-bit words."""
        return (self.capacity + 63) // 64 * 8

    @property
    def threads_at(self) -> int:
        """First thread slot."""
        return _align(self.open_sets_at + self.threads * self.set_bytes)

    @property
    def buckets_at(self) -> int:
        """First bucket."""
        return _align(self.threads_at + self.threads * SIZES["thread_slot"])

    @property
    def objects_at(self) -> int:
        """First object."""
        return _align(self.buckets_at + self.buckets * 4)

    @property
    def names_at(self) -> int:
        """First name."""
        return _align(self.objects_at + self.capacity * SIZES["object"])

    @property
    def size(self) -> int:
        """The whole file."""
        return _align(self.names_at + self.capacity * NAME_BYTES)


def path_of(name: str) -> str:
    """The file of a namespace."""
    return f"/dev/shm/shmsync-{name}"


class Image:
    """A copy of a segment's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.geometry = Geometry(self._field(0, "header", "capacity"), self.header("threads"))

    def _field(self, base: int, structure: str, field: str) -> int:
        offset, size = FIELDS[structure, field]
        return int.from_bytes(self.data[base + offset : base + offset + size], "little")

    def header(self, field: str) -> int:
        """A field of the header."""
        return self._field(0, "header", field)

    def control(self, field: str) -> int:
        """A field of the control block."""
        return self._field(SIZES["header"], "control", field)

    def object(self, index: int, field: str) -> int:
        """A field of an object."""
        return self._field(self.geometry.objects_at + index * SIZES["object"], "object", field)

    def process(self, slot: int, field: str) -> int:
        """A field of a process slot."""
        base = self.geometry.processes_at + slot * SIZES["process_slot"]
        return self._field(base, "process_slot", field)

    def thread(self, slot: int, field: str) -> int:
        """A field of a thread slot."""
        base = self.geometry.threads_at + slot * SIZES["thread_slot"]
        return self._field(base, "thread_slot", field)

    def bucket(self, number: int) -> int:
        """The link at the head of a chain."""
        return int(struct.unpack_from("=I", self.data, self.geometry.buckets_at + number * 4)[0])

    def name(self, index: int) -> bytes:
        """An object's name."""
        at = self.geometry.names_at + index * NAME_BYTES
        return self.data[at : at + self.object(index, "name_length")]

    def open_set(self, slot: int) -> set[int]:
        """The objects that a process slot has open."""
        at = self.geometry.open_sets_at + slot * self.geometry.set_bytes
        bits = int.from_bytes(self.data[at : at + self.geometry.set_bytes], "little")
        return {index for index in range(bits.bit_length()) if bits >> index & 1}

    def chain(self, link: int) -> list[int]:
        """The objects of a chain; one more than there can be if it goes in a circle."""
        chain: list[int] = []
        while 0 < link <= self.geometry.capacity and len(chain) <= self.geometry.capacity:
            chain.append(link - 1)
            link = self.object(link - 1, "next")
        return chain


def read(name: str) -> Image:
    """The segment as it is, once nothing is in motion: no transaction, and two equal looks."""

    def look() -> Image | None:
        copies = []
        for _ in range(2):
            with open(path_of(name), "rb") as file:
                copies.append(file.read())
        image = Image(copies[1])
        still = copies[0] == copies[1] and image.control("undo_length") == 0
        return image if still else None

    image = seen(look)
    assert image is not None, f"{name} is never at rest"
    return image


def _hash(name: bytes) -> int:
    value = 2166136261
    for byte in name:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def _slots(image: Image) -> Iterator[str]:
    """Free list and chains share the used part of the table; what was never used is zero."""
    end = image.control("objects_fresh")
    places = Counter(image.chain(image.control("objects_free")))
    for number in range(image.geometry.buckets):
        places.update(image.chain(image.bucket(number)))
    for index in range(image.geometry.capacity):
        kind, named = image.object(index, "kind"), image.object(index, "name_length") > 0
        wanted = int(index < end and (kind == 0 or named))
        if places[index] != wanted:
            yield f"object {index} is in {places[index]} lists and chains, not {wanted}"
        if kind > 4 or (index >= end and kind):
            yield f"object {index} of {end} has kind {kind}"
    free = image.chain(image.control("objects_free"))
    yield from (
        f"object {i} is on the free list, but used" for i in free if image.object(i, "kind")
    )


def _names(image: Image) -> Iterator[str]:
    """Each name leads to its object, and to one only."""
    used = [i for i in range(image.geometry.capacity) if image.object(i, "kind")]
    named = [index for index in used if image.object(index, "name_length")]
    for index in named:
        name = image.name(index)
        if image.object(index, "hash") != _hash(name):
            yield f"object {index} has not the hash of its name {name!r}"
        if index not in image.chain(image.bucket(_hash(name) % image.geometry.buckets)):
            yield f"object {index} is not in the chain of its name {name!r}"
    twice = [name for name, count in Counter(map(image.name, named)).items() if count > 1]
    yield from (f"the name {name!r} is there twice" for name in twice)


def _users(image: Image, alive: Callable[[int], bool] | None) -> Iterator[str]:
    """Users are the bits in the open sets, and only processes have bits; living ones, with
    ``alive``."""
    users: Counter[int] = Counter()
    for slot in range(image.geometry.threads):
        opened = image.open_set(slot)
        users.update(opened)
        if opened and not image.process(slot, "state"):
            yield f"process slot {slot} is free, but has {opened} open"
        if alive and image.process(slot, "state") and not alive(slot):
            yield f"process slot {slot} belongs to a dead process"
    for index in range(image.geometry.capacity):
        counted, kind = image.object(index, "users"), image.object(index, "kind")
        if counted != users[index] or (users[index] and not kind):
            yield f"object {index} of kind {kind} counts {counted} users, and has {users[index]}"


def _lost(image: Image) -> Iterator[str]:
    """An object that nobody has open is owned, or it persists by its name."""
    persistent = image.header("flags") & 1
    for index in range(image.geometry.capacity):
        kept = persistent and image.object(index, "name_length")
        owned = image.object(index, "kind") == lib.SS_MUTEX and image.object(index, "word0")
        if image.object(index, "kind") and not (image.object(index, "users") or kept or owned):
            yield f"object {index} is there for nobody"


def problems(image: Image, alive: Callable[[int], bool] | None = None) -> list[str]:
    """What is wrong with the tables of a segment at rest. With ``alive``, a dead process's slot is
    too: so it is after an attach, which collects the dead."""
    found = [*_slots(image), *_names(image), *_users(image, alive)]
    return found + list(_lost(image)) if alive else found


def alive_in(name: str) -> Callable[[int], bool]:
    """Does a process hold the byte of a process slot? (The look is through a descriptor of our own,
    which sees the locks of this process too.)"""

    def alive(slot: int) -> bool:
        fd = os.open(path_of(name), os.O_RDONLY)
        try:
            lock = struct.pack("hhqqi4x", F_WRLCK, os.SEEK_SET, 64 + slot, 1, 0)
            return int(struct.unpack_from("h", fcntl(fd, F_OFD_GETLK, lock))[0]) != F_UNLCK
        finally:
            os.close(fd)

    return alive


def check(name: str) -> None:
    """Fails the test unless the tables of a namespace are right and hold nothing of the dead.

    The caller has attached or made room since the last death, and nobody else changes anything."""
    found = problems(read(name), alive_in(name))
    assert not found, "\n".join(found)
