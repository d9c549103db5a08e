"""Foreign hidden states -> the store: what is kept, counted, recorded and refused, whatever the format."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msa.cache.exchange import _export as exporting
from msa.cache.exchange._foreign import Feature, Foreign, Unreadable, unknown_source
from msa.cache.exchange._import import bring_in, finite
from msa.cache.format import fingerprint
from msa.cache.maintain.describe import describe
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.dataset_index import Corpus
from msa.cache.write.segment import Form
from msa.errors import ConfigError, SourceError, StoreError
from msa.types import Modality, Raw, Sample, Split, Task

EMOTIONS = Task(classes=("happy", "sad"), multilabel=True)


def samples(n=12):
    return [
        Sample(f"v{i // 4}$_${i % 4}", (i - 6) / 2, {Modality.TEXT: Raw(text=f" words {i}\n")}, group=f"v{i // 4}")
        for i in range(n)
    ]


def foreign(states, found=None, split=True, task=Task(low=-3, high=3), name="vision", modality=Modality.FACE, **facts):
    """A corpus whose `states` map ids to arrays, to None (it lacks them) or to an exception."""
    found = found or samples()
    if split:
        parts = [Split.TRAIN, Split.TRAIN, Split.VALID, Split.TEST]
        found = [replace(sample, split=parts[i % 4]) for i, sample in enumerate(found)]

    def read(id):
        if isinstance(states[id], BaseException):
            raise states[id]
        return states[id]

    def digest(id):
        return None if states.get(id) is None else fingerprint.of_text(f"{name} of {id}")

    source = unknown_source(Path("x.pkl"), "x", "a file")
    feature = Feature(name, modality, 3, read, digest, facts=facts)
    return Foreign("made", Path("x.pkl"), "ab" * 8, Corpus("made-up", task, source, found), [feature])


def states(n=12):
    rng = np.random.default_rng(0)
    return {s.id: rng.normal(size=(1 + i, 3)).astype(np.float32) for i, s in enumerate(samples(n))}


def test_what_is_imported_is_read_back_with_its_true_length(store):
    found = states()
    index, [report] = bring_in(store, foreign(found))
    assert (report.wanted, report.written, report.failed, report.not_finite) == (12, 12, [], {})
    reader = store.reader(store.view("made-up", Modality.FACE, "made.vision"))
    for row, id in enumerate(index.ids):
        np.testing.assert_array_equal(reader.read(row), found[id])
    assert index.text[3] == "words 3"
    assert index.group[5] == "v1"
    np.testing.assert_array_equal(index.y, (np.arange(12) - 6) / 2)
    assert verify(store) == []


def test_doing_it_again_changes_nothing(store):
    bring_in(store, foreign(states()))
    generation = store.manifest.generation
    _, [report] = bring_in(store, foreign(states()))
    assert (report.already, report.written) == (12, 0)
    assert store.manifest.generation == generation


@pytest.mark.parametrize("modality", [Modality.FACE, Modality.TEXT])
def test_other_labels_and_parts_read_nothing_again(store, modality):
    """A text's digest in the index is that of its words: what is borrowed is found by the feature's own."""
    found = states() | {"v0$_$1": np.array([[1, np.nan, 2]])}
    bring_in(store, foreign(found | {"v1$_$1": Unreadable("torn")}, modality=modality))
    changed = [replace(s, label=1.0) for s in reversed(samples())]  # in another order, too
    unread = dict.fromkeys(found, AssertionError("read again")) | {"v1$_$1": found["v1$_$1"]}
    index, [report] = bring_in(store, foreign(unread, changed, modality=modality))
    assert (report.already, report.borrowed, report.written, report.failed) == (11, 11, 1, [])
    reader = store.reader(store.view("made-up", modality))
    for row, id in enumerate(index.ids):
        np.testing.assert_array_equal(reader.read(row), np.nan_to_num(found[id]))
    views = [view for about in describe(store)["datasets"] for view in about["views"]]
    assert [view["counts"] for view in views] == [{"NaN set to 0": 1, "samples with values set to 0": 1}] * 2
    assert verify(store) == []


def test_an_interrupted_import_goes_on_where_it_stopped(store):
    found = states()
    with pytest.raises(KeyboardInterrupt):
        bring_in(store, _interrupted(found, "v1$_$2"))
    _, [report] = bring_in(store, foreign(found))
    assert (report.already, report.written) == (6, 6)
    assert verify(store) == []


def _interrupted(found, at):
    whole = foreign(found)

    def read(id):
        if id == at:
            raise KeyboardInterrupt
        return found[id]

    return replace(whole, features=[replace(whole.features[0], read=read)])


def test_what_is_not_finite_becomes_zero_and_is_counted(store):
    found = states()
    found["v0$_$1"] = np.array([[1, np.nan, -np.inf], [2, 3, 1e300]])
    found["v0$_$2"] = np.full((2, 3), -np.inf)
    _, [report] = bring_in(store, foreign(found))
    reader = store.reader(store.view("made-up", Modality.FACE))
    np.testing.assert_array_equal(reader.read(1), np.array([[1, 0, 0], [2, 3, 0]], np.float32))
    assert report.not_finite == {
        "NaN set to 0": 1,
        "infinite or beyond float32 set to 0": 2,
        "samples with values set to 0": 1,
    }
    assert report.failed == [("v0$_$2", "no finite value")]
    assert reader.failures[2]["stage"] == "import"
    assert describe(store)["datasets"][0]["views"][0]["counts"] == report.not_finite


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (np.zeros((2, 4)), "shape [2, 4], expected [T, 3]"),
        (np.zeros(3), "shape [3], expected [T, 3]"),
        (np.zeros((0, 3)), "no rows"),
        (Unreadable("nothing but padding"), "nothing but padding"),
    ],
)
def test_a_sample_that_cannot_be_had_is_recorded_and_the_rest_goes_on(store, broken, reason):
    _, [report] = bring_in(store, foreign(states() | {"v1$_$0": broken}))
    assert report.failed == [("v1$_$0", reason)]
    assert report.written == 11


def test_a_file_without_a_single_usable_sample_is_an_error_that_says_why(store):
    found = dict.fromkeys(states(), np.zeros((0, 3)))
    with pytest.raises(SourceError, match=r"x\.pkl: none of 12 samples can be read; .*made\.vision: no rows"):
        bring_in(store, foreign(found))
    assert not store.datasets and not FeatureStore.open(store.path).datasets, "a dataset without views was published"
    bring_in(store, foreign(states()))
    before = store.manifest.generation
    with pytest.raises(SourceError, match="nothing was imported"):
        bring_in(store, foreign(found, split=False, name="other"))
    assert FeatureStore.open(store.path).manifest.generation == before


def test_of_several_features_one_that_cannot_be_read_stops_no_other_and_is_named(store):
    good, bad = foreign(states()), foreign(dict.fromkeys(states(), Unreadable("torn")), name="sound")
    both = replace(good, features=[bad.features[0], good.features[0]])
    with pytest.raises(SourceError, match=r"none of 12 samples has made\.sound.*torn"):
        bring_in(store, both)
    assert store.reader(store.view("made-up", Modality.FACE, "made.vision")).length.min() == 1


def test_an_interrupted_import_keeps_what_it_committed(store):
    """The file breaks off, or Ctrl-C comes, when some samples are written: the same call goes on from there."""
    found = states() | {"v1$_$2": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        bring_in(store, foreign(found))
    _, [report] = bring_in(FeatureStore.open(store.path), foreign(states()))
    assert (report.already, report.written) == (6, 6)


def test_a_sample_that_lacks_the_modality_is_no_failure(store):
    index, [report] = bring_in(store, foreign(states() | {"v1$_$0": None}))
    assert (report.wanted, report.failed) == (11, [])
    assert not index.has(Modality.FACE)[4]
    assert index.has(Modality.TEXT).all()


def test_another_file_of_the_same_name_is_another_view(store):
    bring_in(store, foreign(states()))
    bring_in(store, replace(foreign(states()), digest="cd" * 8))
    assert len(store.views("made-up")) == 2


def test_without_a_split_one_is_drawn_that_keeps_equal_texts_together(store):
    found = [replace(s, raw={Modality.TEXT: Raw(text="the same")}) if i < 6 else s for i, s in enumerate(samples())]
    index, _ = bring_in(store, foreign(states(), found, split=False))
    assert len(set(index.split[:6].tolist())) == 1
    assert set(index.split.tolist()) == {0, 1, 2}
    assert "drawn" in index.about["split"]


def test_a_split_file_names_the_parts_and_leaves_out_the_rest(store, tmp_path):
    (tmp_path / "s.csv").write_text("id,split\nv0$_$0,train\nv0$_$1,valid\nv2$_$0,test\n")
    index, [report] = bring_in(store, foreign(states(), split=False), split_file=tmp_path / "s.csv")
    assert (list(index.ids), report.written) == (["v0$_$0", "v0$_$1", "v2$_$0"], 3)
    assert index.about["dropped"] == {"not in the split file": 9}


def test_emotions_become_a_column_each(store):
    labels = [(0.0, 2.0), (1.0, 0.0), None]
    found = [replace(s, label=label) for s, label in zip(samples(3), labels, strict=True)]
    index, _ = bring_in(store, foreign(states(3), found, task=EMOTIONS))
    assert index.label_names == ("happy", "sad")
    np.testing.assert_array_equal(index.y, np.array([[0, 2], [1, 0], [np.nan, np.nan]], np.float32))


def test_finite_rows_pass_bit_for_bit():
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    kept, odd = finite(rows, 3)
    assert (kept.tobytes(), odd) == (rows.tobytes(), {})


def test_an_export_says_what_it_took_and_overwrites_nothing(store, tmp_path):
    bring_in(store, foreign(states()))

    class Format:
        @staticmethod
        def write(bundle, out):
            out.write_text(",".join(bundle.index.ids))
            return ["a remark"]

    remarks = exporting.export(store, "made-up", {}, "made", Format, tmp_path / "o")
    assert remarks[0].startswith("face: made.vision@")
    assert remarks[1:] == ["a remark"]
    with pytest.raises(StoreError, match="there already"):
        exporting.export(store, "made-up", {}, "made", Format, tmp_path / "o")
    with pytest.raises(StoreError, match="made-up has no audio"):
        exporting.export(store, "made-up", {"audio": "x"}, "made", Format, tmp_path / "p")
    with pytest.raises(ConfigError, match="only read"):
        exporting.export(store, "made-up", {}, "made", object(), tmp_path / "p")
    with pytest.raises(StoreError, match=r"cannot be written: .*Not a directory"):
        exporting.export(store, "made-up", {}, "made", Format, tmp_path / "o" / "below a file")


def test_a_new_version_of_a_corpus_keeps_what_was_extracted_of_the_old_one(store, tmp_path):
    """Another split must not cost the texts that were extracted since the import."""
    index, _ = bring_in(store, foreign(states()))
    store.add_view("t" * 16, {"modality": "text", "backbone": "made.text", "dim": 2, "dtype": "float32"})
    writer = store.writer("t" * 16, store.dataset("made-up"), Form(2, "float32", 16, 64), {})
    for row in range(12):
        writer.write(row, index.digests[Modality.TEXT][row].tobytes(), np.full((1, 2), row, np.float32))
    store.publish("t" * 16, [writer.seal()])
    (tmp_path / "s.csv").write_text("id,split\n" + "".join(f"{id},train\n" for id in index.ids[::2]))
    other, _ = bring_in(store, foreign(states()), split_file=tmp_path / "s.csv")
    reader = store.reader(store.view("made-up", Modality.TEXT))
    assert len(other) == 6
    assert [reader.read(row)[0, 0] for row in range(6)] == [0, 2, 4, 6, 8, 10]
    assert verify(store) == []
