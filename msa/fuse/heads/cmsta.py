"""CM-STA: cross-modal attention, gate, encoder (Li et al., 2026).

Paper    https://doi.org/10.13705/j.issn.1671-6833.2026.04.002 (J. Zhengzhou Univ. Eng. Sci., in Chinese, no code)
Fidelity A as far as the paper goes; it leaves much open, and every decision of ours is marked [D].
Size     2,497,666 parameters, the printed total, with text 768, image 2048, audio 768 and three classes.
         Many other settings give the same total, so it supports the defaults below but does not prove them.
Differs  [D] marks our decision where the paper is silent or contradicts itself:
         D, heads and the gate's widths are not given: 128, 8 and (128, 64, 32), one gate for all modalities.
         Eq. 2 takes keys from the image and values from the audio, which needs L_i = L_a; eq. 1 takes both from
         the image. We follow eq. 1 (`memory`). "Spatial" and "temporal" have no formula of their own: they are
         the axis the tokens run on. Text queries image and audio; audio queries image (the paper gives no query).
         Eq. 6 is printed for text alone; the other modalities also sum every interaction they take part in.
         Eq. 19 as printed multiplies across the batch. Per sample it is a scalar, yet is then "reduced to a
         specific dimension": we take r bilinear values per pair, and no W_b is shared (`bilinear`).
         The weighted fusion of global (3D) and local (3r) parts scales each before they are joined (`fusion`).
         The printed learning rate of 2e-3 collapsed to one class on real data even with post-norm as printed,
         so TRAIN["paper"] adds a warm-up to it and TRAIN["default"] lowers it.
Missing  A modality absent from `dims` has no parameters, pairs or tokens, and the classifier is narrower.
         With one modality there is no pair: a_m = p_m, and no fusion. A modality that a sample lacks adds 0 to
         attention (eq. 2), has mean 0, is masked in the encoder, and its rows are 0.
         FACE, which the paper does not have, is a visual memory like the image: every other modality queries it.
Traps    One pooled image vector is one key: its softmax is 1 whatever the query, so W_Q and W_K of that pair
         get no gradient. Give the 7 x 7 grid. Key biases never get any: softmax does not see a common shift.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.config import checked
from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, masked_mean, task_loss
from msa.fuse.modules.attention import Attention, Drops
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality, in the order text, image, audio, face
Gate = Callable[[Parts, Parts], Parts]
Pair = tuple[Modality, Modality]  # (query, memory)


@dataclass(frozen=True)
class Config:
    """`[D]`: our decision where the paper is silent. The other values of a choice are other readings of the paper."""

    dim: int = 128  # D, "linear transformation dimension" of eq. 4, number not given [D]
    heads: int = 8  # eq. 14, number not given [D]; d_k = 16
    dropout: float = 0.2  # Sec. 2.2; attention, encoder and classifier [D]
    attention_drops: Drops = "weights"  # as usual [D]; "keys", whole ones, in the presets default and light
    without: Literal["", "cmsta", "cg", "tcmfi", "cmsta+cg"] = ""  # the rows of Table 3; see CMSTA.__init__ [D]

    projection_norm: bool = False  # LayerNorm after the projection of Sec. 1.1 [D]

    cm_layers: int = 2  # eq. 2, i = 0, 1; at 0 an interaction is its query's mean, F'_qk = p_q
    cm_share: Literal["none", "all_pairs", "across_layers"] = "none"  # which CM-STA layers are one and the same [D]
    memory: Literal["pair", "concat", "literal"] = "pair"  # keys, values: eq. 1 | all but the query | eq. 2 [D]
    ai_query: Literal["audio", "image"] = "audio"  # which of the two is the query in F_ai, eq. 5 [D]
    alpha: float = 1.0  # alpha_i of eq. 2 at the start [D]; at 0 attention weights get no gradient in step 1

    gate_hidden: tuple[int, ...] = (128, 64, 32)  # widths of h_1..h_3, eq. 7-9 [D]
    gate_shared: bool = True  # one W_1..W_4 for all modalities [D]

    tokens: Literal["gated+orig", "gated"] = "gated+orig"  # X of eq. 12, "gated and original features"
    positional: Literal["modality", "token"] = "modality"  # P of eq. 12: 3 codes used twice, or 6 [D]
    layers: int = 6  # Sec. 1.4
    ffn: int = 4  # width of eq. 17 in units of D [D]
    norm: Literal["post", "pre"] = "post"  # eq. 16 and 18; "pre" ends in a LayerNorm of its own
    bilinear: Literal["tensor", "scalar", "hadamard", "outer_lowrank"] = "tensor"  # eq. 19, see _BILINEAR [D]
    bilinear_shared: bool = False  # eq. 19 prints one W_b for all pairs; the parameter count wants three [D]
    rank: int = 8  # r, the "specific dimension" of Sec. 1.4 [D]
    global_feature: Literal["first", "mean", "all"] = "first"  # T, I, A | mean of all rows | all rows joined [D]
    fusion: Literal["scale", "add"] = "scale"  # scale and join | project the local part and add [D]
    hidden: int = 64  # the "multi-layer classifier" of Sec. 1.4 [D]

    label_smoothing: float = 0.0  # cross-entropy, no loss is printed [D]
    class_weights: tuple[float, ...] | None = None  # one per class [D]

    def __post_init__(self) -> None:
        checked(self)
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )


PRESETS = {
    "default": Config(attention_drops="keys"),  # a fifth of the time: docs/decisions/0010-attention-dropout.md
    "paper": Config(),
    "light": Config(
        layers=2, attention_drops="keys"
    ),  # Sec. 3.2 finds fewer modules as good; on 3,600 real pairs two layers did best
}
_TRAIN: dict[str, object] = {
    "lr": 3e-4,  # ours: the printed rate collapses
    "weight_decay": 3e-3,  # Sec. 2.2
    "batch": 16,  # Sec. 2.2
    "epochs": 50,  # ours
    "patience": 5,  # Sec. 2.2: epochs without a lower validation loss
    "warmup_epochs": 1.0,  # ours
    "schedule": "plateau",  # "a scheduler", Sec. 2.2
    "clip": 1.0,  # ours
}
TRAIN: dict[str, dict[str, object]] = {
    "default": _TRAIN,
    "paper": _TRAIN | {"lr": 2e-3},  # Sec. 2.2
    "light": _TRAIN,
}
SEARCH = {"layers": (2, 4, 6)}  # of the numbers in Figure 6


class CMSTA(FusionHead):
    """Sec. 1: project, let every pair interact, gate, fuse, classify."""

    class_weights: Tensor | None

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in Modality if m in dims]
        if len(dims) == 1 and (c.tokens == "gated" or "cg" in c.without) and c.without != "tcmfi":
            raise ConfigError(
                f"with tokens={c.tokens!r} and without={c.without!r} a lone modality is one token, without another",
                fix="give two modalities, or keep the gate and tokens='gated+orig'",
            )
        self.project = nn.ModuleDict({m: _projection(dims[m], c) for m in self.modalities})
        # Table 3. Without CG its tokens hold the interactions, otherwise CM-STA would have no effect; setting g = 1
        # instead is "cmsta+cg", where both copies of the tokens are p. Without TCMFI the classifier reads G.
        self.interact = PairMean(self.modalities, c) if "cmsta" in c.without else PairAttention(self.modalities, c)
        ungated = {"cg": take_context, "cmsta+cg": take_original}.get(c.without)
        self.gate: Gate = ungated or ContextualGate(self.modalities, c)
        self.fuse: Join | TCMFI = Join(self.modalities, c) if c.without == "tcmfi" else TCMFI(self.modalities, c)
        self.classify = nn.Sequential(
            nn.Linear(self.fuse.width, c.hidden), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.hidden, task.outputs)
        )
        self.label_smoothing = c.label_smoothing
        if (c.class_weights is not None or c.label_smoothing) and not task.single:
            raise ConfigError(
                "class_weights and label_smoothing are of one class out of several, which these labels are not",
                fix="leave them out",
            )
        if c.class_weights is not None and len(c.class_weights) != len(task.classes):
            raise ConfigError(
                f"{len(c.class_weights)} class weights for the {len(task.classes)} classes {', '.join(task.classes)}",
                fix="give one weight per class, in that order, or none",
            )
        weights = None if c.class_weights is None else torch.tensor(c.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        mask = {m: batch.mask[m] for m in self.modalities}  # each (B, L_m)
        present = torch.stack([mask[m].any(1) for m in self.modalities], 1)  # (B, M), M modalities
        f = {m: self.project[m](batch.x[m]) for m in self.modalities}  # F_m, each (B, L_m, D)
        p = {m: masked_mean(f[m], mask[m]) for m in self.modalities}  # F'_m of eq. 11, each (B, D)
        pairs = self.interact(f, mask, p)  # F'_qk, each (B, D)
        gated = self.gate(context(pairs, p), p)  # G_m, each (B, D)
        return self.classify(self.fuse(gated, p, present))  # (B, outputs)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self(batch)  # (B, outputs)
        if not self.task.single:
            return output, {"task": task_loss(self.task, output, batch.y)}
        weight, smoothing = self.class_weights, self.label_smoothing
        return output, {"task": F.cross_entropy(output.float(), batch.y, weight=weight, label_smoothing=smoothing)}


def _projection(width: int, c: Config) -> nn.Module:
    """F_m = x_m W + b, Sec. 1.1: (B, L_m, D_m) -> (B, L_m, D)."""
    linear = nn.Linear(width, c.dim)
    return nn.Sequential(linear, nn.LayerNorm(c.dim)) if c.projection_norm else linear


# --- CM-STA, Sec. 1.2 -------------------------------------------------------------------------------------------------


def query_pairs(modalities: list[Modality], ai_query: str) -> list[Pair]:
    """Return (query, memory) pairs: text queries all, audio the image (or the reverse), all query the face."""
    a, i = (Modality.AUDIO, Modality.IMAGE) if ai_query == "audio" else (Modality.IMAGE, Modality.AUDIO)
    return list(combinations([m for m in (Modality.TEXT, a, i, Modality.FACE) if m in modalities], 2))


def short(pair: Pair) -> str:
    """Return the paper's subscript: (text, image) is ti."""
    return pair[0][0] + pair[1][0]


class CrossLayer(nn.Module):
    """One step of eq. 2 and 3."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.attention = Attention(c.dim, c.heads, c.dropout, c.attention_drops)  # eq. 1
        self.alpha = nn.Parameter(torch.tensor(c.alpha))  # alpha_i, ()
        self.norm = nn.LayerNorm(c.dim)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Query x (B, L, D) over key (B, S, D) and value (B, S, D) where mask (B, S) is True -> (B, L, D)."""
        return self.norm(x + self.alpha * self.attention(x, key, value, mask))  # F_q^(i+1), (B, L_q, D)


class PairAttention(nn.Module):
    """CM-STA: the query's steps attend to the memory, layer by layer, and are averaged, eq. 1-5."""

    def __init__(self, modalities: list[Modality], c: Config) -> None:
        super().__init__()
        self.pairs = query_pairs(modalities, c.ai_query)
        self.memory = {(q, k): memory(q, k, modalities, c.memory) for q, k in self.pairs}
        self.steps = {pair: [self._name(pair, i, c.cm_share) for i in range(c.cm_layers)] for pair in self.pairs}
        self.layers = nn.ModuleDict({name: CrossLayer(c) for steps in self.steps.values() for name in steps})

    @staticmethod
    def _name(pair: Pair, i: int, share: str) -> str:
        """The layer that step i of a pair runs through, ti_0 or the like; layers of one name are shared."""
        return f"{'all' if share == 'all_pairs' else short(pair)}_{0 if share == 'across_layers' else i}"

    def forward(self, f: Parts, mask: Parts, p: Parts) -> dict[Pair, Tensor]:
        """F_m (B, L_m, D) under mask_m (B, L_m); means p_m (B, D) are not read -> F'_qk, each (B, D)."""
        return {pair: masked_mean(self._interact(pair, f, mask), mask[pair[0]]) for pair in self.pairs}  # eq. 5

    def _interact(self, pair: Pair, f: Parts, mask: Parts) -> Tensor:
        keys, values = self.memory[pair]
        key, value = (torch.cat([f[m] for m in source], 1) for source in (keys, values))  # (B, S, D)
        if key.shape != value.shape:
            raise ConfigError(
                f"memory='literal' pairs {key.shape[1]} keys of {keys[0]} with {value.shape[1]} values of {values[0]}",
                fix="use features aligned to one length, or memory='pair'",
            )
        valid = torch.cat([mask[m] for m in keys], 1) & torch.cat([mask[m] for m in values], 1)  # (B, S)
        x = f[pair[0]]  # F_q^(0), (B, L_q, D)
        for name in self.steps[pair]:
            x = self.layers[name](x, key, value, valid)  # F_q^(i+1), (B, L_q, D), eq. 2-4; the memory stays F_k
        return x


def memory(q: Modality, k: Modality, modalities: list[Modality], kind: str) -> tuple[list[Modality], list[Modality]]:
    """Return the modalities of the keys and of the values of pair (q, k)."""
    others = [m for m in modalities if m != q]
    if kind == "literal" and len(modalities) != 3:
        raise ConfigError(
            f"memory='literal' takes its values from the third modality, and there are {len(modalities)} modalities",
            fix="use memory='pair'",
        )
    return {
        "pair": ([k], [k]),  # eq. 1
        "concat": (others, others),
        "literal": ([k], [m for m in others if m != k]),  # eq. 2: Attention(F_t, F_i, F_a)
    }[kind]


class PairMean(nn.Module):
    """Table 3 without CM-STA: an interaction is the mean of the two modalities, and has no parameters."""

    def __init__(self, modalities: list[Modality], c: Config) -> None:
        super().__init__()
        self.pairs = query_pairs(modalities, c.ai_query)

    def forward(self, f: Parts, mask: Parts, p: Parts) -> dict[Pair, Tensor]:
        """Means p_m (B, D) of f_m (B, L_m, D) under mask_m (B, L_m) -> F'_qk, each (B, D)."""
        return {(q, k): (p[q] + p[k]) / 2 for q, k in self.pairs}  # each (B, D)


# --- CG, Sec. 1.3 -----------------------------------------------------------------------------------------------------


def context(pairs: Mapping[Pair, Tensor], p: Parts) -> Parts:
    """a_m, eq. 6: the sum of the interactions m takes part in, each (B, D). A lone modality is its own context."""
    if not pairs:
        return p
    return {m: torch.stack([x for pair, x in pairs.items() if m in pair]).sum(0) for m in p}


class ContextualGate(nn.Module):
    """Gate each feature by its context: G_m = sigmoid(MLP(a_m)) * F'_m, eq. 7-11."""

    def __init__(self, modalities: list[Modality], c: Config) -> None:
        super().__init__()
        self.shared = c.gate_shared
        self.mlp = nn.ModuleDict({m: self._mlp(c) for m in (["all"] if c.gate_shared else modalities)})

    @staticmethod
    def _mlp(c: Config) -> nn.Sequential:
        steps = [[nn.Linear(n, m), nn.ReLU()] for n, m in pairwise([c.dim, *c.gate_hidden, c.dim])]  # eq. 7-9
        return nn.Sequential(*[step for pair in steps for step in pair][:-1], nn.Sigmoid())  # eq. 10

    def forward(self, a: Parts, p: Parts) -> Parts:
        """Context a_m (B, D) and original p_m (B, D) -> G_m, each (B, D)."""
        return {m: self.mlp["all" if self.shared else m](a[m]) * p[m] for m in p}  # eq. 11


def take_context(a: Parts, p: Parts) -> Parts:
    """Replace the gate by the interactions."""
    return a


def take_original(a: Parts, p: Parts) -> Parts:
    """Replace the gate by the original features."""
    return p


# --- TCMFI, Sec. 1.4 --------------------------------------------------------------------------------------------------


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward over the tokens, eq. 13-18, or the same with the norms first."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.pre = c.norm == "pre"
        self.attention = Attention(c.dim, c.heads, c.dropout, c.attention_drops)  # eq. 13 and 14
        self.ffn = nn.Sequential(  # eq. 17
            nn.Linear(c.dim, c.ffn * c.dim), nn.ReLU(), nn.Dropout(c.dropout), nn.Linear(c.ffn * c.dim, c.dim)
        )
        self.norm1, self.norm2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Tokens x (B, N, D), under mask valid (B, N) -> (B, N, D)."""
        if self.pre:
            y = self.norm1(x)  # (B, N, D)
            x = x + self.drop(self.attention(y, y, y, valid))  # (B, N, D)
            return x + self.drop(self.ffn(self.norm2(x)))
        o_1 = self.norm1(x + self.drop(self.attention(x, x, x, valid)))  # (B, N, D), eq. 16
        return self.norm2(o_1 + self.drop(self.ffn(o_1)))  # O_2, (B, N, D), eq. 18


class TCMFI(nn.Module):
    """An encoder over one token per modality and copy, then global rows and bilinear local ones, eq. 12-19."""

    def __init__(self, modalities: list[Modality], c: Config) -> None:
        super().__init__()
        self.n = len(modalities)  # M
        self.copies = len(c.tokens.split("+"))
        codes = self.n if c.positional == "modality" else self.n * self.copies
        self.p = nn.Parameter(torch.randn(codes, c.dim) * 0.02)  # P, (M or N, D)
        self.encoder = nn.ModuleList(EncoderLayer(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim) if c.norm == "pre" else nn.Identity()
        self.global_feature = c.global_feature
        width = {"first": self.n, "mean": 1, "all": self.n * self.copies}[c.global_feature] * c.dim
        self.join = LocalGlobal(modalities, width, c) if self.n > 1 else None  # one modality has no pair
        self.width: int = self.join.width if self.join else width

    def forward(self, gated: Parts, original: Parts, present: Tensor) -> Tensor:
        """G_m, gated (B, D), and p_m, original (B, D), under present (B, M) -> z (B, width)."""
        x = torch.stack([*gated.values(), *original.values()][: self.n * self.copies], 1)  # X, (B, N, D)
        valid = present.repeat(1, self.copies)  # (B, N)
        x = x + self.p.repeat(x.shape[1] // len(self.p), 1)  # X', (B, N, D), eq. 12
        for layer in self.encoder:
            x = layer(x, valid)  # (B, N, D)
        x = self.norm(x) * valid[:, :, None]  # (B, N, D); rows of an absent modality end as 0
        g = self._global(x, valid)  # (B, M D), (B, D) or (B, N D)
        return self.join(g, x[:, : self.n]) if self.join else g  # rows T, I, A; z (B, width)

    def _global(self, x: Tensor, valid: Tensor) -> Tensor:
        if self.global_feature == "mean":
            return masked_mean(x, valid)  # (B, D)
        return x.flatten(1) if self.global_feature == "all" else x[:, : self.n].flatten(1)  # (B, N D) or (B, M D)


class Join(nn.Module):
    """Table 3 without TCMFI: the gated features concatenated."""

    def __init__(self, modalities: list[Modality], c: Config) -> None:
        super().__init__()
        self.width = len(modalities) * c.dim

    def forward(self, gated: Parts, original: Parts, present: Tensor) -> Tensor:
        """G_m, gated (B, D), and p_m, original (B, D), under present (B, M) -> (B, M D)."""
        return torch.cat(list(gated.values()), 1)  # (B, M D)


class LocalGlobal(nn.Module):
    """Bilinear pooling of every pair of rows, eq. 19, and its learnable weighting against the global feature g."""

    def __init__(self, modalities: list[Modality], width: int, c: Config) -> None:
        super().__init__()
        pairs = list(combinations(modalities, 2))  # TI, TA, IA
        self.rows = list(combinations(range(len(modalities)), 2))  # the same, as rows
        self.names = ["all" if c.bilinear_shared else short(pair) for pair in pairs]
        self.maps = nn.ModuleDict({name: _BILINEAR[c.bilinear](c) for name in self.names})
        local = len(pairs) * {"tensor": c.rank, "scalar": 1, "hadamard": c.dim, "outer_lowrank": c.rank**2}[c.bilinear]
        self.reduce: nn.Module = nn.Identity()
        if c.bilinear == "hadamard":  # 3D -> D: "reduced to a specific dimension"
            self.reduce, local = nn.Linear(local, c.dim), c.dim
        self.add = nn.Linear(local, width) if c.fusion == "add" else None
        self.w = nn.Parameter(torch.zeros(()))  # lambda = sigmoid(w), ()
        self.width = width if self.add else width + local

    def forward(self, g: Tensor, rows: Tensor) -> Tensor:
        """Global g (B, G) and T, I, A in rows (B, M, D) -> z (B, width)."""
        with torch.autocast(rows.device.type, enabled=False):  # sums of D^2 products: fp32 under AMP
            t, g = rows.float(), g.float()  # (B, M, D), (B, G)
            local = [self.maps[name](t[:, i], t[:, j]) for name, (i, j) in zip(self.names, self.rows, strict=True)]
            b = self.reduce(torch.cat(local, 1))  # (B, P), P the width of all pairs, 3r of BilinearForm
            weight = self.w.sigmoid()  # lambda, ()
            if self.add:
                return weight * g + (1 - weight) * self.add(b)  # (B, G)
            return torch.cat([weight * g, (1 - weight) * b], 1)  # (B, G + P)


class BilinearForm(nn.Module):
    """r numbers x W_o y^T + c_o per pair. Scaled so that rows of unit variance give values of unit variance."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.w_b = nn.Parameter(torch.randn(c.rank, c.dim, c.dim) / c.dim)  # (r, D, D)
        self.bias = nn.Parameter(torch.zeros(c.rank))  # (r,)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, D) and y (B, D) -> (B, r)."""
        return torch.einsum("bd,rde,be->br", x, self.w_b, y) + self.bias


class BilinearScalar(nn.Module):
    """Eq. 19 to the letter, for each sample: the number x W_b y^T."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.w_b = nn.Parameter(torch.randn(c.dim, c.dim) / c.dim)  # (D, D)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, D) and y (B, D) -> (B, 1)."""
        return torch.einsum("bd,de,be->b", x, self.w_b, y)[:, None]


class BilinearHadamard(nn.Module):
    """The elementwise product (x W_b) * y, before the sum that would make it a number."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.w_b = nn.Linear(c.dim, c.dim, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, D) and y (B, D) -> (B, D)."""
        return self.w_b(x) * y


class BilinearOuter(nn.Module):
    """The outer product of x and y after each is reduced to r numbers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.u, self.v = (nn.Linear(c.dim, c.rank, bias=False) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (B, D) and y (B, D) -> (B, r^2)."""
        return torch.einsum("br,bs->brs", self.u(x), self.v(y)).flatten(1)


_BILINEAR = {
    "tensor": BilinearForm,
    "scalar": BilinearScalar,
    "hadamard": BilinearHadamard,
    "outer_lowrank": BilinearOuter,
}
