"""What a backbone is: a spec that decides every number it returns, and an object that encodes clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from msa.types import Modality


@dataclass(frozen=True)
class BackboneSpec:
    """A recipe from clip to hidden states.

    `weights` names where the numbers come from: `hf:ORG/NAME` or a folder (`hf:./DIR`), `timm:NAME` or
    `timm:NAME@CHECKPOINT`, `pyfeat:REPO` or `pyfeat:FOLDER`, or nothing for hand-made descriptors. `options` holds
    whatever else decides the numbers (sample rate, crop, maximum length, which layer) and is part of a view's
    identity; what merely decides speed (`batch`) is not.
    """

    modality: Modality
    weights: str = ""
    revision: str | None = None  # a commit of the hub; None: the newest, which a store then records and pins
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float16"  # of the stored rows
    batch: int = 32  # units of `size` in one forward
    licence: str = ""
    source: str = ""  # paper or home page
    about: Mapping[str, str] = field(default_factory=dict)  # what each option is, in a few words


@dataclass(frozen=True)
class Weights:
    """Weights that lie on disk: what was resolved, and proof of what it is."""

    path: Path | None  # a folder (transformers) or a file (timm); None for a backbone without weights
    revision: str | None
    sha256: str  # of the weight file(s) and of every file that decides the numbers (config, tokeniser)


class Backbone(Protocol):
    """A frozen model on a device.

    `encode` takes decoded clips - str for text, uint8 (H, W, 3) RGB for an image, float32 (samples,) at 16 kHz
    mono for audio, `media.Frames` or `media.Columns` for faces - and returns one (T, dim) array of the spec's dtype
    for each, T > 0. The result for a clip must not depend on the others in the call.

    A backbone may also have
    `prepare(clip)`  what a decoding thread can do ahead for one clip (resize, normalise); `encode` then takes what it
                     returns as well as plain clips
    `batching`       how its batches are made: see plan.py; `fixed` where it does not say
    `budget`         what a batch may hold on its device: tokens, frames, or samples where it has no `sizes`
    `sizes(told)`    how much of a budget each text (of a str) or recording (of its seconds) takes
    `columns`        the names of its `dim` features
    `counts()`       what was counted since it was last asked, such as {"frames without a face": 7}: it is kept beside
                     the hidden states and told at the end
    `close()`        gives back what it holds: a process of its own
    `launch(clips)`  begins to encode and returns before it is done, with a `lane.Launched`: a GPU then never waits
    """

    dim: int
    versions: Mapping[str, str]  # libraries that take part in the numbers, name -> version

    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]: ...
