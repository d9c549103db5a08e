"""Weights by name: what is found where, what is fetched, how it is proven, and how a refusal sounds."""

import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from msa.errors import BackboneError
from msa.extract import weights as weights_module
from msa.extract.backbone import BackboneSpec, Weights
from msa.extract.encoders import face
from msa.extract.transformers_folder import deciding
from msa.extract.weights import face_files, resolve
from msa.types import Modality

COMMIT = "0123456789abcdef0123456789abcdef01234567"
READER, FINDER = {"face_multitask_v28.safetensors": b"reads"}, {"model.safetensors": b"finds"}
TEXT = {"config.json": b"{}", "model.safetensors": b"tensors", "tokenizer.json": b"t", "vocab.txt": b"v"}


def spec(weights: str, modality: Modality = Modality.TEXT, revision: str | None = None) -> BackboneSpec:
    return BackboneSpec(modality, weights, revision)


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached(cache: Path, repo: str, files: dict[str, bytes]) -> Path:
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    return folder(place / "snapshots" / COMMIT, files)


# on this disk


def test_no_weights_have_the_hash_of_nothing():
    assert resolve(spec("")) == Weights(None, None, hashlib.sha256(b"").hexdigest())


def test_a_folder_is_used_as_it_lies(tmp_path):
    weights = resolve(spec(f"hf:{folder(tmp_path / 'w', TEXT)}"))
    assert weights.path == tmp_path / "w"
    assert weights.revision is None


def test_the_hash_covers_what_decides_the_numbers_and_nothing_else(tmp_path):
    plain = resolve(spec(f"hf:{folder(tmp_path / 'a', TEXT)}")).sha256
    beside = {"README.md": b"x", "pytorch_model.bin": b"x", "tf_model.h5": b"x", "preprocessor_config.json": b"x"}
    assert resolve(spec(f"hf:{folder(tmp_path / 'b', TEXT | beside)}")).sha256 == plain
    for i, name in enumerate(TEXT):
        changed = folder(tmp_path / f"c{i}", TEXT | {name: TEXT[name] + b" "})
        assert resolve(spec(f"hf:{changed}")).sha256 != plain
    more = folder(tmp_path / "d", TEXT | {"tokenizer_config.json": b"{}"})
    assert resolve(spec(f"hf:{more}")).sha256 != plain


def test_a_vocabulary_does_not_decide_what_a_speech_model_hears(tmp_path):
    files = {"config.json": b"{}", "pytorch_model.bin": b"tensors", "preprocessor_config.json": b"{}"}
    with_vocabulary = folder(tmp_path / "w", files | {"vocab.json": b"{}"})
    assert [path.name for path in deciding(with_vocabulary, Modality.AUDIO)] == sorted(files)


def test_shards_are_found_through_their_index(tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    files = {"config.json": b"{}", "tokenizer.json": b"t", "model.safetensors.index.json": index}
    partly = folder(tmp_path / "w", files | {"model-1.safetensors": b"1"})
    with pytest.raises(BackboneError) as caught:
        resolve(spec(f"hf:{partly}"))
    assert caught.value.what == f"{partly} has no model-2.safetensors"
    (partly / "model-2.safetensors").write_bytes(b"2")
    assert {path.name for path in deciding(partly, Modality.TEXT)} == set(files) | {
        "model-1.safetensors",
        "model-2.safetensors",
    }


@pytest.mark.parametrize(
    ("modality", "without", "named"),
    [
        (Modality.TEXT, {"config.json"}, "config.json"),
        (Modality.TEXT, {"model.safetensors"}, "model.safetensors or pytorch_model.bin"),
        (Modality.TEXT, {"tokenizer.json", "vocab.txt"}, "tokenizer files"),
        (Modality.AUDIO, set(), "preprocessor_config.json"),
        (Modality.TEXT, set(TEXT), "config.json, model.safetensors or pytorch_model.bin, tokenizer files"),
    ],
)
def test_an_incomplete_folder_says_what_is_missing(tmp_path, modality, without, named):
    place = folder(tmp_path / "w", {name: data for name, data in TEXT.items() if name not in without})
    with pytest.raises(BackboneError) as caught:
        resolve(spec(f"hf:{place}", modality))
    assert caught.value.what == f"{place} has no {named}"


def test_a_checkpoint_has_the_hash_that_sha256sum_prints_whatever_its_name(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"tensors")
    weights = resolve(spec(f"timm:resnest50d.in1k@{tmp_path / 'w.pth'}", Modality.IMAGE))
    assert weights == Weights(tmp_path / "w.pth", None, hashlib.sha256(b"tensors").hexdigest())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnest50d@none.pth", "there is no checkpoint none.pth"),
        ("hf:/none/of/this", "'/none/of/this' is neither a folder here nor a name on the hub"),
        ("onnx:x", "unknown kind of weights: 'onnx:x'"),
        ("pyfeat:none/of/this", "'none/of/this' is neither a folder here nor py-feat/face_multitask_v2"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_error(cache, pyfeat, name, told):
    with pytest.raises(BackboneError) as caught:
        resolve(spec(name))
    assert caught.value.what == told


# in the hub's cache


def test_what_is_in_the_cache_is_taken_from_there_with_its_commit(cache):
    place = cached(cache, "org/name", TEXT)
    weights = resolve(spec("hf:org/name"))
    assert (weights.path, weights.revision) == (place, COMMIT)
    assert resolve(spec("hf:org/name", revision=COMMIT)) == weights
    assert resolve(spec(f"hf:{place}")).sha256 == weights.sha256


def test_a_timm_name_is_a_repository_of_timm(cache):
    place = cached(cache, "timm/resnest50d.in1k", {"model.safetensors": b"tensors"})
    weights = resolve(spec("timm:resnest50d.in1k", Modality.IMAGE))
    assert weights == Weights(place / "model.safetensors", COMMIT, hashlib.sha256(b"tensors").hexdigest())


# py-feat, whose two files lie in a repository each


@pytest.fixture
def pyfeat(monkeypatch):
    """As if it were installed."""
    monkeypatch.setattr(face, "require_pyfeat", lambda: None)


def test_faces_are_read_by_two_files_of_one_folder_or_two_repositories(cache, tmp_path, pyfeat):
    here = resolve(spec(f"pyfeat:{folder(tmp_path / 'w', READER | FINDER | {'README.md': b'x'})}", Modality.FACE))
    assert (here.path, here.revision) == (tmp_path / "w", None)
    reader = cached(cache, "py-feat/face_multitask_v2", READER) / "face_multitask_v28.safetensors"
    finder = cached(cache, "py-feat/retinaface_r34", FINDER) / "model.safetensors"
    there = resolve(spec("pyfeat:py-feat/face_multitask_v2", Modality.FACE))
    assert (there.path, there.revision, there.sha256) == (reader.parent, f"{COMMIT}+{COMMIT}", here.sha256)
    assert resolve(spec("pyfeat:py-feat/face_multitask_v2", Modality.FACE, there.revision)) == there
    assert face_files("py-feat/face_multitask_v2", there.revision) == (reader, finder)


@pytest.mark.parametrize("changed", [READER, FINDER])
def test_the_hash_of_faces_covers_both_networks(tmp_path, pyfeat, changed):
    plain = folder(tmp_path / "a", READER | FINDER)
    other = folder(tmp_path / "b", READER | FINDER | {name: data + b" " for name, data in changed.items()})
    hashes = [resolve(spec(f"pyfeat:{place}", Modality.FACE)).sha256 for place in (plain, other)]
    assert hashes[0] != hashes[1]


def test_a_folder_without_one_of_the_two_says_how_to_get_it(tmp_path, pyfeat):
    place = folder(tmp_path / "w", READER)
    with pytest.raises(BackboneError) as caught:
        resolve(spec(f"pyfeat:{place}", Modality.FACE))
    assert caught.value.what == f"{place} has no model.safetensors or retinaface_r34.safetensors"
    assert f"hf download py-feat/retinaface_r34 model.safetensors --local-dir {place}" in caught.value.fix


def test_without_pyfeat_nothing_is_looked_for(cache, no_sockets, monkeypatch):
    monkeypatch.setattr(face, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="not installed") as caught:
        resolve(spec("pyfeat:py-feat/face_multitask_v2", Modality.FACE))
    assert "pip install 'py-feat" in caught.value.fix


def test_offline_both_repositories_of_faces_are_named(cache, no_sockets, pyfeat):
    cached(cache, "py-feat/face_multitask_v2", READER)
    with pytest.raises(
        BackboneError, match=r"the weights of py-feat/retinaface_r34 .* HF_HUB_OFFLINE is set"
    ) as caught:
        resolve(spec("pyfeat:py-feat/face_multitask_v2", Modality.FACE))
    assert no_sockets == []
    for step in (
        "hf download py-feat/face_multitask_v2 face_multitask_v28.safetensors --local-dir faces",
        "hf download py-feat/retinaface_r34 model.safetensors --local-dir faces",
        "--face pyfeat:faces",
        "--face none",
    ):
        assert step in caught.value.fix


# without a network


@pytest.fixture
def no_sockets(monkeypatch) -> list[object]:
    """Every attempt to reach the network, each of which fails."""
    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.mark.parametrize(
    ("name", "modality", "way"),
    [
        ("hf:org/name", Modality.TEXT, "--text hf:name"),
        ("hf:org/name", Modality.AUDIO, "--audio hf:name"),
        ("timm:resnest50d.in1k", Modality.IMAGE, "--image timm:resnest50d.in1k@resnest50d.in1k/model.safetensors"),
    ],
)
def test_offline_no_connection_is_tried_and_the_way_round_is_shown(cache, no_sockets, name, modality, way):
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set") as caught:
        resolve(spec(name, modality))
    assert no_sockets == []
    repo = name.replace("timm:", "timm/").removeprefix("hf:")
    for step in (f"hf download {repo} --local-dir", way, "--preset classic"):
        assert step in caught.value.fix


def test_a_large_file_is_hashed_whole_and_one_of_holes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "SMALL", 1000)
    whole, holes = tmp_path / "whole", tmp_path / "holes"
    whole.write_bytes(bytes(range(256)) * 100)
    assert weights_module.sha256([whole]) == hashlib.sha256(whole.read_bytes()).hexdigest()
    with open(holes, "wb") as file:
        file.write(b"w" * 4096)
        file.truncate(2**24)
    with pytest.raises(BackboneError, match=r"claims 16,777,216 bytes, [\d,]+ of which were ever written"):
        weights_module.sha256([holes])
    monkeypatch.setattr(weights_module, "SMALL", 2**24 + 1)
    assert weights_module.sha256([holes]) == hashlib.sha256(holes.read_bytes()).hexdigest()


def test_an_incomplete_snapshot_is_not_taken_for_whole(cache, no_sockets):
    cached(cache, "org/name", {"config.json": b"{}"})
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE"):
        resolve(spec("hf:org/name"))


@pytest.fixture
def online(monkeypatch):
    """As if HF_HUB_OFFLINE were not set; sessions made before and during the test are thrown away."""
    from huggingface_hub import close_session

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    close_session()
    yield
    close_session()


def test_a_hub_out_of_reach_is_asked_once(cache, no_sockets, online):
    with pytest.raises(BackboneError, match="does not answer"):
        resolve(spec("hf:org/name"))
    assert len(no_sockets) <= 2, "the client's own repetitions take 23 s"


# from the hub: a small one, on this machine


class Hub(BaseHTTPRequestHandler):
    """One repository, org/name, in the hub's own protocol."""

    files: dict[str, bytes]
    taken: list[str]

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            return self.answer(b"", {}, body)
        if path.startswith("/api/models/org/name/tree/"):
            entries = [{"type": "file", "path": n, "size": len(d), "oid": self.oid(d)} for n, d in self.files.items()]
            return self.answer(json.dumps(entries).encode(), {}, body)
        if path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer(json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode(), {}, body)
        name = path.rpartition("/")[2]
        if path.startswith("/org/name/resolve/") and name in self.files:
            self.taken += [name] if body else []
            data = self.files[name]
            return self.answer(data, {"ETag": f'"{self.oid(data)}"', "X-Repo-Commit": COMMIT}, body)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    @staticmethod
    def oid(data: bytes) -> str:
        return hashlib.sha1(data).hexdigest()

    def answer(self, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: the test reads `taken`."""


@pytest.fixture
def hub(cache, online, monkeypatch):
    """The handler of a running hub; its class holds what it has and what was taken."""
    handler = type("OneHub", (Hub,), {"files": {}, "taken": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_what_is_needed_is_fetched_and_the_second_time_nothing(hub):
    hub.files |= TEXT | {"pytorch_model.bin": b"x", "tf_model.h5": b"x", "flax_model.msgpack": b"x", "README.md": b"x"}
    weights = resolve(spec("hf:org/name"))
    assert sorted(hub.taken) == sorted(TEXT)
    assert weights.revision == COMMIT
    assert weights.path is not None
    assert (weights.path / "model.safetensors").read_bytes() == b"tensors"
    hub.taken.clear()
    assert resolve(spec("hf:org/name")) == weights
    assert hub.taken == []


def test_pickles_are_fetched_where_there_is_nothing_better(hub):
    needed = {"config.json": b"{}", "pytorch_model.bin": b"tensors", "preprocessor_config.json": b"{ }"}
    hub.files |= needed | {"vocab.json": b"{}", "tf_model.h5": b"x"}
    resolve(spec("hf:org/name", Modality.AUDIO))
    assert sorted(hub.taken) == sorted(needed)


def test_of_the_names_a_file_may_have_the_one_the_hub_holds_is_fetched(hub, pyfeat, monkeypatch):
    monkeypatch.setattr(weights_module, "READER", ("org/name", tuple(READER)))
    monkeypatch.setattr(weights_module, "FINDER", ("org/name", ("model.safetensors", "retinaface_r34.safetensors")))
    hub.files |= READER | {"retinaface_r34.safetensors": b"finds", "face_multitask_v27.safetensors": b"x"}
    weights = resolve(spec("pyfeat:org/name", Modality.FACE))
    assert sorted(hub.taken) == ["face_multitask_v28.safetensors", "retinaface_r34.safetensors"]
    assert weights.revision == f"{COMMIT}+{COMMIT}"
    hub.taken.clear()
    assert resolve(spec("pyfeat:org/name", Modality.FACE)) == weights
    assert hub.taken == []


def test_a_repository_that_does_not_exist_is_told_with_the_hubs_reason(hub):
    with pytest.raises(BackboneError, match="RepositoryNotFoundError") as caught:
        resolve(spec("hf:org/other"))
    assert "hf download" in caught.value.fix


def test_a_repository_without_weights_says_what_it_lacks(hub):
    hub.files |= {"config.json": b"{}", "tokenizer.json": b"t"}
    with pytest.raises(BackboneError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        resolve(spec("hf:org/name"))
