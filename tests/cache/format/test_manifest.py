"""Manifests: what decodes, what is refused, and what is written back."""

import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from msa.cache.format import generations
from msa.cache.format.manifest import DatasetEntry, FileEntry, Manifest, SegmentEntry, ViewEntry, in_order
from msa.errors import StoreError
from tests.cache.conftest import fill

FIXTURES = Path(__file__).parents[2] / "fixtures" / "store-1"
NAMES = [
    "../x",
    "/etc/passwd",
    "data/../../x",
    "a\\b",
    "a\0b",
    "data/c/0/0/",
    "./zarr.json",
    "data//c/0",
    "Data/zarr.json",
]


@pytest.fixture
def published(store, index):
    fill(store, index)
    return store.manifest.to_json()  # without the checksum: what is planted below is to be found for itself


def segment_of(known):
    return known["views"]["v" * 16]["segments"][0]


@pytest.mark.parametrize("name", [*NAMES, "x.py", "c"])
def test_names_that_are_none_of_ours_are_refused(published, name):
    segment_of(published)["files"][name] = [1, "0" * 64]
    with pytest.raises(StoreError, match="names a file"):
        Manifest.from_json("m", published)


@pytest.mark.parametrize(
    "facts", [[-1, "0" * 64], [2**50, "0" * 64], [1.0, "0" * 64], [True, "0" * 64], [1, "0" * 63], [1], 1, None]
)
def test_sizes_and_hashes_that_are_none_are_refused(published, facts):
    segment_of(published)["files"]["zarr.json"] = facts
    with pytest.raises(StoreError, match=r"zarr\.json"):
        Manifest.from_json("m", published)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("id", value) for value in ("../20260101-000000-00000000", 5)),
        *(("dataset", value) for value in ("f" * 16, [])),
        *(("samples", value) for value in (-1, 2**31, True, None)),
        *(("data_of", "20260101-000000-00000000"), ("data_files", {}), ("files", [])),
    ],
)
def test_entries_that_refer_to_nothing_are_refused(published, key, value):
    segment_of(published)[key] = value
    with pytest.raises(StoreError):
        Manifest.from_json("m", published)


def test_what_a_newer_version_adds_is_let_be(published):
    published["colour"] = segment_of(published)["colour"] = "blue"
    Manifest.from_json("m", published)


def test_a_manifest_says_which_generation_it_is_and_holds_its_own_checksum(store, index):
    fill(store, index)
    known = json.loads(store.manifest.encode())
    assert Manifest.from_json(store.path / "manifests" / "00000002.json", known) == store.manifest
    with pytest.raises(StoreError, match="generation 2"):
        Manifest.from_json(store.path / "manifests" / "00000003.json", known)
    with pytest.raises(StoreError, match="checksum"):
        Manifest.from_json("m", known | {"creator": "another user"})
    assert generations.read(store.path) == store.manifest


def test_ten_thousand_files_are_checked_in_milliseconds(published):
    entry = segment_of(published)
    files = {f"data/c/{n}/0": [100, "a" * 64] for n in range(100)}
    many = [entry | {"id": f"20260101-000000-{n:08x}", "files": files} for n in range(100)]
    published["views"]["v" * 16]["segments"] = many
    started = time.process_time()
    Manifest.from_json("m", published)
    assert time.process_time() - started < 0.2  # 7 ms where nothing else runs


def test_what_a_stranger_says_is_shown_without_what_a_terminal_obeys(published):
    published["datasets"]["\x1b[2J"] = {}
    with pytest.raises(StoreError) as caught:
        Manifest.from_json("m", published)
    assert "\x1b" not in str(caught.value)


# what is written back


@pytest.mark.parametrize(("name", "sealed"), [("store", True), ("first", False)])  # the first ones had no checksum
def test_the_manifests_of_the_fixture_stores_are_written_back_byte_for_byte(tmp_path, name, sealed):
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    paths = sorted((tmp_path / "store" / "manifests").glob("0*.json"))
    assert len(paths) == 3
    assert any("data_of" in path.read_text() for path in paths)
    for path in paths:
        decoded = Manifest.decode(path, path.read_bytes())
        written = decoded.encode() if sealed else json.dumps(decoded.to_json(), indent=1).encode()
        assert written == path.read_bytes()


def test_what_a_newer_version_adds_is_written_again(published):
    segment = segment_of(published)
    places = published, published["datasets"][segment["dataset"]], published["views"]["v" * 16], segment
    for number, place in enumerate(places):
        place["colour"] = number
    decoded = Manifest.from_json("m", published)
    assert decoded.to_json() == published
    changed = decoded.with_segments("v" * 16, [replace(decoded.segments_of("v" * 16)[0], failed=0)], published=9)
    segment["failed"], published["views"]["v" * 16]["published"] = 0, 9
    assert changed.to_json() == published


def test_a_manifest_without_what_may_be_missing_is_read():
    decoded = Manifest.from_json("m", {"msa_format": 1, "generation": 3, "datasets": {}, "views": {}})
    assert decoded == Manifest(generation=3)
    assert set(decoded.to_json()) == {"msa_format", "generation", "datasets", "views"}


@pytest.mark.parametrize("format", [2, 10**9])
def test_a_newer_format_is_refused_before_anything_else_is_looked_at(format):
    with pytest.raises(StoreError, match=f"store format {format}, this version of msa reads up to 1"):
        Manifest.decode("m", json.dumps({"msa_format": format, "views": "of another kind"}).encode())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generation": -1}, "generation is -1"),
        ({"generation": 10**8}, "generation is 100000000"),
        ({"creator": "x\x1b"}, "creator is"),
        ({"created": 5}, "created is 5"),
        ({"datasets": []}, "datasets is list of 0"),
        ({"datasets": {"UPPER": {}}}, "a dataset is called 'UPPER'"),
        ({"datasets": {"d": 1}}, "dataset d is 1"),
        ({"datasets": {"d": {"name": "n", "samples": 2**31, "files": {}}}}, "samples of dataset d is 2147483648"),
        ({"datasets": {"d": {"name": "n", "samples": 0, "files": {}, "published": -1}}}, "published of dataset d"),
        ({"datasets": {"d": {"name": "n", "samples": 9, "files": {"split/c/0": [8, "0" * 64]}}}}, "hold at most 8"),
        ({"views": None}, "views is None"),
        ({"views": {"../x": {}}}, "a view is called"),
        ({"views": {"v": {"files": {}, "segments": {}}}}, "view v has segments dict of 0, expected a list"),
        ({"views": {"v": {"files": {}, "segments": [], "published": 10**8}}}, "published of view v"),
    ],
)
def test_what_no_manifest_says_is_refused_for_what_is_wrong(change, said):
    Manifest.from_json("m", {"msa_format": 1, "generation": 1, "datasets": {}, "views": {}})
    with pytest.raises(StoreError, match=said):
        Manifest.from_json("m", {"msa_format": 1, "generation": 1, "datasets": {}, "views": {}} | change)


def test_a_segment_stands_once_in_a_view(published):
    published["views"]["v" * 16]["segments"] *= 2
    with pytest.raises(StoreError, match="twice"):
        Manifest.from_json("m", published)


def test_a_segment_may_borrow_data_and_nothing_else(published):
    segment_of(published).update(data_of="20260101-000000-00000000", data_files={"sample/c/0": [1, "0" * 64]})
    with pytest.raises(StoreError, match="borrows 'sample/c/0', which is no data"):
        Manifest.from_json("m", published)


# what values say


OWN = SegmentEntry(
    "20260101-000000-00000001",
    "d",
    samples=2,
    failed=1,
    files={"zarr.json": FileEntry(1, "a"), "data/zarr.json": FileEntry(2, "b"), "data/c/0/0": FileEntry(3, "c")},
)
BORROWED = SegmentEntry(
    "20260101-000000-00000002", "e", 1, 0, {"zarr.json": FileEntry(4, "d")}, data_of=OWN.id, data_files=OWN.data
)


def test_a_segment_says_where_its_data_lies_own_or_borrowed():
    assert (OWN.data_id, BORROWED.data_id) == (OWN.id, OWN.id)
    assert OWN.data == BORROWED.data == {name: OWN.files[name] for name in ("data/zarr.json", "data/c/0/0")}
    assert OWN.shards == BORROWED.shards == {"data/c/0/0": (3, "c")}
    assert (list(OWN.tables), list(BORROWED.tables)) == (["zarr.json"], ["zarr.json"])
    assert OWN.by_segment == [(OWN.id, OWN.files)]
    assert BORROWED.by_segment == [(BORROWED.id, BORROWED.files), (OWN.id, BORROWED.data_files)]


def test_a_generation_needs_its_files_and_the_data_that_it_borrows():
    index, view = DatasetEntry("n", 2, {"zarr.json": FileEntry(5, "e")}), ViewEntry({"zarr.json": FileEntry(6, "f")})
    manifest = Manifest().with_dataset("e", index).with_view("v", replace(view, segments=(BORROWED,)))
    assert manifest.needed == {
        "index/e": {"zarr.json": (5, "e")},
        "views/v": {"zarr.json": (6, "f")},
        f"views/v/seg/{BORROWED.id}": {"zarr.json": (4, "d")},
        f"views/v/seg/{OWN.id}": {"data/zarr.json": (2, "b"), "data/c/0/0": (3, "c")},
    }


def test_changes_leave_the_value_they_begin_with_as_it_was():
    manifest = Manifest().with_view("v", ViewEntry({}, (OWN, BORROWED))).with_view("w", ViewEntry({}))
    assert list(manifest.segments) == [("v", OWN), ("v", BORROWED)]
    assert (manifest.segments_of("w"), manifest.segments_of("none")) == ((), ())
    assert manifest.views["v"].of("e") == [BORROWED]
    less = manifest.without_segments([OWN.id])
    assert (less.segments_of("v"), list(less.views)) == ((BORROWED,), ["v", "w"])
    assert manifest.segments_of("v") == (OWN, BORROWED)


def test_the_entry_that_was_published_last_comes_last():
    views = {name: ViewEntry({}, published=number) for name, number in (("b", 2), ("a", 3), ("c", 0))}
    assert [name for name, _ in in_order(views)] == ["c", "b", "a"]
