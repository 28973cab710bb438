"""Looking at segments: what is seen, and that looking locks and writes nothing and survives all."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmsync
from shmsync import inspect
from shmsync.inspect import ObjectInfo, ThreadInfo

from .conftest import StartActors, unique_name
from .support.watchdog import eventually

HEADER_BYTES = 128


def file_of(name: str) -> Path:
    return Path("/dev/shm", f"shmsync-{name}")


def found(name: str, label: str) -> ObjectInfo:
    """The object of that name, which is there."""
    with inspect.Reader(name) as reader:
        info = reader.find(label)
    assert info is not None
    return info


@pytest.fixture
def small() -> Iterator[shmsync.Namespace]:
    """A namespace with a small segment."""
    with shmsync.Namespace(unique_name(), capacity=16, threads=8) as namespace:
        yield namespace


@pytest.fixture
def raw() -> Iterator[str]:
    """A name whose file the test makes itself, of whatever kind."""
    name = unique_name("raw")
    yield name
    file = file_of(name)
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)


def segment_bytes() -> bytes:
    """The content of a segment with a few things in it."""
    name = unique_name("donor")
    with shmsync.Namespace(name, capacity=16, threads=8) as namespace:
        lock, tokens = namespace.mutex("a-mutex"), namespace.semaphore("a-semaphore", 1)
        with lock, tokens:
            return file_of(name).read_bytes()


# ---- what is seen ----


def test_a_snapshot_shows_every_kind_of_object_with_its_state(small: shmsync.Namespace) -> None:
    lock = small.mutex("lock", owned=True)
    handles = [
        lock,
        small.semaphore("tokens", 2, maximum=5),
        small.event("auto", signaled=True),
        small.event("manual", manual_reset=True),
    ]
    objects = inspect.snapshot(small.name).objects
    assert [(o.name, o.kind, o.state) for o in objects] == [
        ("lock", "mutex", lock.state()),
        ("tokens", "semaphore", shmsync.SemaphoreState(2, 5)),
        ("auto", "auto-reset event", shmsync.EventState(False, True)),
        ("manual", "manual-reset event", shmsync.EventState(True, False)),
    ]
    assert [(o.slot, o.generation) for o in objects] == [(h.slot, h.generation) for h in handles]
    assert {(o.users, o.waiters) for o in objects} == {(1, 0)}
    lock.release()


def test_a_snapshot_describes_the_segment(small: shmsync.Namespace) -> None:
    seen = inspect.snapshot(small.name)
    assert (seen.name, seen.engine, seen.version) == (small.name, small.engine, 3)
    assert (seen.capacity, seen.thread_capacity, seen.persistent) == (16, 8, False)
    assert seen.size == file_of(small.name).stat().st_size
    assert seen.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    assert not seen.in_transaction


def test_the_owner_of_a_mutex_is_a_thread_with_pid_and_tid(small: shmsync.Namespace) -> None:
    lock = small.mutex("lock")
    lock.acquire()
    lock.acquire()
    info = found(small.name, "lock")
    assert info.owner is not None
    assert (info.owner.pid, info.owner.tid) == (os.getpid(), threading.get_native_id())
    assert info.owner.owner_id == lock.state().owner
    assert inspect.describe_state(info.state) == "held x2"
    lock.release()
    lock.release()
    assert found(small.name, "lock").owner is None


def test_waiting_threads_say_what_they_wait_for(ns: shmsync.Namespace, start: StartActors) -> None:
    one, other = ns.event("one"), ns.event("other")
    any_, all_ = start("any", "all")
    for actor in (any_, all_):
        actor.make("one", "event", "one")
        actor.make("other", "event", "other")
    any_.start("wait", ("other", "one"), False, None, None)
    all_.start("wait", ("one", "other"), True, None, None)
    any_.until_blocked()
    all_.until_blocked()
    threads = {thread.pid: thread for thread in inspect.snapshot(ns.name).threads}
    assert threads[any_.pid].wait_kind == "any"
    assert threads[any_.pid].waiting_on == (other.slot, one.slot)
    assert threads[all_.pid].wait_kind == "all"
    assert one.slot in threads[all_.pid].waiting_on
    assert found(ns.name, "one").waiters == 2
    assert found(ns.name, "one").users == 3


def test_processes_are_seen_alive_and_dead(ns: shmsync.Namespace, start: StartActors) -> None:
    (actor,) = start("A")
    actor.make("event", "event", "event")
    before = {p.pid: p for p in inspect.snapshot(ns.name).processes}
    assert before[actor.pid].alive
    assert before[actor.pid].open_objects == 1
    stat = Path(f"/proc/{actor.pid}/stat").read_text().rpartition(")")[2].split()
    assert before[actor.pid].start_time == int(stat[19])
    actor.kill()
    after = {p.pid: p for p in inspect.snapshot(ns.name).processes}
    assert not after[actor.pid].alive
    assert after[os.getpid()].alive


def test_a_mutex_whose_owner_was_killed_shows_as_abandoned(
    ns: shmsync.Namespace, start: StartActors
) -> None:
    lock = ns.mutex("lock")
    (actor,) = start("A")
    actor.make("lock", "mutex", "lock")
    actor.method("lock", "acquire")
    actor.kill()
    dead = found(ns.name, "lock").owner
    assert dead is None or (dead.pid == actor.pid and not dead.alive)
    assert lock.acquire() is shmsync.Acquired.ABANDONED
    assert inspect.describe_state(found(ns.name, "lock").state) == "held"
    lock.release()
    assert inspect.describe_state(found(ns.name, "lock").state) == "free"


def test_an_abandoned_mutex_shows_as_abandoned_until_it_is_acquired(
    ns: shmsync.Namespace, start: StartActors
) -> None:
    lock = ns.mutex("lock")
    (actor,) = start("A")
    actor.make("lock", "mutex", "lock")
    actor.method("lock", "acquire")
    actor.kill()
    eventually(
        lambda: lock.state().abandoned
    )  # somebody has to look at it, which inspection is not
    assert inspect.describe_state(found(ns.name, "lock").state) == "abandoned"
    assert found(ns.name, "lock").owner is None
    assert lock.acquire() is shmsync.Acquired.ABANDONED
    lock.release()


def test_an_anonymous_object_has_no_name(small: shmsync.Namespace) -> None:
    event = small.event()
    (info,) = inspect.snapshot(small.name).objects
    assert info.name is None
    assert inspect.label(info) == f"#{event.slot}.{event.generation}"


def test_namespaces_lists_names_also_those_that_are_not_utf_8(small: shmsync.Namespace) -> None:
    odd = unique_name("\udcff\x1b")
    path = os.fsencode(inspect.path_of(odd))
    Path(os.fsdecode(path)).touch()
    try:
        names = inspect.namespaces()
        assert {small.name, odd} <= set(names)
        assert names == sorted(names)
        with pytest.raises(shmsync.BrokenError, match="unfinished"):
            inspect.snapshot(odd)
    finally:
        os.unlink(path)


def test_in_use_means_that_a_living_process_has_it_open(raw: str) -> None:
    with shmsync.Namespace(raw, persistent=True, capacity=16, threads=8):
        assert inspect.in_use(raw)
    assert not inspect.in_use(raw)


def test_a_reader_stays_with_the_segment_that_it_opened() -> None:
    name = unique_name()
    with shmsync.Namespace(name, capacity=16, threads=8) as old, inspect.Reader(name) as reader:
        event = old.event("of the old one")
        shmsync.unlink(name)
        with shmsync.Namespace(name, capacity=16, threads=8):
            info = reader.find("of the old one")
            assert info is not None
            assert info.slot == event.slot
            assert reader.header().instance != inspect.snapshot(name).instance


def test_slots_out_of_range_or_unused_are_none(small: shmsync.Namespace) -> None:
    with inspect.Reader(small.name) as reader:
        for slot in (0, 15, 16, 2**32 - 1):
            assert reader.object(slot) is None
        for slot in (7, 8, 2**32 - 1):
            assert reader.thread(slot) is None
            assert reader.process(slot) is None


def test_a_closed_reader_says_so(small: shmsync.Namespace) -> None:
    reader = inspect.Reader(small.name)
    reader.close()
    reader.close()
    with pytest.raises(shmsync.ClosedError):
        reader.snapshot()


# ---- looking changes nothing and waits for nobody ----


def test_looking_writes_nothing(raw: str) -> None:
    content = segment_bytes()
    file_of(raw).write_bytes(content)  # nobody lives in the copy, so it stands still
    file_of(raw).chmod(0o400)
    before = file_of(raw).stat()
    inspect.snapshot(raw)
    inspect.in_use(raw)
    assert file_of(raw).read_bytes() == content
    assert file_of(raw).stat().st_mtime_ns == before.st_mtime_ns


def test_looking_opens_the_segment_for_reading_only(small: shmsync.Namespace) -> None:
    def descriptors() -> dict[str, int]:
        """Open descriptors of the segment, with their access mode."""
        seen = {}
        for fd in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{fd}") == str(file_of(small.name)):
                    seen[fd] = fcntl.fcntl(int(fd), fcntl.F_GETFL) & os.O_ACCMODE
            except OSError:
                continue
        return seen

    before = descriptors()
    with inspect.Reader(small.name):
        new = {fd: mode for fd, mode in descriptors().items() if fd not in before}
        assert set(new.values()) == {os.O_RDONLY}
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert any(" r--s " in line and str(file_of(small.name)) in line for line in maps)
    assert descriptors() == before


def test_looking_works_while_somebody_holds_the_creation_lock(small: shmsync.Namespace) -> None:
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with file_of(small.name).open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
        assert inspect.snapshot(small.name).processes[0].alive
        assert inspect.in_use(small.name)


#: Spends most of its time inside the gate: in a full namespace, creating looks for the dead first.
CROWD = """\
import contextlib, sys, shmsync
with shmsync.Namespace(sys.argv[1], create=False) as ns:
    print("ready", flush=True)
    while True:
        with contextlib.suppress(shmsync.CapacityError):
            ns.event("one too many")
"""


def test_looking_works_while_the_holder_of_the_gate_is_stopped(small: shmsync.Namespace) -> None:
    crowd = [small.event() for _ in range(16)]
    child = subprocess.Popen(
        [sys.executable, "-c", CROWD, small.name], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"

        def stopped_inside() -> bool:
            child.send_signal(signal.SIGCONT)
            child.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            return inspect.snapshot(small.name).gate_tid == child.pid

        eventually(stopped_inside, "a stop inside the gate")
        seen = inspect.snapshot(small.name)
        assert child.pid in [process.pid for process in seen.processes if process.alive]
        assert [info.slot for info in seen.objects] == [handle.slot for handle in crowd]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_looking_under_heavy_traffic_sees_only_states_that_can_be(
    small: shmsync.Namespace,
) -> None:
    stop = threading.Event()

    def churn(number: int) -> None:
        lock, tokens = small.mutex("lock"), small.semaphore("tokens", 3, maximum=3)
        while not stop.is_set():
            small.event(f"event {number}", signaled=True).close()
            with lock, tokens:
                pass

    threads = [threading.Thread(target=churn, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        with inspect.Reader(small.name) as reader:
            for _ in range(300):
                for info in reader.snapshot().objects:
                    if isinstance(info.state, shmsync.SemaphoreState):
                        assert 0 <= info.state.count <= info.state.maximum
                    elif isinstance(info.state, shmsync.MutexState):
                        assert info.state.count in (0, 1)
                        assert not info.state.abandoned
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        # join() returns a little before the kernel's thread ends, and till then it is registered.
        tasks = Path("/proc/self/task")
        eventually(lambda: not any((tasks / str(t.native_id)).exists() for t in threads))


# ---- damaged and foreign files ----


def test_no_such_namespace_is_not_found() -> None:
    for look in (inspect.snapshot, inspect.in_use, inspect.Reader):
        with pytest.raises(shmsync.NotFoundError, match="no such namespace"):
            look("nobody-made-this")


@pytest.mark.parametrize("name", ["", "a/b", "a\0b"])
def test_what_can_be_no_name_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="not a namespace's name"):
        inspect.snapshot(name)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"NOTOURS!", "not a shmsync segment"),
        (0, bytes(8), "unfinished"),
        (8, struct.pack("I", 99), "another format version"),
        (12, struct.pack("I", 4 << 16), "pointer size or C library"),
        (16, struct.pack("I", 77), "engine that this version does not have"),
        (24, struct.pack("I", 0), "damaged"),
        (24, struct.pack("I", 2**32 - 1), "damaged"),
        (28, struct.pack("I", 2**31), "damaged"),
        (32, struct.pack("Q", 2**60), "damaged"),
    ],
)
def test_a_header_that_is_wrong_is_refused_with_the_reason(
    raw: str, offset: int, value: bytes, reason: str
) -> None:
    content = bytearray(segment_bytes())
    content[offset : offset + len(value)] = value
    file_of(raw).write_bytes(content)
    with pytest.raises((shmsync.BrokenError, shmsync.UnsupportedError), match=reason):
        inspect.snapshot(raw)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4096])
def test_a_truncated_segment_is_refused(raw: str, length: int) -> None:
    file_of(raw).write_bytes(segment_bytes()[:length])
    with pytest.raises(shmsync.BrokenError):
        inspect.snapshot(raw)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (lambda path: os.symlink("/etc/passwd", path), "symbolic link"),
        (lambda path: Path(path).write_text("hello"), "not a shmsync segment"),
    ],
    ids=["fifo", "directory", "symlink", "text"],
)
def test_something_else_of_that_name_is_refused(raw: str, make: object, reason: str) -> None:
    assert callable(make)
    make(file_of(raw))
    with pytest.raises(shmsync.BrokenError, match=reason):
        inspect.snapshot(raw)


def test_a_name_that_is_not_utf_8_is_shown_escaped(raw: str) -> None:
    content = segment_bytes()
    assert content.count(b"a-mutex") == 1
    file_of(raw).write_bytes(content.replace(b"a-mutex", b"\xff\x1b[2Jx\xfe"))
    name = inspect.snapshot(raw).objects[0].name
    assert name == "\\xff\x1b[2Jx\\xfe"
    assert "\x1b" not in inspect.describe(inspect.snapshot(raw))


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_in_the_segment_a_snapshot_can_be_taken_and_described(
    raw: str, seed: int
) -> None:
    content = bytearray(segment_bytes())
    dice = random.Random(seed)
    if seed < 4:
        fill = [b"\xff", b"\x01", b"\x02", b"\x7f"][seed]
        content[HEADER_BYTES:] = fill * (len(content) - HEADER_BYTES)
    elif seed < 20:
        content[HEADER_BYTES:] = dice.randbytes(len(content) - HEADER_BYTES)
    else:
        for _ in range(200):
            place = dice.randrange(HEADER_BYTES, len(content) - 4)
            content[place : place + 4] = dice.choice([bytes(4), b"\xff" * 4, dice.randbytes(4)])
    file_of(raw).write_bytes(content)
    seen = inspect.snapshot(raw)
    assert len(seen.objects) <= 16
    assert len(seen.threads) <= 8
    lines = inspect.describe(seen, commands=True).splitlines()
    assert len(lines) == len(seen.objects) + 1


# ---- for people ----


def test_describe_gives_one_aligned_line_for_each_object() -> None:
    owner = ThreadInfo(
        slot=1, owner_id=65537, pid=12, tid=34, alive=True, waiting_on=(), wait_kind="none"
    )
    common = {"generation": 3, "users": 1, "waiters": 10}
    objects = [
        ObjectInfo(
            slot=0,
            name="tokens",
            kind="semaphore",
            state=shmsync.SemaphoreState(2, 4),
            owner=None,
            **common,
        ),
        ObjectInfo(
            slot=7,
            name=None,
            kind="mutex",
            state=shmsync.MutexState(2, 65537, False),
            owner=owner,
            **common,
        ),
    ]
    assert inspect.describe(objects) == (
        "KIND   NAME    STATE    USERS  WAITERS  OWNER\n"
        "sem    tokens  2 of 4       1       10\n"
        "mutex  #7.3    held x2      1       10  pid 12 tid 34"
    )


def test_the_legend_explains_every_column() -> None:
    titles = inspect.describe([]).split()
    explained = [line.split()[0] for line in inspect.LEGEND.splitlines() if line[0] != " "]
    assert titles == explained


def test_printable_leaves_nothing_that_moves_a_cursor() -> None:
    assert inspect.printable("größe 測試") == "größe 測試"
    assert inspect.printable("a\x1b[2J\nb\udcff") == "a\\x1b[2J\\nb\\udcff"


def test_command_gives_the_command_line_of_a_process() -> None:
    assert inspect.command(os.getpid())
    assert inspect.command(2**22 + 1) == ""
    assert inspect.command(-1) == ""
