"""MUTANet: the contrast pair by pair, who is alike, and which relations a sample has."""

import math

import pytest
import torch

from msa.errors import ConfigError
from msa.fuse.head import Batch, masked_mean
from msa.fuse.heads.mutanet import Config, MUTANet, alike, contrast
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import EMOTIONS, random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=8, dropout=0.0)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_contrast_is_a_cross_entropy_of_each_sample_with_the_others():
    h, close = torch.randn(5, 3), alike(SENTIMENT, torch.tensor([0, 1, 0, 2, 0]), 1.0)
    total, anchors = 0.0, 0
    for i in range(5):
        score = {j: math.exp(torch.cosine_similarity(h[i], h[j], dim=0).item() / 0.2) for j in range(5) if j != i}
        same = [j for j in score if close[i, j] > 0]
        if same:
            total -= sum(math.log(score[j] / sum(score.values())) for j in same) / len(same)
            anchors += 1
    assert anchors == 3
    assert contrast(h, close, 0.2).item() == pytest.approx(total / 3, rel=1e-5)


def test_the_contrast_is_lower_where_the_alike_are_together():
    y = torch.tensor([0, 0, 1, 1])
    together, apart = torch.eye(2).repeat_interleave(2, 0), torch.eye(2).repeat(2, 1)
    close = alike(SENTIMENT, y, 1.0)
    assert contrast(together, close, 0.2) < 0.1 < contrast(apart, close, 0.2)


def test_one_sample_and_samples_like_no_other_have_no_contrast():
    assert contrast(torch.randn(1, 3), torch.zeros(1, 1), 0.2) == 0
    assert contrast(torch.randn(3, 3), alike(SENTIMENT, torch.arange(3), 1.0), 0.2) == 0


def test_sentiments_are_alike_by_class_by_distance_and_by_labels_in_common():
    assert alike(SENTIMENT, torch.tensor([2, 2, 1]), 1.0).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    values = alike(Task(low=-3.0, high=3.0), torch.tensor([1.0, -1.0]), 2.0)
    assert values[0, 1].item() == pytest.approx(math.exp(-1))
    labels = alike(EMOTIONS, torch.tensor([[1, 1, 0], [3, 0, 0], [0, 0, 0]]), 1.0)
    assert labels[0].tolist() == [0, 0.5, 0]


def test_every_set_of_modalities_has_a_relation_and_a_sample_those_of_what_it_has():
    head, batch = MUTANet(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    assert len(head.groups) == 7
    mask = dict(batch.mask) | {FACE: torch.zeros_like(batch.mask[FACE])}
    u = {m: head.embed[m](masked_mean(batch.x[m], mask[m])) for m in (TEXT, AUDIO)}
    pair = torch.cat([u[TEXT], u[AUDIO], u[TEXT] * u[AUDIO]], 1)
    r = torch.stack([head.relate["text"](u[TEXT]), head.relate["audio"](u[AUDIO]), head.relate["text_audio"](pair)])
    weight = (torch.tanh(r) @ head.score.weight[0]).softmax(0)
    expected = (weight[:, :, None] * r).sum(0)
    torch.testing.assert_close(head.represent(Batch(batch.x, mask, batch.y, batch.row)), expected)


def test_means_are_all_it_needs():
    head, batch = MUTANet(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    means = {m: masked_mean(batch.x[m], batch.mask[m])[:, None] for m in DIMS}
    one = {m: batch.mask[m].any(1, keepdim=True) for m in DIMS}
    torch.testing.assert_close(head(Batch(means, one, batch.y, batch.row)), head(batch))
    with pytest.raises(ConfigError):
        Config(temperature=0.0)
