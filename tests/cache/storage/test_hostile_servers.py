"""Servers that lie, stall, never end or send us elsewhere: few requests, little memory, an error that says why."""

import gzip
import http.server
import json
import os
import re
import resource
import shutil
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from msa.cache.format import generations
from msa.cache.format.manifest import checksum
from msa.cache.share import sync
from msa.cache.storage import mirror, object_store, web, wire
from msa.cache.storage import site as remote
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, MsaError, StoreError
from msa.types import Modality
from tests.cache.conftest import fill, hidden, make_index
from tests.faults.servers import contents, served

ROOT = "zarr.json"


class Odd:
    """A web server of a folder that answers some requests its own way: `odd(handler, head)`, or False."""

    def __init__(self, root, odd):
        self.asked, outer = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words):
                pass

            def do_HEAD(self):
                self.answer(True)

            def do_GET(self):
                self.answer(False)

            def answer(self, head):
                outer.asked.append((self.command, self.path, dict(self.headers)))
                if odd(self, head) is not False:
                    return None
                path = root / self.path.lstrip("/")
                if not path.is_file():
                    return self.send(404, b"", head)
                data, code, more = path.read_bytes(), 200, {}
                if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                    first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
                    more = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
                    data, code = data[first : last + 1], 206
                return self.send(code, data, head, **more)

            def send(self, code, data, head, /, **headers):
                self.send_response(code)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if not head:
                    self.wfile.write(data)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # a client that hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@contextmanager
def odd_server(root, odd):
    made = Odd(root, odd)
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    monkeypatch.setattr(wire, "SILENT_S", 0.4)
    monkeypatch.setattr(wire, "SLOW_S", 0.3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = FeatureStore.create(tmp_path_factory.mktemp("made") / "store")
    fill(store, make_index(), rows=range(10))
    return store.path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def read(url, rows=range(10)):
    found = FeatureStore.open(url)
    x, length = found.reader(found.view("tiny", Modality.AUDIO)).gather(np.array(rows))
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(x[i, : length[i]], hidden(row))


def edited(store, change):
    """Change the newest manifest as a stranger can: its checksum is right again."""
    path = max((store / "manifests").glob("[0-9]*.json"))
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said | {"checksum": checksum(said)}))


def of_shard(said):
    (view,) = said["views"].values()
    return next(facts for name, facts in view["segments"][0]["files"].items() if name.startswith("data/c/"))


def largest(folder):
    return max([0, *(path.stat().st_size for path in folder.rglob("*") if path.is_file())])


# sizes that are not true


@pytest.mark.parametrize("size", [2**42, 2**49, 1, 0])
def test_a_shard_is_not_made_as_large_as_a_manifest_says(store, tmp_path, size):
    edited(store, lambda said: of_shard(said).__setitem__(0, size))
    with served(tmp_path) as site:
        with pytest.raises(StoreError, match=r"data/c/0/0 has [0-9,]+ bytes, and its manifest says [0-9,]+"):
            read(f"{site.url}/store")
        told = r"its manifest says|bytes are needed, [0-9,]+ bytes are free" if size else r"does not match the SHA-256"
        with pytest.raises(StoreError, match=told):
            sync.clone(f"{site.url}/store", tmp_path / "clone")
        with pytest.raises(StoreError, match=told):
            sync.pull(f"{site.url}/store", tmp_path / "pulled")
    for folder in ("cache", "clone", "pulled"):
        assert largest(tmp_path / folder) < 2**20


def test_a_server_that_lies_like_its_manifest_gets_no_more_of_the_disk_than_is_allowed(store, tmp_path):
    edited(store, lambda said: of_shard(said).__setitem__(0, 2**42))

    def odd(asked, head):
        if "/data/c/" not in asked.path:
            return False
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("Range", ""))
        n = int(found[2]) - int(found[1]) + 1 if found else 2**42
        asked.send_response(206 if found else 200)
        asked.send_header("Content-Length", str(n))
        if found:
            asked.send_header("Content-Range", f"bytes {found[1]}-{found[2]}/{2**42}")
        asked.end_headers()
        return None if head or not found else asked.wfile.write(bytes(n))

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match="MSA_CACHE_BYTES"):
        read(f"{site.url}/store")
    assert largest(tmp_path / "cache") < 2**20


def test_a_small_file_that_is_said_to_be_enormous_is_refused_with_its_manifest(store, tmp_path):
    def change(said):
        (dataset,) = said["datasets"].values()
        dataset["files"]["split/c/0"][0] = 2**40

    edited(store, change)
    with served(tmp_path) as site:
        with pytest.raises(StoreError, match=r"split/c/0 has 1099511627776 bytes"):
            FeatureStore.open(f"{site.url}/store")
        assert all("split" not in path for _, path, _ in site.asked)


def test_a_transfer_that_does_not_fit_on_the_disk_is_refused_before_it_begins(store, tmp_path, monkeypatch):
    from collections import namedtuple

    full = namedtuple("Usage", "total used free")(10**6, 10**6, 10)
    monkeypatch.setattr("msa.cache.share.transfer.shutil.disk_usage", lambda path: full)
    with served(tmp_path) as site:
        with pytest.raises(StoreError, match="10 bytes are free"):
            sync.clone(f"{site.url}/store", tmp_path / "clone")
        assert all("/data/c/" not in path for _, path, _ in site.asked)


# servers that have everything


@pytest.mark.parametrize("listed", [False, True])
def test_a_server_that_has_every_manifest_is_found_out_within_few_requests(store, tmp_path, listed):
    def odd(asked, head):
        if "/manifests/" not in asked.path or not head:
            return False
        if not listed and asked.path.endswith("/00000000.json"):
            return False
        asked.send(200, b"0123456789", head)
        return None

    with odd_server(tmp_path, odd) as site:
        with pytest.raises(StoreError, match="every generation it is asked for"):
            FeatureStore.open(f"{site.url}/store")
        assert len(site.asked) < 40


def test_a_server_that_shows_a_page_for_everything_is_no_store(tmp_path):
    def odd(asked, head):
        asked.send(200, b"<!doctype html><title>Welcome</title>", head)

    with odd_server(tmp_path, odd) as site:
        with pytest.raises(StoreError, match=r"a web page in place of zarr\.json"):
            FeatureStore.open(f"{site.url}/store")
        assert len(site.asked) == 1


def test_a_manifest_that_is_there_and_cannot_be_had_is_told(store, tmp_path):
    def odd(asked, head):
        return asked.send(404, b"", head) if not head and re.search(r"/[0-9]{8}\.json", asked.path) else False

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match="said to be there, and cannot be had"):
        FeatureStore.open(f"{site.url}/store")


@pytest.mark.parametrize("hint", ["9" * 5000, "1e400", "[1]", "true", '{"a":' * 100_000])
def test_hints_of_strangers_are_no_more_than_hints(store, tmp_path, hint):
    (store / "manifests" / "latest.json").write_text(f'{{"generation": {hint}}}')
    with served(tmp_path) as site:
        read(f"{site.url}/store")


def test_names_of_manifests_that_are_none_are_let_be(store):
    for name in ("9" * 200 + ".json", "99999999x.json", "000000001.json", "-0000001.json"):
        (store / "manifests" / name).write_text("{}")
    assert generations.generations(store) == [1, 2]


def test_a_bucket_is_not_listed_without_end(monkeypatch):
    import obstore
    from obstore.store import MemoryStore

    place = object_store.Bucket.__new__(object_store.Bucket)
    place.url, place._scheme, place._store = "s3://b/p", "s3", MemoryStore()
    for name in ("00000001.json", "00000003.json", "9" * 30 + ".json", "latest.json", "x/00000009.json.bak"):
        obstore.put(place._store, f"manifests/{name}", b"{}")
    assert place.manifests() == [1, 3]
    monkeypatch.setattr(object_store, "MOST_NAMES", 3)
    with pytest.raises(StoreError, match="more than 3 names"):
        place.manifests()


# time


def dripping(asked, head, data, pause):
    asked.send_response(200)
    asked.send_header("Content-Length", str(len(data)))
    asked.end_headers()
    for i in range(0 if head else len(data)):
        asked.wfile.write(data[i : i + 1])
        asked.wfile.flush()
        time.sleep(pause)


@pytest.mark.parametrize("where", ["/zarr.json", "latest.json", "/length/c/0", "/data/c/0/0"])
def test_a_byte_now_and_then_is_too_slow(store, tmp_path, where):
    def odd(asked, head):
        path = tmp_path / asked.path.lstrip("/")
        if head or not asked.path.endswith(where) or (where == "/zarr.json" and asked.path.count("/") != 2):
            return False
        return dripping(asked, head, path.read_bytes() if path.exists() else bytes(100), 0.02)

    (store / "manifests" / "latest.json").write_text(json.dumps({"generation": 1, "more": "x" * 200}))
    began = time.monotonic()
    with odd_server(tmp_path, odd) as site:
        if where == "latest.json":
            read(f"{site.url}/store")  # a hint is not waited for
        else:
            with pytest.raises(StoreError, match=r"arrives too slowly: [0-9]+ bytes in [0-9]+ s"):
                (sync.clone(f"{site.url}/store", tmp_path / "c") if "data" in where else read(f"{site.url}/store"))
    assert time.monotonic() - began < 8


def test_what_comes_fast_enough_may_take_longer_than_that():
    ticks = iter(range(1000))
    pieces = list(wire.paced(iter([b"x" * 2048] * 50), "here", lambda: float(next(ticks))))
    assert len(pieces) == 50  # 2 KiB a second
    ticks = iter(range(1000))
    with pytest.raises(StoreError, match="here arrives too slowly"):
        list(wire.paced(iter([b"x" * 10**6] + [b"x" * 100] * 50), "here", lambda: float(next(ticks))))


@pytest.mark.parametrize("how", ["nothing", "status", "header", "body"])
def test_a_server_that_falls_silent_is_given_up(store, tmp_path, how):
    def odd(asked, head):
        if how != "nothing":
            asked.wfile.write(b"HTTP/1.1 200 OK\r\n" if how != "status" else b"HTTP/1.1")
        if how == "body":
            asked.wfile.write(b"Content-Length: 10\r\n\r\n01")
        for _ in range(200):
            time.sleep(0.02)
            if how == "header":  # never silent, and never at an end
                asked.wfile.write(b"x")

    began = time.monotonic()
    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match="cannot be reached"):
        FeatureStore.open(f"{site.url}/store")
    assert time.monotonic() - began < 4


def test_a_transfer_goes_on_as_long_as_it_gets_on(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    arrived = [0]

    def way(step):
        arrived[0] += step
        if arrived[0] < 10 * 2**20:
            raise wire.Unreachable("broke", fix="wait")
        return "done"

    assert remote.persistently(lambda: way(2**20), lambda s: None, lambda: arrived[0]) == "done"
    arrived[0] = 0
    with pytest.raises(wire.Unreachable):  # a byte each time is not getting on
        remote.persistently(lambda: (time.sleep(0.01), way(1)), lambda s: None, lambda: arrived[0])
    assert arrived[0] < 5


# bodies


def endless(asked, head, code=200, **headers):
    asked.send_response(code)
    asked.send_header("Transfer-Encoding", "chunked")
    for name, value in headers.items():
        asked.send_header(name.replace("_", "-"), value)
    asked.end_headers()
    piece = b"100000\r\n" + bytes(2**20) + b"\r\n"
    for _ in range(0 if head else 4000):
        asked.wfile.write(piece)


@pytest.mark.parametrize("code", [200, 206, 404, 403, 500, 302])
def test_a_body_without_end_is_not_read(store, tmp_path, code):
    sent = []

    def odd(asked, head):
        if asked.path.endswith("/data/c/0/0") or asked.path.endswith("latest.json"):
            sent.append(code)
            return endless(asked, head, code, Location="/nowhere")
        return False

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError):
        read(f"{site.url}/store")
    assert sent and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_more_than_was_asked_for_is_not_read(store, tmp_path):
    def odd(asked, head):
        if "/data/c/" not in asked.path or head:
            return False
        n = 6 * 2**30
        asked.send_response(206 if asked.headers.get("Range") else 200)
        asked.send_header("Content-Length", str(n))
        asked.send_header("Content-Range", f"bytes 0-{n - 1}/{n}")
        asked.end_headers()
        for _ in range(6000):
            asked.wfile.write(bytes(2**20))
        return None

    with odd_server(tmp_path, odd) as site:
        with pytest.raises(StoreError, match="asked for bytes"):
            read(f"{site.url}/store")
        with pytest.raises(StoreError, match="has 6,442,450,944 bytes, and its manifest says"):
            sync.clone(f"{site.url}/store", tmp_path / "clone")
    assert largest(tmp_path / "clone") < 2**20


def test_a_packed_answer_is_not_unpacked(store, tmp_path):
    bomb = gzip.compress(bytes(2**26))

    def odd(asked, head):
        if not asked.path.endswith("/length/c/0"):
            return False
        return asked.send(200, bomb, head, Content_Encoding="gzip")

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match=r"packs its files \(gzip\)"):
        read(f"{site.url}/store")


@pytest.mark.parametrize("told", ["", "9" * 5000, "-5", "12, 13", "0x10"])
def test_a_length_that_is_none_is_refused(store, tmp_path, told):
    def odd(asked, head):
        asked.send_response(200)
        if told:
            asked.send_header("Content-Length", told)
        asked.send_header("Connection", "close")
        asked.end_headers()
        asked.close_connection = True

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match=r"how many bytes|cannot be reached"):
        FeatureStore.open(f"{site.url}/store")


@pytest.mark.parametrize(
    "head_of", ["X: " + "x" * 10**6, "\r\n".join(f"X-{i}: 1" for i in range(1000)), "\x00\x1b[31m"]
)
def test_a_head_without_measure_is_refused(tmp_path, head_of):
    def odd(asked, head):
        asked.wfile.write(b"HTTP/1.1 200 OK\r\n" + head_of.encode() + b"\r\n\r\n")
        asked.close_connection = True

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError) as caught:
        FeatureStore.open(f"{site.url}/store")
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("told", ["bytes 1-100/588", "bytes */588", "", "bytes 0-99/x", "bytes 0-99/999999"])
def test_another_part_than_was_asked_for_is_refused(store, tmp_path, told):
    def odd(asked, head):
        if head or "/data/c/" not in asked.path:
            return False
        return asked.send(206, bytes(100), head, **({"Content-Range": told} if told else {}))

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match=r"asked for bytes|manifest says"):
        read(f"{site.url}/store")


def test_an_answer_that_breaks_off_is_asked_for_again_and_then_given_up(store, tmp_path):
    breaks = [2]

    def odd(asked, head):
        path = tmp_path / asked.path.lstrip("/")
        if head or not asked.path.endswith("/length/c/0") or not breaks[0]:
            return False
        breaks[0] -= 1
        asked.send_response(200)
        asked.send_header("Content-Length", str(path.stat().st_size))
        asked.end_headers()
        asked.wfile.write(path.read_bytes()[:5])
        asked.close_connection = True
        return None

    with odd_server(tmp_path, odd) as site:
        read(f"{site.url}/store")
        assert breaks == [0]
        breaks[0] = 100
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(StoreError, match=r"cannot be reached|broke off"):
            read(f"{site.url}/store")
        assert breaks[0] == 100 - remote.TRIES


# where we are sent


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://host/x", "gopher://x", "//", "http://", "http://[::1", ""]
)
def test_a_redirect_leads_to_web_addresses_alone(tmp_path, target):
    def odd(asked, head):
        return False if not target and asked.path.endswith("x") else asked.send(302, b"", head, Location=target)

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError):
        FeatureStore.open(f"{site.url}/store")
    assert len(site.asked) <= web.REDIRECTS + 1


def test_a_redirect_in_a_circle_ends(tmp_path):
    with odd_server(tmp_path, lambda asked, head: asked.send(302, b"", head, Location=asked.path)) as site:
        with pytest.raises(StoreError, match="sent on more than 5 times"):
            FeatureStore.open(f"{site.url}/store")
        assert len(site.asked) == web.REDIRECTS + 1


def test_a_redirect_on_the_same_host_is_followed_without_the_password(store, tmp_path):
    with odd_server(tmp_path, lambda asked, head: False) as other:
        to_other = lambda asked, head: asked.send(307, b"", head, Location=other.url + asked.path)  # noqa: E731
        with odd_server(tmp_path, to_other) as site:
            read(f"{site.url.replace('://', '://ann:secret@')}/store")
    assert all("Authorization" in headers or "authorization" in headers for _, _, headers in site.asked)
    assert not any("authorization" in map(str.lower, headers) for _, _, headers in other.asked) and other.asked


def test_a_redirect_from_elsewhere_into_this_network_is_refused(store, tmp_path, monkeypatch):
    asked_for = []
    real = socket.getaddrinfo

    def resolve(host, *rest, **named):
        asked_for.append(host)
        return real("127.0.0.1" if host == "features.example.org" else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with odd_server(tmp_path, lambda asked, head: False) as inner:
        inside = inner.url.replace("127.0.0.1", "localhost")
        to_inner = lambda asked, head: asked.send(302, b"", head, Location=inside + "/admin?token=1")  # noqa: E731
        with odd_server(tmp_path, to_inner) as site:
            address = site.url.replace("127.0.0.1", "features.example.org")
            with pytest.raises(StoreError, match="lies in this network") as caught:
                FeatureStore.open(f"{address}/store")
    assert "localhost" in asked_for and inner.asked == [] and "token" not in str(caught.value)


def test_https_is_never_left_for_http():
    place = web.Web("https://host/store", {})
    with pytest.raises(StoreError, match="no web address that can be followed"):
        place._onward("https://host/store/zarr.json", "http://host/store/zarr.json")
    assert place._onward("http://host/a", "https://host/a") == "https://host/a"


# servers without ranges


def whole_files(asked, head):
    del asked.headers["Range"]
    return False


def test_a_server_without_ranges_is_read_by_whole_files(store, tmp_path):
    with odd_server(tmp_path, whole_files) as site:
        read(f"{site.url}/store")
        read(f"{site.url}/store")
        shards = [path for way, path, _ in site.asked if way == "GET" and "/data/c/" in path]
        # the part that was asked for in vain, and all of it; the second reader finds it here
        assert len(shards) == 2 * len(set(shards))
        sync.clone(f"{site.url}/store", tmp_path / "clone")
    found = contents(store)
    assert {
        name: data for name, data in contents(tmp_path / "clone").items() if name in found and "manif" not in name
    } == {name: data for name, data in found.items() if "manif" not in name}


def test_a_transfer_from_a_server_without_ranges_goes_on_in_the_middle_of_a_file(store, tmp_path):
    with odd_server(tmp_path, whole_files) as site:
        place = remote.connect(f"{site.url}/store")
        (shard,) = store.glob("views/*/seg/*/data/c/0/0")
        name, data = shard.relative_to(store).as_posix(), shard.read_bytes()
        for start in (0, 1, 300, len(data) - 1):
            assert b"".join(place.stream(name, start, len(data))) == data[start:]


def test_a_whole_file_of_another_length_is_refused(store, tmp_path):
    def odd(asked, head):
        del asked.headers["Range"]
        return asked.send(200, bytes(100_000), head) if "/data/c/" in asked.path and not head else False

    with odd_server(tmp_path, odd) as site, pytest.raises(StoreError, match="has 100,000 bytes, and its manifest says"):
        read(f"{site.url}/store")


# the cache


def nowhere(*words, **named):
    raise OSError(1, "Operation not permitted")


def test_a_cache_without_hard_links_works(store, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", nowhere)
    with served(tmp_path) as site:
        read(f"{site.url}/store")
        site.asked.clear()
        read(f"{site.url}/store")
        assert not any(span for _, _, span in site.asked)


@pytest.mark.parametrize("how", ["file", "below a file", "unwritable", "full", "link"])
def test_a_cache_that_cannot_be_kept_is_named(store, tmp_path, monkeypatch, how):
    there = tmp_path / "there"
    if how in ("file", "below a file"):
        there.write_text("")
    if how == "below a file":
        there = there / "below"
    if how == "unwritable":
        monkeypatch.setattr(mirror.Path, "mkdir", lambda *w, **n: (_ for _ in ()).throw(PermissionError(13, "denied")))
    if how == "full":
        monkeypatch.setattr(mirror, "_write", lambda *w: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setenv("MSA_CACHE", str(there))
    with served(tmp_path) as site:
        if how == "link":
            there.mkdir()
            remote.folder_of(remote.connect(f"{site.url}/store")).symlink_to(store)
        with pytest.raises(StoreError) as caught:
            read(f"{site.url}/store")
    assert "MSA_CACHE" in caught.value.fix


@pytest.mark.parametrize("what", ["0", mirror.MARKS, "c", "seg"])
def test_a_link_in_the_cache_is_not_written_through(store, tmp_path, what):
    victim = tmp_path / "victim"
    with served(tmp_path) as site:
        read(f"{site.url}/store", [3])
        (shard,) = (tmp_path / "cache").rglob("data/c/0/0")
        (tmp_path / "outside").mkdir()
        if what in ("c", "seg"):
            folder = next(path for path in shard.parents if path.name == what)
            shutil.move(folder, tmp_path / "outside" / what)
            folder.symlink_to(tmp_path / "outside" / what)
            marks = next((tmp_path / "outside").rglob(mirror.MARKS))
            marks.unlink()  # so that all is to be brought, and written, again
            before = contents(tmp_path / "outside")
        else:
            path = shard.with_name(what)
            victim.write_bytes(bytes(path.stat().st_size))
            before = contents(tmp_path)["victim"]
            path.unlink()
            path.symlink_to(victim)
            if what == "0":
                shard.with_name(mirror.MARKS).unlink()
        with pytest.raises(StoreError):
            read(f"{site.url}/store", [7])
    after = contents(tmp_path / "outside") if what in ("c", "seg") else contents(tmp_path)["victim"]
    assert after == before


# addresses and the environment


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a\nb",
        "http://host/\x00",
        "http://host/\x1b[31m",
        "http://host:99999/a",
        "http://host:x/a",
        "http://[::1/a",
        "http://ho\udce9st/a",
        "http://host/\udcff",
        "s3://bucket/\n",
        "http://" + "a" * 70 + ".org/x",
        "http://../x",
        "://",
        "http:///x",
    ],
)
def test_an_address_that_is_none_is_refused_and_shown_harmlessly(url):
    with pytest.raises(ConfigError) as caught:
        FeatureStore.open(url)
    assert str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("value", ["secret\n", "\nsecret", "sec\tret", "sec\x7fret", "secr\u00e9t", "\udce9"])
@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"]
)
def test_a_variable_that_no_header_can_hold_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        FeatureStore.open("s3://bucket/store")
    assert "secret" not in str(caught.value)


def test_a_panic_of_obstore_is_an_error_of_ours_and_a_fault_of_ours_keeps_its_traceback():
    place = object_store.Bucket.__new__(object_store.Bucket)
    place.url, place._scheme = "s3://b/p", "s3"

    class PanicException(BaseException):
        pass

    with pytest.raises(StoreError, match=r"obstore, which talks to it, broke down: called .unwrap"), place._errors("x"):
        raise PanicException("called `unwrap` on an Err\nstack")
    with pytest.raises(KeyError), place._errors("x"):
        raise KeyError("ours")
    with pytest.raises(KeyboardInterrupt), place._errors("x"):
        raise KeyboardInterrupt


def test_an_address_of_something_else_is_told(tmp_path):
    (tmp_path / "other").mkdir()
    for name, text in (("zarr.json", '{"attributes": [1]}'), ("b", "")):
        (tmp_path / "other" / name).write_text(text)
    with served(tmp_path) as site, pytest.raises(MsaError, match="none that msa wrote"):
        FeatureStore.open(f"{site.url}/other")
