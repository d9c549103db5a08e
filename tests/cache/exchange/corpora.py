"""Corpora with whatever an index may hold, for round trips: store -> file -> store."""

import numpy as np

from msa.cache.exchange._foreign import Bundle
from msa.cache.exchange._import import bring_in
from msa.cache.format import fingerprint
from msa.cache.index import Index
from msa.cache.store import FeatureStore
from msa.cache.write.segment import Form
from msa.types import SENTIMENT, Modality, Task

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
NAN = float("nan")
EMOTIONS = Task(classes=("Happy", "sad", "über"), multilabel=True)
TASKS = {
    "classes": (SENTIMENT, ("label", "label_audio"), lambda i: [i % 3, NAN if i % 2 else (i + 1) % 3]),
    "values": (Task(low=-3.0, high=3.0), ("label", "label_text"), lambda i: [0.1 * i - 1, NAN if i == 2 else i / 7]),
    "several": (EMOTIONS, EMOTIONS.classes, lambda i: [NAN, NAN, NAN] if i == 3 else [i / 3, 0, i % 2]),
}
IDS = ["a$_$1", "b/c", "../up", ".hidden", "100%", "%2F", "ein Text ü", "A", "a", "x?y*z", '"q",r', "b%2Fc"]
TEXTS = ["", 'he said "no",\nand left', "a\rb", "tab\there", "ü 😀", "plain"] * 2
WIDTH = {TEXT: 6, AUDIO: 5, FACE: 3}
DTYPE = {TEXT: "float32", AUDIO: "float16", FACE: "float32"}


def states_of(i, modality):
    """(T, D) of sample i; samples 4 and 5 have equal sound, and no value is beyond what float16 holds."""
    rng = np.random.default_rng((4 if i == 5 and modality is AUDIO else i, WIDTH[modality]))
    return rng.normal(size=(1 + (i if modality is not AUDIO else 2), WIDTH[modality])).astype(DTYPE[modality])


def has_states(i, modality):
    """The last sample has no face at all; the sound of the third could not be read."""
    return not (modality is FACE and i == 11) and not (modality is AUDIO and i == 2)


def fill(store, kind="classes", ids=IDS, texts=TEXTS, name="made"):
    """Write a corpus with states of three modalities into a store, and return it as what a format writes."""
    task, names, labels = TASKS[kind]
    digest = lambda i, m: np.frombuffer(fingerprint.of_text(f"{m}{i}"), np.uint8)  # noqa: E731
    n = len(ids)
    digests = {m: np.array([digest(i, m) for i in range(n)]) for m in WIDTH}
    digests[FACE][11] = 0
    index = Index(
        name=name,
        task=task,
        ids=ids,
        split=np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2], np.uint8),
        labels=np.array([labels(i) for i in range(n)], np.float32),
        label_names=names,
        group=["", "video ü", "v,2"] * 4,
        position=np.arange(n, dtype=np.int64)[::-1].copy(),
        text=texts,
        digests=digests,
        about={
            "source": {"title": "Made", "home": "here", "licence": "CC0", "redistribution": True, "citation": "none",
                       "layout": "-"},
        },
    )  # fmt: skip
    dataset = store.add_index(index)
    for m, width in WIDTH.items():
        view = m[0] * 16
        about = {"modality": m, "backbone": f"made.{m}", "dim": width, "dtype": DTYPE[m], "columns": ["f0", "f1"]}
        store.add_view(view, about)
        writer = store.writer(view, dataset, Form(width, DTYPE[m], 16, 64), {})
        for i in range(n):
            if has_states(i, m):
                writer.write(i, digest(i, m).tobytes(), states_of(i, m))
        if m is AUDIO:
            writer.fail(2, digest(2, m).tobytes(), "decode", "no sound")
        store.publish(view, [writer.seal()])
    return Bundle(index, {m: store.reader(store.view(dataset, m)) for m in WIDTH})


def there_and_back(bundle, module, out, store_path, **options):
    """Write a bundle, read it, import it into a new store: what is there then, as a bundle, and the remarks."""
    remarks = module.write(bundle, out)
    store = FeatureStore.create(store_path)
    foreign = module.read(out, **options)
    index, reports = bring_in(store, foreign)
    views = {view.modality: store.reader(view) for view in store.views(index.name)}
    return Bundle(index, views), reports, remarks


def assert_equal(one, two):
    """Two bundles hold the same samples, labels, parts and states, bit for bit."""
    a, b = one.index, two.index
    assert (a.name, a.task, tuple(a.label_names)) == (b.name, b.task, tuple(b.label_names))
    for name in ("ids", "group", "text"):
        assert list(getattr(a, name)) == list(getattr(b, name)), name
    for name in ("split", "position", "labels"):
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
    assert a.about["source"] == b.about["source"]
    assert one.readers.keys() == two.readers.keys()
    for m in one.readers:
        np.testing.assert_array_equal(one.readers[m].length, two.readers[m].length)
        for row in range(len(a)):
            x, y = one.states(m, row), two.states(m, row)
            assert (x is None) == (y is None)
            assert x is None or (x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes())
