"""Pictures of a run. matplotlib is imported only when one is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def learning_curve(path: Path, history: Mapping[int, Sequence[Mapping[str, float]]], title: str) -> None:
    """Training and validation loss of every seed; a dot marks the epoch whose weights were kept."""
    figure, axes = _figure(6.4, 4.0)
    for n, (seed, epochs) in enumerate(history.items()):
        x = np.arange(1, len(epochs) + 1)
        valid = np.array([epoch["valid_loss"] for epoch in epochs])
        train = [epoch["train_loss"] for epoch in epochs]
        colour = f"C{n % 10}"
        axes.plot(x, train, colour, linestyle=":", linewidth=1.2)
        axes.plot(x, valid, colour, linewidth=1.6, label=f"seed {seed}")
        axes.plot(x[np.nanargmin(valid)], np.nanmin(valid), "o", color=colour, markersize=5)
    axes.set(xlabel="epoch", ylabel="loss", title=f"{title}\nsolid: validation, dotted: training, dot: weights kept")
    axes.legend(fontsize=8, frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def confusion_matrix(
    path: Path, classes: Sequence[str], y: np.ndarray, outputs: Sequence[np.ndarray], title: str
) -> None:
    """Share of each true class (row) that is called each class (column), over all seeds, with mean counts."""
    n = len(classes)
    counts = np.mean([np.bincount(y.astype(int) * n + p.argmax(1), minlength=n * n) for p in outputs], axis=0)
    counts = counts.reshape(n, n)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = _figure(4.8, 4.4)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(n):
        for j in range(n):
            dark = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, f"{share[i, j]:.0%}\n{counts[i, j]:.1f}", ha="center", va="center", color=dark, fontsize=9)
    axes.set_xticks(range(n), classes)
    axes.set_yticks(range(n), classes, rotation=90, va="center")
    seeds = f"mean of {len(outputs)} seeds" if len(outputs) > 1 else "one seed"
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}\ntest samples, {seeds}")
    _save(figure, path)


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.title.set_fontsize(9)
    return figure, axes


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    figure.savefig(path, dpi=144)
