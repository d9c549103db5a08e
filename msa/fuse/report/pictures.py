"""What an HCL run looks like inside: figures 2 to 5 of its paper, of the validation split.

Each picture is a PNG in the run's folder `plots` and, beside it, a CSV of the numbers it shows. The test split is
never looked at. A sample that lacks a modality has no part in what is shown of that modality.

entropy    Figure 2: the entropy of the features F_m after every epoch, with COWA and without. A run keeps its best
           weights alone, so its model is trained anew from the store, once as it is and once the other way.
           The paper gives no formula. Ours: channel c of a sample has p_c = sum_t F[t, c]^2 / sum_tc F[t, c]^2 of its
           energy, and H = -sum_c p_c log2 p_c, in bits (Shannon). A factor common to all of F leaves H as it is,
           which has to be so: COWA rescales F. H is log2(d) where all channels carry as much, and 2^H channels of
           equal energy would have this H. It says how few channels carry the features, not how much these know of
           the label, and weights that differ lower it whether they were learnt or not: look at epoch 0 too, which
           is before training, with the statistics that COWA's batch norm would then have. After few steps its
           running ones lag behind, so that a small corpus may show an epoch 1 that means nothing.
           With axis=token it is tokens that COWA weighs, and H is over the T tokens.
attention  Figures 3 and 4: where the guide looks in the last guide layer, the softmax of eq. 6, a T x T matrix per
           guided modality, mean over heads and samples. Token i is the same learnt query in every sample, so that
           a mean has a meaning. A softmax has no weights below 0, as the paper's blue areas are; beside the weights
           stands by how much they differ from 1/T, a guide that looks everywhere alike.
tsne       Figure 5: F_m of the guided modalities and G_N, mean over tokens, all of them together by t-SNE in three
           dimensions. What is near was near; the clouds' sizes and the distances between them say little.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from msa.annotations.cells import Writer
from msa.device import own_device
from msa.errors import ConfigError, UnknownNameError
from msa.fuse.data.table import Subset, Table
from msa.fuse.experiments.evaluate import check_fit
from msa.fuse.experiments.experiment import Experiment, store_of
from msa.fuse.head import Batch, FusionHead
from msa.fuse.report import panels
from msa.fuse.runs import files
from msa.fuse.runs.run import Run
from msa.fuse.train.loop import Log, fit
from msa.fuse.train.model import Model
from msa.types import Modality, Split, Task

VARIANTS = {"": "with COWA", "kmeans": "COWA, fixed groups", "cowa": "w/o COWA"}  # hcl's `without` -> what it is called
MOST = 500  # samples that t-SNE is given: more take minutes and hide each other
PERPLEXITY = 30.0  # of t-SNE, where there are points enough
FEWEST = 10  # points, below which t-SNE has nothing to show


def plot(
    run_folder: Path,
    what: str,
    store: str | Path | None = None,
    seed: int | None = None,
    log: Log = lambda line: None,
) -> list[Path]:
    """Draw one of PICTURES for a seed of an HCL run, its best one unless told -> the PNG and the CSV that were written.

    Raises ConfigError where the run is not HCL's, is not finished, or has nothing of the kind to show.
    """
    if what not in PICTURES:
        raise UnknownNameError("picture", what, PICTURES)
    subject = Subject.open(run_folder, store, seed, log)
    folder = run_folder / "plots"
    return PICTURES[what](subject, folder / f"{what}.png", folder / f"{what}.csv")


@dataclass(frozen=True)
class Subject:
    """A finished HCL run, one of its seeds, and its data."""

    run: Run
    table: Table
    seed: int
    device: str
    log: Log

    @classmethod
    def open(cls, folder: Path, store: str | Path | None, seed: int | None, log: Log) -> "Subject":
        """Refuse what cannot be drawn, then load the data as the run saw them."""
        run = Run.open(folder)
        if run.model.name != "hcl":
            raise ConfigError(
                f"{folder} is a run of {run.model.name}, and only hcl has inside what these pictures show",
                fix="train one: msa fuse train --model hcl",
            )
        own, best = Experiment.from_json(run.record["experiment"]), run.best_seed
        if seed is not None and seed not in own.seeds:
            raise ConfigError(
                f"{folder} has the seeds {', '.join(map(str, own.seeds))}, not {seed}",
                fix=f"name one of them, or none: the best is {best}",
            )
        table = own.data.load(store_of(run, store))
        check_fit(run, table)
        table = table.only([m for m in table.columns if m in run.dims])
        if not len(table.subset(Split.VALID)):
            raise ConfigError(f"{table.name} has no validation sample", fix="check the splits with `msa cache info`")
        device = own_device()
        return cls(run, table, best if seed is None else seed, device, log)

    @property
    def title(self) -> str:
        """Return model, data and seed as a title."""
        return f"{self.run.title}, seed {self.seed}"

    @property
    def valid(self) -> Subset:
        """Return the validation samples, which the pictures show."""
        return self.table.subset(Split.VALID)

    def head(self) -> Any:
        """The trained HCL; Any, for leaves are loaded by name."""
        return self.run.head(self.seed).to(self.device)

    def batches(self, part: Subset) -> Iterator[Batch]:
        """Return the batches of a subset as training and validation saw them."""
        for batch in part.batches(self.run.model.training.batch, self.run.normalisation()):
            yield batch.to(self.device)

    def shown(self, modalities: Iterable[Modality], beside: Modality | None = None) -> list[Modality]:
        """Those of the modalities that a validation sample has, where told together with another one; never none."""
        has = {m: column.present[self.valid.rows] for m, column in self.table.columns.items()}
        asked = {m: has[m] & has[beside] if beside else has[m] for m in modalities}
        lost = [m for m, present in asked.items() if not present.any()]
        what = f"{self.table.name}: no validation sample has {' or '.join(lost)}" + (f" and {beside}" if beside else "")
        if len(lost) == len(asked):
            raise ConfigError(what, fix="draw a run on data that has them")
        if lost:
            self.log(f"{what}: left out")
        return [m for m in asked if m not in lost]


# --- Figure 2 ---------------------------------------------------------------------------------------------------------


def _entropy(subject: Subject, png: Path, table: Path) -> list[Path]:
    settings, models = subject.run.model.settings, _with_and_without(subject.run.model)
    unit, count = ("token", settings["tokens"]) if settings["axis"] == "token" else ("channel", settings["dim"])
    modalities = subject.shown(subject.head().modalities)
    curves: panels.Curves = {m: {} for m in modalities}  # of each variant, mean and sd, (epochs + 1, 2)
    for model in models:
        name, epochs = _trained(subject, model, VARIANTS[model.settings["without"]])
        for m in modalities:
            curves[m][name] = np.array([(bits[m].mean(), bits[m].std()) for bits in epochs])
    rows = (
        (epoch, name, m, mean, sd)
        for m, curve in curves.items()
        for name, values in curve.items()
        for epoch, (mean, sd) in enumerate(values)
    )
    _write(table, ("epoch", "variant", "modality", f"{unit}_entropy_bits", "sd_bits"), rows)
    panels.entropy(png, curves, unit, count, f"{subject.title}, {len(subject.valid)} validation samples")
    return [png, table]


def _with_and_without(model: Model) -> list[Model]:
    """Return the model as it is, and with COWA taken out or put back."""
    own = model.settings["without"]
    if own not in VARIANTS:
        raise ConfigError(
            f"this run is without={own}, and a model is without one thing: without COWA it would have {own} again",
            fix=f"plot the entropy of a run with without={', '.join(map(repr, VARIANTS))}",
        )
    return [model, replace(model, settings=dict(model.settings) | {"without": "" if own == "cowa" else "cowa"})]


def _trained(subject: Subject, model: Model, name: str) -> tuple[str, list[dict[Modality, np.ndarray]]]:
    """Return the curve's name, and every validation sample's entropies before training and after each epoch."""
    data, training, seed, log = subject.table, model.training, subject.seed, subject.log
    log(f"{name}: trains anew with seed {seed}, {training.epochs} epochs at most; the run stays as it is")
    make = lambda: model.build(data.dims, data.task)  # noqa: E731
    torch.manual_seed(seed)  # as `fit` does: these are the weights it starts from
    head = make().to(subject.device)
    update_bn(subject.batches(data.subset(Split.TRAIN)), head)  # mean 0 and variance 1 would be a COWA of no epoch
    bits = [_bits(subject, head.eval())]

    def measure(epoch: int, head: FusionHead, _: object) -> None:
        del bits[epoch:]  # where a collapsed training was begun again
        bits.append(_bits(subject, head))

    result = fit(
        make,
        data.subset(Split.TRAIN),
        subject.valid,
        subject.run.normalisation(),
        training,
        seed,
        subject.device,
        log=lambda line: log(f"{name}: {line}"),
        after_epoch=measure,
    )
    if result.restarted_at is not None:  # the two curves are then of different rates, which has to stand beside them
        name = f"{name}, collapsed and begun again at lr {result.restarted_at:g}"
    return name, bits


@torch.inference_mode()
def _bits(subject: Subject, head: Any) -> dict[Modality, np.ndarray]:
    """Return the entropy of F_m for each validation sample that has m, (n_m,)."""
    summed = 2 if subject.run.model.settings["axis"] == "token" else 1  # of (B, T, d)
    collected: dict[Modality, list[Tensor]] = {m: [] for m in head.modalities}
    for batch in subject.batches(subject.valid):
        f, _, _ = head.states(batch)  # each (B, T, d)
        for m, x in f.items():
            collected[m].append(entropy(x[batch.mask[m].any(1)].double().square().sum(summed)).cpu())
    return {m: torch.cat(bits).numpy() for m, bits in collected.items()}


def entropy(energy: Tensor) -> Tensor:
    """Return the Shannon entropy in bits of each row's shares of energy (n, c) -> (n,)."""
    p = energy / energy.sum(1, keepdim=True)  # (n, c)
    return torch.special.entr(p).sum(1) / math.log(2)


# --- Figures 3 and 4 --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _attention(subject: Subject, png: Path, table: Path) -> list[Path]:
    head = subject.head()
    collected: dict[Modality, list[Tensor]] = {m: [] for m in head.guided}
    for batch in subject.batches(subject.valid):
        for m, weights in head.attention(batch).items():  # each (B, heads, T, T)
            both = batch.mask[head.guide].any(1) & batch.mask[m].any(1)  # (B,)
            collected[m].append(weights[both].double().mean(1).cpu())
    samples = {m: torch.cat(collected[m]).numpy() for m in subject.shown(head.guided, head.guide)}  # each (n, T, T)
    mean = {m: matrices.mean(0) for m, matrices in samples.items()}  # each (T, T)
    rows = (
        (head.guide, m, query + 1, key + 1, weight, weight - 1 / len(matrix))
        for m, matrix in mean.items()
        for (query, key), weight in np.ndenumerate(matrix)
    )
    _write(table, ("guide", "guided", "query", "key", "weight", "from_uniform"), rows)
    panels.attention(png, head.guide, mean, {m: len(matrices) for m, matrices in samples.items()}, subject.title)
    return [png, table]


# --- Figure 5 ---------------------------------------------------------------------------------------------------------


def _tsne(subject: Subject, png: Path, table: Path) -> list[Path]:
    vectors = _vectors(subject)
    points = np.concatenate([x for _, x in vectors.values()])
    if len(points) < FEWEST:
        raise ConfigError(
            f"{len(points)} vectors of {len(subject.valid)} validation samples; t-SNE shows nothing below {FEWEST}",
            fix="draw a run on more data",
        )
    data, ends = subject.table, np.cumsum([len(x) for _, x in vectors.values()])[:-1]
    clouds = dict(zip(vectors, np.split(embed(points, subject.seed), ends), strict=True))  # each (n, 3)
    rows = (
        (data.corpus[row], data.ids[row], kind, *place, _label(data.task, data.y[row]))
        for kind, cloud in clouds.items()
        for row, place in zip(vectors[kind][0], cloud, strict=True)
    )
    _write(table, ("corpus", "id", "kind", "x", "y", "z", "label"), rows)
    panels.clouds(png, clouds, subject.title)
    return [png, table]


@torch.inference_mode()
def _vectors(subject: Subject) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return F_m of each guided modality and G_N: table rows (n,) and vectors (n, d), means over tokens."""
    head, part = subject.head(), subject.valid
    if not head.guided:
        raise ConfigError(f"{head.guide} alone guides no one: there is no G_N", fix="draw a run of more modalities")
    guided = subject.shown(head.guided)
    if len(part) > MOST:
        subject.log(f"drawn from {MOST} of {len(part)} validation samples")
        part = replace(part, rows=np.sort(np.random.default_rng(subject.seed).choice(part.rows, MOST, replace=False)))
    vectors: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for batch in subject.batches(part):
        f, _, g = head.states(batch)  # each (B, T, d)
        present = {m: batch.mask[m].any(1) for m in guided}  # each (B,)
        seen = {f"F_{m}": (f[m], present[m]) for m in guided} | {"G_N": (g, torch.stack(list(present.values())).any(0))}
        for kind, (x, has) in seen.items():
            vectors.setdefault(kind, []).append((batch.row[has].cpu(), x[has].mean(1).float().cpu()))
    return {
        kind: (torch.cat([r for r, _ in kept]).numpy(), torch.cat([x for _, x in kept]).numpy())
        for kind, kept in vectors.items()
    }


def _label(task: Task, y: Any) -> object:
    """Return a label y, a number or (classes,), as text."""
    if task.multilabel:
        return task.named(y > 0)
    return task.classes[int(y)] if task.classes else y


def embed(x: np.ndarray, seed: int) -> np.ndarray:
    """Return t-SNE of vectors x (n, d) in three dimensions, the same for the same seed -> (n, 3)."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    rate = len(x) / 48  # as "auto", which is never below 50 though: in 3-D a hundred points then fly apart
    tsne = TSNE(3, perplexity=perplexity, learning_rate=rate, init="pca", random_state=seed % 2**32)
    with threadpool_limits(1):  # threads would add up in another order each time
        return tsne.fit_transform(x)


# --- Files ------------------------------------------------------------------------------------------------------------


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    files.subfolder(path.parent.parent, path.parent.name)
    short = lambda value: f"{value:.6g}" if isinstance(value, float | np.floating) else value  # noqa: E731
    with files.written(path) as file:
        table = Writer(file)
        table.row(columns)
        table.rows([short(value) for value in row] for row in rows)


PICTURES = {"entropy": _entropy, "attention": _attention, "tsne": _tsne}
