"""MFM: its decoder and its prior by other routes, and what a missing modality takes out of the loss."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msa.fuse.heads.mfm import MFM, Config, Decoder, mmd
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(
    hidden=(6, 3, 4), memory=5, inner=8, z_y=4, z=(5, 3, 4), f_y=6, f=(4, 3, 5), dropout=0.0, factor_dropout=0.0
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_decoder_reads_the_factors_and_then_its_own_last_state():
    decoder, f = Decoder(4, 3), torch.randn(2, 4)
    cell, swap = nn.LSTMCell(4, 4), lambda w: torch.cat([w.chunk(4)[k] for k in (0, 1, 3, 2)])
    state = {"weight_ih": swap(decoder.w_x.weight), "weight_hh": swap(decoder.w_h.weight)}
    cell.load_state_dict(state | {"bias_ih": swap(decoder.w_x.bias), "bias_hh": torch.zeros(16)})
    made = decoder(f, 5)
    h, c = cell(f)
    for t in range(5):
        torch.testing.assert_close(made[:, t], decoder.linear(h))
        h, c = cell(h, (h, c))


def test_the_prior_is_compared_pair_by_pair():
    z, present = torch.randn(6, 3), torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    torch.manual_seed(5)
    found = mmd(z, present)
    torch.manual_seed(5)
    prior, z = torch.randn(6, 3)[present], z[present]
    kernel = lambda a, b: sum(math.exp(-float((x - y).square().sum()) / 9) for x in a for y in b) / 16  # noqa: E731
    assert found.item() == pytest.approx(kernel(prior, prior) + kernel(z, z) - 2 * kernel(prior, z), abs=1e-6)


def test_the_prior_knows_its_own_draws_from_others():
    everyone = torch.ones(400).bool()
    assert mmd(torch.randn(400, 2), everyone) < 0.01 < mmd(torch.randn(400, 2) + 3, everyone)


@pytest.mark.parametrize("target", ["normed", "raw"])
def test_reconstruction_is_the_weighted_error_over_the_steps_there_are(target):
    head = MFM(replace(SMALL, target=target), DIMS, SENTIMENT).eval()
    batch = random_batch(DIMS, SENTIMENT, steps=6)
    for m in DIMS:
        batch.mask[m][:] = batch.mask[TEXT]
    batch.mask[AUDIO][[1, 4]] = False
    x, clock, present = head._aligned(batch)
    f_y = head.to_f_y(head._label(x, clock, present))
    expected = 0.0
    for m, weight in zip(DIMS, head.config.reconstruction, strict=True):
        f_m = head.to_f[m](head.encode[m](x[m], clock))
        made = head.decode[m](torch.cat([f_y, f_m], 1), clock.shape[1])
        goal = F.layer_norm(x[m], (DIMS[m],)) if target == "normed" else x[m]
        valid = batch.mask[m][:, : clock.shape[1]]
        expected += weight * F.mse_loss(made[valid], goal[valid])
    torch.testing.assert_close(head.step(batch)[1]["reconstruction"], expected)


def test_a_modality_no_sample_has_is_not_generated():
    head, batch = MFM(SMALL, DIMS, SENTIMENT), random_batch(DIMS, SENTIMENT)
    batch.mask[AUDIO][:] = False
    terms = head.step(batch)[1]
    assert terms.keys() == {"task", "reconstruction", "mmd"}
    sum(terms.values()).backward()
    for module in (head.encode[AUDIO], head.decode[AUDIO]):
        assert all((p.grad == 0).all() for p in module.parameters())
    assert any(p.grad.abs().max() > 0 for p in head.decode[TEXT].parameters())
