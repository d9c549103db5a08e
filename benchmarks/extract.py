"""The targets of extraction, each against its counterpart in the same run; medians of runs that take turns.

python -m benchmarks.extract [PART ...] [--quick] [--device cuda]

Models have their real sizes and random weights; compute is one CPU thread. `--device cuda` measures a GPU instead.
"""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.extraction import overlap, sound, text
from benchmarks.extraction.measure import Row
from msa.device import pick_device
from msa.errors import MsaError

Part = Callable[[Path, bool], list[Row]]
PARTS: dict[str, Part] = {
    "pipeline": overlap.stages,
    "text": text.rows,
    "audio": sound.speech,
    "acoustics": sound.descriptors,
    "padding": overlap.padding,
    "dask": overlap.tasks,
}


def main(words: list[str] | None = None) -> None:
    """Measure the parts that are asked for, or all, and print a row for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--quick", action="store_true", help="few and short: to see that it runs, not for figures")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args(words or [])
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        pick_device(asked.device)
    except MsaError as error:
        sys.exit(f"error: {error}")
    print(machine())
    print("\n" + " | ".join(Row.HEAD), flush=True)
    for row in measured(asked.parts or list(PARTS), asked.quick, asked.device):
        print(row, flush=True)


def measured(parts: list[str], quick: bool, device: str) -> Iterator[Row]:
    """The rows of one part after the other."""
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        if device == "cuda":
            from benchmarks.extraction import cuda

            yield from cuda.rows(Path(folder), quick)
            return
        for name in parts:
            (Path(folder) / name).mkdir()
            yield from PARTS[name](Path(folder) / name, quick)


def machine() -> str:
    """What the figures were measured on and with."""
    import platform
    from importlib.metadata import version

    import psutil

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    libraries = ("torch", "transformers", "librosa", "praat-parselmouth", "dask", "zarr", "numpy")
    memory, load = psutil.virtual_memory().total / 2**30, os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {load:.1f}; "
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in libraries)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
