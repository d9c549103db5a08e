"""HCL: clustered features, guided attention (Xu and Wei, 2026).

Paper    Clustering-Based Optimization and Cross-Modal Collaborative Learning for Multimodal Sentiment Analysis,
         Hans Publishers, 21 May 2026 (in Chinese, no code; the copy we have prints no DOI)
Fidelity A as far as the paper goes; it leaves much open, and every decision of ours is marked [D].
After    ALMT, https://doi.org/10.18653/v1/2023.emnlp-main.49: summary tokens, guide layers and fusion are its
         skeleton. MSAF, https://arxiv.org/abs/2012.07175: eq. 3-5 are its equations without the FC layers.
Size     5,511,825 parameters on MOSEI (text 768, audio 74, vision 35; 50, 500 and 500 steps), printed 5.51 M;
         5,485,073 on MOSI (768, 5, 20; 50, 375, 500). 1.01 G multiply-adds on MOSEI, printed 0.98 G. No setting
         we know of meets both printed figures, so they support the defaults below but do not prove them.
Differs  [D] marks our decision where the paper is silent or contradicts itself:
         K = 8 "equals the number of channels" of H1, but H1 has 8 tokens and 128 channels, and 8 tokens in 8
         groups are no clustering at all. We group the channels, each described by its 8 values (`axis`).
         Eq. 4 adds the groups of the modalities by number, so a number has to mean the same everywhere: groups
         are numbered by descending mean of their centroids. Eq. 5 alone would shrink F to about an eighth of H1,
         so it is multiplied by K (`scale`).
         Eq. 8 prints alpha' G_a + beta' V_v. We weight with either matrix the sequence its keys came from
         (`update`), through maps of its own; before that, G_a and G_v pass one shared map and a LayerNorm each.
         ALMT reads the result from a class token; we average the query's rows (`readout`, and see Traps).
         A sequence longer than its table of positions is not cut: its steps share the rows in order.
         Eq. 1 keeps T rows, so the last embedding layer computes only these: the same numbers for an eighth of
         the work on MOSEI. `rows` = all computes all of them, as the printed figure counts.
Missing  Without text the first of audio, face and image guides. Face and image are both guided, and every guided
         modality queries each other one. With one guided modality there is no collaboration: G_n = G_{n-1}
         + O(G_m). A lone modality guides none, and the fusion attends from t_N to t_N. The T tokens of a modality
         that a sample lacks see only each other: a learnt constant.
Traps    With readout = cls query rows never meet, so text reaches the output through the guide layers alone, and
         without text guidance only through COWA, whose weights depend on all modalities. K-means labels are
         constants to the gradient and may flip where two centroids are equally near: predict in the precision
         of the training, and expect small differences between devices. LN_k's bias gets no gradient, since softmax
         ignores a shift common to all keys. With g_norm, G_0 = 1 is a constant row, whose norm starts with no gradient.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msa.config import checked
from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead, task_loss
from msa.fuse.modules.attention import Attend, Drops
from msa.types import Modality, Task

Parts = dict[Modality, Tensor]  # one tensor per modality, in the order of _ORDER
_ORDER = (Modality.TEXT, Modality.AUDIO, Modality.FACE, Modality.IMAGE)  # the paper's t, a, v; v is either or both


@dataclass(frozen=True)
class Config:
    """`[D]`: our decision where the paper is silent. The other values of a choice are other readings of the paper."""

    dim: int = 128  # d, Sec. 2.2
    tokens: int = 8  # T, Sec. 2.2
    heads: int = 4  # Sec. 3.3
    dim_head: int = 64  # of Transformer layers [D]; guide layers split d itself into heads, 4 x 32 [D]
    ffn: int = 2048  # inner width of the feed-forward [D]
    dropout: float = 0.1  # attention, feed-forward, output of each sublayer [D]; ALMT 0
    attention_drops: Drops = "weights"  # as usual [D]; "keys", whole ones, in every preset
    without: Literal["", "cowa", "kmeans", "collaborative", "text_guidance"] = ""  # the rows of Tables 3 and 4

    lengths: tuple[int, ...] = (50, 500, 500)  # steps that text, audio, vision have positions for: MOSEI's [D]
    embed_layers: int = 1  # e, layers of eq. 1 [D]
    h0_std: float = 0.02  # H0 of eq. 1, "randomly initialised" [D]; ALMT 0
    pos_std: float = 1.0  # of every table of positions [D]; 1 as in ALMT
    rows: Literal["read", "all"] = "read"  # of the last embedding layer that are computed; the numbers are the same

    groups: int = 8  # K, Sec. 2.3
    axis: Literal["feature", "token"] = "feature"  # what is clustered: d channels, or T tokens (then K < T) [D]
    scope: Literal["sample", "running"] = "sample"  # clustered per sample, or by a running mean of all samples [D]
    iterations: int = 20  # of K-means [D]
    group_sum: Literal["sum", "mean"] = "sum"  # how a group enters eq. 3, "summed"
    weights: Literal["shared", "msaf"] = "shared"  # eq. 4-5 for all modalities | MSAF: a logit each, one softmax [D]
    scale: Literal["groups", "one", "residual"] = "groups"  # F: K W H1 (mean weight 1) | W H1 | H1 + W H1 [D]
    momentum: float = 0.1  # of the running mean of scope=running and of the batch norm [D]

    guide: Literal["text", "audio", "vision"] = "text"  # Table 5: the guide; all others are guided, text too
    layers: int = 3  # N, Table 6; the guide is deepened N - 1 times
    update: Literal["cross", "guided", "literal"] = "cross"  # eq. 8: a'V_v + b'V_a | a'G_a + b'G_v | as printed
    shared_map: bool = True  # one map O_a = O_v between eq. 7 and eq. 8 [D]
    g0: Literal["ones", "normal"] = "ones"  # G_0 at the start, learnt [D]; ones as in ALMT
    g_norm: bool = False  # LayerNorm on G_{n-1} in eq. 8 [D]; ALMT has one

    final_query: Literal["guide", "text"] = "guide"  # the query of the fusion where text is not the guide [D]
    fusion_layers: int = 2  # f [D]; ALMT 2 on MOSI, 4 on MOSEI
    readout: Literal["mean", "cls", "cls+selfattn"] = "mean"  # of the query's rows | ALMT's token | rows also meet [D]
    classifier: Literal["linear", "mlp"] = "linear"  # Sec. 2.4; mlp is d-d-outputs [D]
    loss: Literal["mse", "l1", "smooth_l1"] = "mse"  # of values, not given [D]; classes have cross-entropy

    def __post_init__(self) -> None:
        checked(self)
        if self.dim % self.heads:
            raise ConfigError(
                f"dim {self.dim} cannot be split into {self.heads} heads", fix="make dim a multiple of heads"
            )
        if not 1 <= self.groups <= (points := self.dim if self.axis == "feature" else self.tokens):
            raise ConfigError(f"{points} points cannot be put into {self.groups} groups", fix=f"groups=1 to {points}")
        if min(self.layers, self.embed_layers, self.fusion_layers) < 1:
            raise ConfigError("layers, embed_layers and fusion_layers must be 1 or more", fix="Table 6 has 2, 3 and 4")
        if len(self.lengths) != 3 or min(self.lengths) < 1:
            raise ConfigError(f"lengths is {self.lengths}", fix="three numbers: text, audio, vision, as 50,375,500")


PRESETS = {
    "default": Config(attention_drops="keys"),
    "count": Config(attention_drops="keys"),  # the same: it has the printed number of parameters
    "small": Config(dim_head=32, ffn=512, attention_drops="keys"),  # 2,263,057 parameters on MOSI
}
_TRAIN: dict[str, object] = {
    "lr": 1e-4,  # Sec. 3.3
    "weight_decay": 1e-4,  # ours
    "batch": 64,  # Sec. 3.3
    "epochs": 100,  # Sec. 3.3
    "patience": 100,  # ours: all epochs, then the best on validation
    "warmup_epochs": 10.0,  # ours
    "schedule": "cosine",  # ours
    "clip": 1.0,  # ours
    "select": "mae",  # ours
}
TRAIN = dict.fromkeys(PRESETS, _TRAIN)
SEARCH = {"layers": (2, 3, 4)}  # Table 6


class HCL(FusionHead):
    """Sec. 2.1: embed, cluster and weigh, guide and collaborate, fuse."""

    def __init__(self, config: Config, dims: Mapping[Modality, int], task: Task) -> None:
        super().__init__(task)
        c = config
        self.modalities = [m for m in _ORDER if m in dims]
        self.guide, self.guided = roles(self.modalities, c)
        self.asker = Modality.TEXT if c.final_query == "text" else self.guide
        if self.asker not in dims:
            raise ConfigError("final_query='text', and there is no text", fix="final_query='guide'")
        steps = dict(zip(_ORDER, (*c.lengths, c.lengths[2]), strict=True))
        self.embed = each(self.modalities, lambda m: Embedding(dims[m], steps[m], c))
        self.cowa = nn.Identity() if c.without == "cowa" else COWA(len(self.modalities), c)
        self.ccl = CCL(self.guided, c)
        self.fuse = Fusion(c)
        hidden = [nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Dropout(c.dropout)] if c.classifier == "mlp" else []
        last = nn.Linear(c.dim, task.outputs)
        nn.init.normal_(last.weight, std=0.02)  # first predictions near 0 [D]
        self.classify = nn.Sequential(*hidden, last)
        self.error = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}[c.loss]

    def forward(self, batch: Batch) -> Tensor:
        f, t, g = self.states(batch)
        y = self.fuse(t if self.asker == self.guide else f[self.asker], g)  # (B, d)
        return self.classify(y)  # (B, outputs)

    def states(self, batch: Batch) -> tuple[Parts, Tensor, Tensor]:
        """Return F_m of each modality, t_N and G_N, each (B, T, d), eq. 1-8."""
        with torch.autocast(batch.y.device.type, enabled=False):  # see Traps: what is clustered has one precision
            h = {m: self.embed[m](batch.x[m], batch.mask[m]) for m in self.modalities}  # H1_m, each (B, T, d), eq. 1
        f = self.cowa(h)  # F_m, each (B, T, d), eq. 2-5
        t, g = self.ccl(f[self.guide], {m: f[m] for m in self.guided})  # t_N and G_N, each (B, T, d), eq. 6-8
        return f, t, g

    def attention(self, batch: Batch) -> Parts:
        """Return the attention of t_N over each guided modality, eq. 6 in the last layer, each (B, heads, T, T)."""
        f, t, _ = self.states(batch)
        return self.ccl.attention(t, {m: f[m] for m in self.guided})

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self(batch)  # (B, outputs)
        if self.task.classes:
            return output, {"task": task_loss(self.task, output, batch.y)}
        return output, {"task": self.error(output.float().squeeze(1), batch.y)}


def roles(modalities: list[Modality], c: Config) -> tuple[Modality, list[Modality]]:
    """Return the guide and the guided modalities."""
    vision = Modality.FACE if Modality.FACE in modalities else Modality.IMAGE
    guide = {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": vision}[c.guide]
    if guide not in modalities and c.guide != "text":
        raise ConfigError(f"guide={c.guide!r}, and there is only {', '.join(modalities)}", fix="guide='text'")
    guide = guide if guide in modalities else modalities[0]
    guided = [m for m in modalities if m != guide]
    if c.without == "text_guidance" and len(guided) < 2:
        raise ConfigError(
            f"without='text_guidance' two modalities guide each other, and besides {guide} there is "
            f"{', '.join(guided) or 'none'}",
            fix="give a guide and two more, such as text, audio and face",
        )
    return guide, guided


def each(names: Iterable[str], make: Callable[..., nn.Module]) -> nn.ModuleDict:
    """Return a module per name."""
    return nn.ModuleDict({name: make(name) for name in names})


def normal(*shape: int, std: float) -> nn.Parameter:
    """Return a parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(shape) * std)


# --- Transformer layers -----------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """x + Attn(LN_q x, LN_k y, LN_v y), then x + W_2 gelu(W_1 LN x): pre-norm [D]."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width = c.heads * c.dim_head
        self.norm = each("qkv", lambda _: nn.LayerNorm(c.dim))
        self.w_q, self.w_k, self.w_v = (nn.Linear(c.dim, width, bias=False) for _ in range(3))
        self.attend = Attend(c.heads, c.dropout, c.attention_drops)
        self.w_o = nn.Sequential(nn.Linear(width, c.dim), nn.Dropout(c.dropout))
        w_1, w_2 = nn.Linear(c.dim, c.ffn), nn.Linear(c.ffn, c.dim)
        self.ffn = nn.Sequential(nn.LayerNorm(c.dim), w_1, nn.GELU(), nn.Dropout(c.dropout), w_2, nn.Dropout(c.dropout))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows x (B, L, d) attend to rows y (B, S, d) where mask (B, S) is True -> (B, L, d)."""
        q = self.w_q(self.norm["q"](x))  # (B, L, heads dim_head)
        k, v = self.w_k(self.norm["k"](y)), self.w_v(self.norm["v"](y))  # each (B, S, heads dim_head)
        x = x + self.w_o(self.attend(q, k, v, mask))  # (B, L, d)
        return x + self.ffn(x)


class Embedding(nn.Module):
    """H1 = Transformer([H0 | U_m])[:T], eq. 1: T learnt tokens attend to a sequence of any length."""

    def __init__(self, width: int, steps: int, c: Config) -> None:
        super().__init__()
        self.t, self.steps, self.all_rows = c.tokens, steps, c.rows == "all"
        self.project = nn.Linear(width, c.dim)
        self.h0 = normal(c.tokens, c.dim, std=c.h0_std)  # H0_m, (T, d)
        self.pos = normal(c.tokens + steps, c.dim, std=c.pos_std)  # (T + L_max, d)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.embed_layers))

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """U_m (B, L, D_m) under mask (B, L) -> H1_m (B, T, d)."""
        s = torch.cat([self.h0.expand(len(u), -1, -1), self.project(u)], 1) + self.positions(mask)  # (B, T + L, d)
        seen = F.pad(mask, (self.t, 0), value=True)  # (B, T + L): a sample of no steps still sees the tokens
        for layer in self.layers[:-1]:
            s = layer(s, s, seen)  # (B, T + L, d)
        rows = s if self.all_rows else s[:, : self.t]  # (B, T + L, d) or (B, T, d)
        return self.layers[-1](rows, s, seen)[:, : self.t]

    def positions(self, mask: Tensor) -> Tensor:
        """Return T rows for the tokens, then one per step; n > L_max steps share the L_max rows, in order."""
        if mask.shape[1] <= self.steps:
            return self.pos[: self.t + mask.shape[1]]  # (T + L, d)
        i = torch.arange(mask.shape[1], device=mask.device)  # (L,)
        n = (mask * (i + 1)).amax(1, keepdim=True).clamp(min=self.steps)  # (B, 1), the last valid step counts
        step = (i * self.steps // n).clamp(max=self.steps - 1)  # (B, L); i itself where n is no more than L_max
        tokens = self.pos[: self.t].expand(len(mask), -1, -1)  # (B, T, d)
        return torch.cat([tokens, self.pos[self.t + step]], 1)  # (B, T + L, d)


# --- COWA, Sec. 2.3 ---------------------------------------------------------------------------------------------------


class COWA(nn.Module):
    """Cluster features into groups and weight each by its sum over all modalities, eq. 2-5; in fp32 under AMP."""

    profile: Tensor

    def __init__(self, modalities: int, c: Config) -> None:
        super().__init__()
        self.config = c
        self.blocks = (modalities if c.weights == "msaf" else 1) * c.groups  # M K or K, what the softmax runs over
        values, self.points = (c.tokens, c.dim) if c.axis == "feature" else (c.dim, c.tokens)  # V, P
        self.norm = nn.BatchNorm1d(c.groups, momentum=c.momentum)
        self.logits = nn.Linear(c.groups, self.blocks) if c.weights == "msaf" else nn.Identity()
        if c.scope == "running" and c.without != "kmeans":
            self.register_buffer("profile", torch.zeros(modalities, values, self.points))  # (M, V, P)

    def forward(self, h: Parts) -> Parts:
        """H1_m in h (B, T, d) -> F_m, each (B, T, d)."""
        h_1, c = torch.stack(list(h.values()), 1), self.config  # (B, M, T, d)
        with torch.autocast(h_1.device.type, enabled=False):
            x = self._turned(h_1.float())  # X, (B, M, V, P): P points of V values
            member = self._groups(x)  # Z, (B, M, K, P), 1 where group k has point p, eq. 2
            w = torch.einsum("bmk,bmkp->bmp", self._weights(x, member), member)[:, :, None]  # (B, M, 1, P)
            f = {"groups": self.blocks * w, "one": w, "residual": 1 + w}[c.scale] * x  # F, (B, M, V, P)
        return dict(zip(h, self._turned(f).unbind(1), strict=True))

    def _turned(self, x: Tensor) -> Tensor:
        """Return stacked H1 as P points of V values, or the reverse: the last two axes swap, or stay."""
        return x if self.config.axis == "feature" else x.transpose(2, 3)

    @torch.no_grad()
    def _groups(self, x: Tensor) -> Tensor:
        c, shape = self.config, (*x.shape[:2], -1, -1)  # B, M, K, P
        if c.without == "kmeans":  # Table 3: fixed groups, of P / K neighbours
            group = torch.arange(self.points, device=x.device) * c.groups // self.points  # (P,)
            return (group == torch.arange(c.groups, device=x.device)[:, None]).float().expand(shape)
        if c.scope == "sample":
            return kmeans(x.flatten(0, 1), c.groups, c.iterations).unflatten(0, x.shape[:2])
        if self.training:
            self.profile.lerp_(x.mean(0), c.momentum)  # (M, V, P)
        return kmeans(self.profile, c.groups, c.iterations).expand(shape)

    def _weights(self, x: Tensor, member: Tensor) -> Tensor:
        """W (B, M, K): sum each group, average over V, add up the modalities, softmax over the groups."""
        x, member = x.double(), member.double()  # sums of dozens, that a softmax follows, and as many digits left
        d = torch.einsum("bmkp,bmp->bmk", member, x.mean(2))  # D_m, eq. 3: the sum and the average commute
        if self.config.group_sum == "mean":
            d = d / member.sum(3).clamp(min=1)
        p = F.relu(batch_norm(self.norm, d.sum(1).float()))  # P, (B, K), eq. 4
        w = self.logits(p).softmax(1)  # (B, K), eq. 5, or (B, M K)
        return w.unflatten(1, (-1, self.config.groups)).expand(d.shape)


def batch_norm(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Batch norm of x (B, K); one sample has no variance, so a batch of one goes by the running statistics."""
    if len(x) > 1:
        return norm(x)
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


@torch.no_grad()
def kmeans(x: Tensor, k: int, iterations: int) -> Tensor:
    """Lloyd's K-means of P points of V values, for S samples at once: x (S, V, P) float32 -> (S, K, P), 1 or 0.

    Deterministic and without synchronisation: it starts from points far from each other and always takes `iterations`
    steps. Of equally near centroids the first wins, and an empty cluster keeps its centroid.
    Groups are numbered by the mean of their centroid, highest first.
    """
    x = x - x.mean(2, keepdim=True)  # (S, V, P): where all points lie together only costs digits
    one = F.pad(x, (0, 0, 0, 1), value=1.0).transpose(1, 2)  # (S, P, V + 1): summed, the last one counts
    centroid = far_points(x, k)  # (S, K, V)
    for _ in range(iterations):
        total, count = (nearest(centroid, x) @ one).split([x.shape[1], 1], 2)  # (S, K, V), (S, K, 1)
        centroid = torch.where(count > 0, total / count, centroid)  # (S, K, V)
    order = centroid.mean(2).argsort(dim=1, descending=True, stable=True)  # (S, K)
    member = nearest(centroid, x)  # (S, K, P)
    return member.gather(1, order[:, :, None].expand_as(member))


def far_points(x: Tensor, k: int) -> Tensor:
    """Return the point of x (S, V, P) farthest from the mean, then those farthest from all taken -> (S, K, V)."""
    distance, taken = x.square().sum(1), []  # (S, P), to the mean, which is 0
    for i in range(k):
        point = distance.argmax(1)[:, None, None].expand(-1, x.shape[1], 1)  # (S, V, 1)
        taken.append(x.gather(2, point))  # (S, V, 1)
        to_last = (x - taken[-1]).square().sum(1)  # (S, P)
        distance = torch.minimum(distance, to_last) if i else to_last
    return torch.cat(taken, 2).transpose(1, 2)


def nearest(centroid: Tensor, x: Tensor) -> Tensor:
    """1 at the first of the centroids c (S, K, V) nearest to each point x (S, V, P), else 0 -> (S, K, P)."""
    square = centroid.square().sum(2, keepdim=True)  # (S, K, 1)
    score = torch.baddbmm(square, centroid, x, beta=-0.5)  # (S, K, P): |x - c|^2 = |x|^2 - 2 (c x - |c|^2 / 2)
    turn = torch.arange(score.shape[1], 0, -1, device=x.device)[:, None]  # (K, 1): K, ..., 1
    won = score.eq_(score.amax(1, keepdim=True)).mul_(turn)  # (S, K, P): argmax would be 20 times slower on a CPU
    return won.eq_(won.amax(1, keepdim=True))


# --- CCL, Sec. 2.4 ----------------------------------------------------------------------------------------------------


class CCL(nn.Module):
    """N layers of guidance and collaboration, each led by one level of the guide's encoder, eq. 6-8."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        self.deepen = nn.ModuleList(Layer(c) for _ in range(c.layers - 1))
        if self.deepen:
            self.pos = normal(c.tokens, c.dim, std=c.pos_std)  # (T, d)
        self.layers = nn.ModuleList(GuideLayer(guided, c) for _ in range(c.layers if guided else 0))
        if guided:
            start = torch.ones(c.tokens, c.dim) if c.g0 == "ones" else torch.randn(c.tokens, c.dim) * 0.02
            self.g_0 = nn.Parameter(start)  # (T, d)

    def forward(self, t: Tensor, f: Parts) -> tuple[Tensor, Tensor]:
        """The guide's F_t, t (B, T, d), and guided F_m, f (B, T, d) -> t_N (B, T, d) and G_N (B, T, d)."""
        levels = [t]  # t_1
        for n, layer in enumerate(self.deepen):
            x = levels[n] if n else t + self.pos  # (B, T, d)
            levels.append(layer(x, x))  # t_{n+1}
        if not f:
            return levels[-1], levels[-1]
        g = self.g_0.expand_as(t)  # (B, T, d)
        for level, guide in zip(levels, self.layers, strict=True):
            g = guide(g, level, f)  # G_n, (B, T, d)
        return levels[-1], g

    def attention(self, t: Tensor, f: Parts) -> Parts:
        """The softmax of eq. 6 in layer N, of t_N and the guided F_m, each (B, T, d) -> each (B, heads, T, T)."""
        last = self.layers[-1] if self.layers else None
        if not isinstance(last, GuideLayer) or last.guidance is None:
            why = "without='text_guidance' no modality guides" if last else "a lone modality guides no one"
            raise ConfigError(
                f"{why}, so there is no attention of eq. 6",
                fix="take a run of two or more modalities that has guidance",
            )
        return last.guidance.weights(t, {m: last.norm[m](x) for m, x in f.items()})


class GuideLayer(nn.Module):
    """G_n = G_{n-1} + O(sum of guidance or collaboration outputs), eq. 6-8."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        self.norm = each(guided, lambda _: nn.LayerNorm(c.dim))
        alone = c.without == "collaborative" or len(guided) == 1
        self.guidance = None if c.without == "text_guidance" else Guidance(guided, c)
        self.collaboration = None if alone else Collaboration(guided, c)
        self.norm_g = nn.LayerNorm(c.dim) if c.g_norm else nn.Identity()
        self.w_o = nn.Sequential(nn.Linear(c.dim, c.dim), nn.Dropout(c.dropout))

    def forward(self, g: Tensor, t: Tensor, f: Parts) -> Tensor:
        """G_n-1, g (B, T, d), t_n, t (B, T, d), and F_m, f (B, T, d) -> G_n (B, T, d)."""
        f = {m: self.norm[m](x) for m, x in f.items()}  # LN(F_m), each (B, T, d)
        drawn = self.guidance(t, f) if self.guidance else f  # G_m, each (B, T, d); unguided, F_m itself asks
        if self.collaboration:
            drawn = self.collaboration(drawn, f)  # one per pair, each (B, T, d)
        return self.norm_g(g) + self.w_o(torch.stack(list(drawn.values())).sum(0))


class Guidance(nn.Module):
    """The guide queries each guided modality: G_m = softmax(t W_Q (m W_K)^T / sqrt(d_k)) m W_V, eq. 6 and 7."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        self.attend = Attend(c.heads, c.dropout, c.attention_drops)
        self.norm = nn.LayerNorm(c.dim)
        self.w_q = linear(c)
        self.w_k, self.w_v = (each(guided, lambda _: linear(c)) for _ in range(2))

    def forward(self, t: Tensor, f: Parts) -> Parts:
        """t_n, t (B, T, d), and LN(F_m), f (B, T, d) -> G_m, each (B, T, d)."""
        q = self.w_q(self.norm(t))  # (B, T, d)
        return {m: self.attend(q, self.w_k[m](x), self.w_v[m](x)) for m, x in f.items()}

    def weights(self, t: Tensor, f: Parts) -> Parts:
        """Return the attention weights of `forward`: t and LN(F_m), each (B, T, d) -> each (B, heads, T, T)."""
        split = lambda x: x.unflatten(2, (self.attend.heads, -1)).transpose(1, 2)  # noqa: E731, (B, heads, T, d_k)
        q = split(self.w_q(self.norm(t)))
        k = {m: split(self.w_k[m](x)) for m, x in f.items()}
        return {m: (q @ k_m.mT / q.shape[-1] ** 0.5).softmax(-1) for m, k_m in k.items()}


class Collaboration(nn.Module):
    """Each G_m queries each other guided modality o: softmax(LN(O G_m) W_Q (o W_K)^T / sqrt(d_k)) values, eq. 8."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        self.attend = Attend(c.heads, c.dropout, c.attention_drops)
        if c.update == "literal" and len(guided) > 2:
            raise ConfigError(f"update='literal' is of two modalities, not {', '.join(guided)}", fix="update='cross'")
        self.pairs = {f"{m}_{o}": (m, o) for m, o in permutations(guided, 2)}  # alpha' is audio_face, beta' face_audio
        self.prepare = None if c.without == "text_guidance" else Prepare(guided, c)
        self.values = self._values(c.update)
        self.w_q, self.w_k = (each(self.pairs, lambda _: linear(c)) for _ in range(2))
        self.w_v = each([pair for pair, own in self.values.items() if own], lambda _: linear(c))

    def _values(self, update: str) -> dict[str, Modality | None]:
        """Return the modality whose values a pair (m, o) weights; None: G_m itself."""
        alpha = next(iter(self.pairs))
        return {
            pair: {"cross": o, "guided": None, "literal": None if pair == alpha else m}[update]
            for pair, (m, o) in self.pairs.items()
        }

    def forward(self, drawn: Parts, f: Parts) -> dict[str, Tensor]:
        """G_m, drawn (B, T, d), and LN(F_m), f (B, T, d) -> alpha' V_v and beta' V_a of eq. 8, each (B, T, d)."""
        asks = self.prepare(drawn) if self.prepare else drawn  # ga and gv, each (B, T, d)
        read = {}
        for pair, (m, o) in self.pairs.items():
            own = self.values[pair]
            v = self.w_v[pair](f[own]) if own else drawn[m]  # (B, T, d)
            read[pair] = self.attend(self.w_q[pair](asks[m]), self.w_k[pair](f[o]), v)
        return read


class Prepare(nn.Module):
    """G_m becomes the next query: LN(O_m G_m) [D]."""

    def __init__(self, guided: list[Modality], c: Config) -> None:
        super().__init__()
        self.shared = c.shared_map
        self.w_o = each(["all"] if c.shared_map else guided, lambda _: linear(c, bias=True))
        self.norm = each(guided, lambda _: nn.LayerNorm(c.dim))

    def forward(self, drawn: Parts) -> Parts:
        """G_m, drawn (B, T, d) -> LN(O_m G_m), each (B, T, d)."""
        return {m: self.norm[m](self.w_o["all" if self.shared else m](x)) for m, x in drawn.items()}


def linear(c: Config, bias: bool = False) -> nn.Linear:
    """Return a linear map of d to d."""
    return nn.Linear(c.dim, c.dim, bias=bias)


# --- Fusion, Sec. 2.4 -------------------------------------------------------------------------------------------------


class Fusion(nn.Module):
    """Transformer in which the guide's t_N queries G_N, layer by layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.readout, extra = c.readout, int(c.readout != "mean")
        if extra:
            self.token = normal(1, c.dim, std=c.h0_std)  # (1, d); ALMT puts it on both sides
        self.pos_t, self.pos_g = (normal(extra + c.tokens, c.dim, std=c.pos_std) for _ in range(2))
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.fusion_layers))

    def forward(self, t: Tensor, g: Tensor) -> Tensor:
        """t_N, t (B, T, d), and G_N, g (B, T, d) -> (B, d)."""
        if self.readout != "mean":
            token = self.token.expand(len(t), -1, -1)  # (B, 1, d)
            t, g = torch.cat([token, t], 1), torch.cat([token, g], 1)  # each (B, T + 1, d)
        x, g = t + self.pos_t, g + self.pos_g  # each (B, T or T + 1, d)
        for layer in self.layers:
            x = layer(x, torch.cat([x, g], 1) if self.readout == "cls+selfattn" else g)  # (B, T or T + 1, d)
        return x.mean(1) if self.readout == "mean" else x[:, 0]
