"""MulT: a layer and its positions by other routes, and what is read at the end."""

import math

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.heads.mult import Config, MulT
from msa.fuse.modules.crossmodal import Layer, Rates, Readout, sinusoids
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import random_batch

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
QUIET = Config(
    dim=12,
    heads=3,
    layers=2,
    self_layers=2,
    attention_dropout=0.0,
    ffn_dropout=0.0,
    residual_dropout=0.0,
    embed_dropout=0.0,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def prefix(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_a_layer_is_the_papers_with_norms_first():
    layer, x, y, mask = (
        Layer(12, QUIET.heads, Rates()).eval(),
        torch.randn(2, 5, 12),
        torch.randn(2, 4, 12),
        prefix(3, 4),
    )
    for norm in (layer.norm_1, layer.norm_2):
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
    a, heads = layer.attention, []
    for k in range(3):  # softmax(Q K^T / sqrt(d_k)) V of each head
        rows = slice(4 * k, 4 * k + 4)
        q, key, v = (layer.norm_1(s) @ w.weight[rows].T + w.bias[rows] for s, w in ((x, a.w_q), (y, a.w_k), (y, a.w_v)))
        score = (q @ key.mT / 2).masked_fill(~mask[:, None], -math.inf)
        heads.append(score.softmax(-1) @ v)
    z = x + a.w_o(torch.cat(heads, 2))
    expected = z + layer.ffn[3](torch.relu(layer.ffn[0](layer.norm_2(z))))
    torch.testing.assert_close(layer(x, y, mask), expected)


@pytest.mark.parametrize("dim", [8, 7])
def test_positions_are_sines_and_cosines_from_one_on(dim):
    table = sinusoids(5, dim, torch.device("cpu"))
    half = dim // 2
    for t in range(5):
        for i in range(half):
            angle = (t + 1) * 10_000 ** (-i / (half - 1))
            assert table[t, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, half + i].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert table.shape == (5, dim) and (table[:, 2 * half :] == 0).all()


def test_only_the_row_that_is_read_is_computed_and_it_is_the_same():
    readout, x, mask = Readout(12, QUIET.heads, 3, Rates()).eval(), torch.randn(3, 5, 12), prefix(2, 5, 1)
    every = x
    for layer in readout.layers:
        every = layer(every, every, mask)
    rows = readout.norm(every)[torch.arange(3), [1, 4, 0]]
    torch.testing.assert_close(readout(x, mask), rows)


def test_every_modality_is_read_by_every_other():
    head = MulT(QUIET, {TEXT: 7, IMAGE: 4, AUDIO: 5, FACE: 6}, SENTIMENT)
    assert len(head.cross) == 12 and head.own[TEXT].norm.normalized_shape == (36,)
    alone = MulT(QUIET, {TEXT: 7}, SENTIMENT)
    assert len(alone.cross) == 0 and alone.own[TEXT].norm.normalized_shape == (12,)


def test_a_prediction_is_the_streams_joined_as_the_paper_joins_them():
    head, batch = MulT(QUIET, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, full=True)
    place = lambda x: x * x.shape[2] ** 0.5 + sinusoids(x.shape[1], x.shape[2], x.device)  # noqa: E731
    z = {m: place(batch.x[m] @ head.project[m].weight[:, :, 0].T) for m in DIMS}
    last = []
    for m in DIMS:
        streams = [head.cross[f"{s}_to_{m}"](z[m], z[s], batch.mask[s]) for s in DIMS if s != m]
        own = place(torch.cat(streams, 2))
        last.append(full(head, m, own))
    h = torch.cat(last, 1)
    torch.testing.assert_close(head(batch), head.classify(head.residual(h) + h))


def full(head, m, x):
    """The last row of self-attention in which every layer computes every row."""
    for layer in head.own[m].layers:
        x = layer(x, x, torch.ones(x.shape[:2]).bool())
    return head.own[m].norm(x)[:, -1]


def test_a_wide_kernel_keeps_the_length_and_sees_no_padding():
    head = MulT(Config(kernel=3), DIMS, SENTIMENT).eval()
    x, mask = torch.randn(2, 4, 7), prefix(1, 4)
    out = head._project(TEXT, x, mask)
    assert out.shape == (2, 4, 30)
    torch.testing.assert_close(out[0, 0], head.project[TEXT].weight[:, :, 1] @ x[0, 0])


@pytest.mark.parametrize("wrong", [{"kernel": 2}, {"heads": 7}, {"layers": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Config(**wrong)


def test_values_are_trained_on_the_squared_error_or_on_the_absolute_one_of_the_authors():
    values = Task(low=-3.0, high=3.0)
    batch = random_batch(DIMS, values)
    for loss, error in (("mse", lambda x: x.square().mean()), ("l1", lambda x: x.abs().mean())):
        torch.manual_seed(0)
        head = MulT(Config(loss=loss), DIMS, values).eval()
        torch.testing.assert_close(head.step(batch)[1]["task"], error(head(batch).squeeze(1) - batch.y))
    assert Config().loss == "mse"  # runs of before have no such setting: they were trained on this one
    with pytest.raises(ConfigError, match="not one of its choices"):
        Config(loss="l2")
