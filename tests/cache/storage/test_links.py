"""A stranger's store may hold links, pipes and journals that lie: nothing outside it is changed, and errors say so."""

import json
import os
import shutil
import time
from contextlib import suppress
from itertools import count

import pytest

from msa.cache.format import local_files
from msa.cache.maintain import compact, gc, history, remove, repair
from msa.cache.maintain.verify import LINK, verify
from msa.cache.share import sync
from msa.cache.store import FeatureStore
from msa.cache.write import journal, recovery
from msa.cache.write.journal import Journal
from msa.errors import MsaError, StoreError
from msa.types import Modality
from tests.cache.conftest import FORM, fill, hidden, make_index
from tests.faults import hostile_stores, store_changes

VIEW = "v" * 16
DEAD = "20200101-000000-deadbeef"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of two segments, a tag, and what a killed writer left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        store = FeatureStore.create(tmp_path_factory.mktemp("links") / "store")
        index = make_index()
        fill(store, index, range(8), VIEW)
        fill(store, index, range(8, 12), VIEW)
        history.tag(store.path, "paper", 2)
        left(store, index, range(12, 19))
    return store.path


def left(store, index, rows):
    """What a killed writer of another machine leaves: a journal an hour old."""
    writer = store.writer(VIEW, store.dataset(index.name), FORM, {})
    for i in rows:
        writer.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i))
    writer.flush()
    folder = writer.folder.rename(writer.folder.with_name(DEAD))
    change_header(folder, writer={"host": "elsewhere", "pid": 1, "started": 1.0})
    return folder


def change_header(folder, **facts):
    path = folder / "journal.jsonl"
    first, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(json.dumps(json.loads(first) | facts).encode() + b"\n" + rest)
    os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def copied(whole, tmp_path, monkeypatch):
    """Makes fresh copies of the store; beside them lies a canary."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    store_changes.canary(tmp_path / "canary")
    numbers = count()
    return lambda: shutil.copytree(whole, tmp_path / f"store{next(numbers)}", copy_function=shutil.copy2)


OPERATIONS = {
    "gc": lambda path, other: gc.collect(FeatureStore.open(path), 0.0),
    "rm --now": lambda path, other: remove.remove(FeatureStore.open(path), dataset="tiny", now=True),
    "recover": lambda path, other: FeatureStore.open(path).recover(VIEW),
    "repair": lambda path, other: repair.carry_out(repair.plan(path)),
    "compact": lambda path, other: compact.compact(FeatureStore.open(path), shard_bytes=2**20),
    "merge": lambda path, other: sync.merge(other, path),
    "pull": lambda path, other: sync.pull(other, path),
    "add": lambda path, other: fill(FeatureStore.open(path), make_index(), range(19), VIEW),
    "tag": lambda path, other: (history.tag(path, "mine"), history.untag(path, "paper")),
    "rollback": lambda path, other: history.rollback(path, 1),
}
SEG = f"views/{VIEW}/seg"
PLACES = [
    *("index", "index/*", "index/*/split", "views", f"views/{VIEW}", SEG, f"{SEG}/2*", "manifests", "tags"),
    *(f"{SEG}/{DEAD}{below}" for below in ("", "/data", "/data/c", "/data/c/0", "/data/c/0/0", "/journal.jsonl")),
    *("zarr.json", f"views/{VIEW}/zarr.json", f"{SEG}/zarr.json", "manifests/00000001.json", "tags/paper.json"),
]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_behind_a_link_is_changed(copied, tmp_path, whole, place):
    """What was there is moved outside and linked to, so that whatever follows the link would go on happily."""
    for name, operation in OPERATIONS.items():
        path = copied()
        victim = sorted(path.glob(place))[-1]
        moved = tmp_path / "canary" / f"{path.name}-moved"
        victim.rename(moved)
        victim.symlink_to(moved)
        before = store_changes.seen(tmp_path / "canary")
        with suppress(MsaError):
            operation(path, whole)
        assert store_changes.seen(tmp_path / "canary") == before, name


@pytest.mark.parametrize("name", [".tmp-x", ".claim~h~1~0.0~x", "20200101-000000-00000000", "at-work~x", "odd"])
@pytest.mark.parametrize("parent", ["", "index", "views", f"views/{VIEW}", SEG, f"{SEG}/{DEAD}", "manifests", "tags"])
def test_a_link_that_was_added_is_not_followed(copied, tmp_path, whole, parent, name):
    for operation in OPERATIONS.values():
        path = copied()
        (path / parent / name).symlink_to(tmp_path / "canary")
        before = store_changes.seen(tmp_path / "canary")
        with suppress(MsaError):
            operation(path, whole)
        assert store_changes.seen(tmp_path / "canary") == before


def test_a_store_may_be_reached_through_a_link(copied, tmp_path, whole):
    (tmp_path / "way").symlink_to(copied())
    assert FeatureStore.open(tmp_path / "way").recover(VIEW) == 7
    assert verify(FeatureStore.open(tmp_path / "way")) == []
    gc.collect(FeatureStore.open(tmp_path / "way"), 0.0)


def test_verify_names_links_and_repair_sets_them_aside(copied, tmp_path):
    path = copied()
    (path / SEG / DEAD / "data" / "c").rename(tmp_path / "moved")
    (path / SEG / DEAD / "data" / "c").symlink_to(tmp_path / "moved")
    (path / "views" / "elsewhere").symlink_to(tmp_path)
    named = {problem.where for problem in verify(path) if problem.what == LINK}
    assert named == {f"{SEG}/{DEAD}/data/c", "views/elsewhere"}
    repair.carry_out(repair.plan(path))
    assert not [problem for problem in verify(path) if problem.what == LINK]
    assert (tmp_path / "moved" / "0" / "0").exists()


def test_gc_names_what_it_cannot_take_over_and_does_the_rest(copied, tmp_path):
    path = copied()
    shutil.rmtree(path / SEG / DEAD / "data" / "c")
    (path / SEG / DEAD / "data" / "c").symlink_to(tmp_path)
    (told,) = gc.make_plan(path, 0.0).damaged
    assert f"{DEAD}/data/c is a symbolic link" in told
    found, _ = gc.collect(FeatureStore.open(path), 0.0)
    assert found.damaged == (told,)


@pytest.mark.parametrize("gone", ["index", "views", f"views/{VIEW}", SEG, "manifests", "tags", "zarr.json"])
def test_a_part_that_is_gone_is_an_error_or_made_again(copied, whole, gone):
    for operation in OPERATIONS.values():
        path = copied()
        (path / gone).rename(path / "moved")
        with suppress(MsaError):
            operation(path, whole)


# one place for all changes


def test_a_link_put_in_the_way_later_is_refused(tmp_path, monkeypatch):
    """Between the look at a folder and the work in it, another process replaces it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    (outside / "b").mkdir(parents=True)
    (outside / "b" / "file").write_text("mine")
    (root / "a" / "b" / "file").write_text("theirs")
    with local_files.folder(root, root / "a") as here:
        (root / "a").rename(root / "gone")
        (root / "a").symlink_to(outside)
        os.unlink("b/file", dir_fd=here)  # works in what was opened, whatever its name leads to now
    assert (outside / "b" / "file").exists()
    for change in (
        lambda: local_files.remove(root, root / "a" / "b" / "file"),
        lambda: local_files.write(root, root / "a" / "b" / "new", b""),
        lambda: local_files.rename(root, root / "a" / "b", root / "c"),
        lambda: local_files.make_folder(root, root / "a" / "d"),
        lambda: local_files.touch(root, root / "a" / "b" / "file"),
        lambda: local_files.listed(root, root / "a"),
        lambda: list(local_files.tree(root, root / "a" / "b")),
        lambda: local_files.opened(root, root / "a" / "b" / "file", os.O_WRONLY),
        lambda: local_files.create(root, root / "a" / "b" / "new", b"", lambda error: error),
    ):
        with pytest.raises(StoreError, match="symbolic link"):
            change()
    local_files.remove(root, root / "a")  # the link itself
    assert sorted(path.name for path in outside.rglob("*")) == ["b", "file"]


def test_no_path_leaves_by_its_dots(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match="leads out"):
        local_files.remove(tmp_path / "a", tmp_path / "a" / ".." / "b")
    with pytest.raises(ValueError, match="subpath"):
        local_files.remove(tmp_path / "a", tmp_path / "b")


def test_a_pipe_is_no_file_to_write_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises((StoreError, OSError)):
        local_files.opened(tmp_path, tmp_path / "pipe", os.O_WRONLY)
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        local_files.refuse_links(tmp_path, tmp_path)
    local_files.sync_tree(tmp_path, tmp_path)


def test_folders_without_end_are_an_error(tmp_path):
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=at)
        at, above = os.open("d", os.O_RDONLY, dir_fd=at), at
        os.close(above)
    os.close(at)
    with pytest.raises(StoreError, match="deeper"):
        list(local_files.tree(tmp_path, tmp_path / "d"))
    with suppress(StoreError):
        local_files.remove(tmp_path, tmp_path / "d")


# journals

ROW = [12, 0, 1, "00" * 16, {}]
LINES = {
    "shard up": {"shard": "../.."},
    "shard absolute": {"shard": "/tmp"},
    "shard negative": {"shard": -1},
    "shard half": {"shard": 0.5},
    "shard true": {"shard": True},
    "shard huge": {"shard": 2**62},
    "rows none": {"rows": 0},
    "rows many": {"rows": 10**9},
    "digest of the shard": {"sha256": "x"},
    "samples no list": {"samples": {"0": 1}},
    "sample text": {"samples": [["12", *ROW[1:]]]},
    "sample negative": {"samples": [[-1, *ROW[1:]]]},
    "sample out of the dataset": {"samples": [[20, *ROW[1:]]]},
    "sample twice": {"samples": [ROW, ROW]},
    "start out of the shard": {"samples": [[12, 64, 1, *ROW[3:]]]},
    "length none": {"samples": [[12, 0, 0, *ROW[3:]]]},
    "length over the rows": {"samples": [[12, 0, 65, *ROW[3:]]]},
    "digest": {"samples": [[*ROW[:3], "zz", {}]]},
    "counts": {"samples": [[*ROW[:4], {"a": -1}]]},
    "short row": {"samples": [[12, 0]]},
    "failure no object": {"failures": [3]},
    "failure out of the dataset": {"failures": [{"sample": 20, "digest": "00" * 16, "stage": "decode", "reason": "x"}]},
    "failure without digest": {"failures": [{"sample": 1, "stage": "decode", "reason": "x"}]},
}


@pytest.mark.parametrize("change", LINES.values(), ids=LINES)
def test_a_journal_that_says_what_no_writer_says_is_an_error_and_stays(copied, change):
    path = copied()
    folder = path / SEG / DEAD
    first, second, *_ = (folder / "journal.jsonl").read_bytes().split(b"\n")
    line = json.loads(second) | {"samples": [ROW], "failures": []}
    (folder / "journal.jsonl").write_bytes(first + b"\n" + json.dumps(line | change).encode() + b"\n")
    change_header(folder)
    before = store_changes.seen(folder)
    with pytest.raises(StoreError, match=r"journal\.jsonl") as error:
        FeatureStore.open(path).recover(VIEW)
    assert f"remove {folder}" in error.value.fix
    assert store_changes.seen(folder) == before


HEADERS = {
    "dataset": {"dataset": "../../x"},
    "run": {"run": 3},
    "form": {"form": [8]},
    "width": {"form": {"width": 2**60, "dtype": "float16", "chunk": 16, "shard": 64}},
    "another width": {"form": {"width": 9, "dtype": "float16", "chunk": 16, "shard": 64}},
    "dtype": {"form": {"width": 8, "dtype": ["float16"], "chunk": 16, "shard": 64}},
    "shard of no whole chunks": {"form": {"width": 8, "dtype": "float16", "chunk": 16, "shard": 63}},
    "data of elsewhere": {"data_of": "../../../x"},
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_header_that_no_writer_wrote_is_an_error(copied, change):
    path = copied()
    change_header(path / SEG / DEAD, **change)
    with pytest.raises(StoreError):
        FeatureStore.open(path).recover(VIEW)


@pytest.mark.parametrize("text", [b"[" * 10**6 + b"\n", b"9" * 10**6 + b"\n", b"\xff\n", b"3\n", b'"x"\n', b"null\n"])
def test_a_line_that_is_no_object_is_an_error_and_a_header_none(tmp_path, text):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(text)
    assert Journal.read(tmp_path) is None
    head = {"dataset": "d", "form": vars(FORM), "run": {}, "writer": {}}
    path.write_bytes(json.dumps(head).encode() + b"\n" + text)
    with pytest.raises(StoreError, match="line 2"):
        Journal.read(tmp_path)
    path.write_bytes(json.dumps(head).encode() + b"\n" + text[:-1])  # torn: it never counted
    assert Journal.read(tmp_path).samples == []


def test_a_journal_of_a_terabyte_a_pipe_or_a_link_is_an_error_at_once(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(StoreError, match="bytes"):
        Journal.read(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        Journal.read(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(StoreError):
        journal.header(path)


@pytest.mark.parametrize("name", ["odd", "..2", "20200101-000000-DEADBEEF", ".claimed"])
def test_only_folders_that_are_called_like_segments_are_taken_over(copied, name):
    path = copied()
    (path / SEG / DEAD).rename(path / SEG / name)
    assert FeatureStore.open(path).recover(VIEW) == 0
    assert (path / SEG / name / "journal.jsonl").exists()


def test_what_else_lies_in_a_segment_that_is_taken_over_is_not_published(copied):
    path = copied()
    for name in ("data/c/0/extra", "data/x/c/0", "odd/zarr.json", "data/c/00/0"):
        (path / SEG / DEAD / name).parent.mkdir(parents=True, exist_ok=True)
        (path / SEG / DEAD / name).write_text("{}")
    assert FeatureStore.open(path).recover(VIEW) == 7
    assert verify(path) == []


def test_recovery_knows_claims_and_segments_alone():
    assert recovery.is_segment(DEAD) and recovery.is_segment(f".claim~h~1~0.0~{DEAD}")
    assert not recovery.is_segment(".tmp-x") and not recovery.is_segment("..")


# everything at once


@pytest.mark.slow
def test_stores_mutated_at_random_through_every_command(tmp_path):
    faults, codes, peak, _ = hostile_stores.trials(tmp_path, stores=5, seed=11, workers=2)
    assert faults == []
    assert peak < hostile_stores.MOST_BYTES
    assert sum(codes.values()) == 5 * 22
