"""Which rows of an index a damaged file concerns."""

import numpy as np
import pytest

from msa.cache.format import layout, small_arrays
from msa.cache.maintain.check_index import _rows_of, _unreadable

N, CHUNK = 25, 10
OFFSETS = np.arange(0, 4 * (N + 1), 4)  # every row has four bytes


@pytest.fixture
def folder(tmp_path):
    """An index of 25 rows in chunks of 10 rows, offsets or bytes."""
    values = {"split": np.zeros(N, np.uint8), "id_offsets": OFFSETS, "id_bytes": np.zeros(4 * N, np.uint8)}
    for name, array in values.items():
        small_arrays.write(tmp_path / name, array, layout.array_metadata(array, {}, CHUNK))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("split/c/0", range(10)),
        ("split/c/1", range(10, 20)),
        ("split/c/2", range(20, 25)),
        ("id_offsets/c/0", range(10)),
        ("id_offsets/c/1", range(9, 20)),  # where the row before ends
        ("id_offsets/c/2", range(19, 25)),
        ("id_bytes/c/0", range(3)),  # bytes 0 to 9: rows 0, 1 and half of 2
        ("id_bytes/c/1", range(2, 5)),
        ("id_bytes/c/9", range(22, 25)),
        ("zarr.json", range(25)),
        ("split/zarr.json", range(25)),
        ("split/c/x", range(25)),
        ("gone/c/0", range(25)),
    ],
)
def test_a_chunk_concerns_the_rows_that_lie_in_it(folder, file, rows):
    assert list(_rows_of(folder, file, {"id_offsets": OFFSETS}, N)) == list(rows)


@pytest.mark.parametrize("table", [{}, {"id_offsets": OFFSETS[:-1]}])
def test_bytes_without_their_offsets_concern_every_row(folder, table):
    assert list(_rows_of(folder, "id_bytes/c/1", table, N)) == list(range(N))


@pytest.mark.parametrize(
    ("data", "offsets", "rows"),
    [
        (b"abc", [0, 1, 3], []),
        (b"", [0, 0, 0], []),
        ("äb".encode(), [0, 1, 3], [0, 1]),  # cut within a character
        (b"\xffbc", [0, 1, 3], [0]),
        (b"abc", [0, 2, 1, 3], [1]),
        (b"abc", [0, 1, 4], [0, 1]),  # where the ends are wrong, no row is sure
        (b"abc", [1, 2, 3], [0, 1]),
    ],
)
def test_rows_whose_bytes_cannot_be_read_are_named(data, offsets, rows):
    assert _unreadable(np.frombuffer(data, np.uint8), np.array(offsets)) == rows
