"""A segment with one word changed, each in turn: errors that say so, or plain results, but never a
crash and never a hang. Excepted are the words that cannot be defended: the robust mutexes, but for
their kind, at which the library looks before the C library does."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import shmsync
from shmsync import Namespace, inspect, wait_all, wait_any
from shmsync.engine import Engine

from ..conftest import unique_name
from ..support.checkers import FIELDS, SIZES, Image, path_of
from ..support.peek import until_waiting
from .helpers import Child

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
HANG_SECONDS = 5
#: Where the C library keeps the kind of a pthread_mutex_t.
KIND = 16


def build(name: str, engine: str) -> None:
    """A persistent segment with everything in it, left by a killed process that owned a mutex and
    of which two threads were waiting."""

    def fill(link: Connection) -> None:
        namespace = Namespace(name, engine=engine, persistent=True, capacity=16, threads=4)
        kept = [
            namespace.mutex("lock"),
            namespace.mutex("theirs", owned=True),
            namespace.semaphore("tokens", 2, maximum=5),
            namespace.event("manual", manual_reset=True, signaled=True),
            namespace.event("auto", signaled=True),
            namespace.event(),
            first := namespace.event("first"),
            second := namespace.event("second"),
        ]
        for wait in (wait_any, wait_all):
            threading.Thread(target=wait, args=([first, second],), daemon=True).start()
        until_waiting(first, 2)
        namespace.event("gone").close()
        link.send(len(kept))
        link.recv()

    with Child(fill) as child:
        assert child.hear() == 8
        child.kill()


def mutexes(image: Image) -> set[int]:
    """Offsets of the words of the robust mutexes, without their kind."""
    control = SIZES["header"]
    starts = [control + FIELDS["control", field][0] for field in ("gate", "server")]
    starts += [
        image.geometry.threads_at + slot * SIZES["thread_slot"]
        for slot in range(image.geometry.threads)
    ]
    return {
        word for start in starts for word in range(start, start + 64, 4) if word != start + KIND
    }


def targets(image: Image, random_: random.Random) -> list[int]:
    """Offsets of all words up to the names, a few of those, and not the mutexes."""
    geometry = image.geometry
    log = SIZES["header"] + FIELDS["control", "undo"][0]
    used = set(range(0, log + 64, 4)) | set(range(geometry.processes_at, geometry.names_at, 4))
    waits = {
        geometry.threads_at + slot * SIZES["thread_slot"] + FIELDS["thread_slot", field][0] + at
        for slot in range(geometry.threads)
        for field in ("waits", "next", "previous")
        for at in range(8, FIELDS["thread_slot", field][1], 4)  # nobody waits for more than two
    }
    names = random_.sample(range(geometry.names_at, geometry.size, 4), 20)
    return sorted((used - waits - mutexes(image)) | set(names))


def change(random_: random.Random, word: int) -> int:
    """Another value for a word."""
    values = [word ^ 1 << random_.randrange(32), random_.getrandbits(32), word + 1, word - 1]
    values += [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 16, 17, 64]
    return random_.choice([value & 0xFFFFFFFF for value in values if value & 0xFFFFFFFF != word])


def tried(call: Callable[[], object], outcomes: Counter[str]) -> None:
    """Runs it; whatever it raises must be an error that a user can understand."""
    try:
        call()
        outcomes["worked"] += 1
    except (shmsync.ShmSyncError, OSError, ValueError) as error:
        outcomes[type(error).__name__] += 1


def use(name: str, outcomes: Counter[str]) -> Iterator[Callable[[], object]]:
    """Some of everything that can be done with a namespace, nothing without a bound."""
    yield lambda: inspect.describe(inspect.snapshot(name))
    yield lambda: inspect.in_use(name)
    namespace = Namespace(name, create=False)
    lock, tokens = namespace.mutex("lock"), namespace.semaphore("tokens")
    auto, manual = namespace.event("auto"), namespace.event("manual")
    for label in ("lock", "theirs", "tokens", "auto", "manual", "gone", "new"):
        yield lambda: namespace.open(label)  # noqa: B023
    yield lambda: lock.acquire(timeout=0.001)
    yield lock.state
    yield lock.release
    yield lambda: tokens.acquire(timeout=0)
    yield tokens.release
    yield tokens.state
    yield lambda: wait_any([lock, tokens, auto, manual], 0.001)
    yield lambda: wait_all([tokens, auto, manual], 0.001)
    first, second = namespace.event("first"), namespace.event("second")
    yield lambda: wait_any([first, second], 0.001)
    yield first.set
    yield second.pulse
    yield auto.pulse
    yield manual.clear
    yield auto.set
    yield lambda: namespace.mutex("theirs").acquire(timeout=0.001)
    yield lambda: [namespace.event(f"new {n}") for n in range(20)]
    yield lambda: namespace.semaphore(None, 1, maximum=2).release()
    yield namespace.objects
    yield lambda: os.waitpid(os.fork() or os._exit(0), 0)
    for handle in (lock, tokens, auto, manual, first, second):
        yield handle.close
    yield namespace.close
    yield lambda: Namespace(name).close()


def victim(link: Connection) -> None:
    """Uses a damaged segment: hears (name, live, offset, value), says what came of it.

    ``live``: the damage is done after it has attached."""
    name, live, offset, value = link.recv()
    signal.alarm(HANG_SECONDS)
    outcomes: Counter[str] = Counter()
    calls = use(name, outcomes)
    with open(path_of(name), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        if not live:
            memory[offset : offset + 4] = value.to_bytes(4, "little")
        try:
            for number, call in enumerate(calls):
                if live and number == 5:
                    memory[offset : offset + 4] = value.to_bytes(4, "little")
                tried(call, outcomes)
        except (shmsync.ShmSyncError, OSError, ValueError) as error:  # of the openings in between
            outcomes[type(error).__name__] += 1
    link.send(outcomes)
    os.kill(os.getpid(), signal.SIGKILL)  # as a program ends that nobody lets come to an end


def describe(image: Image, offset: int) -> str:
    """Which field a word belongs to."""
    geometry = image.geometry
    if offset < SIZES["header"]:
        return field_at("header", offset)
    if offset < geometry.processes_at:
        return field_at("control", offset - SIZES["header"])
    tables = (
        ("process_slot", geometry.processes_at, geometry.open_sets_at),
        ("open set", geometry.open_sets_at, geometry.threads_at),
        ("thread_slot", geometry.threads_at, geometry.buckets_at),
        ("bucket", geometry.buckets_at, geometry.objects_at),
        ("object", geometry.objects_at, geometry.names_at),
    )
    for structure, start, end in tables:
        if start <= offset < end and structure in SIZES:
            number, rest = divmod(offset - start, SIZES[structure])
            return f"{structure}[{number}].{field_at(structure, rest)}"
        if start <= offset < end:
            return f"{structure} + {offset - start}"
    return f"name + {offset - geometry.names_at}"


def field_at(structure: str, offset: int) -> str:
    """The field of a structure that covers an offset."""
    for (owner, field), (start, size) in FIELDS.items():
        if owner == structure and start <= offset < start + size:
            return f"{field}+{offset - start}" if offset > start else field
    return f"padding {offset}"


@pytest.mark.seconds(240)
@pytest.mark.parametrize("live", [False, True], ids=["found damaged", "damaged in use"])
def test_no_changed_word_crashes_or_hangs_its_users(engine: Engine, live: bool) -> None:
    random_ = random.Random(SEED)
    name = unique_name("damaged")
    path = Path(path_of(name))
    build(name, engine.name)
    data = path.read_bytes()
    image = Image(data)
    outcomes: Counter[str] = Counter()
    failures = []
    try:
        for offset in targets(image, random_):
            word = int.from_bytes(data[offset : offset + 4], "little")
            value = change(random_, word)
            path.unlink(missing_ok=True)  # a new file: nothing of the last one's locks and maps
            path.write_bytes(data)
            with Child(victim) as child:
                child.say((name, live, offset, value))
                failure = judge(child, outcomes)
            if failure:
                failures.append(f"{describe(image, offset)}: {word:#x} -> {value:#x}: {failure}")
    finally:
        path.unlink(missing_ok=True)
    print(f"SHMSYNC_SEED={SEED}: {dict(outcomes)}")
    assert not failures, "\n".join(failures)
    assert outcomes["BrokenError"]
    assert outcomes["worked"]


def judge(child: Child, outcomes: Counter[str]) -> str:
    """What is wrong with how a victim ended; "" if nothing."""
    try:
        outcomes.update(child.hear(HANG_SECONDS * 2))
    except pytest.fail.Exception as failure:
        status = child.wait()
        if status == -signal.SIGALRM:
            return "it hangs"
        return f"signal {signal.Signals(-status).name}" if status < 0 else str(failure)
    return ""
