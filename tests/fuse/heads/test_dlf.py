"""DLF: its triplets one by one, its encoders against PyTorch's, and what a sample that lacks something counts in."""

import pytest
import torch
from torch import nn

from msa.errors import ConfigError
from msa.fuse.head import Batch
from msa.fuse.heads.dlf import DLF, Config, distances, triplets
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import EMOTIONS, random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
RANGE = Task(low=-3.0, high=3.0)
SMALL = Config(
    dim=12, heads=3, memory_layers=2, text_dropout=0.0, attention_dropout=0.0, embed_dropout=0.0, out_dropout=0.0
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def one_by_one(points, apart, there, margin):
    """The loss as the paper has it: every anchor, every positive, every negative."""
    n, anchors = len(points), []
    cos = lambda i, j: torch.cosine_similarity(points[i], points[j], dim=0)  # noqa: E731
    for i in range(n):
        others = [j for j in range(n) if j != i and there[i] and there[j]]
        same, unlike = [j for j in others if apart[i, j] == 0], [k for k in others if apart[i, k] > 0]
        found = [(margin * apart[i, k] - cos(i, j) + cos(i, k)).clamp(min=0) for j in same for k in unlike]
        anchors += [torch.stack(found).mean()] if found else []
    return torch.stack(anchors).mean()


@pytest.mark.parametrize("task", [SENTIMENT, RANGE, EMOTIONS], ids=["classes", "values", "labels"])
def test_the_triplet_loss_by_sorting_is_that_of_every_triplet(task):
    y = {SENTIMENT: torch.tensor([0, 2, 0, 1, 2]), RANGE: torch.tensor([1.0, -2.0, 1.0, 0.4, -2.0])}.get(task)
    y = torch.tensor([[1, 0], [0, 2], [3, 0], [1, 1], [0, 1]]) if y is None else y
    apart = distances(task, y).repeat(2, 2)
    there = torch.tensor([1, 1, 1, 1, 0, 1, 1, 0, 1, 1]).bool()
    points = torch.randn(10, 3, requires_grad=True)
    ours, theirs = triplets(points, apart, there, 0.15), one_by_one(points, apart, there, 0.15)
    torch.testing.assert_close(ours, theirs)
    assert ours > 0
    torch.testing.assert_close(*(torch.autograd.grad(loss, points)[0] for loss in (ours, theirs)))


def test_labels_are_as_far_apart_as_they_differ():
    assert distances(RANGE, torch.tensor([1.0, -2.0]))[0, 1] == 3
    assert distances(SENTIMENT, torch.tensor([0, 2]))[0, 1] == 1
    assert distances(EMOTIONS, torch.tensor([[1.0, 0, 3], [0, 0, 1]]))[0, 1] == 1


def test_without_two_of_one_label_and_one_of_another_there_is_no_triplet():
    points, apart = torch.randn(4, 3), 1 - torch.eye(4)
    assert triplets(points, apart, torch.ones(4).bool(), 0.15) == 0
    assert triplets(points, torch.zeros(4, 4), torch.ones(4).bool(), 0.15) == 0


def test_an_encoder_is_a_transformer_of_pytorch():
    head, x, mask = (
        DLF(SMALL, DIMS, SENTIMENT).eval(),
        torch.randn(3, 5, 12),
        torch.arange(5) < torch.tensor([[5], [2], [4]]),
    )
    for p in head.shared.parameters():
        p.data += 0.1 * torch.randn_like(p)
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(12, 3, 48, 0.0, batch_first=True, norm_first=True),
        2,
        norm=nn.LayerNorm(12),
        enable_nested_tensor=False,
    )
    for a, b in zip(theirs.layers, head.shared.layers, strict=True):
        maps = (b.attention.w_q, b.attention.w_k, b.attention.w_v)
        a.self_attn.in_proj_weight.data = torch.cat([w.weight.data for w in maps])
        a.self_attn.in_proj_bias.data = torch.cat([w.bias.data for w in maps])
        pairs = [(a.self_attn.out_proj, b.attention.w_o), (a.norm1, b.norm_1), (a.norm2, b.norm_2)]
        for to, of in [*pairs, (a.linear1, b.ffn[0]), (a.linear2, b.ffn[3])]:
            to.load_state_dict(of.state_dict())
    theirs.norm.load_state_dict(head.shared.norm.state_dict())
    expected = theirs.train()(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(head.shared(x, mask)[mask], expected[mask])


def test_a_sample_without_a_modality_counts_in_no_loss_of_it():
    head, batch = DLF(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT)
    lacks = torch.arange(8) >= 5
    mask = dict(batch.mask) | {AUDIO: batch.mask[AUDIO] & ~lacks[:, None]}
    some = head.step(Batch(batch.x, mask, batch.y, batch.row))[1]
    whole = head.step(batch)[1]
    own, common = head.disentangled(head.projected(batch), mask)
    cos = lambda m: torch.cosine_similarity(own[m], common[m], dim=2)[mask[m]].clamp(min=0).mean()  # noqa: E731
    torch.testing.assert_close(some["orthogonality"], 0.01 * sum(cos(m) for m in DIMS))
    h = head.enhanced(head.disentangled(head.projected(batch), batch.mask)[0], batch.mask)
    error = lambda m, rows: nn.functional.cross_entropy(head.classify_specific[m](h[m])[rows], batch.y[rows])  # noqa: E731
    everyone = torch.ones(8).bool()
    others = 3 * error(TEXT, everyone) + error(FACE, everyone)
    torch.testing.assert_close(whole["specific"], others + error(AUDIO, everyone))
    torch.testing.assert_close(some["specific"], others + error(AUDIO, ~lacks))


def test_without_text_another_attracts_and_bad_settings_are_refused():
    assert DLF(SMALL, {FACE: 6, AUDIO: 5}, SENTIMENT).guide == AUDIO
    with pytest.raises(ConfigError):
        Config(kernel=4)
