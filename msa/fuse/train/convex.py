"""Fit of a linear head to the optimum of a convex objective, for a path of penalties; validation chooses the penalty.

The objective is the task's mean loss over the training samples plus penalty / 2 times the squared norm of the weights;
biases are free. With penalty = 1 / (n C) it is that of scikit-learn's LogisticRegression. It has one optimum, so the
result depends on no seed, no learning rate and no number of epochs.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn

from msa.errors import ConfigError
from msa.fuse.data.table import Normalisation, Subset
from msa.fuse.head import LinearHead
from msa.fuse.train.evaluation import validate
from msa.fuse.train.result import TrainResult
from msa.types import Task

# Penalties, as shares of the norm of the loss's gradient at zero weights. The same path for all data: at the first one
# the weights say next to nothing, at the last one they fit all but the noise of a training set of thousands.
PATH = tuple(10 ** (0.5 - k / 2) for k in range(10))
PATIENCE = 3  # penalties without a better validation after which weaker ones, which take longest, are not tried
TOLERANCE = 1e-6  # of the gradient's largest entry
MAX_ITERATIONS = 1000


def fit_path(
    head: LinearHead,
    train: Subset,
    valid: Subset,
    norm: Normalisation,
    batch: int,
    criterion: str,
    log: Callable[[str], None],
    after_step: Callable[[int, LinearHead, Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Fit a linear head for every penalty of PATH, strongest first, and keep the weights that are best on validation.

    Every penalty is a row of the result's history. Computed in float64 on the CPU, whatever the head's device.

    Args:
        head: fresh.
        train: training samples.
        valid: validation samples, which choose the penalty.
        norm: how hidden states are normalised and widened.
        batch: samples read at a time.
        criterion: column of the history whose lowest value is best.
        log: called with every line of progress.
        after_step: called after each penalty with its number from 1, the head in evaluation mode, and the losses.

    Raises:
        ConfigError: where no validation loss is finite.
    """
    device = str(next(head.parameters()).device)
    started = time.monotonic()
    head.eval()
    with torch.no_grad():
        order = [np.arange(len(train))[i : i + batch] for i in range(0, len(train), batch)]
        batches = list(train.source(norm, device, head.means_only).batches(order))
        features, present = (torch.cat(each) for each in zip(*map(head.features, batches), strict=True))
        head.standardise(features, present)
        x = torch.cat([head.standardised(b) for b in batches]).double().cpu()  # (n, F)
        y = torch.cat([b.y for b in batches]).cpu()
    read = time.monotonic() - started
    weights = np.zeros((x.shape[1] + 1, head.task.outputs))  # the last row is the bias
    largest = gradient_norm(x, y, head.task)
    result, best = TrainResult(state={}, data_seconds=read), float("inf")
    for number, share in enumerate(PATH):
        weights, loss = solve(x, y, head.task, share * largest, weights, TOLERANCE)
        set_weights(head.linear, weights)
        validation = validate(head, valid, norm, batch, device)
        losses = {"train_loss": loss, **validation.losses, "penalty": share * largest, "epoch": number}
        result.history.append(losses)
        if losses[criterion] < best:
            best, result.best_epoch = losses[criterion], number
            result.state = {k: v.detach().cpu().clone() for k, v in head.state_dict().items()}
            result.collapsed = validation.distinct == 1 and bool(head.task.classes) and len(np.unique(y)) > 1
        if after_step:
            after_step(number + 1, head, losses)
        if number - result.best_epoch >= PATIENCE and result.state:
            break
    if not result.state:
        raise ConfigError("the validation loss was never finite", fix="look for odd values with `msa cache verify`")
    result.seconds = time.monotonic() - started
    chosen = result.history[result.best_epoch]
    log(
        f"{len(result.history)} penalties solved in {result.seconds:.1f} s; validation chose {chosen['penalty']:.2g}, "
        f"train {chosen['train_loss']:.4f}, valid {chosen['valid_loss']:.4f}"
    )
    return result


def solve(
    x: Tensor, y: Tensor, task: Task, penalty: float, start: np.ndarray, tolerance: float = 1e-7
) -> tuple[np.ndarray, float]:
    """Return the weights at the optimum, (F + 1, outputs) with the bias in the last row, and their mean loss.

    Args:
        x: (n, F) float64.
        y: labels as in a batch.
        task: what is predicted.
        penalty: above 0.
        start: weights to start from, such as those of a stronger penalty.
        tolerance: of the gradient's largest entry.
    """

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.from_numpy(flat.reshape(start.shape)).requires_grad_()
        value = mean_loss(x @ w[:-1] + w[-1], y, task) + penalty / 2 * w[:-1].square().sum()
        value.backward()
        assert w.grad is not None
        return value.item(), w.grad.numpy().ravel()

    options = {"maxiter": MAX_ITERATIONS, "gtol": tolerance, "ftol": 1e-15, "maxcor": 20}
    flat = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options).x
    weights = flat.reshape(start.shape)
    return weights, mean_loss(x @ torch.from_numpy(weights[:-1]) + torch.from_numpy(weights[-1]), y, task).item()


def gradient_norm(x: Tensor, y: Tensor, task: Task) -> float:
    """Return the norm of the loss's gradient with respect to the weights, at zero weights and the best bias."""
    bias = solve(x[:, :0], y, task, 1.0, np.zeros((1, task.outputs)))[0]
    w = torch.zeros(x.shape[1], task.outputs, dtype=torch.float64, requires_grad=True)
    mean_loss(x @ w + torch.from_numpy(bias), y, task).backward()
    assert w.grad is not None
    return max(float(w.grad.norm()), 1e-12)  # features that say nothing: any penalty keeps the weights at 0


def mean_loss(output: Tensor, y: Tensor, task: Task) -> Tensor:
    """Return the task's mean loss in float64: output (n, outputs) and labels y -> ()."""
    if task.multilabel:
        return F.binary_cross_entropy_with_logits(output, (y > 0).double())
    return F.cross_entropy(output, y) if task.classes else F.mse_loss(output[:, 0], y.double())


def set_weights(linear: nn.Linear, weights: np.ndarray) -> None:
    """Copy weights (F + 1, outputs) with the bias in the last row into a layer."""
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weights[:-1].T))
        linear.bias.copy_(torch.from_numpy(weights[-1]))
