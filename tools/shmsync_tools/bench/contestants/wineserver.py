"""A wineserver beside the others: its objects, used by a Windows program (``wine``). It is not a
contestant like them, since no Python of ours can open what it keeps."""

from __future__ import annotations

import atexit
from functools import cache

from shmsync_tools.bench import wine
from shmsync_tools.bench.model import AbsentError, Turn

#: What ``--peers`` calls it.
FAMILY = "wine"
LABEL = "C: wineserver"
NOTE = "Windows' objects under Wine, used by C; the program and the server run on any core"
#: What it takes part as.
KINDS = ("lock", "semaphore", "event", "waits", "ping-pong")


@cache
def _session() -> wine.Session | Exception:
    """One for the whole run: made when it is first needed, gone with this process. If it cannot be
    made, that is tried once."""
    try:
        session = wine.Session()
    except (wine.WineError, OSError) as error:
        return error
    atexit.register(session.close)
    return session


def nanoseconds(name: str, loop_ms: float) -> float:
    """Of one operation, as ``wine.NAMES`` calls it. Raises ``AbsentError``."""
    if reason := wine.why_absent():
        raise AbsentError(reason)
    session = _session()
    if isinstance(session, Exception):
        raise session
    if session.sync() != "wineserver":
        raise AbsentError(f"absent: {wine.version()} has its objects in {session.sync()} here")
    return session.measure([name], loop_ms)[name]


def turn(name: str, loop_ms: float, metric: str) -> Turn:
    """A turn that gives the nanoseconds of one operation."""
    return lambda: {metric: nanoseconds(name, loop_ms)}


def rate_turn(seconds: float, metric: str) -> Turn:
    """A turn that gives the round trips of two processes in a second."""
    return lambda: {metric: 1e9 / nanoseconds("ping-pong", seconds * 1000)}
