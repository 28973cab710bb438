"""A column of the matrix as it was on another machine, for an engine that this one lacks: which
kernel answered, when, and each cell. Written and compared by ``shmsync lab matrix``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shmsync_tools.lab.catalogue import CATALOGUE
from shmsync_tools.lab.scenario import Finding, Verdict


@dataclass(frozen=True)
class Answer:
    """What a scenario has found. ``forced`` as in the scenario."""

    verdict: str
    seen: str
    nt: str
    forced: str | None

    @property
    def finding(self) -> Finding:
        """The same as a scenario gives it."""
        return Finding(Verdict(self.verdict), self.seen, self.nt)


@dataclass(frozen=True)
class Record:
    """The answers of one engine to all entries, by number."""

    engine: str
    kernel: str
    date: str
    answers: dict[int, Answer]

    @property
    def origin(self) -> str:
        """Where it comes from, for a reader."""
        return f"recorded on Linux {self.kernel}, {self.date}"


class BadRecordError(Exception):
    """A file is no record, or an incomplete one."""


def here(engine: str, answers: dict[int, Answer]) -> Record:
    """A record of what was just found on the running kernel."""
    return Record(engine, os.uname().release, time.strftime("%Y-%m-%d", time.gmtime()), answers)


def write(record: Record, path: Path) -> None:
    """Writes a record to a file."""
    cells = {f"F{number}": asdict(answer) for number, answer in record.answers.items()}
    told = {"engine": record.engine, "kernel": record.kernel, "date": record.date, "cells": cells}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Record:
    """The record in a file; raises ``BadRecordError`` if it has not an answer for each entry."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        answers = {int(name[1:]): Answer(**cell) for name, cell in told["cells"].items()}
        known = all(answer.finding for answer in answers.values())
        record = Record(told["engine"], told["kernel"], told["date"], answers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecordError(f"{path} is no record of the lab: {error}") from None
    if not known or list(answers) != list(CATALOGUE):
        missing = ", ".join(f"F{number}" for number in CATALOGUE if number not in answers)
        raise BadRecordError(f"{path} is incomplete or out of order: {missing or 'order'}")
    return record


def differences(old: Record, new: Record) -> Iterator[str]:
    """What another run answered otherwise, a line each. Kernel and date may differ."""
    for number, was in old.answers.items():
        now = new.answers.get(number)
        if now is None:
            yield f"F{number}: recorded {was.verdict}, and could not be run"
        elif now.verdict != was.verdict:
            yield f"F{number}: recorded {was.verdict}, now {now.verdict}: {now.seen}"
        else:
            yield from _other_words(number, was, now)


def _other_words(number: int, was: Answer, now: Answer) -> Sequence[str]:
    """The same verdict, told otherwise: in other numbers, say."""
    before, after = asdict(was), asdict(now)
    return [
        f"F{number}: {name} was recorded as {before[name]!r}, and is now {after[name]!r}"
        for name in before
        if before[name] != after[name]
    ]
