"""Arrays that zarr-python may have written in other ways: chunks that are missing, and where samples lie."""

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from msa.cache.format.zarr_array import Data
from msa.errors import StoreError

VALUES = np.arange(32, dtype=np.float16).reshape(16, 2)


def written(path, index_codecs, location="end"):
    """An array of two shards of four chunks of two rows; the third chunk of the first was never written."""
    sharding = ShardingCodec(
        chunk_shape=(2, 2), codecs=[BytesCodec()], index_codecs=index_codecs, index_location=location
    )
    array = zarr.create(
        store=str(path),
        shape=(16, 2),
        chunks=(8, 2),
        dtype="float16",
        codecs=[sharding],
        attributes={"dtype": "float16"},
        config={"write_empty_chunks": True},
    )
    array[0:4] = VALUES[0:4]
    array[6:16] = VALUES[6:16]
    return path


def rows(data, start, length):
    """Rows of an array that is no shard of ours, so that zarr-python reads it."""
    file, chunk, row = (int(x[0]) for x in data.split(np.array([start])))
    archive = data.file(file)
    archive.look(chunk, row, length)
    return np.frombuffer(archive.read(chunk, row, length), data.stored).reshape(-1, data.width)


LITTLE, BIG, CHECKED = BytesCodec(endian="little"), BytesCodec(endian="big"), Crc32cCodec()


@pytest.mark.parametrize(
    ("index_codecs", "location"),
    [
        ([LITTLE], "start"),
        ([LITTLE, CHECKED], "start"),
        ([BIG], "start"),
        ([BIG, CHECKED], "start"),
        ([BIG], "end"),
        ([BIG, CHECKED], "end"),
    ],
)
def test_a_missing_chunk_is_an_error_wherever_and_however_the_index_lies(tmp_path, index_codecs, location):
    data = Data(written(tmp_path / "data", index_codecs, location))
    assert data.grid is None
    np.testing.assert_array_equal(rows(data, 0, 4), VALUES[0:4])
    np.testing.assert_array_equal(rows(data, 6, 2), VALUES[6:8])
    np.testing.assert_array_equal(rows(data, 9, 7), VALUES[9:16])
    for start, length in ((4, 1), (5, 1), (3, 2), (5, 2)):
        with pytest.raises(StoreError, match=f"rows {start} to {start + length - 1} of the array were never written"):
            rows(data, start, length)


@pytest.mark.parametrize("index_codecs", [[LITTLE], [LITTLE, CHECKED]])
def test_a_missing_chunk_of_a_shard_is_an_error(tmp_path, index_codecs):
    shard = Data(written(tmp_path / "data", index_codecs)).file(0)
    assert shard.untouched(np.array([0, 3, 1])).tolist() == [0, 1, 3]
    with pytest.raises(StoreError, match="chunk 2 was never written"):
        shard.untouched(np.array([1, 2]))


def test_samples_lie_inside_the_data_and_each_in_one_shard(tmp_path):
    data = Data(written(tmp_path / "data", [LITTLE, CHECKED]))
    assert data.grid is not None
    held = [(0, 8), (8, 8), (15, 1), (7, 1)]
    outside = [(0, 9), (7, 2), (15, 2), (16, 1), (-1, 1), (0, 0), (3, -1)]
    assert data.holds(*np.array(held).T)
    assert [data.holds(np.array([start]), np.array([length])) for start, length in outside] == [False] * 7


def test_an_array_that_zarr_reads_has_samples_across_its_shards(tmp_path):
    data = Data(written(tmp_path / "data", [BIG, CHECKED]))
    assert data.grid is None
    assert data.holds(np.array([6]), np.array([5]))
    assert not data.holds(np.array([6]), np.array([11]))
    np.testing.assert_array_equal(rows(data, 6, 5), VALUES[6:11])
