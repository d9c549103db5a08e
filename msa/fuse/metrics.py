"""Each metric with its definition and source.

Classification. Precision, recall and F1 are means over the classes, weighted by support ("weighted", what the CM-STA
paper's equal accuracy and recall columns imply) or plain ("macro"), as scikit-learn takes them: a class never
predicted has precision 0, one that is neither in the truth nor predicted is left out. `f1_harmonic` is 2PR/(P + R) of
the weighted P and R, which is what most rows of that paper's table 2 print as F1. AUROC is one-vs-rest from the
softmax, weighted and macro over the classes the truth contains.

Regression. MAE and Pearson's correlation on unclipped values; the correlation of constant predictions is undefined,
given as 0 and named.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from msa.types import Task

RESAMPLES = 1000  # of the bootstrap


@dataclass(frozen=True)
class Score:
    """Metric values, and what must be said beside them."""

    values: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)


def score(task: Task, y: np.ndarray, output: np.ndarray) -> Score:
    """Metrics of outputs (n, task.outputs) - class probabilities or values - against labels (n,)."""
    if task.classes:
        return classification(y.astype(np.int64), output, task.classes)
    return regression(y, output[:, 0])


def classification(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> Score:
    """Scores of probabilities p (n, C) against class numbers y (n,)."""
    predicted = p.argmax(1)
    values = {"accuracy": float((predicted == y).mean())}
    for average in ("weighted", "macro"):
        pre, rec, f1, _ = precision_recall_fscore_support(y, predicted, average=average, zero_division=0)
        values |= {f"precision_{average}": pre, f"recall_{average}": rec, f"f1_{average}": f1}
    pre, rec = values["precision_weighted"], values["recall_weighted"]
    values["f1_harmonic"] = 2 * pre * rec / (pre + rec) if pre + rec else 0.0
    aurocs, notes = _auroc(y, p, classes)
    values |= aurocs | {"predicted_classes": float(len(np.unique(predicted)))}
    if len(np.unique(predicted)) == 1 < len(np.unique(y)):
        notes.append(f"collapsed: every sample is called {classes[predicted[0]]}")
    return Score({name: float(value) for name, value in values.items()}, tuple(notes))


def _auroc(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    support = np.bincount(y, minlength=len(classes))
    usable = [c for c in range(len(classes)) if 0 < support[c] < len(y)]
    skipped = [name for c, name in enumerate(classes) if c not in usable]
    notes = [f"AUROC leaves out {', '.join(skipped)}: no sample, or nothing else"] if skipped else []
    if not usable:
        return {"auroc_weighted": float("nan"), "auroc_macro": float("nan")}, notes
    each = np.array([roc_auc_score(y == c, p[:, c]) for c in usable])
    return {
        "auroc_weighted": float(np.average(each, weights=support[usable])),
        "auroc_macro": float(each.mean()),
    }, notes


def regression(y: np.ndarray, p: np.ndarray) -> Score:
    """Scores of predicted values p (n,) against y (n,)."""
    constant = bool(np.ptp(p) == 0 or np.ptp(y) == 0)
    corr = 0.0 if constant else float(np.corrcoef(p, y)[0, 1])
    notes = ("correlation is undefined for constant values and given as 0",) if constant else ()
    return Score({"mae": float(np.abs(p - y).mean()), "corr": corr}, notes)


def headline(task: Task) -> tuple[str, ...]:
    """The metrics a table shows."""
    if task.classes:
        return ("accuracy", "f1_weighted", "f1_macro", "auroc_weighted", "auroc_macro")
    return ("mae", "corr")


def bootstrap(
    task: Task, y: np.ndarray, outputs: Sequence[np.ndarray], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals over test samples of metrics averaged over seeds; `outputs` holds (n, outputs) per seed.

    The same samples are drawn for every seed: the interval says what another test set of this size might have
    given, not what another seed would.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(y), (RESAMPLES, len(y)))
    found: dict[str, list[float]] = {}
    for draw in draws:
        for name, metric in _resampled(task).items():
            found.setdefault(name, []).append(float(np.mean([metric(y[draw], output[draw]) for output in outputs])))
    return {name: (float(np.percentile(v, 2.5)), float(np.percentile(v, 97.5))) for name, v in found.items()}


def _resampled(task: Task) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    if not task.classes:
        return {
            "mae": lambda y, p: float(np.abs(p[:, 0] - y).mean()),
            "corr": lambda y, p: regression(y, p[:, 0]).values["corr"],
        }
    n = len(task.classes)
    return {
        "accuracy": lambda y, p: float((p.argmax(1) == y).mean()),
        "f1_weighted": lambda y, p: _f1(y, p, n, weighted=True),
        "f1_macro": lambda y, p: _f1(y, p, n, weighted=False),
    }


def _f1(y: np.ndarray, p: np.ndarray, n: int, weighted: bool) -> float:
    """F1 from one confusion matrix: scikit-learn's numbers, a hundred times faster, for thousands of resamples."""
    confusion = np.bincount(y.astype(np.int64) * n + p.argmax(1), minlength=n * n).reshape(n, n)
    support, total = confusion.sum(1), confusion.sum(1) + confusion.sum(0)
    f1 = np.divide(2 * confusion.diagonal(), total, out=np.zeros(n), where=total > 0)
    return float(np.average(f1, weights=support) if weighted else f1[total > 0].mean())


def majority(task: Task, y_train: np.ndarray, n: int) -> np.ndarray:
    """Outputs (n, task.outputs) of the predictor that knows nothing but the training labels."""
    if not task.classes:
        return np.full((n, 1), y_train.mean())
    counts = np.bincount(y_train.astype(np.int64), minlength=len(task.classes))
    return np.tile(np.eye(len(task.classes))[counts.argmax()], (n, 1))
