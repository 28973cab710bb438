"""What is measured, a module for each family."""

from __future__ import annotations

from shmsync_tools.bench.model import Suite
from shmsync_tools.bench.suites import (
    contended,
    cost,
    death,
    fanout,
    handover,
    idle,
    memory,
    opening,
    pingpong,
    uncontended,
    waits,
)

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        uncontended,
        waits,
        pingpong,
        handover,
        contended,
        fanout,
        cost,
        death,
        opening,
        memory,
        idle,
    )
}
