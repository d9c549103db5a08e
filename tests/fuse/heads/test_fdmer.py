"""FDMER: its losses written out, and which way the discriminator pulls."""

import pytest
import torch
import torch.nn.functional as F

from msa.errors import ConfigError
from msa.fuse.head import Batch, masked_mean
from msa.fuse.heads.fdmer import FDMER, Config, consistency, disparity, hsic
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=8, heads=2, discriminator=4, dropout=0.0)
EVERYONE, SOME = torch.ones(6).bool(), torch.tensor([1, 0, 1, 1, 0, 1]).bool()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_dependence_is_the_trace_of_centred_kernels():
    x, y = torch.randn(6, 3), torch.randn(6, 4)
    kernels = [F.normalize(z, dim=1) @ F.normalize(z, dim=1).T for z in (x, y)]
    r = torch.eye(6) - 1 / 6
    expected = torch.trace(kernels[0] @ r @ kernels[1] @ r) / 25
    torch.testing.assert_close(hsic(x, y, EVERYONE), expected)
    assert hsic(x, torch.ones(6, 4), EVERYONE) < 1e-12 < hsic(x, x, EVERYONE)
    assert hsic(x[:1], y[:1], EVERYONE[:1]) == 0


def test_a_sample_that_lacks_a_modality_counts_in_no_loss_with_it():
    x, y, four = torch.randn(6, 8), torch.randn(6, 8), torch.ones(4).bool()
    torch.testing.assert_close(hsic(x, y, SOME), hsic(x[SOME], y[SOME], four))
    h, present = {TEXT: x, AUDIO: y}, {TEXT: SOME, AUDIO: EVERYONE}
    of_four = {TEXT: x[SOME], AUDIO: y[SOME]}
    torch.testing.assert_close(consistency(h, present), consistency(of_four, dict.fromkeys(h, four)))
    head = FDMER(SMALL, {TEXT: 7, AUDIO: 5}, SENTIMENT)
    guesses = torch.cat([head.discriminate(x[SOME]), head.discriminate(y)])
    truth = torch.tensor([0] * 4 + [1] * 6)
    torch.testing.assert_close(head.mistaken(h, present), F.cross_entropy(guesses, truth))


def test_consistency_is_between_common_features_and_disparity_with_private_ones():
    common, private = ({m: torch.randn(6, 3) for m in DIMS} for _ in range(2))
    present = dict.fromkeys(DIMS, EVERYONE)
    pairs = [(TEXT, AUDIO), (TEXT, FACE), (AUDIO, FACE)]
    apart = sum((2 - 2 * F.cosine_similarity(common[a], common[b])).mean() for a, b in pairs) / 3
    torch.testing.assert_close(consistency(common, present), apart)
    found = [hsic(common[m], private[m], EVERYONE) for m in DIMS]
    found += [hsic(private[a], private[b], EVERYONE) for a, b in pairs]
    torch.testing.assert_close(disparity(common, private, present), sum(found) / 6)


def test_common_features_learn_to_deceive_the_discriminator_and_private_ones_to_help_it():
    head, batch = FDMER(SMALL, DIMS, SENTIMENT), random_batch(DIMS, SENTIMENT)
    present, judge = head.present(batch), list(head.discriminate.parameters())
    common, private = head.features(batch)
    encoders = [list(head.common.parameters()), list(head.private.parameters())]
    straight = [torch.autograd.grad(head.mistaken(h, present), [*e, *judge], retain_graph=True) for h, e in
                zip((common, private), encoders, strict=True)]  # fmt: skip
    adversarial = head.step(batch)[1]["adversarial"] / SMALL.adversarial
    found = torch.autograd.grad(adversarial, [*encoders[0], *encoders[1], *judge])
    sizes = [len(encoders[0]), len(encoders[1])]
    deceive, help_, judged = found[: sizes[0]], found[sizes[0] : sum(sizes)], found[sum(sizes) :]
    torch.testing.assert_close(deceive, tuple(-g for g in straight[0][: sizes[0]]))
    torch.testing.assert_close(help_, straight[1][: sizes[1]])
    both = tuple(a + b for a, b in zip(straight[0][sizes[0] :], straight[1][sizes[1] :], strict=True))
    torch.testing.assert_close(judged, both)


def test_a_batch_of_means_says_all_there_is_to_see():
    head, batch = FDMER(SMALL, DIMS, SENTIMENT), random_batch(DIMS, SENTIMENT)
    batch.mask[AUDIO][:3] = False
    means = {m: masked_mean(x, batch.mask[m])[:, None] for m, x in batch.x.items()}
    there = {m: mask.any(1, keepdim=True) for m, mask in batch.mask.items()}
    assert FDMER.means_only
    torch.testing.assert_close(head.step(Batch(means, there, batch.y, batch.row))[1], head.step(batch)[1])


def test_the_terms_of_the_loss_have_names_and_a_lone_modality_fewer():
    terms = FDMER(SMALL, DIMS, SENTIMENT).step(random_batch(DIMS, SENTIMENT))[1]
    assert terms.keys() == {"task", "disparity", "consistency", "adversarial"}
    lone = FDMER(SMALL, {TEXT: 7}, SENTIMENT).step(random_batch({TEXT: 7}, SENTIMENT))[1]
    assert lone.keys() == {"task", "disparity"}
    with pytest.raises(ConfigError, match="heads"):
        Config(dim=9, heads=2)
