"""Shards as they are filled and mapped: which bytes belong to a chunk, and which chunks are damaged."""

import google_crc32c
import numpy as np
import pytest
import zarr

from msa.cache.format import shard
from msa.cache.format.shard import Buffer, Grid, Shard
from msa.cache.format.small_arrays import CRC
from msa.errors import StoreError

GRID = Grid(4, 8, 6)  # 8 chunks of 4 rows of 6 bytes, each with a checksum
WANT = 4 * 6 + CRC


def filled(rows, pieces=(1,)):
    """Return the bytes of a shard that is filled in pieces of these sizes in turn, and its rows (R, 3)."""
    values = np.arange(rows * 3, dtype=np.int16).reshape(rows, 3)
    buffer, at, turn = Buffer(GRID, values.dtype), 0, 0
    while at < rows:
        n = min(pieces[turn % len(pieces)], rows - at)
        buffer.add(values[at : at + n])
        at, turn = at + n, turn + 1
    assert buffer.used == rows
    return b"".join(map(bytes, buffer.finish())), values


@pytest.fixture
def mapped(tmp_path):
    """Write bytes as a shard and map it."""

    def write(data):
        (tmp_path / "0").write_bytes(data)
        return Shard(tmp_path / "0", GRID)

    return write


@pytest.mark.parametrize("pieces", [(1,), (3, 5), (32,), (4,)])
@pytest.mark.parametrize("rows", [1, 4, 5, 31, 32])
def test_a_shard_holds_its_rows_chunk_by_chunk_and_zeros_behind_them(mapped, monkeypatch, rows, pieces):
    monkeypatch.setattr(shard, "SMALL_BUFFER", WANT)  # it grows by doubling
    data, values = filled(rows, pieces)
    chunks = -(-rows // 4)
    assert len(data) == chunks * WANT + 8 * 16 + CRC
    opened = mapped(data)
    opened.check(opened.untouched(np.arange(chunks)))
    bodies = [data[n * WANT : n * WANT + 24] for n in range(chunks)]
    padded = np.zeros((chunks * 4, 3), np.int16)
    padded[:rows] = values
    assert b"".join(bodies) == padded.tobytes()


def test_the_next_shard_of_a_buffer_holds_nothing_of_the_last(mapped):
    buffer, ones = Buffer(GRID, np.dtype(np.int16)), np.ones((32, 3), np.int16)
    buffer.add(ones)
    buffer.finish()
    buffer.add(ones[:1])
    data = b"".join(map(bytes, buffer.finish()))
    assert np.frombuffer(data[:24], np.int16).sum() == 3
    assert mapped(data).untouched(np.array([0])).tolist() == [0]


def test_neighbouring_chunks_are_one_span_and_others_their_own(mapped):
    opened = mapped(filled(32)[0])
    opened.open()
    spans = list(opened.spans(np.array([5, 1, 0, 7, 4])))
    assert spans == [(0, 2 * WANT), (4 * WANT, 2 * WANT), (7 * WANT, WANT)]
    assert list(opened.spans(np.array([], int))) == []


def test_a_chunk_that_was_checked_is_not_checked_again(mapped):
    opened = mapped(filled(32)[0])
    assert opened.untouched(np.array([3, 1, 3])).tolist() == [1, 3]
    opened.check(np.array([1]))
    assert opened.untouched(np.array([3, 1])).tolist() == [3]


@pytest.mark.parametrize("at", [2 * WANT, 2 * WANT + 23, 2 * WANT + 24, 3 * WANT - 1])
def test_a_flipped_bit_of_a_chunk_or_its_checksum_names_the_chunk(mapped, at):
    data = bytearray(filled(32)[0])
    data[at] ^= 1
    opened = mapped(data)
    opened.check(opened.untouched(np.array([1, 3])))
    with pytest.raises(StoreError, match="chunk 2 does not match its checksum"):
        opened.check(opened.untouched(np.array([2])))


@pytest.mark.parametrize("at", [8 * WANT, -1])
def test_a_flipped_bit_of_the_index_is_an_error_before_any_chunk_is_read(mapped, at):
    data = bytearray(filled(32)[0])
    data[at] ^= 1
    with pytest.raises(StoreError, match="its chunk index does not match"):
        mapped(data).open()


@pytest.mark.parametrize("size", [0, 8 * 16 + CRC - 1])
def test_a_file_that_is_shorter_than_its_index_is_an_error(mapped, size):
    with pytest.raises(StoreError):
        mapped(filled(32)[0][:size]).open()


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ((8 * WANT - WANT + 1, WANT), "chunk 2 lies outside the file or has a wrong size"),
        ((-2, WANT), "chunk 2 lies outside the file or has a wrong size"),
        ((2 * WANT, WANT + 1), "chunk 2 lies outside the file or has a wrong size"),
        ((-1, -1), "chunk 2 was never written"),
    ],
)
def test_an_index_that_points_elsewhere_names_the_chunk(mapped, entry, what):
    data = filled(32)[0]
    index = np.frombuffer(data[8 * WANT : -CRC], "<i8").reshape(8, 2).copy()
    index[2] = entry
    opened = mapped(data[: 8 * WANT] + index.tobytes() + shard.checksum(index.tobytes()))
    assert opened.untouched(np.array([1, 3, 7])).tolist() == [1, 3, 7]
    with pytest.raises(StoreError, match=what):
        opened.untouched(np.array([2]))


def test_rows_that_will_be_needed_are_asked_for_with_the_chunks_between_them_and_no_more(mapped, monkeypatch):
    opened, asked = mapped(filled(32)[0]), []
    monkeypatch.setattr(opened, "advise", lambda offset, size: asked.append((offset, size)))
    opened.advise_rows(1, 2, 1)
    opened.advise_rows(1, 2, 2)
    opened.advise_rows(1, 3, 6)
    assert asked == [(WANT + 12, 6), (WANT + 12, 12), (WANT + 18, 2 * WANT - 18 + 6)]


def test_a_shard_of_ours_is_what_zarr_reads(tmp_path):
    data, values = filled(30)
    array = zarr.create(
        store=str(tmp_path / "data"),
        shape=(30, 3),
        chunks=(32, 3),
        dtype="int16",
        codecs=[
            zarr.codecs.ShardingCodec(
                chunk_shape=(4, 3),
                codecs=[zarr.codecs.BytesCodec(), zarr.codecs.Crc32cCodec()],
                index_codecs=[zarr.codecs.BytesCodec(), zarr.codecs.Crc32cCodec()],
            )
        ],
    )
    (tmp_path / "data" / "c" / "0").mkdir(parents=True)
    (tmp_path / "data" / "c" / "0" / "0").write_bytes(data)
    np.testing.assert_array_equal(array[...], values)


@pytest.mark.parametrize(
    ("order", "joined"), [(range(8), True), ((1, 0, *range(2, 8)), False), ((*range(7), -1), True)]
)
def test_chunks_without_checksums_are_read_as_one_where_they_lie_in_order(tmp_path, order, joined):
    """Another writer may put them in any order, or leave one out."""
    bare = Grid(4, 8, 6, crc=0)
    index = np.array([[2**64 - 1] * 2 if at < 0 else [at * 24, 24] for at in order], "<u8").tobytes()
    (tmp_path / "0").write_bytes(bytes(8 * 24) + index + int(google_crc32c.value(index)).to_bytes(4, "little"))
    opened = Shard(tmp_path / "0", bare)
    opened.open()
    assert opened.chunk_bytes == (8 * 24 if joined else 24)
    present = np.flatnonzero(np.array(order) >= 0)
    assert opened.untouched(present).tolist() == present.tolist()
