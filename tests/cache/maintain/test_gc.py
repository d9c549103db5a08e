import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from msa import cli
from msa.cache.format import generations, tags
from msa.cache.format.attributes import SegmentAttributes
from msa.cache.maintain import gc, history, remove
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write import reuse
from msa.errors import ConfigError, StoreError
from msa.types import Modality
from tests.cache.conftest import WIDTH, fill, hidden, make_index
from tests.cache.test_store import started, written_by_the_dead

VIEW, DAY = "v" * 16, 86_400


@pytest.fixture(autouse=True)
def nobody_pulls_the_plug(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def shrunk(store, index):
    """Generation 2: tiny; 4: other as well; 5: tiny was removed."""
    fill(store, index)
    fill(store, make_index(name="other", seed=1), view_id="w" * 16)
    remove.remove(store, dataset="tiny")
    return store


def age(store, days=2.0):
    """Make everything that is there now so old."""
    then = time.time() - days * DAY
    for path in [*store.path.rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)
    for path in (store.path / "manifests").glob("*.json"):
        found = json.loads(path.read_text())
        found["created"] = "2001-01-01T00:00:00+00:00"
        found.pop("checksum", None)
        path.write_text(json.dumps(found))
        os.utime(path, (then, then))


def sweep(store, grace_s=DAY):
    return gc.collect(FeatureStore.open(store.path), grace_s)[1]


def files(store):
    return {path.relative_to(store.path).as_posix() for path in store.path.rglob("*") if path.is_file()}


def test_what_only_old_generations_name_goes_after_the_grace_period(shrunk):
    before = files(shrunk)
    assert sweep(shrunk) == 0
    assert files(shrunk) == before
    age(shrunk)
    freed = sweep(shrunk)
    gone = before - files(shrunk)
    assert freed > 0
    assert {name.split("/")[1] for name in gone} == {VIEW, make_index().fingerprint}
    opened = FeatureStore.open(shrunk.path)
    assert verify(opened) == []
    assert len(list(history.log(shrunk.path))) == 5
    reader = opened.reader(opened.view("other", Modality.AUDIO))
    np.testing.assert_array_equal(reader.read(7), hidden(7))
    assert sweep(shrunk) == 0


def test_a_reader_of_a_generation_within_the_grace_period_is_safe(store, index):
    fill(store, index)
    age(store)
    pinned = FeatureStore.open(store.path)  # two days old, and the newest until a moment ago
    remove.remove(store, dataset="tiny")
    assert sweep(store) == 0
    reader = pinned.reader(pinned.view("tiny", Modality.AUDIO))
    np.testing.assert_array_equal(reader.read(7), hidden(7))


def test_a_tag_keeps_its_generation_for_ever(shrunk):
    history.tag(shrunk.path, "paper", 2)
    age(shrunk)
    assert sweep(shrunk, 0) == 0
    assert FeatureStore.open(shrunk.path, "paper").view("tiny", Modality.AUDIO).samples == 19
    history.untag(shrunk.path, "paper")
    assert sweep(shrunk, 0) > 0


def test_a_dry_run_and_a_survey_write_nothing(shrunk):
    age(shrunk)
    before = {path: path.stat().st_mtime_ns for path in shrunk.path.rglob("*") if path.is_file()}
    found = gc.make_plan(shrunk.path, DAY)
    assert {item.what for item in found.garbage} == {"superseded"}
    assert found.nbytes > 0
    assert list(found.kept.values()) == ["the newest"]
    assert {path: path.stat().st_mtime_ns for path in shrunk.path.rglob("*") if path.is_file()} == before


def test_the_segment_of_a_living_writer_is_never_touched(store, index):
    writer = started(store, index, range(8))
    (writer.folder / "data" / "c" / ".tmp-shard").write_bytes(b"half")
    age(store, days=400)
    assert sweep(store, 0) == 0
    assert (writer.folder / "data" / "c" / ".tmp-shard").exists()
    (writer.folder / "data" / "c" / ".tmp-shard").unlink()
    store.publish("v", [writer.seal()])
    assert store.view("tiny", Modality.AUDIO).samples == 8


def test_what_killed_writers_had_committed_is_published_not_swept(store, index):
    written_by_the_dead(started(store, index, range(8)))
    age(store)
    assert gc.make_plan(store.path, DAY).left == {"v": 8}
    sweep(store)
    assert FeatureStore.open(store.path).view("tiny", Modality.AUDIO).samples == 8


def test_what_killed_writers_left_of_a_corpus_that_was_removed_goes_with_it(store, index):
    writer = started(store, index, range(8))
    written_by_the_dead(writer)
    remove.remove(store, dataset="tiny")
    assert not writer.folder.exists()
    sweep(store, 0)
    assert FeatureStore.open(store.path).manifest.views == {}


def test_killed_borrowers_leave_nothing(store, index):
    """One before it had a table, and one of a version that kept no journal of borrowing."""
    fill(store, index)
    parent = store.path / "views" / VIEW / "seg"
    entry = store.manifest.views[VIEW].segments[0]
    about = SegmentAttributes(index.fingerprint, {})
    for old in (False, True):
        made = reuse.lend(parent, entry, [], about)
        if old:
            (parent / made.id / "journal.jsonl").unlink()
        else:
            journal = parent / made.id / "journal.jsonl"
            journal.write_text(json.dumps(json.loads(journal.read_text()) | {"writer": {"host": "", "pid": 1}}) + "\n")
    age(store)
    sweep(store)
    assert [path.name for path in parent.iterdir() if path.is_dir()] == [entry.id]
    assert verify(FeatureStore.open(store.path)) == []


def test_unfinished_files_go_when_they_are_old(store, index):
    view = fill(store, index)
    segment = store.path / "views" / VIEW / "seg" / view.entries[0].id
    litter = [store.path / "manifests" / ".tmp-a", store.path / "index" / ".tmp-b" / "x", segment / "data" / ".tmp-c"]
    for path in litter:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    assert sweep(store, 0) == 0
    assert all(path.exists() for path in litter)
    age(store)
    assert sweep(store) == 15
    assert not any(path.exists() for path in litter)
    assert verify(FeatureStore.open(store.path)) == []


def test_what_is_not_ours_stays(shrunk, tmp_path):
    (shrunk.path / "views" / "notes.txt").write_text("x")
    (shrunk.path / "index" / "My Backup").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.tex").write_text("x")
    (shrunk.path / "views" / ("a" * 16)).symlink_to(tmp_path / "elsewhere")
    (shrunk.path / "views" / ".tmp-link").symlink_to(tmp_path / "elsewhere")
    age(shrunk)
    sweep(shrunk)
    assert (tmp_path / "elsewhere" / "thesis.tex").exists()
    assert (shrunk.path / "views" / "notes.txt").exists()
    assert (shrunk.path / "index" / "My Backup").exists()


def test_a_generation_that_is_kept_and_cannot_be_read_stops_a_sweep(shrunk):
    history.tag(shrunk.path, "paper", 2)
    generations.Folder(shrunk.path).path(2).write_text("{}")
    before = files(shrunk)
    with pytest.raises(StoreError):
        sweep(shrunk, 0)
    assert files(shrunk) == before


# in the same moment


def meanwhile(monkeypatch, action):
    """Do something after a sweep has taken things away and before it looks what is needed."""
    real = gc._needed

    def needed(store, numbers, forgiving=False):
        if any(path.name.startswith(".tmp-") for path in store.glob("*/*")) or list(store.glob("views/*/seg/.tmp-*")):
            monkeypatch.setattr(gc, "_needed", real)
            action()
            numbers = gc.kept(store, 0, time.time())
        return real(store, numbers, forgiving)

    monkeypatch.setattr(gc, "_needed", needed)


def test_what_is_published_while_it_is_swept_is_put_back(shrunk, monkeypatch):
    age(shrunk)
    old = generations.read(shrunk.path, 2)

    def publish():  # what a rollback publishes; it has looked before that all files are there
        generations.publish(shrunk.path, lambda new: replace(new, datasets=old.datasets, views=old.views))

    meanwhile(monkeypatch, publish)
    sweep(shrunk)
    assert history.missing_files(shrunk.path, generations.read(shrunk.path)) == []
    opened = FeatureStore.open(shrunk.path)
    np.testing.assert_array_equal(opened.reader(opened.view("tiny", Modality.AUDIO)).read(7), hidden(7))


def test_a_tag_that_is_given_while_its_generation_is_swept_keeps_it_or_says_that_it_cannot(shrunk, monkeypatch):
    age(shrunk)
    monkeypatch.setattr("msa.cache.write.publish.BACK_AFTER_S", 0.05)

    def give():
        with pytest.raises(StoreError, match="are gone, such as"):
            history.tag(shrunk.path, "paper", 2)

    meanwhile(monkeypatch, give)
    sweep(shrunk)
    assert tags.read(shrunk.path) == {}


def test_a_corpus_that_is_added_again_while_it_is_swept_is_whole(shrunk, index):
    """Its folder is named after its content: the writer finds it there, the sweep finds it touched."""
    age(shrunk)
    found = gc.make_plan(shrunk.path, DAY)
    assert f"index/{index.fingerprint}" in {item.path for item in found.garbage}
    store = FeatureStore.open(shrunk.path)
    folder = index.write(shrunk.path / "index")
    os.utime(folder / "zarr.json")  # as add_index does, before it publishes
    store.add_view(VIEW, {"modality": "audio", "backbone": "b", "dim": 3})
    gc.delete(shrunk.path, found.garbage, DAY)
    assert folder.exists()
    assert (shrunk.path / "views" / VIEW / "zarr.json").exists()
    store.add_index(index)
    assert len(store.index("tiny")) == 20


def test_who_borrows_from_what_was_swept_meanwhile_borrows_nothing(shrunk, index):
    """A long run pinned a generation in which the old hidden states were still there."""
    late = FeatureStore.open(shrunk.path, 4)
    dataset = late.add_index(make_index(name="later"))
    entry = generations.read(shrunk.path, 4).views[VIEW].segments[0]
    about = SegmentAttributes(dataset, {})
    rows = reuse.segment.table(shrunk.path / "views" / VIEW / "seg" / entry.id)
    made = reuse.lend(shrunk.path / "views" / VIEW / "seg", entry, rows, about)
    shutil.rmtree(shrunk.path / "views" / VIEW / "seg" / entry.id)
    assert late.publish(VIEW, [made]) == []
    assert not (shrunk.path / "views" / VIEW / "seg" / made.id).exists()
    assert VIEW not in FeatureStore.open(shrunk.path).manifest.views


def test_borrowed_data_that_vanishes_in_the_very_moment_is_given_up(store, index, monkeypatch):
    fill(store, index)
    other = make_index()
    other.split[:] = 0
    dataset = store.add_index(other)
    real = os.link

    def link(source, target, **folders):
        monkeypatch.setattr(os, "link", real)
        real(source, target, **folders)
        (entry,) = store.manifest.views[VIEW].segments
        shutil.rmtree(store.path / "views" / VIEW / "seg" / entry.id)

    monkeypatch.setattr("msa.cache.write.publish.BACK_AFTER_S", 0.05)
    monkeypatch.setattr(os, "link", link)
    assert reuse.borrow(store, VIEW, dataset, other.digests[Modality.AUDIO], range(20)) == 0
    assert store.views(dataset) == []


# rm


def test_rm_frees_at_once_only_where_it_is_told_to(store, index):
    fill(store, index)
    first = store.manifest.generation
    done = remove.remove(store, dataset="tiny")
    assert (done.freed, done.tags) == (0, ())
    assert done.later > 19 * WIDTH * 2
    assert history.rollback(store.path, first).generation == 4
    opened = FeatureStore.open(store.path)
    now = remove.remove(opened, dataset="tiny", now=True)
    assert now.freed >= done.later
    assert now.later == 0
    assert not (store.path / "views" / VIEW).exists()


def test_rm_at_once_spares_what_a_tag_needs_and_names_it(store, index):
    fill(store, index)
    history.tag(store.path, "paper")
    done = remove.remove(store, dataset="tiny", now=True)
    assert (done.freed, done.tags) == (0, ("paper",))
    opened = FeatureStore.open(store.path, "paper")
    np.testing.assert_array_equal(opened.reader(opened.view("tiny", Modality.AUDIO)).read(7), hidden(7))


def test_data_that_is_lent_outlives_the_corpus_it_was_made_for(store, index):
    fill(store, index)
    other = make_index(name="other")
    dataset = store.add_index(other)
    assert reuse.borrow(store, VIEW, dataset, other.digests[Modality.AUDIO], range(20)) == 19
    remove.remove(store, dataset="tiny", now=True)
    age(store)
    sweep(store)
    opened = FeatureStore.open(store.path)
    np.testing.assert_array_equal(opened.reader(opened.view("other", Modality.AUDIO)).read(7), hidden(7))
    assert verify(opened) == []


# the command


@pytest.mark.parametrize(("text", "found"), [("24h", DAY), ("7d", 7 * DAY), ("30m", 1800), ("0", 0), ("1.5h", 5400)])
def test_spans_of_time_are_read(text, found):
    assert gc.seconds(text) == found


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1 week", "inf"])
def test_what_is_no_span_of_time_is_refused(text):
    with pytest.raises(ConfigError):
        gc.seconds(text)


def test_the_command_says_what_is_kept_and_what_goes(shrunk):
    def run(*words):
        done = CliRunner().invoke(cli.app, ["cache", "gc", str(shrunk.path), *words])
        assert done.exit_code == 0, done.output
        return done.output

    told = run("--dry-run")
    assert "keep generation 5: the newest" in told
    assert "keep 4 generations from 1 on: the newest within the grace period" in told
    age(shrunk)
    assert "superseded: 3 folders" in run("--dry-run")
    assert "freed" in run("--yes")
    assert "nothing to free" in run()


def test_what_is_published_while_a_sweep_looks_round_is_no_litter(store, index, monkeypatch):
    """The generation that appears between its two looks at the manifests is newer than all it knows, not older."""
    fill(store, index)
    real = gc.kept

    def kept(*given):
        found = real(*given)
        fill(FeatureStore.open(store.path), make_index(name="late", seed=3), view_id="x" * 16)
        return found

    monkeypatch.setattr(gc, "kept", kept)
    assert gc.make_plan(store.path, 0.0).garbage == ()
