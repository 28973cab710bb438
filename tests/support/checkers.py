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
#: Of a robust mutex's word: the thread id of who holds it, and the kernel's mark that he died.
TID_MASK = 0x3FFFFFFF
OWNER_DIED = 0x40000000
#: The number of the engine in the header whose queues and words are checked too.
HANDOFF = 2


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

    def entries(self, slot: int, field: str) -> tuple[int, ...]:
        """A field of a thread slot that has one element for each entry of a wait."""
        at, size = FIELDS["thread_slot", field]
        base = self.geometry.threads_at + slot * SIZES["thread_slot"]
        return struct.unpack_from(f"={size // 4}I", self.data, base + at)

    def queue(self, index: int, which: str) -> tuple[int, int]:
        """First and last link of an object's queue, "any" or "all"."""
        both = self.object(index, which)
        return both & 0xFFFFFFFF, both >> 32

    def owner(self, index: int) -> int:
        """The owner id of a mutex, 0 if it has none."""
        if self.header("engine") == HANDOFF:
            return Word(self, index).owner
        owner = self.object(index, "word0")
        return 0 if owner == 0xFFFFFFFF else owner  # fsync's mark of an abandoned one

    def holder(self, at: int) -> int:
        """The thread that holds a robust mutex, 0 for nobody or somebody dead."""
        return int(struct.unpack_from("=I", self.data, at)[0]) & TID_MASK

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
    """The segment as it is, once nothing is in motion: nobody in the gate, no transaction, and two
    equal looks."""

    def look() -> Image | None:
        copies = []
        for _ in range(2):
            with open(path_of(name), "rb") as file:
                copies.append(file.read())
        image = Image(copies[1])
        still = copies[0] == copies[1] and image.control("undo_length") == 0
        return image if still and not image.holder(SIZES["header"]) else None

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
    """An object that nobody has open is owned or waited for, or it persists by its name."""
    persistent = image.header("flags") & 1
    for index in range(image.geometry.capacity):
        kept = persistent and image.object(index, "name_length")
        owned = image.object(index, "kind") == lib.SS_MUTEX and image.owner(index)
        waited_for = image.object(index, "any") or image.object(index, "all")
        in_use = image.object(index, "users") or kept or owned or waited_for
        if image.object(index, "kind") and not in_use:
            yield f"object {index} is there for nobody"


# ---- the handoff engine ----

ENTRIES = 65
NOT_WAITING, WAITS_FOR_ANY, WAITS_FOR_ALL = 0, 1, 2
SLOT_USED, SLOT_DEAD = 1, 2
#: The lowest byte of the word that a thread sleeps on, if it went away without the gate.
RESULT_MASK, GONE = 0xFF, 0x7F
OWNER_MASK = 0x1FFFFFFF
COUNT_MAX, RECURSION_MAX = 0x7FFFFFFF, 0xFFFFFFFF


class Word:
    """The 64 bits of an object, taken apart."""

    def __init__(self, image: Image, index: int) -> None:
        whole = image.object(index, "word0") | image.object(index, "word1") << 32
        self.kind = image.object(index, "kind")
        self.count = whole & 0xFFFFFFFF
        self.owner = whole >> 32 & OWNER_MASK
        self.captured, self.queued, self.abandoned = (
            bool(whole >> bit & 1) for bit in (61, 62, 63)
        )

    def signaled_for(self, owner: int) -> bool:
        """Could the wait of the thread with this id take it now?"""
        if self.kind == lib.SS_MUTEX:
            return self.owner in (0, owner) and self.count < RECURSION_MAX
        return self.count > 0


@dataclass(frozen=True)
class Wait:
    """What a thread slot says about its thread's wait."""

    slot: int
    kind: int
    objects: tuple[int, ...]
    alert: int  # how many of them, the last ones, are an alert: 0 or 1
    owner: int
    gone: bool

    @property
    def for_all(self) -> int:
        """How many of its entries wait for all of them."""
        return len(self.objects) - self.alert if self.kind == WAITS_FOR_ALL else 0

    def queue_of(self, entry: int) -> str:
        """The queue that an entry belongs to."""
        return "all" if entry < self.for_all else "any"


def _used(image: Image) -> Iterator[int]:
    """Thread slots in use."""
    for slot in range(image.geometry.threads):
        if image.thread(slot, "state") == SLOT_USED:
            yield slot


def waits_of(image: Image) -> dict[int, Wait]:
    """The waits of all threads that have one, by slot."""
    waits = {}
    for slot in _used(image):
        kind, count = image.thread(slot, "wait_kind"), image.thread(slot, "wait_count")
        if kind != NOT_WAITING:
            objects, alert = image.entries(slot, "waits")[:count], image.thread(slot, "wait_alert")
            gone = image.thread(slot, "word") & RESULT_MASK == GONE
            waits[slot] = Wait(slot, kind, objects, alert, _owner_id(image, slot), gone)
    return waits


def _owner_id(image: Image, slot: int) -> int:
    return image.thread(slot, "generation") << 16 | slot


def _objects(image: Image) -> Iterator[int]:
    """Objects in use."""
    for index in range(image.geometry.capacity):
        if image.object(index, "kind"):
            yield index


def _threads_at_rest(image: Image) -> Iterator[str]:
    """What a thread slot may say while nobody is in the gate."""
    for slot in range(image.geometry.threads):
        state, kind = image.thread(slot, "state"), image.thread(slot, "wait_kind")
        if state == SLOT_DEAD:
            yield f"thread slot {slot} is dead, and not buried"
        if state != SLOT_USED and (kind or image.thread(slot, "result")):
            yield f"thread slot {slot} is not used, but has a wait or a result"
        word, result = image.thread(slot, "word"), image.thread(slot, "result")
        if result and word == result & ~0xFF:
            yield f"thread slot {slot} has a result that was not published"
        if kind > WAITS_FOR_ALL:
            yield f"thread slot {slot} waits in the manner {kind}"
    for slot, wait in waits_of(image).items():
        members, bad = len(wait.objects) - wait.alert, [*wait.objects]
        bad = [i for i in bad if i >= image.geometry.capacity or not image.object(i, "kind")]
        if bad or wait.alert > 1 or not 1 <= members < ENTRIES:
            yield f"thread slot {slot} waits for {wait.objects}, with {wait.alert} alerts"


def _walk(image: Image, index: int, which: str) -> tuple[list[tuple[int, int]], list[str]]:
    """The entries of a queue, as (thread slot, entry), and what is wrong with its links."""
    link, last = image.queue(index, which)
    places: list[tuple[int, int]] = []
    previous, wrong = 0, []
    while link:
        slot, entry = divmod(link - 1, ENTRIES)
        if slot >= image.geometry.threads or len(places) > image.geometry.threads * ENTRIES:
            wrong.append(f"the queue {which} of object {index} leads nowhere, or in a circle")
            break
        if image.entries(slot, "previous")[entry] != previous:
            wrong.append(f"the queue {which} of object {index} has a wrong previous at {link}")
        places.append((slot, entry))
        previous, link = link, image.entries(slot, "next")[entry]
    if not wrong and previous != last:
        wrong.append(f"the queue {which} of object {index} ends with {previous}, not with {last}")
    return places, wrong


def _queues(image: Image) -> Iterator[str]:
    """The queues hold the entries of the waits, each once, and nothing else."""
    waits, found = waits_of(image), Counter[tuple[int, int]]()
    for index in range(image.geometry.capacity):
        for which in ("any", "all"):
            places, wrong = _walk(image, index, which)
            yield from wrong
            found.update(places)
            for slot, entry in places:
                wait = waits.get(slot)
                if wait is None or entry >= len(wait.objects):
                    yield f"entry {entry} of thread slot {slot} is queued, but waits for nothing"
                elif (wait.objects[entry], wait.queue_of(entry)) != (index, which):
                    yield f"entry {entry} of thread slot {slot} is in {which} of object {index}"
    for slot, wait in waits.items():
        for entry in range(len(wait.objects)):
            if found[slot, entry] != 1:
                yield f"entry {entry} of thread slot {slot} is queued {found[slot, entry]} times"


def _words(image: Image) -> Iterator[str]:
    """What an object's word may say while nobody is in the gate."""
    ids = {_owner_id(image, slot) for slot in _used(image)}
    for index in _objects(image):
        word, what = Word(image, index), f"object {index}"
        if word.captured:
            yield f"{what} is captured"
        if (image.object(index, "any") or image.object(index, "all")) and not word.queued:
            yield f"{what} has waiters, but is not marked as queued"
        if word.kind == lib.SS_MUTEX:
            if bool(word.count) != bool(word.owner) or (word.abandoned and word.owner):
                yield f"{what} is owned {word.count} times by {word.owner:#x}, {word.abandoned=}"
            if word.owner and word.owner not in ids:
                yield f"{what} is owned by {word.owner:#x}, who is not registered"
        elif word.owner or word.abandoned:
            yield f"{what} of kind {word.kind} is owned by {word.owner:#x}, {word.abandoned=}"
        maximum = 1
        if word.kind == lib.SS_SEMAPHORE:
            maximum = image.object(index, "maximum")
        if word.kind != lib.SS_MUTEX and not word.count <= maximum <= COUNT_MAX:
            yield f"{what} of kind {word.kind} counts {word.count} of {maximum}"


def _servable(image: Image) -> Iterator[str]:
    """Nobody waits for what he could have."""
    words = {index: Word(image, index) for index in _objects(image)}
    for slot, wait in waits_of(image).items():
        ready = [index in words and words[index].signaled_for(wait.owner) for index in wait.objects]
        members, rest = ready[: wait.for_all], ready[wait.for_all :]
        if not wait.gone and (any(rest) or (members and all(members))):
            yield f"thread slot {slot} waits for {wait.objects}, and could have them: {ready}"


def _handoff(image: Image) -> Iterator[str]:
    """What is wrong with words, queues and waits."""
    if image.control("undo_length") or image.control("pulsing"):
        yield f"undo_length {image.control('undo_length')}, pulsing {image.control('pulsing')}"
    broken = [*_threads_at_rest(image)]
    yield from broken
    yield from _words(image)
    if not broken:  # else the queues cannot be made sense of
        yield from _queues(image)
        yield from _servable(image)


def _dead(image: Image) -> Iterator[int]:
    """Thread slots in use whose thread has ended."""
    for slot in _used(image):
        if not image.holder(image.geometry.threads_at + slot * SIZES["thread_slot"]):
            yield slot


def dead_threads(image: Image) -> list[str]:
    """Threads that have ended and that nobody has collected: none, after an attach."""
    return [f"thread slot {slot} belongs to a dead thread" for slot in _dead(image)]


def _owned_by_dead(image: Image) -> Iterator[str]:
    """A mutex's owner lives."""
    dead = {_owner_id(image, slot) for slot in _dead(image)}
    for index in _objects(image):
        if image.object(index, "kind") == lib.SS_MUTEX and image.owner(index) in dead:
            yield f"object {index} is owned by a dead thread"


def problems(image: Image, alive: Callable[[int], bool] | None = None) -> list[str]:
    """What is wrong with the tables of a segment at rest. With ``alive``, a dead process's slot is
    too, and what it owned: so it is after an attach, which collects the dead."""
    found = [*_slots(image), *_names(image), *_users(image, alive)]
    if image.header("engine") == HANDOFF:
        found += _handoff(image)
    return [*found, *_lost(image), *_owned_by_dead(image)] if alive else found


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
