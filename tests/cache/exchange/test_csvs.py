"""Folders of CSVs as openSMILE, COVAREP and OpenFace write them, read as a second reader has them."""

import os

import numpy as np
import pytest

from msa.cache.exchange import csvs
from msa.cache.exchange._foreign import Unreadable
from msa.cache.exchange._import import bring_in
from msa.cache.store import FeatureStore
from msa.errors import SourceError
from msa.types import Modality

chance = np.random.default_rng(0)
ROWS = {f"u{i}": chance.normal(size=(2 + i % 3, 4)).round(5) for i in range(12)}
NAMES = ["F0", "loudness", "jitter", "shimmer"]


def opensmile(name, rows):
    lines = [";".join(["name", "frameTime", *NAMES])]
    return lines + [f"'{name}';{i / 100:.2f};" + ";".join(map(str, row)) for i, row in enumerate(rows)]


def covarep(name, rows):
    return [",".join(map(str, row)) for row in rows]


def openface(name, rows):
    lines = ["frame, face_id, timestamp, confidence, success, " + ", ".join(NAMES[:3])]
    return lines + [
        f"{i + 1}, 0, {i / 30:.3f}, {row[0]}, 1, " + ", ".join(map(str, row[1:])) for i, row in enumerate(rows)
    ]


def pandas(name, rows):
    return ["\t".join(["", *NAMES])] + [f"{i}\t" + "\t".join(map(str, row)) for i, row in enumerate(rows)]


WRITERS = {opensmile: NAMES, covarep: [], openface: ["confidence", *NAMES[:3]], pandas: NAMES}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "talks"
    (root / "audio").mkdir(parents=True)
    parts = ["train", "train", "valid", "test"]
    table = [f"{id},{parts[i % 4]},{i / 4 - 1.3}" for i, id in enumerate(ROWS)]
    (root / "samples.csv").write_text("\n".join(["id,split,label", *table]))
    return root


def fill(root, writer=opensmile, end="\n", modality="audio", **other):
    (root / modality).mkdir(exist_ok=True)
    for id, rows in ROWS.items():
        lines = other.get(id) or writer(id, rows)
        (root / modality / f"{id}.csv").write_bytes((end.join(lines) + end).encode())
    return root


def imported(root, tmp_path, **settings):
    store = FeatureStore.create(tmp_path / "store")
    index, [report] = bring_in(store, csvs.read(root, csvs.Config(**settings)))
    return index, report, store.reader(store.views(index.name)[0])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_numbers_of_every_writer_come_with_their_names_and_without_times(folder, tmp_path, writer, end):
    index, report, reader = imported(fill(folder, writer, end), tmp_path)
    assert (report.written, report.failed, report.not_finite) == (12, [], {})
    assert list(reader.view.attributes["columns"]) == WRITERS[writer]
    for row, id in enumerate(index.ids):
        np.testing.assert_array_equal(reader.read(row), ROWS[id].astype(np.float32))


def test_a_setting_says_which_columns_are_no_features(folder):
    [feature] = csvs.read(fill(folder), csvs.Config(drop=("name", "frameTime", "Jitter"))).features
    assert feature.columns == ("F0", "loudness", "shimmer")
    np.testing.assert_array_equal(feature.read("u4"), ROWS["u4"][:, [0, 1, 3]])
    [feature] = csvs.read(fill(folder), csvs.Config(drop=("name",))).features
    assert feature.columns == ("frameTime", *NAMES)


def test_columns_in_another_order_are_the_same_columns(folder):
    order = [3, 1, 0, 2]
    lines = ["frameTime;" + ";".join(NAMES[k] for k in order)]
    lines += ["0.1;" + ";".join(str(row[k]) for k in order) for row in ROWS["u3"]]
    [feature] = csvs.read(fill(folder, u3=lines)).features
    np.testing.assert_array_equal(feature.read("u3"), ROWS["u3"])


def test_what_is_not_finite_is_zero_and_counted_however_it_is_written(folder, tmp_path):
    odd = ["nan", "-1.#IND", "inf", "1.0", "", "-nan(ind)", "1.#INF", "-1.#INF00", "NA", "?", "NaN", "2.5"]
    lines = ["name;frameTime;" + ";".join(NAMES)]
    lines += [";".join(["'x'", "0", *odd[i : i + 4]]) for i in (0, 4, 8)]
    index, report, reader = imported(fill(folder, u5=lines), tmp_path)
    assert report.not_finite == {
        "NaN set to 0": 7, "infinite or beyond float32 set to 0": 3, "samples with values set to 0": 1,
    }  # fmt: skip
    np.testing.assert_array_equal(reader.read(index.ids.index("u5")), [[0, 0, 0, 1], [0] * 4, [0, 0, 0, 2.5]])


def test_frames_without_a_face_and_of_other_faces_are_left_out_and_counted(folder, tmp_path):
    head = "frame, face_id, timestamp, confidence, success, " + ", ".join(NAMES[:3])
    lines = [head, "1, 0, 0, .9, 1, 1, 1, 1", "1, 1, 0, .9, 1, 7, 7, 7", "2, 0, .1, .2, 0, 0, 0, 0"]
    lines += ["3, 0, .2, .8, 1, 2, 2, 2", "4, 1, .3, .8, 0, 5, 5, 5"]
    faceless = [head, "1, 0, 0, .1, 0, 0, 0, 0"]
    root = fill(folder, openface, modality="face", u1=lines, u2=faceless)
    (root / "audio").rmdir()
    index, report, reader = imported(root, tmp_path)
    assert report.failed == [("u2", "no face in 1 frames")]
    assert report.not_finite == {"frames without a face left out": 2, "frames of other faces left out": 1}
    np.testing.assert_allclose(reader.read(index.ids.index("u1")), [[0.9, 1, 1, 1], [0.8, 2, 2, 2]])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["name;frameTime;F0;loudness;jitter"], "no column shimmer, which most files have"),
        (["name;frameTime;more;" + ";".join(NAMES), "'x';0;1;1;2;3;4"], "a column more, which"),
        (["1;2;3;4"], "without names"),
        (["F0;F0;loudness;jitter;shimmer"], "two columns are called F0"),
        (["frameTime;" + ";".join(NAMES), "0;1;2;3"], "4 cells in a line under a header of 5"),
        (["frameTime;" + ";".join(NAMES), "0;1;2;3;4;5"], "6 cells in a line under a header of 5"),
        (["frameTime;" + ";".join(NAMES), "0;1;2;3;4", "0;1;2;3"], "not a table of numbers"),
        (["frameTime;" + ";".join(NAMES), "0;1;2;word;4"], "not a table of numbers: .*'word'"),
        (["x" * (2 << 20)], "a first line of more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_unlike_the_others_is_a_failure_with_its_reason(folder, lines, reason):
    [feature] = csvs.read(fill(folder, u7=lines)).features
    with pytest.raises(Unreadable, match=reason) as caught:
        feature.read("u7")
    assert len(str(caught.value)) < 300
    assert len(feature.read("u6")) == len(ROWS["u6"])


def test_a_file_of_a_header_alone_has_no_rows(folder, tmp_path):
    _, report, _ = imported(fill(folder, u7=["frameTime;" + ";".join(NAMES)]), tmp_path)
    assert report.failed == [("u7", "no rows")]


def test_pipes_devices_and_what_leads_elsewhere_are_failures_and_links_within_are_followed(folder, tmp_path):
    root = fill(folder)
    audio = root / "audio"
    for id, make in {
        "u0": lambda path: os.mkfifo(path),
        "u1": lambda path: path.symlink_to("/dev/zero"),
        "u2": lambda path: path.symlink_to(tmp_path / "elsewhere.csv"),
        "u3": lambda path: path.write_bytes(b""),
        "u4": lambda path: path.symlink_to("../.git/annex/objects/u4"),
    }.items():
        if id == "u4":
            (root / ".git" / "annex" / "objects").mkdir(parents=True)
            (audio / "u4.csv").rename(root / ".git" / "annex" / "objects" / "u4")
        else:
            (audio / f"{id}.csv").unlink()
        make(audio / f"{id}.csv")
    (tmp_path / "elsewhere.csv").write_text("\n".join(opensmile("x", ROWS["u2"])))
    index, report, reader = imported(root, tmp_path)
    reasons = dict(report.failed)
    assert "not a file" in reasons["u0"] and "leads out" in reasons["u1"] and "leads out" in reasons["u2"]
    assert reasons["u3"] == "empty file" and set(reasons) == {"u0", "u1", "u2", "u3"}
    np.testing.assert_array_equal(reader.read(index.ids.index("u4")), ROWS["u4"].astype(np.float32))


def test_a_folder_of_which_no_file_can_be_read_is_an_error(folder):
    for id in ROWS:
        (folder / "audio" / f"{id}.csv").touch()
    with pytest.raises(SourceError, match=r"none of 12 files .* can be read, not even u0\.csv: empty file"):
        csvs.read(folder)


def test_a_folder_of_both_kinds_is_read_by_the_format_that_is_named(folder):
    fill(folder)
    (folder / "vision").mkdir()
    np.save(folder / "vision" / "u0.npy", np.ones((1, 2)))
    assert [f.modality for f in csvs.read(folder).features] == [Modality.AUDIO]
