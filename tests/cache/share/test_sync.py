"""Handing stores on: only what is missing travels, nothing is seen before all is there, and nothing is lost."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msa.cache.maintain.verify import verify
from msa.cache.share import licences, sync
from msa.cache.share.subset import Selection
from msa.cache.storage import site as remote
from msa.cache.store import FeatureStore
from msa.cache.write import segment
from msa.cache.write.segment import Form
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, fill, hidden, make_index
from tests.commands.test_commands import msa  # noqa: F401
from tests.faults.servers import KEYS, SECRET, contents, moto, served

V = "a" * 16


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)


@pytest.fixture(scope="module")
def s3():
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path):
    """A new address in the bucket."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    return f"s3://lab/{tmp_path.name}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Samples 0 to 9 and 10 to 18, in a segment each."""
    store = FeatureStore.create(tmp_path_factory.mktemp("made") / "store")
    fill(store, make_index(), rows=range(10), view_id=V)
    fill(store, make_index(), rows=range(10, 19), view_id=V)
    return store.path


@pytest.fixture
def full(made, tmp_path):
    return FeatureStore.open(shutil.copytree(made, tmp_path / "store"))


def held(where):
    """Rows of the audio view of `tiny`, all read and compared."""
    found = FeatureStore.open(where)
    reader = found.reader(found.view("tiny", Modality.AUDIO))
    rows = np.flatnonzero(reader.length >= 0).tolist()
    for row in rows:
        np.testing.assert_array_equal(reader.read(row), hidden(row))
    return rows


def part(index, rows):
    """A corpus of some of the samples of another."""
    rows = list(rows)
    return replace(
        index,
        ids=[index.ids[i] for i in rows],
        split=index.split[rows],
        labels=index.labels[rows],
        group=[index.group[i] for i in rows],
        position=index.position[rows],
        text=[index.text[i] for i in rows],
        digests={m: digest[rows] for m, digest in index.digests.items()},
    )


def fill_part(path, index, rows):
    """A store of some samples of a corpus."""
    store, mine = FeatureStore.create(path), part(index, rows)
    dataset = store.add_index(mine)
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(V, dataset, FORM, {"device": "cpu"})
    for n, i in enumerate(rows):
        if i < 19:
            writer.write(n, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
    store.publish(V, [writer.seal()])
    return store


# the way there and back


def test_a_push_and_a_pull_bring_everything_and_a_second_one_nothing(full, bucket, tmp_path):
    sent = sync.push(full, bucket)
    assert (sent.samples, sent.files > 20) == (19, True)
    assert sync.push(full, bucket).bytes == 0
    assert held(bucket) == list(range(19))
    sync.pull(bucket, tmp_path / "copy")
    assert sync.pull(bucket, tmp_path / "copy").bytes == 0
    assert held(tmp_path / "copy") == list(range(19))
    assert verify(FeatureStore.open(tmp_path / "copy")) == []
    for name, data in contents(full.path).items():
        if not name.startswith("manifests/"):
            assert (tmp_path / "copy" / name).read_bytes() == data, name


def test_what_was_added_since_is_all_that_travels(store, index, bucket, tmp_path):
    fill(store, index, rows=range(10), view_id=V)
    sync.push(store, bucket)
    sync.pull(bucket, tmp_path / "copy")
    fill(store, index, rows=range(10, 19), view_id=V)
    new = store.manifest.views[V].segments[-1].files
    assert sync.push(store, bucket).bytes == sum(size for size, _ in new.values())
    assert sync.pull(bucket, tmp_path / "copy").bytes == sum(size for size, _ in new.values())
    assert held(tmp_path / "copy") == list(range(19))


def test_a_pulled_store_can_be_added_to_and_pushed_back(full, index, bucket, tmp_path):
    sync.push(full, bucket, Selection(splits=["train"]))
    sync.pull(bucket, tmp_path / "copy")
    mine = FeatureStore.open(tmp_path / "copy")
    fill(mine, index, rows=[1, 4], view_id=V)
    sync.push(mine, bucket)
    assert held(bucket) == sorted([*range(0, 19, 3), 1, 4])


def test_a_clone_is_the_store_number_and_all(full, bucket, tmp_path):
    sync.clone(full.path, bucket)
    sync.clone(bucket, tmp_path / "copy")
    number = full.manifest.generation
    assert (tmp_path / "copy" / f"manifests/{number:08d}.json").exists()
    assert FeatureStore.open(tmp_path / "copy").manifest == full.manifest
    assert held(tmp_path / "copy") == list(range(19))
    assert verify(FeatureStore.open(tmp_path / "copy")) == []
    with pytest.raises(ConfigError, match="holds a store already, at generation 3"):
        sync.clone(full.path, bucket)
    with served(tmp_path) as web:  # generations 1 and 2 are not there: the hint leads to 3
        assert held(f"{web.url}/copy") == list(range(19))


def test_a_place_that_holds_something_else_is_refused(full, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(StoreError, match="is not a store"):
        sync.push(full, tmp_path / "thesis")
    with pytest.raises(StoreError, match="can only be read"):
        sync.push(full, "http://127.0.0.1:9/store")


# parts


def test_a_part_has_exactly_the_samples_that_were_asked_for(full, tmp_path):
    copied = sync.pull(full.path, tmp_path / "copy", Selection(splits=["train"]))
    assert held(tmp_path / "copy") == list(range(0, 19, 3))
    (tmp_path / "ids.txt").write_text("".join(f"id{i}\n" for i in range(9)))
    sync.pull(full.path, tmp_path / "most", Selection(samples=tmp_path / "ids.txt"))
    assert held(tmp_path / "most") == list(range(9))
    found = FeatureStore.open(tmp_path / "most").manifest.views[V].segments
    assert [entry.data_of is not None for entry in found] == [True]  # most of its rows: the data travels whole
    found = FeatureStore.open(tmp_path / "copy").manifest.views[V].segments
    assert [entry.data_of is not None for entry in found] == [False, False]
    assert copied.bytes < sync.pull(full.path, tmp_path / "all").bytes
    for name in ("copy", "most"):
        assert verify(FeatureStore.open(tmp_path / name)) == []
        assert sync.pull(full.path, tmp_path / name).samples == 19
        assert held(tmp_path / name) == list(range(19))


def test_the_same_part_is_the_same_files_on_any_day(full, tmp_path):
    for name in ("one", "two"):
        sync.pull(full.path, tmp_path / name, Selection(splits=["valid"]))
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert {n: d for n, d in one.items() if "manifests" not in n} == {
        n: d for n, d in two.items() if "manifests" not in n
    }
    assert sync.pull(full.path, tmp_path / "one", Selection(splits=["valid"])).files == 0


def test_datasets_and_views_are_chosen_by_name(full, index, tmp_path):
    fill(full, make_index(name="other", seed=1), view_id="w" * 16)
    assert sync.pull(full.path, tmp_path / "a", Selection(datasets=["other"])).datasets == ["other"]
    assert list(FeatureStore.open(tmp_path / "a").manifest.views) == ["w" * 16]
    assert sync.pull(full.path, tmp_path / "b", Selection(views=[V[:8]])).datasets == ["tiny"]
    with pytest.raises(UnknownNameError, match="othr"):
        sync.pull(full.path, tmp_path / "c", Selection(datasets=["othr"]))
    with pytest.raises(ConfigError, match="has no aaaaaaaa of other"):
        sync.pull(full.path, tmp_path / "c", Selection(datasets=["other"], views=[V[:8]]))


def test_a_sample_that_is_not_there_is_named(full, tmp_path):
    (tmp_path / "ids.csv").write_text("id\nid3\nid99\n")
    with pytest.raises(ConfigError, match=r"1 of 2 samples .* does not have: id99"):
        sync.pull(full.path, tmp_path / "c", Selection(samples=tmp_path / "ids.csv"))


def test_bfloat16_duplicates_failures_and_counts_survive_being_copied(store, tmp_path):
    index = make_index()
    index.digests[Modality.AUDIO][6] = index.digests[Modality.AUDIO][3]
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "audio", "backbone": "b", "dim": WIDTH, "dtype": "bfloat16"})
    writer = store.writer(V, dataset, Form(WIDTH, "bfloat16", 16, 64), {"device": "cpu"})
    digest = [row.tobytes() for row in index.digests[Modality.AUDIO]]
    for i in (0, 1, 2, 3, 6):
        rows = np.random.default_rng(3 if i == 6 else i).integers(0, 2**14, (5, WIDTH)).astype(np.uint16)
        writer.write(i, digest[i], rows, {"NaN set to 0": i})
    writer.fail(9, digest[9], "decode", "broken")
    writer.fail(10, digest[10], "decode", "broken too")
    store.publish(V, [writer.seal()])
    sync.pull(store.path, tmp_path / "copy", Selection(splits=["train"]))  # 0, 3, 6, 9
    copy = FeatureStore.open(tmp_path / "copy")
    mine, theirs = (s.reader(s.view("tiny", Modality.AUDIO)) for s in (store, copy))
    for i in (0, 3, 6):
        np.testing.assert_array_equal(mine.read(i), theirs.read(i))
    assert list(theirs.failures) == [9]
    (entry,) = copy.manifest.views[V].segments
    assert (entry.samples, entry.failed) == (3, 1)

    assert [row.counts for row in segment.table(copy.tables(V, entry))] == [
        {},
        {"NaN set to 0": 3},
        {"NaN set to 0": 6},
    ]


# what goes wrong


def test_a_damaged_file_is_named_and_nothing_of_it_is_seen(full, bucket, tmp_path):
    sync.push(full, bucket)
    name = next(n for n in contents(full.path) if n.endswith("data/c/1/0"))
    site = remote.connect(bucket)
    data = bytearray(site.read(name))
    data[100] ^= 1
    (tmp_path / "bad").write_bytes(data)
    site.put(name, tmp_path / "bad")
    with pytest.raises(StoreError, match=re.escape(name) + " does not match the SHA-256"):
        sync.pull(bucket, tmp_path / "copy")
    assert FeatureStore.open(tmp_path / "copy").manifest.generation == 0
    assert not (tmp_path / "copy" / name).exists()
    site.put(name, full.path / name)
    sync.pull(bucket, tmp_path / "copy")
    assert held(tmp_path / "copy") == list(range(19))


def test_damage_at_home_is_not_handed_on(full, tmp_path):
    (path, *_) = sorted(full.path.glob("views/*/seg/*/digest/c/0/0"))
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(StoreError, match="digest/c/0/0 does not match"):
        sync.push(full, tmp_path / "copy")
    assert FeatureStore.open(tmp_path / "copy").manifest.views == {}


def big(path, megabytes=3):
    """A store whose data is one shard."""
    store, index = FeatureStore.create(path), make_index()
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": 512, "dtype": "float16"})
    writer = store.writer(V, dataset, Form(512, "float16", 64, 2**14), {})
    for i in range(10):
        rows = np.random.default_rng(i).normal(size=(megabytes * 100, 512)).astype(np.float16)
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), rows)
    store.publish(V, [writer.seal()])
    return store


def test_data_that_was_swept_at_the_moment_of_publication_is_not_named(full, tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "keeps_data", lambda parent, entry: entry.samples != 9)
    with pytest.raises(StoreError, match="gc collected the data of 1 segments"):
        sync.push(full, tmp_path / "copy")
    assert held(tmp_path / "copy") == list(range(10))
    monkeypatch.undo()
    sync.push(full, tmp_path / "copy")
    assert held(tmp_path / "copy") == list(range(19))


def test_a_pull_that_was_killed_goes_on_in_the_middle_of_a_file(tmp_path):
    source = big(tmp_path / "store")
    code = f"""
        from pathlib import Path
        from msa.cache.share import licences, sync
        from msa.cache.storage import web
        web.PIECE = 65536
        sync.pull(URL, Path({str(tmp_path / "copy")!r}))
    """
    with served(tmp_path, delay_s=0.02) as web:
        text = textwrap.dedent(code).replace("URL", repr(f"{web.url}/store"))
        process = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "MSA_CACHE": str(tmp_path / "c")})
        while web.sent < 1_500_000 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert FeatureStore.open(tmp_path / "copy").manifest.generation == 0
    there = sum(len(data) for data in contents(tmp_path / "copy").values())
    assert there > 1_000_000
    with served(tmp_path) as web:
        sync.pull(f"{web.url}/store", tmp_path / "copy")
        total = sum(len(data) for data in contents(source.path).values())
        assert web.sent < total - there + 200_000
    assert verify(FeatureStore.open(tmp_path / "copy")) == []


def test_pushes_at_the_same_time_both_survive(index, bucket, tmp_path):
    names = [f"corpus{i}" for i in range(3)]
    stores = [FeatureStore.create(tmp_path / name) for name in names]
    for i, (store, name) in enumerate(zip(stores, names, strict=True)):
        fill(store, make_index(name=name, seed=i), view_id=V)  # one view, provenance of each its own
    errors = []

    def push(store):
        try:
            sync.push(store, bucket)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=push, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = FeatureStore.open(bucket)
    assert sorted(found.datasets) == names
    assert found.manifest.generation == 3
    sync.pull(bucket, tmp_path / "all")
    assert verify(FeatureStore.open(tmp_path / "all")) == []


def test_pushes_of_the_same_samples_at_once_collapse(index, tmp_path, monkeypatch):
    """The other side publishes between the choice of files and the publication."""
    one, two = (FeatureStore.create(tmp_path / name) for name in ("one", "two"))
    fill(one, index, rows=range(12), view_id=V)
    fill(two, index, rows=range(8, 19), view_id=V)
    make, done = sync._make_store, []

    def late(target):
        make(target)
        if not done:
            done.append(1)
            sync.push(two, tmp_path / "to")

    monkeypatch.setattr(sync, "_make_store", late)
    sync.push(one, tmp_path / "to")
    assert held(tmp_path / "to") == list(range(19))
    assert verify(FeatureStore.open(tmp_path / "to")) == []


def test_an_older_version_does_not_write_into_a_newer_store(full, bucket):
    remote.connect(bucket).add("zarr.json", json.dumps({"attributes": {"msa_format": 2}}).encode())
    with pytest.raises(StoreError, match="format 2"):
        sync.push(full, bucket)


def test_a_create_whose_answer_was_lost_is_known_again(bucket):
    site = remote.connect(bucket)
    assert site.create(1, b"{}")
    assert site.create(1, b"{}")  # the same bytes: it was us
    assert not site.create(1, b"{ }")
    assert site.numbers() == [1]


# merge


def test_a_merge_is_the_union_by_sample(index, tmp_path):
    mine = fill_part(tmp_path / "mine", index, range(12))
    fill_part(tmp_path / "theirs", index, range(8, 20))
    before = mine.datasets["tiny"]
    assert sync.merge(tmp_path / "theirs", mine.path).samples == 19
    merged = FeatureStore.open(mine.path)
    whole = merged.index("tiny")
    assert sorted(whole.ids) == sorted(index.ids)
    reader = merged.reader(merged.view("tiny", Modality.AUDIO))
    for row, id in enumerate(whole.ids):
        if id != "id19":
            np.testing.assert_array_equal(reader.read(row), hidden(int(id[2:])))
    assert (reader.length >= 0).sum() == 19
    assert verify(merged) == []
    assert len(merged.index(f"tiny@{before}")) == 12  # runs of before find what they were trained on
    assert sync.merge(tmp_path / "theirs", mine.path).bytes == 0
    assert FeatureStore.open(mine.path).datasets == merged.datasets


def test_stores_that_share_a_corpus_merge_into_all_of_its_samples(index, tmp_path):
    one, two = (FeatureStore.create(tmp_path / name) for name in ("one", "two"))
    fill(one, index, rows=range(12), view_id=V)
    fill(two, index, rows=range(8, 19), view_id=V)
    assert sync.merge(two.path, one.path).samples == 19
    assert held(one.path) == list(range(19))
    assert verify(FeatureStore.open(one.path)) == []


@pytest.mark.parametrize("what", ["audio", "label", "split"])
def test_a_merge_of_unequal_samples_names_them_and_writes_nothing(index, tmp_path, what):
    mine = fill_part(tmp_path / "mine", index, range(12))
    other = make_index()
    if what == "audio":
        other.digests[Modality.AUDIO][9] += 1
    elif what == "label":
        other.labels[9] = (other.labels[9] + 1) % 3
    else:
        other.split[9] = 2
    fill_part(tmp_path / "theirs", other, range(8, 20))
    before = contents(mine.path)
    with pytest.raises(StoreError, match=f"differ in the {what} of id9\n"):
        sync.merge(tmp_path / "theirs", mine.path)
    assert contents(mine.path) == before


def test_equal_rows_from_other_input_are_refused(index, tmp_path):
    one, two = (FeatureStore.create(tmp_path / name) for name in ("one", "two"))
    fill(one, index, rows=range(12), view_id=V)
    dataset = two.add_index(index)
    two.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = two.writer(V, dataset, FORM, {})
    writer.write(3, bytes(range(16)), hidden(3))
    two.publish(V, [writer.seal()])
    with pytest.raises(StoreError, match="differ in the input of id3"):
        sync.push(two, one.path)


# licences


def licensed(path, redistribution=False, weights="MIT"):
    store = FeatureStore.create(path)
    source = {"title": "Tiny", "licence": "research use", "redistribution": redistribution, "home": "", "citation": ""}
    index = replace(make_index(), about={"source": source, "split": "official", "dropped": {}, "leaks": []})
    dataset = store.add_index(index)
    about = {"name": "hf:some/model", "licence": weights}
    store.add_view(V, {"modality": "audio", "backbone": "made.up", "dim": WIDTH, "dtype": "float16", "weights": about})
    writer = store.writer(V, dataset, FORM, {})
    writer.write(0, index.digests[Modality.AUDIO][0].tobytes(), hidden(0))
    store.publish(V, [writer.seal()])
    return store


@pytest.mark.parametrize(
    ("data", "weights", "told"),
    [
        (True, "MIT", []),
        (False, "MIT", ["dataset tiny"]),
        (True, "CC BY-NC-ND 4.0", ["audio made.up"]),
        (True, "", ["audio made.up"]),  # not known
        (False, "academic research", ["dataset tiny", "audio made.up"]),
    ],
)
def test_what_a_licence_forbids_is_told(tmp_path, data, weights, told):
    assert [one.what for one in licences.restrictions(licensed(tmp_path / "s", data, weights))] == told


def test_a_push_that_a_licence_forbids_is_refused_unless_the_user_answers_for_it(msa, tmp_path):  # noqa: F811
    licensed(tmp_path / "s")
    code, _, err = msa("cache", "push", "shared", "--store", "s")
    assert code == 1
    assert "dataset tiny: no permission to share it is known: its licence is: research use" in err
    assert "--i-may-share" in err
    assert not (tmp_path / "shared").exists()
    code, out, err = msa("cache", "push", "shared", "--store", "s", "--i-may-share")
    assert (code, "1 sample in all views" in out) == (0, True), err
    code, out, _ = msa("cache", "pull", "shared", "--store", "mine", "--json")
    assert json.loads(out)["licences"] == {"dataset tiny": "research use", "audio made.up": "MIT"}
    assert "licence: research use" in msa("cache", "clone", "shared", "other")[1]


# commands


def test_commands_that_write_refuse_an_address_and_say_the_way_out(msa):  # noqa: F811
    for words in (["gc"], ["rm", "--dataset", "x", "--store"], ["verify"], ["repair"], ["log", "--store"]):
        code, _, err = msa("cache", *words, "https://ann:pw@host.org/store")
        assert (code, "pw" in err) == (1, False)
        assert "msa cache pull https://host.org/store" in err, words


def test_credentials_are_in_no_output_and_in_no_file(msa, full, bucket, tmp_path, monkeypatch):  # noqa: F811
    said = []
    said += msa("cache", "push", bucket, "--store", full.path, "--i-may-share")
    said += msa("cache", "ls", "--store", bucket)
    said += msa("cache", "pull", bucket, "--store", "copy", "--json")
    with served(tmp_path) as web:
        address = web.url.replace("://", f"://ann:{SECRET}@") + "/copy"
        said += msa("cache", "ls", "--store", address)
        said += msa("cache", "clone", address, "again")
    said += msa("cache", "ls", "--store", address)  # it cannot be reached now
    said += msa("cache", "pull", address + "?X-Amz-Signature=" + SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:9/{SECRET}")
    said += msa("cache", "ls", "--store", "s3://lab/none")
    assert [code for code in said if isinstance(code, int)] == [0, 0, 0, 0, 0, 1, 1, 1]
    everywhere = "\n".join(map(str, said)).encode() + b"".join(contents(tmp_path).values())
    everywhere += "\n".join(contents(tmp_path)).encode()
    for secret in (SECRET, KEYS["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in everywhere


# training


def trainable(path, n=60):
    """Texts whose hidden states tell their label."""
    store, rng = FeatureStore.create(path), np.random.default_rng(0)
    index = make_index(n=n)
    index = replace(index, about={"split": "official", "dropped": {}, "encodings": {}, "leaks": []})
    index.split[:] = np.repeat([0, 1, 2], [n // 3, n // 3, n - 2 * (n // 3)])
    dataset = store.add_index(index)
    store.add_view(V, {"modality": "text", "backbone": "made.up", "dim": WIDTH, "dtype": "float16"})
    writer = store.writer(V, dataset, FORM, {})
    for i in range(n):
        rows = rng.normal(size=(3 + i % 5, WIDTH)) + index.labels[i, 0]
        writer.write(i, index.digests[Modality.TEXT][i].tobytes(), rows.astype(np.float16))
    store.publish(V, [writer.seal()])
    return store


def test_a_corpus_of_which_no_sample_is_meant_stays_where_it_is(full, tmp_path):
    fill(full, make_index(name="other", seed=1), view_id="b" * 16)
    ids = tmp_path / "ids.txt"
    ids.write_text("only-here")
    more = replace(make_index(name="third", seed=2), ids=["only-here", *(f"x{i}" for i in range(19))])
    fill(full, more, view_id="b" * 16)
    result = sync.pull(full.path, tmp_path / "part", Selection(samples=ids))
    assert (result.datasets, result.samples) == (["third"], 1)
    assert [what for what, _ in result.licences] == ["audio made.up", "dataset third"]
    assert len(list((tmp_path / "part" / "index").glob("*/id_bytes"))) == 1  # texts of no other corpus
    assert verify(tmp_path / "part", deep=True) == []


@pytest.mark.parametrize("wanted", [{"datasets": ["nope"]}, {"views": ["nope"]}, {"splits": ["nope"]}, {"samples": ""}])
def test_a_part_that_is_not_there_leaves_nothing_behind(full, tmp_path, wanted):
    if "samples" in wanted:
        wanted = {"samples": tmp_path / "ids.csv"}
        wanted["samples"].write_text("name,label\nid1,2\n")
    with pytest.raises((UnknownNameError, ConfigError)) as error:
        sync.pull(full.path, tmp_path / "part", Selection(**wanted))
    assert "nope" in error.value.what or "ids.csv names no sample" in error.value.what
    assert not (tmp_path / "part").exists()


def test_a_place_that_takes_nothing_is_named(full, tmp_path, monkeypatch):
    def refuse(path, *rest, **folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="is not a store"):
        sync.clone(full.path, tmp_path / "file")
    there = FeatureStore.create(tmp_path / "there").path
    monkeypatch.setattr(os, "mkdir", refuse)
    for call in (sync.push, lambda store, to: sync.pull(store.path, to)):
        with pytest.raises(StoreError, match="there cannot be written to"):
            call(full, there)
    for call in (sync.push, sync.clone):
        with pytest.raises(StoreError, match="new cannot be written to"):
            call(full if call is sync.push else full.path, tmp_path / "new")
    with pytest.raises(StoreError, match="there cannot be written to"):
        FeatureStore.open(there).add_index(make_index())


TRAIN = ("fuse", "train", "--model", "probe", "--seeds", "1", "--set", "epochs=2")


def scores(*runs):
    """The scores of runs, all of which must have the same predictions."""
    assert len({Path(run, "predictions.csv").read_text() for run in runs}) == 1
    return [json.loads(Path(run, "metrics.json").read_text())["seeds"][0]["values"] for run in runs]


@pytest.mark.slow
def test_training_straight_from_afar_gives_the_numbers_of_home_and_can_be_repeated(msa, bucket, tmp_path):  # noqa: F811
    sync.push(trainable(tmp_path / "home"), bucket)
    for name, store in {"near": "home", "far": bucket}.items():
        code, _, err = msa(*TRAIN, "--store", store, "--out", name)
        assert code == 0, err
    assert json.loads(Path("far", "run.json").read_text())["data"]["store"] == bucket
    assert msa("cache", "pull", bucket, "--store", "pulled")[0] == 0
    code, _, err = msa("fuse", "train", "--like", "far", "--store", "pulled", "--out", "again")
    assert code == 0, err
    near, far, again = scores("near", "far", "again")
    assert near == far == again
    code, _, err = msa("fuse", "eval", "far")
    assert (code, "no server is called because a run names it" in err) == (1, True), err
    told = json.loads(msa("fuse", "eval", "far", "--store", bucket, "--json")[1])
    assert told["seeds"][0]["values"] == far
