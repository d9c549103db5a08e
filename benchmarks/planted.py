"""Planted faults: is each found, are the right samples named, and is the store whole again after repair and extraction?

python -m benchmarks.planted [--faults 200] [--seed 0]
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults import planted


def main(words: list[str] | None = None) -> None:
    """Plant faults and print what came of them, by kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words or [])
    count, detected, named, whole = (Counter[str]() for _ in range(4))
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        for verdict in planted.trials(asked.faults, asked.seed, Path(folder)):
            count[verdict.kind] += 1
            detected[verdict.kind] += verdict.found
            named[verdict.kind] += verdict.named
            whole[verdict.kind] += bool(verdict.whole)
            if not (verdict.found and verdict.named and verdict.whole):
                print(f"  {verdict.kind}: {verdict}")
    print("kind | planted | found | right samples named | whole again")
    for kind in count:
        print(" | ".join([kind, *(str(of[kind]) for of in (count, detected, named, whole))]))
    print(" | ".join(["all", *(str(of.total()) for of in (count, detected, named, whole))]))


if __name__ == "__main__":
    main(sys.argv[1:])
