"""Linear heads reach the optimum: the objective of scikit-learn given the same columns, whatever the task."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from msa.fuse.data.table import Normalisation
from msa.fuse.head import masked_mean, with_statistics
from msa.fuse.heads.probe import Config, LinearProbe
from msa.fuse.train import convex
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.loop import fit
from msa.types import SENTIMENT, Split, Task
from tests.fuse.batches import EMOTIONS, emotions_table
from tests.fuse.conftest import IMAGE, TEXT, VALUES, memory_table

RAW = Normalisation({}, ("std",))
VALUE = Task(low=-3.0, high=3.0)


def columns(n=90, width=12, seed=0):
    """(n, width) of different scales, some of them copies with noise, so that the problem is badly conditioned."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * np.geomspace(0.1, 10, width)
    x[:, width // 2 :] = x[:, : width - width // 2] + 0.01 * rng.normal(size=(n, width - width // 2))
    return x, rng


def objective(x, y, task, penalty, weights):
    output = torch.from_numpy(x @ weights[:-1] + weights[-1])
    return convex.mean_loss(output, torch.from_numpy(y), task).item() + penalty / 2 * np.square(weights[:-1]).sum()


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_classes_reach_the_objective_of_scikit_learn(penalty):
    x, rng = columns()
    y = (x[:, 0] * 8 + rng.normal(size=len(x)) > 0).astype(int) + (x[:, 3] > 0.2)
    mine, _ = convex.solve(torch.from_numpy(x), torch.from_numpy(y), SENTIMENT, penalty, np.zeros((13, 3)))
    other = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-10, max_iter=100_000).fit(x, y)
    theirs = np.concatenate([other.coef_.T, other.intercept_[None]])
    ours, reference = (objective(x, y, SENTIMENT, penalty, w) for w in (mine, theirs))
    assert ours <= reference + 1e-7
    assert ours == pytest.approx(reference, rel=1e-4)


def test_values_reach_the_weights_of_ridge_regression():
    x, rng = columns()
    y = (x @ rng.normal(size=x.shape[1]) + 3).astype(np.float32)
    mine, _ = convex.solve(torch.from_numpy(x), torch.from_numpy(y), VALUE, 0.1, np.zeros((13, 1)))
    other = Ridge(alpha=0.05 * len(x)).fit(x, y)  # mean of squares + .05 |w|^2: alpha is of their sum
    np.testing.assert_allclose(mine[:-1, 0], other.coef_, atol=1e-3)
    assert mine[-1, 0] == pytest.approx(other.intercept_, abs=1e-3)


def test_several_labels_are_a_logistic_regression_each():
    x, rng = columns()
    y = (x[:, :6] / np.geomspace(0.1, 10, 12)[:6] + rng.normal(size=(len(x), 6)) > 0.3).astype(np.float32)
    mine, _ = convex.solve(torch.from_numpy(x), torch.from_numpy(y), EMOTIONS, 1e-2, np.zeros((13, 6)))
    for label in range(6):  # the mean is over labels too: a sixth of each one's loss
        other = LogisticRegression(C=1 / (6 * len(x) * 1e-2), tol=1e-10, max_iter=100_000).fit(x, y[:, label])
        np.testing.assert_allclose(mine[:-1, label], other.coef_[0], atol=1e-3)


def test_statistics_stand_beside_every_valid_step():
    x, mask = torch.randn(4, 7, 3), torch.arange(7) < torch.tensor([7, 3, 1, 0])[:, None]
    x = x * mask[:, :, None]
    wide = with_statistics(x, mask, ("mean", "std"))
    assert wide.shape == (4, 7, 9)
    assert torch.equal(wide[:, :, :3], x)
    assert not wide[~mask].any()
    for i, n in enumerate((7, 3, 1)):
        steps = x[i, :n]
        torch.testing.assert_close(wide[i, :n, 3:6], steps.mean(0).expand(n, 3))
        torch.testing.assert_close(wide[i, :n, 6:], steps.std(0, correction=0).expand(n, 3))
    torch.testing.assert_close(masked_mean(wide, mask)[:2, 6:], wide[:2, 0, 6:])


def trained(table, seed=1, stats=("std",), log=lambda line: None, after_epoch=None):
    dims = {m: width * (1 + len(stats)) for m, width in table.dims.items()}
    make = lambda: LinearProbe(Config(), dims, table.task)  # noqa: E731
    parts = table.subset(Split.TRAIN), table.subset(Split.VALID)
    norm = Normalisation({}, tuple(stats))
    return fit(make, *parts, norm, TrainConfig(stats=tuple(stats)), seed, "cpu", None, log, after_epoch), make, norm


def test_the_probe_is_the_optimum_of_the_penalty_that_validation_chose():
    table = memory_table()
    result, make, norm = trained(table)
    chosen = result.history[result.best_epoch]
    assert result.best_epoch < len(result.history) <= len(convex.PATH)
    assert chosen["valid_loss"] == min(row["valid_loss"] for row in result.history)
    head = make()
    head.restore(result.state, "a test")
    (batch,) = table.subset(Split.TRAIN).batches(10_000, norm)
    x, y = head.standardised(batch).double().numpy(), batch.y.numpy()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    other = LogisticRegression(C=1 / (len(x) * chosen["penalty"]), tol=1e-10, max_iter=100_000).fit(x, y)
    layers = (head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()), (other.coef_, other.intercept_)
    mine, theirs = (np.concatenate([w.T, b[None]]).astype(np.float64) for w, b in layers)
    ours, reference = (objective(x, y, SENTIMENT, chosen["penalty"], w) for w in (mine, theirs))
    assert ours == pytest.approx(reference, rel=1e-4)


def test_seeds_and_batches_change_nothing():
    first, other = (trained(memory_table(), seed)[0] for seed in (1, 2))
    for name, weights in first.state.items():
        assert torch.equal(weights, other.state[name])


def test_losses_fall_in_training_as_the_penalty_falls():
    losses = [row["train_loss"] for row in trained(memory_table())[0].history]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("make_table", [lambda: memory_table(task=VALUES), emotions_table])
def test_values_and_several_labels_are_fitted_too(make_table):
    result, _, _ = trained(make_table())
    best = result.history[result.best_epoch]
    assert best["valid_loss"] < result.history[0]["valid_loss"]


def test_a_modality_that_a_sample_lacks_adds_nothing():
    table = memory_table()
    column = table.columns[IMAGE]
    without = replace(column, rows=np.where(np.arange(len(table)) % 3, column.rows, -1))
    table = replace(table, columns={**table.columns, IMAGE: without})
    result, make, norm = trained(table)
    head = make()
    head.restore(result.state, "a test")
    (batch,) = table.subset(Split.TRAIN).batches(10_000, norm)
    x, present = head.features(batch)
    assert not present.all()
    assert not head.standardised(batch)[~present].any()
    assert x.shape == (len(batch), 2 * sum(table.dims.values()))
    assert {TEXT, IMAGE} <= set(table.dims)


def test_a_probe_of_an_earlier_version_predicts_as_it_did():
    table = memory_table()
    head = LinearProbe(Config(), table.dims, SENTIMENT)
    (batch,) = table.subset(Split.VALID).batches(10_000, Normalisation({}))
    width = sum(table.dims.values())
    w, b = torch.randn(3, width), torch.randn(3)
    head.restore({"linear.weight": w, "linear.bias": b}, "an old run")
    means = [masked_mean(batch.x[m], batch.mask[m]) for m in head.modalities]
    z = torch.cat([torch.nn.functional.layer_norm(x, x.shape[1:]) * x.shape[1] ** -0.5 for x in means], 1)
    torch.testing.assert_close(head(batch), z @ w.T + b)
