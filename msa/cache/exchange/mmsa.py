"""MMSA's pickles (MOSI, MOSEI, CH-SIMS): {train, valid, test} of padded arrays. Read and written.

Layout   {split: {id, raw_text, text, audio, vision, text_bert, audio_lengths, vision_lengths, regression_labels,
         classification_labels, annotations}}, as aligned_50.pkl, unaligned_50.pkl, CH-SIMS's unaligned_39.pkl and what
         MMSA-FET writes; CH-SIMS also has regression_labels_T, _A, _V. Any of it may be missing. MMSA-FET adds
         `config`, writes float64 and orders samples as they were finished: join on the id, never on the place.
Ids      video$_$clip: samples of a video are a group, in the natural order of their clips. Without ids a sample is
         called by its place, train_0.
Labels   regression_labels, or else labels, or else classification_labels, of which 0, 1, 2 are negative, neutral,
         positive and -1 is none; NaN is none. Fractions are a scale, [-3, 3] as in MOSI or [-1, 1] as in CH-SIMS;
         whole numbers such as 0 to 4 are classes. annotations/tasks.py decides; what it decided is printed; see `task`.
Lengths  audio_lengths and vision_lengths where the file has them, cut to the array. Text: the mask in text_bert, since
         BERT's states of padding are not zero. In aligned files sound and face have the rows the text has, and any
         others that hold values. Otherwise rows of nothing but zeros at the end are padding.
         A sample of nothing else is recorded as failed: MMSA writes zeros for what it could not extract.
Written  unaligned, float32, padded at the back; text_lengths beside MMSA's own keys, so that reading gives the same
         back. Sentiment classes become -1, 0, 1. The numbers of MMSA's configuration (lengths, widths) are the arrays'.
Safety   the file is read by _pickle.py, which runs nothing, and sample by sample: an import of 8.5 GB takes half a
         gigabyte of memory, most of it the shard that is being filled.
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from msa.annotations import tasks
from msa.cache.exchange import _pickle
from msa.cache.exchange._columns import Part, parts
from msa.cache.exchange._foreign import Bundle, Foreign
from msa.cache.exchange._output import whole
from msa.cache.exchange._padded import Row, TaskName, assembled, classed, in_clips, judged, placed, without_ids
from msa.cache.format import layout
from msa.config import checked
from msa.errors import ConfigError, SourceError, StoreError
from msa.types import SENTIMENT, Modality, Split

LAYOUT = "{train, valid, test}{id, raw_text, text, audio, vision, audio_lengths, vision_lengths, regression_labels}"
LETTERS = {Modality.TEXT: "T", Modality.AUDIO: "A", Modality.FACE: "V", Modality.IMAGE: "V"}
LABELS = ("regression_labels", "labels", "classification_labels")  # the first that there is
ANNOTATIONS = ("Negative", "Neutral", "Positive")


@dataclass(frozen=True)
class Config:
    task: TaskName = "auto"  # what labels are; mosi: from -3 to 3, sims: from -1 to 1; auto: judged from them
    range: tuple[float, ...] = ()  # low, high of labels that are another scale: 0,5
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    vision: Literal["face", "image"] = "face"  # what `vision` shows
    padding: Literal["auto", "back", "front", "none"] = "auto"  # at which end; auto: where a length leaves zeros

    def __post_init__(self) -> None:
        checked(self)
        tasks.Settings.of(self)


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return the dataset in a pickle of MMSA's or MMSA-FET's, called `name` or as the file is. Raises SourceError."""
    splits = parts(path, _pickle.load(path))
    _check_family(splits)
    key = next((key for key in LABELS if any(part.has(key) for part in splits)), "")
    rows = [row for number, part in enumerate(splits) for row in _rows(number, part, Modality(config.vision), key)]
    padding = None if config.padding == "auto" else config.padding
    decision, labelled = _judged(key, rows, tasks.Settings.of(config))
    return assembled("mmsa", LAYOUT, splits, labelled, config, padding, _facts(splits), name, decision)


def _judged(key: str, rows: Sequence[Row], settings: tasks.Settings) -> tuple[tasks.Decision, Sequence[Row]]:
    """Return what the labels under `key` are, and the rows with them; classification_labels 0, 1, 2 are MMSA's."""
    if key != LABELS[2] or settings != tasks.Settings():
        return judged(rows, settings)
    values = {row.label for row in rows if row.label == row.label}
    if values - {-1.0, 0.0, 1.0}:  # else -1, 0, 1 are sentiment
        rows = [replace(row, label=float("nan")) if row.label == -1 else row for row in rows]
        values.discard(-1.0)
    if values and values <= {0.0, 1.0, 2.0} and values != {0.0, 1.0}:
        decision = tasks.of_classes(SENTIMENT.classes, "classification_labels, as MMSA numbers them")
        return decision, [classed(row, decision) for row in rows]
    return judged(rows, replace(settings, task="classes") if values else settings)


def _check_family(splits: Sequence[Part]) -> None:
    own_keys = {"regression_labels", "raw_text", "text_bert", "classification_labels", "annotations"}
    if any("labels" in part.values and not own_keys & part.values.keys() for part in splits):
        raise SourceError(
            f"{splits[0].path} is of the family of MulT: it has labels, but neither raw_text nor regression_labels",
            fix="import it with the format mult",
        )


def _facts(splits: Sequence[Part]) -> dict[str, str]:
    """Return what was left out, and what had to be made up."""
    skipped = {"text_bert": "skipped: token ids and masks, no hidden states"}
    return without_ids(splits) | (skipped if any(part.has("text_bert") for part in splits) else {})


def _rows(number: int, part: Part, vision: Modality, key: str) -> list[Row]:
    """Return the samples of a split, in the file's order."""
    n = part.size
    ids = part.strings("id") if part.has("id") else placed(part)
    if "" in ids:
        raise part.odd("id", "an id for every sample", f"row {ids.index('')} is empty")
    texts = part.strings("raw_text", absent=True) if part.has("raw_text") else [""] * n
    values = part.numbers(key) if part.has(key) else np.full(n, np.nan)
    apart = {
        modality: part.numbers(f"regression_labels_{LETTERS[modality]}")
        for modality in (Modality.TEXT, Modality.AUDIO, vision)
        if part.has(f"regression_labels_{LETTERS[modality]}")
    }
    return [
        Row(
            number,
            i,
            ids[i],
            *in_clips(ids[i]),
            text=texts[i],
            label=float(values[i]),
            modality_labels={modality: float(column[i]) for modality, column in apart.items()},
        )
        for i in range(n)
    ]


# writing


def write(bundle: Bundle, out: Path) -> list[str]:
    """Write one pickle, and say what it does not carry over.

    Raises ConfigError for labels that are no sentiment, StoreError where `out` exists, the disk has no room, or the
    arrays, which MMSA wants whole, do not fit half of the free memory.
    """
    index, modalities = bundle.index, _columns(bundle)
    columns = _labels(bundle, modalities.get("vision", Modality.FACE))
    sizes = [4 * len(index) * prod(_extent(bundle, modality)) for modality in modalities.values()]
    _check_memory(sizes)
    with whole(out, sum(sizes)) as temporary:
        content = {split: _part(bundle, modalities, columns, index.rows(Split(split))) for split in layout.SPLITS}
        with open(temporary, "wb") as file:
            pickle.dump(content, file, protocol=4)  # the newest that Python 3.7 reads, on which MMSA runs
    return _remarks(bundle, modalities)


def _columns(bundle: Bundle) -> dict[str, Modality]:
    """MMSA's names of the modalities there are; a face comes before a picture, for there is one `vision`."""
    wanted = {"text": Modality.TEXT, "audio": Modality.AUDIO, "vision": Modality.FACE}
    if Modality.FACE not in bundle.readers:
        wanted["vision"] = Modality.IMAGE
    return {key: modality for key, modality in wanted.items() if modality in bundle.readers}


def _labels(bundle: Bundle, vision: Modality) -> dict[str, np.ndarray]:
    """Return every column of labels, each (n,): values, and the class their sign makes. Raises ConfigError."""
    index, task = bundle.index, bundle.index.task
    if task.classes and task != SENTIMENT:
        raise ConfigError(
            f"{index.name} has the classes {', '.join(task.classes)}; MMSA's pickle holds sentiment alone",
            fix="write another format, such as npy or hdf5",
        )
    if not task.classes and max(-task.low, task.high) > 3:
        raise ConfigError(
            f"{index.name} has labels in [{task.low:g}, {task.high:g}]; MMSA's pickle holds sentiment from -3 to 3",
            fix="write another format, such as npy or hdf5, or scale the labels",
        )
    values = index.labels - (1 if task.classes else 0)  # negative, neutral, positive -> -1, 0, 1
    names = {f"label_{modality}": f"_{LETTERS[modality]}" for modality in (Modality.TEXT, Modality.AUDIO, vision)}
    y = values[:, 0]
    sign = np.where(np.isnan(y), -2, np.sign(np.nan_to_num(y))).astype(np.int64)
    return {
        "regression_labels": y,
        "classification_labels": sign + 1,
        "annotations": np.array(["", *ANNOTATIONS])[sign + 2],
        **{
            f"regression_labels{names[name]}": values[:, i] for i, name in enumerate(index.label_names) if name in names
        },
    }


def _part(bundle: Bundle, modalities: Mapping[str, Modality], labels: Mapping[str, Any], rows: np.ndarray) -> dict:
    """One split: strings in lists, lengths and labels in arrays (n,), states in padded arrays (n, T, D) float32."""
    index = bundle.index
    columns: dict[str, Any] = {"raw_text": [index.text[i] for i in rows], "id": [index.ids[i] for i in rows]}
    for key, modality in modalities.items():
        columns[key] = np.zeros((len(rows), *_extent(bundle, modality)), np.float32)
        columns[f"{key}_lengths"] = np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows):
            if (states := bundle.states(modality, int(row))) is not None:
                columns[key][i, : len(states)] = states
                columns[f"{key}_lengths"][i] = len(states)
    return columns | {key: column[rows] for key, column in labels.items()}


def _extent(bundle: Bundle, modality: Modality) -> tuple[int, int]:
    """Return (T, D) of the padded array: MMSA wants the same in every split."""
    reader = bundle.readers[modality]
    return max(1, int(reader.length.max(initial=0))), reader.view.dim


def _check_memory(sizes: Sequence[int]) -> None:
    """Raise StoreError where arrays of so many bytes do not fit half of the free memory."""
    needed, free = sum(sizes) + max(sizes, default=0), psutil.virtual_memory().available  # pickle copies one
    if needed > free / 2:
        raise StoreError(
            f"padded to the longest sample this is {needed / 1e9:.1f} GB in memory, and {free / 1e9:.1f} GB are free",
            fix="write hdf5 or npy, which need no padding, or fewer modalities, or use a larger machine",
        )


def _remarks(bundle: Bundle, modalities: Mapping[str, Modality]) -> list[str]:
    """Return what a reader of the file has to know."""
    index, n = bundle.index, len(bundle.index)
    remarks = ["text_bert is not in it: models that train BERT themselves (use_bert) need token ids of their own"]
    for key, modality in modalities.items():
        if without := int((bundle.readers[modality].length < 0).sum()):
            remarks.append(f"{without} of {n} samples have no {modality}: zeros of length 0 in {key}, as MMSA has it")
    remarks += [
        f"{modality} is left out: {'vision holds the face' if modality == Modality.IMAGE else 'MMSA has no such array'}"
        for modality in bundle.readers
        if modality not in modalities.values()
    ]
    if index.task.classes:
        remarks.append("the classes negative, neutral, positive are the values -1, 0, 1, as MMSA has them")
    if unlabelled := int(np.isnan(index.labels[:, 0]).sum()):
        remarks.append(f"{unlabelled} of {n} samples have no label: NaN, class -1")
    if lost := sum(in_clips(id)[0] != group for id, group in zip(index.ids, index.group, strict=True)):
        remarks.append(f"the group of {lost} of {n} samples is lost: their ids are not of the form group$_$place")
    if empty := [split for split in layout.SPLITS if not len(index.rows(Split(split)))]:
        remarks.append(f"{', '.join(empty)}: no samples, and MMSA wants some in each split")
    if nowhere := int((index.split == layout.NO_SPLIT).sum()):
        remarks.append(f"{nowhere} of {n} samples are in no split and left out")
    return remarks
