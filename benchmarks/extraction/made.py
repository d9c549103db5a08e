"""Made corpora and models: what a benchmark needs to run msa's real stages at a speed it decides.

Workers of a cluster import these recipes by name, so they stand here and not in a file that is run.
"""

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan, scan
from msa.types import Modality

RATE = 16_000  # Hz
NOTHING = Weights(None, None, "")


# models


@dataclass
class Sleeping(Backbone):
    """A device that is busy for so long with each batch, whatever is in it, and takes no CPU meanwhile."""

    seconds: float
    states: np.ndarray  # (T, D) float16, of every sample
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        return int(self.states.shape[1])

    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]:
        """The same hidden states for each clip."""
        time.sleep(self.seconds)
        return [self.states] * len(clips)


@dataclass(frozen=True)
class Sleep(Recipe):
    """A recipe for `Sleeping`."""

    seconds: float = 0.0
    rows: int = 50
    width: int = 768

    @classmethod
    def of(cls, modality: Modality, seconds: float, rows: int = 50) -> "Sleep":
        """`seconds` for each batch, `rows` hidden states for each sample."""
        return cls("sleep", "sleep", BackboneSpec(modality), NOTHING, seconds, rows)

    def load(self, device: str) -> Backbone:
        """The model."""
        states = np.random.default_rng(0).standard_normal((self.rows, self.width), np.float32)
        return Sleeping(self.seconds, states.astype(np.float16))


@dataclass(frozen=True)
class Loaded(Recipe):
    """A recipe for a model that is in memory already, such as one of real size with random weights."""

    model: Any = None

    @classmethod
    def of(cls, modality: Modality, name: str, model: Any, batch: int = 32) -> "Loaded":
        """`batch` is that of a family whose encoder states no budget."""
        return cls(name, name, BackboneSpec(modality, dtype=model.dtype, batch=batch), NOTHING, model)

    def load(self, device: str) -> Backbone:
        """The model."""
        backbone: Backbone = self.model
        return backbone


# corpora


def corpus(folder: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> Scan:
    """A table of these rows, numbered and labelled, as msa sees it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "made.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "label", *columns])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({"id": f"s{i:05}", "label": ("positive", "negative", "neutral")[i % 3], **row})
    return scan("table", folder / "made.csv")


def texts(folder: Path, n: int) -> Scan:
    """Texts of a few words, all different."""
    return corpus(folder, ["text"], ({"text": f"a lovely text of number {i}"} for i in range(n)))


def pictures(folder: Path, n: int, size: tuple[int, int] = (500, 700)) -> Scan:
    """JPEGs of one picture, each with a tail of its own: as many decodings, and no two inputs alike."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    coarse = Image.fromarray(chance.integers(0, 255, (50, 70, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = chance.integers(-12, 13, (*size[::-1], 3))
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(folder / "one.jpg", quality=85)
    bytes_of_it = (folder / "one.jpg").read_bytes()
    for i in range(n):
        (folder / f"{i}.jpg").write_bytes(bytes_of_it + i.to_bytes(4, "little"))
    return corpus(folder, ["image"], ({"image": f"{i}.jpg"} for i in range(n)))


def voice(seconds: float, seed: int) -> np.ndarray:
    """A made voice, (samples,) float32 at 16 kHz: harmonics of a moving pitch, a syllable rhythm, pauses and noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)) / RATE
    loud = 0.1 * np.clip(np.sin(2 * np.pi * 1.5 * t + seed) + 0.3, 0, None)
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(t))
    return (loud * sum(np.sin(k * phase) / k for k in range(1, 20)) + noise).astype(np.float32)


def voices(seconds: Sequence[float]) -> list[np.ndarray]:
    """One voice for each length."""
    return [voice(length, seed) for seed, length in enumerate(seconds)]


def recordings(folder: Path, seconds: Sequence[float]) -> Scan:
    """WAV files of made voices."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(voices(seconds)):
        soundfile.write(folder / f"{i}.wav", clip, RATE)
    return corpus(folder, ["audio"], ({"audio": f"{i}.wav"} for i in range(len(seconds))))


def spread(n: int, seed: int = 0, mean: float = 23, longest: int = 128) -> list[int]:
    """Tokens of n texts as long as tweets are, in random order: evenly spaced quantiles of a log-normal law.

    Quantiles, and not draws, so that a hundred texts are as mixed as five thousand.
    """
    from scipy.stats import lognorm

    drawn = lognorm(0.62).ppf((np.arange(n) + 0.5) / n)
    sizes = np.clip(np.round(drawn * mean / drawn.mean()), 3, longest).astype(int)
    return [int(size) for size in np.random.default_rng(seed).permutation(sizes)]
