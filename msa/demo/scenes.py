"""Eighteen scenes for the demo's pictures: six cheerful, six sad, six neither.

Each draws itself on a canvas, with random layout and colours. Faces occur in all three kinds.
"""

from collections.abc import Callable

import numpy as np

from msa.demo.canvas import BRIGHT, MUTED, Canvas, Point
from msa.demo.motifs import branch, cloud, confetti, face, flower, ray, skyline, sun

# ---- cheerful


def meadow(c: Canvas) -> None:
    """Hills under the sun, flowers in front."""
    c.sky(c.near((92, 168, 232)), c.near((236, 240, 220)), 0.7)
    sun(c, c.between(0.1, 0.9), c.between(0.12, 0.3))
    for _ in c.some(1, 3):
        cloud(c, c.between(0, 1), c.between(0.08, 0.32), c.between(0.05, 0.09), c.near((252, 252, 252), 3))
    for level, green in ((0.58, (146, 190, 120)), (0.68, (112, 178, 84)), (0.8, (84, 156, 62))):
        c.ridge(level, c.between(0.03, 0.08), c.near(green), c.between(0.6, 1.6))
    for y in sorted(c.rng.uniform(0.8, 0.98, c.rng.integers(12, 30))):
        flower(c, c.between(0, 1), float(y), 0.012 + 0.05 * (float(y) - 0.75), c.pick(BRIGHT))


def beach(c: Canvas) -> None:
    """The sun low over the sea, sand and a parasol."""
    c.sky(c.near((88, 150, 224)), c.near((255, 206, 150)), 0.55)
    x = c.between(0.2, 0.8)
    sun(c, x, c.between(0.3, 0.44))
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
        box = c.bounds(foot, 0.64, 0.2, 0.16)
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
        flower(c, x, y, r, c.pick(BRIGHT))


def balloons(c: Canvas) -> None:
    """Balloons on strings, in the open or over bunting."""
    c.sky(c.near((150, 206, 246)), c.near((248, 236, 220)))
    cloud(c, c.between(0, 1), c.between(0.6, 0.9), c.between(0.05, 0.1), (252, 252, 252))
    knot = (c.between(0.35, 0.65), c.between(0.95, 1.2))
    for _ in c.some(5, 10):
        x, y, r, colour = c.between(0.12, 0.88), c.between(0.14, 0.55), c.between(0.08, 0.13), c.pick(BRIGHT)
        c.line([(x, y + r), ((x + knot[0]) / 2 + 0.02, (y + knot[1]) / 2), knot], (110, 110, 120), 0.004)
        c.disc(x, y, r, colour, 1.18 * r)
        c.shape([(x, y + 1.1 * r), (x - 0.012, y + 1.32 * r), (x + 0.012, y + 1.32 * r)], colour)
        c.disc(x - 0.3 * r * c.h / c.w, y - 0.45 * r, 0.2 * r, (255, 250, 245), 0.3 * r)
    confetti(c)


def cake(c: Canvas) -> None:
    """A birthday cake with candles on a warm table."""
    c.sky(c.near((252, 214, 160)), c.near((246, 170, 130)))
    confetti(c)
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
    confetti(c)
    heads = len(c.some(1, 3))
    room = 0.44 * c.w / c.h / heads  # so that no figure hides another
    for n in range(heads):
        face(c, (n + 0.5) / heads, c.between(0.42, 0.56), min(c.between(0.26, 0.34), room), mood=1)


# ---- sad


def rain(c: Canvas) -> None:
    """A town in the rain."""
    c.sky(c.near((88, 96, 108)), c.near((142, 148, 156)))
    for _ in c.some(3, 5):
        cloud(c, c.between(0, 1), c.between(0.0, 0.2), c.between(0.1, 0.16), c.near((84, 88, 98)))
    skyline(c, 0.78, c.near((62, 68, 80)))
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
    rays = [ray(c, x, y, 2 * np.pi * (n + c.between(-0.3, 0.3)) / turns, half) for n in range(turns)]
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
        branch(c, c.between(0.25, 0.75), 0.9, -np.pi / 2 + c.between(-0.1, 0.1), c.between(0.2, 0.28), 6)
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
    stem = [
        (x + turn * 0.2 * t * t, 0.72 - (0.72 - top) * 1.5 * t + 0.42 * max(0.0, t - 0.4))
        for t in np.linspace(0, 1, 12)
    ]
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
        skyline(c, 0.7, c.near((64, 70, 84)))
        c.soften(0.015)
    face(c, c.between(0.35, 0.65), c.between(0.46, 0.58), c.between(0.24, 0.32), mood=-1)


# ---- neither


def shapes(c: Canvas) -> None:
    """A composition of rectangles and discs, in any colours."""
    palette = BRIGHT if c.rng.random() < 0.3 else MUTED
    c.plain(c.near((232, 228, 218), 20))
    for _ in c.some(6, 12):
        x, y = c.between(0, 0.85), c.between(0, 0.85)
        if c.rng.random() < 0.6:
            c.box(x, y, x + c.between(0.08, 0.35), y + c.between(0.08, 0.35), c.pick(palette), outline=(60, 60, 60))
        else:
            c.disc(x, y, c.between(0.05, 0.16), c.pick(palette))


def desk(c: Canvas) -> None:
    """A mug and a pile of books on a table."""
    c.plain(c.pick(MUTED))
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
    c.plain(c.near((196, 208, 218), 20))
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
    c.plain(c.pick(MUTED))
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
    c.plain(c.near((226, 224, 214), 8))
    angle = c.between(-0.5, 0.5)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def placed(*points: Point) -> list[Point]:
        """Points of the street grid, turned about the middle of the picture."""
        return [(float(x) * c.h / c.w + 0.5, float(y) + 0.5) for x, y in np.array(points) @ turn]

    for _ in c.some(2, 4):
        x, y, r = c.between(-0.6, 0.5), c.between(-0.5, 0.4), c.between(0.1, 0.25)
        c.shape(placed((x, y), (x + r, y), (x + r, y + r), (x, y + r)), c.near((196, 214, 184)))
    if c.rng.random() < 0.6:
        c.line(
            placed((-1.2, c.between(-0.4, 0.4)), (0, c.between(-0.2, 0.2)), (1.2, c.between(-0.4, 0.4))),
            (160, 192, 214),
            0.09,
        )
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
    c.plain(c.near((206, 210, 214), 22))
    face(c, 0.5, c.between(0.44, 0.54), c.between(0.26, 0.33), mood=0)


SCENES: dict[str, tuple[Callable[[Canvas], None], ...]] = {
    "positive": (meadow, beach, bouquet, balloons, cake, smile),
    "negative": (rain, cracked, dead_tree, fire, wilted, frown),
    "neutral": (shapes, desk, facade, chart, crossing, portrait),
}
