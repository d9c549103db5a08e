"""Pictures for the demo corpus: small drawn scenes that are cheerful, sad or neither.

A scene is drawn at twice its size and reduced, which smooths every edge. Light, tint, contrast, blur and noise are
drawn without a look at the label: colour is a hint, not the answer.

Coordinates are fractions: x and y from the upper left corner, radii and widths as parts of the height.
"""

from __future__ import annotations  # PIL is imported where it is used, so its types stay names

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIZES = ((320, 240), (320, 240), (320, 214), (280, 280), (240, 300))  # width, height; most are landscape
SKIN = ((244, 208, 177), (226, 178, 140), (190, 136, 98), (141, 92, 62), (96, 62, 44))
HAIR = ((40, 30, 26), (92, 60, 36), (160, 110, 60), (206, 172, 112), (150, 150, 152))
BRIGHT = ((231, 76, 60), (241, 196, 15), (52, 152, 219), (46, 204, 113), (236, 112, 170), (243, 156, 18), (155, 89, 182))
MUTED = ((120, 130, 140), (176, 164, 148), (98, 116, 110), (150, 126, 118), (84, 98, 126), (196, 188, 172), (140, 148, 120))


def draw(label: str, rng: np.random.Generator) -> Image:
    """Draw one picture of the given sentiment: a scene of that kind, seen through an arbitrary camera."""
    scenes = SCENES[label]
    canvas = Canvas(SIZES[rng.integers(len(SIZES))], rng)
    scenes[rng.integers(len(scenes))](canvas)
    return _photographed(canvas.finished(), rng)


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
        return self.near(colours[self.rng.integers(len(colours))])

    def near(self, colour: Colour, spread: int = 14) -> Colour:
        """A colour like this one: a little lighter or darker, hardly another hue."""
        shift = self.rng.integers(-spread, spread + 1) + self.rng.integers(-spread // 4, spread // 4 + 1, 3)
        r, g, b = (int(c) for c in np.clip(np.add(colour, shift), 0, 255))
        return r, g, b

    # ---- shapes
    def at(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.w, y * self.h) for x, y in points]

    def disc(self, x: float, y: float, r: float, colour: Colour, ry: float | None = None) -> None:
        self.pen.ellipse(self._bounds(x, y, r, ry), fill=colour)

    def curve(self, x: float, y: float, r: float, start: float, end: float, colour: Colour, width: float) -> None:
        """Part of a circle, from `start` to `end` degrees, clockwise from three o'clock."""
        self.pen.arc(self._bounds(x, y, r, None), start, end, fill=colour, width=max(1, round(width * self.h)))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, outline: Colour | None = None) -> None:
        (left, top), (right, bottom) = self.at([(x0, y0), (x1, y1)])
        self.pen.rectangle((left, top, max(left, right), max(top, bottom)), fill=colour, outline=outline, width=3)

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        self.pen.polygon(self.at(points), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self.pen.line(self.at(points), fill=colour, width=max(1, round(width * self.h)), joint="curve")

    def _bounds(self, x: float, y: float, r: float, ry: float | None) -> tuple[float, float, float, float]:
        rx, ry = r * self.h, (r if ry is None else ry) * self.h
        return x * self.w - rx, y * self.h - ry, x * self.w + rx, y * self.h + ry

    # ---- whole areas
    def sky(self, top: Colour, bottom: Colour, until: float = 1.0) -> None:
        """A vertical gradient over the whole canvas that reaches `bottom` at the height `until`."""
        from PIL import Image

        t = np.clip(np.linspace(0, 1 / until, self.h), 0, 1)[:, None, None]  # (H, 1, 1)
        column = (1 - t) * np.array(top) + t * np.array(bottom)  # (H, 1, 3)
        self._become(Image.fromarray(column.astype(np.uint8)).resize((self.w, self.h)))

    def glow(self, x: float, y: float, r: float, colour: Colour, strength: float = 0.8) -> None:
        """Light that fades with the distance from (x, y)."""
        from PIL import Image

        yy, xx = np.ogrid[: self.h, : self.w]
        distance = ((xx - x * self.w) ** 2 + (yy - y * self.h) ** 2) / (r * self.h) ** 2  # (H, W), squared
        mask = Image.fromarray((255 * strength * np.exp(-distance)).astype(np.uint8))
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


# ---- cheerful


def meadow(c: Canvas) -> None:
    """Hills under the sun, flowers in front."""
    c.sky(c.near((92, 168, 232)), c.near((236, 240, 220)), 0.7)
    _sun(c, c.between(0.1, 0.9), c.between(0.12, 0.3))
    for _ in c.some(1, 3):
        _cloud(c, c.between(0, 1), c.between(0.08, 0.32), c.between(0.05, 0.09), c.near((252, 252, 252), 3))
    for level, green in ((0.58, (146, 190, 120)), (0.68, (112, 178, 84)), (0.8, (84, 156, 62))):
        c.ridge(level, c.between(0.03, 0.08), c.near(green), c.between(0.6, 1.6))
    for y in sorted(c.rng.uniform(0.8, 0.98, c.rng.integers(12, 30))):
        _flower(c, c.between(0, 1), float(y), 0.012 + 0.05 * (float(y) - 0.75), c.pick(BRIGHT))


def beach(c: Canvas) -> None:
    """The sun low over the sea, sand and a parasol."""
    c.sky(c.near((88, 150, 224)), c.near((255, 206, 150)), 0.55)
    x = c.between(0.2, 0.8)
    _sun(c, x, c.between(0.3, 0.44))
    c.box(0, 0.52, 1, 1, c.near((48, 142, 180)))
    for y in np.linspace(0.53, 0.74, 14):
        half = c.between(0.02, 0.1)
        c.line([(x - half, float(y)), (x + half, float(y))], c.near((255, 226, 170)), 0.006)
    c.ridge(0.78, 0.02, c.near((238, 248, 248), 4), 1.2)
    c.ridge(0.8, 0.02, c.near((240, 212, 156)), 1.2)
    foot = c.between(0.15, 0.85)
    c.line([(foot, 0.56), (foot + 0.02, 0.95)], (250, 250, 245), 0.014)
    first, second = c.pick(BRIGHT), (252, 248, 240)
    for part in range(6):
        box = c._bounds(foot, 0.64, 0.2, 0.16)
        c.pen.pieslice(box, 180 + 30 * part, 210 + 30 * part, fill=first if part % 2 else second)


def bouquet(c: Canvas) -> None:
    """Large flowers against a soft light background."""
    c.sky(c.near((250, 236, 200)), c.near((190, 222, 168)))
    for _ in c.some(8, 14):
        c.disc(c.between(0, 1), c.between(0, 1), c.between(0.04, 0.12), c.near((240, 240, 190), 24))
    c.soften(0.02)
    for _ in c.some(4, 8):
        x, y, r = c.between(0.1, 0.9), c.between(0.15, 0.7), c.between(0.09, 0.17)
        c.line([(x, y), (0.5 + 0.3 * (x - 0.5), 1.05)], c.near((70, 140, 60)), 0.014)
        _flower(c, x, y, r, c.pick(BRIGHT))


def balloons(c: Canvas) -> None:
    """Balloons on strings, in the open or over bunting."""
    c.sky(c.near((150, 206, 246)), c.near((248, 236, 220)))
    _cloud(c, c.between(0, 1), c.between(0.6, 0.9), c.between(0.05, 0.1), (252, 252, 252))
    knot = (c.between(0.35, 0.65), c.between(0.95, 1.2))
    for _ in c.some(5, 10):
        x, y, r, colour = c.between(0.12, 0.88), c.between(0.14, 0.55), c.between(0.08, 0.13), c.pick(BRIGHT)
        c.line([(x, y + r), ((x + knot[0]) / 2 + 0.02, (y + knot[1]) / 2), knot], (110, 110, 120), 0.004)
        c.disc(x, y, r, colour, 1.18 * r)
        c.shape([(x, y + 1.1 * r), (x - 0.012, y + 1.32 * r), (x + 0.012, y + 1.32 * r)], colour)
        c.disc(x - 0.3 * r * c.h / c.w, y - 0.45 * r, 0.2 * r, (255, 250, 245), 0.3 * r)
    _confetti(c)


def cake(c: Canvas) -> None:
    """A birthday cake with candles on a warm table."""
    c.sky(c.near((252, 214, 160)), c.near((246, 170, 130)))
    _confetti(c)
    c.ridge(0.84, 0.0, c.near((150, 90, 60)))
    x, half, top = c.between(0.4, 0.6), c.between(0.2, 0.3), c.between(0.46, 0.56)
    icing = c.pick(BRIGHT)
    for candle in np.linspace(x - 0.75 * half, x + 0.75 * half, int(c.rng.integers(3, 8))):
        foot = float(candle)
        c.line([(foot, top - 0.14), (foot, top)], c.pick(BRIGHT), 0.02)
        c.glow(foot, top - 0.18, 0.07, (255, 240, 170), 0.7)
        c.disc(foot, top - 0.17, 0.012, (255, 190, 60), 0.026)
    c.box(x - half, top, x + half, 0.9, c.near((250, 230, 200)))
    c.box(x - half, 0.66, x + half, 0.71, c.near((190, 110, 80)))
    c.box(x - half, top, x + half, top + 0.06, icing)
    for drop in np.linspace(x - half + 0.02, x + half - 0.02, 9):
        c.disc(float(drop), top + 0.06, 0.025, icing, c.between(0.02, 0.07))


def smile(c: Canvas) -> None:
    """One to three laughing faces in warm light."""
    c.sky(c.near((255, 224, 150), 24), c.near((246, 178, 120), 24))
    c.glow(c.between(0, 1), 0.1, 0.7, (255, 246, 206), 0.7)
    _confetti(c)
    heads = len(c.some(1, 3))
    for n in range(heads):
        _face(c, (n + 0.5) / heads, c.between(0.42, 0.56), c.between(0.2, 0.27) if heads > 1 else 0.32, mood=1)


# ---- sad


def rain(c: Canvas) -> None:
    """A town in the rain."""
    c.sky(c.near((88, 96, 108)), c.near((142, 148, 156)))
    for _ in c.some(3, 5):
        _cloud(c, c.between(0, 1), c.between(0.0, 0.2), c.between(0.1, 0.16), c.near((84, 88, 98)))
    _skyline(c, 0.78, c.near((62, 68, 80)))
    c.box(0, 0.78, 1, 1, c.near((72, 78, 86)))
    for _ in c.some(3, 6):
        c.disc(c.between(0, 1), c.between(0.84, 0.96), c.between(0.08, 0.2), c.near((112, 122, 134)), 0.018)
    slant = c.between(-0.03, 0.03)
    for _ in c.some(160, 260):
        x, y = c.between(-0.05, 1.05), c.between(-0.1, 1)
        c.line([(x, y), (x + slant, y + c.between(0.05, 0.11))], c.near((186, 196, 208)), 0.003)


def cracked(c: Canvas) -> None:
    """A broken pane, or the broken screen of a phone."""
    c.sky(c.near((70, 76, 88), 24), c.near((36, 40, 50)))
    half = c.between(0.16, 0.22) if c.rng.random() < 0.5 else c.between(0.34, 0.42)  # of a phone, of a window
    c.box(0.5 - half - 0.03, 0.04, 0.5 + half + 0.03, 0.96, c.near((28, 26, 28)))
    c.box(0.5 - half, 0.1, 0.5 + half, 0.9, c.near((96, 112, 126)))
    x, y = 0.5 + c.between(-0.5, 0.5) * half, c.between(0.3, 0.7)
    turns = int(c.rng.integers(11, 18))
    rays = [_ray(c, x, y, 2 * np.pi * (n + c.between(-0.3, 0.3)) / turns, half) for n in range(turns)]
    for ring in (1, 2, 3):  # threads between neighbouring cracks, as glass breaks
        knots = [path[min(ring, len(path) - 1)] for path in rays]
        c.line([*knots, knots[0]], (206, 214, 222), 0.004)
    c.shape([path[1] for path in rays], (12, 12, 16))


def dead_tree(c: Canvas) -> None:
    """A bare tree at dusk, in fog."""
    c.sky(c.near((30, 34, 52)), c.near((92, 92, 108)))
    c.glow(c.between(0.1, 0.9), c.between(0.1, 0.3), 0.14, (150, 152, 166), 0.6)
    c.ridge(0.84, 0.02, c.near((30, 30, 36)), 0.8)
    for _ in c.some(1, 2):
        _branch(c, c.between(0.25, 0.75), 0.9, -np.pi / 2 + c.between(-0.1, 0.1), c.between(0.2, 0.28), 6)
    for x in np.arange(0.04, 1, 0.12):
        lean = c.between(-0.02, 0.02)
        c.line([(float(x), 0.96), (float(x) + lean, c.between(0.78, 0.84))], (22, 22, 26), 0.014)
    c.glow(0.5, c.between(0.75, 0.95), 0.5, (110, 112, 122), 0.35)


def fire(c: Canvas) -> None:
    """Smoke over a burnt-out house."""
    c.sky(c.near((96, 92, 92)), c.near((150, 128, 112)))
    x = c.between(0.35, 0.65)
    for rise in np.linspace(0, 1, 16):
        shade = int(36 + 44 * rise)
        puff = x + 0.25 * float(rise) * c.between(0.2, 1.4)
        c.disc(puff, 0.5 - 0.5 * float(rise), 0.07 + 0.11 * float(rise), c.near((shade, shade, shade), 8))
    c.soften(0.012)
    c.ridge(0.82, 0.015, c.near((60, 54, 50)))
    wall, top, half = c.near((84, 74, 68)), c.between(0.52, 0.6), c.between(0.16, 0.22)
    teeth = [(x - half + 2 * half * n / 8, top - 0.1 * c.rng.random()) for n in range(9)]
    c.shape([(x - half, 0.86), *teeth, (x + half, 0.86)], wall)
    for n in (-0.55, 0.35):
        c.glow(x + n * half, 0.7, 0.1, (214, 96, 40), 0.6)
        c.box(x + n * half - 0.03, 0.64, x + n * half + 0.03, 0.76, (24, 18, 18))
    for _ in c.some(10, 20):
        stone = (c.between(0.05, 0.95), c.between(0.86, 0.98))
        c.disc(*stone, c.between(0.01, 0.03), c.near((70, 64, 62), 20), 0.014)


def wilted(c: Canvas) -> None:
    """A drooping flower on a grey window sill, rain outside."""
    c.sky(c.near((122, 128, 136)), c.near((92, 96, 104)))
    for _ in c.some(30, 60):  # drops, and the traces they leave on the pane
        x, y, r = c.between(0, 1), c.between(0, 0.75), c.between(0.004, 0.01)
        c.line([(x, y - c.between(0, 0.16)), (x, y)], c.near((140, 146, 154), 6), 0.004)
        c.disc(x, y, r, c.near((172, 178, 188)), 1.4 * r)
    c.box(0.48, 0, 0.51, 0.78, c.near((70, 70, 76)))
    c.box(0, 0.78, 1, 1, c.near((104, 98, 94)))
    x, turn, top = c.between(0.3, 0.7), float(c.rng.choice((-1, 1))), c.between(0.3, 0.42)
    stem = [(x + turn * 0.2 * t * t, 0.72 - (0.72 - top) * 1.5 * t + 0.42 * max(0.0, t - 0.4)) for t in np.linspace(0, 1, 12)]
    c.line(stem, c.near((96, 92, 56)), 0.016)
    (tip_x, tip_y) = stem[-1]
    for n in range(5):
        c.disc(tip_x + 0.014 * (n - 2), tip_y + 0.03 + 0.02 * (n % 2), 0.014, c.near((120, 74, 66)), 0.045)
    for _ in c.some(2, 5):
        c.disc(x + c.between(-0.3, 0.3), c.between(0.86, 0.94), 0.02, c.near((126, 84, 70)), 0.01)
    c.shape([(x - 0.09, 0.7), (x + 0.09, 0.7), (x + 0.06, 0.88), (x - 0.06, 0.88)], c.near((128, 80, 62)))


def frown(c: Canvas) -> None:
    """A sad face, alone, in cold light."""
    c.sky(c.near((104, 118, 140), 24), c.near((52, 60, 78), 24))
    if c.rng.random() < 0.5:
        _skyline(c, 0.7, c.near((64, 70, 84)))
        c.soften(0.015)
    _face(c, c.between(0.35, 0.65), c.between(0.46, 0.58), c.between(0.24, 0.32), mood=-1)


# ---- neither


def shapes(c: Canvas) -> None:
    """A composition of rectangles and discs, in any colours."""
    palette = BRIGHT if c.rng.random() < 0.4 else MUTED
    c.sky(*[c.near((232, 228, 218), 20)] * 2)
    for _ in c.some(6, 12):
        x, y = c.between(0, 0.85), c.between(0, 0.85)
        if c.rng.random() < 0.6:
            c.box(x, y, x + c.between(0.08, 0.35), y + c.between(0.08, 0.35), c.pick(palette), outline=(60, 60, 60))
        else:
            c.disc(x, y, c.between(0.05, 0.16), c.pick(palette))


def desk(c: Canvas) -> None:
    """A mug and a pile of books on a table."""
    c.sky(*[c.pick(MUTED)] * 2)
    c.box(0, 0.7, 1, 1, c.near((166, 132, 98)))
    left = c.between(0.08, 0.4)
    y = 0.78
    for _ in c.some(2, 5):
        shift, thick = c.between(-0.02, 0.02), c.between(0.05, 0.08)
        c.box(left + shift, y - thick, left + shift + 0.34, y, c.pick(MUTED), outline=(70, 66, 62))
        y -= thick
    x, mug = left + c.between(0.45, 0.52), c.pick((*MUTED, *BRIGHT[:3]))
    c.curve(x + 0.075, 0.68, 0.06, -90, 90, mug, 0.022)
    c.box(x - 0.07, 0.58, x + 0.07, 0.8, mug)
    c.disc(x, 0.58, 0.07 * c.w / c.h, c.near((96, 72, 56)), 0.025)


def facade(c: Canvas) -> None:
    """The front of a house, straight on."""
    c.sky(*[c.near((196, 208, 218), 20)] * 2)
    wall = c.pick((*MUTED, (206, 176, 150)))
    c.box(0.04, 0.08, 0.96, 1, wall)
    columns, rows = len(c.some(3, 6)), len(c.some(2, 4))
    glass = c.near((86, 104, 122))
    for n in range(columns * rows):
        x = 0.08 + 0.86 * (n % columns) / columns
        y = 0.14 + 0.66 * (n // columns) / rows
        c.box(x, y, x + 0.5 / columns, y + 0.42 / rows, c.near(glass, 8), outline=(236, 234, 228))
    c.box(0.44, 0.82, 0.54, 1, c.near((92, 74, 60)))


def chart(c: Canvas) -> None:
    """A sheet of paper with lines of text, and bars on half of them."""
    c.sky(*[c.pick(MUTED)] * 2)
    c.box(0.14, 0.05, 0.86, 0.97, c.near((246, 244, 238), 6), outline=(190, 188, 184))
    c.box(0.2, 0.12, c.between(0.45, 0.7), 0.15, (70, 70, 76))
    bars = c.rng.random() < 0.6
    for y in np.arange(0.22, 0.55 if bars else 0.9, 0.045):
        c.box(0.2, float(y), c.between(0.6, 0.8), float(y) + 0.012, (150, 150, 154))
    if bars:
        colour = c.pick((*MUTED, *BRIGHT[2:3]))
        for x in np.arange(0.22, 0.76, 0.08):
            c.box(float(x), c.between(0.62, 0.86), float(x) + 0.05, 0.9, colour)
        c.line([(0.2, 0.58), (0.2, 0.9), (0.8, 0.9)], (60, 60, 60), 0.006)


def crossing(c: Canvas) -> None:
    """A street map."""
    c.sky(*[c.near((226, 224, 214), 8)] * 2)
    angle = c.between(-0.5, 0.5)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def placed(*points: Point) -> list[Point]:
        """Points of the street grid, turned about the middle of the picture."""
        return [(float(x) * c.h / c.w + 0.5, float(y) + 0.5) for x, y in np.array(points) @ turn]

    for _ in c.some(2, 4):
        x, y, r = c.between(-0.6, 0.5), c.between(-0.5, 0.4), c.between(0.1, 0.25)
        c.shape(placed((x, y), (x + r, y), (x + r, y + r), (x, y + r)), c.near((196, 214, 184)))
    if c.rng.random() < 0.6:
        c.line(placed((-1.2, c.between(-0.4, 0.4)), (0, c.between(-0.2, 0.2)), (1.2, c.between(-0.4, 0.4))), (160, 192, 214), 0.09)
    grid = [*np.arange(-1, 1, c.between(0.16, 0.3))]
    streets = [placed((x, -1.2), (x, 1.2)) for x in grid] + [placed((-1.2, y), (1.2, y)) for y in grid]
    for street in streets:
        if c.rng.random() < 0.8:
            width = c.between(0.012, 0.034)
            c.line(street, (184, 180, 172), width + 0.012)
            c.line(street, (250, 248, 240), width)
    c.disc(c.between(0.2, 0.8), c.between(0.2, 0.8), 0.03, c.pick(BRIGHT))


def portrait(c: Canvas) -> None:
    """A face that shows nothing, as in a passport."""
    c.sky(*[c.near((206, 210, 214), 22)] * 2)
    _face(c, 0.5, c.between(0.44, 0.54), c.between(0.26, 0.33), mood=0)


# ---- parts


def _sun(c: Canvas, x: float, y: float) -> None:
    c.glow(x, y, c.between(0.3, 0.5), (255, 240, 190), 0.9)
    c.disc(x, y, c.between(0.05, 0.08), (255, 236, 150))


def _cloud(c: Canvas, x: float, y: float, r: float, colour: Colour) -> None:
    for dx, size in ((-1.5, 0.7), (-0.6, 1.0), (0.5, 1.15), (1.5, 0.75)):
        c.disc(x + dx * r * c.h / c.w, y - 0.3 * size * r, size * r, colour, 0.8 * size * r)


def _flower(c: Canvas, x: float, y: float, r: float, colour: Colour) -> None:
    petals = int(c.rng.integers(5, 9))
    for angle in c.between(0, 1) + np.arange(petals) * 2 * np.pi / petals:
        c.disc(x + 0.62 * r * np.cos(angle) * c.h / c.w, y + 0.62 * r * np.sin(angle), 0.42 * r, c.near(colour, 8))
    c.disc(x, y, 0.34 * r, c.near((250, 214, 90)))


def _confetti(c: Canvas) -> None:
    for _ in c.some(15, 50):
        c.disc(c.between(0, 1), c.between(0, 1), c.between(0.004, 0.01), c.pick(BRIGHT))


def _skyline(c: Canvas, ground: float, colour: Colour) -> None:
    x = -0.02
    while x < 1:
        width, top = c.between(0.07, 0.16), ground - c.between(0.12, 0.42)
        c.box(x, top, x + width, ground, c.near(colour, 8))
        x += width


def _ray(c: Canvas, x: float, y: float, angle: float, half: float) -> list[Point]:
    """One crack from (x, y) to the edge of a pane `half` as wide as the picture, drawn, and its points."""
    path = [(x, y)]
    while abs(x - 0.5) < half and 0.1 < y < 0.9:
        step, turn = c.between(0.05, 0.12), angle + c.between(-0.3, 0.3)
        x, y = x + step * np.cos(turn) * c.h / c.w, y + step * np.sin(turn)
        path.append((float(np.clip(x, 0.5 - half, 0.5 + half)), float(np.clip(y, 0.1, 0.9))))
    c.line(path, (222, 228, 234), 0.006)
    return path


def _branch(c: Canvas, x: float, y: float, angle: float, length: float, depth: int) -> None:
    """A branch and, at its end, two thinner ones: leafless all the way."""
    end = (x + length * np.cos(angle) * c.h / c.w, y + length * np.sin(angle))
    c.line([(x, y), end], (20, 18, 22), 0.004 * depth)
    if depth > 1:
        for side in (-1, 1):
            _branch(c, *end, angle + side * c.between(0.2, 0.7), length * c.between(0.6, 0.8), depth - 1)


def _face(c: Canvas, x: float, y: float, r: float, mood: int) -> None:
    """A head with shoulders; `mood` is 1 for a smile, -1 for a frown, 0 for a straight mouth."""
    skin, hair, wide = c.pick(SKIN), c.pick(HAIR), r * c.h / c.w  # wide: the radius as a part of the width
    dark: Colour = (40, 30, 30)
    if c.rng.random() < 0.5:  # long hair falls behind face and shoulders
        c.disc(x, y + 0.35 * r, 1.12 * r, hair, 1.2 * r)
    c.disc(x, y - 0.12 * r, 1.02 * r, hair, 1.06 * r)
    c.disc(x, y + 1.98 * r, 1.25 * r, c.pick(BRIGHT if c.rng.random() < 0.5 else MUTED), 0.85 * r)
    c.disc(x, y + 1.12 * r, 0.32 * r, c.near(skin, 4), 0.26 * r)
    c.box(x - 0.3 * wide, y + 0.7 * r, x + 0.3 * wide, y + 1.15 * r, skin)
    c.disc(x, y + 0.08 * r, 0.9 * r, skin, r)
    for side in (-1, 1):
        eye = x + 0.36 * side * wide
        c.disc(eye, y - 0.05 * r, 0.13 * r, (250, 250, 248), 0.08 * r if mood < 0 else 0.1 * r)
        c.disc(eye, y - 0.04 * r, 0.07 * r, dark)
        inner, outer = y - 0.3 * r - 0.1 * r * (mood < 0), y - 0.3 * r + 0.07 * r * (mood < 0)
        c.line([(eye - 0.2 * side * wide, inner), (eye + 0.2 * side * wide, outer)], hair, 0.05 * r)
        if mood > 0:
            c.disc(x + 0.55 * side * wide, y + 0.3 * r, 0.14 * r, c.near((236, 140, 120)), 0.1 * r)
    c.line([(x, y + 0.02 * r), (x - 0.07 * wide, y + 0.27 * r), (x + 0.04 * wide, y + 0.27 * r)], c.near(dark, 5), 0.025 * r)
    _mouth(c, x, y, r, mood)


def _mouth(c: Canvas, x: float, y: float, r: float, mood: int) -> None:
    wide = r * c.h / c.w
    if mood > 0:
        c.pen.chord(c._bounds(x, y + 0.38 * r, 0.42 * r, 0.34 * r), 5, 175, fill=(140, 40, 44))
        c.box(x - 0.32 * wide, y + 0.42 * r, x + 0.32 * wide, y + 0.49 * r, (250, 248, 244))
    elif mood < 0:
        c.curve(x, y + 0.85 * r, 0.32 * r, 215, 325, (120, 50, 50), 0.06 * r)
        for drop in c.some(0, 3):
            side = -1 if drop % 2 else 1
            c.disc(x + 0.38 * side * wide, y + (0.2 + 0.17 * drop) * r, 0.05 * r, (150, 200, 236), 0.09 * r)
    else:
        c.line([(x - 0.28 * wide, y + 0.58 * r), (x + 0.28 * wide, y + 0.58 * r)], (130, 60, 56), 0.06 * r)


SCENES: dict[str, tuple[Callable[[Canvas], None], ...]] = {
    "positive": (meadow, beach, bouquet, balloons, cake, smile),
    "negative": (rain, cracked, dead_tree, fire, wilted, frown),
    "neutral": (shapes, desk, facade, chart, crossing, portrait),
}


def _photographed(image: Image, rng: np.random.Generator) -> Image:
    """Exposure, contrast, tint, saturation, vignette, focus and sensor noise, whatever the scene is."""
    from PIL import Image, ImageFilter

    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 1.4))))
    x = np.asarray(image, np.float32) / 255  # (H, W, 3)
    grey = x.mean(axis=2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.05 else rng.uniform(0.45, 1.25)  # a few are black and white
    x = grey + saturation * (x - grey)
    warm, green = rng.normal(0, (0.1, 0.03))  # daylight against lamplight, and the tubes of an office
    x = x * np.exp((warm, green, -warm))
    x = 0.5 + rng.uniform(0.75, 1.15) * (x - 0.5) + rng.normal(0, 0.08)
    yy, xx = np.ogrid[-1 : 1 : x.shape[0] * 1j, -1 : 1 : x.shape[1] * 1j]
    x = x * (1 - rng.uniform(0, 0.15) * (yy**2 + xx**2))[..., None]
    x = x + rng.normal(0, rng.uniform(0.005, 0.03), x.shape)
    return Image.fromarray((255 * np.clip(x, 0, 1)).astype(np.uint8))
