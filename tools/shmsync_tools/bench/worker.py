"""A process that does what it is told over a socket. It is started by ``exec``, inherits nothing
but that socket, and opens what it works on by name (or gets the descriptors sent, where there is no
name).

    python -m shmsync_tools.bench.worker DESCRIPTOR
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MESSAGE_MAX = 1 << 20
DESCRIPTORS_MAX = 16
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Fd:
    """A file descriptor. In a message it becomes the receiver's own descriptor of the same file."""

    number: int


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.descriptors: list[int] = []

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, Fd):
            return None
        self.descriptors.append(obj.number)
        return len(self.descriptors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, descriptors: list[int]) -> None:
        super().__init__(file)
        self.descriptors = descriptors

    def persistent_load(self, pid: int) -> Fd:
        return Fd(self.descriptors[pid])


class Channel:
    """One end of the socket between the coordinator and a worker; it carries any value."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def say(self, value: object) -> None:
        """Sends a value."""
        file = io.BytesIO()
        pickler = _Pickler(file)
        pickler.dump(value)
        socket.send_fds(self.socket, [file.getvalue()], pickler.descriptors)

    def hear(self) -> Any:
        """The next value; ``EOFError`` if the other end is gone."""
        data, descriptors, _, _ = socket.recv_fds(self.socket, MESSAGE_MAX, DESCRIPTORS_MAX)
        if not data:
            raise EOFError
        return _Unpickler(io.BytesIO(data), descriptors).load()


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel; messages keep their bounds."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_MAX)
    return ends


class Conversation:
    """What a task talks with while it runs: with ``say`` and ``hear``, to the coordinator."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def say(self, value: object = None) -> None:
        """Sends a value to the coordinator's ``hear``."""
        self._channel.say(("said", value))

    def hear(self) -> Any:
        """The coordinator's next ``say``."""
        return self._channel.hear()


Task = Callable[..., Any]


def die_with_parent() -> None:
    """Lets the kernel kill this process when the one that started it ends in whatever way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _serve(channel: Channel) -> None:
    allowed = os.sched_getaffinity(0)
    while True:
        try:
            task, arguments = channel.hear()
        except EOFError:
            return
        os.sched_setaffinity(0, allowed)
        gc.collect()
        try:
            answer = ("done", task(Conversation(channel), *arguments))
        except Exception as error:
            traceback.print_exc()
            said = traceback.format_exception_only(error)[-1].strip()
            answer = ("failed", said)
        channel.say(answer)


def main() -> None:
    """Serves until the other end is gone."""
    die_with_parent()
    gc.disable()  # garbage is collected between two tasks, not in what is measured
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's
    _serve(Channel(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
