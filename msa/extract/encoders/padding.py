"""Padded batches of speech in which every clip has the hidden states it has alone.

In wav2vec 2.0 and its kind a shorter clip meets its padding in three places:
1. The first convolution of the base models is followed by a GroupNorm over time. Here it sees the clip's own frames.
2. The positional convolution reads frames on both sides. Here zeros stand beyond a clip, as they do when it is alone.
3. Attention reads every frame. It is masked.
The other convolutions read what lies in their field: a frame whose field ends inside the clip never sees the padding,
and no other frame is kept. What is left works on one frame at a time.

The library would look at the mask before it uses it, which waits for the GPU: so attention gets the mask from here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

from msa.extract.encoders.packed import attach

if TYPE_CHECKING:
    import torch

NAME = "msa_padded"  # among the attention implementations of transformers

# Families in which there is no fourth place. SEW pools frames by pairs and Conformers convolve in every block.
EXACT = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio")


@dataclass
class Batch:
    """The batch under way: how many samples each clip has. Empty where nothing is padded, and nothing is to be done."""

    samples: Sequence[int] = ()
    counted: Any = None  # the same as a tensor (B,), where the model is
    attached: bool = False  # the model's attention reads the lengths here; else it needs a mask

    @contextmanager
    def of(self, samples: Sequence[int], counted: "torch.Tensor") -> Iterator[None]:
        """Hold the lengths of the clips while the model encodes them."""
        self.samples, self.counted = (samples, counted) if len(set(samples)) > 1 else ((), None)
        try:
            yield
        finally:
            self.samples, self.counted = (), None

    def mask(self) -> "torch.Tensor | None":
        """Return (B, samples) bool, True inside a clip; None where the model needs no mask."""
        return below(max(self.samples), self.counted) if self.samples and not self.attached else None

    def frames(self, config: Any, length: int) -> "torch.Tensor | None":
        """Return (B, 1, 1, length) bool, True for hidden states of a clip; None: all are."""
        return below(length, frames(config, self.counted))[:, None, None] if self.samples else None


def below(longest: int, counts: "torch.Tensor") -> "torch.Tensor":
    """Return (B, longest) bool, in which the first so many of each row are True."""
    import torch

    return torch.arange(longest, device=counts.device) < counts[:, None]


def separable(config: Any) -> bool:
    """Return whether `separate` makes padded batches exact. An adapter convolves over the end of a clip."""
    return config.model_type in EXACT and not getattr(config, "add_adapter", False)


def separate(model: Any) -> Batch:
    """Let a model treat the clips of a padded batch apart, in place; what is returned tells it their lengths.

    Weights, names and results for a clip alone stay as they are.
    """
    from torch import nn

    batch = Batch()
    first = model.feature_extractor.conv_layers[0]
    norm = getattr(first, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        # not by a hook, which would come when the work is done
        norm.forward = partial(_norm, norm, first.conv, batch)  # type: ignore[method-assign]
    for module in model.encoder.pos_conv_embed.modules():
        if isinstance(module, nn.Conv1d):
            module.register_forward_pre_hook(partial(_zeros_beyond, model.config, batch))
    attentions: list[Any] = [module for module in model.encoder.modules() if hasattr(module, "q_proj")]
    own = [module for module in attentions if hasattr(module, "torch_multi_head_self_attention")]  # WavLM's
    for module in attentions:
        module.frames = partial(batch.frames, model.config)
    for module in own:
        module.torch_multi_head_self_attention = MethodType(_attention, module)
    batch.attached = bool(own) or attach(model, NAME, attend)
    return batch


def attend(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    scaling: float | None = None,
    **others: Any,
) -> tuple["torch.Tensor", None]:
    """Attend within each clip: query, key and value (B, H, T, D) -> (B, T, H, D)."""
    from torch.nn import functional

    mask = module.frames(key.shape[2])
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2), None


def frames(config: Any, samples: Any) -> Any:
    """Return how many hidden states a waveform of so many samples has: one per field inside it. Takes tensors, too."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples


def _norm(norm: Any, conv: Any, batch: Batch, x: "torch.Tensor") -> "torch.Tensor":
    """Apply GroupNorm to (B, C, T), for each clip over the outputs of `conv` inside it; zeros beyond."""
    from torch.nn import functional

    def own(x: "torch.Tensor") -> "torch.Tensor":
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)

    if not batch.samples:
        return own(x)
    out = x.new_zeros(0)
    for i, samples in enumerate(batch.samples):  # clip by clip: the very sums it has alone
        count = (samples - conv.kernel_size[0]) // conv.stride[0] + 1
        clip = own(x[i : i + 1, :, :count])
        if not i:
            out = clip.new_zeros(x.shape)  # of its dtype: autocast normalises in float32
        out[i, :, :count] = clip[0]
    return out


def _zeros_beyond(config: Any, batch: Batch, conv: Any, inputs: tuple["torch.Tensor"]) -> tuple["torch.Tensor"] | None:
    """Zero what lies beyond each clip, (B, C, T), before a positional convolution."""
    if not batch.samples:
        return None
    (x,) = inputs
    own = below(x.shape[2], frames(config, batch.counted))  # (B, T)
    return (x.masked_fill(~own[:, None], 0),)


def _attention(
    self: Any, hidden: "torch.Tensor", attention_mask: "torch.Tensor | None", bias: "torch.Tensor"
) -> tuple["torch.Tensor", None]:
    """Compute WavLM's attention over (B, T, D) as one fused product; its gated position bias comes as (B heads, T, T).

    The library's goes by a call that warns of a mask beside a bias, and returns weights that are not used.
    """
    from torch.nn import functional

    size, length, width = hidden.shape
    bias = bias.view(size, self.num_heads, length, length)
    mask = self.frames(length)
    if mask is not None:
        bias = bias.masked_fill(~mask, float("-inf"))
    query, key, value = (
        project(hidden).view(size, length, self.num_heads, -1).transpose(1, 2)  # (B, heads, T, D / heads)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
    return self.out_proj(out.transpose(1, 2).reshape(size, length, width)), None
