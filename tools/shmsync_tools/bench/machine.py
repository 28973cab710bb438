"""Where a run was made: what a reader of its figures has to know of the machine."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import shmsync
from shmsync import fast
from shmsync_tools.bench import wine
from shmsync_tools.bench.contestants import everybody


def describe() -> dict[str, Any]:
    """The machine, in plain values."""
    return {
        "cpu": _cpu(),
        "cores_allowed": len(os.sched_getaffinity(0)),
        "cores_online": os.cpu_count(),
        "governor": _first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "virtual": "hypervisor" in _cpu_field("flags").split(),
        "kernel": f"{platform.system()} {platform.release()}",
        "c_library": " ".join(platform.libc_ver()),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "fast_path": fast.WHY_NOT is None,
        "load": load(),
    }


def load() -> float:
    """How many processes wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


def versions() -> dict[str, str]:
    """Of the packages that take part."""
    peers = {each.package: each.version() for each in everybody().values() if each.package}
    there = {package: version for package, version in peers.items() if version}
    wine_version = wine.version()
    if wine_version:
        there["wine"] = wine_version
    return {"shmsync": shmsync.__version__, **there}


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    governor = machine["governor"]
    parts = [
        f"{machine['cpu']}{' (virtual)' if machine['virtual'] else ''}",
        f"{machine['cores_allowed']} of {machine['cores_online']} cores",
        f"governor {governor}" if governor else "no frequency governor",
        machine["kernel"],
        machine["c_library"],
        machine["python"],
    ]
    if not machine["fast_path"]:
        parts.append("without shmsync._fast")
    return ", ".join(parts)


def _cpu_field(name: str) -> str:
    found = re.search(rf"^{name}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _cpu() -> str:
    return _cpu_field("model name") or platform.machine()


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
