"""The coordinator: gives each idle worker a job, and sends all home when every job is booked.

Knows the workers by name only. Usage: coordinator NAMESPACE LEDGER-FILE
"""

import signal
import sys

from shmsync import Namespace, wait_any

from . import farm


def main(name: str, ledger_path: str) -> int:
    """Exit status 0 when all jobs are booked, 1 if told to quit before."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with Namespace(name) as ns, farm.Ledger(ledger_path) as ledger:
        quit_ = ns.event(farm.QUIT, manual_reset=True)
        idle = [ns.event(farm.idle_event(worker)) for worker in range(farm.WORKERS)]
        jobs = [ns.event(farm.job_event(worker)) for worker in range(farm.WORKERS)]
        given = 0
        # A worker books its last job before it asks for the next, so this loop sees the total.
        while ledger.total < farm.JOBS:
            got = wait_any([quit_, *idle])
            if got is None or got.index == 0:
                return 1
            if given < farm.JOBS:
                worker = got.index - 1
                ledger.assigned[worker] = given
                jobs[worker].set()
                given += 1
        quit_.set()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
