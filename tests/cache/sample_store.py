"""A store with everything in it, small, and the same every time but for names of segments and times.

Two corpora, one of them multilabel; views of float16, float32 and bfloat16; several segments and shards; a borrowed
segment, failures, counts, and inputs that occur twice.
"""

import numpy as np

from msa.cache.format import fingerprint
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.cache.write.segment import Form
from msa.types import SENTIMENT, Modality, Task

VIEWS = {  # backbone -> modality, dtype, width
    "made.words": (Modality.TEXT, "float16", 6),
    "made.sounds": (Modality.AUDIO, "float32", 5),
    "made.tones": (Modality.AUDIO, "bfloat16", 4),
}
SHARD = 48  # rows; a chunk has 8


def corpus(name, n, task=SENTIMENT):
    """n samples with texts and audio; the last has no audio, and the one before sounds as the first does."""
    rng = np.random.default_rng(len(name))
    digests = {m: np.frombuffer(rng.bytes(16 * n), np.uint8).reshape(n, 16).copy() for m in ("text", "audio")}
    digests["audio"][-2], digests["audio"][-1] = digests["audio"][0], 0
    k = len(task.classes) if task.multilabel else 1
    labels = rng.integers(0, 2 if task.multilabel else 3, (n, k)).astype(np.float32)
    labels[1] = np.nan
    return Index(
        name=name,
        task=task,
        ids=[f"{name}/{i:03d}" for i in range(n)],
        split=np.array([0, 0, 1, 2], np.uint8)[np.arange(n) % 4],
        labels=labels,
        label_names=task.classes if task.multilabel else ("label",),
        group=[f"Sprecherin {i % 3} ü" for i in range(n)],
        position=np.arange(n, dtype=np.int64),
        text=[f"Satz {i} 😀" * (i % 3) for i in range(n)],
        digests={Modality(m): d for m, d in digests.items()},
        about={"origin": "", "source": {"title": "made up", "licence": "CC0", "redistribution": True}, "settings": {}},
    )


def attributes(backbone):
    """The provenance of a view, and its id."""
    modality, dtype, width = VIEWS[backbone]
    about = {
        "modality": modality,
        "backbone": backbone,
        "family": "made",
        "dim": width,
        "dtype": dtype,
        "columns": [],
        "identity": {"extractor": 1, "modality": modality, "family": backbone, "weights_sha256": "", "dtype": dtype},
        "weights": {"name": "", "revision": None, "sha256": "", "licence": "CC0", "path": ""},
        "source": "made up",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return fingerprint.key(about["identity"]), about


def states(backbone, digest):
    """(T, D) as stored, 1 <= T <= 20, decided by the digest of an input."""
    _, dtype, width = VIEWS[backbone]
    rng = np.random.default_rng(int.from_bytes(digest[:4].tobytes(), "little"))
    values = rng.normal(size=(1 + int(digest[4]) % 20, width)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)


def meant(backbone, digest):
    """The same as a reader gives it back: bfloat16 is widened to float32."""
    stored = states(backbone, digest)
    return (stored.astype(np.uint32) << 16).view(np.float32) if stored.dtype == np.uint16 else stored


def complete(store, index, backbones=tuple(VIEWS), failing=(3,)):
    """Do what an extraction does: recover, borrow, write what is missing. Returns the rows written by view."""
    before = store.datasets.get(index.name)
    dataset = store.add_index(index)
    reuse.carry_over(store, index, before)
    written = {}
    for backbone in backbones:
        view, about = attributes(backbone)
        modality = VIEWS[backbone][0]
        store.add_view(view, about)
        store.recover(view)
        digests = index.digests[modality]
        todo = set(np.flatnonzero(index.has(modality)).tolist()) - done(store, dataset, view)
        if todo:
            reuse.borrow(store, view, dataset, digests, sorted(todo))
            todo -= done(store, dataset, view)
        written[backbone] = sorted(todo)
        for part in np.array_split(sorted(todo), 2 if len(todo) > 8 else 1):
            write(store, backbone, dataset, digests, part.tolist(), failing)
    return written


def done(store, dataset, view):
    """Rows that have hidden states or a failure."""
    mine = [one for one in store.views(dataset) if one.id == view]
    if not mine:
        return set()
    reader = store.reader(mine[0])
    return set(np.flatnonzero(np.asarray(reader.length) >= 0).tolist()) | set(reader.failures)


def write(store, backbone, dataset, digests, rows, failing):
    view, _ = attributes(backbone)
    _, dtype, width = VIEWS[backbone]
    writer = store.writer(view, dataset, Form(width, dtype, 8, SHARD), {"device": "cpu", "versions": {"msa": "0"}})
    for row in rows:
        digest = digests[row].tobytes()
        if row in failing:
            writer.fail(row, digest, "decode", "zero-length file", {"frames": 2})
        else:
            writer.write(row, digest, states(backbone, digests[row]), {"odd": row} if row % 5 == 4 else {})
    store.publish(view, [entry for entry in [writer.seal()] if entry])


MOODS = Task(classes=("happy", "sad"), multilabel=True)


def build(path, n=24):
    """The whole store; `corpora` gives back what was put in."""
    store = FeatureStore.create(path)
    for index in corpora(n):
        complete(store, index)
    return FeatureStore.open(path)


def corpora(n=24):
    """Three indices: the second is the first with other parts, and borrows all its hidden states."""
    first = corpus("voices", n)
    again = corpus("voices", n)
    again.split[:4] = 2
    return first, again, corpus("moods", n // 2, MOODS)
