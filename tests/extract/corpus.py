"""A corpus of a user's own, small enough for every test: texts, and pictures for some of them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ("lovely", "awful", "table", "happy", "sad", "chair", "great", "broken", "window")
LABELS = ("positive", "negative", "neutral")


def write(folder: Path, n: int = 24, pictures: bool = False) -> Path:
    """A table of n labelled texts of different lengths; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        text = " ".join(WORDS[j] for j in rng.integers(0, 9, 1 + i % 7)) + f" {WORDS[i % 3]} number {i}"
        rows.append({"id": f"s{i:02}", "label": LABELS[i % 3], "text": text})
        if pictures:
            pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            rows[-1]["image"] = f"{i}.png"
    path = folder / "posts.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
