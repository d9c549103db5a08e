"""The store -> batches: join labels with hidden states, pad, mask, normalise.

A `Table` is what one experiment sees: samples with a label, a split and, per modality, the place of their hidden
states. Training is handed `Subset`s of a sealed one, in which test samples have neither labels nor hidden states.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from msa.cache.format import layout
from msa.cache.read.view import View, ViewReader
from msa.cache.store import FeatureStore
from msa.errors import ConfigError
from msa.fuse.data.loader import Source, Stored, prepared
from msa.fuse.head import Batch
from msa.types import Modality, Split, Task

PIECE_BYTES = 2**24  # of hidden states that are read at a time where all are


@dataclass(frozen=True)
class Column:
    """Hidden states of one modality for n samples: row `rows[i]` of `readers[source[i]]`; rows[i] = -1: it has none."""

    readers: tuple[ViewReader, ...]
    source: np.ndarray  # (n,) int64
    rows: np.ndarray  # (n,) int64

    @property
    def view(self) -> View:
        """Return the view of the hidden states; every reader has the same recipe."""
        return self.readers[0].view

    def take(self, index: np.ndarray) -> "Column":
        """Return the column of some samples; -1 in `index` gives a sample without hidden states."""
        rows = np.where(index >= 0, self.rows[index], -1)
        return Column(self.readers, np.where(index >= 0, self.source[index], 0), rows)

    def states(self, i: int) -> np.ndarray | None:
        """Return the hidden states (T, D) of sample i, or None."""
        return self.readers[self.source[i]].read(int(self.rows[i])) if self.rows[i] >= 0 else None

    def gather(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return some samples' x (B, max T, D), at least one step, in the stored dtype, and length (B,)."""
        gathered = []
        for number, reader in enumerate(self.readers):
            of_reader = (self.source[at] == number) & self.present[at]
            if of_reader.any():
                gathered.append((of_reader, *reader.gather(self.rows[at[of_reader]])))
        if len(gathered) == 1 and gathered[0][0].all():
            return gathered[0][1:]
        longest = max((x.shape[1] for _, x, _ in gathered), default=1)
        x = np.zeros((len(at), longest, self.view.dim), gathered[0][1].dtype if gathered else np.float32)
        length = np.zeros(len(at), np.int32)
        for of_reader, states, own in gathered:
            x[of_reader, : states.shape[1]], length[of_reader] = states, own
        return x, length

    def distinct(self) -> tuple["Column", np.ndarray]:
        """Return every stored row once, in order, and each sample's position among them (n,); -1 where it has none."""
        places, which = np.unique(np.stack([self.source, self.rows]), axis=1, return_inverse=True)
        present = places[1] >= 0
        number = np.where(present, np.cumsum(present) - 1, -1)
        return Column(self.readers, *places[:, present]), number[which.reshape(-1)]

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield all hidden states in pieces of some megabytes: sample positions (k,), and their steps (sum T, D)."""
        for number, reader in enumerate(self.readers):
            of_reader = np.flatnonzero((self.source == number) & self.present)
            piece = np.cumsum(self.length[of_reader]) * self._step_bytes // PIECE_BYTES
            for at in np.split(of_reader, np.flatnonzero(np.diff(piece)) + 1):
                if len(at):
                    yield at, reader.flat(self.rows[at])[0]

    @property
    def present(self) -> np.ndarray:
        """Return which samples have hidden states, (n,) bool."""
        return self.rows >= 0

    @property
    def length(self) -> np.ndarray:
        """Return the steps of each sample, (n,) int64, 0 where it has none."""
        length = np.zeros(len(self.rows), np.int64)
        for number, reader in enumerate(self.readers):
            of_reader = (self.source == number) & self.present
            length[of_reader] = reader.length[self.rows[of_reader]]
        return length

    @property
    def nbytes(self) -> int:
        """Return the bytes that the hidden states take in memory, each stored row once."""
        return int(self.distinct()[0].length.sum()) * self._step_bytes

    @property
    def _step_bytes(self) -> int:
        return self.view.dim * (2 if self.view.attributes.get("dtype") == "float16" else 4)  # bfloat16 is read as fp32


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
    group: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (n,) int64, see `numbered`
    position: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (n,) int64, order inside the group
    is_sealed: bool = False  # test samples have neither labels nor hidden states here

    def __post_init__(self) -> None:
        if len(self.group) != len(self):  # by default every sample is a group of its own
            object.__setattr__(self, "group", np.arange(len(self)))
            object.__setattr__(self, "position", np.zeros(len(self), np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, split: Split) -> "Subset":
        """Return the samples of one split. Raises ConfigError for the test split of a sealed table."""
        if self.is_sealed and split == Split.TEST:
            raise ConfigError(
                f"{self.name}: the test split was asked for while training",
                fix="test with `msa fuse eval`, after every choice has been made on the validation split",
            )
        return Subset(self, np.flatnonzero(self._is(split)))

    def sealed(self) -> "Table":
        """Return the same table for training: nothing of the test samples is in it.

        Their labels are NaN and their hidden states absent; row numbers stay.
        """
        if self.is_sealed:
            return self
        known = np.flatnonzero(~self._is(Split.TEST))
        labels = self.y[known]
        y = np.full((len(self), *labels.shape[1:]), np.nan, labels.dtype)
        y[known] = labels
        index = np.where(self._is(Split.TEST), -1, np.arange(len(self)))
        columns = {m: column.take(index) for m, column in self.columns.items()}
        return replace(self, y=y, columns=columns, is_sealed=True)

    def _is(self, split: Split) -> np.ndarray:
        return self.split == layout.SPLITS.index(split)

    def only(self, modalities: Sequence[Modality]) -> "Table":
        """Return the same table with some of its modalities, without the samples that have none of them."""
        if unknown := set(modalities) - set(self.columns):
            raise ConfigError(
                f"{self.name} has no {', '.join(sorted(unknown))} hidden states",
                fix=f"it has {', '.join(self.columns)}",
            )
        kept = {m: c for m, c in self.columns.items() if m in modalities}
        drawn = tuple(m for m in self.drawn if m in kept)
        return replace(self, columns=kept, drawn=drawn).take(np.flatnonzero(_any_present(kept, len(self))))

    def take(self, index: np.ndarray) -> "Table":
        """Return the table of some samples."""
        return replace(
            self,
            ids=[self.ids[i] for i in index],
            corpus=[self.corpus[i] for i in index],
            split=self.split[index],
            y=self.y[index],
            columns={m: column.take(index) for m, column in self.columns.items()},
            group=self.group[index],
            position=self.position[index],
        )

    @property
    def dims(self) -> dict[Modality, int]:
        """Return the width of each modality."""
        return {m: column.view.dim for m, column in self.columns.items()}


def table(store: FeatureStore, dataset: str, views: Mapping[Modality, str | None]) -> Table:
    """Return the samples of a dataset that have a label, a split, and hidden states of at least one of the views.

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
        ids=list(index.ids),
        corpus=[index.name] * len(index),
        split=index.split,
        y=index.y,
        columns=columns,
        group=numbered(index.group),
        position=index.position,
    )
    labelled = np.isfinite(np.atleast_2d(index.y.T)).all(0)  # (n,): every label of a sample, or its only one
    wanted = _any_present(columns, len(index)) & labelled & (index.split != layout.NO_SPLIT)
    if not wanted.any():
        raise ConfigError(
            f"{index.name}: none of {len(index)} samples has a label, a split and {' or '.join(columns)}",
            fix="see what was left out and what failed with `msa cache info`",
        )
    return whole.take(np.flatnonzero(wanted))


def numbered(groups: Sequence[str]) -> np.ndarray:
    """Return group numbers (n,) int64; a sample without a group ("") gets a number of its own."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name or i, len(numbers)) for i, name in enumerate(groups)], np.int64)


def _any_present(columns: Mapping[Modality, Column], n: int) -> np.ndarray:
    present = np.zeros(n, bool)
    for column in columns.values():
        present |= column.present
    return present


@dataclass(frozen=True)
class Subset:
    """Some rows of a table: what a training loop may look at."""

    table: Table
    rows: np.ndarray
    _sources: dict[str, Source] = field(default_factory=dict, init=False, repr=False, compare=False)
    _means: dict[str, tuple["Normalisation", Source]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def y(self) -> np.ndarray:
        """Return labels (n,), or (n, classes) of a multilabel task."""
        return self.table.y[self.rows]

    @property
    def ids(self) -> list[str]:
        """Return sample ids, in order."""
        return [self.table.ids[row] for row in self.rows]

    @property
    def corpus(self) -> np.ndarray:
        """Return the dataset that each label comes from, (n,)."""
        return np.array([self.table.corpus[row] for row in self.rows])

    def source(self, norm: "Normalisation", device: str = "cpu", means: bool = False) -> Source:
        """Return the subset's batches on a device; what is loaded for the first call stays for the next ones.

        With `means` a modality is its mean, in one step.
        """
        if device not in self._sources:
            self._sources[device] = Source.of(Subset(self.table, self.rows), norm, device)
        source = replace(self._sources[device], norm=norm)
        if not means:
            return source
        if device not in self._means or self._means[device][0] is not norm:
            self._means[device] = norm, source.means()
        return self._means[device][1]

    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of every sample in each modality, (n, M), and each modality's width, (M,)."""
        columns = self.table.columns.values()
        return np.stack([c.take(self.rows).length for c in columns], 1), np.array([c.view.dim for c in columns])

    def sealed(self) -> "Subset":
        """Return the same samples of the sealed table. Raises ConfigError where it has test samples."""
        if n := int((self.table.split[self.rows] == layout.SPLITS.index(Split.TEST)).sum()):
            raise ConfigError(
                f"{self.table.name}: {n} test samples among those to train or to choose on",
                fix="take the samples of a split: table.subset(Split.TRAIN), table.subset(Split.VALID)",
            )
        return self if self.table.is_sealed else Subset(self.table.sealed(), self.rows)

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each sample's group and its position in it, (n,) each."""
        return self.table.group[self.rows], self.table.position[self.rows]

    def batches(self, size: int, norm: "Normalisation", order: np.ndarray | None = None) -> Iterator[Batch]:
        """Yield batches of `size` samples, in the given order of positions or as they stand."""
        order = np.arange(len(self)) if order is None else order
        yield from self.source(norm).batches([order[at : at + size] for at in range(0, len(order), size)])

    def batch(self, rows: np.ndarray, norm: "Normalisation") -> Batch:
        """Return a batch of these rows of the table, padded to the longest of each modality."""
        states = {m: Stored(column).pad(torch.from_numpy(rows)) for m, column in self.table.columns.items()}
        ready = {m: prepared(x, mask, norm.of(m), norm.statistics) for m, (x, mask) in states.items()}
        return self.labelled({m: x for m, (x, _) in ready.items()}, {m: mask for m, (_, mask) in ready.items()}, rows)

    def labelled(
        self, x: Mapping[Modality, torch.Tensor], mask: Mapping[Modality, torch.Tensor], rows: np.ndarray
    ) -> Batch:
        """Return a batch with the labels, rows, groups and positions of these rows of the table."""
        y = self.table.y[rows]
        return Batch(
            x=x,
            mask=mask,
            y=torch.from_numpy(y.astype(np.int64) if self.table.task.single else y),
            row=torch.from_numpy(rows.astype(np.int64)),
            group=torch.from_numpy(self.table.group[rows]),
            position=torch.from_numpy(self.table.position[rows]),
        )


def pad(
    states: Sequence[np.ndarray | None], dim: int, norm: tuple[np.ndarray, np.ndarray] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad ragged (T_i, D) arrays -> x (B, max T, D) float32 and mask (B, max T); None gives an all-False row."""
    longest = max((len(s) for s in states if s is not None), default=1)
    x = np.zeros((len(states), longest, dim), np.float32)
    mask = np.zeros((len(states), longest), bool)
    for i, own in enumerate(states):
        if own is not None:
            x[i, : len(own)] = own if norm is None else (own - norm[0]) / norm[1]
            mask[i, : len(own)] = True
    return torch.from_numpy(x), torch.from_numpy(mask)


@dataclass(frozen=True)
class Normalisation:
    """What is done to hidden states before a head sees them.

    Modalities in `stats` are normalised per dimension, by the valid frames of the training split alone. Then every step
    is widened by `statistics` of its own sample.
    """

    stats: Mapping[Modality, tuple[np.ndarray, np.ndarray]]  # mean and standard deviation, each (D,) float32
    statistics: tuple[str, ...] = ()  # names of head.STATISTICS

    def of(self, modality: Modality) -> tuple[np.ndarray, np.ndarray] | None:
        """Return mean and standard deviation of a modality, None where it is not normalised."""
        return self.stats.get(modality)

    def named(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield `audio.mean`, `audio.std`, ... with their values, as a run stores them."""
        for modality, (mean, std) in self.stats.items():
            yield f"{modality}.mean", mean
            yield f"{modality}.std", std

    @classmethod
    def fit(cls, train: Subset, modalities: Sequence[str], statistics: Sequence[str] = ()) -> "Normalisation":
        """Return the normalisation of a training split: padding and other splits have no part in it."""
        wanted = [m for m in train.table.columns if m in modalities]
        return cls({m: _moments(train.table.columns[m].take(train.rows)) for m in wanted}, tuple(statistics))

    def widths(self, dims: Mapping[Modality, int]) -> dict[Modality, int]:
        """Return the width of each modality in a batch, given the widths in the store."""
        return widened(dims, self.statistics)


def widened(dims: Mapping[Modality, int], statistics: Sequence[str]) -> dict[Modality, int]:
    """Return the width that each modality has with statistics of a sample beside every step."""
    return {m: width * (1 + len(statistics)) for m, width in dims.items()}


def _moments(column: Column) -> tuple[np.ndarray, np.ndarray]:
    count, total, squares = 0.0, np.zeros(column.view.dim), np.zeros(column.view.dim)
    shift: np.ndarray | None = None  # the first frame: squares of large values would leave nothing of a small spread
    distinct, which = column.distinct()  # a recording given to several samples counts as often, and is read once
    times, length = np.bincount(which[which >= 0], minlength=len(distinct.rows)).astype(np.float64), distinct.length
    for at, states in distinct.pieces():
        shift = states[0].astype(np.float64) if shift is None else shift
        wide, weight = states.astype(np.float64) - shift, np.repeat(times[at], length[at])
        count += weight.sum()
        total += weight @ wide
        squares += weight @ np.square(wide, out=wide)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    std[std < 1e-6] = 1.0  # a constant column stays a constant
    return (mean if shift is None else mean + shift).astype(np.float32), std.astype(np.float32)
