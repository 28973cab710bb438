"""Runs random programs on the real /dev/ntsync, compares with the model at once, and keeps the
answers.

    tools/vm/run --rw tests/data -- python -m tests.kernel.record -o tests/data/ntsync.jsonl.gz
    tools/vm/run -- python -m tests.kernel.record threads-17
"""

from __future__ import annotations

import argparse
import errno
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..support.watchdog import watchdog
from .generate import generate, seeds
from .kernel_world import KernelWorld, Waiters
from .ntsync import PATH, Device
from .sequences import Program, Recorded, write
from .worlds import Account, Disagreement, ModelWorld, compare

#: Programs of either kind in the record.
SINGLE, THREADS = 1500, 2000
#: How the committed record is made.
COMMAND = (
    "tools/vm/run --rw tests/data -- python -m tests.kernel.record -o tests/data/ntsync.jsonl.gz"
)
#: Seconds that a program may take. They take a few hundredths.
PROGRAM_SECONDS = 60.0


def refusal() -> str | None:
    """Why this cannot run here."""
    how = "; run it by  tools/vm/run -- python -m ..."
    if "SHMSYNC_VM" not in os.environ:
        return "this sets the system's clock, and so runs in a virtual machine only" + how
    if not os.path.exists(PATH):
        return f"there is no {PATH}" + how
    return None


def run(program: Program, waiters: Waiters) -> Recorded:
    """What the kernel answers to a program."""
    with watchdog(PROGRAM_SECONDS):
        world = KernelWorld(program.things, waiters)
        try:
            return Recorded(program, tuple(world.do(call) for call in program.calls))
        finally:
            world.close()


@contextmanager
def the_clock_put_back() -> Iterator[None]:
    """Programs move CLOCK_REALTIME by days; afterwards it is right again."""
    offset = time.time_ns() - time.monotonic_ns()
    try:
        yield
    finally:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.monotonic_ns() + offset)


def run_all(programs: Sequence[Program]) -> Iterator[Recorded]:
    """What the kernel answers to each; with a line of progress every few seconds."""
    began = said = time.monotonic()
    with Waiters() as waiters, the_clock_put_back():
        for number, program in enumerate(programs):
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(f"  {number} of {len(programs)} programs, {said - began:.0f} s", flush=True)
            yield run(program, waiters)


def owner_zero() -> str:
    """What a wait by owner 0 gives, which depends on the version: Linux 7.2.6 accepts it, 7.2.9 and
    later refuse it. (No program has one.)"""
    with Device() as device:
        event = device.event(manual=True, signaled=True)
        try:
            device.wait([event.fd], 0, 0)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        finally:
            event.close()
    return "accepted"


def facts() -> dict[str, Any]:
    """What a record says of itself."""
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": COMMAND,
        "wait by owner 0": owner_zero(),
    }


def judge(recorded: Recorded, account: Account) -> Disagreement | None:
    """Where the model does otherwise than the kernel did."""
    return compare(recorded, ModelWorld(recorded.program.things), account)


def report(account: Account, found: Sequence[Disagreement]) -> None:
    """Prints the differences that have a reason, and the disagreements that have none."""
    for known, count in account.explained.most_common():
        print(f"  {count:5d}  {known.name}: {known.reason}")
    for each in found[:5]:
        print(f"{each}\n  again: tools/vm/run -- python -m tests.kernel.record {each.program.seed}")
    print(f"{len(found)} disagreements without a reason between the kernel and the model")


def count(recorded: Sequence[Recorded]) -> str:
    """How much that is, in words."""
    calls = sum(len(each.steps) for each in recorded)
    woken = sum(len(step.woken) for each in recorded for step in each.steps)
    return f"{len(recorded)} programs, {calls} calls, {woken} waits that others ended"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "python -m tests.kernel.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-o", "--output", type=Path, help="the record to write")
    made.add_argument("seeds", nargs="*", help="run only these, and print every step: threads-17")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if the model does otherwise, or 69 if this cannot run here."""
    options = parser().parse_args(arguments)
    if why := refusal():
        print(f"tests.kernel.record: {why}", file=sys.stderr)
        return 69
    if not options.output and not options.seeds:
        parser().error("-o FILE is needed, or seeds")
    account = Account()
    print(f"Linux {platform.release()}, wait by owner 0: {owner_zero()}")
    programs = [generate(seed) for seed in options.seeds or seeds(SINGLE, THREADS)]
    recorded = [*run_all(programs)]
    found = [each for each in (judge(one, account) for one in recorded) if each]
    if options.seeds:
        show(recorded, print)
    else:
        write(options.output, facts(), recorded)
        print(f"{options.output}: {count(recorded)}, {options.output.stat().st_size} bytes")
    report(account, found)
    return bool(found)


def show(recorded: Sequence[Recorded], say: Callable[[str], object]) -> None:
    """Every step of some programs."""
    for each in recorded:
        say(f"{each.program.seed}: {', '.join(map(str, each.program.things))}")
        for step in each.steps:
            say(f"  {step}")


if __name__ == "__main__":
    sys.exit(main())
