"""Compares the kernel with the committed record, and runs new random programs beside the model.

tools/vm/run -- python -m tests.kernel.check
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence

from .generate import generate, seeds
from .record import count, judge, owner_zero, refusal, report, run_all
from .sequences import RECORD, Recorded, read
from .worlds import Account


def differences(committed: Sequence[Recorded]) -> int:
    """How many programs of the record go otherwise on this kernel; prints the first few."""
    found = 0
    for old, new in zip(committed, run_all([each.program for each in committed]), strict=True):
        if new == old:
            continue
        found += 1
        if found <= 5:
            steps = zip(old.steps, new.steps, strict=True)
            before, now = next(pair for pair in steps if pair[0] != pair[1])
            print(f"{old.program.seed}:\n  recorded: {before}\n  now:      {now}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if something differs, or 69 if this cannot run here."""
    parser = argparse.ArgumentParser(
        "python -m tests.kernel.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--new", type=int, default=200, help="new random programs of either kind")
    parser.add_argument("--seed", help="of the new ones; default: the time")
    options = parser.parse_args(arguments)
    if why := refusal():
        print(f"tests.kernel.check: {why}", file=sys.stderr)
        return 69
    header, committed = read()
    word = options.seed or f"{time.time_ns() // 10**9:x}-"
    print(f"Linux {platform.release()}, wait by owner 0: {owner_zero()}")
    print(f"{RECORD.name}: {count(committed)}, by Linux {header['kernel']} on {header['date']}")
    found = differences(committed)
    print(f"{found} of them go otherwise now")
    print(f"{2 * options.new} new programs: python -m tests.kernel.check --seed {word}")
    account, wrong = Account(), []
    for recorded in run_all([generate(seed) for seed in seeds(options.new, options.new, word)]):
        if each := judge(recorded, account):
            wrong.append(each)
    report(account, wrong)
    return bool(found or wrong)


if __name__ == "__main__":
    sys.exit(main())
