"""Picture -> one hidden state per patch of it, by any model of timm.

A picture is resized and cropped exactly as for the evaluation of its weights: shorter side to input size / crop_pct,
then the centre. For 224 px this leaves a 7 x 7 grid, 49 tokens, of a convolutional network's last stage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import UnknownNameError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import complete, freeze, library_versions, unloadable
from msa.extract.encoders.lane import Launched, lane

if TYPE_CHECKING:
    import torch

OPTIONS: Mapping[str, Any] = {"tokens": "grid"}
ABOUT: Mapping[str, str] = {
    "tokens": "grid: one for each place; pooled: their mean, one, which leaves nothing to attend to"
}
TOKENS = ("grid", "pooled")
SLIM = 16  # pictures longer than this many times their width lose their ends before the resize would blow them up


@dataclass
class ImageEncoder:
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
    def budget(self) -> int:
        """Pictures of a batch: 10 MB each on a GPU; a CPU gains nothing from more than a few."""
        return 128 if self.device.startswith("cuda") else 8

    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]:
        """Turn pictures, each uint8 (H, W, 3) RGB, into hidden states, each (h w, dim) row by row, or (1, dim).

        A picture may also come as `prepare` returned it: threads that decode can do that work ahead.
        """
        return self.launch(clips).rows()

    def launch(self, clips: Sequence[Any]) -> Launched:
        """Begin to do so. Pictures travel as bytes, a quarter of what the network reads."""
        import torch

        if not clips:
            return Launched((), lambda hidden: (), self.dtype)
        pictures = [clip if isinstance(clip, torch.Tensor) else self.prepare(clip) for clip in clips]
        to = lane(self.device)
        host = to.empty((len(pictures), *pictures[0].shape), torch.uint8)
        batch = to.there(torch.stack(pictures, out=host))  # (B, size, size, 3)
        return Launched([to.forward(lambda: self._hidden(batch), self.dtype)], lambda hidden: hidden[0], self.dtype)

    def prepare(self, clip: np.ndarray) -> "torch.Tensor":
        """One picture in its size, uint8 (size, size, 3); may be called from many threads."""
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
        if features.ndim == 3:  # (B, prefix + h w, C): a transformer, whose class token is not a place
            features = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        elif getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            features = features.flatten(1, 2)
        else:
            features = features.flatten(2).transpose(1, 2)
        return features.mean(dim=1, keepdim=True) if self.tokens == "pooled" else features  # (B, T, C)


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
    encoder.dim = int(encoder.encode([np.zeros((8, 8, 3), np.uint8)])[0].shape[1])
    return encoder


def architecture(weights: str) -> str:
    """`timm:NAME@CHECKPOINT` -> NAME."""
    return weights.removeprefix("timm:").partition("@")[0]


def _network(name: str, path: Path) -> Any:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):  # timm draws the weights it is about to lose: leave no trace of it
        try:
            model = timm.create_model(name, pretrained=False)
        except RuntimeError as error:
            raise UnknownNameError("timm model", name, get_close_matches(name, timm.list_models(), n=5)) from error
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
    """The middle of a strip: scaling one pixel's width to 256 would make 10,000 of length into gigabytes."""
    height, width = clip.shape[:2]
    most = SLIM * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return clip[top : top + most, left : left + most]
