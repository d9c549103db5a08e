"""Colour and texture of a 7 x 7 grid, no weights.

Paper    https://doi.org/10.7717/peerj.453 (scikit-image)
         colourfulness: Hasler and Suesstrunk, https://doi.org/10.1117/12.477378
         local binary patterns: Ojala et al., https://doi.org/10.1109/TPAMI.2002.1017623
         oriented gradients: Dalal and Triggs, https://doi.org/10.1109/CVPR.2005.177
Weights  none; scikit-image is BSD-3-Clause
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from msa.errors import ConfigError
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders import library_versions, rows
from msa.types import Modality

GRID, CELL = 7, 32  # cells a side, pixels a cell
SIZE = GRID * CELL  # 224: what the networks see, so that the two are comparable
HUES, ANGLES, PATTERNS = 8, 9, 10  # bins; 10 are the uniform patterns of 8 neighbours
COLUMNS = (
    *(f"{stat}_{channel}" for stat in ("mean", "std") for channel in ("h", "s", "v", "L", "a", "b")),
    *(f"hue{i}" for i in range(HUES)),
    *(f"angle{i}" for i in range(ANGLES)),
    *(f"pattern{i}" for i in range(PATTERNS)),
    "dark", "bright", "contrast", "saturated", "edges", "colourfulness", "row", "column",
)  # fmt: skip

SPECS = {
    "grid": BackboneSpec(
        modality=Modality.IMAGE,
        options={"size": SIZE, "grid": GRID},
        about={"size": "pixels of a side that the whole picture is scaled to", "grid": "cells of a side, each a token"},
        licence="BSD-3-Clause",
        source="https://doi.org/10.7717/peerj.453",
    ),
}


@dataclass
class Descriptors(Backbone):
    """`columns` names what stands in each of the `dim` columns; all lie within about 0 and 1."""

    side: int  # pixels of the scaled picture
    grid: int
    dtype: str
    versions: Mapping[str, str]
    dim: int = len(COLUMNS)
    columns: tuple[str, ...] = COLUMNS

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn pictures, each uint8 (H, W, 3) RGB, into descriptors, each (49, dim), row by row."""
        return rows((self._describe(clip) for clip in clips), self.dtype)

    def _describe(self, clip: np.ndarray) -> np.ndarray:
        from PIL import Image
        from skimage.color import rgb2lab

        square = Image.fromarray(clip).resize((self.side, self.side), Image.Resampling.BILINEAR)  # the whole picture
        rgb, hsv = self._cells(np.asarray(square)), self._cells(np.asarray(square.convert("HSV")))
        lab = self._cells(rgb2lab(np.asarray(square)).astype(np.float32) / (100, 256, 256) + (0, 0.5, 0.5))
        channels = np.concatenate([hsv / 255, lab], axis=1)  # (cells, 6, pixels), each within 0 and 1
        grey = np.asarray(square.convert("L"))  # (size, size)
        blocks = [channels.mean(axis=2), channels.std(axis=2), self._hues(channels), self._texture(grey)]
        return np.hstack([*blocks, self._light(grey, channels), colourfulness(rgb / 255)[:, None], self._places()])

    def _cells(self, image: np.ndarray) -> np.ndarray:
        """Reshape (size, size, channels) to (cells, channels, pixels of a cell)."""
        cell, channels = self.side // self.grid, image.shape[2]
        blocks = image.reshape(self.grid, cell, self.grid, cell, channels).transpose(0, 2, 4, 1, 3)
        return blocks.reshape(self.grid**2, channels, cell**2)

    def _plane(self, image: np.ndarray) -> np.ndarray:
        """Reshape (size, size) to (cells, pixels of a cell)."""
        return self._cells(image[..., None])[:, 0]

    def _hues(self, channels: np.ndarray) -> np.ndarray:
        """Return (cells, 8): hue weighted by saturation times value, since grey and black have none."""
        hue, saturation, value = channels[:, 0], channels[:, 1], channels[:, 2]
        return histogram((hue * HUES).astype(int) % HUES, saturation * value, HUES)

    def _texture(self, grey: np.ndarray) -> np.ndarray:
        """Return (cells, 9 + 10): gradient directions weighted by their length, and local binary patterns."""
        from skimage.feature import local_binary_pattern

        down, right = np.gradient(grey.astype(np.float32))
        angle = np.arctan2(down, right) % np.pi  # an edge has a direction, not a sense
        bins = self._plane((angle / np.pi * ANGLES).astype(int) % ANGLES)
        codes = self._plane(local_binary_pattern(grey, P=8, R=1, method="uniform").astype(int))
        angles = histogram(bins, self._plane(np.hypot(down, right)), ANGLES)
        return np.hstack([angles, histogram(codes, np.ones(codes.shape), PATTERNS)])

    def _light(self, grey: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """Return (cells, 5): darkest and brightest twentieth, their range, share of vivid pixels, mean gradient."""
        level = np.sort(self._plane(grey), axis=1) / 255
        twentieth = level.shape[1] // 20
        dark, bright = level[:, twentieth], level[:, -1 - twentieth]
        edges = self._plane(np.hypot(*np.gradient(grey / 255))).mean(axis=1)
        return np.column_stack([dark, bright, bright - dark, (channels[:, 1] > 0.5).mean(axis=1), 4 * edges])

    def _places(self) -> np.ndarray:
        """Return (cells, 2): row and column of each cell, 0 to 1; attention alone cannot tell sky from ground."""
        row, column = np.divmod(np.arange(self.grid**2), self.grid)
        return np.column_stack([row, column]) / max(self.grid - 1, 1)


def histogram(bins: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    """Map (cells, pixels) bin numbers and weights to (cells, count) shares of a cell's weight, 0 without any."""
    cells = np.arange(len(bins))[:, None]
    sums = np.bincount((cells * count + bins).ravel(), weight.ravel(), len(bins) * count).reshape(-1, count)
    return sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-6)


def colourfulness(rgb: np.ndarray) -> np.ndarray:
    """Return (cells,) of (cells, 3, pixels): spread plus 0.3 mean of the colours red - green and yellow - blue."""
    red, green, blue = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.std(axis=2), opponents.mean(axis=2)
    return np.hypot(*spread) + 0.3 * np.hypot(*mean)


def load(spec: BackboneSpec, weights: Weights, device: str) -> Descriptors:
    """Return the backbone, without weights: the recipe is the code above and scikit-image's definitions."""
    size, grid = spec.options["size"], spec.options["grid"]
    if grid < 1 or size % grid:
        raise ConfigError(
            f"size={size} is no multiple of grid={grid}", fix=f"size={grid * CELL} has cells of {CELL} px"
        )
    return Descriptors(size, grid, spec.dtype, library_versions("scikit-image", "numpy", "pillow"))
