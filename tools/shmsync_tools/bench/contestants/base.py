"""What a contestant is: something that is made under a name, opened in any process, and used by two
or three calls."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from typing import Any, ClassVar

Call = Callable[[], object]


def nothing() -> None:
    """Closes what needs no closing."""


class Kind(Enum):
    """What a contestant is used as."""

    #: take = acquire, give = release, by the same thread.
    LOCK = "lock"
    #: take = wait for a token, give = release one; begins without tokens.
    SEMAPHORE = "semaphore"
    #: take = wait and reset, give = set.
    EVENT = "event"
    #: take = wait, give = set, clear = reset; one give releases everybody.
    GATE = "manual event"


@dataclass(frozen=True)
class Opened:
    """A contestant in a process that uses it. ``thing``: what the calls are methods of, as a
    program has it; None if they are not."""

    take: Call
    give: Call
    clear: Call | None = None
    close: Call = nothing
    thing: object = None


class Part(Enum):
    """What a process will do with what it opens. (Most contestants need not know.)"""

    BOTH = "both"
    TAKES = "takes"
    GIVES = "gives"


@dataclass(frozen=True)
class Ticket:
    """What a process needs to open it: the contestant, and its name or whatever else it has."""

    kind: Kind
    key: str
    payload: Any


class Contestant:
    """One implementation of one kind.

    key: its label, unique within the kind. family: what ``--engines`` or ``--peers`` calls it.
    package: the distribution that it needs, if any. module: what is imported of it.
    related: only for processes that get it from a common ancestor. local: only for threads.
    slow: it polls, or goes through files. note: what a reader has to know to read the figures
    fairly.
    """

    key: str
    family: str
    kind: Kind
    package: ClassVar[str | None] = None
    module: ClassVar[str | None] = None
    related: bool = False
    local: bool = False
    slow: bool = False
    note: str = ""

    def absent(self) -> str | None:
        """None if it can take part here, else why not and what to do about that."""
        if self.module is None:
            return None
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"absent ({error}); pip install 'shmsync[bench]'"
        return None

    @property
    def remark(self) -> str:
        """The note, and that it is not for any two processes."""
        related = "only between related processes" if self.related else ""
        return "; ".join(part for part in (related, self.note) if part)

    def version(self) -> str | None:
        """Of its package."""
        try:
            return metadata.version(self.package) if self.package else None
        except metadata.PackageNotFoundError:
            return None

    def imported(self) -> Any:
        """Its module, which has no types."""
        assert self.module is not None
        return importlib.import_module(self.module)

    def make(self, name: str) -> AbstractContextManager[Any]:
        """Makes it under that name, and removes it in the end. Gives the payload of its
        ticket."""
        return _nothing_made(name)

    def open(self, payload: Any, part: Part) -> Opened:
        """Opens it in the process that uses it."""
        raise NotImplementedError

    @contextmanager
    def ticket(self, name: str) -> Iterator[Ticket]:
        """A ticket for it, as long as it exists."""
        with self.make(name) as payload:
            yield Ticket(self.kind, self.key, payload)


@contextmanager
def _nothing_made(name: str) -> Iterator[str]:
    yield name
