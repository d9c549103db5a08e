"""Small stores with a known signal: posts with text and pictures, recordings with sound, and what both may lack."""

import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from msa.cache.index import Index
from msa.cache.read.view import View
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.fuse.data.table import Column, Table
from msa.fuse.experiments import sweep, tune
from msa.types import SENTIMENT, Modality, Task

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
WIDTH = {TEXT: 8, IMAGE: 6, AUDIO: 5, FACE: 4}
SPLIT = np.array([0, 0, 0, 1, 2], np.uint8)  # of five samples in a row: train, train, train, valid, test
VALUES = Task(low=-3.0, high=3.0)


def split_of(n):
    """(n,) uint8: three fifths train, one fifth each valid and test."""
    return np.resize(SPLIT, n)


def classes_of(n):
    """(n,) float32: every split holds every class, in the same shares."""
    return ((np.arange(n) // 5) % 3).astype(np.float32)


def states_of(i, y, width, signal, name=""):
    """(T, width) float16 of sample i: between 1 and 6 rows of noise around a direction that its label decides."""
    rng = np.random.default_rng((i, width, *name.encode()))
    direction = np.random.default_rng((width, int(y * 7 + 100))).normal(size=width)
    return (signal * direction + rng.normal(size=(1 + i % 6, width))).astype(np.float16)


def add_corpus(store, name, n=60, modalities=(TEXT, IMAGE), task=SENTIMENT, missing=None, signal=1.0, **changed):
    """Write a corpus of n samples; `missing` maps a modality to the samples without it, `changed` fields of Index."""
    rng = np.random.default_rng(len(name))
    fields = {
        "ids": [f"{name}-{i}" for i in range(n)],
        "split": split_of(n),
        "group": [""] * n,
        "position": np.arange(n, dtype=np.int64),
        "labels": (classes_of(n) if task.classes else rng.uniform(-3, 3, n).astype(np.float32))[:, None],
    } | changed
    digests = {m: rng.integers(1, 255, (n, 16), dtype=np.uint8) for m in WIDTH}
    index = Index(
        name=name,
        task=task,
        label_names=("label",),
        text=[""] * n,
        digests=digests,
        about={},
        **fields,
    )
    store.add_index(index)
    for m in modalities:
        rows = [i for i in range(n) if i not in (missing or {}).get(m, ())]
        add_view(store, index, m, rows, signal)
    return index


def add_view(store, index, modality, rows=None, signal=1.0, view_id=None, width=None, backbone=None):
    """Write hidden states of some rows of a corpus; the usual view of a modality is the same for every corpus."""
    width, view_id = width or WIDTH[modality], view_id or modality[0] * 16
    about = {"modality": modality, "backbone": backbone or f"made.{modality}", "dim": width, "dtype": "float16"}
    store.add_view(view_id, about)
    writer = store.writer(view_id, index.fingerprint, Form(width, "float16", 16, 4096), {})
    for i in range(len(index)) if rows is None else rows:
        y = float(np.nan_to_num(index.y[i]))
        writer.write(i, index.digests[modality][i].tobytes(), states_of(i, y, width, signal, index.name))
    store.publish(view_id, [writer.seal()])


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """60 posts (text, image; four lack one of them) and 45 recordings (audio). Not to be written to."""
    store = FeatureStore.create(tmp_path_factory.mktemp("made") / "store")
    add_corpus(store, "posts", 60, missing={TEXT: [0, 8], IMAGE: [1, 4]})
    add_corpus(store, "voices", 45, (AUDIO,), signal=2.0)
    return store


@pytest.fixture
def store(made, tmp_path):
    """The same store, of one's own."""
    return FeatureStore.open(shutil.copytree(made.path, tmp_path / "store"))


@dataclass
class Memory:
    """Hidden states in memory, in the place of a store's reader."""

    view: View
    states: list

    @property
    def length(self):
        return np.array([len(states) for states in self.states], np.int32)

    def read(self, row):
        return self.states[row]

    def gather(self, rows):
        states = [self.read(row) for row in rows]
        x = np.zeros((len(rows), max(map(len, states)), self.view.dim), states[0].dtype)
        for i, own in enumerate(states):
            x[i, : len(own)] = own
        return x, np.array([len(own) for own in states], np.int32)

    def flat(self, rows):
        states = [self.read(row) for row in rows]
        return np.concatenate(states), np.cumsum([0, *map(len, states)])


def memory_view(modality, width=None, view_id=None):
    about = {"modality": modality, "backbone": f"made.{modality}", "dim": width or WIDTH[modality]}
    return View(view_id or modality[0] * 16, "", about, [])


def memory_table(name="posts", n=60, modalities=(TEXT, IMAGE), task=SENTIMENT, signal=1.0, **changed):
    """A table without a store; `changed` replaces fields of Table."""
    fields = {
        "ids": [f"{name}-{i}" for i in range(n)],
        "corpus": [name] * n,
        "split": split_of(n),
        "y": classes_of(n),
    } | changed
    columns = {}
    for m in modalities:
        states = [states_of(i, float(y), WIDTH[m], signal, name) for i, y in enumerate(fields["y"])]
        columns[m] = Column((Memory(memory_view(m), states),), np.zeros(n, np.int64), np.arange(n))
    return Table(name=name, task=task, **{"columns": columns} | fields)


class Now:
    """An executor that does it at once."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, do, *args):
        future = sweep.Future()
        try:
            future.set_result(do(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def in_this_process(monkeypatch):
    """Trainings one after the other, here: a spawned process takes seconds to import torch."""
    monkeypatch.setattr(sweep, "pool", lambda workers: Now())
    monkeypatch.setattr(tune, "pool", lambda workers: Now())


@pytest.fixture
def drawn(monkeypatch):
    """The settings of every trial, none of which is trained: the larger the rate, the better."""
    found = []

    def trial_of(trial, start, train, valid, device):
        found.append({name: suggest(trial) for name, suggest in tune.space(start).items()})
        return -found[-1]["lr"]

    monkeypatch.setattr(tune, "_trial", trial_of)
    return found
