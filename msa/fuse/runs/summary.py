"""metrics.json: each seed's scores on the test split, their mean, standard deviation and interval."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from msa import __version__
from msa.fuse import metrics
from msa.fuse.data.table import Subset
from msa.fuse.head import FusionHead
from msa.fuse.train.result import TrainResult
from msa.types import Task


@dataclass(frozen=True)
class SeedResult:
    """One seed: its training, and its outputs (n, task.outputs) on the test split."""

    seed: int
    fit: TrainResult
    output: np.ndarray
    machine: Mapping[str, Any] = field(default_factory=dict)  # it was trained on, see `machine`


def summary(
    task: Task,
    test: Subset,
    rows: Sequence[SeedResult],
    others: Mapping[str, Sequence[SeedResult]],
    constant: np.ndarray,
    head: FusionHead,
) -> dict[str, Any]:
    """Return the content of metrics.json: all scores are of the test split."""
    group, _ = test.groups()

    def scores(rows: Sequence[SeedResult]) -> dict[str, Any]:
        cut = lambda at: [replace(row, output=row.output[at]) for row in rows]  # noqa: E731
        return _whole_and_parts(test, lambda at: _scores(task, test.y[at], group[at], cut(at)))

    scored = scores(rows) | {"parameters": sum(p.numel() for p in head.parameters()), "test_samples": len(test)}
    scored["beside"] = {name: scores(other) for name, other in others.items()}
    scored["beside"][metrics.majority_name(task)] = _whole_and_parts(
        test, lambda at: asdict(metrics.score(task, test.y[at], constant[at])) | {"seeds": []}
    )
    return scored


def _whole_and_parts(test: Subset, scores: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
    """Scores of the whole test split and, where it is of several corpora, of each by itself."""
    corpora = sorted(set(test.corpus.tolist()))
    parts = {name: scores(test.corpus == name) for name in corpora} if len(corpora) > 1 else {}
    return scores(np.ones(len(test), bool)) | ({"by_corpus": parts} if parts else {})


def _scores(task: Task, y: np.ndarray, group: np.ndarray, rows: Sequence[SeedResult]) -> dict[str, Any]:
    """Return each seed's scores, their mean, standard deviation and bootstrap interval, and the number of groups."""
    scores = [metrics.score(task, y, row.output) for row in rows]
    values = {name: np.array([s.values[name] for s in scores]) for name in scores[0].values}
    intervals = metrics.bootstrap(task, y, group, [row.output for row in rows])
    return {
        "values": {name: float(v.mean()) for name, v in values.items()},
        "sd": {name: float(v.std(ddof=1)) if len(v) > 1 else None for name, v in values.items()},
        "interval": {name: list(bounds) for name, bounds in intervals.items()},
        "groups": metrics.groups(group),
        "notes": sorted({note for s in scores for note in s.notes}),
        "seeds": [_seed(row, s) for row, s in zip(rows, scores, strict=True)],
    }


def _seed(row: SeedResult, score: metrics.Score) -> dict[str, Any]:
    best = row.fit.history[row.fit.best_epoch]
    return {
        "seed": row.seed,
        "values": dict(score.values),
        "notes": list(score.notes),
        **{name: best[name] for name in ("valid_loss", "valid_mae") if name in best},
        "best_epoch": row.fit.best_epoch + 1,
        "epochs": len(row.fit.history),
        "seconds": round(row.fit.seconds, 2),
        **{name: row.machine[name] for name in ("device", "threads") if name in row.machine},
        "data_share": round(row.fit.data_seconds / row.fit.seconds, 4) if row.fit.seconds else 0.0,
        "padding": round(row.fit.padding, 4),
        "collapsed": row.fit.collapsed,
        "restarted_at": row.fit.restarted_at,
        "skipped_steps": row.fit.skipped_steps,
    }


def versions() -> dict[str, str]:
    names = ("torch", "numpy", "scikit-learn", "zarr")
    return {"msa": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


def machine() -> dict[str, Any]:
    """Return what this process computes on, and with how many threads."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"platform": platform.platform(), "device": device, "threads": torch.get_num_threads()}
