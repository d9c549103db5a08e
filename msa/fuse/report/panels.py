"""How the pictures of an HCL run are drawn; what they show is in `pictures`."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from msa.fuse.runs import plots
from msa.types import Modality

Curves = dict[Modality, dict[str, np.ndarray]]  # modality -> variant -> mean and sd of every epoch, (epochs + 1, 2)

# Okabe and Ito's, which the colour-blind tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def entropy(path: Path, curves: Curves, unit: str, count: int, title: str) -> None:
    """Draw a panel per modality: mean entropy by epoch and, as a band, one standard deviation over samples."""
    figure = _figure(max(6.4, 1.2 + 3.2 * len(curves)), 3.9)
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    most = math.log2(count)
    for axes, (modality, variants) in zip(panels, curves.items(), strict=True):
        for name, values in variants.items():
            x, (mean, sd) = np.arange(len(values)), values.T
            without = name.startswith("w/o")
            colour = COLOURS[without]
            axes.plot(x, mean, color=colour, linestyle="--" if without else "-", linewidth=1.8, label=name)
            axes.fill_between(x, mean - sd, np.minimum(mean + sd, most), color=colour, alpha=0.15, linewidth=0)
        axes.axhline(most, color="0.5", linestyle=":", linewidth=1, label=f"even over {count} {unit}s")
        axes.set_title(modality, fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.2)
    panels[0].set_ylabel(f"entropy of a sample's energy\nover {unit}s [bits]")
    _head(figure, f"Feature entropy, mean and sd over samples\n{title}")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    plots.save(figure, path)


def attention(
    path: Path, guide: Modality, mean: Mapping[Modality, np.ndarray], counts: Mapping[Modality, int], title: str
) -> None:
    """Draw a row per guided modality: its T x T weights, and how much they are above (red) or below (blue) 1/T."""
    figure = _figure(8.6, 0.8 + 3.4 * len(mean))
    rows = figure.subplots(len(mean), 2, squeeze=False)
    for (left, right), (modality, weights) in zip(rows, mean.items(), strict=True):
        above = weights - 1 / len(weights)
        most = max(float(np.abs(above).max()), 1e-6)
        shares = left.imshow(weights, cmap="viridis", vmin=0)
        differences = right.imshow(above, cmap="RdBu_r", vmin=-most, vmax=most)
        figure.colorbar(shares, ax=left, shrink=0.85, label="weight (a row sums to 1)")
        figure.colorbar(differences, ax=right, shrink=0.85, label=f"weight - 1/{len(weights)}")
        left.set_title(f"{guide} guides {modality}, n = {counts[modality]}", fontsize=10)
        right.set_title("difference from an even look", fontsize=10)
        for axes in (left, right):
            axes.set_xticks(range(len(weights)), range(1, len(weights) + 1))
            axes.set_yticks(range(len(weights)), range(1, len(weights) + 1))
            axes.set(xlabel=f"{modality} token (key)", ylabel=f"{guide} token (query)")
    _head(figure, f"Attention in the last guide layer, mean over heads and validation samples\n{title}")
    plots.save(figure, path)


def clouds(path: Path, places: Mapping[str, np.ndarray], title: str) -> None:
    """Draw points (n, 3) of every kind, in a colour and a shape of its own."""
    figure = _figure(6.6, 6.0)
    axes = figure.add_subplot(projection="3d")
    for (kind, points), colour, marker in zip(places.items(), COLOURS, "o^sDv", strict=False):
        letter, _, index = kind.partition("_")
        name = rf"${letter}_{{\mathrm{{{index}}}}}$, n = {len(points)}"
        axes.scatter(*points.T, s=18, color=colour, marker=marker, alpha=0.8, linewidths=0, label=name)
    axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", zlabel="t-SNE 3")
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_ticklabels([])  # t-SNE has no units
    axes.legend(frameon=False, fontsize=10)
    _head(figure, f"Guided features F and what guidance makes of them, G, validation samples\n{title}")
    plots.save(figure, path)


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    return Figure(figsize=(width, height), layout="constrained")


def _head(figure, text: str) -> None:  # type: ignore[no-untyped-def]
    figure.suptitle(text, fontsize=10, parse_math=False)  # a corpus may have a $ in its name
