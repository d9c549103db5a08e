"""Models to be killed, and models that some samples kill. Workers of a cluster import them by name."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.recipe import Recipe
from msa.progress import Progress
from msa.types import Modality

SAMPLE_S = 0.01  # of a slow model
REFUSED, DEADLY = "cannot be read", "kills its worker"  # what a poisonous text says


@dataclass
class Slow(Backbone):
    """A model that takes its time with each text, and notes that it did."""

    log: Path
    dim: int = 64
    versions: Mapping[str, str] = field(default_factory=dict)

    def encode(self, clips: Sequence[str]) -> list[np.ndarray]:
        """(7, 64) numbers that depend on the text alone."""
        found = []
        for clip in clips:
            time.sleep(SAMPLE_S)
            note(self.log, "encoded")
            seed = int.from_bytes(hashlib.sha256(clip.encode()).digest()[:8], "little")
            found.append(np.random.default_rng(seed).standard_normal((7, self.dim), np.float32).astype(np.float16))
        return found


@dataclass(frozen=True)
class Slowly(Recipe):
    """A recipe for `Slow`."""

    log: Path = Path()

    @classmethod
    def of(cls, log: Path) -> "Slowly":
        """Its notes go into the file `log`."""
        return cls("slow", "slow", BackboneSpec(Modality.TEXT), Weights(None, None, ""), log)

    def load(self, device: str) -> Backbone:
        """The model."""
        return Slow(self.log)


@dataclass
class Begun(Progress):
    """Notes how many samples a run finds done already."""

    log: Path

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """Once in a run."""
        note(self.log, f"begun {done}")


def note(log: Path, line: str) -> None:
    """Append a line at once and whole: a kill of this process cannot take it back."""
    with open(log, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


@dataclass
class Picky(Backbone):
    """Another text model, which refuses some texts and dies with its process of others."""

    model: Backbone

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def versions(self) -> Mapping[str, str]:
        return self.model.versions

    def encode(self, clips: Sequence[str]) -> list[np.ndarray]:
        """Hidden states of the model inside, where there is no poison."""
        for clip in clips:
            if DEADLY in clip:
                os._exit(1)
            if REFUSED in clip:
                raise ValueError("not this text")
        return self.model.encode(clips)


class Fragile(Recipe):
    """A recipe for `Picky` around the model of another text recipe."""

    @classmethod
    def around(cls, recipe: Recipe) -> "Fragile":
        """The same, but for what poison does."""
        return cls("fragile", recipe.family, recipe.spec, recipe.weights)

    def load(self, device: str) -> Backbone:
        """The model."""
        return Picky(super().load(device))
