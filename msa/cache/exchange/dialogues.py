"""Tuple pickles of dialogues (bc-LSTM, DialogueRNN, COSMIC, MMGCN: IEMOCAP, MELD). Read only.

Layout   A tuple of dicts by dialogue, each a list with an entry per utterance: ids, speakers, labels, one to four
         dicts of vectors, sentences; then lists or sets of the dialogues of train and test, of COSMIC also of valid.
         Which is which follows from what it holds; the vectors are text, audio, visual, or of COSMIC four of text.
         features=text,visual says otherwise, none leaves one out.
Samples  DIALOGUE_K, or the ids of the file; the dialogue is the group, the place of the utterance its position.
Labels   The first dict of whole numbers: classes, or as task, range, classes say. Six of IEMOCAP (Ses01...) and seven
         of MELD have the names that these papers give them.
Split    Dialogues of train and test, and of valid where the file has them; else valid=0.1 of the training dialogues is
         drawn by a hash of their names, as the papers draw theirs at random; valid=0 draws none.
Lost     Who speaks: the index of a store has no speakers yet. A second dict of labels, such as MELD's sentiment.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msa.annotations import tasks
from msa.cache.exchange import _pickle
from msa.cache.exchange._arrays import ArrayOnFile, Payload
from msa.cache.exchange._columns import Part, check_rows, is_column, number, string
from msa.cache.exchange._foreign import Foreign
from msa.cache.exchange._padded import Row, TaskName, assembled, classed
from msa.config import checked
from msa.errors import ConfigError, SourceError
from msa.types import Split

LAYOUT = (
    "(ids, speakers, labels, text, audio, visual, sentences, train, test), each {dialogue: [an entry per utterance]}"
)
VECTORS = {1: ("text",), 2: ("text", "audio"), 3: ("text", "audio", "vision")}
IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
FIX = f"is it the right file? Known are tuples {LAYOUT}"


@dataclass(frozen=True)
class Config:
    task: TaskName = "auto"  # what labels are; auto: judged from them
    range: tuple[float, ...] = ()  # low, high of labels that are a scale
    classes: str = ""  # names of the classes in the order of their numbers: bad,good
    features: str = ""  # what the dicts of vectors are, in their order: text,audio,visual; none leaves one out
    vision: Literal["face", "image"] = "face"  # what `visual` shows
    valid: float = 0.1  # share of the training dialogues to draw for validation, where the file names none

    def __post_init__(self) -> None:
        checked(self)
        tasks.Settings.of(self)
        if not 0 <= self.valid < 1:
            raise ConfigError(f"valid is {self.valid}", fix="give a share below 1, such as valid=0.1")


def read(path: Path, config: Config = Config(), name: str | None = None) -> Foreign:
    """Return the dialogues in a pickle, called `name` or as the file is. Raises SourceError."""
    top = _pickle.load(path)
    if not isinstance(top, list | tuple) or not 4 <= len(top) <= 20:
        raise SourceError(f"{path} holds a {type(top).__name__}, not a tuple of dialogues", fix=FIX)
    content = _Content.of(path, top, config)
    check_rows(path, "", content.size)
    values = {key: content.flat(vectors) for key, vectors in content.vectors.items()}
    part = Part(path, "", None, values, content.size)
    rows = content.rows(_splits(path, content, config))
    numbers = np.array([row.label for row in rows], np.float64)
    decision = _named(content, numbers, config)
    if decision.task.single and decision.kind != "none":
        rows = [classed(row, decision) for row in rows]
    facts = {"speakers": "left out: who speaks has no place in a store"}
    return assembled("dialogues", LAYOUT, [part], rows, config, "none", facts, name, decision)


@dataclass(frozen=True)
class _Content:
    """What the entries of the tuple are."""

    path: Path
    order: Sequence[Any]  # dialogues
    ids: Mapping[Any, Sequence[Any]] | None
    labels: Mapping[Any, Sequence[Any]]
    sentences: Mapping[Any, Sequence[Any]] | None
    vectors: Mapping[str, Mapping[Any, Sequence[Any]]]
    lists: Sequence[Sequence[Any]]  # dialogues of train, test, valid

    @classmethod
    def of(cls, path: Path, top: Sequence[Any], config: Config) -> "_Content":
        """Raises SourceError where an entry is missing, or dicts are not of the same utterances."""
        kinds: dict[str, list[Any]] = {"texts": [], "numbers": [], "vectors": [], "lists": []}
        dicts = [entry for entry in top if isinstance(entry, dict) and entry]
        for entry in dicts:
            kinds[_kind(entry)].append(entry)
        kinds["lists"] = [entry for entry in top if isinstance(entry, list | tuple | set | frozenset) and entry]
        if not kinds["numbers"] or not kinds["vectors"]:
            raise SourceError(f"{path} has no dict of labels, or none of vectors", fix=FIX)
        numbers = kinds["numbers"][0]
        for entry in dicts:
            other = next((d for d in numbers if d not in entry or len(entry[d]) != len(numbers[d])), None)
            if other is not None and entry.keys() <= numbers.keys():
                raise SourceError(f"{path}: dialogue {str(other)[:60]} has not as many entries everywhere", fix=FIX)
        at = _place(dicts, numbers)  # ids and speakers come before the labels, sentences after them
        texts = [(entry, _place(dicts, entry) < at) for entry in kinds["texts"] if numbers.keys() <= entry.keys()]
        ids = next((entry for entry, before in texts if before and _are_ids(entry)), None)
        sentences = next((entry for entry, before in texts if not before), None)
        vectors = [entry for entry in kinds["vectors"] if numbers.keys() <= entry.keys() and not _one_hot(entry)]
        return cls(path, list(numbers), ids, numbers, sentences, _features(path, vectors, config), kinds["lists"])

    @property
    def size(self) -> int:
        return sum(map(len, self.labels.values()))

    def flat(self, entry: Mapping[Any, Sequence[Any]]) -> list[Any]:
        """Return the entries of all dialogues, one after the other."""
        return [value for dialogue in self.order for value in entry[dialogue]]

    def rows(self, splits: Mapping[Any, Split]) -> list[Row]:
        """Return the samples. Raises SourceError for what are no texts or numbers."""
        rows: list[Row] = []
        try:
            for dialogue in self.order:
                group = string(dialogue)
                for k, label in enumerate(self.labels[dialogue]):
                    id = string(self.ids[dialogue][k]) if self.ids else f"{group}_{k}"
                    text = string(self.sentences[dialogue][k]) if self.sentences else ""
                    row = Row(0, len(rows), id, group, (k,), text, number(label), split=splits.get(dialogue))
                    rows.append(row)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{self.path}: utterance {len(rows)}: {error}", fix=FIX) from error
        return rows


def _place(entries: Sequence[Any], wanted: Any) -> int:
    """Return where an entry stands, by identity: arrays cannot be compared."""
    return next(i for i, entry in enumerate(entries) if entry is wanted)


def _kind(entry: Mapping[Any, Any]) -> str:
    """Return what a dict by dialogue holds, by its first utterance."""
    first = next(iter(entry.values()))
    if not is_column(first) or not len(first):
        return "lists"
    value = first.row(0) if isinstance(first, ArrayOnFile) else first[0]
    if isinstance(value, str | bytes | Payload):
        return "texts"
    if is_column(value):
        return "vectors"
    return "numbers" if isinstance(value, int | float | np.number) else "lists"


def _are_ids(entry: Mapping[Any, Sequence[Any]]) -> bool:
    values = [value for of_dialogue in entry.values() for value in of_dialogue]
    return all(isinstance(value, str | bytes) and len(value) < 100 for value in values) and len(set(values)) == len(
        values
    )


def _one_hot(entry: Mapping[Any, Sequence[Any]]) -> bool:
    """Are these speakers, as MELD has them: a single 1 among zeros?"""
    first = next(iter(entry.values()))
    value = first.row(0) if isinstance(first, ArrayOnFile) else first[0]
    values = np.asarray(value.whole() if isinstance(value, ArrayOnFile) else value)
    return bool(values.dtype.kind in "iub" and values.ndim == 1 and (values != 0).sum() == 1 and values.max() == 1)


def _features(path: Path, vectors: Sequence[Any], config: Config) -> dict[str, Any]:
    """Return the dicts of vectors by what they are. Raises SourceError and ConfigError."""
    names = [word.strip().replace("visual", "vision") for word in config.features.split(",") if word.strip()]
    if not names:
        names = list(VECTORS.get(len(vectors), ("text", *["none"] * (len(vectors) - 1))))
    if len(names) != len(vectors) or set(names) - {"text", "audio", "vision", "none"}:
        raise ConfigError(
            f"features names {len(names)}, and {path.name} has {len(vectors)} dicts of vectors",
            fix="name each in its order: text, audio, visual, or none to leave it out",
        )
    named = [(key, entry) for key, entry in zip(names, vectors, strict=True) if key != "none"]
    if not named or len({key for key, _ in named}) < len(named):
        raise ConfigError(f"features={config.features} names one twice, or none", fix="name each once")
    return dict(named)


def _splits(path: Path, content: _Content, config: Config) -> dict[Any, Split]:
    """Dialogue -> split. Raises SourceError where a dialogue is in two."""
    known = set(content.order)
    lists = [[d for d in entry if isinstance(d, str | int) and d in known] for entry in content.lists]
    named = dict(zip((Split.TRAIN, Split.TEST, Split.VALID), [entry for entry in lists if entry], strict=False))
    splits: dict[Any, Split] = {}
    for split, entry in named.items():
        for dialogue in entry:
            if splits.setdefault(dialogue, split) is not split:
                raise SourceError(f"{path}: dialogue {str(dialogue)[:60]} is in two splits", fix="leave it in one")
    if named and Split.VALID not in named:
        train = sorted(named[Split.TRAIN], key=lambda d: hashlib.blake2b(str(d).encode("utf-8", "replace")).digest())
        splits |= dict.fromkeys(train[: round(config.valid * len(train))], Split.VALID)
    return splits


def _named(content: _Content, numbers: np.ndarray, config: Config) -> tasks.Decision:
    """Return what the labels are, with the names that IEMOCAP and MELD have in these files."""
    settings = tasks.Settings.of(config)
    decision = tasks.of_numbers(numbers, settings)
    if settings != tasks.Settings() or not decision.task.single:
        return decision
    iemocap = all(isinstance(d, str) and d.startswith("Ses") for d in content.order)
    names = {6: IEMOCAP if iemocap else (), 7: () if iemocap else MELD}.get(len(decision.task.classes), ())
    if not names or min(decision.numbers) != 0:
        return decision
    return tasks.of_classes(names, f"numbers 0 to {len(names) - 1}, as {'IEMOCAP' if iemocap else 'MELD'} has them")
