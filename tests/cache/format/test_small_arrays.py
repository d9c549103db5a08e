"""Small arrays, read without zarr-python: the same values, or an error that names the file."""

import errno
import json
import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from msa.cache.format import layout, small_arrays
from msa.errors import StoreError

SMALL = npst.arrays(
    st.sampled_from(["int8", "int32", "int64", "uint8", "uint16", "float16", "float32", "float64"]),
    npst.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=9).map(lambda shape: (shape[0] - 1, *shape[1:])),
)


@settings(max_examples=60, deadline=None)
@given(SMALL, st.integers(1, 10), st.data())
def test_arrays_are_what_zarr_reads_whole_and_in_part(tmp_path_factory, values, chunk, data):
    path = tmp_path_factory.mktemp("arrays") / "one"
    small_arrays.write(path, values, layout.array_metadata(values, {"why": "test"}, chunk))
    theirs = zarr.open_array(path, mode="r")
    assert theirs[...].tobytes() == values.tobytes() == small_arrays.whole(path).tobytes()
    assert theirs.metadata.to_dict()["codecs"][-1] == {"name": "crc32c"}
    lazy = small_arrays.Lazy(path)
    assert (lazy.shape, lazy.dtype, len(lazy)) == (values.shape, values.dtype, len(values))
    assert lazy.attributes == {"why": "test"}
    cut = slice(
        *(data.draw(st.none() | st.integers(-12, 12)) for _ in range(2)), data.draw(st.sampled_from([None, 1, 2, -1]))
    )
    assert lazy[cut].tobytes() == values[cut].tobytes()
    if len(values):
        rows = np.array(data.draw(st.lists(st.integers(0, len(values) - 1))), np.int64)
        assert lazy[rows].tobytes() == values[rows].tobytes()
        for wrong in (-1, len(values)):
            with pytest.raises(IndexError, match=str(len(values))):
                lazy[np.array([0, wrong])]


@pytest.fixture
def path(tmp_path):
    values = np.arange(40, dtype=np.int64)
    small_arrays.write(tmp_path / "a", values, layout.array_metadata(values, {}, 16))
    return tmp_path / "a"


def test_each_chunk_is_checked_and_only_those_that_are_touched(path):
    for number in range(3):
        file = path / "c" / str(number)
        whole = file.read_bytes()
        for byte in (0, len(whole) - 1):
            file.write_bytes(whole[:byte] + bytes([whole[byte] ^ 4]) + whole[byte + 1 :])
            other = (number + 1) % 3 * 16
            lazy = small_arrays.Lazy(path)
            assert lazy[np.array([other])].tolist() == [other]
            with pytest.raises(StoreError, match=f"{file}: .*checksum"):
                small_arrays.whole(path)
            for _ in range(2):  # it does not pass the second time
                with pytest.raises(StoreError, match=f"{file}: .*checksum"):
                    lazy[np.array([number * 16])]
        file.write_bytes(whole)


@pytest.mark.parametrize("change", ["shape", "chunk", "missing", "short", "no object", "no metadata"])
def test_what_metadata_claims_is_compared_with_the_files_before_memory_is_taken(path, change):
    meta = json.loads((path / "zarr.json").read_text())
    if change == "shape":
        meta["shape"] = [2**40]
    elif change == "chunk":
        meta["chunk_grid"]["configuration"]["chunk_shape"] = [2**20]
    elif change == "missing":
        (path / "c" / "2").unlink()
    elif change == "short":
        (path / "c" / "2").write_bytes((path / "c" / "2").read_bytes()[:-8])
    (path / "zarr.json").write_text("[]" if change == "no object" else json.dumps(meta))
    if change == "no metadata":
        (path / "zarr.json").unlink()
    with pytest.raises(StoreError, match=str(path)):
        small_arrays.whole(path)


@pytest.mark.parametrize(
    "how", [{"compressors": zarr.codecs.ZstdCodec()}, {"chunk_key_encoding": {"name": "default", "separator": "."}}]
)
def test_other_arrays_are_left_to_zarr(tmp_path, how):
    values = np.arange(60, dtype=np.int32).reshape(20, 3)
    theirs = zarr.create_array(tmp_path / "a", shape=(20, 3), chunks=(8, 3), dtype="int32", **how)
    theirs[...] = values + 1
    assert small_arrays.whole(tmp_path / "a").tolist() == (values + 1).tolist()
    assert small_arrays.Lazy(tmp_path / "a")[np.array([19, 0, 19])].tolist() == (values[[19, 0, 19]] + 1).tolist()
    file = next(file for file in (tmp_path / "a").rglob("*") if file.is_file() and file.name != "zarr.json")
    file.write_bytes(b"?")
    with pytest.raises(StoreError, match=f"{tmp_path / 'a'}: zarr-python cannot read it"):
        small_arrays.whole(tmp_path / "a")
    file.unlink()
    with pytest.raises(StoreError, match="1 of 3 chunks are missing"):
        small_arrays.whole(tmp_path / "a")


def test_a_file_that_cannot_be_mapped_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "0").touch()
    os.truncate(tmp_path / "0", 2**40)  # holes: more than a process whose memory is limited can map

    def refused(*args, **options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refused)
    with pytest.raises(StoreError, match="cannot be mapped into memory: 1,099,511,627,776 bytes, Cannot"):
        small_arrays.Mapped(tmp_path / "0").open()
