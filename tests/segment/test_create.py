"""Making and attaching: at once, after a death half way, over whatever is in the place."""

from __future__ import annotations

import mmap
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import shmsync
from shmsync import BrokenError, ExistsError, Namespace, NotFoundError, UnsupportedError, inspect
from shmsync import engine as engines
from shmsync.engine import Engine, Semantics

from ..conftest import unique_name
from ..support.checkers import FIELDS, check, path_of
from .helpers import Child, byte_held, error_of, name_of

SEED = int(os.environ.get("SHMSYNC_SEED", "1"))
PERSISTENT = 1


def segment_bytes(**header: int) -> bytes:
    """A real segment's bytes, with these fields of the header changed."""
    with Namespace(unique_name(), capacity=16, threads=4) as namespace:
        data = bytearray(Path(path_of(namespace.name)).read_bytes())
    for field, value in header.items():
        offset, size = FIELDS["header", field]
        data[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(data)


def assert_works(namespace: Namespace) -> None:
    """Objects can be made in it and used, and its tables are right."""
    event = namespace.event("works", exclusive=True)
    event.set()
    assert event.wait(0)
    check(namespace.name)
    event.close()


# ---- two at once ----


def make_when_told(link: Connection, rounds: mmap.mmap, base: str, mine: int) -> None:
    """Makes namespace after namespace, each when the shared byte says its number."""
    for number in range(1, 101):
        rounds[mine] = number
        while rounds[0] != number:
            pass
        with Namespace(f"{base}-{number}", capacity=16, threads=4) as namespace:
            link.send((namespace.created, namespace._identity()[1]))
            assert link.recv() == "leave"


def test_of_two_creators_at_once_one_creates_and_both_are_in_the_same_segment() -> None:
    rounds = mmap.mmap(-1, mmap.PAGESIZE)
    base = unique_name("race")
    with (
        Child(lambda link: make_when_told(link, rounds, base, 1)) as one,
        Child(lambda link: make_when_told(link, rounds, base, 2)) as other,
    ):
        for number in range(1, 101):
            while rounds[1] != number or rounds[2] != number:
                pass
            rounds[0] = number
            (created_1, instance_1), (created_2, instance_2) = one.hear(), other.hear()
            assert instance_1 == instance_2
            assert [created_1, created_2].count(True) == 1
            one.say("leave")
            other.say("leave")
        assert (one.wait(), other.wait()) == (0, 0)


def come_and_go(link: Connection, name: str) -> int:
    """Opens and closes over and over: what is open is what the name means, all the time."""
    times = 0
    link.recv()
    while not link.poll():
        with Namespace(name, capacity=16, threads=4) as namespace, inspect.Reader(name) as reader:
            assert reader.header().instance == namespace._identity()[1]
            namespace.event("event").set()
            times += 1
    return times


def test_an_opener_is_never_left_in_a_segment_that_the_last_user_removes() -> None:
    name = unique_name("race")
    with (
        Child(lambda link: come_and_go(link, name)) as one,
        Child(lambda link: come_and_go(link, name)) as other,
    ):
        one.say()
        other.say()
        time.sleep(1.0)  # as long as they like to race: nothing depends on it
        assert one.ask() > 10
        assert other.ask() > 10
    assert error_of(lambda: Namespace(name, create=False))[0] == "NotFoundError"


# ---- killed half way ----


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(lambda: b"", id="empty"),
        pytest.param(lambda: bytes(len(segment_bytes())), id="zero"),
        pytest.param(lambda: segment_bytes(magic=0), id="without magic"),
        pytest.param(lambda: segment_bytes(magic=0)[:100], id="without magic, short"),
        pytest.param(lambda: segment_bytes()[:1000], id="truncated"),
        pytest.param(lambda: segment_bytes() + b"more", id="too long"),
        pytest.param(segment_bytes, id="whole, but nobody lives in it"),
        pytest.param(lambda: segment_bytes(version=0), id="of an older version"),
        pytest.param(lambda: segment_bytes(version=99, abi=1, engine=77), id="of a later version"),
        pytest.param(lambda: segment_bytes(pid_namespace=1), id="of another pid namespace"),
    ],
)
def test_what_nobody_uses_is_made_anew(place: Path, left: Callable[[], bytes]) -> None:
    place.write_bytes(left())
    with pytest.raises(NotFoundError):
        Namespace(name_of(place), create=False)
    with Namespace(name_of(place), capacity=32, threads=8, exclusive=True) as namespace:
        assert namespace.created
        assert inspect.snapshot(namespace.name).capacity == 32
        assert_works(namespace)
    assert not place.exists()


def test_a_creator_killed_at_random_instants_leaves_nothing_in_the_way() -> None:
    random_ = random.Random(SEED)
    found: Counter[str] = Counter()
    begun = mmap.mmap(-1, mmap.PAGESIZE)

    def create(link: Connection, name: str) -> None:
        begun[0] = 1
        link.send(Namespace(name))

    for _ in range(200):
        name = unique_name("killed")
        begun[0] = 0
        with Child(partial(create, name=name)) as child:
            while not begun[0]:
                pass
            kill_at = time.perf_counter() + random_.uniform(0, 0.001)
            while time.perf_counter() < kill_at:
                pass
            child.kill()
        path = Path(path_of(name))
        data = path.read_bytes() if path.exists() else None
        found["nothing" if data is None else "header" if any(data[:8]) else "half of it"] += 1
        with Namespace(name, exclusive=True, capacity=16, threads=4) as namespace:
            assert_works(namespace)
        assert not path.exists()
    print(f"SHMSYNC_SEED={SEED}: killed creators left {dict(found)}")


def test_a_reader_survives_that_what_it_reads_is_made_anew(place: Path) -> None:
    def keep_reading(link: Connection) -> list[int]:
        name = link.recv()
        reader = inspect.Reader(name)
        link.send(len(reader.snapshot().objects))
        link.recv()
        with Namespace(name, capacity=1, threads=1) as anew:  # smaller than the old one
            event = anew.event()
            return [len(reader.snapshot().objects), event.set()]

    def fill(link: Connection) -> None:
        namespace = Namespace(name_of(place), capacity=4096, threads=64)
        kept = [namespace.event() for _ in range(4096)]
        link.send(len(kept))
        link.recv()

    with Child(fill) as dead, Child(keep_reading) as child:
        assert dead.hear() == 4096
        dead.kill()
        assert child.ask(name_of(place)) == 4096
        assert len(child.ask()) == 2
        assert child.wait() == 0


# ---- in use, or persistent, and not ours ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 0}, "version 0"),
        ({"version": 99}, "version 99"),
        ({"abi": 0x40028}, "pointer size"),
        ({"capacity": 0}, "damaged"),
        ({"capacity": 2**24 + 1}, "damaged"),
        ({"capacity": 17}, "damaged"),
        ({"threads": 0}, "damaged"),
        ({"threads": 2**16}, "damaged"),
        ({"threads": 1000}, "damaged"),
        ({"size": 4096}, "damaged"),
    ],
)
@pytest.mark.parametrize("flags", [0, PERSISTENT], ids=["in use", "persistent"])
def test_what_somebody_uses_or_wants_to_keep_is_refused_by_name(
    place: Path, changes: dict[str, int], said: str, flags: int
) -> None:
    data = segment_bytes(**changes, flags=flags)
    place.write_bytes(data)
    name = name_of(place)
    with nullcontext() if flags else byte_held(name, 1):
        with pytest.raises(BrokenError, match=said):
            Namespace(name)
        with pytest.raises(BrokenError, match=said):
            Namespace(name, create=False)
    assert place.read_bytes() == data


@pytest.mark.parametrize("length", [0, 100, 4096])
def test_a_truncated_segment_in_use_is_refused(place: Path, length: int) -> None:
    place.write_bytes(segment_bytes()[:length])
    with byte_held(name_of(place), 1), pytest.raises(BrokenError, match="damaged"):
        Namespace(name_of(place))
    assert place.stat().st_size == length


def test_a_segment_of_an_engine_that_this_build_lacks_is_refused(place: Path) -> None:
    place.write_bytes(segment_bytes(engine=77))
    with byte_held(name_of(place), 1), pytest.raises(UnsupportedError, match="number 77"):
        Namespace(name_of(place))


def test_a_truncated_segment_that_persists_is_refused(place: Path) -> None:
    place.write_bytes(segment_bytes(flags=PERSISTENT)[:4096])
    with pytest.raises(BrokenError, match="damaged"):
        Namespace(name_of(place))


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def make_link(path: Path) -> None:
    path.symlink_to("/dev/null")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("shmsync-nowhere"))


def make_garbage(path: Path) -> None:
    path.write_bytes(random.Random(SEED).randbytes(100_000))


def make_short_garbage(path: Path) -> None:
    path.write_bytes(b"x")


MAKERS: list[Callable[[Path], None]] = [
    make_directory,
    make_fifo,
    make_socket,
    make_link,
    make_dangling_link,
    make_garbage,
    make_short_garbage,
]


@pytest.mark.parametrize("make", MAKERS)
def test_something_else_of_that_name_is_refused_and_stays(
    place: Path, make: Callable[[Path], None]
) -> None:
    make(place)
    before = place.lstat()
    for call in (
        lambda: Namespace(name_of(place)),
        lambda: Namespace(name_of(place), create=False),
        lambda: Namespace(name_of(place), mode=0o666),
    ):
        assert error_of(call)[0] == "BrokenError"
    assert os.path.samestat(place.lstat(), before)
    assert place.lstat().st_size == before.st_size


@pytest.mark.parametrize("make", MAKERS)
def test_unlink_leaves_something_else_of_that_name_alone(
    place: Path, make: Callable[[Path], None]
) -> None:
    make(place)
    before = place.lstat()
    assert error_of(lambda: shmsync.unlink(name_of(place)))[0] == "BrokenError"
    assert os.path.samestat(place.lstat(), before)


def test_a_link_to_a_segment_is_no_segment(place: Path) -> None:
    with Namespace(unique_name()) as namespace:
        place.symlink_to(path_of(namespace.name))
        with pytest.raises(BrokenError, match="link"):
            Namespace(name_of(place))


# ---- what the caller asks for ----


def test_create_false_finds_nothing_and_makes_nothing(place: Path) -> None:
    with pytest.raises(NotFoundError, match=name_of(place)):
        Namespace(name_of(place), create=False)
    assert not place.exists()


def test_exclusive_refuses_what_exists_also_in_the_same_process() -> None:
    def open_exclusively(name: str) -> tuple[str, str]:
        return error_of(lambda: Namespace(name, exclusive=True))

    with (
        Child(lambda link: open_exclusively(link.recv())) as child,
        Namespace(unique_name(), exclusive=True) as namespace,
    ):
        with pytest.raises(ExistsError, match=namespace.name):
            Namespace(namespace.name, exclusive=True)
        assert child.ask(namespace.name)[0] == "ExistsError"


def test_options_of_an_existing_segment_change_nothing() -> None:
    with Namespace(unique_name(), capacity=16, threads=4) as namespace:
        before = Path(path_of(namespace.name)).stat()
        with Namespace(
            namespace.name, capacity=99, threads=99, mode=0o666, persistent=True
        ) as other:
            assert not other.created
            seen = inspect.snapshot(namespace.name)
            assert (seen.capacity, seen.thread_capacity, seen.persistent) == (16, 4, False)
            after = Path(path_of(namespace.name)).stat()
            assert (after.st_mode, after.st_size) == (before.st_mode, before.st_size)


def test_no_engine_takes_the_segments_engine(engine: Engine) -> None:
    with Namespace(unique_name(), engine=engine.name) as namespace:
        assert Namespace(namespace.name).engine == engine.name
        assert Namespace(namespace.name, engine=engine.name).engine == engine.name


def open_as_another_engine(name: str) -> tuple[str, str]:
    """Asks for an engine that the segment does not have: this build may have just one."""
    known = engines.engines()
    other = Engine("other", 77, Semantics(0), "for this test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "engines", lambda: {**known, "other": other})
        return error_of(lambda: Namespace(name, engine="other"))


def test_another_engine_than_the_segments_is_an_error_that_names_both() -> None:
    with (
        Child(lambda link: open_as_another_engine(link.recv())) as child,
        Namespace(unique_name()) as namespace,
    ):
        for error, text in (child.ask(namespace.name), open_as_another_engine(namespace.name)):
            assert error == "ValueError"
            assert repr(namespace.engine) in text
            assert "'other'" in text


def test_an_unknown_engine_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"unknown engine 'nonsense'.*fsync"):
        Namespace(unique_name(), engine="nonsense")


@pytest.mark.parametrize(
    ("option", "value"),
    [("capacity", 0), ("capacity", 2**24 + 1), ("threads", 0), ("threads", 2**16)],
)
def test_sizes_out_of_range_are_value_errors(option: str, value: int) -> None:
    name = unique_name()
    with pytest.raises(ValueError, match=option):
        Namespace(name, **{option: value})  # type: ignore[arg-type]
    assert not Path(path_of(name)).exists()


def test_the_smallest_namespace_works() -> None:
    with Namespace(unique_name(), capacity=1, threads=1) as namespace:
        lock = namespace.mutex("lock")
        assert lock.acquire(timeout=0)
        lock.release()
        check(namespace.name)


def test_a_header_says_who_made_it_and_when() -> None:
    before = time.time_ns()
    with Namespace(unique_name()) as namespace:
        data = Path(path_of(namespace.name)).read_bytes()
        created, instance, pid_namespace = struct.unpack_from("=QQQ", data, 40)
        assert before <= created <= time.time_ns()
        assert instance == namespace._identity()[1]
        assert pid_namespace == os.stat("/proc/self/ns/pid").st_ino
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        assert data[64:80].hex() == boot_id
