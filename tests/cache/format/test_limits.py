import os
import tracemalloc

import google_crc32c
import numpy as np
import pytest
import zarr

from msa.cache.format import layout, limits
from msa.cache.format.zarr_array import SPAN, Data
from msa.cache.store import FeatureStore
from msa.errors import StoreError
from tests.cache.conftest import WIDTH, fill

DATA = layout.data_metadata(100, WIDTH, "float16", 16, 64)
SHARDED = DATA["codecs"][0]


def regular(shape):
    return {"name": "regular", "configuration": {"chunk_shape": shape}}


def test_our_own_arrays_pass(store, index):
    fill(store, index)
    arrays = [path for path in store.path.rglob("zarr.json") if limits.read_json(path)["node_type"] == "array"]
    assert len(arrays) > 10
    for path in arrays:
        limits.check_array(path, limits.read_json(path))
    limits.check_data("data", DATA)


def inner(**change):
    """Codecs of a sharded array, changed inside."""
    return {"codecs": [SHARDED | {"configuration": SHARDED["configuration"] | change}]}


ONE, BYTES = {"name": "zstd"}, {"name": "bytes"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [2**60, WIDTH]}, "an element of shape"),
        ({"shape": [2**47, WIDTH]}, "more than a petabyte"),
        ({"shape": [-1, WIDTH]}, "an element of shape is -1"),
        ({"shape": [1.5, WIDTH]}, r"an element of shape is 1\.5"),
        ({"shape": ["100", WIDTH]}, "an element of shape is '100'"),
        ({"shape": [100]}, r"has shape \[100\] and chunks"),
        ({"shape": [100], "chunk_grid": regular([64]), "codecs": [BYTES]}, r"expected \[rows, width\]"),
        ({"shape": [100, 0]}, r"expected \[rows, width\]"),
        ({"shape": [100, WIDTH, 1]}, "has shape list of 3"),
        ({"shape": []}, "has shape list of 0"),
        ({"data_type": "object"}, "has data_type 'object'"),
        ({"data_type": {"name": "variable_length_utf8"}}, "has data_type dict of 1"),
        ({"data_type": "float64"}, "says dtype 'float16' and data_type 'float64'"),
        ({"attributes": {"dtype": "bfloat16"}}, "says dtype 'bfloat16' and data_type 'float16'"),
        ({"attributes": {}}, "says dtype None"),
        ({"attributes": 3}, "attributes is 3"),
        ({"chunk_grid": regular([0, WIDTH])}, "an element of chunk_shape is 0"),
        ({"chunk_grid": regular([64, 1])}, "has shards"),
        ({"chunk_grid": regular([64, 1]), "codecs": [BYTES]}, "do not span all columns"),
        ({"chunk_grid": regular([16 * 2**30, WIDTH])}, "more than 4194304 chunks in a shard"),
        ({"chunk_grid": DATA["chunk_grid"] | {"name": "rectilinear"}}, "chunk grid 'rectil"),
        ({"chunk_grid": {"configuration": {"chunk_shape": [64, WIDTH]}}}, "has chunk grid None"),
        ({"chunk_grid": None}, "chunk_grid is None"),
        ({"chunk_key_encoding": {"name": "v2"}}, "has chunk_key_encoding"),
        ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../"}}}, "chunk_key_encoding"),
        ({"codecs": []}, "has codecs list of 0"),
        ({"codecs": [BYTES] * 5}, "has codecs list of 5"),
        ({"codecs": [{"name": 3}]}, "a codec called 3"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "uses codec 'numcodecs.pickle'"),
        ({"codecs": [BYTES, {"name": "numcodecs.json2"}]}, "uses codec 'numcodecs.json2'"),
        ({"codecs": [BYTES, ONE, ONE]}, "the chain of codecs bytes, zstd, zstd"),
        ({"codecs": [ONE]}, "the chain of codecs zstd"),
        (inner(codecs=[SHARDED]), "uses codec 'sharding_indexed'"),
        (inner(chunk_shape=[48, WIDTH]), "has shards"),
        (inner(index_location="middle"), "its shard index at 'middle'"),
        (inner(index_codecs=[BYTES, ONE]), "a shard index with codecs other than"),
        ({"codecs": [BYTES], "chunk_grid": regular([2**40, WIDTH])}, "bytes, at most"),
        ({"fill_value": [1]}, "a fill value or storage transformers"),
        ({"storage_transformers": [{"name": "x"}]}, "a fill value or storage transformers"),
        ({"node_type": "group"}, "not the metadata of a Zarr v3 array"),
        ({"zarr_format": 2}, "not the metadata of a Zarr v3 array"),
    ],
)
def test_arrays_that_are_none_of_ours_are_refused_for_what_is_wrong(change, said):
    with pytest.raises(StoreError, match=said):
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
