"""The same accident with the standard library: killed while holding a multiprocessing.Lock.

Prints what happens. Exit status 0 if the survivor never got the lock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.synchronize import Event, Lock

#: Seconds that the survivor waits. Without a timeout it would wait for ever.
PATIENCE = 3.0


def hold(lock: Lock, holding: Event) -> None:
    """The victim: takes the lock and does not get to give it back."""
    with lock:
        holding.set()
        signal.pause()


def survive(lock: Lock) -> None:
    """The survivor. Exit status 0: got the lock; 1: timed out."""
    sys.exit(0 if lock.acquire(timeout=PATIENCE) else 1)


def main() -> int:
    """Runs both and says what became of them."""
    context = multiprocessing.get_context("spawn")
    lock, holding = context.Lock(), context.Event()
    victim = context.Process(target=hold, args=(lock, holding), daemon=True)
    survivor = context.Process(target=survive, args=(lock,), daemon=True)
    victim.start()
    if not holding.wait(timeout=30):
        print("   the victim did not start")
        return 1
    print(f"   process {victim.pid} holds a multiprocessing.Lock")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    print(f"   kill -9 {victim.pid}; a survivor now calls lock.acquire(timeout={PATIENCE:g}) ...")
    begin = time.monotonic()
    survivor.start()
    survivor.join(timeout=30)
    took = time.monotonic() - begin
    if survivor.exitcode != 1:
        print(f"   unexpected: the survivor ended with {survivor.exitcode}")
        return 1
    print(f"   ... and after {took:.1f} s has nothing: no lock, no word of the death. Without a")
    print("   timeout it would hang for ever, and so would everybody after it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
