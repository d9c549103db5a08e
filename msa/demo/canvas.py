"""Canvas for the demo's pictures: PIL in fractions of the picture, with random helpers.

x and y run from 0 to 1 from the upper left corner; radii and widths are fractions of the height, so discs stay round.
"""

from __future__ import annotations  # PIL is imported where it is used, so its types stay names

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]

BRIGHT = (
    (231, 76, 60),
    (241, 196, 15),
    (52, 152, 219),
    (46, 204, 113),
    (236, 112, 170),
    (243, 156, 18),
    (155, 89, 182),
)
MUTED = (
    (120, 130, 140),
    (176, 164, 148),
    (98, 116, 110),
    (150, 126, 118),
    (84, 98, 126),
    (196, 188, 172),
    (140, 148, 120),
)


class Canvas:
    """What a scene draws on: PIL in fractions of the picture, and a random generator with a few habits."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        from PIL import Image

        self.w, self.h = 2 * size[0], 2 * size[1]
        self.rng = rng
        self._become(Image.new("RGB", (self.w, self.h)))

    def _become(self, image: Image) -> None:
        from PIL import ImageDraw

        self.image, self.pen = image, ImageDraw.Draw(image)

    # ---- chance
    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def some(self, low: int, high: int) -> range:
        """Between `low` and `high` repetitions, both included."""
        return range(int(self.rng.integers(low, high + 1)))

    def pick(self, colours: Sequence[Colour]) -> Colour:
        return self.near(colours[int(self.rng.integers(len(colours)))])

    def near(self, colour: Colour, spread: int = 14) -> Colour:
        """A colour like this one: a little lighter or darker, hardly another hue."""
        shift = self.rng.integers(-spread, spread + 1) + self.rng.integers(-spread // 4, spread // 4 + 1, 3)
        r, g, b = (int(c) for c in np.clip(np.add(colour, shift), 0, 255))
        return r, g, b

    # ---- shapes
    def at(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.w, y * self.h) for x, y in points]

    def disc(self, x: float, y: float, r: float, colour: Colour, ry: float | None = None) -> None:
        self.pen.ellipse(self.bounds(x, y, r, ry), fill=colour)

    def curve(self, x: float, y: float, r: float, start: float, end: float, colour: Colour, width: float) -> None:
        """Part of a circle, from `start` to `end` degrees, clockwise from three o'clock."""
        self.pen.arc(self.bounds(x, y, r, None), start, end, fill=colour, width=max(1, round(width * self.h)))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, outline: Colour | None = None) -> None:
        (left, top), (right, bottom) = self.at([(x0, y0), (x1, y1)])
        self.pen.rectangle((left, top, max(left, right), max(top, bottom)), fill=colour, outline=outline, width=3)

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        self.pen.polygon(self.at(points), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self.pen.line(self.at(points), fill=colour, width=max(1, round(width * self.h)), joint="curve")

    def bounds(self, x: float, y: float, r: float, ry: float | None) -> tuple[float, float, float, float]:
        rx, ry = r * self.h, (r if ry is None else ry) * self.h
        return x * self.w - rx, y * self.h - ry, x * self.w + rx, y * self.h + ry

    # ---- whole areas
    def sky(self, top: Colour, bottom: Colour, until: float = 1.0) -> None:
        """A vertical gradient over the whole canvas that reaches `bottom` at the height `until`."""
        from PIL import Image

        t = np.clip(np.linspace(0, 1 / until, self.h), 0, 1)[:, None, None]  # (H, 1, 1)
        column = (1 - t) * np.array(top) + t * np.array(bottom)  # (H, 1, 3)
        self._become(Image.fromarray(column.astype(np.uint8)).resize((self.w, self.h)))

    def plain(self, colour: Colour) -> None:
        """One colour all over."""
        self.sky(colour, colour)

    def glow(self, x: float, y: float, r: float, colour: Colour, strength: float = 0.8) -> None:
        """Light that fades with the distance from (x, y)."""
        from PIL import Image

        across = np.exp(-(((np.arange(self.w) - x * self.w) / (r * self.h)) ** 2))
        down = np.exp(-(((np.arange(self.h) - y * self.h) / (r * self.h)) ** 2))
        mask = Image.fromarray((255 * strength * np.outer(down, across)).astype(np.uint8))  # (H, W)
        self._become(Image.composite(Image.new("RGB", (self.w, self.h), colour), self.image, mask))

    def ridge(self, level: float, height: float, colour: Colour, waves: float = 1.5) -> None:
        """A line of hills, filled down to the lower edge."""
        x = np.linspace(0, 1, 60)
        phase, other = self.rng.uniform(0, 2 * np.pi, 2)
        y = level - height * (0.6 * np.sin(waves * 2 * np.pi * x + phase) + 0.4 * np.sin(waves * 5 * x + other))
        self.shape([(0.0, 1.0), *zip(x.tolist(), y.tolist(), strict=True), (1.0, 1.0)], colour)

    def soften(self, radius: float) -> None:
        from PIL import ImageFilter

        self._become(self.image.filter(ImageFilter.GaussianBlur(radius * self.h)))

    def finished(self) -> Image:
        return self.image.reduce(2)
