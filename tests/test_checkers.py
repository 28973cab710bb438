"""The checker itself: what it says of a segment of ``handoff`` with one thing changed.

The segment has threads that wait in every manner. Its bytes are copied, one word of the copy is
changed, and the checker has to name just that.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from shmsync import Namespace, wait_all, wait_any

from .conftest import unique_name
from .support.checkers import (
    ENTRIES,
    FIELDS,
    NOT_WAITING,
    SIZES,
    SLOT_DEAD,
    WAITS_FOR_ALL,
    Image,
    dead_threads,
    problems,
    read,
)
from .support.peek import until_waiting
from .support.watchdog import PATIENCE

#: Objects of the scene, in the order of their creation, which is that of their slots.
TOKENS, OTHER, LOCK, EVENT, ALERT, FREE, SET = range(7)
#: Thread slots of the scene, likewise. The main thread owns the lock.
MAIN, ANY, AGAIN, ALL = range(4)
CAPTURED, QUEUED, ABANDONED = 1 << 29, 1 << 30, 1 << 31  # in the high half of the word


@functools.cache
def scene() -> bytes:
    """The bytes of a segment in which one thread owns a mutex, and three wait."""
    name = unique_name("checkers")
    with Namespace(name, engine="handoff", capacity=16, threads=8) as namespace:
        tokens, other = namespace.semaphore("tokens", 0, maximum=3), namespace.semaphore(None, 0)
        lock, event = namespace.mutex("lock", owned=True), namespace.event("event")
        alert, free = namespace.event("alert"), namespace.mutex("free")
        manual = namespace.event("set", manual_reset=True, signaled=True)
        calls: list[Callable[[], object]] = [
            lambda: wait_any([tokens, event], PATIENCE),
            lambda: wait_any([tokens, tokens], PATIENCE, alert=event),
            lambda: wait_all([tokens, lock, free, manual], PATIENCE, alert=alert),
        ]
        threads = [threading.Thread(target=call) for call in calls]
        for number, thread in enumerate(threads, 1):
            thread.start()
            until_waiting(tokens, number)
        image = read(name)
        tokens.release(3)
        lock.release()
        for thread in threads:
            thread.join()
        del other
    return image.data


@dataclass(frozen=True)
class Place:
    """A word of the scene's bytes."""

    at: int

    @staticmethod
    def object(index: int, field: str) -> Place:
        """A field of an object."""
        geometry = Image(scene()).geometry
        return Place(geometry.objects_at + index * SIZES["object"] + FIELDS["object", field][0])

    @staticmethod
    def thread(slot: int, field: str, entry: int = 0) -> Place:
        """A field of a thread slot, or an element of one."""
        at = Image(scene()).geometry.threads_at + slot * SIZES["thread_slot"]
        return Place(at + FIELDS["thread_slot", field][0] + 4 * entry)

    @staticmethod
    def control(field: str) -> Place:
        """A field of the control block."""
        return Place(SIZES["header"] + FIELDS["control", field][0])

    def put(self, value: int) -> Change:
        """Another value there."""
        return lambda data: self._write(data, value)

    def flip(self, bits: int) -> Change:
        """Other bits there."""
        return lambda data: self._write(data, self._word(data) ^ bits)

    def _word(self, data: bytearray) -> int:
        return int.from_bytes(data[self.at : self.at + 4], "little")

    def _write(self, data: bytearray, value: int) -> None:
        data[self.at : self.at + 4] = value.to_bytes(4, "little")


Change = Callable[[bytearray], None]


def link(slot: int, entry: int) -> int:
    """The link to an entry."""
    return slot * ENTRIES + entry + 1


def found_after(*changes: Change) -> list[str]:
    """What the checker says of the changed scene."""
    data = bytearray(scene())
    for change in changes:
        change(data)
    return problems(Image(bytes(data)))


#: What is changed, and what the checker has to say. Made when needed: the places follow from the
#: scene.
DAMAGES: dict[str, tuple[Callable[[], Change], str]] = {
    "captured": (
        lambda: Place.object(EVENT, "word1").flip(CAPTURED),
        f"object {EVENT} is captured",
    ),
    "not queued": (
        lambda: Place.object(TOKENS, "word1").flip(QUEUED),
        f"object {TOKENS} has waiters, but is not marked",
    ),
    "a signaled object with a waiter": (
        lambda: Place.object(EVENT, "word0").put(1),
        f"thread slot {ANY} waits for",
    ),
    "a signaled alert": (
        lambda: Place.object(ALERT, "word0").put(1),
        f"thread slot {ALL} waits for",
    ),
    "too many tokens": (
        lambda: Place.object(OTHER, "word0").put(0x80000000),
        f"object {OTHER} of kind 1 counts",
    ),
    "an event that counts": (
        lambda: Place.object(SET, "word0").put(2),
        f"object {SET} of kind 4 counts 2 of 1",
    ),
    "an abandoned event": (
        lambda: Place.object(SET, "word1").flip(ABANDONED),
        f"object {SET} of kind 4 is owned by 0x0",
    ),
    "an abandoned mutex with an owner": (
        lambda: Place.object(LOCK, "word1").flip(ABANDONED),
        f"object {LOCK} is owned 1 times",
    ),
    "an owner and no count": (
        lambda: Place.object(LOCK, "word0").put(0),
        f"object {LOCK} is owned 0 times",
    ),
    "a count and no owner": (
        lambda: Place.object(FREE, "word0").put(1),
        f"object {FREE} is owned 1 times by 0x0",
    ),
    "an owner of another generation": (
        lambda: Place.object(LOCK, "word1").flip(1 << 20),
        f"object {LOCK} is owned by 0x110000, who is not registered",
    ),
    "a pulse that is under way": (
        lambda: Place.control("pulsing").put(EVENT + 1),
        f"undo_length 0, pulsing {EVENT + 1}",
    ),
    "a transaction": (lambda: Place.control("undo_length").put(1), "undo_length 1, pulsing 0"),
    "a dead slot": (
        lambda: Place.thread(MAIN, "state").put(SLOT_DEAD),
        f"thread slot {MAIN} is dead, and not buried",
    ),
    "a result in a free slot": (
        lambda: Place.thread(7, "result").put(0x101),
        "thread slot 7 is not used, but has a wait or a result",
    ),
    "a result that was not published": (
        lambda: Place.thread(ANY, "result").put(Image(scene()).thread(ANY, "word") | 1),
        f"thread slot {ANY} has a result that was not published",
    ),
    "a wait in a free slot": (
        lambda: Place.thread(7, "wait_kind").put(1),
        "thread slot 7 is not used, but has a wait or a result",
    ),
    "an unknown manner of waiting": (
        lambda: Place.thread(ANY, "wait_kind").put(3),
        f"thread slot {ANY} waits in the manner 3",
    ),
    "a wait for an object that is not there": (
        lambda: Place.thread(ANY, "waits", 1).put(15),
        f"thread slot {ANY} waits for ({TOKENS}, 15)",
    ),
    "a wait for another object": (
        lambda: Place.thread(ANY, "waits", 1).put(ALERT),
        f"entry 1 of thread slot {ANY} is in any of object {EVENT}",
    ),
    "a wait for too many": (
        lambda: Place.thread(ANY, "wait_count").put(66),
        f"thread slot {ANY} waits for",
    ),
    "queued, but waits no more": (
        lambda: Place.thread(ANY, "wait_kind").put(NOT_WAITING),
        f"entry 0 of thread slot {ANY} is queued, but waits for nothing",
    ),
    "in the queue of another manner": (
        lambda: Place.thread(ANY, "wait_kind").put(WAITS_FOR_ALL),
        f"entry 0 of thread slot {ANY} is in any of object {TOKENS}",
    ),
    "a queue cut short": (
        lambda: Place.thread(ANY, "next", 0).put(0),
        f"the queue any of object {TOKENS} ends with {link(ANY, 0)}",
    ),
    "a queue in a circle": (
        lambda: Place.thread(AGAIN, "next", 1).put(link(ANY, 0)),
        f"the queue any of object {TOKENS} leads nowhere, or in a circle",
    ),
    "a link that leads nowhere": (
        lambda: Place.thread(AGAIN, "next", 1).put(8 * ENTRIES + 1),
        f"the queue any of object {TOKENS} leads nowhere, or in a circle",
    ),
    "a wrong way back": (
        lambda: Place.thread(AGAIN, "previous", 0).put(0),
        f"the queue any of object {TOKENS} has a wrong previous at {link(AGAIN, 0)}",
    ),
    "a wrong last": (
        lambda: Place(Place.object(TOKENS, "any").at + 4).put(link(ANY, 0)),
        f"the queue any of object {TOKENS} ends with {link(AGAIN, 1)}",
    ),
    "on one queue of two": (
        lambda: Place.object(ALERT, "any").put(0),
        f"entry 4 of thread slot {ALL} is queued 0 times",
    ),
}


def test_the_scene_is_right_and_has_what_it_shall() -> None:
    image = Image(scene())
    assert problems(image) == []
    assert dead_threads(image) == []
    assert image.owner(LOCK) == 1 << 16 | MAIN
    assert image.owner(FREE) == 0
    assert image.queue(TOKENS, "any") == (link(ANY, 0), link(AGAIN, 1))
    assert image.queue(TOKENS, "all") == (link(ALL, 0), link(ALL, 0))
    assert image.queue(EVENT, "any") == (link(ANY, 1), link(AGAIN, 2))
    assert image.queue(ALERT, "any") == (link(ALL, 4), link(ALL, 4))


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_wrong_word_is_named(damage: str) -> None:
    change, text = DAMAGES[damage]
    found = found_after(change())
    assert [line for line in found if line.startswith(text)], found


def test_a_wait_for_all_that_could_have_all_is_named() -> None:
    for changes in (
        [Place.object(TOKENS, "word0").put(1)],
        [Place.object(LOCK, "word0").put(0), Place.object(LOCK, "word1").put(QUEUED)],
    ):
        assert not [
            line for line in found_after(*changes) if "could have" in line and f"slot {ALL}" in line
        ]
    found = found_after(
        Place.object(TOKENS, "word0").put(1),
        Place.object(LOCK, "word0").put(0),
        Place.object(LOCK, "word1").put(QUEUED),
    )
    assert [line for line in found if line.startswith(f"thread slot {ALL} waits for")]


def test_one_who_went_away_is_not_served_and_is_no_problem() -> None:
    word = Place.thread(ANY, "word")
    number = Image(scene()).thread(ANY, "word") | 0x7F
    assert found_after(word.put(number)) == []
    assert found_after(word.put(number), Place.object(EVENT, "word0").put(1))[0].startswith(
        f"thread slot {AGAIN} waits for"
    )


def test_dead_threads_are_named() -> None:
    data = bytearray(scene())
    Place.thread(MAIN, "liveness").put(0x40000000)(data)
    assert dead_threads(Image(bytes(data))) == [f"thread slot {MAIN} belongs to a dead thread"]
    found = problems(Image(bytes(data)), alive=lambda _slot: True)
    assert f"object {LOCK} is owned by a dead thread" in found
