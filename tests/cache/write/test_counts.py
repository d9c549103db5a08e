"""What was counted of a sample goes where the sample goes, and is gone when it is."""

import json

import pytest

from msa.cache.maintain import remove
from msa.cache.maintain.describe import describe
from msa.cache.maintain.verify import verify
from msa.cache.write import reuse
from msa.types import Modality
from tests.cache.conftest import FORM, WIDTH, hidden, make_index

FRAMES, DARK = "frames", "frames without a face"


@pytest.fixture
def dataset(store, index):
    store.add_view("v", {"modality": "audio", "backbone": "b", "dim": WIDTH})
    return store.add_index(index)


def writer(store, dataset, index, rows):
    """A segment in which sample i has i + 1 frames; every fourth of them shows no face."""
    made = store.writer("v", dataset, FORM, {})
    for i in rows:
        counts = {FRAMES: i + 1} | ({DARK: 1} if i % 4 == 3 else {})
        made.write(i, index.digests[Modality.AUDIO][i].tobytes(), hidden(i), counts)
    return made


def counted(store, number=-1):
    return describe(store)["datasets"][number]["views"][0]["counts"]


def test_a_view_counts_what_its_samples_do(store, index, dataset):
    for rows in (range(6), range(6, 10)):
        store.publish("v", [writer(store, dataset, index, rows).seal()])
    assert counted(store) == {FRAMES: 55, DARK: 2}
    assert verify(store) == []


def test_a_failure_that_is_tried_again_is_counted_once(store, index, dataset):
    one = writer(store, dataset, index, range(3))
    one.fail(5, b"5" * 16, "encode", "no face in 9 frames", {FRAMES: 9, DARK: 9})
    store.publish("v", [one.seal()])
    assert counted(store) == {FRAMES: 6 + 9, DARK: 9}
    remove.retract_failures(store, store.view("tiny", Modality.AUDIO))
    assert counted(store) == {FRAMES: 6}
    store.publish("v", [writer(store, dataset, index, [5]).seal()])
    assert counted(store) == {FRAMES: 6 + 6}


def test_what_is_borrowed_brings_its_counts(store, index, dataset):
    store.publish("v", [writer(store, dataset, index, range(10)).seal()])
    other = make_index(name="other")
    other.split[:] = 0
    wanted = store.add_index(other)
    assert reuse.borrow(store, "v", wanted, other.digests[Modality.AUDIO], range(4)) == 4
    assert counted(store) == {FRAMES: 1 + 2 + 3 + 4, DARK: 1}
    assert counted(store, 0) == {FRAMES: 55, DARK: 2}
    assert verify(store) == []


def test_of_two_runs_that_extracted_the_same_samples_one_is_counted(store, index, dataset):
    one, two = writer(store, dataset, index, range(8)), writer(store, dataset, index, range(4, 9))
    two.fail(2, b"2" * 16, "encode", "no face", {FRAMES: 100})
    store.publish("v", [one.seal()])
    store.publish("v", [two.seal()])
    assert counted(store) == {FRAMES: 45, DARK: 2}
    assert verify(store) == []


def test_a_sample_that_was_not_committed_is_not_counted(store, index, dataset):
    """Killed between two commits: what the other run counted of the lost samples is not added to what this one does."""
    dead = writer(store, dataset, index, range(4))
    dead.flush()
    dead.write(4, b"4" * 16, hidden(4), {FRAMES: 5})  # and killed
    journal = dead.folder / "journal.jsonl"
    first, _, rest = journal.read_bytes().partition(b"\n")
    header = json.loads(first)
    header["writer"]["started"] = 0.0
    journal.write_bytes(json.dumps(header).encode() + b"\n" + rest)
    assert store.recover("v") == 4
    assert counted(store) == {FRAMES: 10, DARK: 1}


def test_a_segment_in_which_nothing_was_counted_has_no_table_of_counts(store, index, dataset):
    made = store.writer("v", dataset, FORM, {})
    made.write(0, b"0" * 16, hidden(0))
    store.publish("v", [made.seal()])
    assert counted(store) == {}
    assert not (made.folder / "counts").exists()
