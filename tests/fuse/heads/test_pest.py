"""PEST: a step of propagation written out, an absent modality affects no other, and what the two losses measure."""

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.head import Batch, masked_mean
from msa.fuse.heads.pest import PEST, Config, Propagation
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=8, heads=1, tokens=2, dropout=0.0, attention_dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_propagation_moves_each_state_towards_what_it_hears():
    spread, h = Propagation(SMALL), torch.randn(2, 6, 8)
    spread.rate.data.fill_(-1.0)
    edges, rate, expected = spread.edges, torch.sigmoid(torch.tensor(-1.0)), h
    for _ in range(3):
        a = (edges.w_q(expected) @ edges.w_k(expected).mT / 8**0.5).softmax(2)  # (B, N, N), anew in each step
        heard = edges.w_o(a @ edges.w_v(expected))
        expected = expected + rate * (torch.tanh(spread.own(expected) + heard) - expected)
    torch.testing.assert_close(spread(h, torch.ones(2, 6).bool()), expected)


def test_an_absent_modality_affects_no_other():
    spread, h = Propagation(SMALL), torch.randn(2, 6, 8)
    there = torch.tensor([[1, 1, 0, 0, 1, 1]]).bool().expand(2, -1)
    some = spread(h, there)
    torch.testing.assert_close(some[:, [0, 1, 4, 5]], spread(h[:, [0, 1, 4, 5]], torch.ones(2, 4).bool()))
    assert (some[:, [2, 3]] == 0).all()


def test_the_losses_are_distances_from_what_is_common_to_the_modalities_a_sample_has():
    head, batch = PEST(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    mask = dict(batch.mask) | {AUDIO: batch.mask[AUDIO] & (torch.arange(8) < 5)[:, None]}
    batch = Batch(batch.x, mask, batch.y, batch.row)
    x = head.embedded(batch)
    public = head.translated(batch, x)
    apart, told = [], {m: [] for m in DIMS}
    for i in range(8):
        has = [m for m in DIMS if mask[m][i].any()]
        common = torch.stack([public[m][i] for m in has]).mean(0)  # (K, d)
        for m in has:
            apart.append((public[m][i] - common).square().mean())
            mean = masked_mean(x[m], mask[m])[i]
            told[m].append((head.tell[m](common.mean(0)) - mean).square().mean())
    terms = head.step(batch)[1]
    torch.testing.assert_close(terms["translation"], 0.1 * torch.stack(apart).mean())
    torch.testing.assert_close(terms["back"], 0.1 * sum(torch.stack(t).mean() for t in told.values()) / 3)


def test_a_lone_modality_is_not_compared_with_another():
    batch = random_batch(DIMS, SENTIMENT)
    assert PEST(SMALL, {TEXT: 7}, SENTIMENT).step(batch)[1].keys() == {"task", "back"}
    with pytest.raises(ConfigError):
        Config(tokens=1)
