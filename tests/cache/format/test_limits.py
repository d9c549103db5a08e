import json
import os
import time
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import zarr

from msa.cache.format import generations, layout, limits
from msa.cache.format.manifest import Manifest
from msa.cache.format.zarr_array import SPAN, Data
from msa.cache.store import FeatureStore
from msa.errors import StoreError
from tests.cache.conftest import WIDTH, fill

DATA = layout.data_metadata(100, WIDTH, "float16", 16, 64)
SHARDED = DATA["codecs"][0]
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


def regular(shape):
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


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


def test_our_own_arrays_pass(store, index):
    fill(store, index)
    arrays = [path for path in store.path.rglob("zarr.json") if limits.read_json(path)["node_type"] == "array"]
    assert len(arrays) > 10
    for path in arrays:
        limits.check_array(path, limits.read_json(path))
    limits.check_data("data", DATA)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**60, WIDTH]},
        {"shape": [2**47, WIDTH]},
        {"shape": [-1, WIDTH]},
        {"shape": [1.5, WIDTH]},
        {"shape": ["100", WIDTH]},
        {"shape": [100]},
        {"shape": [100, WIDTH, 1]},
        {"shape": []},
        {"data_type": "object"},
        {"data_type": {"name": "variable_length_utf8"}},
        {"data_type": "float64"},
        {"attributes": {"dtype": "bfloat16"}},
        {"attributes": {}},
        {"chunk_grid": regular([0, WIDTH])},
        {"chunk_grid": regular([64, 1])},
        {"chunk_grid": regular([16 * 2**30, WIDTH])},
        {"chunk_grid": None},
        {"codecs": []},
        {"codecs": [{"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "bytes"}, {"name": "numcodecs.json2"}]},
        {"codecs": [SHARDED | {"configuration": SHARDED["configuration"] | {"codecs": [SHARDED]}}]},
        {"codecs": [{"name": "bytes"}], "chunk_grid": regular([2**40, WIDTH])},
        {"fill_value": [1]},
        {"storage_transformers": [{"name": "x"}]},
        {"node_type": "group"},
        {"zarr_format": 2},
    ],
)
def test_arrays_that_are_none_of_ours_are_refused(change):
    with pytest.raises(StoreError):
        limits.check_data("data", DATA | change)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"]
)
def test_json_that_is_none_is_refused(text):
    with pytest.raises(StoreError, match="x"):
        limits.parse("x", text)


@pytest.mark.parametrize("codec", [zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec(), zarr.codecs.BloscCodec()])
@pytest.mark.parametrize("shards", [None, (128, WIDTH)])
def test_a_chunk_that_would_fill_the_memory_is_not_unpacked(tmp_path, codec, shards):
    values = np.random.default_rng(0).normal(size=(100, WIDTH)).astype(np.float16)
    array = zarr.create_array(
        tmp_path / "data", shape=values.shape, dtype="float16", chunks=(64, WIDTH), shards=shards, compressors=codec,
        attributes={"dtype": "float16"},
    )  # fmt: skip
    array[...] = values
    start, length = np.array([0, 70]), np.array([30, 20])
    assert read(tmp_path / "data", start, length) == [values[:30].tobytes(), values[70:90].tobytes()]
    bomb = zarr.create_array(
        tmp_path / "bomb", shape=(2**23, WIDTH), dtype="float16", chunks=(2**23, WIDTH), compressors=codec,
        config={"write_empty_chunks": True},
    )  # fmt: skip
    bomb[...] = 0
    packed, file = (tmp_path / "bomb" / "c/0/0").read_bytes(), tmp_path / "data" / "c/0/0"
    if shards:
        index = np.array([[0, len(packed)], [0, len(packed)]], "<u8").tobytes()
        packed += index + int(google_crc32c.value(index)).to_bytes(4, "little")
    file.write_bytes(packed)
    tracemalloc.start()
    with pytest.raises(StoreError, match=r"unpack"):
        read(tmp_path / "data", start, length)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22, "the bomb has 128 MiB"


def read(path, start, length):
    data = Data(path)
    places = [(int(a // SPAN), int(a % SPAN), int(n)) for a, n in zip(start, length, strict=True)]
    file = data.file(0)
    found = []
    for place in places:
        file.look(*place)
        found.append(bytes(file.read(*place)))
    return found


def test_json_that_is_too_large_is_not_even_read(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(limits.MAX_JSON + 1)
    with pytest.raises(StoreError, match="bytes"):
        limits.read_json(tmp_path / "x.json")


def test_only_regular_files_are_opened_and_none_outside(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("pipe", "link", ".", "/dev/zero"):
        with pytest.raises(StoreError):
            limits.open_regular(tmp_path / name)
    outside, store = tmp_path / "outside" / "manifests", tmp_path / "store"
    outside.mkdir(parents=True)
    store.mkdir()
    (outside / "00000001.json").write_text("{}")
    (store / "manifests").symlink_to(outside)
    with pytest.raises(StoreError, match="leads out"):
        limits.read_json(store / "manifests" / "00000001.json")


def test_a_store_that_is_reached_through_a_link_is_one(tmp_path, store, index):
    fill(store, index)
    (tmp_path / "elsewhere").symlink_to(store.path)
    assert len(FeatureStore.open(tmp_path / "elsewhere").index("tiny")) == 20


def test_what_a_stranger_says_is_shown_without_what_a_terminal_obeys(published):
    published["datasets"]["\x1b[2J"] = {}
    with pytest.raises(StoreError) as caught:
        Manifest.from_json("m", published)
    assert "\x1b" not in str(caught.value)
