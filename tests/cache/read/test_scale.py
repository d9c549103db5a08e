"""A dataset is read as far as is needed: what opens does not grow with the number of samples."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from msa import cli
from msa.cache import index as module
from msa.cache.index import Index, Texts
from msa.cache.maintain.describe import citations, describe
from msa.cache.share import sync
from msa.cache.share.subset import Selection
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError
from msa.types import Modality, Split
from tests.cache.conftest import fill


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(params=["at once", "in pieces"])
def pieces(request, monkeypatch):
    """Corpora are small enough to be cut at the first look, or are not."""
    monkeypatch.setattr(module, "PIECE", 7 if request.param == "in pieces" else 10**6)


def read_files(folder, action):
    """What below `folder` is opened while `action` runs, without zarr.json."""
    seen, opened = set(), os.open

    def watching(path, *args, **kwargs):
        seen.add(str(path))
        return opened(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.open", watching)
        action()
    return {name.removeprefix(f"{folder}/") for name in seen if name.startswith(f"{folder}/")} - {"zarr.json"}


def arrays_of(names):
    return {name.partition("/")[0] for name in names if not name.endswith("zarr.json")}


def test_texts_are_a_sequence_equal_to_their_list(store, index, pieces):
    store.add_index(index)
    texts = store.index("tiny").text
    assert isinstance(texts, Texts)
    assert list(texts) == index.text
    assert texts == index.text
    assert index.text == texts
    assert texts != index.text[:-1]
    assert texts != [*index.text[:-1], "other"]
    assert [texts[i] for i in (-1, 0, 13)] == [index.text[i] for i in (-1, 0, 13)]
    for part in (slice(None), slice(3, 15), slice(15, 3), slice(None, None, -2), slice(-4, 99)):
        assert texts[part] == index.text[part]
    assert index.text[3] in texts
    assert "nobody said this" not in texts
    for outside in (20, -21):
        with pytest.raises(IndexError):
            texts[outside]


def test_opening_an_index_reads_no_array_and_using_one_reads_that_alone(store, index):
    dataset = store.add_index(index)
    folder = store.path / "index" / dataset
    found = []
    assert arrays_of(read_files(folder, lambda: found.append(store.index("tiny")))) == set()
    assert arrays_of(read_files(folder, lambda: len(found[0]))) == set()
    assert arrays_of(read_files(folder, lambda: found[0].rows(Split.TRAIN))) == {"split"}
    assert arrays_of(read_files(folder, lambda: found[0].ids[4])) == {"id_bytes", "id_offsets"}
    assert arrays_of(read_files(folder, lambda: found[0].has(Modality.AUDIO))) == {"digest_audio"}
    assert arrays_of(read_files(folder, lambda: found[0].rows(Split.TEST))) == set()  # it is known by now


def test_listing_a_store_and_reading_a_batch_open_no_index(store, index):
    fill(store, index)

    def listed():
        again = FeatureStore.open(store.path)
        (view,) = again.views("tiny")
        assert (view.samples, view.failed) == (19, 0)
        again.reader(view).gather(np.arange(4))

    assert not any(name.startswith("index/") for name in read_files(store.path, listed))


def test_an_index_that_was_read_is_what_was_written(store, index, pieces):
    dataset = store.add_index(index)
    found = store.index("tiny")
    assert found.fingerprint == index.fingerprint == dataset
    assert found.counts() == index.counts()
    np.testing.assert_array_equal(found.y, index.y)
    assert dict(found.digests).keys() == index.digests.keys()
    with pytest.raises(AttributeError):
        _ = found.nothing
    assert replace(found, name="other").name == "other"


def test_it_is_sent_whole_to_where_its_folder_is_not(store, index, tmp_path, pieces):
    store.add_index(index)
    sent = pickle.dumps(store.index("tiny"))
    store.path.rename(tmp_path / "elsewhere")
    assert pickle.loads(sent).fingerprint == index.fingerprint


def test_ids_are_found_in_one_pass(store, index, pieces):
    store.add_index(index)
    wanted = ["id7", "nobody", "id0", "id19", "id7"]
    for one in (index, store.index("tiny")):
        assert one.find(wanted).tolist() == [7, -1, 0, 19, 7]


@pytest.mark.parametrize("name", ["id_bytes", "id_offsets", "split", "digest_audio"])
def test_a_flipped_bit_is_found_when_it_is_read(store, index, name):
    dataset = store.add_index(index)
    (chunk,) = [path for path in (store.path / "index" / dataset / name / "c").rglob("0") if path.is_file()]
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    found = store.index("tiny")
    with pytest.raises(StoreError, match=f"{name}.*checksum"):
        {"split": lambda: found.split, "digest_audio": lambda: found.has(Modality.AUDIO)}.get(
            name, lambda: found.ids[0]
        )()


def test_offsets_that_cut_no_texts_are_an_error(store, index, pieces):
    from msa.cache.format import layout, local_files, small_arrays

    folder = index.write(store.path / "index")
    offsets = np.arange(21)[::-1].copy()
    local_files.remove_tree(store.path, folder / "id_offsets")
    small_arrays.write(folder / "id_offsets", offsets, layout.array_metadata(offsets, {}))
    with pytest.raises(StoreError, match="cut no 20 texts"):
        list(Index.read(folder).ids)


def test_samples_that_are_named_are_pulled_and_those_that_are_not_there_are_named(store, index, tmp_path, pieces):
    fill(store, index)
    ids = tmp_path / "ids.txt"
    ids.write_text("id3\nid15\n")
    assert sync.pull(str(store.path), tmp_path / "some", Selection(samples=ids)).samples == 2
    assert list(FeatureStore.open(tmp_path / "some").states("tiny", "audio")) == ["id3", "id15"]
    ids.write_text("id3\nid99\n")
    with pytest.raises(ConfigError, match=r"names 1 of 2 samples .*: id99"):
        sync.pull(str(store.path), tmp_path / "more", Selection(samples=ids))


def test_info_tells_of_every_sample_file_and_run(store, index):
    fill(store, index, rows=range(5))
    (view,) = describe(store)["datasets"][0]["views"]
    assert view["pending_ids"] == [f"id{i}" for i in range(5, 19)]  # the last has no audio
    assert view["pending"] == 14
    assert [run["samples"] for run in view["runs"]] == [5]
    assert view["creator"] == store.manifest.creator
    listed = {f"views/{view['id']}/seg/{file['segment']}/{file['file']}": file["bytes"] for file in view["files"]}
    assert listed.items() <= {path.relative_to(store.path).as_posix(): n for path, n in sizes(store)}.items()
    assert any("data/c/" in name for name in listed)


def sizes(store):
    return [(path, path.stat().st_size) for path in store.path.rglob("*") if path.is_file()]


def test_citations_name_every_corpus_and_backbone_once(store, index):
    about = {"source": {"title": "Tiny", "home": "https://tiny.example", "citation": "Tiny (2020)"}}
    fill(store, replace(index, about=about))
    named = dict(citations(store))
    assert named["dataset tiny"] == "Tiny (2020), https://tiny.example"
    assert named["audio made.up"] == "paper unknown"
    assert "Zarr" in named["stores"]


def test_info_prints_what_to_cite(store, index):
    fill(store, index)
    done = CliRunner().invoke(cli.app, ["cache", "info", str(store.path), "--cite"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[:2] == ["dataset tiny: made in a test", "audio made.up: paper unknown"]
    told = json.loads(CliRunner().invoke(cli.app, ["cache", "info", str(store.path), "--cite", "--json"]).output)
    assert told == dict(citations(store))
