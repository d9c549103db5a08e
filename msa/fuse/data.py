"""The store -> batches: join labels with hidden states, pad, mask, normalise.

A `Table` is what one experiment sees: samples with a label, a split and, per modality, the place of their hidden
states. Training is handed `Part`s of it, and only ever the training and the validation one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from msa.cache import layout
from msa.cache.store import FeatureStore
from msa.cache.view import View, ViewReader
from msa.errors import ConfigError
from msa.fuse.head import Batch
from msa.types import Modality, Split, Task


@dataclass(frozen=True)
class Column:
    """Hidden states of one modality for n samples: row `rows[i]` of `readers[source[i]]`; rows[i] = -1: it has none."""

    readers: tuple[ViewReader, ...]
    source: np.ndarray  # (n,) int64
    rows: np.ndarray  # (n,) int64

    @property
    def view(self) -> View:
        """The view the hidden states stand in; the same recipe for every reader."""
        return self.readers[0].view

    def take(self, index: np.ndarray) -> "Column":
        """The column of a subset of samples; -1 in `index` gives a sample without hidden states."""
        rows = np.where(index >= 0, self.rows[index], -1)
        return Column(self.readers, np.where(index >= 0, self.source[index], 0), rows)

    def states(self, i: int) -> np.ndarray | None:
        """(T, D) of sample i, or None."""
        return self.readers[self.source[i]].read(int(self.rows[i])) if self.rows[i] >= 0 else None

    @property
    def present(self) -> np.ndarray:
        """(n,) bool."""
        return self.rows >= 0


@dataclass(frozen=True)
class Table:
    """n samples with labels, of one corpus or of several brought together."""

    name: str
    task: Task
    ids: Sequence[str]
    corpus: Sequence[str]  # which corpus a sample's label comes from
    split: np.ndarray  # (n,) uint8, see layout.SPLITS
    y: np.ndarray  # (n,) float32; (n, classes) of a multilabel task
    columns: Mapping[Modality, Column]
    protocol: str = ""  # how corpora were paired; printed with every figure
    drawn: tuple[Modality, ...] = ()  # modalities that pairing took from another corpus than the label's

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, split: Split) -> "Part":
        """The samples of one split."""
        return Part(self, np.flatnonzero(self.split == layout.SPLITS.index(split)))

    def only(self, modalities: Sequence[Modality]) -> "Table":
        """The same table with some of its modalities, without the samples that have none of them."""
        if unknown := set(modalities) - set(self.columns):
            raise ConfigError(
                f"{self.name} has no {', '.join(sorted(unknown))} hidden states",
                fix=f"it has {', '.join(self.columns)}",
            )
        kept = {m: c for m, c in self.columns.items() if m in modalities}
        drawn = tuple(m for m in self.drawn if m in kept)
        return replace(self, columns=kept, drawn=drawn).take(np.flatnonzero(_any_present(kept, len(self))))

    def take(self, index: np.ndarray) -> "Table":
        """A subset of the samples."""
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            corpus=[self.corpus[i] for i in index],
            split=self.split[index],
            y=self.y[index],
            columns={m: column.take(index) for m, column in self.columns.items()},
        )

    @property
    def dims(self) -> dict[Modality, int]:
        """Width of each modality."""
        return {m: column.view.dim for m, column in self.columns.items()}


def table(store: FeatureStore, dataset: str, views: Mapping[Modality, str | None]) -> Table:
    """The samples of a corpus that have a label, a split, and hidden states of at least one of the views.

    `views` maps each modality wanted to a backbone's name, or to None for the newest view of it.
    """
    index = store.index(dataset)
    columns = {}
    for modality, name in views.items():
        reader = store.reader(store.view(dataset, modality, name))
        rows = np.where(reader.length >= 0, np.arange(len(index)), -1)
        columns[modality] = Column((reader,), np.zeros(len(index), np.int64), rows)
    whole = Table(
        name=index.name,
        task=index.task,
        ids=index.ids,
        corpus=[index.name] * len(index),
        split=index.split,
        y=index.y,
        columns=columns,
    )
    labelled = np.isfinite(np.atleast_2d(index.y.T)).all(0)  # (n,): every label of a sample, or its only one
    wanted = _any_present(columns, len(index)) & labelled & (index.split != layout.NO_SPLIT)
    if not wanted.any():
        raise ConfigError(
            f"{index.name}: none of {len(index)} samples has a label, a split and {' or '.join(columns)}",
            fix="see what was left out and what failed with `msa cache info`",
        )
    return whole.take(np.flatnonzero(wanted))


def _any_present(columns: Mapping[Modality, Column], n: int) -> np.ndarray:
    present = np.zeros(n, bool)
    for column in columns.values():
        present |= column.present
    return present


@dataclass(frozen=True)
class Part:
    """Some rows of a table: what a training loop may look at."""

    table: Table
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def y(self) -> np.ndarray:
        """Labels (n,), or (n, classes) of a multilabel task."""
        return self.table.y[self.rows]

    @property
    def ids(self) -> list[str]:
        """Sample ids, in order."""
        return [self.table.ids[row] for row in self.rows]

    @property
    def corpus(self) -> np.ndarray:
        """(n,) the corpus each label comes from."""
        return np.array([self.table.corpus[row] for row in self.rows])

    def batches(self, size: int, norm: "Normalisation", order: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of `size` samples, in the given order of positions or as they stand."""
        rows = self.rows if order is None else self.rows[order]
        for start in range(0, len(rows), size):
            yield self.batch(rows[start : start + size], norm)

    def batch(self, rows: np.ndarray, norm: "Normalisation") -> Batch:
        """Hidden states of these rows of the table, padded to the longest of each modality."""
        x, mask = {}, {}
        for modality, column in self.table.columns.items():
            states = [column.states(int(row)) for row in rows]
            x[modality], mask[modality] = pad(states, column.view.dim, norm.of(modality))
        y = self.table.y[rows]
        return Batch(
            x=x,
            mask=mask,
            y=torch.from_numpy(y.astype(np.int64) if self.table.task.single else y),
            row=torch.from_numpy(rows.astype(np.int64)),
        )


def pad(
    states: Sequence[np.ndarray | None], dim: int, norm: tuple[np.ndarray, np.ndarray] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged (T_i, D) arrays -> x (B, max T, D) float32 and mask (B, max T); None gives an all-False row."""
    longest = max((len(s) for s in states if s is not None), default=1)
    x = np.zeros((len(states), longest, dim), np.float32)
    mask = np.zeros((len(states), longest), bool)
    for i, found in enumerate(states):
        if found is not None:
            x[i, : len(found)] = found if norm is None else (found - norm[0]) / norm[1]
            mask[i, : len(found)] = True
    return torch.from_numpy(x), torch.from_numpy(mask)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per dimension, of the training split's valid frames alone."""

    stats: Mapping[Modality, tuple[np.ndarray, np.ndarray]]  # each (D,) float32

    def of(self, modality: Modality) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and standard deviation of a modality that is normalised."""
        return self.stats.get(modality)

    def named(self) -> Iterator[tuple[str, np.ndarray]]:
        """`audio.mean`, `audio.std`, ...: how a run keeps them."""
        for modality, (mean, std) in self.stats.items():
            yield f"{modality}.mean", mean
            yield f"{modality}.std", std

    @classmethod
    def fit(cls, train: Part, modalities: Sequence[str]) -> "Normalisation":
        """Statistics of the training samples: padding and other splits have no part in them."""
        wanted = [m for m in train.table.columns if m in modalities]
        return cls({m: _moments(train.table.columns[m], train.rows) for m in wanted})


def _moments(column: Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares = 0, np.zeros(column.view.dim), np.zeros(column.view.dim)
    shift: np.ndarray | None = None  # the first frame: squares of large values would leave nothing of a small spread
    for row in rows:
        states = column.states(int(row))
        if states is not None:
            shift = states[0].astype(np.float64) if shift is None else shift
            wide = states.astype(np.float64) - shift
            count += len(wide)
            total += wide.sum(0)
            squares += (wide**2).sum(0)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    std[std < 1e-6] = 1.0  # a constant column stays a constant
    return (mean if shift is None else mean + shift).astype(np.float32), std.astype(np.float32)
