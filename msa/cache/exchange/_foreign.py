"""What a foreign file gives and takes: a dataset with hidden states that another program made.

A format in `exchange/` reads a file into a `Foreign`, lazily, so that a file larger than the memory can be imported
sample by sample; where it is useful it also writes a `Bundle` of the store.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.index import Index
from msa.cache.read.view import View, ViewReader
from msa.cache.write.dataset_index import Corpus
from msa.errors import SourceError
from msa.names import printable
from msa.types import Modality, Source


class Unreadable(Exception):
    """Hidden states of one sample cannot be read; the message becomes its failure record."""


@dataclass(frozen=True)
class Feature:
    """Hidden states of one modality, by sample id.

    `read(id)` gives (T, dim) of any number type, T the true length: padding is taken off, values are as they stand.
    It raises Unreadable where they are damaged or empty. `digest(id)` is 16 bytes that change with the values, or
    None where the sample lacks this modality and need not have it.
    """

    name: str  # as the file calls it: `vision`
    modality: Modality
    dim: int
    read: Callable[[str], np.ndarray]
    digest: Callable[[str], bytes | None]
    columns: tuple[str, ...] = ()
    dtype: str = "float32"  # float16 where the file has no more: then nothing is lost by it
    facts: Mapping[str, Any] = field(default_factory=dict)  # what must be said: how lengths were known, what was cut
    counts: Callable[[], Mapping[str, int]] = dict  # what `read` left out of the sample it read last, by kind

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 200 or printable(self.name) != self.name:
            raise SourceError(
                f"a feature is called {printable(self.name)[:60]!r}, which no store can show",
                fix="rename it in the file: at most 200 characters, none of them a control character",
            )


@dataclass(frozen=True)
class Foreign:
    """A dataset in a foreign file. Texts stand in the samples' raw material, as literal text."""

    format: str
    path: Path
    digest: str  # hexadecimal, of every byte that decides the numbers
    corpus: Corpus
    features: Sequence[Feature]


@dataclass(frozen=True)
class Bundle:
    """One dataset of a store with one view of each modality: what a format writes."""

    index: Index
    readers: Mapping[Modality, ViewReader]

    def states(self, modality: Modality, row: int) -> np.ndarray | None:
        """Return (T, D) of a sample in the stored dtype, or None where it has none."""
        reader = self.readers[modality]
        return reader.read(row) if reader.length[row] >= 0 else None

    def views(self) -> Iterator[tuple[Modality, View]]:
        """Yield every modality with the view it comes from."""
        for modality, reader in self.readers.items():
            yield modality, reader.view


def unknown_source(path: Path, title: str, layout: str) -> Source:
    """Return the source of a file of unknown licence; passing it on has to be a decision of the user."""
    return Source(
        title=title, home=path.name, licence="whatever the owner of the data allows", redistribution=False,
        citation="", layout=layout,
    )  # fmt: skip
