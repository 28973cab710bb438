"""Who takes part in the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shmsync.engine import engines
from shmsync_tools.bench.contestants import ours, peers, stdlib, wineserver
from shmsync_tools.bench.contestants.base import (
    Contestant,
    Kind,
    Opened,
    Part,
    Ticket,
)

#: What ``--peers`` calls that which nobody can be faster than, see ``floor``.
FLOOR = "floor"

__all__ = [
    "FLOOR",
    "Contestant",
    "Kind",
    "Opened",
    "Part",
    "Selection",
    "Ticket",
    "everybody",
    "opened",
    "peer_families",
]


def everybody() -> dict[tuple[Kind, str], Contestant]:
    """All contestants, by kind and label, whether they can take part here or not."""
    found = [ours.Ours(engine, kind) for engine in engines() for kind in Kind]
    found.append(ours.Ours("handoff", Kind.LOCK, fair=False))
    taking_part: list[Contestant] = [*found, *stdlib.CONTESTANTS, *peers.CONTESTANTS]
    return {(each.kind, each.key): each for each in taking_part}


def peer_families() -> list[str]:
    """What ``--peers`` takes: everybody's family but our engines."""
    found = [each.family for each in everybody().values() if not isinstance(each, ours.Ours)]
    return [*dict.fromkeys(found), wineserver.FAMILY, FLOOR]


@dataclass(frozen=True)
class Selection:
    """Who takes part in a run: of our engines and of the peers' families, those that are named."""

    engines: Sequence[str]
    peers: Sequence[str]

    def has(self, family: str) -> bool:
        """Is this family, or engine, asked for?"""
        return family in self.engines or family in self.peers

    def of(self, *kinds: Kind) -> list[Contestant]:
        """The contestants of these kinds that were asked for, also those that are absent."""
        return [
            each for each in everybody().values() if each.kind in kinds and self.has(each.family)
        ]


@contextmanager
def opened(ticket: Ticket, part: Part = Part.BOTH) -> Iterator[Opened]:
    """Opens, in a worker, what the ticket is for."""
    found = everybody()[ticket.kind, ticket.key].open(ticket.payload, part)
    try:
        yield found
    finally:
        found.close()
