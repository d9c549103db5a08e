"""SIMR: normalisation against PyTorch's, attention to what fits and what does not written out, and no style."""

import math

import pytest
import torch
import torch.nn.functional as F

from msa.fuse.head import Batch
from msa.fuse.heads.simr import SIMR, Config, TwoWayAttention, normalise
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=12, heads=3, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_content_is_what_instance_normalisation_leaves_of_each_sample_alone():
    x, length = torch.randn(3, 6, 4), [6, 2, 5]
    normal, mean, deviation = normalise(x, torch.arange(6) < torch.tensor(length)[:, None])
    for i, n in enumerate(length):
        torch.testing.assert_close(normal[i, :n], F.instance_norm(x[i, :n].T[None])[0].T)
        torch.testing.assert_close(normal[i, :n] * deviation[i] + mean[i], x[i, :n])


def test_a_single_step_keeps_its_content_and_a_finite_gradient():
    x = torch.randn(2, 3, 4, requires_grad=True)
    normal, _, deviation = normalise(x, torch.tensor([[1, 0, 0], [0, 0, 0]]).bool())
    torch.testing.assert_close(normal[0, 0], x[0, 0])
    assert (deviation == 0).all()
    normal.sum().backward()
    assert x.grad.isfinite().all()


def test_the_answer_does_not_hear_how_loud_or_how_high_a_sample_is_on_the_whole():
    head, batch = SIMR(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, full=True)
    louder = lambda m: Batch(dict(batch.x) | {m: 3 * batch.x[m] + 2}, batch.mask, batch.y, batch.row)  # noqa: E731
    torch.testing.assert_close(head(louder(AUDIO)), head(batch), atol=1e-3, rtol=0)
    assert (head(louder(TEXT)) - head(batch)).abs().max() > 0.01
    styles = [head.divided(head.projected(b), b)[1][AUDIO] for b in (louder(AUDIO), batch)]
    assert (styles[0] - styles[1]).abs().max() > 0.1


def test_attention_goes_to_what_fits_and_with_negated_scores_to_what_does_not():
    attention, x, y = TwoWayAttention(4, 1), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    score = attention.w_q(x) @ attention.w_k(y).mT / 2
    hide = lambda s: s.masked_fill(~mask[:, None], -math.inf).softmax(2)  # noqa: E731
    both = torch.cat([hide(score) @ attention.w_v(y), hide(-score) @ attention.w_n(y)], 2)
    torch.testing.assert_close(attention(x, y, mask), attention.w_o(both))


def test_text_has_no_style_and_a_lone_modality_no_correlation():
    terms = {"task", "correlation", "reconstruction", "independence"}
    batch = random_batch(DIMS, SENTIMENT)
    assert SIMR(SMALL, DIMS, SENTIMENT).step(batch)[1].keys() == terms
    assert SIMR(SMALL, {AUDIO: 5}, SENTIMENT).step(batch)[1].keys() == terms - {"correlation"}
    assert SIMR(SMALL, {TEXT: 7}, SENTIMENT).step(batch)[1].keys() == {"task"}
