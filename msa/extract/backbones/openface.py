"""OpenFace 2 features of a CSV (Baltrusaitis, 2018).

Paper    https://doi.org/10.1109/FG.2018.00019
Weights  none here: OpenFace ran before, elsewhere. It is for academic and other non-profit, non-commercial research.
Columns  time_s, confidence (0-1), then OpenFace's own, unchanged: gaze_0_x ... (unit vectors), gaze_angle_x ... (rad),
         eye_lmk_... , x_0 ... y_67 (pixels), X_0 ... (mm), pose_Tx ... (mm), pose_Rx ... (rad), p_... (shape model),
         AU01_r ... (intensity, 0-5), AU01_c ... (presence, 0 or 1). `set=compact`: gaze vectors, pose and action
         units, which every version writes; `set=all`: the 709 of version 2, in its order.
Rows     The frames with success 1 and at least the wanted `confidence`; by default every success, of which OpenFace
         judges itself. Of several faces (`face_id`) the one seen in most of these frames. The others are counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from msa.annotations.frames import followed
from msa.errors import UnknownNameError
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders import rows
from msa.types import Modality

if TYPE_CHECKING:
    from msa.extract.media.decode import Columns

EYE, FACE, SHAPE = 56, 68, 34  # landmarks of the eyes, of the face, and parameters of the shape model
INTENSITIES = ["01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45"]
PRESENCES = ["01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "28", "45"]


def _points(prefix: str, axes: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{axis}_{i}" for axis in axes for i in range(count))


GAZE = tuple(f"gaze_{eye}_{axis}" for eye in "01" for axis in "xyz")
POSE = tuple(f"pose_{kind}{axis}" for kind in "TR" for axis in "xyz")
UNITS = (*(f"AU{unit}_r" for unit in INTENSITIES), *(f"AU{unit}_c" for unit in PRESENCES))
SETS: Mapping[str, tuple[str, ...]] = {
    "compact": (*GAZE, *POSE, *UNITS),
    "all": (
        *GAZE,
        *("gaze_angle_x", "gaze_angle_y"),
        *_points("eye_lmk_", "xy", EYE),
        *_points("eye_lmk_", "XYZ", EYE),
        *POSE,
        *_points("", "xy", FACE),
        *_points("", "XYZ", FACE),
        *("p_scale", "p_rx", "p_ry", "p_rz", "p_tx", "p_ty"),
        *_points("", "p", SHAPE),
        *UNITS,
    ),
}
FIRST = ("timestamp", "confidence")  # stored as time_s and confidence

SPECS = {
    "csv": BackboneSpec(
        modality=Modality.FACE,
        options={"set": "compact", "confidence": 0.0},
        about={
            "set": "columns: compact (what every version writes), or all of version 2",
            "confidence": "OpenFace's own, from which on a row is kept, 0 to 1",
        },
        dtype="float32",
        batch=1,  # clips; a batch that fails would be taken again, and counted again
        licence="academic or non-profit, non-commercial research (OpenFace)",
        source="https://doi.org/10.1109/FG.2018.00019",
    ),
}


@dataclass
class OpenFace(Backbone):
    """A choice of columns and rows. `columns` names what stands in each of the `dim` columns."""

    names: tuple[str, ...]  # in the CSV
    confidence: float
    dtype: str
    versions: Mapping[str, str]
    dim: int
    columns: tuple[str, ...]
    _counts: Counter[str] = field(default_factory=Counter)

    def encode(self, clips: Sequence["Columns"]) -> list[np.ndarray]:
        """Turn tables into rows, each (frames with the face, dim). Raises MediaError for a table that is not one."""
        return rows((self._rows(clip) for clip in clips), self.dtype)

    def counts(self) -> dict[str, int]:
        """Return how often what was met since this was last asked; what was not met is left out."""
        counted, self._counts = self._counts, Counter()
        return {what: number for what, number in counted.items() if number}

    def _rows(self, clip: "Columns") -> np.ndarray:
        from msa.extract.media.decode import Columns, MediaError

        if not isinstance(clip, Columns):
            raise MediaError("a video, not a table of OpenFace's: --face pyfeat reads videos")
        place = {name.strip(): i for i, name in enumerate(clip.names)}
        if missing := [name for name in (*FIRST, "success", *self.names) if name not in place]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise MediaError(f"no column {missing[0]}{more} in this table")
        seen = clip.values[:, place["success"]] == 1
        sure = seen & (clip.values[:, place["confidence"]] >= self.confidence)
        own = sure & self._followed(clip.values, sure, place.get("face_id"))
        self._count(clip.values[:, place["timestamp"]], seen, sure, own)
        if not own.any():
            raise MediaError(f"no face in {len(np.unique(clip.values[:, place['timestamp']]))} frames")
        return clip.values[own][:, [place[name] for name in (*FIRST, *self.names)]]

    def _followed(self, values: np.ndarray, sure: np.ndarray, face_id: int | None) -> np.ndarray:
        """Return (rows,) bool: rows of the face with most sure ones; among equals the more confident."""
        return sure if face_id is None else followed(sure, values[:, face_id])

    def _count(self, times: np.ndarray, seen: np.ndarray, sure: np.ndarray, own: np.ndarray) -> None:
        """A frame may have several rows, one for each face in it."""
        frames, with_face, with_sure = (len(np.unique(times[which])) for which in (slice(None), seen, sure))
        self._counts["frames"] += frames
        self._counts["frames without a face"] += frames - with_face
        self._counts["frames below the confidence"] += with_face - with_sure
        self._counts["frames with other faces only"] += with_sure - len(np.unique(times[own]))
        self._counts["clips without a face"] += not own.any()
        self._counts["clips with several faces"] += bool(sure.sum() > own.sum())


def load(spec: BackboneSpec, weights: Weights, device: str) -> OpenFace:
    """Return the backbone, without weights: the numbers are OpenFace's."""
    if spec.options["set"] not in SETS:
        raise UnknownNameError("value of set", spec.options["set"], SETS)
    names = SETS[spec.options["set"]]
    columns = ("time_s", "confidence", *names)
    return OpenFace(names, spec.options["confidence"], spec.dtype, {}, len(columns), columns)
