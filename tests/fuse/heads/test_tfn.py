"""TFN: its product by another route, what a missing modality leaves of it, and the range of its values."""

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.head import Batch
from msa.fuse.heads.tfn import PRESETS, TFN, Config, outer
from msa.fuse.modules.steps import last_valid
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import random_batch

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(text_hidden=6, text_out=4, hidden=3, post=8, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_product_holds_what_modalities_say_alone_in_pairs_and_together():
    z_l, z_a, z_v = torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 2)
    cube = outer([z_l, z_a, z_v]).unflatten(1, (5, 4, 3))
    torch.testing.assert_close(cube[:, :4, :3, :2], torch.einsum("bi,bj,bk->bijk", z_l, z_a, z_v))
    torch.testing.assert_close(cube[:, :4, :3, 2], torch.einsum("bi,bj->bij", z_l, z_a))
    torch.testing.assert_close(cube[:, :4, 3, :2], torch.einsum("bi,bk->bik", z_l, z_v))
    torch.testing.assert_close(cube[:, 4, :3, :2], torch.einsum("bj,bk->bjk", z_a, z_v))
    assert all(
        torch.equal(a, b) for a, b in [(cube[:, :4, 3, 2], z_l), (cube[:, 4, :3, 2], z_a), (cube[:, 4, 3, :2], z_v)]
    )
    assert (cube[:, 4, 3, 2] == 1).all()


def test_a_missing_modality_leaves_the_product_of_the_others():
    z_l, z_a = torch.randn(5, 4), torch.randn(5, 3)
    cube = outer([z_l, torch.zeros(5, 2), z_a]).unflatten(1, (5, 3, 4))
    assert torch.equal(cube[:, :, 2].flatten(1), outer([z_l, z_a])) and (cube[:, :, :2] == 0).all()


def test_a_modality_no_sample_has_is_embedded_as_zero():
    head, batch = TFN(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    for m in DIMS:
        assert (head.embed[m](batch.x[m], torch.zeros_like(batch.mask[m])) == 0).all()


def test_text_is_read_as_if_each_sample_were_alone():
    head, batch = TFN(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    net, n = head.embed[TEXT], batch.mask[TEXT].sum(1)
    alone = [net.linear(net.lstm(x[:k][None])[1][0][0]) for x, k in zip(batch.x[TEXT], n, strict=True)]
    torch.testing.assert_close(net(batch.x[TEXT], batch.mask[TEXT]), torch.cat(alone))


def test_the_last_valid_step_is_found_and_where_there_is_none_it_is_zero():
    x = torch.arange(12.0).reshape(3, 4, 1)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    assert last_valid(x, mask).flatten().tolist() == [1.0, 0.0, 11.0]


def test_values_stay_within_the_range_of_the_task():
    batch = random_batch(DIMS, Task(low=-1.0, high=2.0))
    far = Batch({m: 1e4 * x for m, x in batch.x.items()}, batch.mask, batch.y, batch.row)
    for head in (TFN(SMALL, DIMS, Task(low=-1.0, high=2.0)).eval() for _ in range(3)):
        assert ((head(far) >= -1) & (head(far) <= 2)).all()
    free = TFN(SMALL, DIMS, Task()).eval()  # a task that gives no range has none
    assert torch.equal(free(batch), free.infer(outer([free.embed[m](batch.x[m], batch.mask[m]) for m in DIMS])))


def test_a_product_too_large_is_refused_with_a_way_out():
    with pytest.raises(ConfigError, match=r"129 x 33 x 33 x 33 = 4,635,873") as error:
        TFN(PRESETS["paper"], {TEXT: 8, IMAGE: 8, AUDIO: 8, FACE: 8}, SENTIMENT)
    assert "hidden=8" in error.value.fix
    TFN(Config(hidden=8, text_out=32), {TEXT: 8, IMAGE: 8, AUDIO: 8, FACE: 8}, SENTIMENT)
