"""Computational sequences of the CMU-MultimodalSDK: what a .csd file holds, and the rows of it that a segment has."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from msa.cache.exchange import _corpus, _hdf5
from msa.cache.exchange._foreign import Feature, Unreadable
from msa.cache.format import fingerprint
from msa.errors import SourceError
from msa.types import Modality

EPSILON = 1e-5  # seconds: less is rounding
JOINT = "$_$"  # between video and number in an id
SHOWN_FACTS = (
    "dataset name",
    "dataset version",
    "computational sequence description",
    "computational sequence version",
)


@dataclass(frozen=True)
class Segment:
    """A labelled stretch of a video, in seconds."""

    video: str
    number: str  # the SDK's: the row in the labels
    start: float
    end: float
    labels: tuple[float, ...]
    position: int = 0  # in the order of time

    @property
    def id(self) -> str:
        return f"{self.video}{JOINT}{self.number}"


@dataclass(frozen=True, eq=False)
class Track:
    """One computational sequence; `entries` maps a video to the keys it has data under: itself, or VIDEO[0], ..."""

    path: Path
    root: str
    data: Any  # the group of that name
    entries: Mapping[str, Sequence[str]]
    about: Mapping[str, Any]
    room: _hdf5.Room  # of the file
    last: dict[str, dict[str, tuple[np.ndarray, Any]]] = field(default_factory=dict, repr=False)  # of one video

    @classmethod
    def all_of(cls, path: Path) -> list["Track"]:
        """Return the sequences of a file: one, or several."""
        file, tracks, room = _hdf5.opened(path), [], _hdf5.Room.of(path)
        for root in _hdf5.names(file):
            group = _hdf5.child(file, root, "Group")
            if (data := _hdf5.child(group, "data", "Group")) is not None:
                entries: dict[str, list[str]] = {}
                for key in _hdf5.names(data):
                    entries.setdefault(key.partition("[")[0], []).append(key)
                tracks.append(cls(path, root, data, entries, _metadata(group), room))
        if not tracks:
            raise SourceError(
                f"{path} is no computational sequence: it has no /ROOT/data", fix="a file of ours is of the format hdf5"
            )
        return tracks

    def is_called(self, name: str) -> bool:
        return name.lower() in (self.root.lower(), self.path.stem.lower(), self.path.name.lower())

    def entry(self, video: str, key: str) -> tuple[np.ndarray, Any]:
        """Return intervals (n, 2) in seconds and the dataset of features they belong to. Raises SourceError."""
        if video not in self.last:  # the samples of a video come one after the other
            self.last.clear()
        of_video = self.last.setdefault(video, {})
        if key not in of_video:
            of_video[key] = self._entry(key)
        return of_video[key]

    def _entry(self, key: str) -> tuple[np.ndarray, Any]:
        group = _hdf5.child(self.data, key, "Group")
        features, intervals = (_hdf5.child(group, name, "Dataset") for name in ("features", "intervals"))
        if features is None or intervals is None:
            raise SourceError(f"{group.name} lacks features or intervals", fix=_hdf5.GET_AGAIN)
        spans = _hdf5.whole(intervals)
        if spans.dtype.kind not in _hdf5.NUMBERS or not features.shape or spans.shape != (features.shape[0], 2):
            raise SourceError(
                f"{group.name} has features {list(features.shape)} and intervals {list(spans.shape)}",
                fix=_hdf5.GET_AGAIN,
            )
        return spans.astype(np.float64), features

    def feature(self, name: str, modality: Modality, segments: Sequence[Segment]) -> Feature:
        """Return the rows of each segment, lazily. Raises SourceError where no entry has any."""
        by_id = {segment.id: segment for segment in segments}
        widths, dtypes, timeless = self._survey({segment.video for segment in segments})
        if not widths:
            raise SourceError(
                f"{self.path}: {self.root} has nothing readable of the {len(by_id)} labelled segments",
                fix=f"compare its videos with those of the labels, or leave it out: modality={self.root}:none",
            )
        dim, whole = widths.most_common(1)[0][0], fingerprint.of_file(self.path)
        cuts = {id: f"{self.root}\0{id}\0{segment.start!r}-{segment.end!r}" for id, segment in by_id.items()}
        digests = {id: xxhash.xxh3_128_digest(whole + cut.encode()) for id, cut in cuts.items()}
        facts = {key: value for key, value in self.about.items() if key in SHOWN_FACTS and isinstance(value, str)}
        return Feature(
            name=name,
            modality=modality,
            dim=dim,
            read=lambda id: self._rows(by_id[id]),
            digest=digests.get,
            columns=_corpus.columns_in(self.about.get("dimension names"), dim),
            dtype="float16" if dtypes == {"float16"} else "float32",
            facts={"file": self.path.name, "rows without a finite interval": timeless, **facts},
        )

    def _survey(self, videos: Iterable[str]) -> tuple[Counter[int], set[str], int]:
        """Return the number of entries by width, the dtypes, and how many rows have no finite interval."""
        widths: Counter[int] = Counter()
        dtypes, timeless = set(), 0
        for video in sorted(videos):
            for key in self.entries.get(video, ()):
                try:
                    spans, features = self.entry(video, key)
                    widths[_hdf5.Rows.of(features).width] += 1
                except SourceError:  # recorded when the turn of its samples comes
                    continue
                dtypes.add(features.dtype.name)
                timeless += int((~np.isfinite(spans).all(axis=1)).sum())
        return widths, dtypes, timeless

    def _rows(self, segment: Segment) -> np.ndarray:
        """Return (T, d) of a segment, in the order of time. Raises Unreadable."""
        if not self.keys(segment):
            raise Unreadable(f"{self.root} has no video {segment.video}")
        spans, states = [], []
        try:
            for intervals, features, rows in self.within(segment):
                low, high = int(rows[0]), int(rows[-1]) + 1
                table = _hdf5.Rows.of(features)
                self.room.take((self.root, segment.id, features.name), table, low, high)
                spans.append(intervals)
                states.append(table.read(low, high)[rows - low])
        except SourceError as error:
            raise Unreadable(error.what) from error
        if not states:
            raise Unreadable(f"no rows in {segment.start:.1f}-{segment.end:.1f} s")
        if len({part.shape[1] for part in states}) > 1:
            raise Unreadable(f"rows of several widths in {segment.video}")
        return np.concatenate(states)[in_time(np.concatenate(spans))]

    def keys(self, segment: Segment) -> Sequence[str]:
        """Return where to look for a segment: the entry that was aligned to it, or all of its video."""
        aligned, of_video = f"{segment.video}[{segment.number}]", self.entries.get(segment.video, ())
        return [aligned] if aligned in of_video else of_video

    def within(self, segment: Segment) -> Iterator[tuple[np.ndarray, Any, np.ndarray]]:
        """Yield, for each entry, the intervals (m, 2) that overlap the segment's, the HDF5 dataset, and its m rows."""
        for key in self.keys(segment):
            spans, features = self.entry(segment.video, key)
            rows = np.flatnonzero(overlap(spans, segment.start, segment.end))
            if len(rows):
                yield spans[rows], features, rows


def _metadata(group: Any) -> dict[str, Any]:
    """/ROOT/metadata: JSON strings, each in an array of one. Nothing depends on it; what is unreadable is left out."""
    metadata_values: dict[str, Any] = {}
    try:
        metadata = _hdf5.child(group, "metadata", "Group")
        for key in _hdf5.names(metadata) if metadata is not None else []:
            (text,) = _hdf5.strings(_hdf5.child(metadata, key, "Dataset"))
            try:
                metadata_values[key] = _corpus.json_in(text)
            except ValueError:
                metadata_values[key] = text
    except (SourceError, ValueError):
        pass
    return metadata_values


def in_time(spans: np.ndarray) -> np.ndarray:
    """Return the order of intervals (n, 2) by start, then end."""
    return np.lexsort((spans[:, 1], spans[:, 0]))


def overlap(spans: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return which intervals (n, 2) overlap [start, end) by more than rounding, (n,) bool; a moment if inside."""
    first, last = spans.T
    with np.errstate(invalid="ignore"):  # infinite ones
        shared = np.minimum(last, end) - np.maximum(first, start) > EPSILON
    moment = (first == last) & (first >= start) & (first < end)
    return (shared | moment) & np.isfinite(spans).all(axis=1)
