"""The targets of the store about reading, writing, opening and memory, each against its counterpart in the same run.

python -m benchmarks.store [PART ...] [--quick]

Ways take turns, and a ratio is the median of those of each turn: a busy machine slows all of them alike.
"""

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.extract import machine
from benchmarks.extraction.measure import Row
from benchmarks.storage import opening, reading, writing

Part = Callable[[Path, bool], list[Row]]
PARTS: dict[str, Part] = {
    "warm": reading.warm,
    "cold": reading.cold,
    "write": writing.shards,
    "open": opening.scale,
    "flips": reading.flips,
}


def main(words: list[str] | None = None) -> None:
    """Measure the parts that are asked for, or all, and print a row for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="few and small: to see that it runs, not for figures")
    parser.add_argument("--folder", type=Path, help="on which disk: two gigabytes; the one for temporary files")
    asked = parser.parse_args(words or [])
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    print(machine())
    print("\n" + " | ".join(Row.HEAD), flush=True)
    for name in asked.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="msa-bench-", dir=asked.folder) as folder:
            for row in PARTS[name](Path(folder), asked.quick):
                print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
