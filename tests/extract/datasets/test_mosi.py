"""CMU-MOSI, CMU-MOSEI and CH-SIMS: the layout they share and its traps, on small trees of files that are no videos."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from msa import catalog
from msa.config import with_settings
from msa.errors import ConfigError, SourceError
from msa.extract.datasets import mosei, mosi, sims
from msa.extract.media import decode
from msa.extract.scan import scan
from msa.types import Dropped, Modality, Raw, Sample, Split, Task

THREE = ("mosi", "mosei", "sims")
HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode"
ROWS = (  # MMSA's columns; of two videos, and not in the order of the speech
    "v-10,10,LAST,0.6,,,,Positive,valid",
    "v-10,2,SECOND,-1.0,,,,Negative,valid",
    '-9x,1,"WELL, YES",0.0,,,,Neutral,train',
)
SIMS = ("video_0001,0001,好,0.6,0.2,-0.4,1.0,Positive,train", "video_0001,0002,坏,-1,,0,,Negative,test")
SOUND, FACE, TEXT = Modality.AUDIO, Modality.FACE, Modality.TEXT


def tree(root: Path, rows=ROWS, header: str = HEADER, end: str = "\n", raw: str = "Raw") -> Path:
    """label.csv with these rows, and a file for the clip of each, whose content is its path."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "label.csv").write_bytes("".join(line + end for line in [header, *rows]).encode())
    return put(root, *(f"{raw}/{'/'.join(row.split(',')[:2])}.mp4" for row in rows))


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, "utf-8")
    return root


def kept(found) -> dict[str, Sample]:
    return {item.id: item for item in found if isinstance(item, Sample)}


def dropped(found) -> list[Dropped]:
    return [item for item in found if isinstance(item, Dropped)]


def refused(root: Path, module=mosi, config=None) -> SourceError:
    with pytest.raises(SourceError) as error:
        list(module.samples(root, config or module.Config()))
    return error.value


# what a row becomes


def test_a_row_is_a_sample_with_text_sound_and_face_of_one_clip(tmp_path):
    found = list(mosi.samples(tree(tmp_path)))
    clip = Raw(path=tmp_path / "Raw/-9x/1.mp4")
    assert found[0] == Sample(
        id="-9x$_$1",
        label=0.0,
        raw={TEXT: Raw(text="WELL, YES"), SOUND: clip, FACE: clip},
        split=Split.TRAIN,
        group="-9x",
        position=0,
        keep_together="-9x",
    )


def test_clips_stand_in_the_order_of_the_speech_and_are_counted_in_their_video(tmp_path):
    found = mosi.samples(tree(tmp_path))
    assert [(s.id, s.group, s.position) for s in found] == [
        ("-9x$_$1", "-9x", 0),
        ("v-10$_$2", "v-10", 0),
        ("v-10$_$10", "v-10", 1),
    ]


@pytest.mark.parametrize(("name", "low", "high"), [("mosi", -3.0, 3.0), ("mosei", -3.0, 3.0), ("sims", -1.0, 1.0)])
def test_the_task_is_the_range_of_the_corpus_not_of_the_labels_found(name, low, high, tmp_path):
    index = scan(name, tree(tmp_path)).index
    assert index.task == Task(low=low, high=high)
    np.testing.assert_allclose(index.y, [0.0, -1.0, 0.6])


def test_sims_has_a_label_for_each_modality_where_one_was_given(tmp_path):
    found = kept(sims.samples(tree(tmp_path, SIMS)))
    assert found["video_0001$_$0001"].modality_labels == {TEXT: 0.2, SOUND: -0.4, FACE: 1.0}
    assert found["video_0001$_$0002"].modality_labels == {SOUND: 0.0}
    index = scan("sims", tmp_path).index
    assert index.label_names == ("label", "label_audio", "label_face", "label_text")
    np.testing.assert_allclose(index.labels, [[0.6, -0.4, 1.0, 0.2], [-1, 0, np.nan, np.nan]], rtol=1e-6)


def test_mosi_leaves_the_columns_of_single_modalities_alone(tmp_path):
    rows = ["a,1,x,1.5,9,loud,,Positive,train"]
    assert kept(mosi.samples(tree(tmp_path, rows)))["a$_$1"].modality_labels == {}


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "None", "null"])
def test_an_unlabelled_clip_has_no_label(cell, tmp_path):
    found = kept(mosi.samples(tree(tmp_path, [f"a,1,x,{cell},,,,,train"])))
    assert found["a$_$1"].label is None


@pytest.mark.parametrize("cell", ["3.01", "-4", "inf", "-inf", "Positive", "1;5"])
def test_a_label_that_cannot_be_right_is_refused_with_its_line_and_value(cell, tmp_path):
    error = refused(tree(tmp_path, ["a,1,x,3,,,,,train", f"a,2,x,{cell},,,,,train"]))
    assert f"line 3: label is '{cell}', the labels of this corpus are numbers from -3 to 3" in error.what


def test_a_label_of_one_modality_is_checked_like_the_label(tmp_path):
    assert "line 2: label_a is '1.2'" in refused(tree(tmp_path, ["v,1,x,1,1,1.2,1,,train"]), sims).what


def test_labels_of_sims_are_not_taken_for_labels_of_mosi(tmp_path):
    rows = [f"video_0001,{i:04},x,{(i % 11 - 5) / 5},,,,,train" for i in range(100)]
    error = refused(tree(tmp_path, rows))
    assert "not one of 100 labels is beyond 1" in error.what
    assert "--dataset sims" in error.fix
    assert "range=-3,3" in error.fix
    assert len(kept(sims.samples(tmp_path))) == 100
    assert len(kept(mosi.samples(tree(tmp_path, [*rows[:99], "video_0001,0100,x,1.2,,,,,train"])))) == 100


# MOSEI's emotions


EMOTIONS = "video_id,clip_id,text,label,mode,happy,Sad,label_anger,surprise,disgust,fear"


def test_emotions_are_columns_of_the_index_in_the_order_of_the_task(tmp_path):
    rows = ["a,1,x,1,train,3,0,0.33,0,0,0", "a,2,y,2,valid,0,0,0,1,0,2.67", "b,1,z,0,test,,,,,,"]
    tree(tmp_path, rows, EMOTIONS)
    index = scan("mosei", tmp_path, settings=["task=emotions"]).index
    assert index.task == Task(classes=("happy", "sad", "anger", "surprise", "disgust", "fear"), multilabel=True)
    assert index.label_names == index.task.classes
    expected = [[3, 0, 0.33, 0, 0, 0], [0, 0, 0, 1, 0, 2.67], [np.nan] * 6]
    np.testing.assert_allclose(index.labels, expected, rtol=1e-6)
    found = kept(mosei.samples(tmp_path, mosei.Config(task="emotions")))
    assert found["a$_$1"].label == (3.0, 0.0, 0.33, 0.0, 0.0, 0.0)
    assert found["b$_$1"].label is None
    assert [s.label for s in mosei.samples(tmp_path)] == [1.0, 2.0, 0.0]  # sentiment, unless asked


def test_an_emotion_without_a_judgement_is_named_and_not_taken_for_absent(tmp_path):
    tree(tmp_path, ["a,1,x,1,train,1,,0,0,0,0"], EMOTIONS)
    label = kept(mosei.samples(tmp_path, mosei.Config(task="emotions")))["a$_$1"].label
    assert math.isnan(label[1])
    assert (label[0], *label[2:]) == (1, 0, 0, 0, 0)


def test_emotions_out_of_range_absent_or_named_twice_are_refused(tmp_path):
    emotions = mosei.Config(task="emotions")
    error = refused(tree(tmp_path / "low", ["a,1,x,1,train,-1,0,0,0,0,0"], EMOTIONS), mosei, emotions)
    assert "line 2: happy is '-1', the labels of this corpus are numbers from 0 to 3" in error.what
    error = refused(tree(tmp_path / "none"), mosei, emotions)
    assert "has no column happy, sad, anger, surprise, disgust, fear" in error.what
    assert "All Labels" in error.fix
    twice = tree(tmp_path / "twice", ["a,1,x,1,train,0,0,0,0,0,0,0"], EMOTIONS + ",label_happy")
    assert "has the columns happy and label_happy" in refused(twice, mosei, emotions).what


# label.csv as it is met


def test_a_mark_crlf_other_columns_and_empty_lines_change_nothing(tmp_path):
    plain = list(mosi.samples(tree(tmp_path / "plain")))
    rows = [f"{i},{row},x" for i, row in enumerate(ROWS)] + [",,,,,,,,,,"]
    odd = tree(tmp_path / "odd", ROWS)
    lines = ["," + HEADER.replace("video_id", "Video_ID") + ",length", *rows]
    (odd / "label.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    stripped = [(s.id, s.label, s.raw[TEXT], s.split, s.position) for s in plain]
    assert [(s.id, s.label, s.raw[TEXT], s.split, s.position) for s in mosi.samples(odd)] == stripped


def test_a_row_given_twice_counts_once_and_one_that_contradicts_is_refused(tmp_path):
    found = list(mosi.samples(tree(tmp_path / "same", [*ROWS, ROWS[0]])))
    assert len(kept(found)) == 3
    assert dropped(found) == [Dropped("v-10$_$10, line 5", "row given twice", "as line 2")]
    error = refused(tree(tmp_path / "other", [*ROWS, ROWS[0].replace("0.6", "0.8")]))
    assert "line 5: v-10$_$10 is in line 2 too, and not the same" in error.what


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,x,0,,,,,holdout", "line 2: mode is 'holdout'"),
        (",1,x,0,,,,,train", "line 2: video_id is '' and clip_id '1'"),
        ("a,,x,0,,,,,train", "line 2: video_id is 'a' and clip_id ''"),
        ("a,1,x, and more,0,,,,,train", "line 2: 10 cells under a header of 9"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_with_its_line(row, message, tmp_path):
    assert message in refused(tree(tmp_path, [row])).what


def test_columns_that_are_missing_are_named_with_a_way_out(tmp_path):
    error = refused(tree(tmp_path / "a", ["a,1,x,0"], "video_id,clip_id,text,label"))
    assert "has no column mode; its first line names video_id, clip_id, text, label" in error.what
    assert "split=by_video" in error.fix
    error = refused(tree(tmp_path / "b", ROWS[1:], ROWS[0]))  # without its header
    assert "has no column video_id, clip_id, label, mode; its first line names v-10, 10, last" in error.what


@pytest.mark.parametrize("mode", ["valid", "val", "Validation", "dev"])
def test_the_validation_part_is_called_in_many_ways(mode, tmp_path):
    assert kept(mosi.samples(tree(tmp_path, [f"a,1,x,0,,,,,{mode}"])))["a$_$1"].split is Split.VALID


def test_a_row_without_a_part_is_drawn_into_that_of_its_video(tmp_path):
    index = scan("mosi", tree(tmp_path, [*ROWS, "-9x,2,so,1,,,,,", "-9x,3,and so,1,,,,,"])).index
    assert index.rows(Split.TRAIN).tolist() == [0, 1, 2]


def test_parts_drawn_by_video_keep_its_clips_together(tmp_path):
    rows = [f"video_{v:04},{c:04},text {v} {c},0.2,,,,,{('train', 'test')[c % 2]}" for v in range(12) for c in range(4)]
    official = scan("sims", tree(tmp_path, rows)).index
    assert [leak for leak in official.about["leaks"] if leak.startswith("group: 12 of 12")]
    drawn = scan("sims", tmp_path, settings=["split=by_video"]).index
    assert drawn.about["leaks"] == []
    assert all(len(drawn.rows(part)) for part in Split)


# where the clips are


@pytest.mark.parametrize("raw", ["Raw", "raw"])
@pytest.mark.parametrize("below", ["", "MOSI"])
def test_the_corpus_may_lie_in_a_folder_of_the_root(below, raw, tmp_path):
    tree(tmp_path / below, raw=raw)
    found = kept(mosi.samples(tmp_path))
    assert found["-9x$_$1"].raw[SOUND].path == tmp_path / below / raw / "-9x/1.mp4"


def test_several_corpora_below_the_root_are_not_chosen_among(tmp_path):
    for name in ("MOSI", "SIMS"):
        tree(tmp_path / name)
    assert "several corpora: MOSI, SIMS" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("written", "called", "clip"),
    [
        ("1", "0001", "0001"),  # a spreadsheet took the zeros
        ("1.0", "0001", "0001"),  # so did a program that has no whole numbers beside empty cells
        ("0001", "1", "0001"),
        ("0001", "0001", "0001"),
        ("2.0", "2", "2"),
        ("000", "0", "000"),
    ],
)
def test_a_clip_is_found_by_its_number_where_zeros_got_lost(written, called, clip, tmp_path):
    tree(tmp_path, [f"video_0001,{written},x,0,,,,,train"])
    (tmp_path / f"Raw/video_0001/{written}.mp4").rename(tmp_path / f"Raw/video_0001/{called}.mp4")
    found = list(sims.samples(tmp_path))
    assert [item.id for item in found] == [f"video_0001$_${clip}"]
    assert found[0].raw[FACE].path.is_file()


def test_two_files_of_one_number_are_told_apart_by_name_and_never_guessed_at(tmp_path):
    tree(tmp_path, ["v,01,x,0,,,,,train", "v,1,y,0,,,,,train"])
    found = kept(sims.samples(tmp_path))
    assert {id: sample.raw[SOUND].path.name for id, sample in found.items()} == {"v$_$01": "01.mp4", "v$_$1": "1.mp4"}
    tree(tmp_path, ["v,001,x,0,,,,,train"])
    (tmp_path / "Raw/v/001.mp4").unlink()
    assert "line 2: v/001 may be" in refused(tmp_path, sims).what


def test_two_spellings_of_one_clip_are_one_clip(tmp_path):
    tree(tmp_path, ["v,01,x,0,,,,,train"])
    lines = [HEADER, "v,01,x,0,,,,,train", "v,1,x,0,,,,,train"]
    (tmp_path / "label.csv").write_text("\n".join(lines), "utf-8")
    assert dropped(sims.samples(tmp_path)) == [Dropped("v$_$01, line 3", "row given twice", "as line 2")]
    (tmp_path / "label.csv").write_text("\n".join([*lines[:2], "v,1,other words,0,,,,,train"]), "utf-8")
    assert "v$_$01 is in line 2 too" in refused(tmp_path, sims).what


def test_a_missing_clip_is_a_sample_whose_sound_and_face_extraction_reports(tmp_path):
    (tree(tmp_path) / "Raw/v-10/2.mp4").unlink()
    found = scan("mosi", tmp_path)
    row = found.index.ids.index("v-10$_$2")
    assert found.index.text[row] == "SECOND"
    for modality in (SOUND, FACE):
        digests = found.index.digests[modality]
        assert found.index.has(modality).all()  # so extraction tries it, and it is not taken for never recorded
        assert len({digest.tobytes() for digest in digests}) == len(digests)
        assert found.raws[row][modality].path == tmp_path / "Raw/v-10/2.mp4"
    with pytest.raises(decode.MediaError, match="missing file"):
        decode.clip(SOUND, found.raws[row][SOUND])


def test_a_clip_without_a_row_is_dropped_and_hidden_files_are_no_clips(tmp_path):
    put(tree(tmp_path), "Raw/v-10/3.mp4", "Raw/v-10/._2.mp4", "Raw/a/b/c_1.mp4", "Raw/v-10/2.wav")
    found = list(mosi.samples(tmp_path))
    assert len(kept(found)) == 3
    assert dropped(found) == [
        Dropped("a/b/c_1.mp4", "no label", "a/b/c_1.mp4"),
        Dropped("v-10$_$3", "no label", "v-10/3.mp4"),
    ]


def test_clips_in_one_folder_are_found_by_video_and_clip(tmp_path):
    put(tree(tmp_path), "Raw/a_b_7.MP4")
    with open(tmp_path / "label.csv", "a", encoding="utf-8") as file:
        file.write("a_b,7,x,0,,,,,train\n")
    assert kept(mosi.samples(tmp_path))["a_b$_$7"].raw[SOUND].path == tmp_path / "Raw/a_b_7.MP4"


def test_clips_that_are_all_lost_or_not_there_are_an_error_that_offers_the_texts(tmp_path):
    for path in tree(tmp_path).rglob("*.mp4"):
        path.rename(path.with_name(f"clip{path.name}"))
    error = refused(tmp_path)
    assert "none of the 3 clips in label.csv has a file, not even v-10/10.mp4" in error.what
    assert "media=no" in error.fix
    (tmp_path / "Raw").rename(tmp_path / "Videos")
    error = refused(tmp_path)
    assert "no folder Raw" in error.what
    assert "media=no" in error.fix


def test_the_texts_alone_are_a_corpus_when_asked_for(tmp_path):
    (tree(tmp_path, [*ROWS, "v-10,3,,1,,,,,valid"]) / "Raw").rename(tmp_path / "elsewhere")
    found = list(mosi.samples(tmp_path, with_settings(mosi.Config(), ["media=no"])))
    assert [set(sample.raw) for sample in kept(found).values()] == [{TEXT}] * 3
    assert dropped(found) == [Dropped("v-10$_$3", "no text, and no media asked for", "line 5")]


def test_a_clip_without_text_keeps_its_sound_and_face(tmp_path):
    assert set(kept(mosi.samples(tree(tmp_path, ["a,1, ,0,,,,,train"])))["a$_$1"].raw) == {SOUND, FACE}


# OpenFace's files


@pytest.mark.parametrize("name", ["{}/{}.csv", "{}_{}.csv", "{}$_${}.csv"])
@pytest.mark.parametrize("where", ["Faces", "/Faces"])
def test_openface_files_stand_in_for_the_videos_of_the_faces(where, name, tmp_path):
    tree(tmp_path, SIMS)
    put(tmp_path, *(f"Faces/{name.format('video_0001', clip)}" for clip in ("0001", "2")))
    folder = str(tmp_path / "Faces") if where[0] == "/" else where
    found = kept(sims.samples(tmp_path, sims.Config(openface=folder)))
    assert list(found) == ["video_0001$_$0001", "video_0001$_$0002"]
    for sample, clip in zip(found.values(), ("0001", "2"), strict=True):
        assert sample.raw[FACE].path == tmp_path / "Faces" / name.format("video_0001", clip)
        assert sample.raw[SOUND].path.suffix == ".mp4"


def test_openface_files_are_found_without_the_videos_and_beside_a_nested_corpus(tmp_path):
    tree(tmp_path / "MOSI")
    put(tmp_path / "MOSI", "Faces/v-10/10.csv")
    found = kept(mosi.samples(tmp_path, mosi.Config(openface="Faces", media=False)))
    assert found["v-10$_$10"].raw == {TEXT: Raw(text="LAST"), FACE: Raw(path=tmp_path / "MOSI/Faces/v-10/10.csv")}
    assert not found["v-10$_$2"].raw[FACE].path.exists()  # reported by extraction, like a missing clip


def test_a_missing_openface_folder_and_one_of_something_else_are_errors(tmp_path):
    tree(tmp_path)
    assert "openface=Faces: there is no folder" in refused(tmp_path, config=mosi.Config(openface="Faces")).what
    put(tmp_path, "Faces/readme.csv")
    error = refused(tmp_path, config=mosi.Config(openface="Faces"))
    assert "not even v-10/10.csv" in error.what


# all three alike


@pytest.mark.parametrize("name", THREE)
def test_samples_come_in_one_order_with_ids_of_their_own_whatever_the_file_system_says(name, tmp_path, monkeypatch):
    module = catalog.load("dataset", name)
    put(tree(tmp_path), "Raw/v-10/30.mp4", "Raw/v-10/4.mp4")
    once = list(module.samples(tmp_path))
    walk, listdir = os.walk, os.listdir
    monkeypatch.setattr("os.walk", lambda *a, **k: ((f, b, n[::-1]) for f, b, n in walk(*a, **k)))
    monkeypatch.setattr("os.listdir", lambda path: listdir(path)[::-1])
    assert list(module.samples(tmp_path)) == once
    assert [item.id for item in once][1:] == [f"v-10$_${clip}" for clip in (2, 4, 10, 30)]
    assert max(Counter(item.id for item in once).values()) == 1


@pytest.mark.parametrize("name", THREE)
def test_options_that_do_not_exist_are_refused(name):
    config = catalog.load("dataset", name).Config
    with pytest.raises(ConfigError, match="split is 'random'"):
        config(split="random")
    with pytest.raises(ConfigError, match="is not of type bool"):
        with_settings(config(), ["media=some"])
    with pytest.raises(ConfigError, match="task is 'anger'"):
        mosei.Config(task="anger")


@pytest.mark.parametrize("name", THREE)
def test_features_of_these_corpora_may_not_be_passed_on(name):
    source = catalog.load("dataset", name).SOURCE
    assert not source.redistribution
    assert "none stated" in source.licence


@pytest.mark.parametrize("cells", [("#NAME?", "1"), ("v", "#REF!"), ("1.2E+17", "1")])
def test_an_id_that_a_spreadsheet_destroyed_is_an_error_that_names_the_line(tmp_path, cells):
    root = tree(tmp_path)
    table = next(root.rglob("label.csv"))
    lines = table.read_text("utf-8").splitlines()
    lines[1] = ",".join([*cells, *lines[1].split(",")[2:]])
    table.write_text("\n".join(lines), "utf-8")
    assert "line 2: video_id is" in refused(root).what
    assert "spreadsheet program" in refused(root).what
