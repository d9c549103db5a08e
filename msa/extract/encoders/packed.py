"""Many texts in one forward without padding: tokens laid end to end, each text attending to itself alone.

A model takes part through the attention interface of the transformers library: `attach` puts `attend` in the place of
its attention, and no mask is built. Whether that gives a model's own numbers is not known from its name: `text.load`
tries it. Everything else in an encoder - projections, norms, feed-forward - works row by row and needs no change.

Texts of equal length lie side by side, so that each length is one call of PyTorch's attention on views, without a copy:
five kernels for each length in each layer. That is nothing to a CPU, but some 7,000 launches to a GPU, which takes them
for as long as a forward of BERT should. There one call of varlen attention takes all lengths where it can: torch 2.10
and later, half precision, a card that knows FlashAttention. Elsewhere - fp32, older cards - texts of about one length
are padded to the longest for the attention alone: at most eight blocks for texts of up to 128 tokens, and at most four
times the attention, which is 3 % of the work.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.extract.encoders.lane import lane

if TYPE_CHECKING:
    import torch

NAME = "msa_packed"  # among the attention implementations of transformers
# What attention may ask for besides keys and queries and is not given here: a model that does is not packed
FOREIGN = ("sliding_window", "softcap", "position_bias", "s_aux", "head_mask")
HALF = 2e-2  # how far apart, relative, two ways to attend may be in half precision


@dataclass(frozen=True)
class Spans:
    """Where each text lies in a pack: lengths in rows, equal ones side by side."""

    lengths: tuple[int, ...]
    device: str

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Start, length and number of texts of each run of equal lengths."""
        start = 0
        for length, run in groupby(self.lengths):
            texts = sum(1 for _ in run)
            yield start, length, texts
            start += length * texts

    @cached_property
    def bounds(self) -> "torch.Tensor":
        """(texts + 1,) int32: the row each text begins at, and the end; made once for all layers."""
        return lane(self.device).numbers([0, *accumulate(self.lengths)], np.int32)

    @cached_property
    def blocks(self) -> "list[Block]":
        """The texts in rectangles, none more than twice as long as the shortest in it; made once for all layers."""
        blocks: list[Block] = []
        lengths = np.array(self.lengths)
        starts = np.cumsum(lengths) - lengths
        first = 0
        while first < len(lengths):
            last = first + int(np.searchsorted(lengths[first:], 2 * lengths[first], side="right"))
            blocks.append(Block.of(starts[first:last], lengths[first:last], self.device))
            first = last
        return blocks


@dataclass(frozen=True)
class Block:
    """Texts of about one length as a rectangle: which row of the pack stands where, and back."""

    rows: "torch.Tensor"  # (texts, longest); beyond a text its own last row
    mask: "torch.Tensor"  # (texts, 1, 1, longest) bool: is this a token?
    own: "torch.Tensor"  # (tokens,): which places of the rectangle are tokens

    @classmethod
    def of(cls, starts: np.ndarray, lengths: np.ndarray, device: str) -> "Block":
        """Build a block from the row each text begins at in the pack, and its length: (texts,) each."""
        place = np.arange(lengths[-1])  # the longest is the last
        inside = place < lengths[:, None]  # (texts, longest)
        rows = starts[:, None] + np.minimum(place, lengths[:, None] - 1)
        device_lane = lane(device)
        mask = device_lane.numbers(inside[:, None, None], np.bool_)
        return cls(device_lane.numbers(rows, np.int64), mask, device_lane.numbers(np.flatnonzero(inside), np.int64))


@dataclass(frozen=True)
class Pack:
    """Token numbers of several texts as one row."""

    order: tuple[int, ...]  # place in the pack -> place in the call
    ids: "torch.Tensor"  # (1, total)
    positions: "torch.Tensor"  # (1, total), from the beginning in each text
    spans: Spans

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], padding: int | None, device: str) -> "Pack":
        """Lay texts end to end by length. `padding` is what the model counts positions by, see `counts_by`."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        ids = [token for i in order for token in texts[i]]
        places = [place for i in order for place in positions(texts[i], padding)]
        spans = Spans(tuple(len(texts[i]) for i in order), device)
        device_lane = lane(device)
        return cls(tuple(order), device_lane.numbers([ids], np.int64), device_lane.numbers([places], np.int64), spans)

    def split(self, rows: Any) -> list[Any]:
        """Return the (tokens, dim) of each text from (total, dim), in the order of the call."""
        ends = list(accumulate(self.spans.lengths))
        own: list[Any] = [None] * len(self.order)
        for i, length, end in zip(self.order, self.spans.lengths, ends, strict=True):
            own[i] = rows[end - length : end]
        return own


def positions(ids: Sequence[int], padding: int | None) -> list[int]:
    """Return the place of each token as the model's table of positions counts it.

    BERT counts from 0. RoBERTa counts the tokens that are not padding from `padding` + 1, and puts a padding token -
    which a text may contain, spelled out - at `padding`.
    """
    if padding is None:
        return list(range(len(ids)))
    seen = accumulate(token != padding for token in ids)
    return [padding + count if token != padding else padding for token, count in zip(ids, seen, strict=True)]


def counts_by(model: "torch.nn.Module") -> int | None:
    """Return the padding token that a model's table of positions leaves out; None: it knows none and counts from 0."""
    tables = (m for name, m in model.named_modules() if name.rpartition(".")[2] == "position_embeddings")
    padding = next((getattr(table, "padding_idx", None) for table in tables), None)
    return None if padding is None else int(padding)


def attach(model: Any, name: str = NAME, way: Callable[..., Any] | None = None) -> bool:
    """Let a model attend by `attend`, or another `way`; False where the attention of a part of it stays."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, way or attend)  # not among the masks: then transformers builds none
    try:
        model.set_attn_implementation(name)
    except (AttributeError, ValueError):
        return False
    return getattr(model.config, "_attn_implementation", None) == name


def attend(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    scaling: float | None = None,
    dropout: float = 0.0,
    spans: Spans | None = None,
    **others: Any,
) -> tuple["torch.Tensor", None]:
    """Attend within each span: query, key and value (1, H, total, D) -> (1, total, H, D).

    Raises NotImplementedError where a model asks for anything else: causal, local, biased or grouped-query attention.
    """
    causal = others.get("is_causal")
    asked = [name for name in FOREIGN if others.get(name) is not None]
    asked += ["mask"] if attention_mask is not None else []
    asked += ["dropout"] if dropout else []
    asked += ["is_causal"] if (getattr(module, "is_causal", True) if causal is None else causal) else []
    asked += ["fewer keys"] if not query.shape == key.shape == value.shape else []
    if asked or spans is None:
        raise NotImplementedError(f"packed attention has no {', '.join(asked) or 'meaning without spans'}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (total, H, D)
    scaling = q.shape[2] ** -0.5 if scaling is None else scaling
    way = _by_length
    if q.is_cuda:
        way = _varlen if _knows_varlen(q.device, q.dtype, q.shape[2]) else _in_blocks
    return way(q, k, v, spans, scaling)[None], None


def _by_length(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", spans: Spans, scaling: float) -> "torch.Tensor":
    """Attend in one call per length, (total, H, D) each: no slower than text by text, and fewer launches."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    attended = []
    for start, length, texts in spans.runs():
        shape = (texts, length, *q.shape[1:])
        q_i, k_i, v_i = (x[start : start + texts * length].view(shape).transpose(1, 2) for x in (q, k, v))
        states = scaled_dot_product_attention(q_i, k_i, v_i, scale=scaling)  # (texts, H, length, D)
        attended.append(states.transpose(1, 2).reshape(-1, *q.shape[1:]))
    return torch.cat(attended)


def _in_blocks(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", spans: Spans, scaling: float) -> "torch.Tensor":
    """Attend in blocks padded to their longest text and masked, (total, H, D) each."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    attended = []
    for block in spans.blocks:
        q_i, k_i, v_i = (x[block.rows].transpose(1, 2) for x in (q, k, v))  # (texts, H, longest, D)
        states = scaled_dot_product_attention(q_i, k_i, v_i, attn_mask=block.mask, scale=scaling)
        attended.append(states.transpose(1, 2).flatten(0, 1)[block.own])
    return torch.cat(attended)


def _varlen(q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", spans: Spans, scaling: float) -> "torch.Tensor":
    """Attend to all spans in one call of FlashAttention, (total, H, D) each."""
    from torch.nn.attention.varlen import varlen_attn

    usual = q.shape[2] ** -0.5
    if scaling != usual:
        q = q * (scaling / usual)  # torch 2.10 takes no scale
    longest, bounds = max(spans.lengths), spans.bounds
    attended = varlen_attn(q, k, v, bounds, bounds, longest, longest)
    assert not isinstance(attended, tuple), "nothing but the states was asked for"
    return attended


@cache
def _knows_varlen(device: "torch.device", dtype: "torch.dtype", width: int) -> bool:
    """Return whether varlen attention runs there at this width of a head, and agrees with the plain one; tried once."""
    import torch

    if dtype not in (torch.float16, torch.bfloat16):
        return False
    spans = Spans((2, 5, 5), str(device))
    q, k, v = (torch.linspace(0, turn, 12 * width, device=device).sin().view(12, 1, width) for turn in (90, 80, 70))
    q, k, v = (x.to(dtype) for x in (q, k, v))
    try:
        varlen = _varlen(q, k, v, spans, 1.0)
    except (ImportError, RuntimeError, TypeError, ValueError):  # each release and card refuses in its own way
        return False
    plain = _by_length(q, k, v, spans, 1.0)
    return bool((varlen - plain).norm() <= HALF * plain.norm())
