"""Looking at segments without touching them: no lock is taken and nothing is written.

Everything here works on a read-only descriptor and a read-only mapping, so it can watch a
namespace whose programs are stopped, hung or half dead. The price is that nothing holds still: two
facts of one snapshot may be of different instants, and an object may be seen in the middle of a
change. Whatever the segment holds is decoded: a name that is not UTF-8, or a count that cannot be,
raises nothing.

>>> with Reader("render-farm") as reader:                               # doctest: +SKIP
...     while reader.find("lock").waiters < 2:
...         pass
>>> print(describe(snapshot("render-farm")))                            # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shmsync._native import ffi, lib
from shmsync.engine import by_number
from shmsync.errors import BrokenError, ClosedError, NotFoundError, UnsupportedError
from shmsync.namespace import PREFIX
from shmsync.objects import EventState, MutexState, SemaphoreState

if TYPE_CHECKING:
    from shmsync._native import CData

#: Where Linux keeps POSIX shared memory.
DIRECTORY = "/dev/shm"

#: enum ss_kind, as people say it.
KINDS: dict[int, str] = {
    lib.SS_SEMAPHORE: "semaphore",
    lib.SS_MUTEX: "mutex",
    lib.SS_AUTO_EVENT: "auto-reset event",
    lib.SS_MANUAL_EVENT: "manual-reset event",
}

#: What a thread's wait_kind means.
WAIT_KINDS: dict[int, str] = {0: "none", 1: "any", 2: "all"}

#: enum ss_why, as the end of the sentence "It is ...".
WHY: dict[int, str] = {
    lib.SS_WHY_NOT_A_FILE: "not a regular file",
    lib.SS_WHY_FOREIGN: "not a shmsync segment",
    lib.SS_WHY_VERSION: "a segment of another format version",
    lib.SS_WHY_ABI: "a segment of a program with another pointer size or C library",
    lib.SS_WHY_DAMAGED: "damaged: its sizes do not fit together",
    lib.SS_WHY_PID_NAMESPACE: "a segment of another pid namespace",
    lib.SS_WHY_NO_ENGINE: "a segment of an engine that this version does not have",
}

#: What the columns of `describe` mean.
LEGEND = """\
KIND     sem: semaphore; mutex; auto, manual: event, auto-reset or manual-reset
NAME     of the object; #12.3 for an anonymous one: slot 12, third object in it
STATE    2 of 4: tokens left and maximum; free, held (x2: twice, recursively), abandoned: its last
         owner died owning it and nobody has acquired it since; set, clear
USERS    processes that have it open
WAITERS  threads that wait on it
OWNER    the thread that holds a mutex; (dead): it died, and nobody who waits has noticed yet"""

_SHORT_KINDS = {
    "semaphore": "sem",
    "mutex": "mutex",
    "auto-reset event": "auto",
    "manual-reset event": "manual",
}
_WAITS_MAX = 65
_NAME_MAX = 200

State = SemaphoreState | MutexState | EventState


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A registered thread."""

    slot: int
    owner_id: int
    pid: int
    tid: int
    #: Whether its process lives. (A thread that ended alone shows until it is collected.)
    alive: bool
    #: Slots of the objects that it waits on, in the order of the call.
    waiting_on: tuple[int, ...]
    #: "none", "any" or "all".
    wait_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process that has the namespace open, or died with it open and is not collected yet."""

    slot: int
    #: 0 for a child that fork() has not finished yet.
    pid: int
    alive: bool
    #: Clock ticks since boot, as in /proc/PID/stat.
    start_time: int
    open_objects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """An object in use."""

    slot: int
    generation: int
    #: None for an anonymous object.
    name: str | None
    #: "semaphore", "mutex", "auto-reset event", "manual-reset event"; "kind 9" where damaged.
    kind: str
    #: None where the kind is none that we know.
    state: State | None
    #: Processes that have it open, and threads that wait on it.
    users: int
    waiters: int
    #: The thread that holds a mutex; also a dead one, until somebody notices its death.
    owner: ThreadInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What describes a segment as a whole."""

    name: str
    engine: str
    version: int
    persistent: bool
    #: Objects and threads that there is room for.
    capacity: int
    thread_capacity: int
    #: Bytes.
    size: int
    #: Seconds since the epoch, as time.time().
    created: float
    #: A random number that tells this segment from a later one of the same name.
    instance: int
    pid_namespace: int
    #: A transaction is under way, or its process died in it.
    in_transaction: bool
    #: Thread that holds the segment's lock, and thread that sweeps up after dead ones; 0: none.
    gate_tid: int
    server_tid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Header):
    """A segment with everything in it."""

    objects: tuple[ObjectInfo, ...]
    threads: tuple[ThreadInfo, ...]
    processes: tuple[ProcessInfo, ...]


def path_of(name: str) -> str:
    """The file of a namespace. A name that can be none is a ValueError."""
    if not name or "/" in name or "\0" in name:
        raise ValueError(f"not a namespace's name: {name!r}")
    return os.path.join(DIRECTORY, PREFIX + name)


def namespaces() -> list[str]:
    """The names of all namespaces there are, sorted; damaged and foreign files of such names too.

    Bytes that are not UTF-8 appear as surrogates, so that each name leads back to its file."""
    prefix = PREFIX.encode()
    try:
        files = os.listdir(DIRECTORY.encode())
    except FileNotFoundError:
        return []
    return sorted(
        file[len(prefix) :].decode("utf-8", "surrogateescape")
        for file in files
        if file.startswith(prefix) and file != prefix
    )


def snapshot(name: str) -> Snapshot:
    """What is in a namespace now.

    ``NotFoundError`` if there is no such namespace, ``BrokenError`` with the reason if its file is
    not a segment that this version can read."""
    with Reader(name) as reader:
        return reader.snapshot()


def in_use(name: str) -> bool:
    """Whether a living process uses the namespace, of whatever version of the format."""
    fd = _open(name)
    try:
        rc = lib.ss_in_use(fd)
    finally:
        os.close(fd)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc), path_of(name))
    return bool(rc)


def is_unfinished(name: str) -> bool:
    """Whether it is a regular file that nobody uses and that is no segment yet: its creator is at
    work right now, or was killed half way. The next program that opens it begins anew."""
    try:
        fd = _open(name)
    except BrokenError:
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and _is_blank(fd) and not lib.ss_in_use(fd)
    finally:
        os.close(fd)


class Reader:
    """Reads one segment again and again; a context manager.

    It stays with the segment that it opened, also when another one takes its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._peek: CData = None
        peek = ffi.new("struct ss_peek **")
        why = ffi.new("uint32_t *")
        fd = _open(name)
        try:
            rc = lib.ss_peek_open(fd, peek, why)
            if rc < 0:
                raise _refusal(name, -rc, why[0], _is_blank(fd))
        finally:
            os.close(fd)
        # Unmapped when nobody has it any more: another thread may be reading.
        self._peek = ffi.gc(peek[0], lib.ss_peek_close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps the segment. Closing twice is fine."""
        self._peek = None

    def header(self) -> Header:
        """The segment as a whole."""
        return Header(**self._header_fields())

    def snapshot(self) -> Snapshot:
        """Everything."""
        processes = tuple(self.processes())
        threads = tuple(self.threads())
        return Snapshot(
            **self._header_fields(),
            objects=tuple(self.objects()),
            threads=threads,
            processes=processes,
        )

    def objects(self) -> Iterator[ObjectInfo]:
        """All objects in use, by slot."""
        header = self._read_header()
        for slot in range(min(header.objects_end, header.capacity)):
            if (found := self.object(slot)) is not None:
                yield found

    def threads(self) -> Iterator[ThreadInfo]:
        """All registered threads, by slot."""
        header = self._read_header()
        for slot in range(min(header.threads_end, header.threads)):
            if (found := self.thread(slot)) is not None:
                yield found

    def processes(self) -> Iterator[ProcessInfo]:
        """All processes that have the namespace open, by slot."""
        header = self._read_header()
        for slot in range(min(header.processes_end, header.threads)):
            if (found := self.process(slot)) is not None:
                yield found

    def find(self, name: str) -> ObjectInfo | None:
        """The object of that name, or None. It looks at all of them."""
        return next((found for found in self.objects() if found.name == name), None)

    def object(self, slot: int) -> ObjectInfo | None:
        """The object in a slot; None if the slot is not in use, or is none."""
        raw = ffi.new("struct ss_peek_object *")
        if lib.ss_peek_object(self._open_peek(), slot, raw) < 0 or raw.state.kind == lib.SS_FREE:
            return None
        owner = self.thread(raw.owner_slot) if raw.state.kind == lib.SS_MUTEX else None
        if owner is not None and owner.owner_id != raw.state.owner:
            owner = None  # a later thread in the slot of a dead owner
        return ObjectInfo(
            slot=slot,
            generation=raw.generation,
            name=_name(raw),
            kind=_said(KINDS, raw.state.kind, "kind"),
            state=_state(raw.state),
            users=raw.users,
            waiters=raw.waiters,
            owner=owner,
        )

    def thread(self, slot: int) -> ThreadInfo | None:
        """The thread in a slot; None if nobody is registered in it, or it is none."""
        raw = ffi.new("struct ss_peek_thread *")
        if lib.ss_peek_thread(self._open_peek(), slot, raw) < 0 or not raw.used:
            return None
        process = self.process(raw.process)
        count = min(raw.wait_count, _WAITS_MAX) if raw.wait_kind else 0
        return ThreadInfo(
            slot=slot,
            owner_id=raw.owner_id,
            pid=process.pid if process is not None else 0,
            tid=raw.tid,
            alive=process is not None and process.alive,
            waiting_on=tuple(raw.waits[i] for i in range(count)),
            wait_kind=_said(WAIT_KINDS, raw.wait_kind, "kind"),
        )

    def process(self, slot: int) -> ProcessInfo | None:
        """The process in a slot; None if the slot is not in use, or is none."""
        raw = ffi.new("struct ss_peek_process *")
        if lib.ss_peek_process(self._open_peek(), slot, raw) < 0 or not raw.used:
            return None
        return ProcessInfo(
            slot=slot,
            pid=raw.pid,
            alive=bool(raw.alive),
            start_time=raw.start_time,
            open_objects=raw.open_objects,
        )

    def _open_peek(self) -> CData:
        if self._peek is None:
            raise ClosedError("the reader is closed")
        return self._peek

    def _read_header(self) -> CData:
        raw = ffi.new("struct ss_peek_header *")
        lib.ss_peek_header(self._open_peek(), raw)
        return raw

    def _header_fields(self) -> dict[str, Any]:
        raw = self._read_header()
        return {
            "name": self.name,
            "engine": engine.name if (engine := by_number(raw.engine)) else str(raw.engine),
            "version": raw.version,
            "persistent": bool(raw.persistent),
            "capacity": raw.capacity,
            "thread_capacity": raw.threads,
            "size": raw.size,
            "created": raw.created_ns / 1e9,
            "instance": raw.instance,
            "pid_namespace": raw.pid_namespace,
            "in_transaction": raw.undo_length != 0,
            "gate_tid": raw.gate_tid,
            "server_tid": raw.server_tid,
        }


def _open(name: str) -> int:
    """A read-only descriptor. It never blocks (a FIFO of that name) and follows no link."""
    path = path_of(name)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path.encode("utf-8", "surrogateescape"), flags)
    except FileNotFoundError:
        raise NotFoundError(errno.ENOENT, "no such namespace", name) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BrokenError(errno.EBADMSG, "it is a symbolic link", name) from None
        if error.errno == errno.ENXIO:  # a socket
            raise BrokenError(errno.EBADMSG, "it is not a regular file", name) from None
        raise


def _is_blank(fd: int) -> bool:
    """Is the first word missing or 0, as a creator at work, or killed at it, leaves it?"""
    try:
        return not any(os.pread(fd, 8, 0))
    except OSError:
        return False


def _refusal(name: str, number: int, why: int, blank: bool) -> OSError:
    reason = WHY.get(why)
    if reason is None:
        return OSError(number, os.strerror(number), path_of(name))
    if why == lib.SS_WHY_FOREIGN and blank:
        return BrokenError(number, "it is unfinished: being made, or its maker was killed", name)
    if why in (lib.SS_WHY_PID_NAMESPACE, lib.SS_WHY_NO_ENGINE):
        return UnsupportedError(number, f"it is {reason}", name)
    return BrokenError(number, f"it is {reason}", name)


def _said(table: dict[int, str], value: int, what: str) -> str:
    return table.get(value) or f"{what} {value}"


def _name(raw: CData) -> str | None:
    length = min(raw.name_length, _NAME_MAX)
    if length == 0:
        return None
    return bytes(ffi.buffer(raw.name, length)).decode("utf-8", "backslashreplace")


def _state(raw: CData) -> State | None:
    if raw.kind == lib.SS_SEMAPHORE:
        return SemaphoreState(raw.count, raw.maximum)
    if raw.kind == lib.SS_MUTEX:
        return MutexState(raw.count, raw.owner, bool(raw.abandoned))
    if raw.kind in (lib.SS_AUTO_EVENT, lib.SS_MANUAL_EVENT):
        return EventState(raw.kind == lib.SS_MANUAL_EVENT, bool(raw.signaled))
    return None


# ---- for people ----------------------------------------------------------------------------------


def describe(objects: Snapshot | Iterable[ObjectInfo], *, commands: bool = False) -> str:
    """One aligned line for each object, under a line of titles; ``LEGEND`` says what they mean.

    ``commands`` adds to each owner the command line of its process, which takes psutil."""
    if isinstance(objects, Snapshot):
        objects = objects.objects
    rows = [
        (
            _SHORT_KINDS.get(info.kind, info.kind),
            label(info),
            describe_state(info.state),
            str(info.users),
            str(info.waiters),
            _describe_owner(info, commands),
        )
        for info in objects
    ]
    return columns(("KIND", "NAME", "STATE", "USERS", "WAITERS", "OWNER"), rows, right=(3, 4))


def label(info: ObjectInfo) -> str:
    """What to call an object: its name, or #slot.generation. Fit for a terminal."""
    return f"#{info.slot}.{info.generation}" if info.name is None else printable(info.name)


def describe_state(state: State | None) -> str:
    """A state in a word or two."""
    if isinstance(state, SemaphoreState):
        return f"{state.count} of {state.maximum}"
    if isinstance(state, MutexState):
        if state.owner:
            return "held" if state.count <= 1 else f"held x{state.count}"
        return "abandoned" if state.abandoned else "free"
    if isinstance(state, EventState):
        return "set" if state.signaled else "clear"
    return "?"


def _describe_owner(info: ObjectInfo, commands: bool) -> str:
    if not isinstance(info.state, MutexState) or not info.state.owner:
        return ""
    if info.owner is None:
        return f"nobody registered (id {info.state.owner:#x})"
    who = f"pid {info.owner.pid} tid {info.owner.tid}"
    if not info.owner.alive:
        return f"{who} (dead)"
    return f"{who}  {short_command(info.owner.pid)}".rstrip() if commands else who


def command(pid: int) -> str:
    """The command line of a process, fit for a terminal; "" if it is gone or not ours to read."""
    import psutil

    try:
        process = psutil.Process(pid)
        return printable(" ".join(process.cmdline()) or f"[{process.name()}]")
    except (psutil.Error, ValueError):
        return ""


def short_command(pid: int, width: int = 50) -> str:
    """The command line cut to a width, for the last column of a table."""
    whole = command(pid)
    return whole if len(whole) <= width else whole[: width - 3] + "..."


def printable(text: str) -> str:
    """The text with everything escaped that could move a terminal's cursor or cannot be written."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def columns(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows as aligned lines under their titles; columns listed in ``right`` lean to the right."""
    table = [titles, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
