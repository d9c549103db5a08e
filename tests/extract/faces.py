"""What stands in for py-feat where it is not installed: it takes every coloured rectangle for a face.

Red tells the faces of a frame apart; green is how far the mouth is open; some reds make the process misbehave.
"""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

BROKEN, CRASH, LOUD = 255, 254, 253  # reds
COLUMNS = ("AU01", "x_62", "y_62", "x_66", "y_66")


def painted(*frames: dict[int, tuple[int, int, int, int]], mouths: dict[int, list[int]] | None = None) -> np.ndarray:
    """Frames of 60 x 80 px: red -> (left, top, right, bottom) in each, and red -> green of its mouth, by frame."""
    pixels = np.zeros((len(frames), 60, 80, 3), np.uint8)
    for t, boxes in enumerate(frames):
        for red, (left, top, right, bottom) in boxes.items():
            green = (mouths or {}).get(red, [0] * len(frames))[t]
            pixels[t, top:bottom, left:right] = (red, green, 0)
    return pixels


class Fake:
    """The questions that py-feat's worker answers, and a few about the process."""

    def __init__(self, *settings: object) -> None:
        self.settings = settings
        os.environ["OMP_NUM_THREADS"] = "77"  # as `import feat` would

    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def find(self, pixels: np.ndarray) -> list[np.ndarray]:
        self.pixels = pixels
        reds = set(np.unique(pixels[..., 0]).tolist())
        if LOUD in reds:
            print("on standard output")
            os.write(1, b"on its descriptor\n")
            print("on standard error", file=sys.stderr)
        if BROKEN in reds:
            raise ValueError("this clip is too much\nfor me")
        if CRASH in reds:
            print("a last cry", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return [self._boxes(frame[..., 0]) for frame in pixels]

    def _boxes(self, red: np.ndarray) -> np.ndarray:
        found = []
        for value in (value for value in np.unique(red) if value):
            rows, columns = np.nonzero(red == value)
            found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1, value / 255])
        return np.array(found, np.float64).reshape(-1, 5)

    def describe(self, faces: list[tuple[int, np.ndarray]]) -> np.ndarray:
        told = []
        for number, (left, top, _, _) in faces:
            red, green, _ = self.pixels[number, int(top), int(left)] / 255
            told.append([red, 0.0, 0.0, 0.0, green])
        return np.array(told)

    def pid(self) -> int:
        return os.getpid()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


# py-feat itself, with random weights of its own shapes

needs_pyfeat = pytest.mark.skipif(find_spec("feat") is None, reason="py-feat is not installed")

WRITE_WEIGHTS = """
import dataclasses, json, sys
import feat.detector_v2 as library
import numpy as np
import torch
from feat.multitask.model_v2 import MEGraphAUv2, ModelV2Config
from safetensors.torch import save_file

folder, pixels = sys.argv[1], torch.from_numpy(np.load(sys.argv[2])).permute(0, 3, 1, 2)
torch.manual_seed(0)
config = ModelV2Config(
    backbone="convnextv2_atto.fcmae", n_au=20, n_emotion=7, n_blendshape=52, mesh_normalized=True, use_head_v3=True,
    drop_mefl=True, emotion_use_au_prob=True, afg_channels=32, mefl_channels=32, pretrained=False,
)
save_file(
    {name: tensor.contiguous() for name, tensor in MEGraphAUv2(config).state_dict().items()},
    f"{folder}/face_multitask_v28.safetensors", metadata={"config": json.dumps(dataclasses.asdict(config))},
)
finder = library.Retinaface(device="cpu", pretrained="")
for head in (finder.net.ClassHead, finder.net.BboxHead):
    for layer in head._convs:
        layer.weight.data *= 1e-6  # of untrained features, which overflow a softmax
        layer.bias.data.zero_()
scores = finder.net(pixels[:1].float() - finder._mean)[1][0]  # (anchors, 2)
odds = torch.log(scores[:, 1] / scores[:, 0])
spread = 8 / odds.std()
for layer in finder.net.ClassHead._convs:
    layer.weight.data *= spread
    layer.bias.data[1::2] -= spread * odds.sort().values[-12]  # so that a dozen anchors take it for a face
save_file(finder.net.state_dict(), f"{folder}/model.safetensors")

library.Retinaface = lambda device: finder
weights = f"{folder}/face_multitask_v28.safetensors"
detector = library.Detectorv2(device="cpu", identity_model=None, multitask_weights=weights)
told = detector.detect(pixels, data_type="tensor", progress_bar=False)
np.savez(f"{folder}/told.npz", **{name: told[name].to_numpy() for name in told if name not in ("input", "Identity")})
"""


def write_weights(folder: Path, pixels: np.ndarray) -> Path:
    """Both networks, the finder at its real size: about 110 MB; it takes about a dozen places of the first frame for a
    face. `pixels` is (N, H, W, 3). Made elsewhere, since `import feat` leaves traces.
    """
    np.save(folder / "pixels.npy", pixels)
    command = [sys.executable, "-c", WRITE_WEIGHTS, str(folder), str(folder / "pixels.npy")]
    subprocess.run(command, check=True, capture_output=True)
    return folder
