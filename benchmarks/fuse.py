"""Stage 2's speed: steps of every head beside the public MMSA package's, memory, epochs at the papers' sizes, seeds.

python -m benchmarks.fuse [PART ...] [--quick] [--mmsa FOLDER] [--device cuda]

MMSA 2.2.1 is optional and not a dependency: `pip install MMSA`, or unpack its wheel and name the folder. Its models
are given the widths of ours and the same tensors, on two threads, in turns. `--device cuda` is of the epochs alone.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

from benchmarks.extract import machine
from benchmarks.extraction.measure import Row
from benchmarks.fusion import epochs, mmsa, seeds, steps, weight

PARTS = ("steps", "memory", "epochs", "seeds")


def main(words: list[str] | None = None) -> None:
    """Measure the parts that are asked for, or all, and print a row for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="small and few: to see that it runs, not for figures")
    parser.add_argument("--mmsa", type=Path, metavar="FOLDER", help="where MMSA lies; else where pip put it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args(words or [])
    import torch

    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    warnings.simplefilter("ignore")
    home = mmsa.find(asked.mmsa)
    print(machine())
    print(f"MMSA {mmsa.VERSION} beside ours" if home else "MMSA is not here: no counterparts (--mmsa FOLDER)")
    print("\n" + " | ".join(Row.HEAD), flush=True)
    for row in measured(asked.parts or list(PARTS), home, asked.quick, asked.device):
        print(row, flush=True)


def measured(parts: list[str], home: Path | None, quick: bool, device: str) -> Iterator[Row]:
    """The rows of one part after the other."""
    if home:
        mmsa.load(home)
    for part in parts:
        if part == "steps" and device == "cpu":
            yield from steps.rows(home, quick)
        elif part == "memory" and device == "cpu":
            yield from weight.rows(home, quick)
        elif part == "epochs":
            yield from epochs.rows(quick, device)
        elif part == "seeds" and device == "cpu":
            yield from seeds.rows(quick)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
