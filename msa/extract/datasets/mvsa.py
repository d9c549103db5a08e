"""MVSA-Multiple: tweets with a photo, each judged by three annotators (Niu et al., MMM 2016).

Paper    https://doi.org/10.1007/978-3-319-27674-8_2
Home     http://www.mcrlab.net/research/mvsa-sentiment-analysis-on-multi-view-social-data/
Size     19,600 pairs; 17,027 by the merge rule: 11,320 positive, 4,408 neutral, 1,299 negative
Label    per modality the majority of the annotators, and a pair on which they split three ways is dropped; then
         equal labels stay, neutral and polar give the polar one, positive and negative drop the pair. The rule is
         the literature's, not the paper's; `strict` keeps only pairs whose text and image agree.
Traps    the archive unpacks as `MVSA/`; some photos are empty or truncated, which extraction records; photos and
         texts recur, so parts are drawn by content; many texts are not UTF-8, which is media.py's business.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msa.annotations import rows as records
from msa.config import checked
from msa.errors import SourceError
from msa.extract.datasets._layout import in_order, misplaced
from msa.types import SENTIMENT, Dropped, Modality, Raw, Sample, Source, Task

TASK: Task = SENTIMENT
SOURCE = Source(
    title="MVSA-Multiple",
    home="http://www.mcrlab.net/research/mvsa-sentiment-analysis-on-multi-view-social-data/",
    licence="research use; tweets and photos belong to their authors",
    redistribution=False,
    citation="T. Niu, S. Zhu, L. Pang, A. El Saddik: Sentiment Analysis on Multi-view Social Data. MMM 2016.",
    layout="labelResultAll.txt   ID, then text,image once per annotator, tab-separated\ndata/ID.txt\ndata/ID.jpg",
)
LABELS = "labelResultAll.txt"
VARIANTS = {1: "mvsa-single", 3: "mvsa"}  # annotators -> public name


@dataclass(frozen=True)
class Config:
    rule: Literal["merge", "strict"] = "merge"  # strict: only pairs whose text and image have the same label

    def __post_init__(self) -> None:
        checked(self)


def samples(root: Path, config: Config = Config()) -> Iterator[Sample | Dropped]:
    """Yield every row of the label file below `root`, by id: a pair with one label, or the reason why it has none."""
    return load(root, config, SOURCE, annotators=3)


def load(root: Path, config: Config, source: Source, annotators: int) -> Iterator[Sample | Dropped]:
    """Yield the samples of either variant: the label files differ only in how many annotators have a column."""
    folder = _folder(root, source, annotators)
    data = folder / "data"
    if not data.is_dir():
        raise misplaced(source, root, f"{folder / LABELS} is there, the folder {data} is not")
    present = {entry.name for entry in os.scandir(data)}  # one listing instead of 39,200 look-ups
    rows = _rows(folder / LABELS)
    return in_order(_pair(id, _labels(cells, annotators, config.rule), cells, data, present) for id, cells in rows)


def _folder(root: Path, source: Source, annotators: int) -> Path:
    """Return `root`, or the one folder in it (the archive's `MVSA/`), that holds this variant's label file."""
    if not root.is_dir():
        raise misplaced(source, root, "no such folder")
    holds = [path for path in (root, *sorted(root.iterdir())) if (path / LABELS).is_file()]
    if not holds:
        raise misplaced(source, root, f"no {LABELS} in it or in a folder of it")
    holds = holds[:1] if holds[0] == root else holds
    fitting = [path for path in holds if _annotators(path / LABELS) == annotators]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise SourceError(f"{root} holds {source.title} twice: {fitting[0]} and {fitting[1]}", fix="name one of them")
    columns = _annotators(holds[0] / LABELS)
    raise SourceError(
        f"{holds[0] / LABELS} has {columns} annotator column(s), {source.title} has {annotators}",
        fix=f"use --dataset {VARIANTS[columns]}" if columns in VARIANTS else f"get the original from {source.home}",
    )


def _annotators(path: Path) -> int:
    """Return how many annotators the header names: `text,image` stands there once for each."""
    header = _text(path).split("\n", 1)[0].rstrip().lower().split("\t")
    if header[0].strip() != "id" or any(name.replace(" ", "") != "text,image" for name in header[1:]) or not header[1:]:
        raise SourceError(
            f"{path}: the first line is {header}, not ID and text,image once per annotator",
            fix=f"take the label file from the original archive: {SOURCE.home}",
        )
    return len(header) - 1


def _text(path: Path) -> str:
    """Return a file of labels. Raises SourceError."""
    text = records.bytes_of(path).decode("utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, one `text,image` cell per annotator) for every line; CRLF is read like LF."""
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(path).split("\n")[1:], start=2):
        id, *cells = (cell.strip() for cell in line.rstrip().split("\t"))
        if not id:
            continue
        if id in lines:
            raise SourceError(
                f"{path}: id {id} stands in line {lines[id]} and in line {number}", fix="delete one of the two lines"
            )
        lines[id] = number
        yield id, cells


def _labels(cells: Sequence[str], annotators: int, rule: str) -> tuple[str, str, str] | str:
    """Return (text, image, both) as the annotators saw them, or the reason why the pair is dropped."""
    votes = [[label.strip() for label in cell.lower().split(",")] for cell in cells]
    known = all(len(vote) == 2 and set(vote) <= set(TASK.classes) for vote in votes)
    if not known or len(votes) != annotators:
        return "unknown label"
    text, image = (_majority(labels) for labels in zip(*votes, strict=True))
    if text is None or image is None:
        return "annotators split three ways"
    polar = {text, image} - {"neutral"}
    if len(polar) == 2:
        return "text and image conflict"
    if rule == "strict" and text != image:
        return "text and image differ"
    return text, image, polar.pop() if polar else "neutral"


def _majority(labels: Sequence[str]) -> str | None:
    """Return the label that more than half of the annotators gave."""
    label, count = Counter(labels).most_common(1)[0]
    return label if 2 * count > len(labels) else None


def _pair(
    id: str, labels: tuple[str, str, str] | str, cells: Sequence[str], data: Path, present: set[str]
) -> Sample | Dropped:
    """Return a row as a sample, or dropped: because of its labels first, then because of its files."""
    if isinstance(labels, str):
        return Dropped(id, labels, "; ".join(cells))
    missing = [name for name in (f"{id}.txt", f"{id}.jpg") if name not in present]
    if missing:
        return Dropped(id, "image or text file missing", ", ".join(missing))
    text, image, label = labels
    return Sample(
        id=id,
        label=label,
        raw={Modality.TEXT: Raw(path=data / f"{id}.txt"), Modality.IMAGE: Raw(path=data / f"{id}.jpg")},
        modality_labels={Modality.TEXT: text, Modality.IMAGE: image},
    )
