"""A wineserver as a peer: the same calls on Windows' own objects, made by a small Windows program
(``bench.c``) under Wine.

    python -m shmsync_tools.bench.wine

Wine keeps these objects in its server, a process that it asks by a message and an answer for every
call; that is what ESYNC, FSYNC and ``/dev/ntsync`` are there to avoid. Wine 10.16 and newer use
``/dev/ntsync`` if it is there: ``Session.sync`` looks, and says which of both was measured.

The program is compiled and run in a temporary folder, with a prefix (Wine's C: and registry, about
700 MB) of its own, which is made in some seconds. All of it goes when the session ends.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

COMPILER: Final = "x86_64-w64-mingw32-gcc"
#: What is needed, and the package that brings it on Debian.
NEEDED: Final = {
    "wine": "wine",
    "wineserver": "wine",
    COMPILER: "gcc-mingw-w64-x86-64",
}
SOURCE: Final = Path(__file__).with_name("bench.c")

SIZES: Final = (2, 8, 64)
#: What can be measured, as bench.c calls it: nanoseconds of wait and release of a mutex, of release
#: and wait of a semaphore, of set and wait of an auto-reset event, of set of the last of N events
#: and a wait for any, of a wait for all of N semaphores, of a round trip of two processes.
NAMES: Final = (
    "mutex",
    "semaphore",
    "event",
    *(f"any {size}" for size in SIZES),
    *(f"all {size}" for size in SIZES),
    "ping-pong",
)

#: Rounds of which the median counts.
ROUNDS: Final = 5
#: Seconds that making a prefix may take, and everything else.
PREFIX_SECONDS: Final = 300
SECONDS: Final = 60
#: The server counts as quiet when it has had less to do than that, in seconds, between two looks.
LOOK_SECONDS: Final = 0.5
QUIET_SECONDS: Final = 0.005


class WineError(Exception):
    """Wine, or the program under it, did not do what it should."""


def why_absent() -> str | None:
    """None if there is a Wine to measure, else what is missing and how to get it."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if not missing:
        return None
    packages = " ".join(sorted({NEEDED[tool] for tool in missing}))
    return f"absent (no {', '.join(missing)}); Debian: apt-get install {packages}"


def version() -> str | None:
    """As Wine says it: wine-8.0 (Debian 8.0~repack-4). None without a Wine."""
    if shutil.which("wine") is None:
        return None
    done = subprocess.run(
        ["wine", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "WINEDEBUG": "-all"},
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout.strip()


def _environment(folder: Path) -> dict[str, str]:
    """No display, nothing that asks questions, a home of its own; and no ESYNC or FSYNC, which some
    builds have and which are asked for by variables."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "WINEPREFIX": str(folder / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe=",
    }


class Session:
    """A prefix, its wineserver, and the program. A context manager."""

    def __init__(self) -> None:
        if reason := why_absent():
            raise WineError(reason)
        self._temporary = tempfile.TemporaryDirectory(
            prefix="shmsync-wine-", ignore_cleanup_errors=True
        )
        self._folder = Path(self._temporary.name)
        self._environment = _environment(self._folder)
        self._program = self._folder / "bench.exe"
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        warnings = ("-Wall", "-Wextra", "-Werror")
        command = [COMPILER, "-std=gnu11", "-O2", *warnings, "-o", str(self._program), str(SOURCE)]
        self._run(command, SECONDS)
        (self._folder / "prefix").mkdir()
        self._run(["wineserver", "-p"], SECONDS)  # stays, also when no program is left
        self._run(["wine", "wineboot", "-i"], PREFIX_SECONDS)
        self.measure(["mutex"], 1)  # with the first program Wine starts its services
        self._await_quiet()

    def _run(self, command: Sequence[str], seconds: float) -> str:
        """Runs a command, and gives what it prints. It writes to files: a pipe would stay open as
        long as Wine's services run."""
        out, errors = self._folder / "out", self._folder / "errors"
        with out.open("wb") as stdout, errors.open("wb") as stderr:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=self._environment,
                    cwd=self._folder,
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise WineError(f"{' '.join(command)}: no end after {seconds:.0f} s") from None
        if done.returncode:
            said = errors.read_text(errors="replace").strip()[-500:]
            raise WineError(f"{' '.join(command)}: status {done.returncode}: {said}")
        return out.read_text(errors="replace")

    def sync(self) -> str:
        """Where the objects are kept: "wineserver", or "ntsync" if it has the driver open."""
        driver = any(_has_open(server, "/dev/ntsync") for server in self._servers())
        return "ntsync" if driver else "wineserver"

    def _await_quiet(self) -> None:
        """Until the services that Wine has started let the server alone."""
        deadline = time.monotonic() + SECONDS
        before, now = 0.0, self._server_seconds()
        while now - before > QUIET_SECONDS and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            before, now = now, self._server_seconds()

    def _server_seconds(self) -> float:
        """How long the server has run on a CPU."""
        times = (each / "schedstat" for each in self._servers())
        return sum(int(each.read_text().split()[0]) for each in times) / 1e9

    def _servers(self) -> Iterator[Path]:
        prefix = f"WINEPREFIX={self._environment['WINEPREFIX']}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "comm").read_text()
                ours = prefix in (process / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours and name.startswith("wineserver"):
                yield process

    def measure(self, names: Sequence[str] = NAMES, loop_ms: float = 20) -> dict[str, float]:
        """Nanoseconds of each: the median of some loops that take ``loop_ms`` together."""
        command = ["wine", str(self._program), str(loop_ms), *names]
        seconds = SECONDS + len(names) * loop_ms / 1000
        lines = self._run(command, seconds).splitlines()
        found = {each["name"]: float(each["ns"]) for each in map(json.loads, lines)}
        if set(found) != set(names):
            raise WineError(f"bench.exe has measured {', '.join(found)} only")
        return found

    def close(self) -> None:
        """Ends whatever runs in the prefix, and removes it."""
        if (self._folder / "prefix").exists():
            for option in ("-k", "-w"):
                subprocess.run(
                    ["wineserver", option],
                    env=self._environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=SECONDS,
                    check=False,
                )
        self._temporary.cleanup()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _has_open(process: Path, path: str) -> bool:
    try:
        return any(os.readlink(fd) == path for fd in (process / "fd").iterdir())
    except OSError:
        return False


def medians(session: Session, rounds: int = ROUNDS) -> dict[str, float]:
    """All of NAMES, as the median of some rounds."""
    found = [session.measure() for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in NAMES}


def measure() -> dict[str, float]:
    """The same, in a session of its own."""
    with Session() as session:
        return medians(session)
