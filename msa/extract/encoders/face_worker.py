"""py-feat as its own process runs it: where the faces of some frames are, and what it reads from them.

`feat` is imported here and nowhere else: the import sets OMP_NUM_THREADS, and a detector switches autograd off.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

TOGETHER = 16  # frames in one forward on a GPU; a CPU takes them one by one and loses nothing
EVERY_BOX = 10**9  # candidates kept before overlaps are removed; a smaller number is shared by the frames of a batch


class PyFeat:
    """py-feat's second detector, from two files: `reader` is the multitask network, `finder` RetinaFace."""

    def __init__(self, reader: str, finder: str, device: str, confidence: float, threads: int) -> None:
        library: Any = import_module("feat.detector_v2")  # before torch, as py-feat asks for
        import torch
        from safetensors.torch import load_file

        if sys.platform != "darwin":  # there py-feat wants one thread, because two OpenMP libraries meet
            torch.set_num_threads(threads)
        on = torch.device(device)
        detector = library.Retinaface(device=on, pretrained="", detection_threshold=confidence, top_k=EVERY_BOX)
        detector.net.load_state_dict(load_file(finder))
        library.Retinaface = lambda device: detector  # its own would be fetched from the hub, into the package's folder
        # fp32 on every device: bf16, py-feat's choice for a GPU, moves action units by up to 0.01
        self.detector = library.Detectorv2(device=on, identity_model=None, multitask_weights=reader, amp=False)
        self.together = TOGETHER if on.type == "cuda" else 1
        self.frames = torch.zeros(0)

    def columns(self) -> tuple[str, ...]:
        """Return the columns of `describe`; which action units and emotions there are is up to the weights."""
        network = self.detector.multitask
        return (
            *network.au_names,
            *(f"pose_{name}" for name in ("pitch", "roll", "yaw", "x", "y", "z")),
            "gaze_pitch",
            "gaze_yaw",
            *(f"{axis}_{i}" for axis in "xy" for i in range(68)),
            *(name.lower() for name in network.emotion_names),
            "valence",
            "arousal",
        )

    def find(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Find the faces of each frame of uint8 (N, H, W, 3) RGB, (n, 5): left, top, right, bottom in pixels, score.

        The frames are kept until the next call, for `describe`.
        """
        import torch

        self.frames = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, 3, H, W)
        faces: list[Any] = []
        for start in range(0, len(pixels), self.together):
            faces += self.detector.face_detector(self.frames[start : start + self.together].float())
        return [np.array(boxes, dtype=np.float64).reshape(-1, 5) for boxes in faces]

    def describe(self, faces: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """Describe each face, given as (frame number, (4,) box), by (faces, columns).

        Landmarks count from the middle of the box, in its longer sides.
        """
        parts = [self._describe(faces[i : i + self.together]) for i in range(0, len(faces), self.together)]
        return np.concatenate(parts)

    def _describe(self, faces: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        import torch

        images = self.frames[[number for number, _ in faces]]  # (n, 3, H, W), one for each face
        boxes = np.stack([box for _, box in faces])  # (n, 4)
        none = torch.zeros(len(faces))
        as_it_is = {"Left": none, "Top": none, "Right": none, "Bottom": none}
        crops = self.detector.crop_faces_from_boxes(images, list(torch.from_numpy(boxes)[:, None].float()))
        table = self.detector.forward(crops, {"Image": images, "Padding": as_it_is, "Scale": none + 1})
        network = self.detector.multitask
        middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        xy = [table[[f"{axis}_{i}" for i in range(68)]].to_numpy(np.float64) for axis in "xy"]
        return np.hstack(
            [
                table[[*network.au_names, "Pitch", "Roll", "Yaw", "X", "Y", "Z", "gaze_pitch", "gaze_yaw"]].to_numpy(),
                *((points - middle[:, [axis]]) / side[:, None] for axis, points in enumerate(xy)),
                table[[*network.emotion_names, "valence", "arousal"]].to_numpy(),
            ]
        )
