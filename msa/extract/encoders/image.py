"""Picture -> one hidden state per patch of it, by any model of timm.

A picture is resized and cropped exactly as for the evaluation of its weights: shorter side to input size / crop_pct,
then the centre. For 224 px this leaves a 7 x 7 grid, 49 tokens, of a convolutional network's last stage.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError, UnknownNameError
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders import complete, freeze, library_versions, unloadable
from msa.extract.encoders.lane import Launched, lane
from msa.names import printable

if TYPE_CHECKING:
    import torch

OPTIONS: Mapping[str, Any] = {"tokens": "grid"}
ABOUT: Mapping[str, str] = {
    "tokens": "grid: one for each place; pooled: their mean, one, which leaves nothing to attend to"
}
TOKENS = ("grid", "pooled")
SLIM = 16  # pictures longer than this many times their width lose their ends before the resize would blow them up


@dataclass
class ImageEncoder(Backbone):
    """A frozen network up to its last stage. `preprocessing` is what timm states for its weights."""

    model: "torch.nn.Module"
    transform: Callable[[Any], "torch.Tensor"]
    preprocessing: Mapping[str, Any]
    tokens: str
    device: str
    dtype: str
    dim: int
    versions: Mapping[str, str]

    @property
    def budget(self) -> int:  # type: ignore[override]  # read only here
        """Pictures of a batch: 10 MB each on a GPU; a CPU gains nothing from more than a few."""
        return 128 if self.device.startswith("cuda") else 8

    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]:
        """Turn pictures, each uint8 (H, W, 3) RGB, into hidden states, each (h w, dim) row by row, or (1, dim).

        A picture may also come as `prepare` returned it: threads that decode can do that work ahead.
        """
        return self.launch(clips).rows()

    def launch(self, clips: Sequence[Any]) -> Launched:
        """Begin to encode pictures. They travel as bytes, a quarter of what the network reads."""
        import torch

        if not clips:
            return Launched((), lambda hidden: (), self.dtype)
        pictures = [clip if isinstance(clip, torch.Tensor) else self.prepare(clip) for clip in clips]
        to = lane(self.device)
        host = to.empty((len(pictures), *pictures[0].shape), torch.uint8)
        batch = to.there(torch.stack(pictures, out=host))  # (B, size, size, 3)
        return Launched([to.forward(lambda: self._hidden(batch), self.dtype)], lambda hidden: hidden[0], self.dtype)

    def prepare(self, clip: np.ndarray) -> "torch.Tensor":
        """Resize and crop one picture to uint8 (size, size, 3); may be called from many threads."""
        from PIL import Image

        return self.transform(Image.fromarray(_not_too_slim(clip))).permute(1, 2, 0)

    @cached_property
    def _scale(self) -> tuple["torch.Tensor", "torch.Tensor"]:
        """(3, 1, 1) mean and deviation of what the network was trained on, from 0 to 1."""
        import torch

        mean, std = (torch.tensor(self.preprocessing[name]).view(3, 1, 1).to(self.device) for name in ("mean", "std"))
        return mean, std

    def _hidden(self, batch: "torch.Tensor") -> "torch.Tensor":
        mean, std = self._scale
        pixels = batch.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)  # (B, 3, size, size), channels last
        features: Any = self.model.forward_features(pixels)  # type: ignore[operator]
        grid = places(features, self.model, self.preprocessing["input_size"][1:])
        return grid.mean(dim=1, keepdim=True) if self.tokens == "pooled" else grid  # (B, T, C)


def places(features: Any, model: Any, size: Sequence[int]) -> "torch.Tensor":
    """Return (B, h w, C) of the features of a network, row by row, without tokens that stand for no place.

    Which these are is told by the shape: a grid has the proportions of the picture, and what is over at the front has
    to be as many tokens as the network says it puts there.

    Args:
        features: (B, C, h, w), (B, h, w, C), or (B, prefix + h w, C) of a transformer.
        model: the network that gave them.
        size: height and width of the pictures it reads.

    Raises:
        BackboneError: there is no grid, or more than one.
    """
    if not hasattr(features, "ndim"):
        raise _no_grid(model, f"gives {_described(features)} instead of one grid of features")
    if features.ndim == 3:
        tokens = features.shape[1]
        declared = _prefix(model)
        candidates = (
            (declared, 0) if tokens > declared else ()
        )  # of the very tokens that stand for no place, 1 is no grid
        prefix = next((n for n in candidates if _is_grid(tokens - n, size)), None)
        if prefix is None:
            over = f", {declared} of which stand for no place" if declared else ""
            raise _no_grid(model, f"gives {tokens} tokens{over}: no grid over {size[0]} x {size[1]} px")
        return features[:, prefix:]
    if features.ndim != 4:
        raise _no_grid(model, f"gives features of shape {tuple(features.shape)} instead of a grid")
    if _channels_last(features.shape, model, size):
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def _is_grid(places: int, size: Sequence[int]) -> bool:
    """Return whether so many places fill rows and columns with the proportions of the picture."""
    height, width = size
    rows = round((max(places, 0) * height / width) ** 0.5)
    return places > 0 and places % max(rows, 1) == 0 and rows * width == places // rows * height


def _prefix(model: Any) -> int:
    """Return how many tokens a network says it puts before those of places: a class, its distilled twin, registers."""
    if (declared := getattr(model, "num_prefix_tokens", None)) is not None:
        return int(declared)
    tokens = (getattr(model, name, None) for name in ("cls_token", "dist_token", "reg_token"))
    return sum(int(token.shape[-2]) for token in tokens if token is not None and getattr(token, "ndim", 0) >= 2)


def _channels_last(shape: Sequence[int], model: Any, size: Sequence[int]) -> bool:
    """Return whether (B, a, b, c) is (B, h, w, C): by network width and picture proportions, else by `output_fmt`."""
    width, (a, b, c), (height, across) = getattr(model, "num_features", None), shape[1:], size
    last, first = c == width and a * across == b * height, a == width and b * across == c * height
    return last if last != first else getattr(model, "output_fmt", "NCHW") == "NHWC"


def _described(features: Any) -> str:
    shapes = (
        [tuple(each.shape) for each in features if hasattr(each, "shape")] if isinstance(features, Iterable) else []
    )
    return f"features of shapes {', '.join(map(str, shapes))}" if shapes else f"a {type(features).__name__}"


def _no_grid(model: Any, what: str) -> BackboneError:
    return BackboneError(
        f"the network {type(model).__name__} {what}",
        fix="name a network with one grid of features, such as timm:resnet50, timm:vit_base_patch16_224 or timm:swin_*",
    )


def load(spec: BackboneSpec, weights: Weights, device: str) -> ImageEncoder:
    """Build the network that `timm:NAME` names and fill it from its file; a black picture tells its width."""
    import torch
    from timm.data import create_transform, resolve_model_data_config

    assert weights.path is not None, "a timm model needs a file of weights"
    tokens = {**OPTIONS, **spec.options}["tokens"]
    if tokens not in TOKENS:
        raise UnknownNameError("value of tokens", tokens, TOKENS)
    model = _network(architecture(spec.weights), weights.path)
    config = resolve_model_data_config(model)
    encoder = ImageEncoder(
        freeze(model, device).to(memory_format=torch.channels_last),  # 1.4 to 2 times as fast on a CPU
        create_transform(**config, is_training=False, normalize=False),
        config,
        tokens,
        device,
        spec.dtype,
        dim=0,
        versions=library_versions("torch", "torchvision", "timm", "pillow"),
    )
    try:
        encoder.dim = int(encoder.encode([np.zeros((8, 8, 3), np.uint8)])[0].shape[1])
    except BackboneError:
        raise
    except Exception as error:  # a network that cannot be asked like this says so in its own way
        raise BackboneError(
            f"{architecture(spec.weights)} cannot encode a picture: {type(error).__name__}: {printable(error)[:300]}",
            fix="name another network of timm",
        ) from error
    return encoder


def architecture(weights: str) -> str:
    """Return NAME of `timm:NAME@CHECKPOINT`."""
    return weights.removeprefix("timm:").partition("@")[0]


def _network(name: str, path: Path) -> Any:
    import timm
    import torch

    if not timm.is_model(name.partition(".")[0]):  # also hf-hub:, local-dir: and the like: a stranger's configuration
        raise UnknownNameError("timm model", name, get_close_matches(name, timm.list_models(), n=5))
    with torch.random.fork_rng(devices=[]):  # timm draws the weights it is about to lose: leave no trace of it
        try:
            model = timm.create_model(name, pretrained=False)
        except Exception as error:  # a tag that the architecture does not have, or a package that is not installed
            raise BackboneError(
                f"timm cannot make {name}: {type(error).__name__}: {printable(error)[:300]}",
                fix="name another network of timm, or the architecture without its tag",
            ) from error
    _fill(model, path)
    return model


def _fill(model: Any, path: Path) -> None:
    """Load a checkpoint; its classifier may be of any size or absent, everything else must be there and fit."""
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(path), weights_only=True)
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
        state = {name: tensor for name, tensor in state.items() if not name.startswith(heads)}
        result = model.load_state_dict(state, strict=False)
    except Exception as error:  # a broken file: safetensors, pickle and torch each raise their own
        raise unloadable(path, error) from error
    complete(path, [key for key in result.missing_keys if not key.startswith(heads)])


def _not_too_slim(clip: np.ndarray) -> np.ndarray:
    """Return the middle of a strip: scaling one pixel's width to 256 would make 10,000 of length into gigabytes."""
    height, width = clip.shape[:2]
    most = SLIM * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return clip[top : top + most, left : left + most]
