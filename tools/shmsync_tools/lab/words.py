"""What the words of objects and threads mean, engine by engine: the one place that reads them for
traces and timelines."""

from __future__ import annotations

from collections.abc import Mapping

ABANDONED = 2**32 - 1
LOW = 2**32 - 1


class Words:
    """The words of an engine that nobody here knows: two numbers."""

    #: Operations on an object that only who holds the gate sees are left out of a trace.
    quiet_in_the_gate = False

    def __init__(self, owners: Mapping[int, str]) -> None:
        self.owners = owners

    def text(self, kind: str, words: tuple[int, ...]) -> str:
        """An object's two words, as they stand behind a step."""
        del kind
        return f"{words[0]:x}.{words[1]:x}"

    def label(self, kind: str, part: str) -> str | None:
        """What a field of an object is called behind the object's name: "" for the word itself;
        None if it is called as in the source."""
        del kind, part
        return None

    def is_state(self, kind: str, part: str) -> bool:
        """Is the field a part of the object's state?"""
        del kind, part
        return True

    def value(self, kind: str, part: str, value: int) -> str:
        """A value of such a field."""
        del kind, part
        return str(value)

    def before(self, part: str, words: tuple[int, ...], old: int) -> tuple[int, ...]:
        """The words of an object as a step has found them that read ``old`` in a field."""
        return (words[0], old) if part == "word1" else (old, words[1])

    def is_signaled(self, kind: str, words: tuple[int, ...]) -> bool:
        """Could somebody who owns nothing take the object?"""
        del kind, words
        return False

    def owner(self, number: int) -> str:
        """The name of a mutex's owner."""
        return self.owners.get(number, f"owner {number:#x}")


class FsyncWords(Words):
    """Two words of 32 bits: ``native/engine_fsync.c``."""

    def text(self, kind: str, words: tuple[int, ...]) -> str:
        first, second = words
        if kind == "semaphore":
            return f"{first}/{second}"
        if kind == "mutex":
            no_count = second == 0 and first in (0, ABANDONED)
            return self.owner(first) + ("" if no_count else f" x{second}")
        return str(first)

    def label(self, kind: str, part: str) -> str | None:
        count = {"mutex": "count", "semaphore": "maximum"}.get(kind, part)
        return {"word0": "", "word1": count}.get(part)

    def is_state(self, kind: str, part: str) -> bool:
        return part == "word0" or (part == "word1" and kind == "mutex")

    def value(self, kind: str, part: str, value: int) -> str:
        if kind == "mutex" and part == "word0":
            # What a sleep expects may have been widened (F11).
            return self.owner(value & LOW if value >> 32 else value)
        return str(value)

    def is_signaled(self, kind: str, words: tuple[int, ...]) -> bool:
        return words[0] in (0, ABANDONED) if kind == "mutex" else words[0] != 0

    def owner(self, number: int) -> str:
        known = {0: "free", ABANDONED: "abandoned"}
        return known.get(number) or super().owner(number)


class EsyncWords(FsyncWords):
    """Two words of 32 bits, and the counter of an eventfd: ``native/engine_esync.c``."""

    LABELS = ("word0", "word1", "eventfd")

    def text(self, kind: str, words: tuple[int, ...]) -> str:
        first, second, counter = words
        if kind == "semaphore":
            slot = f"{self.value(kind, 'word1', second)}/{first}"
        elif kind == "mutex":
            slot = super().text(kind, (first, second))
        else:
            slot = f"{first} l" if second else str(first)
        return f"{slot} ({counted(counter)})"

    def label(self, kind: str, part: str) -> str | None:
        labels = {
            "semaphore": ("maximum", "count", "fd"),
            "mutex": ("owner", "count", "fd"),
        }.get(kind, ("slot", "lock", "fd"))
        return dict(zip(self.LABELS, labels, strict=True)).get(part)

    def is_state(self, kind: str, part: str) -> bool:
        constant = {"semaphore": "word0", "auto event": "word1"}.get(kind)
        return part in self.LABELS and part != constant

    def value(self, kind: str, part: str, value: int) -> str:
        if part == "eventfd":
            return counted(value)
        # The count of a semaphore may go below 0 (F6).
        below = kind == "semaphore" and part == "word1" and value >= 2**31
        return str(value - 2**32) if below else super().value(kind, part, value)

    def before(self, part: str, words: tuple[int, ...], old: int) -> tuple[int, ...]:
        at = self.LABELS.index(part)
        return (*words[:at], old, *words[at + 1 :])

    def is_signaled(self, kind: str, words: tuple[int, ...]) -> bool:
        return words[2] > 0 or (kind == "manual event" and words[0] != 0)


def counted(value: int) -> str:
    """The counter of an eventfd; one near its limit by how far that is."""
    return f"2^64-{2**64 - value}" if value >= 2**63 else str(value)


class NtsyncWords(FsyncWords):
    """What the kernel knows, in two words like those of fsync: ``native/traced/scheduler.c``."""

    def label(self, kind: str, part: str) -> str | None:
        del kind
        return {"device": "", "word0": "hint"}.get(part)

    def is_state(self, kind: str, part: str) -> bool:
        del kind
        return part == "device"


class HandoffWords(Words):
    """One word of 64 bits: ``native/engine_handoff.c``."""

    quiet_in_the_gate = True
    FLAGS = ((61, "c"), (62, "q"))
    ABANDONED = 1 << 63
    OWNER = (1 << 29) - 1

    def text(self, kind: str, words: tuple[int, ...]) -> str:
        return self.value(kind, "word0", words[0] | words[1] << 32)

    def label(self, kind: str, part: str) -> str | None:
        return "" if part == "word0" else None

    def is_state(self, kind: str, part: str) -> bool:
        return part == "word0"

    def value(self, kind: str, part: str, value: int) -> str:
        if part != "word0":
            return str(value)
        flags = "".join(sign for bit, sign in self.FLAGS if value >> bit & 1)
        return " ".join(filter(None, (self._state(kind, value), flags)))

    def _state(self, kind: str, value: int) -> str:
        count, owner = value & LOW, value >> 32 & self.OWNER
        if kind != "mutex":
            return str(count)
        if owner:
            return f"{self.owner(owner)} x{count}"
        return "abandoned" if value & self.ABANDONED else "free"

    def before(self, part: str, words: tuple[int, ...], old: int) -> tuple[int, ...]:
        return (old & LOW, old >> 32) if part == "word0" else words

    def is_signaled(self, kind: str, words: tuple[int, ...]) -> bool:
        return not words[1] & self.OWNER if kind == "mutex" else words[0] != 0


def words_of(engine: str, owners: Mapping[int, str]) -> Words:
    """How to read the words of an engine; ``owners`` are the names of the owner ids."""
    known = {
        "esync": EsyncWords,
        "fsync": FsyncWords,
        "handoff": HandoffWords,
        "ntsync": NtsyncWords,
    }
    return known.get(engine, Words)(owners)


def wait_word(value: int) -> str:
    """The word that a thread of the handoff engine sleeps on: number of the wait, and how that
    stands."""
    if value == 0:
        return "idle"
    return {0: "waiting", 0x7F: "gone"}.get(value & 0xFF, "served")
