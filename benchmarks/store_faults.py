"""Kills, crowds and full disks: does a store lose what it acknowledged, and does a reader ever see torn data?

python -m benchmarks.store_faults [PART ...] [--kills 50]

kills: four writers of one view at once, killed at random moments and started again.
full: a disk without room, again and again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults import store_kills

PARTS = ("kills", "full")


def main(words: list[str] | None = None) -> None:
    """Run both trials, or the one that is named, and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; both")
    parser.add_argument("--kills", type=int, default=50)
    asked = parser.parse_args(words or [])
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        if "kills" in (asked.parts or PARTS):
            print(
                f"{asked.kills} kills of {store_kills.WRITERS} writers of one view; a reader, compact, gc beside them"
            )
            print("kills | acknowledged | lost | wrong | read meanwhile | torn | generations | compacted | problems")
            print(" | ".join(map(str, store_kills.kills(Path(folder), asked.kills).row)), flush=True)
        if "full" in (asked.parts or PARTS):
            (Path(folder) / "full").mkdir()
            how, outcome = store_kills.full(Path(folder) / "full")
            print(f"\na full disk, {how}")
            print("times full | samples | lost or wrong | unfinished files left | problems")
            print(" | ".join(str(outcome[name]) for name in ("full", "samples", "wrong", "litter", "problems")))


if __name__ == "__main__":
    main(sys.argv[1:])
