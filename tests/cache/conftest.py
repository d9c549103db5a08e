"""A small corpus in a small store."""

import numpy as np
import pytest

from msa.cache.format import fingerprint
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.types import SENTIMENT, Modality

WIDTH = 8


def make_index(n=20, name="tiny", seed=0):
    """n samples with texts and audio; the last has no audio."""
    rng = np.random.default_rng(seed)
    digests = {
        m: np.frombuffer(rng.bytes(16 * n), np.uint8).reshape(n, 16).copy() for m in (Modality.TEXT, Modality.AUDIO)
    }
    digests[Modality.AUDIO][-1] = 0
    return Index(
        name=name,
        task=SENTIMENT,
        ids=[f"id{i}" for i in range(n)],
        split=np.arange(n, dtype=np.uint8) % 3,
        labels=(np.arange(n) % 3).astype(np.float32)[:, None],
        label_names=("label",),
        group=["", "sprecher ü"] * (n // 2),
        position=np.arange(n, dtype=np.int64),
        text=[f"text {i} 😀" * (i % 4) for i in range(n)],
        digests=digests,
        about={"source": "made in a test"},
    )


def hidden(i, width=WIDTH):
    """The hidden states of sample i: between 1 and 40 rows."""
    rng = np.random.default_rng(i)
    return rng.normal(size=(1 + i * 7 % 40, width)).astype(np.float16)


FORM = Form(WIDTH, "float16", chunk=16, shard=64)  # so small that twenty samples fill several shards


def fill(store, index, rows=None, view_id="v" * 16, form=FORM):
    """Write the audio view of an index and publish it."""
    dataset = store.add_index(index)
    store.add_view(view_id, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(view_id, dataset, form, {"device": "cpu"})
    for i in range(len(index) - 1) if rows is None else rows:
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
    store.publish(view_id, [entry for entry in [writer.seal()] if entry])
    return store.view(dataset, Modality.AUDIO)


@pytest.fixture
def store(tmp_path):
    return FeatureStore.create(tmp_path / "store")


@pytest.fixture
def index():
    return make_index()


def digest_of(text):
    return fingerprint.of_text(text)
