"""A folder of clips."""

import pytest

from msa.errors import SourceError, UnknownNameError
from msa.extract.datasets import clips, table
from msa.types import SENTIMENT, Dropped, Modality, Task
from tests.extract.datasets.folders import kept, touch

SRT = """1
00:00:00,500 --> 00:00:02,000
<i>Hello</i>
there

2
00:01:02,250 --> 01:00:03,1
{\\an8}Good bye

3
00:02:00,000 --> 00:01:00,000
never shown
"""


def test_a_folder_of_clips_takes_its_texts_from_what_lies_beside_them(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4", "b.wav", "sub/c.MOV", "d.mkv", "._a.mp4", "notes.md")
    (root / "a.txt").write_text(" what a day \n", "utf-8")
    (root / "b.srt").write_bytes(SRT.replace("\n", "\r\n").encode("utf-8-sig"))
    (root / "sub/c.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000 align:left\nfine\n", "utf-8")
    found = kept(clips.samples(root))
    assert {id: s.raw[Modality.TEXT].text for id, s in found.items() if Modality.TEXT in s.raw} == {
        "a": "what a day",
        "b": "Hello there Good bye",
        "sub/c": "fine",
    }
    assert {id: sorted(s.raw) for id, s in found.items()} == {
        "a": ["audio", "face", "text"],
        "b": ["audio", "text"],
        "sub/c": ["audio", "face", "text"],
        "d": ["audio", "face"],
    }
    assert found["a"].raw[Modality.AUDIO].path == root / "a.mp4"
    assert clips.name(root) == "talks"
    assert clips.task(root) == Task()


def test_each_subtitle_of_a_clip_can_be_a_sample_of_its_own(tmp_path):
    root = touch(tmp_path / "talks", "b.mp4", "d.mkv")
    (root / "b.srt").write_text(SRT, "utf-8")
    found = kept(clips.samples(root, clips.Config(cues=True)))
    assert list(found) == ["b_1", "b_2", "d"]
    assert [(s.raw[Modality.AUDIO].start, s.raw[Modality.AUDIO].end) for s in found.values()] == [
        (0.5, 2.0),
        (62.25, 3603.1),
        (0.0, None),
    ]
    assert [(s.group, s.position, s.keep_together) for s in found.values()] == [
        ("b", 0, "b"),
        ("b", 1, "b"),
        ("", 0, ""),
    ]
    assert found["b_2"].raw[Modality.TEXT].text == "Good bye"


@pytest.mark.parametrize("column", ["file", "video", "id", "Clip"])
def test_a_table_in_a_folder_of_clips_labels_them(column, tmp_path):
    root = touch(tmp_path / "talks", "a.mp4", "sub/b.wav", "lost.mp4")
    cells = ("a", "sub/b", "gone") if column == "id" else ("a.mp4", "sub\\b.wav", "gone.wav")
    rows = zip(cells, ("positive", "negative", "neutral"), ("fine", "", "x"), strict=True)
    (root / "labels.csv").write_text("\n".join([f"{column};label;text", *(";".join(row) for row in rows)]), "utf-8")
    (root / "sub/b.txt").write_text("bad", "utf-8")
    items = list(clips.samples(root))
    found = kept(items)
    assert {id: (s.label, s.raw[Modality.TEXT].text) for id, s in found.items()} == {
        "a": ("positive", "fine"),
        "sub/b": ("negative", "bad"),
        "gone": ("neutral", "x"),
    }
    gone = "gone.mp4" if column == "id" else "gone.wav"
    assert found["gone"].raw[Modality.AUDIO].path == root / gone  # extraction will record that it is missing
    assert [(item.id, item.reason) for item in items if isinstance(item, Dropped)] == [("lost", "no row in the table")]
    assert clips.task(root) == SENTIMENT


def test_spans_of_one_clip_are_rows_with_ids_of_their_own(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4")
    (root / "labels.csv").write_text("id,file,start,end,label\nx,a.mp4,0,1,good\ny,a.mp4,1,2.5,bad\n", "utf-8")
    found = kept(clips.samples(root))
    assert {id: (s.raw[Modality.FACE].start, s.raw[Modality.FACE].end) for id, s in found.items()} == {
        "x": (0.0, 1.0),
        "y": (1.0, 2.5),
    }


def test_a_folder_of_clips_that_cannot_be_meant_is_an_error_with_a_way_out(tmp_path):
    root = touch(tmp_path / "talks", "a.mp4")
    with pytest.raises(SourceError, match="--dataset clips --root"):
        list(table.samples(root))
    (root / "l.csv").write_text("name,label\na,good\n", "utf-8")
    with pytest.raises(SourceError, match="names no clip"):
        list(clips.samples(root))
    for column in ("id", "file", "clip", "video"):
        assert kept(clips.samples(root, clips.Config(columns=(f"{column}:name",))))["a"].label == "good"
    with pytest.raises(UnknownNameError, match="file"):
        table.Config(columns=("file:name",))  # of a folder of clips alone
    (root / "m.csv").write_text("file,label\na.mp4,bad\n", "utf-8")
    with pytest.raises(SourceError, match=r"several tables: l.csv, m.csv"):
        list(clips.samples(root))
    assert kept(clips.samples(root, clips.Config(table="m.csv")))["a"].label == "bad"
