"""Frames -> one row per frame on which the followed face is seen: what py-feat reads from it.

The detector lives in a process of its own. This file decides which face of a clip is followed, and counts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError, UnknownNameError
from msa.extract.backbone import Backbone, BackboneSpec
from msa.extract.encoders import library_versions, rows
from msa.extract.encoders.process import ProcessError, ProcessObject

if TYPE_CHECKING:
    from msa.extract.media.decode import Frames

# `fps`: an expression lasts half a second to four (Matsumoto and Hwang, 2011), so five frames a second meet the
# shortest twice, at a sixth of what every frame of a video would cost.
OPTIONS: Mapping[str, Any] = {"fps": 5.0, "side": 640, "track": "largest", "confidence": 0.5}
ABOUT: Mapping[str, str] = {
    "fps": "frames of a second that are searched for faces",
    "side": "pixels; larger frames are scaled down to it, and a face is read at 256",
    "track": "whose face: largest, or speaking (whose lips move most)",
    "confidence": "from which on a box is a face, 0 to 1",
}
TRACKS = ("largest", "speaking")
PACKAGES = "'py-feat>=2.1,<3' 'torchcodec>=0.10'"  # as in pyproject.toml: `msa` itself is another's name on the index
WORKER = "msa.extract.encoders.face_worker:PyFeat"
FIRST = ("time_s", "confidence", "face_x", "face_y", "face_width", "face_height")
INNER_LIPS = ("x_62", "y_62", "x_66", "y_66")  # the middle of the upper and of the lower lip's inner edge
SAME = 0.2  # of their union that two boxes share at least when they are one face; a fifth of a second passes between
FEWEST = 3  # frames from which the movement of a mouth can be told


@dataclass
class FaceEncoder(Backbone):
    """py-feat behind a pipe. `columns` names what stands in each of the `dim` columns."""

    process: ProcessObject
    track: str
    dtype: str
    versions: Mapping[str, str]
    columns: tuple[str, ...]
    dim: int = 0
    _counts: Counter[str] = field(default_factory=Counter)

    def encode(self, clips: Sequence["Frames"]) -> list[np.ndarray]:
        """Turn clips into rows, each (frames with the followed face, dim).

        Raises MediaError for a clip without any face, ProcessError where the process fails or dies over a clip, and
        BackboneError where it cannot be started again after that.
        """
        return rows((self._encode(clip) for clip in clips), self.dtype)

    def counts(self) -> dict[str, int]:
        """Return the counts since the last call; those that are 0 are left out."""
        counted, self._counts = self._counts, Counter()
        return {what: number for what, number in counted.items() if number}

    def close(self) -> None:
        """End the process; another clip would start it again."""
        self.process.close()

    def _encode(self, clip: "Frames") -> np.ndarray:
        from msa.extract.media.decode import Frames, MediaError

        if not isinstance(clip, Frames):
            raise MediaError("a table, not a video: --face openface.csv reads what OpenFace wrote")
        boxes = ask(self.process, "find", clip.pixels)  # per frame (n, 5)
        faces = [len(frame_boxes) for frame_boxes in boxes]
        self._counts["frames"] += len(faces)
        self._counts["frames without a face"] += faces.count(0)
        if not any(faces):
            self._counts["clips without a face"] += 1
            raise MediaError(f"no face in {len(faces)} frames")
        numbers, own, described = self._follow(boxes)
        self._counts["clips with several faces"] += max(faces) > 1
        self._counts["frames with other faces only"] += len(faces) - faces.count(0) - len(own)
        height, width = clip.pixels.shape[1:3]
        left, top, right, bottom = own[:, :4].T
        middle = [(left + right) / 2 / width, (top + bottom) / 2 / height]
        size = [(right - left) / width, (bottom - top) / height]
        return np.column_stack([clip.times[numbers], own[:, 4], *middle, *size, described])

    def _follow(self, boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the frames that show the followed face (T,), its boxes there (T, 5) and its features (T, D)."""
        tracks = linked(boxes)
        candidates = tracks[regular(tracks)] if self.track == "speaking" else tracks[:0]
        if not len(candidates):
            candidates = tracks[[largest(boxes, tracks)]]
        where = [np.flatnonzero(track >= 0).tolist() for track in candidates]
        faces = [(t, boxes[t][track[t]]) for track, seen in zip(candidates, where, strict=True) for t in seen]
        described = ask(self.process, "describe", [(t, box[:4]) for t, box in faces])
        parts = np.split(described, np.cumsum([len(seen) for seen in where])[:-1])
        k = int(np.argmax([self._movement(part) for part in parts])) if len(parts) > 1 else 0
        own = np.stack([boxes[t][candidates[k][t]] for t in where[k]])
        return np.array(where[k]), own, parts[k]

    def _movement(self, described: np.ndarray) -> float:
        """Return how much the mouth of a face opens and closes: the standard deviation of the gap between its lips."""
        upper_x, upper_y, lower_x, lower_y = (
            described[:, self.columns.index(name) - len(FIRST)] for name in INNER_LIPS
        )
        return float(np.hypot(upper_x - lower_x, upper_y - lower_y).std())


# which face is followed


def linked(boxes: Sequence[np.ndarray]) -> np.ndarray:
    """Join boxes to tracks: per frame (n, 4 or more) left, top, right, bottom -> (tracks, frames) box number, -1: none.

    Boxes are joined to the track whose last box they overlap most, however long ago that was seen: a face that
    looks away and comes back in its place is the same one. Its identity is not checked.
    """
    tracks: list[np.ndarray] = []  # each (frames,)
    last: list[np.ndarray] = []  # each (4,)
    for t, frame_boxes in enumerate(boxes):
        frame_boxes = frame_boxes[:, :4]
        shared = overlap(np.reshape(last, (-1, 4)), frame_boxes)  # (tracks, n)
        new = set(range(len(frame_boxes)))
        while shared.size and shared.max() >= SAME:
            k, i = divmod(int(shared.argmax()), len(frame_boxes))
            tracks[k][t], last[k] = i, frame_boxes[i]
            shared[k], shared[:, i] = -1, -1
            new.discard(i)
        for i in sorted(new):
            tracks.append(np.full(len(boxes), -1))
            tracks[-1][t] = i
            last.append(frame_boxes[i])
    return np.reshape(tracks, (-1, len(boxes)))


def overlap(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union, (k, n), of (k, 4) and (n, 4) boxes."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])  # (k, n, 2)
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = areas(some)[:, None] + areas(others)[None] - shared
    return shared / np.maximum(union, 1e-9)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (n,) of (n, 4) boxes in pixels."""
    return np.clip(boxes[:, 2:4] - boxes[:, :2], 0, None).prod(axis=1)


def largest(boxes: Sequence[np.ndarray], tracks: np.ndarray) -> int:
    """Return the track that covers most pixels over the whole clip; of equal ones the first."""
    covered = [sum(areas(boxes[t])[i] for t, i in enumerate(track) if i >= 0) for track in tracks]
    return int(np.argmax(covered))


def regular(tracks: np.ndarray) -> np.ndarray:
    """Return (tracks,) bool: those in half as many frames as the longest, and in enough to see a mouth move."""
    seen = (tracks >= 0).sum(axis=1)
    return seen >= max(FEWEST, seen.max() / 2)


# the process


def require_pyfeat() -> None:
    """Raise BackboneError with the command that installs it; asks without importing."""
    missing = [name for name in ("feat", "torchcodec") if find_spec(name) is None]
    if missing:
        raise BackboneError(
            f"faces are read by py-feat, which is not installed (no module {missing[0]!r})",
            fix=f"pip install {PACKAGES}, or leave faces out: --face none",
        )


def load(spec: BackboneSpec, reader: Path, finder: Path, device: str) -> FaceEncoder:
    """Start the process and get its columns; that alone takes several seconds.

    Args:
        spec: the options.
        reader: file of the multitask network.
        finder: file of RetinaFace. py-feat goes by the names of both, so the links of the hub's cache are not followed.
        device: of the process.
    """
    import torch

    require_pyfeat()
    options = {**OPTIONS, **spec.options}
    if options["track"] not in TRACKS:
        raise UnknownNameError("value of track", options["track"], TRACKS)
    process = ProcessObject(
        WORKER,
        *(str(reader.absolute()), str(finder.absolute()), device, options["confidence"], torch.get_num_threads()),
        environment={"HF_HUB_OFFLINE": "1"},  # everything is on disk already
    )
    columns = (*FIRST, *ask(process, "columns"))
    versions = library_versions("py-feat", "torch", "torchvision", "timm")
    return FaceEncoder(process, options["track"], spec.dtype, versions, columns, len(columns))


def ask(process: ProcessObject, method: str, *args: Any) -> Any:
    """Call py-feat's process. Raises BackboneError where it does not start, ProcessError for later failures."""
    try:
        return process.ask(method, *args)
    except ProcessError as error:
        if not error.starting:
            raise
        raise BackboneError(f"py-feat does not start: {error}", fix=_way_out(error, *process.args[:2])) from error


def _way_out(error: ProcessError, reader: str = "", finder: str = "") -> str:
    if "torchcodec" in str(error).lower():  # older ones look for FFmpeg as soon as they are imported
        return "install FFmpeg (apt-get install ffmpeg, brew install ffmpeg), or a newer torchcodec"
    if error.kind in ("ImportError", "ModuleNotFoundError", "AttributeError"):
        return f"pip install --upgrade {PACKAGES}"
    return f"check that {reader} and {finder} are whole, and download them again"
