"""Starts the farm, kills a worker, tells what happens and checks it. ``tools/demo`` runs this."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from shmsync import Namespace, inspect

from . import farm

#: Seconds after which something must be wrong.
LIMIT = 50.0
SURVIVORS = farm.WORKERS - 1


class WentWrongError(Exception):
    """The demo cannot go on."""


class Story:
    """Tells what happens, with the time since the beginning."""

    def __init__(self) -> None:
        self.begin = time.monotonic()

    def tell(self, text: str) -> None:
        """One line of what happened just now."""
        print(f"   [{time.monotonic() - self.begin:5.2f} s] {text}", flush=True)


class Farm:
    """The programs, as seen by the one who started them."""

    def __init__(self, name: str, ledger_path: str, ledger: farm.Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self.deadline = time.monotonic() + LIMIT
        self.coordinator = self._start("coordinator", ledger_path)
        self.workers = [
            self._start("worker", ledger_path, str(number)) for number in range(farm.WORKERS)
        ]

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        module = f"{__package__}.{program}"
        return subprocess.Popen([sys.executable, "-m", module, self.name, *arguments])

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Looks again and again until something is true, or cannot become true any more."""
        while not condition():
            failed = any((p.poll() or 0) > 0 for p in (self.coordinator, *self.workers))
            if failed or time.monotonic() > self.deadline:
                reason = "a program failed" if failed else f"not within {LIMIT:g} s"
                raise WentWrongError(f"{what} did not happen: {reason}")
            time.sleep(0.002)

    def have_ended(self) -> bool:
        """Whether no program runs any more."""
        return all(program.poll() is not None for program in (self.coordinator, *self.workers))

    def end(self) -> None:
        """Ends whatever still runs."""
        for program in (self.coordinator, *self.workers):
            program.kill()
            program.wait()

    def told(self) -> list[int]:
        """The workers that were told that the ledger's last owner died."""
        return [number for number in range(farm.WORKERS) if self.ledger.told_ns[number]]


def run_farm(story: Story, name: str, programs: Farm, ns: Namespace) -> None:
    """From the first job to the last."""
    ledger, victim = programs.ledger, programs.workers[farm.VICTIM]
    holding = ns.event(farm.HOLDING, manual_reset=True)
    programs.until(holding.is_set, "the victim's taking of the ledger")
    story.tell(f"worker {farm.VICTIM} (pid {victim.pid}) holds the ledger's lock, half way through")
    with inspect.Reader(name) as reader:
        programs.until(lambda: waiters(reader) == SURVIVORS, "the others' wait for the ledger")
        story.tell(f"the other {SURVIVORS} workers wait for that lock; `shmsync show` says:\n")
        lock = reader.find(farm.LEDGER)
        assert lock is not None
        print("      " + inspect.describe([lock]).replace("\n", "\n      ") + "\n")
    killed_ns = time.monotonic_ns()
    victim.kill()
    story.tell(f"kill -9 {victim.pid}")
    programs.until(lambda: bool(programs.told()), "the news of the death")
    heir = programs.told()[0]
    after = (ledger.told_ns[heir] - killed_ns) / 1e6
    story.tell(f"worker {heir} got the lock {after:.0f} ms after the kill, as Acquired.ABANDONED.")
    mended = ledger.mended[heir]
    story.tell(f"   So it checked the books, and found {mended} job that the total did not count")
    for goal in range(farm.JOBS // 4, farm.JOBS + 1, farm.JOBS // 4):
        programs.until(partial(ledger.has_booked, goal), f"job {goal}")
        story.tell(f"{ledger.total} of {farm.JOBS} jobs are booked")
    programs.until(programs.have_ended, "the end of the programs")


def waiters(reader: inspect.Reader) -> int:
    """How many threads wait for the ledger's lock."""
    lock = reader.find(farm.LEDGER)
    return lock.waiters if lock is not None else 0


def report(programs: Farm) -> None:
    """Who did what."""
    ledger = programs.ledger
    fates = {farm.VICTIM: "killed"} | dict.fromkeys(programs.told(), "told ABANDONED")
    rows = [
        (str(n), str(ledger.lines[n]), str(ledger.retries[n]), fates.get(n, ""))
        for n in range(farm.WORKERS)
    ]
    table = inspect.columns(("WORKER", "JOBS", "RETRIES", ""), rows, right=(0, 1, 2))
    print("\n      " + table.replace("\n", "\n      ") + "\n")


def checks(programs: Farm, name: str) -> dict[str, bool]:
    """What must be true at the end."""
    ledger, victim = programs.ledger, programs.workers[farm.VICTIM]
    others = [programs.coordinator, *(w for w in programs.workers if w is not victim)]
    return {
        "no two workers were ever on one GPU": ledger.clashes == 0,
        f"each of the {farm.JOBS} jobs was done once": all(done == 1 for done in ledger.done),
        "the ledger's lines and its total agree": sum(ledger.lines) == ledger.total == farm.JOBS,
        "exactly one survivor was told of the death": len(programs.told()) == 1,
        "the victim was killed, and everybody else ended well": victim.returncode == -signal.SIGKILL
        and not any(program.returncode for program in others),
        "nothing is left in /dev/shm": name not in inspect.namespaces(),
    }


def first_part(story: Story, directory: str) -> dict[str, bool]:
    """The farm. Returns the checks."""
    name = f"demo-{os.getpid()}"
    ledger_path = os.path.join(directory, "ledger")
    with farm.Ledger(ledger_path) as ledger:
        with Namespace(name) as ns:
            introduce(name, ns.engine)
            programs = Farm(name, ledger_path, ledger)
            try:
                run_farm(story, name, programs, ns)
            except WentWrongError:
                print(f"\n{inspect.describe(inspect.snapshot(name))}\n", file=sys.stderr)
                raise
            finally:
                programs.end()
        report(programs)
        return checks(programs, name)


INTRODUCTION = """\
1. Unrelated programs that share nothing but the name "{name}" (engine {engine})

   {workers} workers and a coordinator, each started on its own, share {gpus} GPUs. Each job leases
   {lease} of them at one instant: wait_all([gpu/0, gpu/1, gpu/3]). The coordinator waits for
   whichever worker is idle: wait_any([quit, idle/0, idle/1, ...]). Finished jobs go into a ledger
   under a lock of its own: lock.acquire(). One worker is killed while it holds that lock.
"""

FSYNC_NOTE = """\
   (fsync is Wine's algorithm with Wine's mistakes. Its wait_all can miss its wake-up, so the
   workers wait in slices and try again; the table below counts that. And its wait_all never
   ends when an owner of one of the locks died, so the victim is killed holding none of the GPUs.)
"""


def introduce(name: str, engine: str) -> None:
    """What the reader is about to see."""
    print(
        INTRODUCTION.format(
            name=name, engine=engine, workers=farm.WORKERS, gpus=farm.GPUS, lease=farm.LEASE
        )
    )
    if engine == "fsync":
        print(FSYNC_NOTE)


def second_part() -> dict[str, bool]:
    """The same accident with multiprocessing. Returns the check."""
    print(
        "\n2. The same accident with multiprocessing (whose locks have no names, so one program\n"
        "   starts both processes; and nothing in it waits for several locks at once)\n",
        flush=True,
    )
    module = f"{__package__}.stdlib"
    done = subprocess.run([sys.executable, "-m", module], timeout=LIMIT, check=False)
    return {"the standard library's survivor hung": done.returncode == 0}


def show_checks(results: dict[str, bool]) -> bool:
    """Prints them; returns whether all hold."""
    for what, holds in results.items():
        print(f"   {'ok   ' if holds else 'WRONG'} {what}")
    sys.stdout.flush()
    return all(results.values())


def main() -> int:
    """Exit status 0 if everything was as it should be."""
    parser = argparse.ArgumentParser(
        prog="tools/demo", description=sys.modules[__package__].__doc__
    )
    parser.parse_args()
    story = Story()
    with tempfile.TemporaryDirectory(prefix="shmsync-demo-") as directory:
        try:
            good = show_checks(first_part(story, directory))
        except WentWrongError as error:
            print(f"WRONG: {error}", file=sys.stderr)
            return 1
    good &= show_checks(second_part())
    took = time.monotonic() - story.begin
    print(f"\n{'All as it should be' if good else 'Something is WRONG'}, in {took:.1f} s.")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
