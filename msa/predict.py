"""Prediction from raw input, through the recipe a run was trained on.

Decodes and encodes as extraction did, then runs the head. Besides the command line and the demo, this is the one module
that imports both stages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.annotations.cells import Writer
from msa.errors import BackboneError, ConfigError
from msa.types import Dropped, Modality, Raw, Sample, Task

# for each sample: hidden states, the reason why there are none, or None if the sample lacks the modality
States = list[np.ndarray | str | None]


@dataclass(frozen=True)
class Prediction:
    """Prediction of a run for one sample, and the modalities that it could not use."""

    id: str
    label: str  # a class name, several separated by commas, "none" for none of several, or a number
    output: dict[str, float]  # class -> probability, or {"value": ...}
    used: tuple[Modality, ...]
    notes: tuple[str, ...] = ()


def sample(text: str | None, image: Path | None, audio: Path | None, video: Path | None = None) -> Sample:
    """Return a sample from the inputs of the command line. A video gives faces, and sound if there is no audio."""
    given = {
        Modality.TEXT: Raw(text=text) if text is not None else None,
        Modality.IMAGE: Raw(path=image) if image else None,
        Modality.AUDIO: Raw(path=sound) if (sound := audio or video) else None,
        Modality.FACE: Raw(path=video) if video else None,
    }
    return Sample(id="input", label=None, raw={m: raw for m, raw in given.items() if raw is not None})


def from_table(path: Path, settings: Sequence[str] = ()) -> tuple[list[Sample], list[Prediction]]:
    """Return the samples of a CSV or JSONL file, and empty predictions with the reason for rows that are not samples.

    `settings` are those of `--dataset table`, such as columns=text:Tweet.
    """
    from msa.config import with_settings
    from msa.extract.datasets import table

    rows = list(table.samples(path, with_settings(table.Config(), settings)))
    samples = [row for row in rows if isinstance(row, Sample)]
    return samples, [Prediction(row.id, "", {}, (), (row.reason,)) for row in rows if isinstance(row, Dropped)]


def collapsed(folder: Path) -> str:
    """Return a warning if the seed that predicts collapsed in training, else an empty text."""
    from msa.fuse.runs.run import Run

    run = Run.open(folder)
    rows = {row["seed"]: row for row in run.metrics.get("seeds", ())}
    if not rows or not rows[run.best_seed]["collapsed"]:
        return ""
    return f"seed {run.best_seed} of {folder} COLLAPSED in training: it predicts the same for every input"


def write_csv(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as CSV: id, prediction, a column for each class or the value, modalities used, notes."""
    names = list(dict.fromkeys(name for prediction in predictions for name in prediction.output))
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = Writer(file)
        table.row(["id", "prediction", *(f"p_{n}" if n != "value" else n for n in names), "modalities", "notes"])
        for p in predictions:
            values = [f"{p.output[name]:.9g}" if name in p.output else "" for name in names]
            table.row([p.id, p.label, *values, "+".join(p.used), "; ".join(p.notes)])


def predict(
    folder: Path, samples: Sequence[Sample], device: str = "auto", weights: Mapping[str, str] | None = None
) -> list[Prediction]:
    """Return the predictions of a run's best seed.

    A modality that cannot be read is left out and noted. A sample without any usable modality has an empty label and
    the reason.

    Args:
        folder: the run folder.
        samples: raw input.
        device: auto, cpu, cuda or one GPU as cuda:1.
        weights: modality -> local path of its weights, where they are not at the path that the run recorded.
    """
    from msa.device import pick_device
    from msa.fuse.runs.node import Node
    from msa.fuse.runs.record import check_recipe
    from msa.fuse.runs.run import Run

    run = Run.open(folder)
    views = run.facts.views
    for modality, view in views.items():
        check_recipe(Node(folder / "run.json", f"data.views.{modality}.attributes", view["attributes"]))
    _refuse_unknown(samples, views)
    norm, head = run.normalisation(), run.head()  # before anything is encoded, which takes time
    states: dict[Modality, States] = {}
    for modality in views:
        path = (weights or {}).get(modality)
        states[modality] = _encode(views[modality]["attributes"], path, samples, pick_device(device))
    return _decide(run, norm, head, samples, states)


def _refuse_unknown(samples: Sequence[Sample], views: Mapping[Modality, Any]) -> None:
    given = {m for sample in samples for m in _asked_of(sample, set(views))}
    if not given & set(views):
        raise ConfigError(
            f"this run was trained on {', '.join(views)}; given: {', '.join(sorted(given)) or 'nothing'}",
            fix="give at least one of " + ", ".join(sorted({_option(m) for m, view in views.items() if _ours(view)})),
        )
    if unknown := sorted(given - set(views)):
        raise ConfigError(
            f"this run was trained on {', '.join(views)} and does not know {', '.join(unknown)}",
            fix=f"leave out {_option(unknown[0])}, or train on a dataset that has it",
        )


def _option(modality: str) -> str:
    """Return the option that gives a modality on the command line."""
    return "--video" if modality == Modality.FACE else f"--{modality}"


def _ours(view: Mapping[str, Any]) -> bool:
    """Return whether msa can compute these hidden states from raw input. It cannot for imported ones."""
    return "imported" not in view["attributes"]["identity"]


def _asked_of(sample: Sample, known: set[str]) -> set[Modality]:
    """Return the modalities of a sample, without sound or faces of its video if the run uses only the other."""
    filmed = {m for m in (Modality.AUDIO, Modality.FACE) if sample.raw.get(m) == sample.raw.get(Modality.FACE)}
    return {m for m in sample.raw if m not in filmed or m in known or not filmed & known}


def _encode(attributes: Any, path: str | None, samples: Sequence[Sample], device: str) -> States:
    from msa.extract.media import decode
    from msa.extract.recipe import Recipe
    from msa.extract.work.forward import Failure, attempt, hidden_states

    modality = Modality(attributes["modality"])
    rows = [i for i, sample in enumerate(samples) if modality in sample.raw]
    if not rows:
        return [None] * len(samples)
    recipe = Recipe.of_view(attributes, path)
    if changed := [name for name, value in recipe.identity.items() if value != attributes["identity"].get(name)]:
        raise BackboneError(
            f"{recipe.label} differs from the recipe that the run was trained on: "
            + ", ".join(f"{n} {attributes['identity'].get(n)} then, {recipe.identity[n]} now" for n in changed),
            fix="install the versions named first, or extract and train again with these",
        )
    states: States = [None] * len(samples)
    with recipe.loaded(device) as backbone:
        if backbone.dim != attributes["dim"]:
            raise BackboneError(
                f"{recipe.name} has {backbone.dim} features, the run was trained on {attributes['dim']}",
                fix="train again on hidden states of this backbone",
            )
        for start in range(0, len(rows), recipe.spec.batch):
            batch = rows[start : start + recipe.spec.batch]
            clips = [
                attempt(lambda i=i: decode.clip(modality, samples[i].raw[modality], recipe.sampling))  # type: ignore[misc]
                for i in batch
            ]
            for i, state in hidden_states(backbone, batch, clips).items():
                states[i] = state.reason if isinstance(state, Failure) else state
    return states


def _decide(
    run: Any, norm: Any, head: Any, samples: Sequence[Sample], states: dict[Modality, States]
) -> list[Prediction]:
    import torch

    from msa.fuse.data.table import pad
    from msa.fuse.head import Batch, answers, with_statistics

    predictions = []
    for i, sample in enumerate(samples):
        inputs = {m: column[i] for m, column in states.items()}
        notes = tuple(f"{m} not used: {state}" for m, state in inputs.items() if isinstance(state, str))
        usable = {m: state if isinstance(state, np.ndarray) else None for m, state in inputs.items()}
        used = tuple(m for m, state in usable.items() if state is not None)
        if not used:
            predictions.append(Prediction(sample.id, "", {}, (), notes or ("it has no modality of the run",)))
            continue
        padded = {m: pad([state], run.dims[m], norm.of(m)) for m, state in usable.items()}
        x = {m: with_statistics(states, mask, norm.statistics) for m, (states, mask) in padded.items()}
        mask = {m: p[1] for m, p in padded.items()}
        with torch.inference_mode():
            logits = head(Batch(x, mask, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)))
            output = answers(run.task, logits.double())[0].tolist()
        if not np.isfinite(output).all():
            raise ConfigError(
                f"{run.folder} predicts NaN or infinity for {sample.id}", fix="train it again: --like RUN"
            )
        predictions.append(replace(_named(run.task, output, sample.id), used=used, notes=notes))
    return predictions


def _named(task: Task, output: Sequence[float], id: str) -> Prediction:
    """Return the prediction of one sample from the output of `answers`."""
    if not task.classes:
        return Prediction(id, f"{output[0]:.3f}", {"value": output[0]}, ())
    label = task.named(p > 0.5 for p in output) if task.multilabel else task.classes[int(np.argmax(output))]
    return Prediction(id, label, dict(zip(task.classes, output, strict=True)), ())
