"""Views: one recipe from raw material to hidden states, and random access to what it made of one corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache import layout
from msa.cache.segment import Form
from msa.cache.shard import Shard
from msa.errors import StoreError
from msa.types import Modality


@dataclass(frozen=True)
class View:
    """One recipe applied to one corpus: `attributes` is the provenance written beside the numbers."""

    id: str
    dataset: str  # fingerprint of the index its row numbers refer to
    attributes: Mapping[str, Any] = field(repr=False)
    entries: Sequence[Mapping[str, Any]] = field(repr=False)  # of the manifest

    @property
    def modality(self) -> Modality:
        """Which modality this view holds."""
        return Modality(self.attributes["modality"])

    @property
    def name(self) -> str:
        """The backbone's name, such as `roberta.base`; `name@id` is unambiguous."""
        return str(self.attributes["backbone"])

    def is_called(self, text: str) -> bool:
        """Does `text` name this view: by its backbone, by at least four digits of its id, or as `backbone@id`?"""
        name, at, view_id = text.rpartition("@")
        if at:
            return self.name == name and bool(view_id) and self.id.startswith(view_id)
        return self.name == text or (len(text) >= 4 and self.id.startswith(text))

    @property
    def dim(self) -> int:
        """Width D of every hidden state."""
        return int(self.attributes["dim"])

    @property
    def samples(self) -> int:
        """How many samples have hidden states here."""
        return sum(entry["samples"] for entry in self.entries)

    @property
    def failed(self) -> int:
        """How many samples could not be read or encoded."""
        return sum(entry["failed"] for entry in self.entries)

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        parts = (part for e in self.entries for part in (e["files"], e.get("data_files", {})))
        return sum(size for files in parts for size, _ in files.values())


class ViewReader:
    """Hidden states of one view by row number of its corpus.

    `length` (n,) int32 is the number of rows T of each sample, -1 where the view has none; `failures` maps a row to
    its record {"stage", "reason", ...}.
    """

    def __init__(self, folder: Path, view: View, samples: int) -> None:
        self.view = view
        self.length = np.full(samples, -1, np.int32)
        self.failures: dict[int, dict[str, Any]] = {}
        self._segment = np.zeros(samples, np.int32)
        self._start = np.zeros(samples, np.int64)
        self._data: list[_Data] = []
        for entry in view.entries:
            self._add(folder, entry)

    def read(self, row: int) -> np.ndarray:
        """Hidden states (T, D) of a sample, in the stored dtype. Raises StoreError where there are none."""
        if self.length[row] < 0:
            raise StoreError(
                f"row {row} has no hidden states in {self.view.name}@{self.view.id}",
                fix="ask `length` which rows have some, or run `msa extract` to complete the view",
            )
        return self._data[self._segment[row]].read(int(self._start[row]), int(self.length[row]))

    def _add(self, folder: Path, entry: Mapping[str, Any]) -> None:
        home = folder / entry["id"]
        data = _Data.open(folder / entry.get("data_of", entry["id"]) / "data")
        sample, start, length = (layout.read_array(home / name) for name in ("sample", "start", "length"))
        data.check(home, sample, start, length, len(self.length))
        self.length[sample], self._start[sample], self._segment[sample] = length, start, len(self._data)
        self._data.append(data)
        if entry["failed"]:
            for failure in layout.read_json(home / "zarr.json")["attributes"]["failures"]:
                self.failures[failure["sample"]] = failure


@dataclass
class _Data:
    """A `data` array: its shape, and its shards as they are needed."""

    path: Path
    form: Form
    rows: int
    shards: dict[int, Shard] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "_Data":
        meta = layout.read_json(path / "zarr.json")
        rows, width = meta["shape"]
        shard_rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
        codecs = meta["codecs"]
        chunk = codecs[0]["configuration"]["chunk_shape"][0] if codecs[0]["name"] == "sharding_indexed" else 0
        expected = layout.data_metadata(rows, width, meta["attributes"]["dtype"], chunk or 1, shard_rows)
        if codecs != expected["codecs"] or shard_rows % chunk:
            raise StoreError(
                f"{path} uses codecs this version does not read itself",
                fix="copy the view with zarr-python into uncompressed shards with crc32c (docs/store-format.md)",
            )
        return cls(path, Form(width, meta["attributes"]["dtype"], chunk, shard_rows), rows)

    def check(self, home: Path, sample: np.ndarray, start: np.ndarray, length: np.ndarray, samples: int) -> None:
        """Refuse tables that point outside the data before anything is read through them."""
        end = start + length
        inside = (
            (start >= 0)
            & (length > 0)
            & (end <= self.rows)
            & (start // self.form.shard == (end - 1) // self.form.shard)
        )
        if not (inside.all() and (sample >= 0).all() and (sample < samples).all()):
            raise StoreError(f"damaged store: {home} points outside its data", fix="run `msa cache verify`")

    def read(self, start: int, length: int) -> np.ndarray:
        number, offset = divmod(start, self.form.shard)
        if number not in self.shards:
            path = self.path / "c" / str(number) / "0"
            chunks = self.form.shard // self.form.chunk
            dtype = self.form.stored.newbyteorder("<")
            self.shards[number] = Shard(path, self.form.width, dtype, self.form.chunk, chunks)
        rows = self.shards[number].read(offset, length)
        if self.form.dtype == "bfloat16":  # the upper half of a float32
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows
