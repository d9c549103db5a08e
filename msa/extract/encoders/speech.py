"""Speech -> one hidden state per 20 ms, by wav2vec 2.0, HuBERT, WavLM and their kind.

On a GPU clips go in padded batches that leave every clip as it is alone (see padding.py); the families for which that
is not known go one at a time. So does everything on a CPU, which gains nothing from a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError
from msa.extract.backbone import Backbone, BackboneSpec, Batching, Weights
from msa.extract.encoders import checkpoint, freeze, library_versions, padding
from msa.extract.encoders.lane import Launched, lane
from msa.types import Modality

if TYPE_CHECKING:
    import torch

RATE = 16_000  # Hz
OPTIONS: Mapping[str, Any] = {"max_seconds": 30.0, "layer": -1}
ABOUT: Mapping[str, str] = {
    "max_seconds": "of longer clips the beginning is kept: attention costs the square of it",
    "layer": "which hidden states: -1 the last, 0 before the first block, 1 after it",
}
BUDGET = 12_000  # hidden states in one forward on a GPU, padding included: 240 s, for which 12 GB are enough


@dataclass
class SpeechEncoder(Backbone):
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
    batch: padding.Batch  # by it the model knows which samples of a padded batch are of the clips
    padded: bool  # several clips in one forward?
    batching: Batching = "padded"

    @property
    def budget(self) -> int:  # type: ignore[override]  # read only here
        """Hidden states in one batch; 1 where clips go one at a time whatever the batch."""
        return BUDGET if self.padded else 1

    def encode(self, clips: Sequence[Any]) -> list[np.ndarray]:
        """Turn 16 kHz mono clips, each (samples,), into hidden states, each (frames, dim).

        A clip may also come as `prepare` returned it: threads that decode can do that work ahead.
        """
        return self.launch(clips).rows()

    def launch(self, clips: Sequence[Any]) -> Launched:
        """Begin to encode clips."""
        import torch

        waves = [clip if isinstance(clip, torch.Tensor) else self.prepare(clip) for clip in clips]
        batches = [waves] if self.padded and waves else [[wave] for wave in waves]
        arrivals = [lane(self.device).forward(self._run(batch), self.dtype) for batch in batches]
        ends = [self._frames(len(wave)) if self.padded else None for wave in waves]

        def split(hidden: Sequence[np.ndarray]) -> list[np.ndarray]:
            filled = (states for batch in hidden for states in batch)  # each (frames, dim)
            return [states[:end] for states, end in zip(filled, ends, strict=True)]

        return Launched(arrivals, split, self.dtype)

    def prepare(self, clip: np.ndarray) -> "torch.Tensor":
        """Return a clip as the model takes it, float32 (samples,); may be called from many threads."""
        import torch

        return torch.from_numpy(self.waveform(clip))

    def waveform(self, clip: np.ndarray) -> np.ndarray:
        """Crop to `max_seconds`, bring to mean 0 and variance 1 where the weights expect it, fill up to one field.

        Zeros after normalisation are the clip's own mean, so a clip shorter than the field is not moved by them.
        """
        wave = clip[: int(self.max_seconds * RATE)].astype(np.float64)
        if self.normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)  # as transformers' feature extractor does
        return np.pad(wave, (0, max(self.field - len(wave), 0))).astype(np.float32)

    def sizes(self, seconds: Sequence[float]) -> list[int]:
        """Return how many hidden states clips of these lengths have, which is what a forward costs: one per 20 ms."""
        return [self._frames(round(min(length, self.max_seconds) * RATE)) for length in seconds]

    def _frames(self, samples: int) -> int:
        return padding.frames(self.model.config, max(samples, self.field))

    def _run(self, waves: Sequence["torch.Tensor"]) -> Callable[[], "torch.Tensor"]:
        """Return the forward of a padded batch, (B, frames, dim)."""
        import torch

        to, lengths = lane(self.device), [len(wave) for wave in waves]
        filled = to.empty((len(waves), max(lengths)), torch.float32).zero_()  # (B, samples)
        for i, wave in enumerate(waves):
            filled[i, : len(wave)] = wave
        padded, counted = to.there(filled), to.numbers(lengths, np.int64)

        def run() -> "torch.Tensor":
            with self.batch.of(lengths, counted):
                inputs = {"input_values": padded, "attention_mask": self.batch.mask()}
                if self.layer == -1:
                    return self.model(**inputs).last_hidden_state
                return self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]

        return run


def load(spec: BackboneSpec, weights: Weights, device: str) -> SpeechEncoder:
    """Load the encoder and the form its weights want of a waveform; encode a quarter of a second to learn its width."""
    assert weights.path is not None, "a speech encoder needs a folder of weights"
    options = {**OPTIONS, **spec.options}
    model = checkpoint.model(weights.path, Modality.AUDIO)
    field = receptive_field(model.config)
    separable = padding.separable(model.config)
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
        batch=padding.separate(model) if separable else padding.Batch(),
        padded=separable and device.startswith("cuda"),
    )
    try:
        encoder.dim = int(encoder.encode([np.zeros(RATE // 4, np.float32)])[0].shape[1])
    except (IndexError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{weights.path} has no layer {encoder.layer} over a waveform: {error}", fix="choose another layer"
        ) from error
    return encoder


def receptive_field(config: Any) -> int:
    """Return the samples under the first hidden state: r <- (r - 1) stride + kernel, from the last convolution back."""
    if not hasattr(config, "conv_kernel"):
        raise BackboneError(
            f"{config.model_type} does not read a waveform", fix="name wav2vec 2.0, HuBERT, WavLM or one of their kind"
        )
    field = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        field = (field - 1) * stride + kernel
    return field


def _normalize(folder: Path) -> bool:
    extractor = checkpoint.feature_extractor(folder)
    if extractor.sampling_rate != RATE:
        raise BackboneError(
            f"{folder} wants {extractor.sampling_rate} Hz, clips come at {RATE} Hz",
            fix="name weights trained on 16 kHz speech",
        )
    return bool(extractor.do_normalize)
