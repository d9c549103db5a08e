"""What `msa extract` and `msa cache import` print about a dataset: its counts, and the samples that failed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msa.annotations import splits
from msa.commands.console import count, say, show, warn

if TYPE_CHECKING:
    from msa.cache.index import Index


def facts(index: "Index") -> dict[str, Any]:
    """Return the facts about a dataset that a command prints with --json."""
    names = ("split", "dropped", "encodings", "leaks")
    return {"dataset": index.name, "samples": len(index), **{name: index.full_about[name] for name in names}}


def print_dataset(index: Any) -> None:
    """Print counts by split and class, what was left out and why, leaks, and classes that a split has too few of."""
    about, counts = index.full_about, index.counts()
    names = [name for name in next(iter(counts.values())) if name != "unlabelled" or _any(counts, name)]
    rows = [[split, *(row[name] for name in names), len(index.rows(split))] for split, row in counts.items()]
    rows.append(["all", *(sum(row[name] for row in counts.values()) for name in names), len(index)])
    title = f"{index.name}: {count(len(index), 'sample')}, split {about['split']}"
    show(title, ["split", *names, "total"], rows, len(names) + 1)
    if labels := about.get("labels"):
        say(f"  labels: {labels}")
    for reason, number in about["dropped"].items():
        say(f"  left out: {number} x {reason}")
    for encoding, number in about["encodings"].items():
        if encoding not in ("str", "utf-8-sig"):
            say(f"  {count(number, 'text')} not in UTF-8, read as {encoding}")
    for leak in about["leaks"]:
        warn(leak if "in more than one" in leak else f"in more than one split: {leak}")
    _print_scarce(index.task.classes, counts, about["split"])


def _any(counts: Any, name: str) -> bool:
    return any(row[name] for row in counts.values())


def _print_scarce(classes: Sequence[str], counts: Any, split: str) -> None:
    lines = list(splits.scarce(counts, classes))
    for line in lines:
        warn(line)
    if lines and "stratified" in split:
        warn("the split is stratified already: label more samples, or draw another split with --seed N")
    elif lines and "drawn" in split:
        warn("draw another split with --seed N, or a stratified one with --set stratify=true")


def print_failures(rows: Sequence[tuple[str, str, str, str]], limit: int = 10) -> None:
    """Print the samples that failed, from (modality, id, stage, reason)."""
    modalities: dict[tuple[str, str, str], list[str]] = {}
    for modality, id, stage, reason in rows:
        modalities.setdefault((id, stage, reason), []).append(modality)
    if not modalities:
        return
    cells = [(id, ", ".join(names), stage, reason) for (id, stage, reason), names in modalities.items()]
    samples = count(len({id for id, _, _ in modalities}), "sample")
    show(
        f"{samples} failed in one modality or more (recorded in the store)",
        ["id", "modalities", "stage", "reason"],
        cells[:limit],
    )
    if len(cells) > limit:
        say(f"  and {len(cells) - limit} more: msa cache info STORE --failures")
