"""LMF: its low rank form against the tensor it stands for."""

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.heads.lmf import LMF, Config, low_rank
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(rank=3, text_hidden=8, hidden=3, dropout=0.0, text_dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def with_one(z):
    return torch.cat([z, torch.ones(len(z), 1)], 1)


@pytest.mark.parametrize("weighted", [True, False])
def test_low_rank_form_equals_the_full_tensor(weighted):
    head, batch = (
        LMF(Config(**vars(SMALL) | {"rank_weights": weighted}), DIMS, SENTIMENT).eval(),
        random_batch(DIMS, SENTIMENT),
    )
    t, a, f = (with_one(head.embed[m](batch.x[m], batch.mask[m])) for m in DIMS)
    tensor = torch.einsum("r,rto,rao,rfo->tafo", head.rank, head.w[TEXT], head.w[AUDIO], head.w[FACE])
    full = torch.einsum("tafo,bt,ba,bf->bo", tensor, t, a, f) + head.b
    torch.testing.assert_close(head(batch), full)


def test_the_sum_over_the_rank_stays_outside_the_product():
    z, w = [torch.randn(4, 3) for _ in range(2)], [torch.randn(2, 4, 1) for _ in range(2)]
    inside = with_one(z[0]) @ w[0].sum(0) * (with_one(z[1]) @ w[1].sum(0))
    cross = sum(with_one(z[0]) @ w[0][r] * (with_one(z[1]) @ w[1][1 - r]) for r in range(2))
    torch.testing.assert_close(low_rank(z, w, torch.ones(2)), inside - cross)


def test_without_rank_weights_the_products_are_added_and_nothing_more_is_learnt():
    head = LMF(Config(rank_weights=False), DIMS, SENTIMENT)
    assert head.rank.tolist() == [1.0] * 4
    assert "rank" not in dict(head.named_parameters()) and "rank" not in head.state_dict()


def test_a_missing_modality_is_a_learnt_constant():
    head, batch = LMF(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    batch.mask[AUDIO][:] = False
    t, f = (head.embed[m](batch.x[m], batch.mask[m]) for m in (TEXT, FACE))
    constant = head.w[AUDIO][:, -1]  # (R, outputs): [0; 1] w_a
    w = [head.w[TEXT] * constant[:, None], head.w[FACE]]
    torch.testing.assert_close(head(batch), low_rank([t, f], w, head.rank) + head.b)


def test_values_are_trained_on_the_squared_error_or_on_the_absolute_one_of_the_authors():
    values = Task(low=-3.0, high=3.0)
    batch = random_batch(DIMS, values)
    for loss, error in (("mse", lambda x: x.square().mean()), ("l1", lambda x: x.abs().mean())):
        torch.manual_seed(0)
        head = LMF(Config(loss=loss), DIMS, values).eval()
        torch.testing.assert_close(head.step(batch)[1]["task"], error(head(batch).squeeze(1) - batch.y))
    assert Config().loss == "mse"  # runs of before have no such setting: they were trained on this one
    with pytest.raises(ConfigError, match="not one of its choices"):
        Config(loss="l2")
