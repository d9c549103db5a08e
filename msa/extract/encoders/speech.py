"""Speech -> one hidden state per 20 ms, by wav2vec 2.0, HuBERT, WavLM and their kind.

One clip at a time. Padding would not be masked out: the first layer of the base models is a GroupNorm over time, and
in a padded batch the states of a shorter clip move by a third of their size. Alone, every clip is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import forward, freeze, library_versions, quiet, rows, transformer, unloadable

if TYPE_CHECKING:
    import torch

RATE = 16_000  # Hz
# `max_seconds` keeps the beginning of longer clips: attention is quadratic. `layer` as for text, 0 before block 1.
OPTIONS: Mapping[str, Any] = {"max_seconds": 30.0, "layer": -1}


@dataclass
class SpeechEncoder:
    """A frozen encoder. `field` is how many samples its first hidden state sees (400, that is 25 ms)."""

    model: "torch.nn.Module"
    normalize: bool
    field: int
    max_seconds: float
    layer: int
    device: str
    dtype: str
    dim: int
    versions: Mapping[str, str]

    def encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Turn 16 kHz mono clips, each (samples,), into hidden states, each (frames, dim)."""
        return rows((self._hidden(self.waveform(clip)) for clip in clips), self.dtype)

    def waveform(self, clip: np.ndarray) -> np.ndarray:
        """Crop to `max_seconds`, bring to mean 0 and variance 1 where the weights expect it, fill up to one field.

        Zeros after normalisation are the clip's own mean, so a clip shorter than the field is not moved by them.
        """
        wave = clip[: int(self.max_seconds * RATE)].astype(np.float64)
        if self.normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # as transformers' feature extractor does
        return np.pad(wave, (0, max(self.field - len(wave), 0))).astype(np.float32)

    def _hidden(self, wave: np.ndarray) -> np.ndarray:
        import torch

        batch = torch.from_numpy(wave)[None].to(self.device)  # (1, samples)

        def run() -> "torch.Tensor":
            if self.layer == -1:
                return self.model(batch).last_hidden_state
            return self.model(batch, output_hidden_states=True).hidden_states[self.layer]

        return forward(run, self.device)[0].cpu().numpy()  # (frames, dim)


def load(spec: BackboneSpec, weights: Weights, device: str) -> SpeechEncoder:
    """Load the encoder and how its weights want a waveform; a quarter of a second tells its width."""
    assert weights.path is not None, "a speech encoder needs a folder of weights"
    options = {**OPTIONS, **spec.options}
    model = transformer(weights.path)
    field = receptive_field(model.config)
    encoder = SpeechEncoder(
        freeze(model, device),
        _normalize(weights.path),
        field,
        options["max_seconds"],
        options["layer"],
        device,
        spec.dtype,
        dim=0,
        versions=library_versions("torch", "transformers"),
    )
    try:
        encoder.dim = int(encoder.encode([np.zeros(RATE // 4, np.float32)])[0].shape[1])
    except (IndexError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{weights.path} has no layer {encoder.layer} over a waveform: {error}", fix="choose another layer"
        ) from error
    return encoder


def receptive_field(config: Any) -> int:
    """Samples under the first hidden state: r <- (r - 1) stride + kernel, from the last convolution to the first."""
    if not hasattr(config, "conv_kernel"):
        raise BackboneError(
            f"{config.model_type} does not read a waveform", fix="name wav2vec 2.0, HuBERT, WavLM or one of their kind"
        )
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    return field


def _normalize(folder: Path) -> bool:
    from transformers import AutoFeatureExtractor

    with quiet():
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise unloadable(folder, error) from error
    if extractor.sampling_rate != RATE:
        raise BackboneError(
            f"{folder} wants {extractor.sampling_rate} Hz, clips come at {RATE} Hz",
            fix="name weights trained on 16 kHz speech",
        )
    return bool(extractor.do_normalize)
