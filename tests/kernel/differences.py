"""Where the model answers otherwise than the kernel, and why. Nothing else is allowed to differ.

The API has NT's argument checks in front of ntsync's rules, so these calls never reach an engine;
in none of them is an object's state or a wait different afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..model import COUNT_MAX
from .sequences import Call, Step


@dataclass(frozen=True)
class Difference:
    """A kind of call; what the kernel answers (a regular expression) and what the model does."""

    name: str
    reason: str
    applies: Callable[[Call], bool]
    kernel: str
    model: str


def _odd_maximum(call: Call) -> bool:
    thing = call.thing
    return bool(thing and thing.kind == "sem" and not 1 <= thing.maximum <= COUNT_MAX)


def _half_owned(call: Call) -> bool:
    thing = call.thing
    return bool(thing and thing.kind == "mutex" and (thing.owner == "Z") == (thing.count > 0))


DIFFERENCES = (
    Difference(
        "release of 0 tokens",
        "ntsync gives the count and does nothing; NtReleaseSemaphore refuses less than 1",
        lambda call: call.what == "release" and call.n == 0,
        r"\d+",
        "EINVAL",
    ),
    Difference(
        "maximum of 0, or above 2^31-1",
        "ntsync's counts are unsigned and may all be 0; NT's limit is a LONG of 1 or more",
        _odd_maximum,
        "ok",
        "EINVAL",
    ),
    Difference(
        "wait for any of no objects",
        "ntsync waits for the alert alone; NT refuses a count of 0",
        lambda call: call.what == "any" and not call.objects,
        "timeout|alert",
        "EINVAL",
    ),
    Difference(
        "wait for all of no objects",
        "for ntsync all of nothing is signaled, always; NT refuses a count of 0",
        lambda call: call.what == "all" and not call.objects,
        "0",
        "EINVAL",
    ),
    Difference(
        "owner 0",
        "to ntsync 0 is no owner, which is a bad argument; in NT every caller is somebody, who does"
        " not own it",
        lambda call: call.what in ("unlock", "kill") and call.letter == "Z",
        "EINVAL",
        "EPERM",
    ),
    Difference(
        "mutex with an owner and no count, or a count and no owner",
        "ntsync is told both and refuses what does not fit; NtCreateMutant has one flag for both",
        _half_owned,
        "EINVAL",
        "ok",
    ),
)


def difference(kernel: Step, model: Step) -> Difference | None:
    """Why the two answers differ, if that is known, and they are about the same objects still."""
    if (kernel.woken, kernel.states) != (model.woken, model.states):
        return None
    for each in DIFFERENCES:
        fits = re.fullmatch(each.kernel, kernel.answer) and each.model == model.answer
        if fits and each.applies(kernel.call):
            return each
    return None
