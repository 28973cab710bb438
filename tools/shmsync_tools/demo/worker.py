"""A worker: leases three GPUs at one instant, works on them, and books the job in the ledger.

Knows the others by name only. Usage: worker NAMESPACE LEDGER-FILE NUMBER
"""

import signal
import sys
import time

from shmsync import Acquired, Event, Mutex, Namespace, wait_all, wait_any

from . import farm

#: Seconds between two attempts at a lock, for the sake of the engine `fsync`. It can lose a wake-up
#: when a wait-all gives back what it grabbed (its failure F2), and can put a waiter to sleep beside
#: a mutex that was abandoned and is free again (F46). So no sleep here lasts longer.
PATIENCE = 0.25
#: Seconds that a job takes.
WORK = 0.02


class Worker:
    """One worker with its handles."""

    def __init__(self, ns: Namespace, ledger: farm.Ledger, number: int) -> None:
        self.number = number
        self.ledger = ledger
        self.quit: Event = ns.event(farm.QUIT, manual_reset=True)
        self.idle: Event = ns.event(farm.idle_event(number))
        self.job: Event = ns.event(farm.job_event(number))
        self.holding: Event = ns.event(farm.HOLDING, manual_reset=True)
        self.gpus: list[Mutex] = [ns.mutex(farm.gpu(i)) for i in range(farm.GPUS)]
        self.lock: Mutex = ns.mutex(farm.LEDGER)

    def run(self) -> None:
        """Does jobs until told to quit."""
        while True:
            self.idle.set()
            got = wait_any([self.quit, self.job])
            if got is None or got.index == 0:
                return
            self.work(self.ledger.assigned[self.number])
            self.book()

    def work(self, job: int) -> None:
        """Leases the job's GPUs, all or none, and uses them."""
        numbers = farm.leased(job)
        lease = [self.gpus[number] for number in numbers]
        while (got := wait_all(lease, timeout=PATIENCE)) is None:
            self.ledger.retries[self.number] += 1
        with got:  # gives all three back
            self.ledger.occupy(numbers, self.number)
            time.sleep(WORK)
            self.ledger.done[job] += 1
            self.ledger.vacate(numbers, self.number)

    def book(self) -> None:
        """Enters the job in the ledger: a line and the total, which must agree."""
        ledger = self.ledger
        while (got := self.lock.acquire(timeout=PATIENCE)) is Acquired.TIMED_OUT:
            pass
        if got is Acquired.ABANDONED:
            # The last owner died holding the lock: what it protects may be half done.
            now = time.monotonic_ns()
            ledger.mended[self.number] = sum(ledger.lines) - ledger.total
            ledger.total = sum(ledger.lines)
            ledger.told_ns[self.number] = now
        ledger.lines[self.number] += 1
        if self.number == farm.VICTIM:
            self.holding.set()
            self.quit.wait()  # for the kill, which comes here, between the line and the total
        ledger.total += 1
        self.lock.release()


def main(name: str, ledger_path: str, number: str) -> int:
    """Exit status 0 once told to quit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with Namespace(name) as ns, farm.Ledger(ledger_path) as ledger:
        Worker(ns, ledger, int(number)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
