"""``shmsync doctor``: what shmsync needs from this machine, looked at and tried."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmsync._native import lib
from shmsync.fast import WHY_NOT
from shmsync.inspect import DIRECTORY, columns

#: Inode of the machine's first pid namespace (PROC_PID_INIT_INO in Linux).
_INIT_PID_NAMESPACE = 0xEFFFFFFC
_PACKAGES = ("shmsync", "cffi", "posix_ipc", "psutil")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``status``: "ok"; "note", good to know; "warn", it will hurt some day;
    "fail", something of shmsync cannot work."""

    name: str
    status: str
    detail: str
    #: What to do about it, if anything.
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class EngineReport:
    """Whether an engine works here; ``reason`` says why not."""

    name: str
    ok: bool
    default: bool
    reason: str | None
    summary: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. ``ok``: the default engine works."""

    ok: bool
    checks: tuple[Check, ...]
    engines: tuple[EngineReport, ...]
    versions: dict[str, str | None]


def examine() -> Report:
    """Looks at everything. Leaves nothing behind."""
    checks = tuple(check() for check in _CHECKS)
    engines = tuple(_engines())
    tried = _try_default_engine()
    ok = tried.status == "ok" and all(engine.ok for engine in engines if engine.default)
    return Report(ok, (*checks, tried), engines, _versions())


def describe(report: Report) -> str:
    """The report for people."""
    lines = [columns(("", "", ""), [(c.status, c.name, c.detail) for c in report.checks]).lstrip()]
    advice = [f"{c.name}: {c.advice}" for c in report.checks if c.advice]
    if advice:
        lines += ["", "what to do", *(f"  {line}" for line in advice)]
    lines += ["", "engines"]
    for engine in report.engines:
        state = "works" if engine.ok else f"does not work: {engine.reason}"
        lines.append(f"  {engine.name}: {state}{' (the default)' if engine.default else ''}")
    known = (f"{name} {version or 'missing'}" for name, version in report.versions.items())
    lines += ["", "versions", "  " + ", ".join(known)]
    lines += ["", "shmsync works here." if report.ok else "shmsync does not work here."]
    return "\n".join(lines)


# ---- the checks ----------------------------------------------------------------------------------


def _kernel() -> Check:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    name = "kernel"
    if sys.platform != "linux" or match is None:
        return Check(name, "fail", f"{sys.platform} {release}", "shmsync needs Linux")
    detail = f"Linux {release}, {platform.machine()}"
    if (int(match[1]), int(match[2])) < (3, 15):
        return Check(name, "fail", detail, "Linux 3.15 brought the file locks that shmsync needs")
    return Check(name, "ok", detail)


def _futex_waitv() -> Check:
    rc = lib.ss_engine_probe(lib.SS_ENGINE_FSYNC)
    if rc == 0:
        return Check("futex_waitv", "ok", "a thread can sleep on several words at once")
    return Check(
        "futex_waitv",
        "warn",
        f"refused: {os.strerror(-rc)}",
        "without it fsync cannot run, and handoff learns of a dead owner within 100 ms, not 1;"
        " it came with Linux 5.16, and a container's seccomp filter may block it on newer kernels",
    )


def _fast_calls() -> Check:
    name = "fast calls"
    if WHY_NOT is None:
        return Check(name, "ok", "shmsync._fast is in use")
    detail = f"shmsync._fast is not in use: {WHY_NOT}"
    return Check(name, "note", detail, "every call goes through cffi, which takes ten times longer")


def _shared_memory() -> Check:
    name = DIRECTORY
    try:
        status = os.stat(DIRECTORY)
        space = os.statvfs(DIRECTORY)
    except OSError as error:
        advice = f"mount a tmpfs at {DIRECTORY}: mount -t tmpfs -o mode=1777 shm {DIRECTORY}"
        return Check(name, "fail", str(error.strerror), advice)
    free = space.f_bavail * space.f_frsize // 2**20
    total = space.f_blocks * space.f_frsize // 2**20
    mode = status.st_mode & 0o7777
    detail = f"{free} of {total} MiB free, mode {mode:04o}"
    if not os.access(DIRECTORY, os.W_OK | os.X_OK):
        return Check(name, "fail", detail, f"you cannot create files there: chmod 1777 {DIRECTORY}")
    if free < 4:
        advice = "nearly full: a namespace takes 2.5 MiB; docker run --shm-size makes it larger"
        return Check(name, "warn", detail, advice)
    if mode & 0o1000 == 0:
        return Check(name, "warn", detail, "not sticky: any user may remove any namespace")
    return Check(name, "ok", detail)


def _proc() -> Check:
    try:
        Path("/proc/self/stat").read_bytes()
        Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError as error:
        return Check("/proc", "fail", f"not readable: {error.strerror}", "mount -t proc proc /proc")
    return Check("/proc", "ok", "readable")


def _file_locks() -> Check:
    import fcntl
    import struct

    name = "file locks"
    # struct flock: type, whence, start, length, pid
    request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        fd = os.open(DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return Check(name, "note", f"not tried, no temporary file in {DIRECTORY}: {error.strerror}")
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        advice = "shmsync needs open file description locks: Linux 3.15, or a sandbox that has them"
        return Check(name, "fail", f"refused: {error.strerror}", advice)
    finally:
        os.close(fd)
    return Check(name, "ok", "open file description locks work")


def _pid_namespace() -> Check:
    name = "pid namespace"
    try:
        inode = os.stat("/proc/self/ns/pid").st_ino
    except OSError as error:
        return Check(name, "warn", f"unknown: {error.strerror}")
    if inode == _INIT_PID_NAMESPACE:
        return Check(name, "ok", "the machine's own")
    advice = "only programs of this container can share a namespace; docker run --pid joins two"
    return Check(name, "note", f"a container's ({inode})", advice)


def _cpus() -> Check:
    allowed, present = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    if allowed == 1:
        return Check("CPUs", "note", f"1 of {present} allowed: waiting never spins")
    return Check("CPUs", "ok", f"{allowed} of {present} allowed")


def _remove_ipc() -> Check:
    """systemd's logind deletes a regular user's files in /dev/shm when the last session ends."""
    name = "RemoveIPC"
    advice = (
        "logind removes a user's files in /dev/shm at logout, also under running programs: set "
        "RemoveIPC=no in /etc/systemd/logind.conf, or run services as a system user"
    )
    if not Path("/run/systemd/system").is_dir():
        return Check(name, "ok", "no systemd here")
    value = logind_setting("RemoveIPC")
    if value is not None and value.lower() in ("no", "false", "off", "0", "n", "f"):
        return Check(name, "ok", "switched off")
    if value is not None:
        return Check(name, "warn", f"RemoveIPC={value}", advice)
    if os.getuid() < 1000:
        return Check(name, "ok", "not set, which means yes, but this is a system user")
    return Check(name, "warn", "not set, which means yes", advice)


def logind_setting(key: str, root: str = "/etc/systemd") -> str | None:
    """The last uncommented setting in logind.conf and its drop-ins; None if there is none."""
    files = [Path(root, "logind.conf"), *sorted(Path(root, "logind.conf.d").glob("*.conf"))]
    value = None
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        for found in re.finditer(rf"^\s*{key}\s*=\s*(\S+)", text, re.MULTILINE):
            value = found[1]
    return value


def _protected_regular() -> Check:
    name = "fs.protected_regular"
    try:
        value = int(Path("/proc/sys/fs/protected_regular").read_text())
    except (OSError, ValueError):
        return Check(name, "ok", "not known to this kernel")
    if value == 0:
        return Check(name, "ok", "0")
    return Check(
        name,
        "note",
        f"{value}: opening another user's namespace with create=True may be refused, even to root",
        "share a namespace between users with create=False in all but its owner",
    )


_CHECKS: tuple[Callable[[], Check], ...] = (
    _kernel,
    _futex_waitv,
    _fast_calls,
    _shared_memory,
    _proc,
    _file_locks,
    _pid_namespace,
    _cpus,
    _remove_ipc,
    _protected_regular,
)


# ---- engines and versions ------------------------------------------------------------------------


def _engines() -> Iterator[EngineReport]:
    from shmsync.engine import DEFAULT, engines

    for name, engine in engines().items():
        reason = engine.check()
        yield EngineReport(name, reason is None, name == DEFAULT, reason, engine.summary)


def _try_default_engine() -> Check:
    """A namespace of its own, a mutex taken and given back, and all of it gone again."""
    from shmsync.inspect import namespaces
    from shmsync.namespace import Namespace

    name = f"doctor-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with Namespace(name, exclusive=True, capacity=16, threads=16) as ns, ns.mutex("lock"):
            pass
    except OSError as error:
        advice = "the line above that says fail names the reason" if error.errno else None
        return Check("a try", "fail", str(error), advice)
    if name in namespaces():
        return Check("a try", "fail", "the namespace was not removed after its last use")
    return Check(
        "a try", "ok", "a namespace made, a mutex taken and released, all of it gone again"
    )


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"python": platform.python_version()}
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    found["C library"] = libc
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
