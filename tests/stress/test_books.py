"""The storm's own books: what they call wrong, and what a report of a stuck process says."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from ..conftest import unique_name
from ..segment.helpers import Child
from ..support.checkers import path_of
from ..support.watchdog import eventually
from .board import GUARDS, TOKENS, Board, Has, ViolationError, enter_section, leave_section
from .test_storm import Losses, Storm, keep


def test_two_inside_one_section_are_a_violation() -> None:
    guarded = Board().guarded[0]
    enter_section(guarded, 7, abandoned=False)
    with pytest.raises(ViolationError, match="life 8 has the mutex, and was not told of 7 inside"):
        enter_section(guarded, 8, abandoned=False)
    guarded.inside = 8
    with pytest.raises(ViolationError, match="life 7 was inside, and now 8 is"):
        leave_section(guarded, 7)


def test_who_is_told_of_a_dead_owner_is_written_down_with_whom_he_found() -> None:
    guarded = Board().guarded[0]
    enter_section(guarded, 7, abandoned=False)
    enter_section(guarded, 8, abandoned=True)
    leave_section(guarded, 8)
    enter_section(guarded, 9, abandoned=True)
    assert (guarded.news, guarded.found[: guarded.heirs]) == (2, [7])


def test_the_dead_lose_what_they_had_and_perhaps_what_they_were_about_to_have() -> None:
    lane, losses = Board().lanes[0], Losses.none(TOKENS)
    for number, has in enumerate(Has):
        lane.tokens[number] = has
    losses.add(lane.tokens)
    assert losses.sure[:4] == [0, 0, 1, 0]
    assert losses.perhaps[:4] == [0, 1, 0, 1]
    assert list(lane.tokens) == [Has.NOTHING] * TOKENS
    for number, has in enumerate(Has):
        lane.tokens[number] = has
    losses.add(lane.tokens, sure=True)
    assert losses.sure[:4] == [0, 0, 2, 0]
    assert losses.perhaps[:4] == [0, 1, 0, 1]


def a_storm(name: str, board: Board, keeper: Child, file: int) -> Storm:
    """One without processes."""
    return Storm(name, board, random.Random(1), keeper, file)


def test_books_that_do_not_agree_with_the_segment_fail() -> None:
    name, board = unique_name("books"), Board()
    with Child(lambda link: keep(link, name, "handoff")) as keeper:
        assert keeper.hear() == "ready"
        with open(path_of(name), "rb") as file:
            storm = a_storm(name, board, keeper, file.fileno())
            storm.check()
            storm.tokens.sure[2] = 1
            with pytest.raises(AssertionError, match="token 2: 3, not 2 to 2"):
                storm.check()
            storm = a_storm(name, board, keeper, file.fileno())
            storm.guards.sure[GUARDS - 1] = 1
            with pytest.raises(AssertionError, match="guard 5: told 0, not 1 to 1"):
                storm.check()
            board.guarded[0].news = board.guarded[0].heirs = 1
            board.guarded[0].found[0] = 99
            storm = a_storm(name, board, keeper, file.fileno())
            storm.guards.perhaps[0] = 1
            with pytest.raises(AssertionError, match="guard 0: a living owner was called dead"):
                storm.check()
        keeper.say("end")
        assert keeper.wait() == 0
    assert not Path(path_of(name)).exists()


def test_a_report_says_what_a_stuck_process_does() -> None:
    name, board = unique_name("books"), Board()
    with Child(lambda link: keep(link, name, "handoff")) as keeper:
        assert keeper.hear() == "ready"
        with open(path_of(name), "rb") as file:
            storm = a_storm(name, board, keeper, file.fileno())
            try:
                storm.bear((0, 1))
                process = storm.processes[0]
                eventually(lambda: board.lanes[1].progress > 20, "the storm has begun")
                os.kill(process.pid, signal.SIGSTOP)
                eventually(process.is_stopped, "it stands still")
                text = storm.report()
            finally:
                storm.end()
        keeper.say("end")
        assert keeper.wait() == 0
    for lane in (0, 1):
        assert f"{process.pid} lane {lane} life {board.lanes[lane].life} parked 0" in text
        assert f"'{board.lanes[lane].tid} (" in text
    assert "KIND" in text
    assert "ThreadInfo(slot=" in text
