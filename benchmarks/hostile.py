"""Stores mutated at random, through every command: no traceback, no hang, nothing outside the store touched.

python -m benchmarks.hostile [--stores 200] [--seed 0] [--workers 2]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import hostile_stores


def main(words: list[str] | None = None) -> None:
    """Change stores, run the commands, print the faults; exit code 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(words or [])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        faults, runs, peak, longest = hostile_stores.trials(Path(folder), asked.stores, asked.seed, asked.workers)
    print(
        f"{asked.stores} stores of seed {asked.seed}, {sum(runs.values())} commands, {time.monotonic() - began:.0f} s"
    )
    print(f"exit codes: {dict(sorted(runs.items()))}; most memory {peak / 1e6:.0f} MB; longest {longest:.1f} s")
    for fault in faults:
        print(f"--- seed {fault.seed}: {fault.words}: {fault.what}", *fault.changes, sep="; ")
        print(fault.output[-1500:])
    print(f"{len(faults)} faults")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
