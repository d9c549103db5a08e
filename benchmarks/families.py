"""Every architecture of transformers and timm with random weights, in batches and one by one: `docs/families.md`.

One or two hours on two cores; the exit code is 1 where a family is neither batch-independent nor refused with a reason:
`python -m benchmarks.families [text audio image] [NAME ...]`.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.extract.encoders import family_trials
from tests.extract.encoders.family_trials import Row

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
KINDS = ("text", "audio", "image")

HEAD = """# Families

Every model type of transformers {transformers} that reads text or sound, and the smallest network of every module of
timm {timm}, with random weights in a tiny configuration, loaded as `msa extract` loads them. Written by
`python -m benchmarks.families` with torch {torch}; a network of real size behaves like its family, because msa
tries each checkpoint when it is loaded and chooses the batching from that.

- **packed**: several texts in one forward pass without padding. **padded**: several clips with padding and a mask;
  sound only on a GPU. **one by one**: a batch would change the numbers. **batched**: pictures of one size.
- **distance**: largest relative distance (2-norm, fp32) between a clip's states in a batch and alone, over texts of 3
  to 128 tokens with special tokens among them, recordings of 20 ms to 1 s, pictures of 31 to 500 px. The
  limit is {tolerance:g}; a checkpoint whose texts differ by more than 1e-5 is encoded one by one.
- **refused**: `msa extract` ends with this reason before anything is encoded.
- **no answer**: not finished within {timeout:.0f} s on a busy machine.
- **not built**: this script found no small configuration that can be built; a checkpoint of that type is tried like any
  other when it is loaded.

{summary}
"""


def page(rows: list[Row]) -> str:
    """The text of docs/families.md."""
    from importlib.metadata import version

    counts = Counter((row.kind, row.end) for row in rows)
    ends = ["packed", "padded", "batched", "one by one", "refused", "not built", "no answer", "fault"]
    lines = ["| | " + " | ".join(ends) + " |", "|---" * (len(ends) + 1) + "|"]
    lines += [f"| {kind} | " + " | ".join(str(counts[kind, end]) for end in ends) + " |" for kind in KINDS]
    parts = [
        HEAD.format(
            summary="\n".join(lines),
            tolerance=family_trials.TOLERANCE,
            timeout=family_trials.TIMEOUT_S,
            **{n: version(n).partition("+")[0] for n in ("transformers", "timm", "torch")},
        )
    ]
    for kind, title in (("text", "Text"), ("audio", "Sound"), ("image", "Pictures")):
        own = [row for row in rows if row.kind == kind]
        parts.append(f"## {title}\n\n| family | batching | rows | distance, or the reason |\n|---|---|---|---|")
        parts += [_line(row) for row in own if row.end != "not built"]
        if names := [row.family for row in own if row.end == "not built"]:
            parts.append(f"\nNot built: {', '.join(names)}.")
        parts.append("")
    return "\n".join(parts)


def _line(row: Row) -> str:
    name = row.family if row.network in ("", row.family) else f"{row.family}: {row.network}"
    result = row.why.replace("|", "/") or ("0" if not row.distance else f"{row.distance:.0e}")
    return f"| {name} | {row.end} | {row.rows or ''} | {result} |"


def main(arguments: list[str] | None = None) -> None:
    """Try the families, append each result to the log, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="text, audio, image, or families; default: all")
    parser.add_argument("--log", type=Path, help="a file of results that is continued")
    given = parser.parse_args(arguments or [])
    kinds = [name for name in given.names if name in KINDS]
    names = [name for name in given.names if name not in kinds]
    import timm  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import msa.extract.encoders.text  # noqa: F401

    done = (
        [Row(**json.loads(line)) for line in given.log.read_text().splitlines()]
        if given.log and given.log.exists()
        else []
    )
    known = {(row.kind, row.family) for row in done}
    for row in family_trials.families(kinds or list(KINDS), names):
        if (row.kind, row.family) in known:
            continue
        done.append(family_trials.one(row))
        print(*(f"{value}" for value in asdict(done[-1]).values()), sep="  ", flush=True)
        if given.log:
            with given.log.open("a") as file:
                file.write(json.dumps(asdict(done[-1])) + "\n")
    if not names:
        PAGE.write_text(page(done), "utf-8")
    if any(row.end == "fault" for row in done):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
