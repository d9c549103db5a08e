"""MVSA on small trees in the official layout, and on the files at hand."""

from collections import Counter

import pytest

from msa.errors import SourceError
from msa.extract.datasets import mvsa, mvsa_single
from msa.types import Dropped, Modality, Raw
from tests.extract.datasets.folders import kept, pairs, reasons


def three(*cells: str) -> str:
    return "\t".join(cells)


def test_mvsa_takes_the_majority_of_three_annotators_and_drops_a_three_way_split(tmp_path):
    rows = [
        "2\t" + three("positive,neutral", "positive,neutral", "negative,positive"),
        "3\t" + three("positive,neutral", "negative,neutral", "neutral,neutral"),
        "4\t" + three("neutral,positive", "neutral,negative", "neutral,neutral"),
    ]
    found = list(mvsa.samples(pairs(tmp_path, rows, 3)))
    assert kept(found)["2"].modality_labels == {Modality.TEXT: "positive", Modality.IMAGE: "neutral"}
    assert list(kept(found)) == ["2"]
    assert reasons(found) == {"annotators split three ways": 2}


@pytest.mark.parametrize(
    ("text", "image", "merged"),
    [
        ("positive", "positive", "positive"),
        ("neutral", "neutral", "neutral"),
        ("negative", "negative", "negative"),
        ("positive", "neutral", "positive"),
        ("neutral", "negative", "negative"),
        ("positive", "negative", None),
        ("negative", "positive", None),
    ],
)
def test_mvsa_merges_two_labels_as_the_rule_says_and_strict_keeps_only_equal_ones(text, image, merged, tmp_path):
    root = pairs(tmp_path, [f"7\t{text},{image}"], 1)
    labels = [sample.label for sample in kept(mvsa_single.samples(root)).values()]
    strict = [sample.label for sample in kept(mvsa_single.samples(root, mvsa_single.Config(rule="strict"))).values()]
    assert labels == ([merged] if merged else [])
    assert strict == ([text] if text == image else [])


def test_mvsa_names_why_a_pair_is_dropped_by_either_rule(tmp_path):
    root = pairs(tmp_path, ["1\tpositive,negative", "2\tpositive,neutral"], 1)
    assert reasons(mvsa_single.samples(root)) == {"text and image conflict": 1}
    strict = list(mvsa_single.samples(root, mvsa_single.Config(rule="strict")))
    assert reasons(strict) == {"text and image conflict": 1, "text and image differ": 1}
    assert not kept(strict)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("nested", ["", "MVSA"])
def test_mvsa_reads_the_nested_archive_and_both_line_ends(end, nested, tmp_path):
    row = "2499\t" + three(*["neutral,positive"] * 3)
    pairs(tmp_path / nested, [row], 3, end)
    sample = kept(mvsa.samples(tmp_path))["2499"]
    assert sample.label == "positive"
    assert sample.raw[Modality.TEXT] == Raw(path=tmp_path / nested / "data" / "2499.txt")


def test_mvsa_reads_a_label_file_with_a_byte_order_mark_and_a_last_line_without_end(tmp_path):
    path = pairs(tmp_path, ["5\tneutral,neutral", "12\tpositive,positive"], 1) / "labelResultAll.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip())
    assert list(kept(mvsa_single.samples(tmp_path))) == ["5", "12"]


@pytest.mark.parametrize("cell", ["postive,neutral", "positive", "", "positive,neutral,neutral", "positive,neutral\tx"])
def test_mvsa_drops_a_row_with_an_unknown_label_and_keeps_the_others(cell, tmp_path):
    found = list(mvsa_single.samples(pairs(tmp_path, [f"1\t{cell}", "2\tneutral,neutral"], 1)))
    assert reasons(found) == {"unknown label": 1}
    assert list(kept(found)) == ["2"]


@pytest.mark.parametrize("suffix", ["txt", "jpg"])
def test_mvsa_drops_an_id_without_its_text_or_image(suffix, tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral", "2\tneutral,neutral"], 1)
    (root / f"data/1.{suffix}").unlink()
    assert Dropped("1", "image or text file missing", f"1.{suffix}") in list(mvsa_single.samples(root))


def test_mvsa_leaves_empty_photos_to_extraction(tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral"], 1)
    (root / "data/1.jpg").write_bytes(b"")
    assert list(kept(mvsa_single.samples(root))) == ["1"]


@pytest.mark.parametrize("header", ["", "ID\n", "ID\ttext\timage\n", "20\tneutral,positive\n"])
def test_mvsa_refuses_a_label_file_without_its_header(header, tmp_path):
    root = pairs(tmp_path, ["1\tneutral,neutral"], 1)
    (root / "labelResultAll.txt").write_text(header + "1\tneutral,neutral\n", "utf-8")
    with pytest.raises(SourceError, match="labelResultAll"):
        list(mvsa_single.samples(root))


def test_mvsa_names_both_lines_of_an_id_that_stands_twice(tmp_path):
    root = pairs(tmp_path, ["8\tneutral,neutral", "9\tneutral,neutral", "8\tpositive,positive"], 1)
    with pytest.raises(SourceError, match="id 8 stands in line 2 and in line 4"):
        list(mvsa_single.samples(root))


def test_mvsa_tells_single_from_multiple_and_says_which_name_to_use(tmp_path):
    single = pairs(tmp_path / "single", ["1\tneutral,neutral"], 1)
    multiple = pairs(tmp_path / "multiple", ["1\t" + three(*["neutral,neutral"] * 3)], 3)
    with pytest.raises(SourceError, match="--dataset mvsa-single"):
        list(mvsa.samples(single))
    with pytest.raises(SourceError, match=r"--dataset mvsa$"):
        list(mvsa_single.samples(multiple))


def test_mvsa_finds_its_variant_where_both_are_unpacked_in_one_folder(tmp_path):
    pairs(tmp_path / "MVSA_Single", ["1\tneutral,neutral"], 1)
    pairs(tmp_path / "MVSA", ["2\t" + three(*["neutral,neutral"] * 3)], 3)
    assert list(kept(mvsa.samples(tmp_path))) == ["2"]
    assert list(kept(mvsa_single.samples(tmp_path))) == ["1"]


def test_mvsa_does_not_choose_between_two_copies(tmp_path):
    for copy in ("MVSA", "MVSA (1)"):
        pairs(tmp_path / copy, ["2\t" + three(*["neutral,neutral"] * 3)], 3)
    with pytest.raises(SourceError, match="twice"):
        list(mvsa.samples(tmp_path))


def test_mvsa_without_its_data_folder_is_an_error_that_shows_the_layout(tmp_path):
    (tmp_path / "labelResultAll.txt").write_text("ID\ttext,image\n1\tneutral,neutral\n", "utf-8")
    with pytest.raises(SourceError, match=r"data/ID\.jpg"):
        list(mvsa_single.samples(tmp_path))


@pytest.mark.real
def test_mvsa_single_at_hand_has_the_stated_counts_by_a_second_reading(shared):
    root = shared / "data/mvsa_single"
    found = list(mvsa_single.samples(root))
    assert Counter(sample.label for sample in kept(found).values()) == {"positive": 330, "neutral": 58, "negative": 166}
    assert reasons(found) == {"text and image conflict": 46}
    rows = [line.split("\t") for line in (root / "labelResultAll.txt").read_text().split("\n")[1:] if line]
    opposed = [id for id, cell in rows if {"positive", "negative"} == set(cell.split(","))]
    assert sorted(opposed) == sorted(item.id for item in found if isinstance(item, Dropped))
    equal = sum(cell.split(",")[0] == cell.split(",")[1] for _, cell in rows)
    assert len(kept(mvsa_single.samples(root, mvsa_single.Config(rule="strict")))) == equal
