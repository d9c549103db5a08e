"""EMO-GCN: its edges and its attention written out."""

import pytest
import torch

from msa.fuse.heads.emo_gcn import AttentionFusion, Config, ModalityGraph

SMALL = Config(nodes=4, dim=6, embedding=3, layers=2)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_graph_is_what_the_formulas_make_of_it_node_by_node():
    graph, x = ModalityGraph(5, SMALL).eval(), torch.randn(2, 3, 5)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    found = graph(x, mask)
    for b, n in enumerate((3, 2)):
        h = [graph.enter(x[b, i]).relu() for i in range(n)]
        a = torch.zeros(n, n)
        for i in range(n):
            learnt = torch.stack([(graph.e_1[i] @ graph.e_2[j]).clamp(min=0) for j in range(n)])
            alike = torch.stack([h[i] @ h[j] / h[i].norm() / h[j].norm() for j in range(n)])
            a[i] = (learnt.softmax(0) + (alike / 0.5).softmax(0)) / 2
        for w in graph.w:
            h = [h[i] + w(sum(a[i, j] * h[j] for j in range(n))).relu() for i in range(n)]
        torch.testing.assert_close(found[b], sum(h) / n)


def test_a_long_sequence_is_cut_into_stretches():
    graph, x = ModalityGraph(5, SMALL).eval(), torch.randn(1, 12, 5)
    stretches = x.view(1, 4, 3, 5).mean(2)
    everywhere = torch.ones(1, 12).bool()
    torch.testing.assert_close(graph(x, everywhere), graph(stretches, everywhere[:, :4]))


def test_what_a_sample_lacks_has_no_share():
    fuse, z = AttentionFusion(6), torch.randn(2, 3, 6)
    there = torch.tensor([[1, 0, 1], [0, 1, 0]]).bool()
    score = [(fuse.q.weight[0] @ torch.tanh(fuse.w(z[0, m]))).exp() for m in (0, 2)]
    expected = (score[0] * z[0, 0] + score[1] * z[0, 2]) / sum(score)
    torch.testing.assert_close(fuse(z, there)[0], expected)
    torch.testing.assert_close(fuse(z, there)[1], z[1, 1])
