"""Pictures of a run. matplotlib is imported only when one is drawn."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from msa.fuse import files, metrics
from msa.fuse.train.result import TrainResult
from msa.types import Task


def learning_curve(path: Path, fits: Mapping[int, TrainResult], title: str) -> None:
    """Training and validation loss of every seed; a dot marks the epoch whose weights were kept."""
    figure, axes = _figure(6.4, 4.0)
    for n, (seed, fit) in enumerate(fits.items()):
        x = np.arange(1, len(fit.history) + 1)
        valid = [epoch["valid_loss"] for epoch in fit.history]
        train = [epoch.get("train_task", epoch["train_loss"]) for epoch in fit.history]  # as validation: the task's own
        colour = f"C{n % 10}"
        axes.plot(x, train, colour, linestyle=":", linewidth=1.2)
        axes.plot(x, valid, colour, linewidth=1.6, label=f"seed {seed}")
        axes.plot(x[fit.best_epoch], valid[fit.best_epoch], "o", color=colour, markersize=5)
    axes.set(xlabel="epoch", ylabel="loss", title=f"{title}\nsolid: validation, dotted: training, dot: weights kept")
    axes.legend(fontsize=8, frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def confusion_matrix(
    path: Path, classes: Sequence[str], y: np.ndarray, outputs: Sequence[np.ndarray], title: str
) -> None:
    """Plot the share of each true class (row) predicted as each class (column), over all seeds, with mean counts."""
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
    axes.set(xlabel="predicted", ylabel="true", title=f"{title}\ntest samples, {_mean_of(outputs)}")
    _save(figure, path)


def each_label(path: Path, task: Task, y: np.ndarray, outputs: Sequence[np.ndarray], title: str) -> None:
    """Plot weighted accuracy and F1 of every label, over all seeds, and the share of samples it holds for."""
    scores = [metrics.score(task, y, output).values for output in outputs]
    figure, axes = _figure(1.6 + 0.9 * len(task.classes), 4.0)
    x, share = np.arange(len(task.classes)), (y > 0).mean(0)
    for side, (name, label) in enumerate({"weighted_accuracy": "weighted accuracy", "f1": "F1"}.items()):
        each = np.array([[values[f"{name}_{c}"] for c in task.classes] for values in scores])  # (seeds, C)
        at = x + 0.4 * (side - 0.5)
        axes.bar(at, each.mean(0), width=0.38, color=f"C{side}", label=label)
        axes.plot(np.broadcast_to(at, each.shape).T, each.T, "o", color="black", markersize=2.5, linestyle="none")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xticks(x, [f"{name}\n{part:.0%}" for name, part in zip(task.classes, share, strict=True)])
    axes.set(ylim=(0, 1.02), xlabel="label, and the share of test samples it holds for", ylabel="score")
    axes.set_title(f"{title}\ntest samples, {_mean_of(outputs)}; dots: seeds, line: weighted accuracy of chance")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    _save(figure, path)


def predicted_values(path: Path, y: np.ndarray, outputs: Mapping[int, np.ndarray], title: str) -> None:
    """Plot predicted against true value of every test sample, a colour per seed; the line is predicted = true."""
    figure, axes = _figure(5.2, 5.0)
    aside = 0.01 * np.ptp(y) * (np.arange(len(outputs)) - (len(outputs) - 1) / 2)  # else the last seed hides the others
    for n, (seed, p) in enumerate(outputs.items()):
        look = {"color": f"C{n % 10}", "alpha": 0.5, "markersize": 3, "markeredgewidth": 0}
        axes.plot(y + aside[n], p[:, 0], "o", label=f"seed {seed}", **look)
    every = np.concatenate([y, *(p[:, 0] for p in outputs.values())])
    ends = [every.min(), every.max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set(xlabel="true value", ylabel="predicted value", aspect="equal")
    axes.set_title(f"{title}\n{len(y)} test samples; line: predicted = true")
    axes.legend(fontsize=8, frameon=False, markerscale=1.5)
    _save(figure, path)


def _mean_of(outputs: Sequence[np.ndarray]) -> str:
    return f"mean of {len(outputs)} seeds" if len(outputs) > 1 else "one seed"


def forest(
    path: Path,
    rows: Sequence[tuple[str, float, tuple[float, float], Sequence[float]]],
    score: str,
    title: str,
    constant: Mapping[str, float],
) -> None:
    """Plot mean, interval and every seed of many heads in one score, the first on top; constants as lines."""
    figure, axes = _figure(6.8, 1.4 + 0.3 * len(rows))
    for place, (_, mean, (low, high), seeds) in enumerate(rows):
        y = len(rows) - 1 - place
        axes.plot([low, high], [y, y], color="0.6", linewidth=1.4)
        axes.plot(seeds, [y] * len(seeds), "|", color="C0", markersize=7, alpha=0.7)
        axes.plot(mean, y, "o", color="C0", markersize=5)
    for name, value in constant.items():
        axes.axvline(value, color="0.4", linewidth=1, linestyle=":", label=name)
    if constant:
        axes.legend(loc="best", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set(xlabel=f"{score}: mean, every seed, 95 % interval over groups of test samples", title=title)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    _save(figure, path)


def beside_printed(
    path: Path, names: Sequence[str], pairs: Mapping[str, Sequence[tuple[float, float]]], title: str
) -> None:
    """Plot what was measured here and what a paper prints for each row, one panel per figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(pairs), 1.4 + 0.4 * len(names)), layout="constrained")
    places = range(len(names) - 1, -1, -1)
    for panel, (what, values) in zip(figure.subplots(1, len(pairs), sharey=True), pairs.items(), strict=True):
        panel.plot([ours for ours, _ in values], places, "o", color="C0", label="here")
        panel.plot([printed for _, printed in values], places, "o", color="C1", fillstyle="none", label="printed")
        panel.set(xlabel=what, xlim=(0, None))
        panel.set_yticks(list(places), names)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
    figure.axes[-1].legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    save(figure, path)


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    """Write a figure as a PNG that replaces what had its name; a `$` of a name is no mathematics."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    picture = io.BytesIO()
    with rc_context({"text.parse_math": False}):  # of what is only made while it is drawn
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(picture, format="png", dpi=144)
    files.write(path, picture.getbuffer())


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    figure.axes[0].title.set_fontsize(9)
    save(figure, path)
