"""Computational sequences of the CMU-MultimodalSDK (MOSI, MOSEI, POM), a folder of .csd files. Read only.

Layout   HDF5: /ROOT/data/VIDEO/features (n, d) and intervals (n, 2) in seconds, /ROOT/metadata. One file per feature,
         one with the labels, one with the words; ROOT is what a sequence is called, whatever its file is. Sequences
         that were aligned have entries VIDEO[3]; they are read as well.
Samples  Every row of the labels is one: `VIDEO$_$K`, K its row in the video from 0, as in the SDK's VIDEO[K]. The video
         is the group. (MMSA's files join video and clip alike, but in CMU-MOSI they count clips from 1: those ids do
         not meet.) What has no interval, or one shorter than 10 microseconds, is dropped.
Labels   task=sentiment: the first column, -3 to 3. task=emotions: the six after it, as in MOSEI's "All Labels".
Cutting  A sample has the rows whose interval overlaps its own by more than 10 microseconds, as in the SDK's `align`, in
         the order of time; nothing is averaged, and a row at the border of two samples is in both. Words become the
         text, pauses (sp) left out. No rows: a recorded failure. Rows without a finite interval are counted.
Modality Known by the usual names (COVAREP, FACET, glove_vectors, ...), else said: modality=ROOT:audio. Phones are left
         out: they are neither words nor numbers.
Split    None in the files: --split FILE with ids of samples or of videos; else drawn, a video's samples stay together.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from msa.annotations.tasks import SAY, Decision, Settings, of_numbers
from msa.cache.exchange import _corpus, _hdf5
from msa.cache.exchange._foreign import Foreign, Unreadable, unknown_source
from msa.cache.exchange._sequences import EPSILON, Segment, Track, in_time
from msa.cache.write.dataset_index import Corpus
from msa.config import checked, settings_of
from msa.errors import SourceError, UnknownNameError
from msa.types import Dropped, Modality, Raw, Sample, Task

LABELS, WORDS = "labels", "words"  # what a sequence may be besides a modality
KINDS = {  # in the name of a root or file, without what stands between letters and digits; the first that fits
    LABELS: ("label",),
    _corpus.NONE: ("phone",),
    Modality.AUDIO: ("covarep", "opensmile", "librosa", "mfcc", "wav2vec", "hubert", "acoustic", "audio"),
    Modality.TEXT: ("glove", "wordvector", "word2vec", "fasttext", "bert"),
    WORDS: ("words",),
    Modality.FACE: ("facet", "openface", "emotient", "facial", "visual"),
}
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
TASKS = {"sentiment": Task(low=-3.0, high=3.0), "emotions": Task(classes=EMOTIONS, multilabel=True)}
PAUSES = {"", "sp"}
LAYOUT = "NAME.csd files, one per feature and one with labels, each /ROOT/data/VIDEO/{features, intervals}"


@dataclass(frozen=True)
class Config:
    labels: str = ""  # root or file of the labels, where several could be meant
    task: Literal["sentiment", "emotions", "classes", "regression"] = "sentiment"  # emotions: MOSEI's "All Labels"
    range: tuple[float, ...] = ()  # low, high of a first column that is another scale: 1,7
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    modality: str = ""  # what sequences are whose names do not tell: ROOT:audio,OTHER:words,THIRD:none

    def __post_init__(self) -> None:
        checked(self)
        _ = self.first_column

    @property
    def first_column(self) -> Settings:
        """What these settings say of the first column; `Settings()`: sentiment from -3 to 3. Raises ConfigError."""
        return Settings.of(self, task="auto" if self.task in TASKS else None)

    @property
    def task_of_dataset(self) -> Task | None:
        """The task, where settings say it whatever the labels are."""
        return TASKS.get(self.task) if self.first_column == Settings() else None


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Computational sequences as a corpus. Raises SourceError without labels, or where nothing says what one is."""
    sequences = [sequence for file in _files(path) for sequence in Track.all_of(file)]
    kinds = _kinds(path, sequences, config)
    segments, dropped = _segments(_labels(path, kinds, config), config)
    words = [sequence for sequence, kind in kinds.items() if kind == WORDS]
    if len(words) > 1:
        raise SourceError(
            f"{path} holds words twice: {words[0].root} and {words[1].root}", fix=f"modality={words[1].root}:none"
        )
    decision = _decide(segments, config)
    samples = [_sample(segment, _text(words[0], segment) if words else "", decision) for segment in segments]
    features = [
        sequence.feature(name, Modality(kinds[sequence]), segments)
        for name, sequence in _called([sequence for sequence in kinds if kinds[sequence] in list(Modality)])
    ]
    if not features:
        raise SourceError(f"{path} holds labels and no features", fix=f"name the folder that holds both: {LAYOUT}")
    labelled = {segment.video for segment in segments}
    unlabelled = {video for sequence in kinds for video in sequence.entries} - labelled
    corpus = Corpus(
        name=_corpus.corpus_name(name or (path.resolve().name if path.is_dir() else path.stem)),
        task=decision.task,
        labels=decision.sentence,
        source=unknown_source(path, "Computational sequences", LAYOUT),
        samples=samples,
        dropped=[*dropped, *(Dropped(video, "no labelled segment") for video in sorted(unlabelled))],
        settings=settings_of(config, "range", "classes"),
    )
    ids = [segment.id for segment in segments]
    return Foreign("csd", path, _corpus.digest_of(features, ids), corpus, features)


def _files(path: Path) -> list[Path]:
    """Return the file, or the .csd files of the folder."""
    if not path.is_dir():
        return [path]
    sequences = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csd" and file.name[0] != ".")
    if not sequences:
        raise SourceError(f"{path} holds no .csd file", fix=f"lay it like this: {LAYOUT}")
    return sequences


# what each sequence is


def _kinds(path: Path, sequences: Sequence[Track], config: Config) -> dict[Track, str]:
    """Return what each sequence is. Raises SourceError where neither its names nor a setting say it."""
    known = [name for sequence in sequences for name in (sequence.root, sequence.path.stem)]
    stated = _corpus.kinds_in(config.modality, known, kinds=[WORDS])
    kinds = {}
    for sequence in sequences:
        kind = next((of_name for name, of_name in stated.items() if sequence.is_called(name)), None)
        is_labels = bool(config.labels) and sequence.is_called(config.labels)
        kind = LABELS if is_labels else kind or _kind(sequence)
        if kind is None:
            raise _corpus.unplaced(sequence.path, sequence.root, kinds=[WORDS])
        kinds[sequence] = kind
    return kinds


def _kind(sequence: Track) -> str | None:
    """Return what the names of a sequence say it is."""
    for name in (sequence.root, sequence.path.stem):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        for kind, words in KINDS.items():
            if any(word in plain for word in words):
                return kind
    return None


def _called(sequences: Sequence[Track]) -> Iterator[tuple[str, Track]]:
    """Yield name and track: the root, with the file's name in front where two files have one root."""
    often = Counter(sequence.root for sequence in sequences)
    for sequence in sequences:
        yield sequence.root if often[sequence.root] == 1 else f"{sequence.path.stem}.{sequence.root}", sequence


# what the samples are


def _labels(path: Path, kinds: Mapping[Track, str], config: Config) -> Track:
    tracks = [track for track, kind in kinds.items() if kind == LABELS]
    candidates = [track for track in tracks if not config.labels or track.is_called(config.labels)]
    if config.labels and not candidates:
        raise UnknownNameError("sequence of labels", config.labels, [sequence.root for sequence in kinds])
    if len(candidates) != 1:
        names = (": " if candidates else "; it holds ") + ", ".join(repr(track.root) for track in candidates or kinds)
        raise SourceError(
            f"{path} holds {len(candidates)} sequences of labels{names}",
            fix="say which they are: labels=ROOT, or put the file with the labels beside the others",
        )
    return candidates[0]


def _segments(labels: Track, config: Config) -> tuple[list[Segment], list[Dropped]]:
    """Return every labelled stretch, by video and time, and those that are none."""
    segments: list[Segment] = []
    dropped: list[Dropped] = []
    for video, keys in labels.entries.items():
        of_video = []
        for segment in (segment for key in keys for segment in _of_entry(labels, video, key)):
            if segment.end - segment.start > EPSILON and np.isfinite(segment.end - segment.start):
                of_video.append(segment)
            else:
                dropped.append(Dropped(segment.id, "no interval", f"{segment.start} to {segment.end} s"))
        of_video.sort(key=lambda segment: (segment.start, segment.end))
        segments += [replace(segment, position=place) for place, segment in enumerate(of_video)]
    often = Counter(segment.id for segment in segments)
    if twice := next((id for id, n in often.items() if n > 1), None):
        raise SourceError(f"{labels.path}: {twice} is there {often[twice]} times", fix=_hdf5.GET_AGAIN)
    needed = 1 + len(EMOTIONS) if config.task == "emotions" else 1
    if narrow := next((segment for segment in segments if len(segment.labels) < needed), None):
        raise SourceError(
            f"{labels.path}: {narrow.id} has {len(narrow.labels)} labels, task={config.task} needs {needed}",
            fix="take MOSEI's All Labels, or task=sentiment",
        )
    return segments, dropped


def _of_entry(labels: Track, video: str, key: str) -> Iterator[Segment]:
    spans, features = labels.entry(video, key)
    try:
        values = _hdf5.Rows.of(features).read(0, len(spans))
    except Unreadable as error:
        raise SourceError(f"{labels.path}: the labels of {key}: {error}", fix=_hdf5.GET_AGAIN) from error
    aligned = re.findall(r"\d+", key.partition("[")[2])  # VIDEO[3] -> 3
    for row, ((start, end), numbers) in enumerate(zip(spans.tolist(), values.tolist(), strict=True)):
        number = aligned if aligned and len(spans) == 1 else [*aligned, str(row)]
        yield Segment(video, ".".join(number), start, end, tuple(numbers))


def _decide(segments: Sequence[Segment], config: Config) -> Decision:
    """Return what the labels are: as the SDK has them, or as settings say of the first column."""
    if task := config.task_of_dataset:
        why = "the first column, as in CMU-MOSI and MOSEI" if config.task == "sentiment" else "the six columns after it"
        return Decision(task, config.task, why, "--set range=LOW,HIGH or --set task=classes if they are others")
    return of_numbers(np.array([segment.labels[0] for segment in segments], np.float64), config.first_column)


def _sample(segment: Segment, text: str, decision: Decision) -> Sample:
    return Sample(
        id=segment.id,
        label=_label(segment, decision),
        raw={Modality.TEXT: Raw(text=text)} if text else {},
        group=segment.video,
        position=segment.position,
        keep_together=segment.video,
    )


def _label(segment: Segment, decision: Decision) -> str | float | tuple[float, ...] | None:
    """Return the label; None for NaN. Raises SourceError for one out of range."""
    task = decision.task
    names = _corpus.label_names(task) if task.multilabel else ["label"]
    first = 1 if task.multilabel else 0
    try:
        if task.single:
            return decision.label(segment.labels[0])
        label, _ = _corpus.label_of(task, names, segment.labels[first : first + len(names)])
    except ValueError as error:
        raise SourceError(
            f"the label of {segment.id}: {error}",
            fix=f"correct it, name other labels with labels=..., or {SAY}",
        ) from error
    return label


def _text(words: Track, segment: Segment) -> str:
    """Return the words said in a segment, without pauses."""
    spans, words_said = [], []
    for intervals, features, rows in words.within(segment):
        low, high = int(rows[0]), int(rows[-1]) + 1
        tokens = _hdf5.strings(features, low, high)
        if len(tokens) != high - low:
            raise SourceError(
                f"{words.path}: {features.name} has shape {list(features.shape)}, expected a word a row",
                fix=f"leave the words out: modality={words.root}:none",
            )
        spans.append(intervals)
        words_said += [tokens[row - low] for row in rows]
    if not words_said:
        return ""
    in_order = (words_said[i].strip() for i in in_time(np.concatenate(spans)))
    return " ".join(word for word in in_order if word not in PAUSES)
