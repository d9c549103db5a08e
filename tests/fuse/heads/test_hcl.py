"""HCL: the counts of the specification, each equation by a second route, K-means, and every option."""

import math
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from msa.errors import ConfigError
from msa.fuse.head import Batch
from msa.fuse.heads.hcl import (
    CCL,
    COWA,
    HCL,
    PRESETS,
    TRAIN,
    Config,
    Embedding,
    Fusion,
    GuideLayer,
    Layer,
    Parts,
    kmeans,
)
from msa.types import SENTIMENT, Modality, Task
from tests.fuse import batches
from tests.fuse.batches import count

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
VALUES = Task(low=-3.0, high=3.0)
DIMS = {TEXT: 11, AUDIO: 7, FACE: 5}
SMALL = Config(
    dim=16, heads=4, dim_head=3, ffn=24, dropout=0.0, lengths=(6, 6, 6), groups=4, iterations=5, tokens=6, pos_std=0.5
)


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def random_batch(dims=DIMS, task=VALUES, **how) -> Batch:
    return batches.random_batch(dims, task, **how)


def padded(batch: Batch) -> Batch:
    """The batch with more noise behind every sequence."""
    x = {m: torch.cat([x, 10 * torch.randn(len(x), 2 + i, x.shape[2])], 1) for i, (m, x) in enumerate(batch.x.items())}
    mask = {m: F.pad(mask, (0, x[m].shape[1] - mask.shape[1])) for m, mask in batch.mask.items()}
    return Batch(x, mask, batch.y, batch.row)


def rows(batch: Batch, keep: slice) -> Batch:
    x, mask = ({m: t[keep] for m, t in part.items()} for part in (batch.x, batch.mask))
    return Batch(x, mask, batch.y[keep], batch.row[keep])


def gradients(head: HCL, batch: Batch) -> dict[str, float]:
    """The largest gradient of every parameter, the bias of LN_k aside: its is zero by mathematics."""
    head.zero_grad()
    head.train().step(batch)[1]["task"].backward()
    named = ((n, p) for n, p in head.named_parameters() if not n.endswith("norm.k.bias"))
    return {n: 0.0 if p.grad is None else p.grad.abs().max().item() for n, p in named}


def dead_parameters(head: HCL, batch: Batch) -> list[str]:
    found = gradients(head, batch)
    return [n for n, g in found.items() if not g > 1e-8 * max(found.values())]


def shaken(module: nn.Module) -> nn.Module:
    """No parameter at a special start."""
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn_like(p)
    return module


# --- the sizes of the specification -----------------------------------------------------------------------------------

MOSEI = {TEXT: (768, 50), AUDIO: (74, 500), FACE: (35, 500)}  # width and length
MOSI = {TEXT: (768, 50), AUDIO: (5, 375), FACE: (20, 500)}
ALIGNED = {TEXT: (768, 50), AUDIO: (5, 50), FACE: (20, 50)}
EXTRACTED = {TEXT: (768, 39), AUDIO: (33, 400), FACE: (709, 55)}
FORMER = {"readout": "cls", "g_norm": True}  # rows of the table that an earlier reading was counted with
LIGHT = {"dim_head": 32, "ffn": 512}
SIZES = [
    (MOSEI, {}, 5_511_825),
    (MOSI, {}, 5_485_073),
    (MOSI, LIGHT, 2_263_057),
    (ALIGNED, FORMER, 5_387_025),
    (EXTRACTED, FORMER, 5_522_833),
    (MOSI, FORMER | LIGHT, 2_264_209),
    (MOSI, FORMER | {"layers": 2}, 4_612_753),
    (MOSI, FORMER | {"layers": 4}, 6_359_697),
    (MOSI, {"layers": 2}, 4_612_753 - 3 * 128 - 2 * 256),  # without a token, its two positions and the norms
    (MOSI, {"layers": 4}, 6_359_697 - 3 * 128 - 4 * 256),
]


def empty(inputs, config) -> HCL:
    """A head that has shapes and no numbers."""
    with torch.device("meta"):
        return HCL(config, {m: width for m, (width, length) in inputs.items()}, VALUES)


def multiplications(inputs, config) -> float:
    """Of one sample, in 1e9."""
    head = empty(inputs, config).to_empty(device="cpu").eval()
    x = {m: torch.randn(1, length, width) for m, (width, length) in inputs.items()}
    mask = {m: torch.ones(1, length, dtype=torch.bool) for m, (width, length) in inputs.items()}
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not see fused attention on a CPU
        head(Batch(x, mask, torch.zeros(1), torch.zeros(1, dtype=torch.long)))
    return counter.get_total_flops() / 2e9


def lengths(inputs) -> tuple[int, ...]:
    return tuple(length for width, length in inputs.values())


@pytest.mark.parametrize(("inputs", "changed", "parameters"), SIZES)
def test_parameters_are_those_of_the_specification(inputs, changed, parameters):
    assert count(empty(inputs, Config(lengths=lengths(inputs), **changed))) == parameters


@pytest.mark.parametrize(
    ("inputs", "changed", "giga"), [(MOSEI, {}, 1.010), (MOSI, {}, 0.866), (ALIGNED, FORMER, 0.153)]
)
def test_work_is_that_of_the_specification(inputs, changed, giga):
    config = Config(lengths=lengths(inputs), rows="all", **changed)
    assert multiplications(inputs, config) == pytest.approx(giga, rel=0.01)


def test_rows_that_are_not_read_are_seven_eighths_of_the_work():
    assert multiplications(MOSEI, Config()) == pytest.approx(0.129, rel=0.01)


def test_the_default_is_the_preset_with_the_printed_count():
    assert PRESETS["default"] == PRESETS["count"] == Config(attention_drops="keys")
    assert PRESETS["small"] == Config(**LIGHT, attention_drops="keys")
    head = empty(MOSEI, Config())
    layer = 6 * 128 + 3 * 128 * 256 + 256 * 128 + 128 + 256 + 2 * 128 * 2048 + 2048 + 128
    assert count(head.embed["audio"]) == 75 * 128 + 8 * 128 + 508 * 128 + layer
    assert count(head.cowa) == 16
    assert count(head.ccl.deepen) == 2 * layer
    assert count(head.ccl.layers) == 3 * (11 * 128 * 128 + 2 * 129 * 128 + 5 * 256)
    assert count(head.fuse) == 2 * layer + 2 * 8 * 128
    assert count(head.classify) == 129
    assert round(count(head) / 1e6, 2) == 5.51  # Table 2


def test_leaving_out_rows_that_are_not_read_changes_nothing():
    for layers in (1, 2):
        lean, whole = (HCL(replace(SMALL, rows=r, embed_layers=layers), DIMS, VALUES) for r in ("read", "all"))
        whole.load_state_dict(lean.state_dict())
        batch = random_batch()
        torch.testing.assert_close(lean(batch), whole(batch))
        first, second = gradients(lean, batch), gradients(whole, batch)
        assert first == pytest.approx(second, rel=1e-4, abs=1e-6)


def test_training_values_of_the_paper():
    assert TRAIN.keys() == PRESETS.keys()
    assert (TRAIN["default"]["lr"], TRAIN["default"]["batch"], TRAIN["default"]["epochs"]) == (1e-4, 64, 100)
    assert (TRAIN["default"]["schedule"], TRAIN["default"]["warmup_epochs"]) == ("cosine", 10.0)  # 10 %


# --- K-means ----------------------------------------------------------------------------------------------------------


def lloyd(points: list[list[float]], k: int, iterations: int) -> list[int]:
    """K-means of one sample, point by point, in double precision."""
    near = lambda a, b: sum((p - q) ** 2 for p, q in zip(a, b, strict=True))  # noqa: E731
    mean = lambda some: [sum(column) / len(some) for column in zip(*some, strict=True)]  # noqa: E731
    centre = mean(points)
    centroids = [max(points, key=lambda p: near(p, centre))]
    while len(centroids) < k:
        centroids.append(max(points, key=lambda p: min(near(p, c) for c in centroids)))
    assign = lambda: [min(range(k), key=lambda j: near(p, centroids[j])) for p in points]  # noqa: E731
    for _ in range(iterations):
        labels = assign()
        for j in range(k):
            if mine := [p for p, label in zip(points, labels, strict=True) if label == j]:
                centroids[j] = mean(mine)
    order = sorted(range(k), key=lambda j: -sum(centroids[j]))
    return [order.index(label) for label in assign()]


def labels(x: Tensor, k: int, iterations: int = 20) -> Tensor:
    member = kmeans(x, k, iterations)  # (S, K, P)
    assert (member.sum(1) == 1).all()
    assert ((member == 0) | (member == 1)).all()
    return member.argmax(1)


@pytest.mark.parametrize(("shape", "k", "iterations"), [((3, 8, 60), 8, 20), ((3, 2, 40), 5, 3), ((2, 16, 8), 4, 20)])
def test_kmeans_is_lloyds_algorithm_written_out(shape, k, iterations):
    x = torch.randn(shape)
    found = labels(x, k, iterations)
    for sample, label in zip(x, found, strict=True):
        assert label.tolist() == lloyd(sample.T.double().tolist(), k, iterations)


def test_kmeans_finds_what_is_there_and_numbers_it_from_high_to_low():
    truth = torch.arange(5).repeat(2, 6)  # (2, 30)
    x = 10.0 * (2 - truth)[:, None] + torch.randn(2, 4, 30)
    assert torch.equal(labels(x, 5), truth)
    assert torch.equal(labels(-x, 5), 4 - truth)


def test_kmeans_does_not_care_about_order_mates_or_small_noise():
    x, order = torch.randn(6, 8, 64), torch.randperm(64)
    found = labels(x, 8)
    assert torch.equal(labels(x[:, :, order], 8), found[:, order])
    assert torch.equal(labels(torch.cat([torch.randn(50, 8, 64), x[2:3]]), 8)[-1], found[2])
    assert torch.equal(labels(x + 1e-6 * torch.randn_like(x), 8), found)
    assert torch.equal(labels(3.0 * x + 5.0, 8), found)


def test_identical_points_are_one_group():
    x = torch.randn(4, 8, 1).expand(4, 8, 32)
    assert (labels(x, 8).amax(1) == labels(x, 8).amin(1)).all()
    assert (labels(torch.zeros(1, 3, 5), 3) == 0).all()


def test_fewer_distinct_points_than_groups_leave_groups_empty():
    distinct = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 0.0]])  # three points of two values
    x = distinct[:, torch.tensor([0, 1, 2, 2, 1, 0, 0])][None]  # (1, 2, 7)
    found = labels(x, 5)[0].tolist()
    assert found[0] == found[5] == found[6] != found[1] == found[4] != found[2] == found[3]
    assert max(labels(x, 3)[0].tolist()) == 2


def test_kmeans_never_waits_for_the_device():
    assert kmeans(torch.randn(2, 8, 128, device="meta"), 8, 20).shape == (2, 8, 128)  # there are no values to look at


# --- the equations ----------------------------------------------------------------------------------------------------


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return norm.weight * centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() + norm.bias


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int = 4) -> Tensor:
    """One sample, (L, D), (S, D), (S, D), head by head."""
    found = []
    for one in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        score = (one[0] @ one[1].T / math.sqrt(one[0].shape[1])).exp()
        found.append(score / score.sum(1, keepdim=True) @ one[2])
    return torch.cat(found, 1)


def transform(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
    """x + Attn(LN_q x, LN_k y, LN_v y), then x + W_2 gelu(W_1 LN x): one sample, (L, d) and (S, d)."""
    q = layer_norm(layer.norm["q"], x) @ layer.w_q.weight.T
    k, v = (layer_norm(layer.norm[n], y) @ w.weight.T for n, w in [("k", layer.w_k), ("v", layer.w_v)])
    w_o, (norm, w_1, _, _, w_2, _) = layer.w_o[0], layer.ffn
    x = x + attend(q, k, v) @ w_o.weight.T + w_o.bias
    h = layer_norm(norm, x) @ w_1.weight.T + w_1.bias
    return x + h * (1 + (h / math.sqrt(2)).erf()) / 2 @ w_2.weight.T + w_2.bias


def test_equation_1():
    c = replace(SMALL, embed_layers=2)
    embed, batch = shaken(Embedding(7, 6, c)), random_batch()
    found = embed(batch.x[AUDIO], batch.mask[AUDIO])
    for u, mask, h_1 in zip(batch.x[AUDIO], batch.mask[AUDIO], found, strict=True):
        x = u[mask] @ embed.project.weight.T + embed.project.bias  # its valid steps alone
        s = torch.cat([embed.h0, x]) + embed.pos[: 6 + len(x)]
        for layer in embed.layers:
            s = transform(layer, s, s)
        torch.testing.assert_close(h_1, s[:6])


def cowa_by_hand(cowa: COWA, h: Parts, c: Config, batch_norm: bool = True) -> Parts:
    """Eq. 2-5 for points that are the columns of h, group by group and point by point."""
    n, points = h[TEXT].shape[::2]
    group = {m: [lloyd(x.T.double().tolist(), c.groups, c.iterations) for x in h[m]] for m in h}  # by sample and point
    d = torch.zeros(n, c.groups)
    for m, b, k in product(h, range(n), range(c.groups)):
        mine = [h[m][b, :, p] for p in range(points) if group[m][b][p] == k]
        s = torch.stack(mine).sum(0)  # S_m of group k
        d[b, k] += s.mean() / (len(mine) if c.group_sum == "mean" else 1)  # eq. 3
    mean, var = (d.mean(0), d.var(0, unbiased=False)) if batch_norm else (0.0, torch.ones(()))
    p = (cowa.norm.weight * (d - mean) / (var + cowa.norm.eps).sqrt() + cowa.norm.bias).clamp(min=0)  # eq. 4
    p = p @ cowa.logits.weight.T + cowa.logits.bias if c.weights == "msaf" else p
    w = p.exp() / p.exp().sum(1, keepdim=True)  # eq. 5
    w = {"groups": w.shape[1] * w, "one": w, "residual": 1 + w}[c.scale]
    w = dict(zip(h, w.chunk(3, 1) if c.weights == "msaf" else 3 * [w], strict=True))
    return {m: torch.stack([w[m][b, group[m][b]] for b in range(n)])[:, None] * h[m] for m in h}


@pytest.mark.parametrize(
    "changed",
    [{}, {"scale": "one"}, {"scale": "residual"}, {"group_sum": "mean"}, {"weights": "msaf"}, {"iterations": 0}],
    ids=str,
)
def test_equations_2_to_5(changed):
    c = replace(SMALL, **changed)
    cowa, h = shaken(COWA(3, c)), {m: torch.randn(5, 6, 16) for m in DIMS}
    expected = cowa_by_hand(cowa, h, c)
    for m, x in cowa(h).items():
        torch.testing.assert_close(x, expected[m])


def test_tokens_can_be_clustered_instead():
    c = replace(SMALL, axis="token", groups=3)
    cowa, h = shaken(COWA(3, c)), {m: torch.randn(5, 6, 16) for m in DIMS}
    expected = cowa_by_hand(cowa, {m: x.mT for m, x in h.items()}, c)
    for m, x in cowa(h).items():
        torch.testing.assert_close(x, expected[m].mT)


def test_cowa_of_one_sample_uses_running_statistics():
    cowa, h = COWA(3, SMALL), {m: torch.randn(1, 6, 16) for m in DIMS}
    expected = cowa_by_hand(cowa, h, SMALL, batch_norm=False)  # mean 0 and variance 1 before any batch
    for mode in (True, False):
        torch.testing.assert_close(cowa.train(mode)(h)[TEXT], expected[TEXT])


def test_weights_are_about_one_on_average_and_shared_by_the_modalities():
    c = replace(SMALL, without="kmeans")  # so that every group has as many channels
    h = {m: torch.randn(5, 6, 16) for m in DIMS}
    w = {m: x / h[m] for m, x in COWA(3, c)(h).items()}  # (B, T, d)
    torch.testing.assert_close(w[TEXT].mean((1, 2)), torch.ones(5))
    torch.testing.assert_close(w[TEXT], w[AUDIO])
    torch.testing.assert_close(w[TEXT][:, :, ::4], w[TEXT][:, :, 3::4])  # four neighbours are a group
    msaf = {m: x / h[m] for m, x in COWA(3, replace(c, weights="msaf"))(h).items()}
    assert not torch.allclose(msaf[TEXT], msaf[AUDIO])
    torch.testing.assert_close(sum(x.mean((1, 2)) for x in msaf.values()), 3 * torch.ones(5))


def test_running_groups_move_in_training_and_rest_afterwards():
    cowa = COWA(3, replace(SMALL, scope="running", momentum=0.5))
    h = {m: torch.randn(8, 6, 16) for m in DIMS}
    cowa(h)
    torch.testing.assert_close(cowa.profile[1], 0.5 * h[AUDIO].mean(0))
    before, together = cowa.profile.clone(), cowa.eval()(h)
    torch.testing.assert_close(cowa({m: x[:2] for m, x in h.items()})[TEXT], together[TEXT][:2])
    assert torch.equal(cowa.profile, before)
    w = (together[AUDIO] / h[AUDIO])[:, 0]  # (B, d)
    group = labels(h[AUDIO].mean(0)[None], 4, 5)[0]
    for k in range(4):
        torch.testing.assert_close(w[:, group == k], w[:, group == k][:, :1].expand(8, int((group == k).sum())))


def guide_by_hand(layer: GuideLayer, c: Config, g: Tensor, t: Tensor, a: Tensor, v: Tensor) -> Tensor:
    """Eq. 6-8 of one sample, each (T, d)."""
    a, v = layer_norm(layer.norm["audio"], a), layer_norm(layer.norm["face"], v)
    g_a, g_v, guidance, second = a, v, layer.guidance, layer.collaboration
    if c.without != "text_guidance":
        q = layer_norm(guidance.norm, t) @ guidance.w_q.weight.T
        g_a = attend(q, a @ guidance.w_k["audio"].weight.T, a @ guidance.w_v["audio"].weight.T)  # beta V_a
        g_v = attend(q, v @ guidance.w_k["face"].weight.T, v @ guidance.w_v["face"].weight.T)  # alpha V_v
    if c.without == "collaborative":
        total = g_a + g_v
    else:
        ask_a, ask_v = g_a, g_v
        if c.without != "text_guidance":
            o_a, o_v = (second.prepare.w_o["all" if c.shared_map else m] for m in ("audio", "face"))
            ask_a = layer_norm(second.prepare.norm["audio"], g_a @ o_a.weight.T + o_a.bias)
            ask_v = layer_norm(second.prepare.norm["face"], g_v @ o_v.weight.T + o_v.bias)
        value = lambda pair, x: x @ second.w_v[pair].weight.T  # noqa: E731
        v_v, v_a = {
            "cross": lambda: (value("audio_face", v), value("face_audio", a)),
            "guided": lambda: (g_a, g_v),
            "literal": lambda: (g_a, value("face_audio", v)),
        }[c.update]()
        q_a, q_v = ask_a @ second.w_q["audio_face"].weight.T, ask_v @ second.w_q["face_audio"].weight.T
        total = attend(q_a, v @ second.w_k["audio_face"].weight.T, v_v)  # alpha'
        total = total + attend(q_v, a @ second.w_k["face_audio"].weight.T, v_a)  # beta'
    g = layer_norm(layer.norm_g, g) if c.g_norm else g
    return g + total @ layer.w_o[0].weight.T + layer.w_o[0].bias


GUIDES = [{"update": u, "without": w} for u in ("cross", "guided", "literal") for w in ("", "text_guidance")]


@pytest.mark.parametrize(
    "changed", [*GUIDES, {"without": "collaborative"}, {"shared_map": False, "g_norm": True}], ids=str
)
def test_equations_6_to_8(changed):
    c = replace(SMALL, **changed)
    layer = shaken(GuideLayer([AUDIO, FACE], c))
    g, t, a, v = torch.randn(4, 3, 6, 16)
    found = layer(g, t, {AUDIO: a, FACE: v})
    for b in range(3):
        torch.testing.assert_close(found[b], guide_by_hand(layer, c, g[b], t[b], a[b], v[b]))


def test_the_guide_is_deepened_and_every_level_guides_once():
    c = replace(SMALL, layers=3)
    ccl = shaken(CCL([AUDIO, FACE], c))
    t, a, v = torch.randn(3, 1, 6, 16)
    t_2 = transform(ccl.deepen[0], t[0] + ccl.pos, t[0] + ccl.pos)
    t_3 = transform(ccl.deepen[1], t_2, t_2)
    g = ccl.g_0
    for level, layer in zip((t[0], t_2, t_3), ccl.layers, strict=True):
        g = guide_by_hand(layer, c, g, level, a[0], v[0])
    t_n, g_n = ccl(t, {AUDIO: a, FACE: v})
    torch.testing.assert_close(t_n[0], t_3)
    torch.testing.assert_close(g_n[0], g)
    assert torch.equal(CCL([AUDIO, FACE], c).g_0, torch.ones(6, 16))


@pytest.mark.parametrize("readout", ["mean", "cls", "cls+selfattn"])
def test_the_fusion_asks_what_is_in_g(readout):
    fuse = shaken(Fusion(replace(SMALL, readout=readout)))
    t, g = torch.randn(2, 1, 6, 16)
    token = [] if readout == "mean" else [fuse.token]
    x, memory = torch.cat([*token, t[0]]) + fuse.pos_t, torch.cat([*token, g[0]]) + fuse.pos_g
    for layer in fuse.layers:
        x = transform(layer, x, torch.cat([x, memory]) if readout == "cls+selfattn" else memory)
    torch.testing.assert_close(fuse(t, g)[0], x.mean(0) if readout == "mean" else x[0])


@pytest.mark.parametrize("final_query", ["guide", "text"])
@pytest.mark.parametrize(("guide", "m", "others"), [("text", TEXT, (AUDIO, FACE)), ("audio", AUDIO, (TEXT, FACE))])
def test_the_whole_head_is_its_parts_in_order(guide, m, others, final_query):
    head, batch = HCL(replace(SMALL, guide=guide, final_query=final_query), DIMS, VALUES).eval(), random_batch()
    f = head.cowa({m: head.embed[m](batch.x[m], batch.mask[m]) for m in DIMS})
    t, g = head.ccl(f[m], {o: f[o] for o in others})
    query = f[TEXT] if m != TEXT and final_query == "text" else t
    torch.testing.assert_close(head(batch), head.classify(head.fuse(query, g)))


@pytest.mark.parametrize("name", ["mse", "l1", "smooth_l1"])
def test_the_loss_of_values(name):
    head, batch = HCL(replace(SMALL, loss=name), DIMS, VALUES).eval(), random_batch()
    e = (head(batch)[:, 0] - batch.y).abs()
    expected = {"mse": e**2, "l1": e, "smooth_l1": torch.where(e < 1, e**2 / 2, e - 0.5)}[name].mean()
    torch.testing.assert_close(head.step(batch)[1]["task"], expected)


# --- the variants of Tables 3 to 6 ------------------------------------------------------------------------------------

VARIANTS = [
    {},
    {"without": "cowa"},
    {"without": "kmeans"},
    {"without": "collaborative"},
    {"without": "text_guidance"},
    {"guide": "audio"},
    {"guide": "vision"},
    {"layers": 2},
    {"layers": 4},
]
variants = pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: "".join(f"{k}={x}" for k, x in v.items()) or "HCL"
)


@variants
def test_every_variant_learns_64_samples_by_heart(variant):
    config = replace(SMALL, dim=32, ffn=64, tokens=4, iterations=3, **variant)
    head, batch = HCL(config, DIMS, VALUES), random_batch(steps=3, size=64)
    assert dead_parameters(head, batch) == []
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    for _step in range(80):
        optimiser.zero_grad()
        loss = head.step(batch)[1]["task"]
        if loss.item() < 0.1 * batch.y.var().item():
            return
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
    pytest.fail(f"mean squared error {loss.item():.3f} after 80 steps")


@variants
def test_no_variant_sees_padding_or_its_mates(variant):
    head, batch = shaken(HCL(replace(SMALL, **variant), DIMS, VALUES)), random_batch()
    longer = padded(batch)
    torch.testing.assert_close(head(longer), head(batch), atol=1e-6, rtol=1e-6)
    together = head.eval()(longer)
    torch.testing.assert_close(together, head(batch), atol=1e-6, rtol=1e-6)
    for i in range(len(batch)):
        torch.testing.assert_close(head(rows(longer, slice(i, i + 1))), together[i : i + 1], atol=1e-6, rtol=1e-6)


@variants
def test_a_batch_of_one_works(variant):
    head, batch = HCL(replace(SMALL, dropout=0.1, **variant), DIMS, VALUES), random_batch(size=1)
    assert all(math.isfinite(g) for g in gradients(head, batch).values())
    assert head.eval()(batch).isfinite().all()
    if variant.get("without") != "cowa":
        assert torch.equal(head.cowa.norm.running_mean, torch.zeros(4))  # one sample says nothing of the spread


OPTIONS = [
    {"rows": "all"},
    {"embed_layers": 2},
    {"h0_std": 0.0},
    {"axis": "token", "groups": 3},
    {"axis": "token", "groups": 3, "without": "kmeans"},
    {"scope": "running"},
    {"scope": "running", "axis": "token"},
    {"scope": "running", "without": "kmeans"},
    {"group_sum": "mean"},
    {"weights": "msaf"},
    {"weights": "msaf", "without": "kmeans"},
    {"scale": "one"},
    {"scale": "residual"},
    {"layers": 1},
    {"update": "guided"},
    {"update": "guided", "without": "text_guidance"},
    {"update": "literal"},
    {"update": "literal", "without": "text_guidance"},
    {"shared_map": False},
    {"g0": "normal"},
    {"g_norm": True, "g0": "normal"},
    {"guide": "audio", "final_query": "text"},
    {"guide": "vision", "final_query": "text", "update": "literal"},
    {"fusion_layers": 4},
    {"readout": "cls"},
    {"readout": "cls+selfattn"},
    {"readout": "cls+selfattn", "without": "text_guidance"},
    {"classifier": "mlp"},
    {"loss": "l1"},
    {"loss": "smooth_l1"},
    {"dropout": 0.1},
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()))
def test_every_option_builds_trains_and_leaves_no_parameter_idle(option):
    head, batch, losses = HCL(replace(SMALL, **({"layers": 2} | option)), DIMS, VALUES), random_batch(), []
    assert dead_parameters(head, batch) == []
    optimiser = torch.optim.AdamW(head.parameters(), lr=3e-3, fused=True)
    for _step in range(5):
        optimiser.zero_grad()
        loss = head.step(batch)[1]["task"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    ("option", "parameters"),
    [
        ({"without": "cowa"}, -16),
        ({"without": "kmeans"}, 0),
        ({"without": "collaborative"}, -3 * (6 * 128 * 128 + 129 * 128 + 2 * 256)),
        ({"without": "text_guidance"}, -3 * (5 * 128 * 128 + 129 * 128 + 3 * 256)),
        ({"update": "guided"}, -3 * 2 * 128 * 128),
        ({"update": "literal"}, -3 * 128 * 128),
        ({"shared_map": False}, 3 * 129 * 128),
        ({"weights": "msaf"}, 9 * 24),
        ({"scope": "running"}, 0),
        ({"axis": "token"}, 0),
        ({"guide": "audio"}, 0),
        ({"guide": "vision"}, 0),
        ({"classifier": "mlp"}, 129 * 128),
        ({"readout": "cls"}, 3 * 128),
        ({"readout": "cls+selfattn"}, 3 * 128),
        ({"fusion_layers": 4}, 2 * 658_688),
        ({"layers": 1}, -2 * 658_688 - 1024 - 2 * 214_528),
    ],
    ids=str,
)
def test_what_an_option_removes_is_gone(option, parameters):
    assert count(empty(MOSEI, Config(**option))) - 5_511_825 == parameters


# --- who guides, and who is missing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "guide", "guided"),
    [
        ([TEXT, AUDIO, IMAGE], TEXT, [AUDIO, IMAGE]),
        ([FACE, AUDIO, TEXT], TEXT, [AUDIO, FACE]),
        ([TEXT, IMAGE, AUDIO, FACE], TEXT, [AUDIO, FACE, IMAGE]),
        ([IMAGE, AUDIO], AUDIO, [IMAGE]),
        ([IMAGE], IMAGE, []),
    ],
    ids=lambda m: "+".join(m) if isinstance(m, list) else m,
)
def test_text_guides_or_else_the_first_there_is(modalities, guide, guided):
    dims = dict.fromkeys(modalities, 5)
    head = HCL(SMALL, dims, SENTIMENT)
    assert (head.guide, head.guided) == (guide, guided)
    pairs = [tuple(pair) for layer in head.ccl.layers[:1] if layer.collaboration for pair in layer.collaboration.pairs]
    assert len(pairs) == len(list(permutations(guided, 2)))
    assert dead_parameters(head, random_batch(dims, task=SENTIMENT)) == []


def test_the_vision_that_guides_is_the_face_where_there_is_one():
    assert HCL(replace(SMALL, guide="vision"), {TEXT: 3, IMAGE: 4, FACE: 5}, VALUES).guide == FACE
    assert HCL(replace(SMALL, guide="vision"), {TEXT: 3, IMAGE: 4}, VALUES).guide == IMAGE


def test_one_guided_modality_is_guided_and_asks_no_one():
    c = replace(SMALL, layers=1)
    dims = {TEXT: 11, AUDIO: 7}
    first, second = HCL(c, dims, VALUES), HCL(replace(c, without="collaborative"), dims, VALUES)
    second.load_state_dict(first.state_dict())
    batch = random_batch(dims)
    torch.testing.assert_close(first(batch), second(batch), atol=0, rtol=0)


def test_a_lone_modality_is_looked_at_by_itself():
    head, batch = HCL(SMALL, {TEXT: 11}, VALUES).eval(), random_batch({TEXT: 11})
    f = head.cowa({TEXT: head.embed[TEXT](batch.x[TEXT], batch.mask[TEXT])})
    t, g = head.ccl(f[TEXT], {})
    assert t is g
    torch.testing.assert_close(head(batch), head.classify(head.fuse(t, t)))


def test_a_sample_with_nothing_at_all_is_finite_and_always_the_same():
    head, batch = HCL(SMALL, DIMS, VALUES), random_batch()
    for mask in batch.mask.values():
        mask[:2] = False
    assert all(math.isfinite(g) for g in gradients(head, batch).values())
    found = head.eval()(batch)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"readout": "first"}, "readout is 'first'"),
        ({"without": "COWA"}, "without is 'COWA'"),
        ({"dim": 18}, "dim 18 cannot be split into 4 heads"),
        ({"groups": 17}, "16 points cannot be put into 17 groups"),
        ({"axis": "token", "groups": 7}, "6 points cannot be put into 7 groups"),
        ({"layers": 0}, "must be 1 or more"),
        ({"lengths": (50, 500)}, "lengths is"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(wrong, says):
    with pytest.raises(ConfigError, match=says):
        replace(SMALL, **wrong)


@pytest.mark.parametrize(
    ("option", "modalities", "says"),
    [
        ({"without": "text_guidance"}, [TEXT, AUDIO], "besides text there is audio"),
        ({"without": "text_guidance"}, [AUDIO], "besides audio there is none"),
        ({"guide": "audio"}, [TEXT, FACE], "guide='audio', and there is only text, face"),
        ({"guide": "vision"}, [TEXT, AUDIO], "guide='vision', and there is only text, audio"),
        ({"final_query": "text"}, [AUDIO, FACE], "there is no text"),
        ({"update": "literal"}, [TEXT, AUDIO, FACE, IMAGE], "two modalities, not audio, face, image"),
    ],
    ids=str,
)
def test_settings_that_contradict_the_data_are_refused(option, modalities, says):
    with pytest.raises(ConfigError, match=says):
        HCL(replace(SMALL, **option), dict.fromkeys(modalities, 5), VALUES)


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_sequence_longer_than_its_table_is_spread_over_it():
    embed = Embedding(7, 4, SMALL)
    lengths = torch.tensor([[0], [3], [4], [8], [10]])
    found = embed.positions(torch.arange(10) < lengths)
    steps = [[], [0, 1, 2], [0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]]
    for pos, step in zip(found, steps, strict=True):
        torch.testing.assert_close(pos[: 6 + len(step)], torch.cat([embed.pos[:6], embed.pos[6:][step]]))


def test_a_table_that_is_too_short_does_not_let_padding_or_mates_in():
    head, batch = shaken(HCL(replace(SMALL, lengths=(3, 4, 2)), DIMS, VALUES)).eval(), random_batch()
    found = head(batch)
    torch.testing.assert_close(head(padded(batch)), found, atol=1e-6, rtol=1e-6)
    for i in range(len(batch)):
        torch.testing.assert_close(head(rows(batch, slice(i, i + 1))), found[i : i + 1], atol=1e-6, rtol=1e-6)
    assert dead_parameters(head, batch) == []


def test_no_step_of_a_long_sequence_is_cut():
    head, batch = HCL(replace(SMALL, lengths=(3, 3, 3)), DIMS, VALUES).eval(), random_batch(full=True)
    before = head(batch)
    batch.x[AUDIO][:, -1] += 1
    assert (head(batch) - before).abs().min() > 1e-6


# --- the traps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readout", "heard"), [("mean", True), ("cls", False), ("cls+selfattn", True)])
def test_without_text_guidance_the_ancestors_readout_is_deaf_to_text(readout, heard):
    """Query rows of a pure cross-attention stack never meet, so the class token's row knows only what G holds."""
    head = HCL(replace(SMALL, readout=readout, without="text_guidance"), DIMS, VALUES)
    batch, other = random_batch(), random_batch()
    mixed = Batch({**batch.x, TEXT: other.x[TEXT]}, {**batch.mask, TEXT: other.mask[TEXT]}, batch.y, batch.row)
    dead = dead_parameters(head, batch)
    assert bool(dead) != heard
    assert all(name.startswith(("ccl.deepen.", "ccl.pos")) for name in dead)
    assert (head.eval()(mixed) - head(batch)).abs().max() > 0  # COWA's weights are of all modalities: a back door
    head.cowa = nn.Identity()
    assert bool((head(mixed) - head(batch)).abs().max() > 0) == heard
    assert (gradients(head, batch)["embed.text.h0"] > 0) == heard


def test_ones_give_a_norm_nothing_to_weigh_in_the_first_step():
    head = HCL(replace(SMALL, g_norm=True), DIMS, VALUES)
    assert dead_parameters(head, random_batch()) == ["ccl.layers.0.norm_g.weight"]


def test_under_amp_groups_and_weights_stay_in_fp32():
    head, batch, kinds = HCL(SMALL, DIMS, VALUES), random_batch(), []
    head.cowa.norm.register_forward_hook(lambda module, args, output: kinds.append(output.dtype))
    head.cowa.register_forward_hook(lambda module, args, output: kinds.append(output[TEXT].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.step(batch)[1]["task"]
    loss.backward()
    assert kinds == [torch.float32, torch.float32]
    assert loss.isfinite()


def test_numbers_that_are_not_finite_do_not_break_the_grouping():
    x = torch.randn(2, 8, 32)
    x[0, 3, 5] = math.nan
    assert torch.equal(kmeans(x, 4, 5)[1], kmeans(x[1:], 4, 5)[0])
