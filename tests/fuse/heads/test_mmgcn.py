"""MMGCN: edges and layers written out node by node, and what a dialogue is; DialogueGCN means the same by it."""

import math

import pytest
import torch

from msa.fuse.head import Batch
from msa.fuse.heads.mmgcn import MMGCN, Config, edges
from msa.fuse.modules.dialogues import dialogues
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO = Modality.TEXT, Modality.AUDIO
DIMS = {TEXT: 7, AUDIO: 5}
SMALL = Config(dim=6, hidden=4, layers=3)
GROUP = torch.tensor([4, 9, 4, 9, 9, 7, 2, 2])  # two dialogues, a lone sample, and a speaker whose clips have no order
POSITION = torch.tensor([2, 0, 1, 5, 3, 8, 0, 0])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def conversations(dims=DIMS) -> Batch:
    """8 samples in the groups above."""
    batch = random_batch(dims, SENTIMENT)
    return Batch(batch.x, batch.mask, batch.y, batch.row, GROUP, POSITION)


def rows_of(batch: Batch, rows) -> Batch:
    """The batch of these rows alone, in this order."""
    x, mask = ({m: t[rows] for m, t in part.items()} for part in (batch.x, batch.mask))
    return Batch(x, mask, batch.y[rows], batch.row[rows], batch.group[rows], batch.position[rows])


def test_a_dialogue_is_a_group_in_an_order():
    where = dialogues(conversations())
    assert where.turn.tolist() == [1, 0, 0, 2, 1, 0, 0, 0]
    assert where.turns.tolist() == [2, 3, 2, 3, 3, 1, 1, 1]
    assert where.number[0] == where.number[2] != where.number[1] == where.number[3] == where.number[4]
    assert len(set(where.number[5:].tolist()) | {int(where.number[0]), int(where.number[1])}) == 5
    laid = where.lay(torch.arange(8) + 1)
    assert laid[where.number[1]].tolist() == [2, 5, 4] and laid[where.number[0]].tolist() == [3, 1, 0]
    torch.testing.assert_close(where.pick(laid), torch.arange(8) + 1)


def test_samples_without_a_group_are_dialogues_of_their_own():
    where = dialogues(random_batch(DIMS, SENTIMENT))
    assert where.turns.tolist() == [1] * 8 and sorted(where.number.tolist()) == list(range(8))


def test_edges_are_angles_within_a_modality_and_within_an_utterance():
    nodes, known = torch.randn(1, 3, 2, 5), torch.tensor([[[1, 1], [1, 0], [1, 1]]]).bool()
    flat = [(u, m) for u in range(3) for m in range(2)]
    weight = torch.zeros(6, 6)
    for i, (u, m) in enumerate(flat):
        for j, (v, o) in enumerate(flat):
            if (u == v or m == o) and known[0, u, m] and known[0, v, o]:
                x, y = nodes[0, u, m], nodes[0, v, o]
                angle = 0.0 if i == j else math.acos(float(x @ y / x.norm() / y.norm()))
                weight[i, j] = (1 - angle / math.pi) * (1.0 if m == o else 0.7)
    degree = weight.sum(1)
    expected = torch.zeros(6, 6)
    for i in range(6):
        for j in range(6):
            if weight[i, j]:
                expected[i, j] = weight[i, j] / math.sqrt(degree[i] * degree[j])
    torch.testing.assert_close(edges(nodes, known, 0.7)[0], expected, atol=1e-5, rtol=1e-4)


def test_layers_are_those_of_gcnii():
    head = MMGCN(SMALL, DIMS, SENTIMENT).eval()
    nodes, p = torch.randn(1, 2, 2, 6), torch.rand(1, 4, 4)
    first = h = head.enter(nodes[0].flatten(0, 1)).relu()
    for layer in (1, 2, 3):
        beta = math.log(0.5 / layer + 1)
        w = (1 - beta) * torch.eye(4) + beta * head.w[layer - 1]
        h = ((0.9 * p[0] @ h + 0.1 * first) @ w).relu()
    torch.testing.assert_close(head.convolve(nodes, p)[0].flatten(0, 1), h)


def test_an_utterance_depends_on_its_dialogue_and_on_nothing_else():
    head, batch = MMGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    together = head(batch)
    for rows in ([0, 2], [1, 3, 4], [5], [6], [7]):
        torch.testing.assert_close(head(rows_of(batch, rows)), together[rows])
    torch.testing.assert_close(head(rows_of(batch, [4, 3, 1])), together[[4, 3, 1]])  # positions say the order
    assert not torch.allclose(head(rows_of(batch, [0])), together[[0]])


def test_text_is_read_utterance_by_utterance_or_step_by_step():
    head, batch = MMGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    read, x, mask = head.read["text"], batch.x[TEXT], batch.mask[TEXT]
    found = read(x, mask, dialogues(batch))
    means = torch.stack([x[i][mask[i]].mean(0) for i in (1, 4, 3)])  # by position
    torch.testing.assert_close(found[[1, 4, 3]], read.lstm(read.linear(means)[None])[0][0])
    torch.testing.assert_close(found[5], read.lstm(read.linear(x[5][mask[5]])[None])[0][0].mean(0))


def test_an_utterance_may_lack_a_modality_whose_values_are_never_read():
    head, batch = MMGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    batch.mask[TEXT][[4, 5]] = False
    batch.mask[AUDIO][0] = False
    noise = {m: torch.where(batch.mask[m][:, :, None], x, torch.randn_like(x)) for m, x in batch.x.items()}
    other = Batch(noise, batch.mask, batch.y, batch.row, GROUP, POSITION)
    torch.testing.assert_close(head(other), head(batch), atol=1e-6, rtol=0)


def test_every_parameter_learns_from_dialogues_too():
    head = MMGCN(SMALL, DIMS, SENTIMENT).train()
    head.step(rows_of(conversations(), [0, 1, 2, 3, 4]))[1]["task"].backward()
    assert all(p.grad.abs().max() > 0 for p in head.parameters())


def test_what_is_classified_is_each_node_before_and_after_the_graph_and_zeros_where_a_modality_is_missing():
    head, batch = MMGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    batch.mask[TEXT][[4, 5]] = False
    batch.mask[AUDIO][0] = False
    where = dialogues(batch)
    read = torch.stack([head.read[m](batch.x[m], batch.mask[m], where) for m in (TEXT, AUDIO)], 1)  # (8, 2, dim)
    present = torch.stack([batch.mask[m].any(1) for m in (TEXT, AUDIO)], 1)  # (8, 2)
    nodes = torch.where(present[:, :, None], read, torch.zeros(()))
    laid, known = where.lay(nodes), where.lay(present)
    convolved = where.pick(head.convolve(laid, edges(laid, known, SMALL.gamma)))  # (8, 2, hidden)
    columns = []
    for m in range(2):
        columns += [nodes[:, m], torch.where(present[:, m, None], convolved[:, m], torch.zeros(()))]
    torch.testing.assert_close(head(batch), head.classify(torch.cat(columns, 1).relu()))
    assert (read[~present] != 0).any()  # what is left out would have counted
