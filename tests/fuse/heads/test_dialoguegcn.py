"""DialogueGCN: its graph written out edge by edge, and whose nodes an answer is of."""

import pytest
import torch

from msa.fuse.head import Batch
from msa.fuse.heads.dialoguegcn import Config, DialogueGCN, Graph, Nodes, compact
from msa.fuse.modules.dialogues import dialogues
from msa.types import SENTIMENT, Modality
from tests.fuse.batches import random_batch

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=6, context=4, hidden=5, past=2, future=1, turns=3)
GROUP, POSITION = torch.tensor([4, 9, 4, 9, 9, 7, 2, 2]), torch.tensor([2, 0, 1, 5, 3, 8, 0, 0])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def conversations() -> Batch:
    """Dialogues of samples 2 and 0, and of 1, 4 and 3; 5 is alone, and 6 and 7 have no order."""
    batch = random_batch(DIMS, SENTIMENT)
    return Batch(batch.x, batch.mask, batch.y, batch.row, GROUP, POSITION)


def rows_of(batch: Batch, rows) -> Batch:
    """The batch of these rows alone, in this order."""
    x, mask = ({m: t[rows] for m, t in part.items()} for part in (batch.x, batch.mask))
    return Batch(x, mask, batch.y[rows], batch.row[rows], batch.group[rows], batch.position[rows])


def test_the_graph_is_what_the_formulas_make_of_it_node_by_node():
    graph, n = Graph(8, 2, SMALL), 5
    speaker, g = torch.tensor([0, 1, 0, 1, 0]), torch.randn(n, 8)
    near = {i: range(max(0, i - 2), min(n, i + 2)) for i in range(n)}
    first = []
    for i in range(n):
        score = torch.stack([graph.w_e(g[i]) @ g[j] for j in near[i]])
        alpha = dict(zip(near[i], score.softmax(0), strict=True))
        total = alpha[i] * graph.w_0(g[i])
        relation = {j: 2 * (2 * int(speaker[i]) + int(speaker[j])) + int(j > i) for j in near[i]}
        for j in near[i]:
            c = list(relation.values()).count(relation[j])
            total = total + alpha[j] / c * (g[j] @ graph.w_r[relation[j]])
        first.append(total.relu())
    expected = [(sum(graph.w_2(first[j]) for j in near[i]) + graph.w_20(first[i])).relu() for i in range(n)]
    nodes = Nodes(g[None], torch.ones(1, n).bool(), speaker[None], torch.zeros(1, n).long(), 1)
    torch.testing.assert_close(graph(g[None], nodes)[0], torch.stack(expected))


def test_who_is_silent_is_no_node():
    there = torch.tensor([[[1, 0], [1, 1], [0, 1]], [[0, 0], [0, 1], [0, 0]]]).bool()
    x = torch.arange(12.0).view(2, 3, 2, 1)
    nodes = compact(x, there, torch.arange(3).expand(2, -1), 3)
    assert nodes.x[:, :, 0].tolist() == [[0, 2, 3, 5], [9, 0, 0, 0]]
    assert nodes.there.tolist() == [[True] * 4, [True, False, False, False]]
    assert nodes.speaker[0].tolist() == [0, 0, 1, 1] and nodes.answer[0].tolist() == [0, 1, 1, 2]
    assert nodes.speaker[1, 0] == 1 and nodes.answer[1, 0] == 1


def test_an_answer_is_the_mean_of_its_nodes_each_of_which_looks_at_all():
    head, batch = DialogueGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    some = torch.tensor([0, 1, 0, 1, 1, 0, 0, 0]).bool()
    nodes = head.of_utterances(batch, some, dialogues(batch).only(some))
    g = head.gru(nodes.x)[0]
    h = torch.cat([g, head.graph(g, nodes)], 2)[0]  # (9, 13): three utterances of three modalities
    read = torch.stack([(head.w_beta(a) @ h.T).softmax(0) @ h for a in h])
    torch.testing.assert_close(
        head.converse(nodes)[0], torch.stack([read[3 * u : 3 * u + 3].mean(0) for u in range(3)])
    )


def test_a_lone_sample_is_a_conversation_over_its_own_steps():
    head, batch = DialogueGCN(SMALL, DIMS, SENTIMENT).eval(), random_batch(DIMS, SENTIMENT, full=True)
    nodes = head.of_steps(batch, torch.ones(8).bool())
    assert nodes.x.shape == (8, 9, 6) and nodes.answers == 1  # three turns of three modalities
    assert nodes.speaker[0].tolist() == [0, 1, 2] * 3
    first = head.project["audio"](batch.x[AUDIO][0, :2].mean(0))  # five steps cut in three: 0 and 1, 1 to 3, 3 and 4
    torch.testing.assert_close(nodes.x[0, 1], first)


def test_an_utterance_depends_on_its_dialogue_and_on_nothing_else():
    head, batch = DialogueGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    together = head(batch)
    for rows in ([0, 2], [1, 3, 4], [5], [6], [7]):
        torch.testing.assert_close(head(rows_of(batch, rows)), together[rows])
    torch.testing.assert_close(head(rows_of(batch, [4, 3, 1])), together[[4, 3, 1]])
    assert not torch.allclose(head(rows_of(batch, [0])), together[[0]])


def test_scores_are_as_exact_in_half_precision():
    head, x = DialogueGCN(SMALL, DIMS, SENTIMENT).eval(), 20 * torch.randn(2, 5, 13)  # scores as large as trained ones
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    near = head.graph.near(there)
    full = head.look(x, there), head.graph.alpha(x[:, :, :8], near)
    with torch.autocast("cpu", torch.bfloat16):
        half = head.look(x, there), head.graph.alpha(x[:, :, :8], near)
    torch.testing.assert_close(half, full)
    score = head.w_beta(x[1, 0]) @ x[1, :2].T
    torch.testing.assert_close(full[0][1, 0], score.softmax(0) @ x[1, :2])


def test_an_utterance_may_lack_a_modality_whose_values_are_never_read():
    head, batch = DialogueGCN(SMALL, DIMS, SENTIMENT).eval(), conversations()
    batch.mask[TEXT][[4, 5]] = False
    batch.mask[AUDIO][0] = False
    noise = {m: torch.where(batch.mask[m][:, :, None], x, torch.randn_like(x)) for m, x in batch.x.items()}
    other = Batch(noise, batch.mask, batch.y, batch.row, GROUP, POSITION)
    torch.testing.assert_close(head(other), head(batch), atol=1e-6, rtol=0)


def test_every_parameter_learns_from_dialogues_too():
    head = DialogueGCN(SMALL, DIMS, SENTIMENT).train()
    head.step(rows_of(conversations(), [0, 1, 2, 3, 4]))[1]["task"].backward()
    assert all(p.grad.abs().max() > 0 for p in head.parameters())
