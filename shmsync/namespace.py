"""Namespaces: a segment in ``/dev/shm``, and the way in by name."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar

import posix_ipc

from shmsync._native import ffi, lib
from shmsync.calls import COUNT_MAX
from shmsync.engine import DEFAULT, by_name, by_number
from shmsync.errors import (
    BrokenError,
    CapacityError,
    ClosedError,
    ExistsError,
    KindError,
    LimitError,
    NotFoundError,
    UnsupportedError,
    from_errno,
)
from shmsync.objects import CLASS_OF_KIND, Event, Handle, Mutex, Semaphore

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmsync._native import CData
    from shmsync.inspect import ObjectInfo

#: Most bytes of a name, in UTF-8.
NAME_MAX: Final = 200
#: What a segment's file is called: this and the namespace's name.
PREFIX: Final = "shmsync-"
CAPACITY_MAX: Final = 2**24
THREADS_MAX: Final = 0xFFFF

KIND_NAMES: Final = {
    lib.SS_SEMAPHORE: "a semaphore",
    lib.SS_MUTEX: "a mutex",
    lib.SS_AUTO_EVENT: "an event",
    lib.SS_MANUAL_EVENT: "an event",
}


def check_name(name: str, what: str, *, slash: bool) -> bytes:
    """The UTF-8 of a name of 1 to 200 bytes without control characters (and without ``/`` unless
    ``slash``). Raises ``LimitError`` if it is too long, ``ValueError`` if it is otherwise wrong."""
    if not isinstance(name, str):
        raise TypeError(f"the name of {what} must be a str, not {type(name).__name__}")
    encoded = name.encode()
    if len(encoded) > NAME_MAX:
        raise LimitError(f"the name of {what} has {len(encoded)} bytes; at most {NAME_MAX}")
    if not encoded:
        raise ValueError(f"the name of {what} is empty")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise ValueError(f"the name of {what} has a control character: {name!r}")
    if not slash and "/" in name:
        raise ValueError(f"the name of {what} has a '/': {name!r}")
    return encoded


def shm_name(name: str) -> str:
    """What ``shm_open`` calls the segment of a namespace."""
    return "/" + PREFIX + check_name(name, "a namespace", slash=False).decode()


def open_shm(name: str, *, create: bool) -> int:
    """A read-write descriptor on a namespace's file, to be closed by the caller. With ``create``,
    an empty file is made if there is none.

    Raises ``NotFoundError``, ``BrokenError`` (something else has that name), ``PermissionError``.
    """
    path = shm_name(name)
    while True:
        try:
            return int(posix_ipc.SharedMemory(path, flags=0).fd)
        except posix_ipc.ExistentialError:
            if not create:
                raise NotFoundError(errno.ENOENT, "no such namespace", name) from None
        except posix_ipc.PermissionsError:
            raise PermissionError(
                errno.EACCES, "no permission to open the namespace's segment", name
            ) from None
        except (OSError, ValueError) as error:  # ValueError: what posix_ipc makes of EISDIR
            raise _not_a_segment(name, error) from error
        try:
            # Not O_CREAT alone: that is refused to root for files of others (fs.protected_regular).
            return int(posix_ipc.SharedMemory(path, flags=posix_ipc.O_CREX, mode=0o600).fd)
        except posix_ipc.ExistentialError:
            continue  # somebody else has just made it
        except OSError as error:
            raise _not_a_segment(name, error) from error


_IN_THE_WAY: Final = {
    errno.ELOOP: "a symbolic link",
    errno.EISDIR: "a directory",
    errno.ENXIO: "a socket or device",
}


def _not_a_segment(name: str, error: OSError | ValueError) -> OSError:
    # shm_open answers EINVAL for a directory, of which posix_ipc makes a ValueError.
    number = errno.EISDIR if isinstance(error, ValueError) else error.errno or 0
    if number in _IN_THE_WAY:
        text = f"its place in /dev/shm is taken by {_IN_THE_WAY[number]}"
        return BrokenError(number, text, name)
    if number == 0:  # out of file descriptors: posix_ipc says it in words only
        return OSError(errno.EMFILE, str(error), name)
    return OSError(number, os.strerror(number), name)


def unlink(name: str) -> None:
    """Removes a namespace's name, whoever uses it: they go on with what they have, and the next
    opener gets a new one. (A namespace that is not persistent goes by itself with its last
    process.)

    Raises ``NotFoundError``, ``BrokenError`` if something else has that name, ``PermissionError``.
    """
    _unlink(name, only_if_unused=False)


def unlink_unused(name: str) -> bool:
    """Removes a namespace's name if no living process uses it. False if one does."""
    return _unlink(name, only_if_unused=True)


def _unlink(name: str, *, only_if_unused: bool) -> bool:
    while True:
        fd = open_shm(name, create=False)
        try:
            code = lib.ss_unlink(fd, shm_name(name).encode(), only_if_unused)
        finally:
            os.close(fd)
        if code == 0:
            return True
        if code == -errno.EBUSY:
            return False
        if code == -errno.EBADMSG:
            raise BrokenError(
                errno.EBADMSG, "not a shmsync segment (shmsync rm --force removes it)", name
            )
        if code not in (-errno.EINTR, -errno.ESTALE):  # ESTALE: it was made anew under our hands
            raise from_errno(code, filename=name)


def _refusal(request: CData, code: int, name: str) -> Exception:
    """The exception for a failed ss_attach."""
    found: int = request.found
    reasons: dict[int, tuple[type[OSError], str]] = {
        lib.SS_WHY_NOT_A_FILE: (BrokenError, "its place in /dev/shm is taken by no regular file"),
        lib.SS_WHY_FOREIGN: (BrokenError, "the file in /dev/shm is not a shmsync segment"),
        lib.SS_WHY_VERSION: (
            BrokenError,
            f"the segment has format version {request.found_version}, which this release of shmsync"
            " does not know; it is in use or persistent (shmsync rm --force removes it)",
        ),
        lib.SS_WHY_ABI: (
            BrokenError,
            f"the segment was made by a build for another pointer size or C library ({found:#x})",
        ),
        lib.SS_WHY_DAMAGED: (BrokenError, "the segment is damaged (shmsync rm --force removes it)"),
        lib.SS_WHY_OTHER_USER: (
            BrokenError,
            f"the segment belongs to user {found}; to use it all the same, pass a mode= that grants"
            " something to group or others",
        ),
        lib.SS_WHY_PID_NAMESPACE: (
            UnsupportedError,
            "the segment is used from another pid namespace (container): the kernel could take its"
            " living threads for dead",
        ),
        lib.SS_WHY_UNUSABLE: (UnsupportedError, _why_unusable(found)),
        lib.SS_WHY_NOT_PERSISTENT: (
            UnsupportedError,
            f"no namespace of the engine {_engine_name(found)} can be persistent: the kernel drops"
            " its objects with their last process",
        ),
        lib.SS_WHY_NO_ENGINE: (
            UnsupportedError,
            f"the segment's engine has number {found}, which this build does not have",
        ),
        lib.SS_WHY_PROCESSES: (
            CapacityError,
            "every process slot is taken; create the namespace with a larger threads=",
        ),
        lib.SS_WHY_NO_SPACE: (
            CapacityError,
            f"/dev/shm has no room for the segment's {found} bytes; a smaller capacity= or threads="
            " needs less",
        ),
    }
    if request.why == lib.SS_WHY_ENGINE:
        engine = by_number(request.found_engine)
        return ValueError(
            f"namespace {name!r} has the engine {engine.name if engine else found!r}, not"
            f" {_engine_name(request.engine)!r}"
        )
    if request.why in reasons:
        error_class, message = reasons[request.why]
        return error_class(-code, message, name)
    if code == -errno.ENOENT:
        return NotFoundError(errno.ENOENT, "no such namespace", name)
    if code == -errno.EEXIST:
        return ExistsError(errno.EEXIST, "the namespace exists", name)
    return from_errno(code, filename=name)


def _why_unusable(number: int) -> str:
    engine = by_number(number)
    return f"the engine {engine.name} cannot work here: {engine.check()}" if engine else ""


def _engine_name(number: int) -> str | None:
    engine = by_number(number)
    return engine.name if engine else None


H = TypeVar("H", bound=Handle)

# For the hooks at the end of the file.
_namespaces: weakref.WeakSet[Namespace] = weakref.WeakSet()


class Namespace:
    """A directory of objects in shared memory, which processes that know nothing of each other meet
    in by its name.

    ``Namespace(name)`` creates it, or attaches to it if a living process uses it (or it is
    persistent).

    name: 1 to 200 bytes of UTF-8 without control characters and ``/``; the file is
        ``/dev/shm/shmsync-<name>``.
    engine: the algorithm, see ``shmsync.engine.engines()``. None takes the segment's, and for a
        new one the default. Another than the segment's is a ``ValueError`` that names both. Under
        ``esync`` and ``ntsync`` the first opener starts a broker, which serves one user only.
    create: False raises ``NotFoundError`` if it does not exist.
    exclusive: raises ``ExistsError`` if it does.
    capacity: objects that fit, 1 to 2**24.
    threads: threads that can be registered at a time (each that waits or owns a mutex), and
        processes that can be attached, 1 to 65,535.
    mode: permission bits of a new segment, not cut by the umask. A segment of another user is
        refused unless the mode that *you* pass grants something to group or others.
    persistent: the segment and its named objects stay when their last process ends.

    On an existing namespace ``capacity``, ``threads``, ``mode`` and ``persistent`` change nothing.

    Raises besides: ``UnsupportedError`` (another pid namespace, a kernel that lacks what the engine
    needs), ``BrokenError`` (the file is not one of ours, of another format, damaged, or another
    user's), ``CapacityError`` (``/dev/shm`` is full), ``PermissionError``.

    Works after fork, and pickles to another process on the machine. ``close`` it, use it as a
    context manager, or just let it be collected.
    """

    def __init__(
        self,
        name: str,
        *,
        engine: str | None = None,
        create: bool = True,
        exclusive: bool = False,
        capacity: int = 4096,
        threads: int = 1024,
        mode: int = 0o600,
        persistent: bool = False,
    ) -> None:
        self._mapping: CData = ffi.NULL
        # Held while the mapping is used to open something, so that no other thread closes it
        # meanwhile. Reentrant, since a signal handler may open or close something in the middle of
        # that.
        self._lock = threading.RLock()
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._mode = mode
        self._shm_name = shm_name(name).encode()
        self.name: Final = name
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity must be 1 to {CAPACITY_MAX}, not {capacity}")
        if not 1 <= threads <= THREADS_MAX:
            raise ValueError(f"threads must be 1 to {THREADS_MAX}, not {threads}")
        request = ffi.new("struct ss_attach *")
        request.engine = lib.SS_ENGINE_ANY if engine is None else by_name(engine).number
        request.new_engine = by_name(engine or DEFAULT).number
        request.capacity = capacity
        request.threads = threads
        request.mode = mode & 0o777
        request.flags = (
            (lib.SS_CREATE if create else 0)
            | (lib.SS_EXCLUSIVE if exclusive else 0)
            | (lib.SS_PERSISTENT if persistent else 0)
        )
        self._attach(request, create=create)
        try:
            self._join_broker(self._mapping)
        except BaseException:
            self._detach()
            raise
        self.created: Final = bool(request.created)
        _namespaces.add(self)

    def _attach(self, request: CData, *, create: bool) -> None:
        path = ffi.new("char[]", self._shm_name)
        request.shm_name = path
        while True:
            request.fd = open_shm(self.name, create=create)
            try:
                code = lib.ss_attach(request)
                self._mapping = request.ns
            except BaseException:  # a signal handler, between the two lines
                if request.ns != ffi.NULL:
                    self._mapping = request.ns
                raise
            finally:
                os.close(request.fd)
            if code == 0:
                return
            # ESTALE: the file lost its name between our opening it and locking it. EINTR: signals.
            if code not in (-errno.ESTALE, -errno.EINTR):
                raise _refusal(request, code, self.name)

    def _join_broker(self, mapping: CData) -> None:
        if lib.ss_needs_broker(mapping):
            from shmsync import broker

            broker.join(mapping, self.name)

    def __repr__(self) -> str:
        if self.closed:
            return f"<shmsync.Namespace {self.name!r} closed>"
        return f"<shmsync.Namespace {self.name!r} engine={self.engine!r}>"

    def __reduce__(self) -> tuple[Callable[..., Namespace], tuple[str, int, int]]:
        return reattach, self._identity()

    def _identity(self) -> tuple[str, int, int]:
        """What another process needs to find this very segment: its name, instance, and our
        mode."""
        with self._lock:
            return self.name, lib.ss_namespace_instance(self._open_mapping()), self._mode

    def _open_mapping(self) -> CData:
        """The mapping, looked at once: a signal handler may close the namespace at any time."""
        mapping = self._mapping
        if mapping == ffi.NULL:
            raise ClosedError(f"namespace {self.name!r} is closed")
        return mapping

    @property
    def closed(self) -> bool:
        """True once ``close`` was called."""
        return bool(self._mapping == ffi.NULL)

    @property
    def engine(self) -> str:
        """The name of the segment's engine. Raises ``ClosedError``."""
        with self._lock:
            return _engine_name(lib.ss_namespace_engine(self._open_mapping())) or "unknown"

    # ---- objects ----

    def mutex(
        self,
        name: str | None = None,
        *,
        owned: bool = False,
        fair: bool = True,
        create: bool = True,
        exclusive: bool = False,
    ) -> Mutex:
        """Opens a mutex, creating it if it does not exist.

        name: 1 to 200 bytes of UTF-8 without control characters, or None for an anonymous one,
            which is reached by passing (pickling) the handle.
        owned: a *new* mutex is the calling thread's at once; ``handle.created`` says whether it
            is new.
        fair: a *new* mutex goes to those who wait for it in the order in which they came, as NT's
            does. Each hand-over then costs a change of thread. With False, whoever runs may take it
            before somebody who has still to wake up, for about a millisecond; after that the one
            who waits is in the queue, and is handed it. That is many times faster where several
            threads want it all the time. (``handoff`` only; ``fsync`` and ``esync`` are never
            fair, ``ntsync`` always.)
        create, exclusive: as for ``Namespace``.

        Raises ``NotFoundError``, ``ExistsError``, ``KindError`` if the name is another kind's,
        ``CapacityError``, ``ValueError`` for a wrong name, ``ClosedError``, ``BrokenError``.
        NT: CreateMutex, OpenMutex.
        """
        initial = {"kind": lib.SS_MUTEX}
        return self._open(Mutex, name, initial, create, exclusive, owned=owned, fair=fair)

    def semaphore(
        self,
        name: str | None = None,
        initial: int = 1,
        *,
        maximum: int | None = None,
        create: bool = True,
        exclusive: bool = False,
    ) -> Semaphore:
        """Opens a semaphore, creating it with ``initial`` tokens of at most ``maximum`` (None:
        2**31-1) if it does not exist; on an existing one both are checked and ignored.
        ``ValueError`` if they do not fit together. The rest as ``mutex``. NT: CreateSemaphore,
        OpenSemaphore."""
        most = COUNT_MAX if maximum is None else maximum
        if not 1 <= most <= COUNT_MAX:
            raise ValueError(f"maximum must be 1 to {COUNT_MAX}, not {most}")
        if not 0 <= initial <= most:
            raise ValueError(f"initial must be 0 to the maximum of {most}, not {initial}")
        state = {"kind": lib.SS_SEMAPHORE, "count": initial, "maximum": most}
        return self._open(Semaphore, name, state, create, exclusive)

    def event(
        self,
        name: str | None = None,
        *,
        manual_reset: bool = False,
        signaled: bool = False,
        create: bool = True,
        exclusive: bool = False,
    ) -> Event:
        """Opens an event, creating it with this kind of reset and state if it does not exist; on an
        existing one both are ignored. The rest as ``mutex``. NT: CreateEvent, OpenEvent."""
        kind = lib.SS_MANUAL_EVENT if manual_reset else lib.SS_AUTO_EVENT
        initial = {"kind": kind, "signaled": int(bool(signaled))}
        return self._open(Event, name, initial, create, exclusive)

    def open(self, name: str) -> Handle:
        """Opens an existing object, whatever its kind. Raises as ``mutex``."""
        return self._open(Handle, name, {"kind": lib.SS_FREE}, False, False)

    def objects(self) -> tuple[ObjectInfo, ...]:
        """What is in the namespace at this moment, read without locks. Raises ``ClosedError``,
        ``BrokenError``, and ``NotFoundError`` if the namespace was unlinked."""
        from shmsync.inspect import snapshot

        instance = self._identity()[1]
        found = snapshot(self.name)
        if found.instance != instance:
            raise NotFoundError(errno.ENOENT, "the namespace was unlinked", self.name)
        return found.objects

    def _open(
        self,
        expected: type[H],
        name: str | None,
        initial: dict[str, int],
        create: bool,
        exclusive: bool,
        *,
        owned: bool = False,
        fair: bool = True,
    ) -> H:
        request = ffi.new("struct ss_open *")
        encoded = b"" if name is None else check_name(name, "an object", slash=True)
        text = ffi.from_buffer(encoded)
        request.name = ffi.cast("const char *", text)
        request.name_length = len(encoded)
        request.flags = (lib.SS_CREATE if create else 0) | (lib.SS_EXCLUSIVE if exclusive else 0)
        request.initial = initial
        request.owned = owned
        request.barging = not fair
        return self._finish_open(expected, name, request)

    def _open_slot(self, slot: int, generation: int, name: str | None) -> Handle:
        """Opens the object in a slot, if it is still the one of that generation."""
        request = ffi.new("struct ss_open *")
        request.flags = lib.SS_BY_SLOT
        request.index = slot
        request.generation = generation
        return self._finish_open(Handle, name, request)

    def _finish_open(self, expected: type[H], name: str | None, request: CData) -> H:
        with self._lock:
            try:
                request.ns = self._open_mapping()
                while (code := lib.ss_open(request)) == -errno.EINTR:
                    request.ns = self._open_mapping()  # handlers have run
                if code < 0:
                    raise self._open_error(code, name, request)
                if request.fetch:
                    self._fetch(request)
                self._open_mapping()
                handle_class = CLASS_OF_KIND[request.kind]
                assert issubclass(handle_class, expected)
                handle = handle_class(self, name, request)
                self._handles.add(handle)
                return handle
            except BaseException:
                while lib.ss_open_undo(request) == -errno.EINTR:
                    pass
                raise

    def _fetch(self, request: CData) -> None:
        """Gets the object's file descriptor from the broker."""
        from shmsync import broker

        self._join_broker(request.ns)
        descriptor = broker.fetch(request.ns, request.index, request.generation, self.name)
        lib.ss_descriptor_adopt(request.handle, descriptor)

    def _open_error(self, code: int, name: str | None, request: CData) -> Exception:
        label = f"{name!r} in namespace {self.name!r}"
        if code == -errno.ENOENT:
            return NotFoundError(errno.ENOENT, "no such object", label)
        if code == -errno.EEXIST:
            return ExistsError(errno.EEXIST, "the object exists", label)
        if code == -errno.EPROTOTYPE:
            return KindError(f"{label} is {KIND_NAMES[request.kind]}")
        if code == -errno.ENOSPC:
            return CapacityError(
                errno.ENOSPC,
                "no free object slot; create the namespace with a larger capacity=",
                label,
            )
        return from_errno(code, filename=label)

    # ---- closing ----

    def close(self) -> None:
        """Closes all handles that were made through this instance, and leaves the segment. If this
        was the last process that used it, a segment that is not persistent is removed. Closing
        twice is fine. Mutexes that a thread still owns stay owned until the thread ends."""
        with self._lock:
            for handle in list(self._handles):
                handle.close()
            self._detach()

    def _detach(self) -> None:
        mapping, self._mapping = self._mapping, ffi.NULL
        if mapping != ffi.NULL:
            lib.ss_detach(mapping)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Its handles hold it, so they are closed by now, or die with it.
        if getattr(self, "_mapping", None) is not None:
            self._detach()


# ---- pickles ----

# One Namespace for all handles of a segment that are unpickled in this process, kept by them.
_for_handles: weakref.WeakValueDictionary[tuple[str, int], Namespace] = (
    weakref.WeakValueDictionary()
)


def reattach(name: str, instance: int, mode: int) -> Namespace:
    """What a pickled namespace becomes: the very segment, not a later one of the same name.
    ``NotFoundError`` if it is gone."""
    namespace = Namespace(name, create=False, mode=mode)
    if namespace._identity()[1] != instance:
        raise NotFoundError(errno.ENOENT, "the namespace was made anew since", name)
    return namespace


def reopen_handle(
    name: str, instance: int, mode: int, slot: int, generation: int, object_name: str | None
) -> Handle:
    """What a pickled handle becomes. ``NotFoundError`` if the object or its namespace is gone."""
    namespace = _for_handles.get((name, instance))
    if namespace is None or namespace.closed:
        namespace = reattach(name, instance, mode)
        _for_handles[name, instance] = namespace
    return namespace._open_slot(slot, generation, object_name)


# ---- the end of a process, and the beginning of a forked one ----


def _finalize_in_child(_: object) -> None:
    from multiprocessing.util import Finalize

    Finalize(None, lib.ss_exit, exitpriority=0)


_finalizes_children = False


def _before_fork() -> None:
    # Processes of multiprocessing's "fork" end by os._exit, without atexit, but with finalizers.
    global _finalizes_children
    if "multiprocessing.util" in sys.modules and not _finalizes_children:
        from multiprocessing.util import register_after_fork

        register_after_fork(_finalize_in_child, _finalize_in_child)
        _finalizes_children = True


def _after_fork_in_child() -> None:
    for namespace in _namespaces:
        namespace._lock = threading.RLock()  # another thread of the parent may have held it
        if not namespace.closed and lib.ss_needs_broker(namespace._mapping):
            from shmsync import broker

            broker.rejoin(namespace._mapping)


atexit.register(lib.ss_exit)
os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
