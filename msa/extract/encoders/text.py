"""Text -> one hidden state per token, by any encoder of the transformers library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError
from msa.extract.backbone import Backbone, BackboneSpec, Batching, Weights
from msa.extract.encoders import checkpoint, freeze, library_versions, quiet
from msa.extract.encoders.lane import Launched, lane
from msa.extract.encoders.packed import Pack, attach, counts_by
from msa.names import printable
from msa.types import Modality

if TYPE_CHECKING:
    import torch

OPTIONS: Mapping[str, Any] = {"max_length": 128, "layer": -1}
ABOUT: Mapping[str, str] = {
    "max_length": "tokens, special ones included; longer text is cut",
    "layer": "which hidden states: -1 the last, 0 the embeddings, 1 after the first block",
}

CPU_BUDGET = 2048  # tokens in one forward: half of it costs 2 % of the speed, more gains nothing
GPU_BUDGET = 16_384  # 25 KB a token in a model of base size, and enough of them to fill a card
AT_ONCE = 10_000  # texts counted in one call of the tokeniser: a corpus need not lie in memory as numbers
LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z "  # what a way to batch is tried on
SPECIAL = 16  # special tokens among the trials; some vocabularies have hundreds
NOISE = 1e-5  # how far, relative, hidden states in fp32 may be from those of the text alone


@dataclass
class TextEncoder(Backbone):
    """A frozen encoder. Special tokens are kept: they are states the model was trained to use.

    `batching` says what several texts in a call cost: the sum of their tokens (packed), or the longest times their
    number (padded).
    """

    model: "torch.nn.Module"
    tokenizer: Any
    max_length: int
    layer: int
    device: str
    dtype: str
    dim: int
    versions: Mapping[str, str]
    batching: Batching = "padded"
    mask_holds: bool = True  # False: padding would leak into the states of this model, so its texts go one by one

    @property
    def budget(self) -> int:  # type: ignore[override]  # read only here
        """Tokens in one batch; 1 where texts go one at a time whatever the batch."""
        if not self.mask_holds:
            return 1
        return GPU_BUDGET if self.device.startswith("cuda") else CPU_BUDGET

    def encode(self, clips: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into hidden states, each (tokens, dim), that do not depend on each other."""
        return self.launch(clips).rows()

    def launch(self, clips: Sequence[str]) -> Launched:
        """Begin to encode texts."""
        ids = self.tokenize(clips)
        for i, own in enumerate(ids):
            if not own:
                raise ValueError(f"text {i} of this batch has no tokens")
        return self._launch(ids, self.dtype)

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special ones included, after the cut."""
        chunks = (texts[i : i + AT_ONCE] for i in range(0, len(texts), AT_ONCE))
        return [len(own) for chunk in chunks for own in self.tokenize(chunk)]

    def tokenize(self, clips: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of each text."""
        if not clips:
            return []
        return list(self.tokenizer(list(clips), truncation=True, max_length=self.max_length)["input_ids"])

    def states(self, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Encode tokenised texts to (tokens, dim) float32 each, in one forward where the model allows it."""
        return self._launch(ids, "float32").wait().states()

    def _launch(self, ids: Sequence[Sequence[int]], dtype: str) -> Launched:
        if self.batching == "packed" and ids:
            return self._packed(ids, dtype)
        batches = [ids] if self.mask_holds and ids else [[own] for own in ids]
        arrivals = [lane(self.device).forward(self._padded(batch), dtype) for batch in batches]
        lengths = [len(own) for own in ids]

        def split(hidden: Sequence[np.ndarray]) -> list[np.ndarray]:
            filled = (states for batch in hidden for states in batch)  # each (T, dim)
            return [states[:length] for states, length in zip(filled, lengths, strict=True)]

        return Launched(arrivals, split, dtype)

    def _packed(self, ids: Sequence[Sequence[int]], dtype: str) -> Launched:
        """Begin the forward of texts laid end to end, with attention inside each text alone: nothing to mask."""
        pack = Pack.of(ids, self._counts_by, self.device)
        run = partial(self._hidden, input_ids=pack.ids, position_ids=pack.positions, spans=pack.spans)
        return Launched([lane(self.device).forward(run, dtype)], lambda hidden: pack.split(hidden[0][0]), dtype)

    def _padded(self, ids: Sequence[Sequence[int]]) -> Callable[[], "torch.Tensor"]:
        """Return the forward of texts padded to the longest; padding is masked, and to be cut off again.

        The library looks at the mask first, which waits for the GPU here, unlike in a pack.
        """
        filler = self.tokenizer.pad_token_id or 0  # RoBERTa counts positions by it; without one, masked anyway
        padded = np.full((len(ids), max(map(len, ids))), filler)  # (B, T)
        mask = np.zeros_like(padded)
        for i, own in enumerate(ids):
            padded[i, : len(own)], mask[i, : len(own)] = own, 1
        to = lane(self.device)
        inputs = {"input_ids": to.numbers(padded, np.int64), "attention_mask": to.numbers(mask, np.int64)}
        return partial(self._hidden, **inputs)

    @cached_property
    def _counts_by(self) -> int | None:
        return counts_by(self.model)

    def _hidden(self, **inputs: Any) -> "torch.Tensor":
        """Return (B, T, dim) of the chosen layer."""
        if self.layer == -1:
            return self.model(**inputs).last_hidden_state
        return self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]


def load(spec: BackboneSpec, weights: Weights, device: str) -> TextEncoder:
    """Load the encoder; try it on its longest text, which also shows its width, and on several texts at once."""
    assert weights.path is not None, "a text encoder needs a folder of weights"
    options = {**OPTIONS, **spec.options}
    model = checkpoint.model(weights.path, Modality.TEXT)
    tokenizer = checkpoint.tokenizer(weights.path)
    checkpoint.check_vocabulary(weights.path, tokenizer, model)
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
    _choose_batching(encoder)
    encoder.model, encoder.device = freeze(model, device), device
    return encoder


def _width(encoder: TextEncoder, weights: Weights) -> int:
    try:
        return int(encoder.encode(["a " * encoder.max_length])[0].shape[1])
    except Exception as error:  # a model that cannot be asked like this says so in its own way
        raise BackboneError(
            f"{weights.path} cannot encode {encoder.max_length} tokens at layer {encoder.layer}: "
            f"{printable(str(error) or type(error).__name__)[:300]}",
            fix="lower max_length or the layer, or name a text encoder",
        ) from error


def _choose_batching(encoder: TextEncoder) -> None:
    """Choose packed, padded or neither: the first that gives each text the states it has alone."""
    ids = _trials(encoder)
    alone = [_alone(encoder, own) for own in ids]
    if any(states is None for states in alone):  # too short for it, say: in a batch it would be filled up, and pass
        encoder.mask_holds = False
        return
    expected = [states for states in alone if states is not None]
    model: Any = encoder.model
    usual = getattr(model.config, "_attn_implementation", None)
    with quiet():
        if attach(model):
            encoder.batching = "packed"
            if _agree(encoder, ids, expected):
                return
            encoder.batching = "padded"
        model.set_attn_implementation(usual)
    encoder.mask_holds = _agree(encoder, ids, expected)


def _trials(encoder: TextEncoder) -> list[list[int]]:
    """Return texts of several lengths as token numbers; then one for each special token, with that token in its midst.

    Models treat some of these by themselves: ESM scales a text by how many of its tokens are masked, RoBERTa counts
    no position for padding, others look for the end of a sequence.
    """
    longest = LETTERS * (1 + encoder.max_length // len(LETTERS.split()))  # as long as may be: attention may be local
    ids = [own for own in encoder.tokenize([LETTERS[:20], longest, "z", LETTERS[20:40], LETTERS]) if own]
    special = sorted(set(getattr(encoder.tokenizer, "all_special_ids", ())))[:SPECIAL]
    middle = len(ids[-1]) // 2
    return [*ids, *([*ids[-1][:middle], token, *ids[-1][middle + 1 :]] for token in special)]


def _alone(encoder: TextEncoder, ids: Sequence[int]) -> np.ndarray | None:
    """Return (tokens, dim) of one text; None where the model cannot take it."""
    try:
        return encoder.states([ids])[0]
    except Exception:  # a model that cannot be asked like this says so in its own way
        return None


def _agree(encoder: TextEncoder, ids: Sequence[Sequence[int]], alone: Sequence[np.ndarray]) -> bool:
    try:
        together = encoder.states(ids)
    except Exception:  # a model that cannot be asked like this says so in its own way
        return False
    return all(
        states.shape == own.shape and bool(np.linalg.norm(states - own) <= NOISE * np.linalg.norm(own))
        for states, own in zip(together, alone, strict=True)
    )
