"""Views: one recipe from raw material to hidden states, applied to one dataset, and a reader of the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msa.cache.format import layout
from msa.cache.format.manifest import SegmentEntry
from msa.cache.format.shard import Blocks
from msa.cache.read.readahead import Readahead
from msa.cache.read.sample_locations import SampleLocations
from msa.errors import ConfigError, StoreError
from msa.types import Modality


@dataclass(frozen=True)
class View:
    """One recipe applied to one dataset; `attributes` is its provenance."""

    id: str
    dataset: str  # fingerprint of the index its row numbers refer to
    attributes: Mapping[str, Any] = field(repr=False)
    entries: Sequence[SegmentEntry] = field(repr=False)

    @property
    def modality(self) -> Modality:
        """The modality this view holds."""
        return Modality(self.attributes["modality"])

    @property
    def name(self) -> str:
        """The backbone's name, such as `roberta.base`; `name@id` is unambiguous."""
        return str(self.attributes["backbone"])

    def is_called(self, text: str) -> bool:
        """Return whether `text` names this view: its backbone, at least four digits of its id, or `backbone@id`."""
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
        """Number of samples with hidden states."""
        return sum(entry.samples for entry in self.entries)

    @property
    def failed(self) -> int:
        """Number of samples that could not be read or encoded."""
        return sum(entry.failed for entry in self.entries)

    @property
    def nbytes(self) -> int:
        """Size on disk in bytes."""
        return sum(facts.size for e in self.entries for _, files in e.by_segment for facts in files.values())


class ViewReader:
    """Hidden states of one view by row number of its dataset; opening it reads nothing.

    `blocks` brings what is read, where the store lies somewhere else.
    """

    def __init__(self, folder: Path, view: View, samples: int, blocks: Blocks | None = None) -> None:
        self.view = view
        self._given = folder, view, samples, blocks
        form = view.dim, view.attributes.get("dtype")
        self._locations = SampleLocations(folder, view.entries, samples, form, blocks)
        self._readahead = Readahead()
        self._zeros = memoryview(b"")

    def __reduce__(self) -> tuple[Any, ...]:
        return ViewReader, self._given  # another process maps the files itself

    @property
    def length(self) -> np.ndarray:
        """(n,) int32: rows T of each sample, -1 where the view has none. All tables are read for it, once."""
        return self._locations.length

    @cached_property
    def failures(self) -> dict[int, dict[str, Any]]:
        """Row -> failure record {"stage", "reason", ...} of the samples that could not be read or encoded."""
        return self._locations.failures()

    @cached_property
    def dtype(self) -> np.dtype:
        """Dtype of the arrays that are returned: bfloat16 is widened to float32."""
        return np.dtype(np.float32 if self._locations.dtype == "bfloat16" else self._locations.dtype)

    def read(self, row: int) -> np.ndarray:
        """Return the hidden states (T, D) of a sample. Raises StoreError where there are none or they are damaged."""
        location = self._locations.one(row)
        if not location[3]:
            raise StoreError(
                f"row {row} has no hidden states in {self.view.name}@{self.view.id}",
                fix="ask `length` which rows have some, or run `msa extract` to complete the view",
            )
        return self._flat([location], location[3])

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a padded batch of rows (B,): x (B, longest, D), 0 behind each sample, and length (B,) int32.

        A sample without hidden states, and row -1, have length 0. `out` is memory to use again: C-contiguous, of this
        reader's `dtype`, (B, longest, D) or larger; x is a part of it, and the rest of it is left as it is.
        Raises StoreError where something is damaged, ConfigError where `out` does not fit.
        """
        locations = self._locations.of(np.asarray(rows, np.int64))
        length = locations[:, 3].copy()
        shape = len(length), int(length.max(initial=0)), self.view.dim
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.dtype != self.dtype or out.ndim != 3 or out.shape[2] != shape[2] or not out.flags.c_contiguous:
            raise ConfigError(
                f"`out` is {out.dtype}{list(out.shape)}", fix=f"give a C-contiguous array of {self.dtype}{list(shape)}"
            )
        elif out.shape[0] < shape[0] or out.shape[1] < shape[1]:
            raise ConfigError(f"`out` has shape {list(out.shape)}", fix=f"this batch needs {list(shape)} or more")
        x = out[: shape[0], : shape[1]]
        if self._locations.dtype == "bfloat16":
            halves = np.empty(shape, np.uint16)
            self._copy(locations.tolist(), halves, shape[1])
            _widen(halves, x)
        else:
            self._copy(locations.tolist(), out, shape[1])
        return x, length

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch without padding: values (sum T, D) and offsets (B + 1,) int64.

        Sample i is `values[offsets[i]:offsets[i + 1]]`.
        """
        locations = self._locations.of(np.asarray(rows, np.int64))
        offsets = np.zeros(len(locations) + 1, np.int64)
        np.cumsum(locations[:, 3], out=offsets[1:])
        return self._flat(locations.tolist(), int(offsets[-1])), offsets

    def _flat(self, locations: list[list[int]], rows: int) -> np.ndarray:
        values = np.empty((rows, self.view.dim), layout.stored(self._locations.dtype))
        self._copy(locations, values)
        return _widen(values, np.empty(values.shape, np.float32)) if self._locations.dtype == "bfloat16" else values

    def _copy(self, locations: list[list[int]], out: np.ndarray, longest: int = 0) -> None:
        """Copy samples into `out`: (>= B, >= longest, D), zeros behind each; or (sum T, D) where `longest` is 0.

        Slices of memoryviews are the cheapest copies in Python; most samples need one.
        """
        if not out.size:
            return
        target, files, begin = out.reshape(-1).view(np.uint8).data, self._locations.files, 0
        row_bytes, step, padded = out.strides[-2], out.strides[0] if longest else 0, longest * out.strides[-2]
        zeros = self._zeros
        if padded > len(zeros):
            self._zeros = zeros = memoryview(bytes(padded))
        self._readahead.start(locations, files)
        known, source, offsets, chunk_bytes = 0, None, zeros, 0
        file: Any = None
        for number, chunk, row, length in locations:
            end = begin + length * row_bytes
            if length:
                if number != known:
                    file, known = files[number], number
                    source, offsets, chunk_bytes = file.view or file.open(), file.offsets, file.chunk_bytes
                if source is None:
                    target[begin:end] = file.read(chunk, row, length)
                else:
                    at, row = begin, row * row_bytes
                    offset, room = offsets[chunk] + row, begin + chunk_bytes - row  # room: where the chunk ends, there
                    while room < end:
                        target[at:room] = source[offset : offset + room - at]
                        chunk += 1
                        at, room, offset = room, room + chunk_bytes, offsets[chunk]
                    target[at:end] = source[offset : offset + end - at]
            if longest:
                target[end : begin + padded] = zeros[: begin + padded - end]
            begin = begin + step if longest else end


def _widen(halves: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Widen bfloat16, stored as uint16, to float32: it is the upper half of its bits."""
    np.left_shift(halves, 16, out=out.view(np.uint32), dtype=np.uint32)
    return out
