"""Text: packed, against one by one and against random batches of 32 - the same weights, the same texts, in turns."""

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.extraction import made
from benchmarks.extraction.measure import Row, in_turns
from msa.extract.encoders.packed import attach
from msa.extract.encoders.text import CPU_BUDGET, TextEncoder
from msa.extract.work.plan import Demand, plan

Ids = list[list[int]]  # token numbers of each text


def rows(folder: Path, quick: bool) -> list[Row]:
    """Real tokens per CPU second: special tokens count, padding does not."""
    import torch

    torch.set_num_threads(1)
    n, rounds = (32, 1) if quick else (64, 3)
    packed, plain = encoders()
    ids = numbers(made.spread(n))
    alone = [plain.states([own])[0] for own in ids[:24]]
    drawn = np.random.default_rng(1).permutation(24).tolist()
    states = packed.states([ids[i] for i in drawn])
    far = max(distance(own, alone[i]) for own, i in zip(states, drawn, strict=True))
    padded = plain.states(ids[:24])
    usual = max(distance(own, other) for own, other in zip(padded, alone, strict=True))

    in_packs = plan(Demand([len(own) for own in ids], CPU_BUDGET, "packed")).batches
    ways = {
        "packed": passes(packed, ids, in_packs),
        "one by one": passes(plain, ids, [(i,) for i in range(n)]),
        "padded": passes(plain, ids, [tuple(range(i, min(i + 32, n))) for i in range(0, n, 32)]),
    }
    taken = in_turns(ways, rounds, time.process_time)
    tokens = {name: sum(map(len, ids)) / seconds for name, seconds in taken.items()}
    what, unit = "text, BERT-base, packed", "tokens/s"
    return [
        Row.of_rates(what, tokens["packed"], tokens["one by one"], 1.5, unit, "one by one"),
        Row.of_rates(what, tokens["packed"], tokens["padded"], 3.0, unit, "random batches of 32"),
        Row.of_limit(f"{what}: relative distance to alone", far, usual, 1e-5, "padded and masked"),
    ]


def encoders(device: str = "cpu", **changes: int) -> tuple[TextEncoder, TextEncoder]:
    """Two encoders of the same random weights: packed, and with the library's own attention."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(**changes)).eval().requires_grad_(False).to(device)
    width = model.config.hidden_size
    plain = TextEncoder(model, Numbers(), 128, -1, device, "float16", width, versions={})
    packed = copy.copy(plain)
    packed.model, packed.batching = copy.deepcopy(model), "packed"
    assert attach(packed.model), "transformers has no attention interface for BERT"
    return packed, plain


class Numbers(SimpleNamespace):
    """A tokeniser of texts that are token numbers already, with blanks between them."""

    pad_token_id = 0

    def __call__(self, texts: Sequence[str], truncation: bool, max_length: int) -> dict[str, Ids]:
        return {"input_ids": [[int(word) for word in text.split()][:max_length] for text in texts]}


def numbers(sizes: Sequence[int]) -> Ids:
    """Made token numbers of texts of these lengths."""
    chance = np.random.default_rng(0)
    return [chance.integers(1000, 30_000, size).tolist() for size in sizes]


def passes(encoder: Any, clips: Sequence[Any], batches: Sequence[Sequence[int]]) -> Callable[[], None]:
    """One pass over all clips in these batches."""

    def run() -> None:
        for batch in batches:
            encoder.states([clips[i] for i in batch])

    return run


def distance(states: np.ndarray, other: np.ndarray) -> float:
    """Norm of the difference, relative to the other's."""
    return float(np.linalg.norm(states - other) / np.linalg.norm(other))
