"""Text -> one hidden state per token, by any encoder of the transformers library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import forward, freeze, library_versions, quiet, rows, transformer, unloadable

if TYPE_CHECKING:
    import torch

# `max_length` counts tokens, special ones included; longer text is cut. `layer` -1 is the last hidden state,
# 0 the embeddings.
OPTIONS: Mapping[str, Any] = {"max_length": 128, "layer": -1}


@dataclass
class TextEncoder:
    """A frozen encoder. Special tokens are kept: they are states the model was trained to use."""

    model: "torch.nn.Module"
    tokenizer: Any
    max_length: int
    layer: int
    device: str
    dtype: str
    dim: int
    versions: Mapping[str, str]

    def encode(self, clips: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into hidden states, each (tokens, dim); padding is masked and cut off again."""
        if not clips:
            return []
        ids = self.tokenize(clips)
        hidden = forward(lambda: self._hidden(*self._pad(ids)), self.device).cpu().numpy()  # (B, T, dim)
        return rows((states[: len(own)] for states, own in zip(hidden, ids, strict=True)), self.dtype)

    def tokenize(self, clips: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text: their count is what a forward costs."""
        return list(self.tokenizer(list(clips), truncation=True, max_length=self.max_length)["input_ids"])

    def _pad(self, ids: list[list[int]]) -> tuple["torch.Tensor", "torch.Tensor"]:
        """(B, T) token numbers and their mask, T the longest text of the batch."""
        import torch

        filler = self.tokenizer.pad_token_id or 0  # RoBERTa counts positions by it; without one, masked anyway
        padded = torch.full((len(ids), max(map(len, ids))), filler)
        mask = torch.zeros_like(padded)
        for i, own in enumerate(ids):
            padded[i, : len(own)] = torch.tensor(own)
            mask[i, : len(own)] = 1
        return padded.to(self.device), mask.to(self.device)

    def _hidden(self, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
        if self.layer == -1:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return states[self.layer]  # (B, T, dim)


def load(spec: BackboneSpec, weights: Weights, device: str) -> TextEncoder:
    """Load the encoder and try it on its longest text, which also tells its width."""
    from transformers import AutoTokenizer

    assert weights.path is not None, "a text encoder needs a folder of weights"
    options = {**OPTIONS, **spec.options}
    model = transformer(weights.path)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(weights.path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise unloadable(weights.path, error) from error
    encoder = TextEncoder(
        freeze(model, "cpu"),
        tokenizer,
        options["max_length"],
        options["layer"],
        "cpu",  # where an index out of range is an exception, not the end of the device
        spec.dtype,
        dim=0,
        versions=library_versions("torch", "transformers", "tokenizers"),
    )
    encoder.dim = _width(encoder, weights)
    encoder.model, encoder.device = freeze(model, device), device
    return encoder


def _width(encoder: TextEncoder, weights: Weights) -> int:
    try:
        return int(encoder.encode(["a " * encoder.max_length])[0].shape[1])
    except (IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BackboneError(
            f"{weights.path} cannot encode {encoder.max_length} tokens at layer {encoder.layer}: {error}",
            fix="lower max_length or the layer, or name a text encoder",
        ) from error
