"""A dataset of a store as numpy, dask and torch objects, for other analyses and training loops.

Called through `FeatureStore.states`, `numpy`, `dask` and `torch`. dask and torch are imported on use.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.cache.format import layout
from msa.cache.format.zarr_array import Data
from msa.cache.index import Index
from msa.cache.read.view import View, ViewReader
from msa.cache.write import segment
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.types import Modality, Split

if TYPE_CHECKING:
    import dask.array

    from msa.cache.store import FeatureStore


class States(Mapping[str, np.ndarray]):
    """Mapping from id to hidden states (T, D) of one view, read on access; ids without any are not in it."""

    def __init__(self, index: Index, reader: ViewReader) -> None:
        self.index = index
        self.reader = reader

    def __getitem__(self, id: str) -> np.ndarray:
        row = self._rows.get(id, -1)
        if row < 0 or not self._has[row]:
            raise KeyError(id)
        return self.reader.read(row)

    def __contains__(self, id: object) -> bool:
        return id in self._rows and bool(self._has[self._rows[id]])

    def __iter__(self) -> Iterator[str]:
        return (id for id, has in zip(self.index.ids, self._has, strict=True) if has)

    def __len__(self) -> int:
        return int(np.count_nonzero(self._has))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.index.ids)}

    @cached_property
    def _has(self) -> np.ndarray:
        return self.reader.length >= 0


@dataclass(frozen=True)
class Samples:
    """Labelled samples of a dataset as a map-style torch dataset; can be sent to DataLoader workers.

    Item i is a dict: "id" (str), "label" - a class number (int64), a value (float32), or (C,) float32 of several
    classes at once - and per modality (T, D) float32, (0, D) where the sample has none. `collate` makes batches.
    """

    ids: Sequence[str]
    y: np.ndarray  # (n,) or (n, C)
    is_class: bool
    rows: np.ndarray  # (n,) int64, of the index
    readers: Mapping[Modality, ViewReader] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        return self.__getitems__([i])[0]

    def __getitems__(self, at: Sequence[int]) -> list[dict[str, Any]]:
        """Read several items at once; DataLoader fetches batches with it."""
        import torch

        rows = self.rows[np.asarray(at, np.int64)]
        label = torch.from_numpy(self.y[np.asarray(at, np.int64)])
        items = [
            {"id": self.ids[i], "label": value.long() if self.is_class else value}
            for i, value in zip(at, label, strict=True)
        ]
        for modality, reader in self.readers.items():
            values, offsets = reader.flat(rows)
            states = torch.from_numpy(np.asarray(values, np.float32))  # (sum T, D)
            for item, a, b in zip(items, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                item[str(modality)] = states[a:b]
        return items

    def collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch: "id" (list of B), "label" (B,) or (B, C), and per modality (B, L, D) and its mask.

        Hidden states are 0 behind the end of each sample; "<modality>_mask" is (B, L) bool, True where there are some.
        """
        import torch

        batch: dict[str, Any] = {"id": [item["id"] for item in items]}
        batch["label"] = torch.stack([item["label"] for item in items])
        for modality in map(str, self.readers):
            states = [item[modality] for item in items]
            length = torch.tensor([len(state) for state in states])
            batch[modality] = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
            batch[f"{modality}_mask"] = torch.arange(batch[modality].shape[1]) < length[:, None]
        return batch


def states(store: "FeatureStore", dataset: str, modality: str, view: str | None) -> States:
    """See FeatureStore.states."""
    return States(store.index(dataset), store.reader(_view(store, dataset, modality, view)))


def as_numpy(
    store: "FeatureStore", dataset: str, modality: str, view: str | None, split: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """See FeatureStore.numpy."""
    chosen = _view(store, dataset, modality, view)
    return store.reader(chosen).flat(_rows(store, chosen, split))


def as_dask(
    store: "FeatureStore", modality: str, dataset: str | None, view: str | None, split: str | None
) -> "dask.array.Array":
    """See FeatureStore.dask."""
    import dask.array

    chosen = _view(store, dataset or _only(store), modality, view)
    reader = store.reader(chosen)
    kept = np.zeros(store.manifest.datasets[chosen.dataset].samples, bool)
    kept[_rows(store, chosen, split)] = True
    blocks = [
        dask.array.from_delayed(
            dask.delayed(_block)(reader, rows, dask_key_name=f"states-{chosen.id}-{name}-{split}"),
            (height, chosen.dim),
            reader.dtype,
        )
        for name, rows, height in _shards(store, chosen, kept)
    ]
    if not blocks:
        return dask.array.zeros((0, chosen.dim), reader.dtype)
    return dask.array.concatenate(blocks)


def as_torch(
    store: "FeatureStore", dataset: str, modalities: Sequence[str] | None, split: str | None, views: Mapping[str, str]
) -> Samples:
    """See FeatureStore.torch."""
    present = {view.modality for view in store.views(dataset)}
    wanted = [_modality(m) for m in modalities] if modalities else [m for m in Modality if m in present]
    if unknown := set(views) - set(wanted):
        raise ConfigError(
            f"a view of {', '.join(sorted(unknown))} is named, which is not asked for",
            fix=f"the modalities are {', '.join(wanted)}",
        )
    index = store.index(dataset)
    readers = {m: store.reader(store.view(dataset, m, views.get(m))) for m in wanted}
    y = np.asarray(index.y, np.float32)
    kept = np.isfinite(y).all(axis=1) if y.ndim > 1 else np.isfinite(y)
    if split is not None:
        kept &= index.split == layout.SPLITS.index(_split(split))
    has = np.zeros(len(index), bool)
    for reader in readers.values():
        has |= reader.length >= 0
    rows = np.flatnonzero(kept & has)
    if not len(rows):
        raise StoreError(
            f"{store.where} has no labelled sample of {dataset}{f', split {split},' if split else ''} with "
            f"{', '.join(wanted) or 'hidden states'}",
            fix="see what there is with `msa cache info`",
        )
    ids = list(index.ids)
    return Samples([ids[row] for row in rows.tolist()], y[rows], index.task.single, rows, readers)


def _block(reader: ViewReader, rows: np.ndarray) -> np.ndarray:
    """Return hidden states (sum T, D) of rows; of no rows (0, D), which dask asks for the shape."""
    return reader.flat(rows)[0]


def _shards(store: "FeatureStore", view: View, kept: np.ndarray) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield a name, the samples (k,) int32 in their order on disk, and the number of rows of each shard of a view."""
    for entry in view.entries:
        home = store.tables(view.id, entry)
        sample, start, length = segment.places(home, len(kept))
        here = kept[sample]
        sample, start, length = sample[here], start[here], length[here]
        order = np.lexsort((sample, start))
        folder = store.path / layout.segment_path(view.id, entry.data_id)
        if store.blocks:
            store.blocks.files(folder, {name: facts for name, facts in entry.data.items() if name == "data/zarr.json"})
        shard = start[order] // Data(folder / "data", store.blocks).file_rows
        for at in np.split(order, np.flatnonzero(np.diff(shard)) + 1):
            if len(at):
                name = f"{view.dataset}-{entry.id}-{start[at[0]]}-{len(at)}"
                yield name, sample[at].astype(np.int32), int(length[at].sum(dtype=np.int64))


def _rows(store: "FeatureStore", view: View, split: str | None) -> np.ndarray:
    """Return the rows (n,) int64 of a split, or all."""
    if split is None:
        return np.arange(store.manifest.datasets[view.dataset].samples)
    return store.index(view.dataset).rows(_split(split))


def _view(store: "FeatureStore", dataset: str, modality: str, name: str | None) -> View:
    return store.view(dataset, _modality(modality), name)


def _only(store: "FeatureStore") -> str:
    """Return the name of the one dataset of a store."""
    names = list(store.datasets)
    if len(names) != 1:
        raise ConfigError(
            f"{store.where} holds {len(names)} datasets: {', '.join(names) or 'none'}",
            fix="name one: store.dask(modality, dataset=...)",
        )
    return names[0]


def _modality(name: str) -> Modality:
    if name not in list(Modality):
        raise UnknownNameError("modality", name, list(Modality))
    return Modality(name)


def _split(name: str) -> Split:
    if name not in list(Split):
        raise UnknownNameError("split", name, list(Split))
    return Split(name)
