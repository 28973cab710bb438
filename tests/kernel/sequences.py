"""The language of the record: sequences of calls on a few objects, and what was answered.

A call reads like this (objects are numbers, callers are letters; ``OWNERS`` has their ids):

    make sem 3/2            tries to create an object, which is thrown away
    release 0 2             two tokens for semaphore 0
    A unlock 1              A gives mutex 1 back once
    A kill 1                A, who owns mutex 1, is declared dead
    set 2, reset 2, pulse 2
    A any 0 1 alert 2 by 3  A waits for any, until the clock shows 3; without "by": for ever
    A all 0*2 1 by 0        "by 0" polls; 0*2: object 0 twice
    clock 3                 the clock, which stands otherwise, now shows 3
    A interrupt             a signal ends A's wait

Its answer is what the call returned: the state before, "ok", the index of a wait (with "abandoned"
after it), "alert", "timeout", the name of an errno, or "queued" for a wait that goes on. ``woken``
has the waits that the call has ended, ``states`` the objects after it: tokens, 0 or 1 for an event,
"free", "abandoned" or owner and count of a mutex.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

#: The owner ids of the callers in the kernel. Z is nobody.
OWNERS: Final = {"A": 123, "B": 456, "C": 2**31, "D": 2**32 - 1, "Z": 0}
LETTERS: Final = {owner: letter for letter, owner in OWNERS.items()}
RECORD: Final = Path(__file__).parents[1] / "data" / "ntsync.jsonl.gz"

QUEUED: Final = "queued"
TIMEOUT: Final = "timeout"
ALERT: Final = "alert"


@dataclass(frozen=True)
class Thing:
    """An object to create: "sem 1/3", "mutex", "mutex A*2", "manual 0", "auto 1"."""

    kind: str
    count: int = 0
    maximum: int = 0
    owner: str = ""

    def __str__(self) -> str:
        if self.kind == "sem":
            return f"sem {self.count}/{self.maximum}"
        if self.kind == "mutex":
            return f"mutex {self.owner}*{self.count}" if self.owner else "mutex"
        return f"{self.kind} {self.count}"

    @staticmethod
    def parse(text: str) -> Thing:
        """The object that a text describes."""
        kind, _, rest = text.partition(" ")
        if kind == "sem":
            count, maximum = rest.split("/")
            return Thing(kind, int(count), int(maximum))
        if kind == "mutex":
            owner, _, count = rest.partition("*")
            return Thing(kind, int(count or 0), owner=owner)
        return Thing(kind, int(rest))


@dataclass(frozen=True)
class Call:
    """One call. ``by``: when a wait's time is up, 0 for a poll, None for never; or what the clock
    is set to."""

    what: str
    letter: str = ""
    objects: tuple[int, ...] = ()
    n: int = 0
    alert: int | None = None
    by: int | None = None
    thing: Thing | None = None

    @property
    def waits(self) -> bool:
        """Is it a wait?"""
        return self.what in ("any", "all")

    @property
    def polls(self) -> bool:
        """Is it a wait that never goes on?"""
        return self.waits and self.by == 0

    def __str__(self) -> str:
        words = [self.letter, self.what] if self.letter else [self.what]
        for number, same in groupby(self.objects):
            times = len([*same])
            words.append(str(number) if times == 1 else f"{number}*{times}")
        if self.what == "release":
            words.append(str(self.n))
        if self.alert is not None:
            words.append(f"alert {self.alert}")
        if self.by is not None:
            words.append(str(self.by) if self.what == "clock" else f"by {self.by}")
        return " ".join([*words, str(self.thing)] if self.thing else words)

    @staticmethod
    def parse(text: str) -> Call:
        """The call that a text describes."""
        words = text.split()
        letter = words.pop(0) if words[0] in OWNERS else ""
        what = words.pop(0)
        if what == "make":
            return Call(what, thing=Thing.parse(" ".join(words)))
        if what == "clock":
            return Call(what, by=int(words[0]))
        if what == "release":
            return Call(what, objects=(int(words[0]),), n=int(words[1]))
        options = {}
        for name in ("by", "alert"):
            if name in words:
                at = words.index(name)
                options[name] = int(words[at + 1])
                del words[at : at + 2]
        objects: list[int] = []
        for word in words:
            number, _, times = word.partition("*")
            objects += [int(number)] * int(times or 1)
        return Call(what, letter, tuple(objects), alert=options.get("alert"), by=options.get("by"))


@dataclass(frozen=True)
class Step:
    """A call and everything that came of it."""

    call: Call
    answer: str
    woken: dict[str, str] = field(default_factory=dict)
    states: tuple[str, ...] = ()

    def __str__(self) -> str:
        woken = "".join(f", {letter}: {how}" for letter, how in self.woken.items())
        return f"{self.call!s:24} {self.answer + woken:12}  [{' '.join(self.states)}]"

    def to_json(self) -> list[str]:
        """Four strings: the call, its answer, "A:0 B:alert", the states."""
        woken = ",".join(f"{letter}:{how}" for letter, how in sorted(self.woken.items()))
        return [str(self.call), self.answer, woken, " ".join(self.states)]

    @staticmethod
    def from_json(texts: Sequence[str]) -> Step:
        """The step of four strings."""
        call, answer, woken, states = texts
        ended = dict(each.split(":") for each in woken.split(",") if each)
        return Step(Call.parse(call), answer, ended, tuple(states.split()))


@dataclass(frozen=True)
class Program:
    """Objects, and calls on them, as its name, a seed, makes them."""

    seed: str
    things: tuple[Thing, ...]
    calls: tuple[Call, ...]

    @property
    def threads(self) -> bool:
        """Do its waits go on, so that it takes several threads?"""
        return self.seed.startswith("threads")


@dataclass(frozen=True)
class Recorded:
    """A sequence and what the kernel answered."""

    program: Program
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        """A line of the record."""
        return {
            "seed": self.program.seed,
            "objects": [str(thing) for thing in self.program.things],
            "steps": [step.to_json() for step in self.steps],
        }

    @staticmethod
    def from_json(line: dict[str, Any]) -> Recorded:
        """What a line of the record says."""
        steps = tuple(Step.from_json(step) for step in line["steps"])
        things = tuple(Thing.parse(text) for text in line["objects"])
        calls = tuple(step.call for step in steps)
        return Recorded(Program(line["seed"], things, calls), steps)


def write(path: Path, header: dict[str, Any], recorded: Iterable[Recorded]) -> None:
    """Writes a record; the same one is the same bytes."""
    lines = [header, *(each.to_json() for each in recorded)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def read(path: Path = RECORD) -> tuple[dict[str, Any], list[Recorded]]:
    """The record's header and its sequences."""

    def lines() -> Iterator[dict[str, Any]]:
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            yield json.loads(line)

    header, *rest = lines()
    return header, [Recorded.from_json(line) for line in rest]
