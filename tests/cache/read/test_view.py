"""Reading hidden states: batches equal samples alone and what zarr-python reads, or an error names the file."""

import json
import pickle
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from msa.cache.format import layout, limits, small_arrays
from msa.cache.format.shard import Shard
from msa.cache.format.zarr_array import Archive
from msa.cache.read import readahead, sample_locations
from msa.cache.read.view import View, ViewReader
from msa.cache.store import FeatureStore
from msa.cache.write import reuse, segment
from msa.cache.write.segment import Form
from msa.errors import ConfigError, StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index

N = 20


def home(store, view, entry=0):
    return store.path / "views" / view.id / "seg" / view.entries[entry].id


def widened(values, dtype):
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else values


@st.composite
def layouts(draw):
    """Lengths of up to N samples (0: missing), which of several segments each is in, and how they are cut."""
    lengths = draw(st.lists(st.integers(0, 13), min_size=1, max_size=N))
    owner = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    chunk = draw(st.integers(1, 6))
    shard = chunk * draw(st.integers(-(-13 // chunk), 20))
    form = Form(draw(st.integers(1, 5)), draw(st.sampled_from(layout.DTYPES)), chunk, shard)
    return lengths, owner, form, draw(st.permutations(range(len(lengths)))), draw(st.booleans())


def made(folder, lengths, owner, form, order, borrow):
    """A store of these samples, its view and their hidden states as they are stored; perhaps a borrowing corpus."""
    chance = np.random.default_rng(0)
    states = {i: chance.normal(size=(n, form.width)).astype(np.float32) for i, n in enumerate(lengths) if n}
    if form.dtype == "bfloat16":
        states = {i: (rows.view(np.uint32) >> 16).astype(np.uint16) for i, rows in states.items()}
    else:
        states = {i: rows.astype(form.dtype) for i, rows in states.items()}
    store, index = FeatureStore.create(folder / "store"), make_index(N)
    digests = index.digests[Modality.TEXT]
    dataset = store.add_index(index)
    about = {"modality": "text", "backbone": "made.up", "dim": form.width, "dtype": form.dtype}
    store.add_view("v" * 16, about)
    for number in sorted(set(owner)):
        writer = store.writer("v" * 16, dataset, form, {})
        for i in order:
            if owner[i] == number and i in states:
                writer.write(i, digests[i].tobytes(), states[i])
        store.publish("v" * 16, [entry for entry in [writer.seal()] if entry])
    if borrow and states:
        other = make_index(N)
        other.split[:] = 0
        dataset = store.add_index(other)
        reuse.borrow(store, "v" * 16, dataset, digests, range(N))
    return store, next(iter(store.views(dataset)), None), states


def through_zarr(store, view):
    """Row -> (T, D), read with zarr-python alone, as docs/store-format.md shows it."""
    segments, found = zarr.open_group(store.path, mode="r")[f"views/{view.id}/seg"], {}
    for entry in view.entries:
        table, data = segments[entry.id], segments[entry.data_id]["data"][:]
        for row, start, length in zip(table["sample"][:], table["start"][:], table["length"][:], strict=True):
            found[int(row)] = data[start : start + length]
    return found


@settings(max_examples=15, deadline=None)
@given(layouts(), st.lists(st.integers(-1, N - 1), max_size=24), st.booleans())
def test_a_batch_is_its_samples_alone_and_what_zarr_reads(laid, rows, reuse):
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):  # no power cut is tested here
        store, view, states = made(Path(folder), *laid)
        if view is None:
            return
        dtype, theirs, reader = laid[2].dtype, through_zarr(store, view), store.reader(view)
        assert {row: value.tobytes() for row, value in theirs.items()} == {i: s.tobytes() for i, s in states.items()}
        out = np.full((30, 20, laid[2].width), 7, reader.dtype) if reuse else None
        x, length = reader.gather(np.array(rows, np.int64), out)
        values, offsets = reader.flat(np.array(rows, np.int64))
        assert length.tolist() == [len(theirs.get(row, ())) for row in rows]
        assert x.shape == (len(rows), max(length, default=0), laid[2].width)
        assert (length.dtype, offsets.dtype, x.dtype, values.dtype) == (np.int32, np.int64, reader.dtype, reader.dtype)
        assert reuse == np.shares_memory(x, out) or not x.size
        for i, row in enumerate(rows):
            own = widened(theirs[row], dtype) if row in theirs else np.zeros((0, laid[2].width), x.dtype)
            np.testing.assert_array_equal(x[i, : length[i]], own)
            assert not x[i, length[i] :].any()
            np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], own)
            if row in theirs:
                np.testing.assert_array_equal(reader.read(row), own)
            else:
                with pytest.raises(StoreError, match="has no hidden states"):
                    reader.read(row)
        assert reader.length.tolist() == [len(theirs[row]) if row in theirs else -1 for row in range(N)]


def test_a_flipped_bit_in_any_chunk_is_an_error_that_names_the_file(store, index):
    view = fill(store, index)
    shard = home(store, view) / "data" / "c" / "0" / "0"
    whole, size = shard.read_bytes(), FORM.chunk * WIDTH * 2 + 4
    table = segment.table(home(store, view))
    written = max(row.start + row.length for row in table if row.start < FORM.shard)
    assert written > 2 * FORM.chunk
    for chunk in range(-(-written // FORM.chunk)):
        for bit in (0, 8 * size - 1):  # of the data, and of the checksum
            broken = bytearray(whole)
            broken[chunk * size + bit // 8] ^= 1 << bit % 8
            shard.write_bytes(broken)
            begin, end = chunk * FORM.chunk, (chunk + 1) * FORM.chunk
            touched = [row.sample for row in table if row.start < end and row.start + row.length > begin]
            others = [row.sample for row in table if row.sample not in touched]
            assert touched and others
            reader = store.reader(view)
            np.testing.assert_array_equal(reader.gather(others)[1], [len(hidden(row)) for row in others])
            for _ in range(2):  # it does not pass the second time
                with pytest.raises(StoreError, match=f"{shard}: chunk {chunk} does not match"):
                    reader.gather(others + touched)


def test_a_missing_shard_is_an_error_that_names_the_file(store, index):
    view = fill(store, index)
    shard = home(store, view) / "data" / "c" / "1" / "0"
    shard.unlink()
    with pytest.raises(StoreError, match=f"{shard}: the file is missing"):
        store.reader(view).gather(range(19))
    shard.mkdir()
    with pytest.raises(StoreError, match=str(shard)):
        store.reader(view).flat(range(19))


@pytest.mark.parametrize(("row", "way"), [(20, "gather"), (-2, "gather"), (20, "read"), (-2, "flat")])
def test_rows_that_no_sample_has_are_refused(store, index, row, way):
    reader = store.reader(fill(store, index))
    reader.gather(range(20))
    with pytest.raises(IndexError, match="20 samples"):
        getattr(reader, way)(row if way == "read" else [0, row])


@pytest.mark.parametrize(
    "out",
    [np.zeros((1, 40, WIDTH), np.float16), np.zeros((2, 7, WIDTH), np.float16), np.zeros((2, 40, WIDTH), np.float32)],
)
def test_memory_that_does_not_fit_is_refused(store, index, out):
    reader = store.reader(fill(store, index))
    with pytest.raises(ConfigError, match=r"`out`.*8"):
        reader.gather([0, 1], out)


# other codecs

CODECS = {
    "raw": {"shards": (64, WIDTH), "compressors": None},
    "zstd": {"shards": (64, WIDTH), "compressors": zarr.codecs.ZstdCodec(level=1, checksum=True)},
    "gzip": {"shards": (64, WIDTH), "compressors": zarr.codecs.GzipCodec()},
    "blosc": {"shards": (64, WIDTH), "compressors": zarr.codecs.BloscCodec()},
    "big": {"shards": (64, WIDTH), "compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big")},
    "unsharded": {"shards": None, "compressors": zarr.codecs.ZstdCodec()},
}


def recode(store, view, **how):
    """Write the data of a view again, compressed."""
    folder = home(store, view) / "data"
    old = zarr.open_array(folder, mode="r")
    values, attributes = old[...], dict(old.attrs)
    shutil.rmtree(folder)
    config = {"write_empty_chunks": True}
    how = {"serializer": zarr.codecs.BytesCodec(endian="little"), **how}
    new = zarr.create_array(
        folder, shape=values.shape, chunks=(16, WIDTH), dtype=values.dtype, attributes=attributes, config=config, **how
    )
    new[...] = values
    return folder


@pytest.mark.parametrize("codec", CODECS)
def test_stores_of_other_codecs_are_read_too(store, index, codec):
    view = fill(store, index)
    recode(store, view, **CODECS[codec])
    reader = store.reader(view)
    x, length = reader.gather([*range(19), 19])
    for i in range(19):
        np.testing.assert_array_equal(x[i, : length[i]], hidden(i))
    assert length[19] == 0
    kinds = {type(file) for file in reader._locations.files[1:]}
    assert kinds == ({Shard} if codec == "raw" else {Archive})


@pytest.mark.parametrize("codec", ["zstd", "gzip", "unsharded"])
def test_what_is_missing_or_broken_in_other_codecs_is_an_error_too(store, index, codec):
    view = fill(store, index)
    file = recode(store, view, **CODECS[codec]) / "c" / "1" / "0"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(StoreError, match=f"{file}: the file is missing"):
        store.reader(view).gather(range(19))
    file.write_bytes(bytes(20) + whole[20:])
    with pytest.raises(StoreError, match=r"damaged store.*/data/c/"):
        store.reader(view).gather(range(19))
    if codec == "zstd":
        file.write_bytes(whole[:-68] + b"\xff" * 16 + whole[-52:])  # the index no longer has the first chunk
        with pytest.raises(StoreError, match=f"{file}: .*were never written"):
            store.reader(view).gather(range(19))


# tables


def test_only_the_chunks_of_tables_that_are_needed_are_read(store, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(layout, "SMALL_BYTES", 64)  # 8 rows of int64
    index = make_index(200)
    view = fill(store, index, rows=[i for i in range(199) if i % 50])
    reader = store.reader(view)
    (own,) = reader._locations._segments
    assert "_sample" not in vars(own)  # opening reads nothing
    np.testing.assert_array_equal(reader.read(101), hidden(101))
    assert len(own._sample._files) <= 4  # the ends, and where it stands
    assert len(own._start._files) == len(own._length._files) == 1
    present = [i for i in range(199) if i % 50]
    x, length = reader.gather(range(200))
    assert np.flatnonzero(length).tolist() == present
    assert all((x[i, : length[i]] == hidden(i)).all() for i in present)


def test_tables_of_older_versions_need_not_be_sorted(store, index):
    view = fill(store, index)
    folder = home(store, view)
    order = np.random.default_rng(1).permutation(19)
    assert small_arrays.Lazy(folder / "sample").attributes == {"sorted": True}
    old = {name: layout.read_array(folder / name)[order] for name in ("sample", "start", "length", "digest")}
    for name in old:
        shutil.rmtree(folder / name)
    layout.write_group(folder, old, limits.read_json(folder / "zarr.json")["attributes"])
    x, length = store.reader(view).gather(range(19))
    assert all((x[i, : length[i]] == hidden(i)).all() for i in range(19))


def test_many_segments_are_read_as_few_are(store, index, monkeypatch):
    for i in range(0, 18, 3):
        view = fill(store, index, rows=[i + 2, i])
    few = store.reader(view).gather(range(-1, 20))
    monkeypatch.setattr(sample_locations, "FEW", 2)
    many = store.reader(view).gather(range(-1, 20))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.count_nonzero(few[1]) == 12


@pytest.mark.parametrize(
    ("name", "value"), [("start", 2**62), ("start", -1), ("length", 2**30), ("length", 0), ("sample", 20)]
)
def test_tables_that_point_outside_are_refused_before_anything_is_read(store, index, name, value):
    view = fill(store, index)
    folder = home(store, view)
    table = layout.read_array(folder / name)
    table[-1] = value
    shutil.rmtree(folder / name)
    small_arrays.write(folder / name, table, layout.array_metadata(table, {}))  # not sorted any more: all of it is read
    with pytest.raises(StoreError, match=f"{folder} points outside"):
        store.reader(view).gather(range(19))


def test_a_view_of_another_width_than_its_data_is_refused(store, index):
    view = fill(store, index)
    path = store.path / "views" / view.id / "zarr.json"
    about = json.loads(path.read_text())
    about["attributes"]["dim"] = WIDTH + 1
    path.write_text(json.dumps(about))
    store = FeatureStore.open(store.path)
    with pytest.raises(StoreError, match="width 8, its view float16 of width 9"):
        store.reader(store.view("tiny", Modality.AUDIO)).gather([0])


# files


def test_more_files_than_may_be_open_are_mapped_in_turn(store, index, monkeypatch):
    monkeypatch.setattr(small_arrays, "_most_maps", lambda: 2)
    reader = store.reader(fill(store, index))
    for rows in (range(19), range(18, -1, -1)):
        x, length = reader.gather(rows)
        assert all((x[i, : length[i]] == hidden(row)).all() for i, row in enumerate(rows))
    shards = reader._locations.files[1:]
    assert len(shards) > 2 >= sum(shard.view is not None for shard in shards)


def test_a_reader_goes_to_another_process(store, index):
    reader = store.reader(fill(store, index))
    reader.read(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(3), hidden(3))


def test_asking_for_pages_changes_nothing_but_is_done_after_a_batch_had_to_wait(store, index, monkeypatch):
    faults, asked = iter([0, 0, 1, *[1] * 1000]), []
    monkeypatch.setattr(readahead, "_major_faults", lambda: next(faults))
    reader = store.reader(fill(store, index))
    monkeypatch.setattr(Shard, "advise_rows", lambda self, *place: asked.append(place))
    for batch in range(readahead.LEAST + 3):
        x, _ = reader.gather([4, 19, 5])
        np.testing.assert_array_equal(x[0, : len(hidden(4))], hidden(4))
        assert len(asked) == 2 * min(batch, readahead.LEAST)


class Elsewhere:
    """Blocks that come from another folder, where the store really lies."""

    def __init__(self, here, there):
        self.here, self.there, self.calls = here, there, []

    def files(self, folder, files):
        for name in files:
            data = (self.there / folder.relative_to(self.here) / name).read_bytes()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def shard(self, path):
        whole = (self.there / path.relative_to(self.here)).read_bytes()
        index = FORM.shard // FORM.chunk * 16 + 4
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(len(whole) - index) + whole[-index:])

    def bring(self, wanted):
        self.calls.append(list(wanted))
        for path, offset, size in wanted:
            whole = (self.there / path.relative_to(self.here)).read_bytes()
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(whole[offset : offset + size])


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_what_lies_elsewhere_is_brought_once_for_a_batch_and_as_little_as_it_needs(store, index, codec, tmp_path):
    view = fill(store, index)
    if codec:
        recode(store, view, **CODECS[codec])
    blocks = Elsewhere(tmp_path / "mirror", store.path)
    reader = ViewReader(blocks.here / "views" / view.id / "seg", view, N, blocks)
    for rows in ([3, 17], [3, 4, 17], range(19), range(19)):
        x, length = reader.gather(rows)
        assert all((x[i, : length[i]] == hidden(row)).all() for i, row in enumerate(rows))
    if codec is None:
        assert len(blocks.calls) == 3  # the last batch was there
        assert len(blocks.calls[0]) == 2  # two samples in two shards
        parts = [(path, at) for call in blocks.calls for path, begin, n in call for at in range(begin, begin + n)]
        assert len(parts) == len(set(parts))  # nothing came twice


@pytest.mark.parametrize("text", ["made.up", "made.up@abcd", "made.up@a", "abcd", "abcd1234abcd1234"])
def test_a_view_is_called_by_its_backbone_or_the_beginning_of_its_id(text):
    assert View("abcd1234abcd1234", "d", {"backbone": "made.up"}, []).is_called(text)


@pytest.mark.parametrize("text", ["", "abc", "made", "other", "bcd1", "made.up@", "made.up@bcd1", "other@abcd"])
def test_a_view_is_not_called_by_less_or_by_anything_else(text):
    assert not View("abcd1234abcd1234", "d", {"backbone": "made.up"}, []).is_called(text)
