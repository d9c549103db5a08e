"""Pictures of the demo dataset: small drawn scenes that are cheerful, sad or neither, with the noise of a camera.

A scene is drawn at twice its size and reduced, which smooths every edge. Light, tint, contrast, blur and noise are
independent of the label: colour is a hint, not the answer.
"""

from __future__ import annotations  # PIL is imported where it is used, so its types stay names

from typing import TYPE_CHECKING

import numpy as np

from msa.demo.canvas import Canvas
from msa.demo.scenes import SCENES

if TYPE_CHECKING:
    from PIL.Image import Image

SIZES = ((320, 240), (320, 240), (320, 214), (280, 280), (240, 300))  # width, height; most are landscape


def draw(label: str, rng: np.random.Generator) -> Image:
    """Draw one picture of the given sentiment: a scene of that kind, seen through an arbitrary camera."""
    scenes = SCENES[label]
    canvas = Canvas(SIZES[rng.integers(len(SIZES))], rng)
    scenes[rng.integers(len(scenes))](canvas)
    return _photographed(canvas.finished(), rng)


def _photographed(image: Image, rng: np.random.Generator) -> Image:
    """Exposure, contrast, tint, saturation, vignette, focus and sensor noise, whatever the scene is."""
    from PIL import Image, ImageFilter

    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 1.4))))
    x = np.asarray(image, np.float32) / 255  # (H, W, 3)
    grey = x.mean(axis=2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.04 else rng.uniform(0.6, 1.25)  # a few are black and white
    x = grey + saturation * (x - grey)
    warm, green = rng.normal(0, (0.08, 0.025))  # daylight against lamplight, and the tubes of an office
    x = x * np.exp((warm, green, -warm), dtype=np.float32)
    x = 0.5 + rng.uniform(0.75, 1.15) * (x - 0.5) + rng.normal(0, 0.06)
    yy, xx = np.ogrid[-1 : 1 : x.shape[0] * 1j, -1 : 1 : x.shape[1] * 1j]
    x = x * (1 - rng.uniform(0, 0.15) * (yy**2 + xx**2))[..., None].astype(np.float32)
    x = x + rng.uniform(0.005, 0.03) * rng.standard_normal(x.shape, np.float32)
    return Image.fromarray((255 * np.clip(x, 0, 1)).astype(np.uint8))
