import json
import os

import numpy as np
import pytest
from typer.testing import CliRunner

from msa import cli
from msa.cache.format import generations, tags
from msa.cache.format.manifest import checksum
from msa.cache.maintain import gc, history, remove
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.errors import ConfigError, StoreError, UnknownNameError
from msa.types import Modality
from tests.cache.conftest import FORM, fill, hidden, make_index


@pytest.fixture(autouse=True)
def nobody_pulls_the_plug(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def grown(store, index):
    """Generation 1: a corpus; 2: nine samples; 3: ten more."""
    fill(store, index, rows=range(9))
    fill(store, index, rows=range(9, 19))
    return store


def lines(store):
    return {one.number: one.lines for one in history.log(store.path)}


def test_the_log_says_what_each_generation_brought(grown):
    assert lines(grown) == {
        1: ["+ tiny 20 samples"],
        2: ["+ tiny audio made.up 9 samples"],
        3: ["+ tiny audio made.up 10 samples"],
    }
    assert [one.number for one in history.log(grown.path, limit=2)] == [3, 2]
    assert all(one.whole and one.creator == generations.creator() for one in history.log(grown.path))


def test_the_log_tells_of_failures_taken_back_and_of_what_was_removed(store, index):
    view = fill(store, index, rows=range(5))
    writer = store.writer(view.id, view.dataset, FORM, {})
    writer.fail(7, b"7" * 16, "decode", "broken")
    store.publish(view.id, [writer.seal()])
    remove.retract_failures(store, store.view("tiny", Modality.AUDIO))
    remove.remove(store, dataset="tiny")
    told = lines(store)
    assert told[3] == ["~ tiny audio made.up 1 failed"]
    assert told[4] == ["~ tiny audio made.up 1 failure fewer"]
    assert told[5] == ["- tiny 20 samples", "- tiny audio made.up 5 samples"]


def test_a_diff_adds_up_what_lies_between(grown):
    (corpus, view) = history.diff(grown.path, 0, 3)
    assert (corpus.added, view.added, view.removed, view.segments) == (20, 19, 0, (0, 2))
    assert view.nbytes == sum(size for e in grown.view("tiny", Modality.AUDIO).entries for size, _ in e.files.values())
    (back,) = history.diff(grown.path, 3, 2)
    assert (back.added, back.removed, back.segments) == (0, 10, (2, 1))
    assert history.diff(grown.path, 3, 3) == []


def test_corpora_of_one_name_are_told_apart(store, index):
    other = make_index()
    other.split[:] = 0
    fingerprints = [store.add_index(index), store.add_index(other)]
    assert [str(c) for c in history.diff(store.path, 0, 2)] == [f"+ tiny@{f[:8]} 20 samples" for f in fingerprints]


def test_a_tag_is_made_once_and_names_what_it_was_made_for(grown):
    assert history.tag(grown.path, "paper-1", 2) == 2
    assert history.tag(grown.path, "paper-1", 2) == 2  # the same again is no conflict
    with pytest.raises(StoreError, match="tag paper-1 already, of generation 2"):
        history.tag(grown.path, "paper-1", 3)
    assert history.tag(grown.path, "now") == 3
    assert tags.read(grown.path) == {"now": 3, "paper-1": 2}
    assert FeatureStore.open(grown.path, "paper-1").view("tiny", Modality.AUDIO).samples == 9
    history.untag(grown.path, "now")
    assert tags.read(grown.path) == {"paper-1": 2}
    with pytest.raises(UnknownNameError, match="nwo"):
        history.untag(grown.path, "nwo")


@pytest.mark.parametrize("name", ["12", "", "../up", "a/b", ".hidden", "-x", "ä", "x" * 65, "a b", "a\n"])
def test_a_name_that_is_none_is_refused(grown, name):
    with pytest.raises(ConfigError):
        history.tag(grown.path, name)
    assert not list(grown.path.rglob("tags/*"))


def test_rolling_back_brings_the_content_and_keeps_the_history(grown):
    history.tag(grown.path, "early", 2)
    made = history.rollback(grown.path, "early")
    assert made.generation == 4
    back = FeatureStore.open(grown.path)
    assert back.view("tiny", Modality.AUDIO).samples == 9
    np.testing.assert_array_equal(back.reader(back.view("tiny", Modality.AUDIO)).read(4), hidden(4))
    assert lines(grown)[4] == ["rolled back to 2 (early)", "- tiny audio made.up 10 samples"]
    assert history.rollback(grown.path, 3).generation == 5
    assert FeatureStore.open(grown.path).view("tiny", Modality.AUDIO).samples == 19
    assert verify(FeatureStore.open(grown.path)) == []
    assert history.rollback(grown.path, 3).generation == 5  # that is what it shows already


def test_the_order_of_publication_comes_back_too(store, index):
    fill(store, index, view_id="v" * 16, rows=range(3))
    fill(store, index, view_id="w" * 16, rows=range(3))
    before = store.view("tiny", Modality.AUDIO).id
    fill(store, index, view_id="v" * 16, rows=range(3, 6))
    assert store.view("tiny", Modality.AUDIO).id != before
    history.rollback(store.path, 3)
    assert FeatureStore.open(store.path).view("tiny", Modality.AUDIO).id == before


def test_what_was_swept_cannot_come_back_and_says_so(grown):
    remove.remove(grown, dataset="tiny", now=True)
    assert [(one.number, one.whole) for one in history.log(grown.path)] == [
        (4, True),
        (3, False),
        (2, False),
        (1, False),
    ]
    assert lines(grown)[3] == ["+ tiny view vvvvvvvvvvvvvvvv 10 samples"]
    with pytest.raises(StoreError, match=r"generation 3 needs \d+ files that are gone"):
        history.rollback(grown.path, 3)
    with pytest.raises(StoreError, match="are gone, such as"):
        history.tag(grown.path, "late", 3)
    assert FeatureStore.open(grown.path).datasets == {}


def test_a_rollback_that_meets_a_sweep_gives_up_and_leaves_the_store_as_it_was(grown, monkeypatch):
    """The sweep looked before the rollback was published, and deletes after."""
    remove.remove(grown, dataset="tiny")
    found = gc.make_plan(grown.path, 0)
    real = os.link

    def link(source, target, **folders):
        real(source, target, **folders)
        monkeypatch.setattr(os, "link", real)
        monkeypatch.setattr(gc, "_needed", lambda *_, **__: set())  # what it read before
        os.utime(grown.path / "views" / ("v" * 16) / "zarr.json", (0, 0))
        gc.delete(grown.path, found.garbage, 0)

    monkeypatch.setattr("msa.cache.write.publish.BACK_AFTER_S", 0.1)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="are gone, such as"):
        history.rollback(grown.path, 3)
    assert FeatureStore.open(grown.path).datasets == {}
    assert history.missing_files(grown.path, generations.read(grown.path)) == []


def test_generations_that_do_not_exist_are_named(grown):
    for call in (history.rollback, lambda path, name: history.diff(path, 1, name)):
        with pytest.raises(StoreError, match="no generation 9"):
            call(grown.path, 9)
        with pytest.raises(UnknownNameError, match="papr"):
            call(grown.path, "papr")
    with pytest.raises(StoreError, match="no generation 9"):
        FeatureStore.open(grown.path, 9)


def test_a_damaged_old_generation_does_not_hide_the_others(grown):
    generations.Folder(grown.path).path(2).write_text("{")
    told = lines(grown)
    assert "not JSON" in told[2][0]
    assert told[1] == ["+ tiny 20 samples"]


def test_what_a_stranger_wrote_cannot_steer_a_terminal(grown):
    path = generations.Folder(grown.path).path(3)
    found = json.loads(path.read_text()) | {"note": "fine\x1b[2J\nreally"}
    path.write_text(json.dumps(found | {"checksum": checksum(found)}))
    assert lines(grown)[3][0] == r"fine\x1b[2J\nreally"


def test_the_commands_tell_the_same(grown):
    def run(*words):
        done = CliRunner().invoke(cli.app, ["cache", *words, "--store", str(grown.path)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "+ tiny audio made.up 9 samples" in run("log")
    assert "+ tiny audio made.up 10 samples" in run("diff", "2", "3")
    assert "tag paper now names generation 2" in run("tag", "paper", "2")
    assert "paper" in run("tag")
    assert "generation 4 has the content of generation 2" in run("rollback", "paper", "--yes")
    assert "deleted" in run("tag", "paper", "--delete")
    assert json.loads(run("log", "--json"))[0]["number"] == 4
    assert json.loads(run("diff", "3", "4", "--json"))[0]["removed"] == 10


def test_a_name_that_is_wrong_is_answered_with_those_there_are(grown):
    history.tag(grown.path, "paper")
    with pytest.raises(UnknownNameError) as error:
        tags.generation_of(grown.path, "first")
    assert error.value.fix == "known: generations 1 to 3, paper"
    done = CliRunner().invoke(cli.app, ["cache", "tag", "--delete", "--store", str(grown.path)])
    assert done.exit_code == 2
    assert tags.read(grown.path) == {"paper": 3}


def test_the_way_back_from_a_removal_names_the_store(grown):
    done = CliRunner().invoke(cli.app, ["cache", "rm", "--dataset", "tiny", "--yes", "--store", str(grown.path)])
    assert f"msa cache rollback 3 --store {grown.path}" in done.output.replace("\n", "")
