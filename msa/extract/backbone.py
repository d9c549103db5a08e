"""Backbones: the spec that decides every number, the weights, and the base class of what encodes clips."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from msa.errors import BackboneError
from msa.types import Modality

Batching = Literal["fixed", "padded", "packed"]  # see plan.py


@dataclass(frozen=True)
class BackboneSpec:
    """A recipe from clip to hidden states.

    `weights` is the source of the weights: `hf:ORG/NAME` or a folder (`hf:./DIR`), `timm:NAME` or
    `timm:NAME@CHECKPOINT`, `pyfeat:REPO` or `pyfeat:FOLDER`, or empty for descriptors without weights. `options` holds
    everything else that decides the numbers (sample rate, crop, maximum length, layer) and is part of a view's
    identity. Settings that change only the speed (`batch`) are not part of it. An option that is added to a backbone
    whose hidden states others have already also stands in `added`, with the value it had before it could be chosen:
    with that value it is left out of the identity, so that their views keep their ids.
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
    added: Mapping[str, Any] = field(default_factory=dict)  # later options: see above


@dataclass(frozen=True)
class Weights:
    """Weights on this disk: path, revision, and the hash that identifies them."""

    path: Path | None  # a folder (transformers) or a file (timm); None for a backbone without weights
    revision: str | None
    sha256: str  # of the weight file(s) and of every file that decides the numbers (config, tokeniser)


class Backbone(ABC):
    """A frozen model on a device. A backbone's class derives from this one and overrides what it needs.

    `encode` must be there, and `dim` and `versions` must be set. Everything else has a default that works. A public
    name in a subclass that resembles one of the optional names below (`colums`, `prepair`) is refused when the class
    is defined, because a misspelt option would be ignored.
    """

    dim: int  # width of the hidden states
    versions: Mapping[str, str]  # libraries that take part in the numbers, name -> version
    columns: Sequence[str] = ()  # names of the `dim` features
    batching: Batching = "fixed"  # how batches are planned, see plan.py
    budget: int | None = None  # most that one batch may hold: tokens, frames, or clips without `sizes`
    sizes: Callable[[Any], Sequence[int]] | None = None  # texts, or seconds of each recording -> share of the budget
    counts: Callable[[], dict[str, int]] | None = None  # what was counted since the last call, {"frames": 7}
    launch: Callable[[Sequence[Any]], Any] | None = None  # begin to encode clips -> `lane.Launched`; a GPU never waits

    _OPTIONAL: ClassVar = ("columns", "batching", "budget", "sizes", "counts", "launch", "prepare", "close")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in [*inspect.get_annotations(cls), *vars(cls)]:
            near = get_close_matches(name, cls._OPTIONAL, n=1, cutoff=0.8)
            if near and near[0] != name and not name.startswith("_") and not hasattr(Backbone, name):
                raise BackboneError(
                    f"{_file(cls)}: {cls.__name__} has {name!r}, which is no attribute of a backbone",
                    fix=f"did you mean {near[0]!r}? an attribute of your own needs another name, such as _{name}",
                )

    @abstractmethod
    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]:
        """Return the hidden states of each clip, (T, dim) of the spec's dtype, T > 0.

        Clips are str for text, uint8 (H, W, 3) RGB for an image, float32 (samples,) at 16 kHz mono for audio,
        `media.Frames` or `media.Columns` for faces. They may also come as `prepare` returned them. The result for a
        clip must not depend on the others in the call.
        """

    def prepare(self, clip: Any) -> Any:
        """Return a clip preprocessed (resized, normalised). Decoding threads call this ahead of `encode`."""
        return clip

    def close(self) -> None:  # noqa: B027 - most backbones have nothing to release
        """Release resources, such as a process of its own."""


def checked(backbone: object, family: str) -> Backbone:
    """Return the object that `load` of a backbone file made.

    Raises BackboneError where its class does not derive from Backbone, or `dim` or `versions` is not set.
    """
    where = _file(type(backbone))
    if not isinstance(backbone, Backbone):
        raise BackboneError(
            f"{where}: load() of {family} returned {type(backbone).__name__}, which is no Backbone",
            fix=f"derive it: class {type(backbone).__name__}(Backbone), from msa.extract.backbone",
        )
    for name in ("dim", "versions"):
        if not hasattr(backbone, name):
            near = get_close_matches(name, [n for n in dir(backbone) if not n.startswith("_")], n=1)
            raise BackboneError(
                f"{where}: {type(backbone).__name__} of {family} has no {name!r}",
                fix=(f"did you mean {name!r} by {near[0]!r}? " if near else "") + f"set {name} in the class",
            )
    return backbone


def _file(cls: type) -> str:
    try:
        return inspect.getfile(cls)
    except (OSError, TypeError):
        return cls.__module__
