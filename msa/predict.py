"""Raw input -> prediction, through the very recipe a run was trained on.

The one place besides the command line that knows both stages: decode and encode as extraction did, then the head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from msa.annotations.cells import Writer
from msa.errors import BackboneError, ConfigError
from msa.types import Dropped, Modality, Raw, Sample, Task

# per sample: hidden states, the reason why there are none, or None where it has no such modality
States = list[np.ndarray | str | None]


@dataclass(frozen=True)
class Prediction:
    """What a run says of one sample, and what it could not use."""

    id: str
    label: str  # a class name, several with commas, "none" of several, or a number as text
    output: dict[str, float]  # class -> probability, or {"value": ...}
    used: tuple[Modality, ...]
    notes: tuple[str, ...] = ()


def one(text: str | None, image: Path | None, audio: Path | None, video: Path | None = None) -> Sample:
    """A sample from whatever was given on the command line; a video gives faces, and sound where no other is given."""
    given = {
        Modality.TEXT: Raw(text=text) if text is not None else None,
        Modality.IMAGE: Raw(path=image) if image else None,
        Modality.AUDIO: Raw(path=sound) if (sound := audio or video) else None,
        Modality.FACE: Raw(path=video) if video else None,
    }
    return Sample(id="input", label=None, raw={m: raw for m, raw in given.items() if raw is not None})


def from_table(path: Path, settings: Sequence[str] = ()) -> tuple[list[Sample], list[Prediction]]:
    """The samples of a user's CSV or JSONL, and what is to be said of rows that are none.

    `settings` are those of `--dataset table`, such as columns=text:Tweet.
    """
    from msa.config import with_settings
    from msa.extract.datasets import table

    rows = list(table.samples(path, with_settings(table.Config(), settings)))
    samples = [row for row in rows if isinstance(row, Sample)]
    return samples, [Prediction(row.id, "", {}, (), (row.reason,)) for row in rows if isinstance(row, Dropped)]


def collapsed(folder: Path) -> str:
    """Say that the seed of a run which predicts has collapsed to one answer; nothing where it has not."""
    from msa.fuse.runs.run import Run

    run = Run.open(folder)
    rows = {row["seed"]: row for row in run.metrics.get("seeds", ())}
    if not rows or not rows[run.best_seed]["collapsed"]:
        return ""
    return f"seed {run.best_seed} of {folder} COLLAPSED in training: it gives one answer, whatever it is asked"


def write_csv(found: Sequence[Prediction], path: Path) -> None:
    """Write predictions as CSV: id, prediction, a column for each class or the value, modalities used, notes."""
    names = list(dict.fromkeys(name for one in found for name in one.output))
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = Writer(file)
        table.row(["id", "prediction", *(f"p_{n}" if n != "value" else n for n in names), "modalities", "notes"])
        for one in found:
            values = [f"{one.output[name]:.9g}" if name in one.output else "" for name in names]
            table.row([one.id, one.label, *values, "+".join(one.used), "; ".join(one.notes)])


def predict(
    folder: Path, samples: Sequence[Sample], device: str = "auto", weights: Mapping[str, str] | None = None
) -> list[Prediction]:
    """Predictions of a run's best seed.

    A modality that cannot be read is left out and said so; a sample with nothing left has no label and the reason.
    `weights` says, by modality, where this machine has the weights that lay elsewhere when the run was trained.
    """
    from msa.extract.device import pick_device
    from msa.fuse.runs.record import Node, check_recipe
    from msa.fuse.runs.run import Run

    run = Run.open(folder)
    views = run.facts.views
    for modality, view in views.items():
        check_recipe(Node(folder / "run.json", f"data.views.{modality}.attributes", view["attributes"]))
    _refuse_unknown(samples, views)
    norm, head = run.normalisation(), run.head()  # before anything is encoded, which takes time
    states: dict[Modality, States] = {}
    for modality in views:
        found_at = (weights or {}).get(modality)
        states[modality] = _encode(views[modality]["attributes"], found_at, samples, pick_device(device))
    return _decide(run, norm, head, samples, states)


def _refuse_unknown(samples: Sequence[Sample], views: Mapping[Modality, Any]) -> None:
    given = {m for sample in samples for m in _asked_of(sample, set(views))}
    if not given & set(views):
        raise ConfigError(
            f"this run was trained on {', '.join(views)}; given: {', '.join(sorted(given)) or 'nothing'}",
            fix="give at least one of " + ", ".join(sorted({_option(m) for m, view in views.items() if _ours(view)})),
        )
    if strange := sorted(given - set(views)):
        raise ConfigError(
            f"this run was trained on {', '.join(views)} and knows no {', '.join(strange)}",
            fix=f"leave out {_option(strange[0])}, or train on a corpus that has it",
        )


def _option(modality: str) -> str:
    """How a modality is given on the command line."""
    return "--video" if modality == Modality.FACE else f"--{modality}"


def _ours(view: Mapping[str, Any]) -> bool:
    """Can msa make these hidden states from raw input? Imported ones it cannot."""
    return "imported" not in view["attributes"]["identity"]


def _asked_of(sample: Sample, known: set[str]) -> set[Modality]:
    """What a sample is given for: of a video either the sound or the faces may be of no use to a run."""
    filmed = {m for m in (Modality.AUDIO, Modality.FACE) if sample.raw.get(m) == sample.raw.get(Modality.FACE)}
    return {m for m in sample.raw if m not in filmed or m in known or not filmed & known}


def _encode(attributes: Any, found_at: str | None, samples: Sequence[Sample], device: str) -> States:
    from msa.extract.media import decode
    from msa.extract.recipe import Recipe
    from msa.extract.work.forward import Failure, attempt, hidden_states

    modality = Modality(attributes["modality"])
    rows = [i for i, sample in enumerate(samples) if modality in sample.raw]
    if not rows:
        return [None] * len(samples)
    recipe = Recipe.of_view(attributes, found_at)
    if changed := [name for name, value in recipe.identity.items() if value != attributes["identity"].get(name)]:
        raise BackboneError(
            f"{recipe.label} is not what the run was trained on: "
            + ", ".join(f"{n} {attributes['identity'].get(n)} then, {recipe.identity[n]} now" for n in changed),
            fix="install the versions named first, or extract and train again with these",
        )
    found: States = [None] * len(samples)
    with recipe.loaded(device) as backbone:
        if backbone.dim != attributes["dim"]:
            raise BackboneError(
                f"{recipe.name} gives {backbone.dim} features, the run was trained on {attributes['dim']}",
                fix="train again on hidden states of this backbone",
            )
        for start in range(0, len(rows), recipe.spec.batch):
            batch = rows[start : start + recipe.spec.batch]
            clips = [
                attempt(lambda i=i: decode.clip(modality, samples[i].raw[modality], recipe.sampling))  # type: ignore[misc]
                for i in batch
            ]
            for i, state in hidden_states(backbone, batch, clips).items():
                found[i] = state.reason if isinstance(state, Failure) else state
    return found


def _decide(
    run: Any, norm: Any, head: Any, samples: Sequence[Sample], states: dict[Modality, States]
) -> list[Prediction]:
    import torch

    from msa.fuse.data.table import pad
    from msa.fuse.head import Batch, answers

    found = []
    for i, sample in enumerate(samples):
        mine = {m: column[i] for m, column in states.items()}
        notes = tuple(f"{m} not used: {state}" for m, state in mine.items() if isinstance(state, str))
        usable = {m: state if isinstance(state, np.ndarray) else None for m, state in mine.items()}
        used = tuple(m for m, state in usable.items() if state is not None)
        if not used:
            found.append(Prediction(sample.id, "", {}, (), notes or ("it has none of the run's modalities",)))
            continue
        padded = {m: pad([state], run.dims[m], norm.of(m)) for m, state in usable.items()}
        x, mask = {m: p[0] for m, p in padded.items()}, {m: p[1] for m, p in padded.items()}
        with torch.inference_mode():
            logits = head(Batch(x, mask, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)))
            said = answers(run.task, logits.double())[0].tolist()
        if not np.isfinite(said).all():
            raise ConfigError(f"{run.folder} answers {sample.id} with NaN or infinity", fix="train it anew: --like RUN")
        found.append(replace(_named(run.task, said, sample.id), used=used, notes=notes))
    return found


def _named(task: Task, said: Sequence[float], name: str) -> Prediction:
    """The prediction of one sample, of what `answers` makes of its output."""
    if not task.classes:
        return Prediction(name, f"{said[0]:.3f}", {"value": said[0]}, ())
    label = task.named(p > 0.5 for p in said) if task.multilabel else task.classes[int(np.argmax(said))]
    return Prediction(name, label, dict(zip(task.classes, said, strict=True)), ())
