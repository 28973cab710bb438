"""What the processes of a storm write down outside of the segment, in memory that they share.

Each thread has a lane: what it is doing, and what it has of the objects whose use is counted. It
says what it is about to do before it does it, so that after its death bounds are known of what it
took with it.
"""

from __future__ import annotations

import ctypes
import mmap
from enum import IntEnum

LANES = 24
TOKENS = 6
GUARDS = 6
HEIRS = 8192
#: A phase is a number that goes up: even while the storm blows, odd while all have to stand still.
LEAVING = 0x7FFFFFFE


class Has(IntEnum):
    """What a lane has of a semaphore or a mutex."""

    NOTHING = 0
    PERHAPS_TAKEN = 1
    TAKEN = 2
    PERHAPS_GIVEN_BACK = 3


class Lane(ctypes.Structure):
    """One thread. ``life`` is a number that no other thread has or had; ``parked`` the phase in
    which it stood still last."""

    life: int
    tid: int
    parked: int
    progress: int
    what: bytes
    complaint: bytes
    tokens: ctypes.Array[ctypes.c_uint8]
    guards: ctypes.Array[ctypes.c_uint8]
    _fields_ = (
        ("life", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("parked", ctypes.c_uint32),
        ("progress", ctypes.c_uint32),
        ("what", ctypes.c_char * 240),
        ("complaint", ctypes.c_char * 4000),
        ("tokens", ctypes.c_uint8 * TOKENS),
        ("guards", ctypes.c_uint8 * GUARDS),
    )

    def does(self, what: str) -> None:
        """Writes down what comes now."""
        self.what = what.encode()[:239]
        self.progress += 1


class Guarded(ctypes.Structure):
    """What a counted mutex protects: the life that is inside, how often somebody was told of a dead
    owner, and which lives were found inside by those."""

    inside: int
    news: int
    heirs: int
    found: ctypes.Array[ctypes.c_uint32]
    _fields_ = (
        ("inside", ctypes.c_uint32),
        ("news", ctypes.c_uint32),
        ("heirs", ctypes.c_uint32),
        ("found", ctypes.c_uint32 * HEIRS),
    )


class _Board(ctypes.Structure):
    _fields_ = (
        ("phase", ctypes.c_uint32),
        ("lanes", Lane * LANES),
        ("guarded", Guarded * GUARDS),
    )


class Board:
    """The shared memory of one storm. Processes that are forked later have it too."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, ctypes.sizeof(_Board))
        self._board = _Board.from_buffer(memory)
        self.lanes: list[Lane] = list(self._board.lanes)
        self.guarded: list[Guarded] = list(self._board.guarded)

    @property
    def phase(self) -> int:
        """What all shall do."""
        return int(self._board.phase)

    @phase.setter
    def phase(self, phase: int) -> None:
        self._board.phase = phase

    @property
    def parking(self) -> bool:
        """Shall all give back what they have, and stand still?"""
        return self.phase % 2 == 1


class ViolationError(Exception):
    """Something that cannot be if the engine is right."""


def enter_section(guarded: Guarded, life: int, abandoned: bool) -> None:
    """The life has the mutex: nobody is inside, unless he died there, and we have been told."""
    before = guarded.inside
    if before and not abandoned:
        raise ViolationError(f"life {life} has the mutex, and was not told of {before} inside")
    if abandoned:
        guarded.news += 1
        if before:
            guarded.found[guarded.heirs] = before
            guarded.heirs += 1
    guarded.inside = life


def leave_section(guarded: Guarded, life: int) -> None:
    """Nobody else has been inside meanwhile."""
    if guarded.inside != life:
        raise ViolationError(f"life {life} was inside, and now {guarded.inside} is")
    guarded.inside = 0
