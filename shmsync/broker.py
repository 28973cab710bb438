"""The broker: one process per namespace for engines whose objects are file descriptors.

Unrelated processes can get a descriptor only from somebody who has it. The broker makes an object's
descriptor when the object is first asked for, and passes it on over a Unix socket. It notices when
a thread or process dies and abandons its mutexes, as wineserver does.

The first opener of a namespace starts it: he binds the socket, whose abstract name follows from the
segment's instance, so of two only one can; and the broker ends when nobody lives in the segment any
more. While it lives it holds a robust mutex in the segment. If it is killed, what it had is gone:
every opener, and every wait, raises ``BrokenError`` until the last user has left, and the next
opener begins anew.

Each process keeps one connection, which tells both sides of the other's death; a descriptor is
fetched over a connection of its own, so that threads, signal handlers and forks cannot mix up two
answers.
"""

from __future__ import annotations

import errno
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmsync._native import ffi, lib
from shmsync.errors import BrokenError, CapacityError, UnsupportedError, from_errno

if TYPE_CHECKING:
    from shmsync._native import CData

#: Between two looks for dead threads, in seconds.
ROUND: Final = 0.05
#: How long another user's process may be connected before it is shown the door, in seconds.
STRANGERS_TIME: Final = 1.0
#: How long an opener tries to find a broker or to start one.
PATIENCE: Final = 20.0
#: What `ps` calls it, beside its command line; 15 bytes fit.
PROCESS_NAME: Final = "shmsync-broker"

# A request asks for the descriptor of an object: its index and generation. The answer is a status,
# 0 or -errno, with the descriptor. A message of one byte asks for a look at the dead, and for no
# answer.
_REQUEST: Final = struct.Struct("=II")
_ANSWER: Final = struct.Struct("=i")
_INT: Final = struct.Struct("i")
#: The index of a request to join. The answer's descriptor, if any, is what the engine needs too.
_JOIN: Final = 0xFFFFFFFF


def address(instance: int) -> str:
    """The abstract name of the socket of a segment's broker."""
    return f"\0shmsync-broker-{instance:016x}"


def _peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end?"""
    size = struct.calcsize("=iII")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("=iII", credentials)[1])


def _trusted(connection: socket.socket) -> bool:
    return _peer_uid(connection) in (os.geteuid(), 0)


# ---- clients -------------------------------------------------------------------------------------


class _NobodyThereError(Exception):
    """No broker answers, or it went away before it did."""


def join(mapping: CData, name: str) -> None:
    """Connects this process with the namespace's broker, for as long as it has the segment mapped.
    Starts the broker if there is none.

    Raises ``BrokenError`` if there was one and it was killed, or if none can be started,
    ``UnsupportedError`` if it is another user's, ``CapacityError`` for want of file descriptors.
    """
    deadline = time.monotonic() + PATIENCE
    where = address(lib.ss_namespace_instance(mapping))
    while True:
        try:
            connection, device = _ask(where, _JOIN, 0, name)
        except _NobodyThereError:
            pass
        else:
            lib.ss_broker_joined(mapping, connection.detach(), device)
            return
        state = lib.ss_broker_state(mapping)
        if state < 0:
            raise from_errno(state, filename=name)
        if state == 0:
            _start(mapping, where, name)
        if time.monotonic() > deadline:
            raise BrokenError(errno.ETIMEDOUT, "the namespace's broker does not answer", name)
        time.sleep(0.001)


def rejoin(mapping: CData) -> None:
    """Gives a forked child a connection of its own. If that fails, an opener's join says why."""
    try:
        connection = _connect(address(lib.ss_namespace_instance(mapping)), "")
    except (OSError, _NobodyThereError):
        return
    lib.ss_broker_joined(mapping, connection.detach(), -1)


def fetch(mapping: CData, index: int, generation: int, name: str) -> int:
    """The descriptor of an object, to be closed by the caller.

    Raises ``BrokenError`` if the broker was killed, ``CapacityError`` for want of descriptors."""
    where = address(lib.ss_namespace_instance(mapping))
    try:
        connection, descriptor = _ask(where, index, generation, name)
    except _NobodyThereError:
        if lib.ss_broker_state(mapping) > 0:
            raise _too_many("its broker", name) from None
        lib.ss_broker_lost(mapping)
        raise from_errno(-errno.ENOTRECOVERABLE, filename=name) from None
    connection.close()
    return descriptor


def _ask(where: str, index: int, generation: int, name: str) -> tuple[socket.socket, int]:
    """Sends one request over a new connection; that, and the descriptor of the answer or -1."""
    connection = _connect(where, name)
    try:
        connection.send(_REQUEST.pack(index, generation))
        # Not recv_fds: it drops its flags.
        data, extras, flags, _ = connection.recvmsg(
            _ANSWER.size, socket.CMSG_SPACE(_INT.size), socket.MSG_CMSG_CLOEXEC
        )
    except (ConnectionResetError, BrokenPipeError):
        connection.close()
        raise _NobodyThereError from None
    except BaseException:
        connection.close()
        raise
    try:
        _check(data, flags, name)
    except BaseException:
        connection.close()
        raise
    return connection, int(_INT.unpack(extras[0][2])[0]) if extras else -1


def _check(data: bytes, flags: int, name: str) -> None:
    if len(data) != _ANSWER.size:
        raise _NobodyThereError
    status = int(_ANSWER.unpack(data)[0])
    if flags & socket.MSG_CTRUNC:
        raise _too_many("this process", name)
    if status in (-errno.EMFILE, -errno.ENFILE):
        raise _too_many("its broker", name)
    if status == -errno.EACCES:
        raise UnsupportedError(
            errno.EACCES, "the namespace's broker is another user's and serves only him", name
        )
    if status < 0:
        raise from_errno(status, filename=name)


def _connect(where: str, name: str) -> socket.socket:
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise _too_many("this process", name) from None
        raise
    try:
        connection.connect(where)
        if not _trusted(connection):
            raise UnsupportedError(
                errno.EACCES, f"the namespace's broker is user {_peer_uid(connection)}'s", name
            )
    except ConnectionRefusedError:
        connection.close()
        raise _NobodyThereError from None
    except BaseException:
        connection.close()
        raise
    return connection


def _too_many(who: str, name: str) -> CapacityError:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CapacityError(
        errno.EMFILE,
        f"{who} has no file descriptor left, and every object that is open takes one under this"
        f" engine; RLIMIT_NOFILE is {most} here: raise it with `ulimit -n` or resource.setrlimit"
        " before the namespace is opened first",
        name,
    )


def _start(mapping: CData, where: str, name: str) -> None:
    """Starts a broker, unless somebody else is doing that."""
    segment = lib.ss_broker_segment(mapping)
    if segment < 0:
        raise from_errno(segment, filename=name)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                listener.bind(where)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return
                raise
            listener.listen(128)
            _spawn(name, listener.fileno(), segment)
    finally:
        os.close(segment)


def _spawn(name: str, listener: int, segment: int) -> None:
    """Returns when the broker runs on its own: what is started here ends at once."""
    package = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    started = subprocess.run(
        [sys.executable, "-m", __name__, name, str(listener), str(segment)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{package}:{path}" if path else package},
        pass_fds=(listener, segment),
        start_new_session=True,
        check=False,
    )
    if started.returncode != 0:
        reason = started.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BrokenError(errno.ECHILD, f"the namespace's broker cannot be started: {reason}", name)


# ---- the process itself --------------------------------------------------------------------------


class Broker:
    """Serves one segment until nobody lives in it."""

    def __init__(self, listener: socket.socket, segment: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        mapping = ffi.new("struct ss_namespace **")
        code = lib.ss_serve(segment, mapping)
        if code < 0:
            raise from_errno(code)
        self._mapping = mapping[0]
        # Connections of others than our user, who may ask and are refused, and the time of each.
        self._strangers: dict[socket.socket, float] = {}
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def run(self) -> None:
        """Returns when the last user has gone."""
        next_round = 0.0
        while True:
            events = self._selector.select(max(0.0, next_round - time.monotonic()))
            look_now = False
            for key, _ in events:
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._listener:
                    self._accept()
                elif not self._serve(key.fileobj):
                    look_now = True
            if look_now or time.monotonic() >= next_round:
                if lib.ss_serve_round(self._mapping) <= 0:
                    break
                next_round = time.monotonic() + ROUND
                self._drop_silent_strangers()
        self._listener.close()
        lib.ss_serve_end(self._mapping)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # too many descriptors: the client is told by an end without an answer
            os.close(self._spare)
            self._listener.accept()[0].close()
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            return
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        if not _trusted(connection):
            self._strangers[connection] = time.monotonic() + STRANGERS_TIME

    def _drop_silent_strangers(self) -> None:
        """Nobody but our user may keep our descriptors."""
        now = time.monotonic()
        for connection in [each for each, until in self._strangers.items() if now > until]:
            self._drop(connection)

    def _serve(self, connection: socket.socket) -> bool:
        """Answers a request. False if the client has gone, or wants the dead looked after."""
        try:
            data = connection.recv(_REQUEST.size)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if len(data) == 1:
            return not _trusted(connection)
        if len(data) != _REQUEST.size:
            self._drop(connection)
            return False
        index, generation = _REQUEST.unpack(data)
        if not self._answer(connection, index, generation) or index != _JOIN:
            self._drop(connection)
        return True

    def _answer(self, connection: socket.socket, index: int, generation: int) -> bool:
        if not _trusted(connection):
            result = -errno.EACCES
        elif index == _JOIN:
            result = lib.ss_serve_device(self._mapping)
        else:
            result = self._descriptor(index, generation)
        has_none = index == _JOIN and result == -1
        status = _ANSWER.pack(0 if has_none else min(result, 0))
        try:
            socket.send_fds(connection, [status], [result] if result >= 0 else [])
        except OSError:
            return False
        return result >= 0 or has_none

    def _descriptor(self, index: int, generation: int) -> int:
        while True:
            result: int = lib.ss_serve_descriptor(self._mapping, index, generation)
            if result != -errno.EINTR:
                return result

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._strangers.pop(connection, None)
        connection.close()


def main(arguments: list[str]) -> None:
    """``python -m shmsync.broker NAME LISTENER SEGMENT``, with two inherited descriptors."""
    _, listener, segment = arguments
    os.set_inheritable(int(listener), False)
    os.set_inheritable(int(segment), False)
    if os.fork():
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 2)
    os.close(null)
    Path("/proc/self/comm").write_text(PROCESS_NAME)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Broker(socket.socket(fileno=int(listener)), int(segment)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
