"""Things that occur in several scenes: suns, clouds, flowers, branches, cracks, faces."""

import numpy as np

from msa.demo.canvas import BRIGHT, MUTED, Canvas, Colour, Point

SKIN = ((244, 208, 177), (226, 178, 140), (190, 136, 98), (141, 92, 62), (96, 62, 44))
HAIR = ((40, 30, 26), (92, 60, 36), (160, 110, 60), (206, 172, 112), (150, 150, 152))


def sun(c: Canvas, x: float, y: float) -> None:
    c.glow(x, y, c.between(0.3, 0.5), (255, 240, 190), 0.9)
    c.disc(x, y, c.between(0.05, 0.08), (255, 236, 150))


def cloud(c: Canvas, x: float, y: float, r: float, colour: Colour) -> None:
    for dx, size in ((-1.5, 0.7), (-0.6, 1.0), (0.5, 1.15), (1.5, 0.75)):
        c.disc(x + dx * r * c.h / c.w, y - 0.3 * size * r, size * r, colour, 0.8 * size * r)


def flower(c: Canvas, x: float, y: float, r: float, colour: Colour) -> None:
    petals = int(c.rng.integers(5, 9))
    for angle in c.between(0, 1) + np.arange(petals) * 2 * np.pi / petals:
        c.disc(x + 0.62 * r * np.cos(angle) * c.h / c.w, y + 0.62 * r * np.sin(angle), 0.42 * r, c.near(colour, 8))
    c.disc(x, y, 0.34 * r, c.near((250, 214, 90)))


def confetti(c: Canvas) -> None:
    for _ in c.some(15, 50):
        c.disc(c.between(0, 1), c.between(0, 1), c.between(0.004, 0.01), c.pick(BRIGHT))


def skyline(c: Canvas, ground: float, colour: Colour) -> None:
    x = -0.02
    while x < 1:
        width, top = c.between(0.07, 0.16), ground - c.between(0.12, 0.42)
        c.box(x, top, x + width, ground, c.near(colour, 8))
        x += width


def ray(c: Canvas, x: float, y: float, angle: float, half: float) -> list[Point]:
    """One crack from (x, y) to the edge of a pane `half` as wide as the picture, drawn, and its points."""
    path = [(x, y)]
    while abs(x - 0.5) < half and 0.1 < y < 0.9:
        step, turn = c.between(0.05, 0.12), angle + c.between(-0.3, 0.3)
        x, y = x + step * np.cos(turn) * c.h / c.w, y + step * np.sin(turn)
        path.append((float(np.clip(x, 0.5 - half, 0.5 + half)), float(np.clip(y, 0.1, 0.9))))
    c.line(path, (222, 228, 234), 0.006)
    return path


def branch(c: Canvas, x: float, y: float, angle: float, length: float, depth: int) -> None:
    """A branch and, at its end, two thinner ones: leafless all the way."""
    end = (x + length * np.cos(angle) * c.h / c.w, y + length * np.sin(angle))
    c.line([(x, y), end], (20, 18, 22), 0.004 * depth)
    if depth > 1:
        for side in (-1, 1):
            branch(c, *end, angle + side * c.between(0.2, 0.7), length * c.between(0.6, 0.8), depth - 1)


def face(c: Canvas, x: float, y: float, r: float, mood: int) -> None:
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
    c.line(
        [(x, y + 0.02 * r), (x - 0.07 * wide, y + 0.27 * r), (x + 0.04 * wide, y + 0.27 * r)],
        c.near(dark, 5),
        0.025 * r,
    )
    _mouth(c, x, y, r, mood)


def _mouth(c: Canvas, x: float, y: float, r: float, mood: int) -> None:
    wide = r * c.h / c.w
    if mood > 0:
        c.pen.chord(c.bounds(x, y + 0.38 * r, 0.42 * r, 0.34 * r), 5, 175, fill=(140, 40, 44))
        c.box(x - 0.32 * wide, y + 0.42 * r, x + 0.32 * wide, y + 0.49 * r, (250, 248, 244))
    elif mood < 0:
        c.curve(x, y + 0.85 * r, 0.32 * r, 215, 325, (120, 50, 50), 0.06 * r)
        for drop in c.some(0, 3):
            side = -1 if drop % 2 else 1
            c.disc(x + 0.38 * side * wide, y + (0.2 + 0.17 * drop) * r, 0.05 * r, (150, 200, 236), 0.09 * r)
    else:
        c.line([(x - 0.28 * wide, y + 0.58 * r), (x + 0.28 * wide, y + 0.58 * r)], (130, 60, 56), 0.06 * r)
