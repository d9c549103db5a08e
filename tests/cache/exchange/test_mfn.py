"""MFN's arrays: three modalities side by side in the columns of X_train.h5, and what is refused."""

import os

import h5py
import numpy as np
import pytest

from msa.cache.exchange import mfn
from msa.cache.exchange._foreign import Unreadable
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, SourceError
from msa.types import Modality, Split, Task

chance = np.random.default_rng(0)
SPLITS = {"train": (Split.TRAIN, 20), "valid": (Split.VALID, 6), "test": (Split.TEST, 7)}
COLUMNS = {Modality.TEXT: (0, 5), Modality.AUDIO: (5, 8), Modality.FACE: (8, 10)}
SETTING = "text:0:5,acoustic:5:8,vision:8:10"
T = 6


def true_length(i):
    return 1 + i % T


def arrays(labels=None):
    """X of each split, padded at the front; where a row is true the sound of every third sample begins with silence."""
    made = {}
    for split, (_, n) in SPLITS.items():
        x = chance.normal(size=(n, T, 10)).astype(np.float32)
        for i in range(n):
            x[i, : T - true_length(i)] = 0
            if i % 3 == 0:
                x[i, : T - true_length(i) + 1, 5:8] = 0
        y = np.array([(i % 12 - 6) / 2 + 0.1 for i in range(n)]) if labels is None else labels(n)
        made[split] = (x, np.asarray(y, np.float32))
    return made


def folder(root, made, **options):
    root.mkdir(exist_ok=True)
    for split, (x, y) in made.items():
        for name, values in (("X", x), ("y", y)):
            with h5py.File(root / f"{name}_{split}.h5", "w") as file:
                file.create_dataset("data", data=values, **options)
    return root


def one_file(root, made):
    root.mkdir(exist_ok=True)
    with h5py.File(root / "all.h5", "w") as file:
        for split, (x, y) in made.items():
            file[f"X_{split}/data"], file[f"y_{split}/data"] = x, y
    return root / "all.h5"


def read(path, **settings):
    return mfn.read(path, mfn.Config(**{"modality": SETTING} | settings))


@pytest.mark.parametrize("write", [folder, one_file])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 1, 1)])
def test_every_sample_is_as_the_file_has_it_without_its_padding(tmp_path, write, shape):
    made = {split: (x, y.reshape(shape)) for split, (x, y) in arrays().items()}
    found = read(write(tmp_path / "mosi", made))
    assert found.corpus.task == Task(low=-3.0, high=3.0)
    assert {f.modality: f.dim for f in found.features} == {Modality.TEXT: 5, Modality.AUDIO: 3, Modality.FACE: 2}
    index, reports = bring_in(FeatureStore.create(tmp_path / "store"), found)
    samples = {sample.id: sample for sample in found.corpus.samples}
    silent = 0
    for split, (part, n) in SPLITS.items():
        x, y = made[split]
        for i in range(n):
            sample = samples[f"{split}_{i}"]
            assert sample.split is part and sample.label == pytest.approx(y[i].item())
            for feature in found.features:
                start, stop = COLUMNS[feature.modality]
                expected = x[i, T - true_length(i) :, start:stop]
                if not expected.any():  # one row, and that silent
                    silent += 1
                    with pytest.raises(Unreadable, match="nothing but padding"):
                        feature.read(sample.id)
                else:
                    np.testing.assert_array_equal(feature.read(sample.id), expected)
    assert silent == sum(len(report.failed) for report in reports) > 0
    assert len(index) == 33


@pytest.mark.parametrize(("options", "length"), [({"padding": "none"}, T), ({"padding": "back"}, T)])
def test_padding_is_where_it_is_said(tmp_path, options, length):
    [text, *_] = read(folder(tmp_path / "x", arrays()), **options).features
    assert len(text.read("train_1")) == length


def test_what_is_not_named_is_left_out_and_the_width_is_said(tmp_path):
    path = folder(tmp_path / "x", arrays())
    [only] = read(path, modality="face:8:9").features
    assert (only.modality, only.dim) == (Modality.FACE, 1)
    for setting, why in {
        "": "X has 10 columns, and nothing says which",
        "text:0:11": "are none of the 10 columns",
        "text:3:3": "are none of the 10 columns",
        "text:5": "is not MODALITY:START:END",
        "smell:0:5": "is not MODALITY:START:END",
        "face:0:5,vision:5:10": "named twice",
        "text:-1:5": "is not MODALITY:START:END",
    }.items():
        with pytest.raises(ConfigError, match=why) as caught:
            read(path, modality=setting)
        assert "modality=text:0:300" in caught.value.fix


def test_whole_numbers_are_classes_as_everywhere(tmp_path):
    made = arrays(lambda n: np.arange(n) % 3 + 0.0)
    found = read(folder(tmp_path / "x", made))
    assert found.corpus.task.classes == ("0", "1", "2")
    assert found.corpus.samples[4].label == "1"
    several = arrays(lambda n: np.stack([np.arange(n) % 2, np.ones(n), np.arange(n) % 3 > 0], 1))
    assert read(folder(tmp_path / "y", several)).corpus.task.multilabel


def no_label(root):
    (root / "y_test.h5").unlink()


def of_another_width(root):
    (root / "X_test.h5").unlink()
    with h5py.File(root / "X_test.h5", "w") as file:
        file["data"] = np.ones((7, T, 9), "f4")


def of_two_dimensions(root):
    (root / "X_test.h5").unlink()
    with h5py.File(root / "X_test.h5", "w") as file:
        file["data"] = np.ones((7, 10), "f4")


def of_other_rows(root):
    (root / "y_test.h5").unlink()
    with h5py.File(root / "y_test.h5", "w") as file:
        file["data"] = np.ones(8, "f4")


def a_link_outside(root):
    (root / "X_test.h5").rename(root.parent / "X_test.h5")
    (root / "X_test.h5").symlink_to(root.parent / "X_test.h5")


def a_link_in_the_file(root):
    (root / "X_test.h5").rename(root.parent / "away.h5")
    with h5py.File(root / "X_test.h5", "w") as file:
        file["data"] = h5py.ExternalLink(str(root.parent / "away.h5"), "data")


def a_pipe(root):
    (root / "X_test.h5").unlink()
    os.mkfifo(root / "X_test.h5")


def of_zeros_without_end(root):
    (root / "X_test.h5").unlink()
    with h5py.File(root / "X_test.h5", "w") as file:
        file.create_dataset("data", (7, 1 << 20, 10), "f4", chunks=(1, 1 << 18, 10), compression="gzip")
        for i in range(7):
            file["data"][i] = np.zeros((1 << 20, 10), "f4")


def never_written(root):
    (root / "y_test.h5").unlink()
    with h5py.File(root / "y_test.h5", "w") as file:
        file.create_dataset("data", (1 << 25,), "f4", chunks=(1024,))


REFUSED = {
    no_label: "X_test.h5 and no y_test.h5",
    of_another_width: "the width 10 in train, 10 in valid, 9 in test",
    of_two_dimensions: r"expected numbers of shape \[n, T, D\]",
    of_other_rows: r"expected \(n, T, D\), \(n,\)",
    a_link_outside: "a link that leads out of the folder",
    a_link_in_the_file: "links are not followed",
    a_pipe: "a pipe",
    of_zeros_without_end: "at most 100 times as much|more than a shard",
    never_written: "was never written",
}


@pytest.mark.parametrize("spoil", REFUSED)
def test_files_that_lie_lead_elsewhere_or_do_not_fit_are_refused(tmp_path, spoil):
    root = folder(tmp_path / "mosi", arrays())
    spoil(root)
    with pytest.raises(SourceError, match=REFUSED[spoil]) as caught:
        read(root)
    assert caught.value.fix


def test_rows_that_were_never_written_are_a_failure_and_no_zeros(tmp_path):
    root = folder(tmp_path / "mosi", arrays())
    x = arrays()["test"][0]
    (root / "X_test.h5").unlink()
    with h5py.File(root / "X_test.h5", "w") as file:
        file.create_dataset("data", x.shape, "f4", chunks=(1, T, 10))[:5] = x[:5]
    [text, *_] = read(root).features
    assert len(text.read("test_4"))
    with pytest.raises(Unreadable, match="never written"):
        text.read("test_6")


def test_a_folder_of_something_else_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="no X_train"):
        read(tmp_path)
    with pytest.raises(SourceError, match="there is no file"):
        read(tmp_path / "none")
