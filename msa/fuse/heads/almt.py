"""ALMT: language-guided hyper-modality (Zhang et al., EMNLP 2023).

Paper    https://doi.org/10.18653/v1/2023.emnlp-main.49
Code     https://github.com/Haoyu-ha/ALMT, commit da9461071f21 (2025-04-09)
Fidelity A
Size     2,602,625 parameters with text 768, audio 5, vision 20 wide and `lengths` 50, 375, 500: those of the authors'
         settings for MOSI less 1,024, see Differs.
Differs  Text is frozen states; the authors train BERT, and report that much depends on it.
         Padding is masked, where the authors' code reads its zeros.
         The result is read from one token. In a stack of cross-attention no row of the query sees another, so only
         the token's row is computed. The numbers are the same, without 8 rows of positions that get no gradient.
         For the same reason the last embedding layer computes only the T rows that are used. A sequence longer than
         its table of positions is not cut: its steps share the rows in order.
         The residual of a guide layer starts from the normalised h_hyper, as in the authors' code.
Missing  Without text the first of audio, face and image guides. The guide reads every other modality, however many
         there are. For a lone modality the token reads its deepest level. The T tokens of a modality that a sample
         lacks see only each other: a learnt constant.
Traps    Text reaches the output only through the queries of the guide layers; its content is never read. LN_k's bias
         gets no gradient, since softmax ignores a shift common to all keys. h_hyper starts as a constant row, which
         its norm turns to 0, so only the bias of the first layer's norm matters until that has changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead
from msa.fuse.modules.attention import Attend
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality
_ORDER = (Modality.TEXT, Modality.AUDIO, Modality.FACE, Modality.IMAGE)  # the first one present guides


@dataclass(frozen=True)
class Config:
    """The authors' settings for MOSI; for MOSEI they are the same unless a comment says otherwise."""

    dim: int = 128  # d
    tokens: int = 8  # T, of every modality and of the hyper-modality
    heads: int = 8
    dim_head: int = 64  # of Transformer layers
    guide_dim_head: int = 16  # of guide layers
    ffn: int = 128  # inner width
    lengths: tuple[int, ...] = (50, 500, 500)  # steps that text, audio, vision have positions for: MOSEI's
    embed_layers: int = 1
    guide_layers: int = 3  # the guide is deepened one time less
    fusion_layers: int = 2  # 4 on MOSEI
    dropout: float = 0.0  # after the feed-forward's GELU, and on the output of each sublayer

    def __post_init__(self) -> None:
        if len(self.lengths) != 3 or min(self.lengths) < 1:
            raise ConfigError(f"lengths is {self.lengths}", fix="three numbers: text, audio, vision, as 50,375,500")
        if min(self.embed_layers, self.guide_layers, self.fusion_layers) < 1:
            raise ConfigError("every number of layers must be 1 or more", fix="the default is 1, 3 and 2")


PRESETS = {
    "default": Config(),
    "small": Config(dim=48, tokens=2, heads=2, dim_head=16, ffn=48, guide_layers=2, fusion_layers=1),
}
TRAIN: dict[str, dict[str, object]] = {
    "default": {
        "lr": 1e-4,  # the authors'
        "weight_decay": 1e-4,  # the authors'
        "batch": 64,  # the authors'
        "epochs": 100,  # 200 in the authors' settings
        "patience": 32,  # of the public reimplementation
        "warmup_epochs": 10.0,  # a tenth, as theirs
        "schedule": "cosine",  # the authors'
    }
}


class ALMT(FusionHead):
    """Embed each modality in T tokens, read the guided ones into h_hyper, and read h_hyper with one token."""

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in _ORDER if m in dims]
        self.guide, *self.guided = self.modalities
        steps = dict(zip(_ORDER, (*c.lengths, c.lengths[2]), strict=True))
        self.embed = nn.ModuleDict({m: Embedding(dims[m], steps[m], c) for m in self.modalities})
        self.pos = nn.Parameter(torch.randn(c.tokens, c.dim))  # of the guide's levels, (T, d)
        self.deepen = nn.ModuleList(Layer(c) for _ in range(c.guide_layers - 1))
        self.layers = nn.ModuleList(GuideLayer(self.guided, c) for _ in range(c.guide_layers if self.guided else 0))
        if self.guided:
            self.hyper = nn.Parameter(torch.ones(c.tokens, c.dim))  # h_hyper at the start, (T, d)
        self.fuse = Fusion(c)
        self.classify = nn.Linear(c.dim, task.outputs)

    def forward(self, batch: Batch) -> Tensor:
        h = {m: self.embed[m](batch.x[m], batch.mask[m]) for m in self.modalities}  # h_m^1, each (B, T, d)
        levels = [h[self.guide] + self.pos]  # h_l^1, (B, T, d)
        for layer in self.deepen:
            levels.append(layer(levels[-1], levels[-1]))  # h_l^i, (B, T, d)
        hyper = self.hyper.expand_as(levels[0]) if self.guided else levels[-1]  # h_hyper^0, (B, T, d)
        for level, guide in zip(levels, self.layers, strict=False):
            hyper = guide(level, {m: h[m] for m in self.guided}, hyper)  # h_hyper^i, (B, T, d)
        return self.classify(self.fuse(hyper))  # (B, outputs)


def norms(names: Iterable[str], dim: int) -> nn.ModuleDict:
    """Return a LayerNorm per name."""
    return nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})


class Layer(nn.Module):
    """x + Attn(LN_q x, LN_k y, LN_v y), then x + W_2 gelu(W_1 LN x)."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width = c.heads * c.dim_head
        self.attend = Attend(c.heads)
        self.norm = norms("qkv", c.dim)
        self.w_q, self.w_k, self.w_v = (nn.Linear(c.dim, width, bias=False) for _ in range(3))
        self.w_o = nn.Sequential(nn.Linear(width, c.dim), nn.Dropout(c.dropout))
        w_1, w_2 = nn.Linear(c.dim, c.ffn), nn.Linear(c.ffn, c.dim)
        self.ffn = nn.Sequential(nn.LayerNorm(c.dim), w_1, nn.GELU(), nn.Dropout(c.dropout), w_2, nn.Dropout(c.dropout))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows x (B, L, d) attend to rows y (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        q, k, v = self.w_q(self.norm["q"](x)), self.w_k(self.norm["k"](y)), self.w_v(self.norm["v"](y))
        x = x + self.w_o(self.attend(q, k, v, mask))  # (B, L, d)
        return x + self.ffn(x)


class Embedding(nn.Module):
    """h_m^1 = Transformer([h_m^0 | projected U_m])[:T]: T learnt tokens attend to a sequence of any length."""

    def __init__(self, width: int, steps: int, c: Config) -> None:
        super().__init__()
        self.t, self.steps = c.tokens, steps
        self.project = nn.Linear(width, c.dim)
        self.tokens = nn.Parameter(torch.zeros(c.tokens, c.dim))  # h_m^0, (T, d)
        self.pos = nn.Parameter(torch.randn(c.tokens + steps, c.dim))  # (T + L_max, d)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.embed_layers))

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """U_m (B, L, D_m) under mask (B, L) -> h_m^1 (B, T, d)."""
        tokens = (self.tokens + self.pos[: self.t]).expand(len(u), -1, -1)  # (B, T, d)
        s = torch.cat([tokens, self.project(u) + self.pos[self.t + self._step(mask)]], 1)  # (B, T + L, d)
        seen = F.pad(mask, (self.t, 0), value=True)  # (B, T + L)
        for layer in self.layers[:-1]:
            s = layer(s, s, seen)  # (B, T + L, d)
        return self.layers[-1](s[:, : self.t], s, seen)

    def _step(self, mask: Tensor) -> Tensor:
        """Return the row of positions of each step, (L,), or (B, L) where n > L_max steps share the L_max rows."""
        i = torch.arange(mask.shape[1], device=mask.device)  # (L,)
        if mask.shape[1] <= self.steps:
            return i
        n = (mask * (i + 1)).amax(1, keepdim=True).clamp(min=self.steps)  # (B, 1), the last valid step counts
        return (i * self.steps // n).clamp(max=self.steps - 1)  # i itself where n is no more than L_max


class GuideLayer(nn.Module):
    """h_hyper + O(sum over m of softmax(l W_Q (m W_K,m)^T / sqrt(d_k)) m W_V,m): adaptive hyper-modality learning."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        width = c.heads * c.guide_dim_head
        self.attend = Attend(c.heads)
        self.norm = norms(["guide", "hyper", *guided], c.dim)
        self.w_q = nn.Linear(c.dim, width, bias=False)
        self.w_k, self.w_v = (nn.ModuleDict({m: nn.Linear(c.dim, width, bias=False) for m in guided}) for _ in range(2))
        self.w_o = nn.Sequential(nn.Linear(width, c.dim), nn.Dropout(c.dropout))

    def forward(self, level: Tensor, h: Parts, hyper: Tensor) -> Tensor:
        """Return h_hyper^i -> (B, T, d).

        h_l^i, level (B, T, d); h_m^1 of the guided, h (B, T, d); h_hyper^(i-1), hyper (B, T, d).
        """
        q = self.w_q(self.norm["guide"](level))  # (B, T, width)
        read = []
        for m, x in h.items():
            x = self.norm[m](x)  # (B, T, d)
            read.append(self.attend(q, self.w_k[m](x), self.w_v[m](x)))  # (B, T, width)
        return self.norm["hyper"](hyper) + self.w_o(torch.stack(read).sum(0))


class Fusion(nn.Module):
    """Transformer in which one token queries [token | h_hyper], layer by layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, c.dim))  # (1, d)
        self.pos_query = nn.Parameter(torch.randn(1, c.dim))  # (1, d)
        self.pos_hyper = nn.Parameter(torch.randn(1 + c.tokens, c.dim))  # (1 + T, d)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.fusion_layers))

    def forward(self, hyper: Tensor) -> Tensor:
        """Return the token: hyper (B, T, d) -> (B, d)."""
        token = self.token.expand(len(hyper), -1, -1)  # (B, 1, d)
        x, y = token + self.pos_query, torch.cat([token, hyper], 1) + self.pos_hyper  # (B, 1, d), (B, T + 1, d)
        for layer in self.layers:
            x = layer(x, y)  # (B, 1, d)
        return x[:, 0]
