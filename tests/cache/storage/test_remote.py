"""A store behind an address: found without listing, brought in parts, kept between processes, never trusted."""

import base64
import errno
import json
import multiprocessing
import os
import shutil
import sys
import time

import numpy as np
import pytest

from msa.cache.storage import mirror, object_store, site
from msa.cache.storage.wire import Unreachable
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError
from msa.types import Modality
from tests.cache.conftest import fill, hidden, make_index
from tests.faults.servers import served


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(site, "PAUSE_S", 0.01)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Samples 0 to 9 and 10 to 18, in a segment each."""
    store = FeatureStore.create(tmp_path_factory.mktemp("made") / "store")
    fill(store, make_index(), rows=range(10))
    fill(store, make_index(), rows=range(10, 19))
    return store.path


@pytest.fixture
def store(made, tmp_path):
    return FeatureStore.open(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def web(store, tmp_path):
    with served(tmp_path) as web:
        web.url += "/store"
        yield web


def reader_of(store):
    return store.reader(store.view("tiny", Modality.AUDIO))


def check(store, rows=range(19)):
    x, length = reader_of(store).gather(np.array(rows))
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(x[i, : length[i]], hidden(row))


# addresses


def test_an_address_is_shown_without_what_it_hides():
    assert site.shown("https://ann:pw@host.org:8080/a/b/?token=x#y") == "https://host.org:8080/a/b"
    assert object_store.redacted("GET http://ann:pw@host/a?X-Sig=1 failed") == "GET http://host/a failed"
    assert "pw" not in str(site.connect("http://ann:pw@host/a")) + repr(site.connect("http://ann:pw@host/a"))


@pytest.mark.parametrize("url", ["ftp://host/a", "s3:///x", "https://host/store?sig=1"])
def test_an_address_that_cannot_be_a_store_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        FeatureStore.open(url)
    assert "sig" not in str(caught.value)


def test_no_store_and_no_server_are_told_apart(web):
    with pytest.raises(StoreError, match="there is no store at"):
        FeatureStore.open(web.url + "/nowhere")
    with pytest.raises(StoreError, match="cannot be reached"):
        site.connect("http://127.0.0.1:9/store").size("zarr.json")


def test_a_password_is_sent_as_a_header_and_a_refusal_says_where_to_put_one(web, tmp_path, monkeypatch):
    web.authorization = "Basic " + base64.b64encode(b"ann:pa ss").decode()
    with pytest.raises(StoreError, match="netrc"):
        FeatureStore.open(web.url)
    check(FeatureStore.open(web.url.replace("://", "://ann:pa%20ss@")), [3])
    (tmp_path / "netrc").write_text('machine 127.0.0.1 login ann password "pa ss"\n')
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    check(FeatureStore.open(web.url), [3])


# generations without a list


def generations(folder, numbers, hint=None):
    (folder / "manifests").mkdir(parents=True)
    for number in numbers:
        (folder / "manifests" / f"{number:08d}.json").write_text("{}")
    if hint is not None:
        (folder / site.HINT).write_text(hint)


@pytest.mark.parametrize(
    ("numbers", "hint", "newest"),
    [
        ((), None, []),
        ((1,), None, [1]),
        (range(1, 38), None, [37]),
        (range(1, 38), '{"generation": 5}', [37]),
        (range(1, 38), '{"generation": 37}', [37]),
        (range(1, 6), '{"generation": 90}', [5]),  # gone again: not believed
        ((17, 18), '{"generation": 17}', [18]),  # a clone
        (range(1, 6), '{"generation": -3}', [5]),
        (range(1, 6), "no json", [5]),
    ],
)
def test_the_newest_generation_is_found_without_a_list(tmp_path, numbers, hint, newest):
    generations(tmp_path / "s", numbers, hint)
    with served(tmp_path) as web:
        assert site.connect(f"{web.url}/s").numbers() == newest
        assert len(web.asked) < 20


def test_a_web_server_takes_no_files(web):
    with pytest.raises(StoreError, match="can only be read"):
        site.connect(web.url).add("x", b"")


# blocks


def test_reading_over_http_gives_what_lies_there(web, store):
    found = FeatureStore.open(web.url)
    check(found)
    assert found.where == web.url
    assert found.index("tiny").ids == store.index("tiny").ids
    assert FeatureStore.open(web.url, 2).manifest.generation == 2
    with pytest.raises(StoreError, match="no generation 9"):
        FeatureStore.open(web.url, 9)


def test_what_was_brought_is_not_asked_for_again(web):
    check(FeatureStore.open(web.url))
    web.asked.clear()
    web.sent = 0
    check(FeatureStore.open(web.url))
    assert {path.split("/")[2] for _, path, _ in web.asked} == {"zarr.json", "manifests"}


def large(store, n=24, rows=500, width=64, view_id="b" * 16):
    """A view of one shard of 1.5 MB in chunks of 8 KiB; sample i holds the number i."""
    from msa.cache.write.segment import Form

    index = make_index(n=n, name="large")
    dataset = store.add_index(index)
    store.add_view(view_id, {"modality": "text", "backbone": "big", "dim": width, "dtype": "float16"})
    writer = store.writer(view_id, dataset, Form(width, "float16", 64, 64 * 256), {})
    for i in range(n):
        writer.write(i, index.digests[Modality.TEXT][i].tobytes(), np.full((rows, width), i, np.float16))
    store.publish(view_id, [writer.seal()])
    return store.reader(store.view(dataset, Modality.TEXT))


def test_only_the_chunks_of_a_batch_travel_and_neighbours_in_one_request(web, store):
    local = large(store)
    found = FeatureStore.open(web.url)
    reader = found.reader(found.view("large", Modality.TEXT))
    reader.gather(np.array([0]))
    web.asked.clear()
    web.sent = 0
    x, length = reader.gather(np.array([4, 5, 20]))
    np.testing.assert_array_equal(x, local.gather(np.array([4, 5, 20]))[0])
    assert length.tolist() == [500] * 3
    states = 3 * 500 * 64 * 2
    assert states <= web.sent <= states + 3 * 8192 + 6 * mirror.BLOCK
    assert len([1 for way, _, span in web.asked if span]) == 2
    reader.gather(np.array([4, 5, 20]))
    assert len(web.asked) == 2


def test_a_flipped_bit_on_the_way_is_found_by_the_reader(web, store):
    large(store)
    (shard,) = store.path.glob(f"views/{'b' * 16}/seg/*/data/c/0/0")
    data = bytearray(shard.read_bytes())
    data[70_000] ^= 4
    shard.write_bytes(data)
    found = FeatureStore.open(web.url)
    reader = found.reader(found.view("large", Modality.TEXT))
    assert reader.read(3)[0, 0] == 3
    with pytest.raises(StoreError, match="does not match its checksum"):
        reader.read(1)


def test_a_damaged_small_file_is_named_and_not_kept(web, store, cache):
    path = min(store.path.glob("views/*/seg/*/length/c/0"))
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(StoreError, match=r"length/c/0 does not match the SHA-256"):
        check(FeatureStore.open(web.url))
    assert not (next(cache.iterdir()) / path.relative_to(store.path)).exists()


def test_a_missing_shard_and_a_short_one_are_errors_and_never_zeros(web, store):
    (view,) = store.manifest.views.values()
    shards = [next(store.path.glob(f"views/*/seg/{entry.id}/data/c/0/0")) for entry in view.segments]
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-30])
    with pytest.raises(StoreError, match="which its manifest names"):
        check(FeatureStore.open(web.url), range(1))
    with pytest.raises(StoreError, match=r"has 558 bytes, and its manifest says 588"):
        check(FeatureStore.open(web.url), range(10, 11))


def test_a_store_made_anew_at_the_same_address_is_not_mixed_with_the_old_one(web, store, tmp_path):
    check(FeatureStore.open(web.url))
    shutil.rmtree(store.path)
    other = FeatureStore.create(store.path)
    fill(other, make_index(seed=3), rows=range(5))
    found = FeatureStore.open(web.url)
    assert (reader_of(found).length >= 0).sum() == 5
    check(found, range(5))


def have(cache):
    return {path: np.frombuffer(path.read_bytes()[mirror.HEADER :], np.uint8) for path in cache.rglob(mirror.MARKS)}


def test_marks_of_another_start_of_the_machine_are_checked_against_checksums(web, store, cache):
    large(store)
    found = FeatureStore.open(web.url)
    found.reader(found.view("large", Modality.TEXT)).gather(np.arange(10))
    (marks,) = [path for path, there in have(cache).items() if "b" * 16 in str(path)]
    del found
    shard = marks.with_name("0")
    data = bytearray(shard.read_bytes())
    data[300_000:308_192] = bytes(8192)  # a power cut: marked, and never written
    shard.write_bytes(data)
    text = bytearray(marks.read_bytes())
    text[16:32] = bytes(range(16))
    marks.write_bytes(text)
    web.sent = 0
    found = FeatureStore.open(web.url)
    x, _ = found.reader(found.view("large", Modality.TEXT)).gather(np.arange(10))
    assert (x == np.arange(10)[:, None, None]).all()
    assert 8192 <= web.sent < 200_000


def test_old_shards_make_room_and_those_in_use_stay(web, store, cache, monkeypatch):
    for i, name in enumerate("cdf"):
        large(store, n=8, view_id=name * 16)
        found = FeatureStore.open(web.url)
        view = next(view for view in found.views("large") if view.id == name * 16)
        reader = found.reader(view)
        reader.gather(np.arange(8))
        if name == "c":
            kept = reader  # still open
        else:
            del reader, found
        for marks in cache.rglob(mirror.MARKS):
            if name * 16 in str(marks):
                os.utime(marks, (time.time() - 1000 + i, time.time() - 1000 + i))
    monkeypatch.setenv("MSA_CACHE_BYTES", "1.2MB")
    found = FeatureStore.open(web.url)
    check(found, range(1))
    left = {part for path in have(cache) for part in path.parts if len(part) == 16 and part[0] in "cdf"}
    assert left == {"c" * 16, "f" * 16}  # in use; the last one used
    assert (kept.gather(np.array([2]))[0] == 2).all()
    monkeypatch.setenv("MSA_CACHE_BYTES", "much")
    with pytest.raises(ConfigError, match="MSA_CACHE_BYTES"):
        mirror.most_bytes()


def read_all(url, queue):
    try:
        found = FeatureStore.open(url)
        reader = found.reader(found.view("large", Modality.TEXT))
        for start in range(0, 24, 3):
            x, _ = reader.gather(np.arange(start, start + 3))
            assert (x == np.arange(start, start + 3)[:, None, None]).all()
        queue.put("")
    except BaseException as error:
        queue.put(repr(error))


@pytest.mark.slow
def test_processes_share_one_copy(web, store):
    large(store)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    started = [context.Process(target=read_all, args=(web.url, queue)) for _ in range(3)]
    for one in started:
        one.start()
    assert [queue.get(timeout=60) for _ in started] == [""] * 3
    for one in started:
        one.join()


def test_a_fork_is_told_to_open_the_store_itself(web, monkeypatch):
    found = FeatureStore.open(web.url)
    reader = reader_of(found)
    monkeypatch.setattr(found.blocks, "_pid", -1)
    with pytest.raises(StoreError, match="spawn"):
        reader.read(0)


# a store that cannot be written to, as one on NFS that others own

WATCHED: list = []
TOUCHED: list = []


def _hook(event, words):
    if not WATCHED or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.utime", "os.rmdir"):
        return
    if event == "open":
        path, _, flags = words
        if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    else:
        path = words[0]
        if os.sep not in str(path):  # a name in an open folder
            path = os.readlink(f"/proc/self/fd/{next(fd for fd in words[::-1] if isinstance(fd, int))}")
    if str(path).startswith(WATCHED[0]):
        TOUCHED.append((event, str(path)))
        raise OSError(errno.EROFS, "Read-only file system", str(path))


@pytest.fixture
def read_only(store):
    if not hasattr(sys, "_msa_hook"):
        sys.addaudithook(_hook)
        sys._msa_hook = True
    WATCHED.append(str(store.path))
    TOUCHED.clear()
    yield store.path
    WATCHED.clear()


def test_reading_never_writes_into_a_store(read_only, tmp_path):
    from msa.cache.share import sync

    found = FeatureStore.open(read_only)
    check(found)
    assert found.index("tiny").ids
    sync.pull(read_only, tmp_path / "copy")
    with served(tmp_path) as web:
        check(FeatureStore.open(f"{web.url}/store"))
    assert TOUCHED == []
    WATCHED.clear()
    check(FeatureStore.open(tmp_path / "copy"))


def test_pushing_to_a_read_only_store_says_so(read_only, tmp_path):
    from msa.cache.share import sync

    WATCHED.clear()
    other = FeatureStore.create(tmp_path / "other")
    fill(other, make_index(name="more"), view_id="w" * 16)
    WATCHED.append(str(read_only))
    with pytest.raises((StoreError, OSError), match=r"[Rr]ead-only"):
        sync.push(other, read_only)


def test_hints_are_small_json(tmp_path):
    site.Disk(tmp_path).store.joinpath("manifests").mkdir()
    site.Disk(tmp_path).hint(12)
    assert json.loads((tmp_path / site.HINT).read_text()) == {"msa_format": 1, "generation": 12}


@pytest.mark.parametrize(("retries", "requests"), [(True, 1), (False, site.TRIES)])
def test_a_request_is_repeated_by_site_or_by_the_library_and_never_by_both(monkeypatch, retries, requests):
    class Broken:
        def __init__(self):
            self.retries, self.asked = retries, 0

        def size(self, name):
            self.asked += 1
            raise Unreachable("broke", fix="wait")

    monkeypatch.setattr(site, "PAUSE_S", 0.0)
    wire = Broken()
    with pytest.raises(Unreachable):
        site.Remote("s3://lab/store", wire).size("zarr.json")
    assert wire.asked == requests
