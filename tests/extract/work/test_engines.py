"""Serial, pipeline and dask: the same store, whatever does the work, and whatever befalls it."""

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msa.cache.maintain import describe
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.cache.write.liveness import whoami
from msa.cache.write.segment import SegmentWriter, new_name
from msa.errors import BackboneError, ConfigError, UnknownNameError
from msa.extract import pipeline
from msa.extract.media import decode as media
from msa.extract.pipeline import PIPELINE, SERIAL, Limits
from msa.extract.recipe import Recipe
from msa.extract.scan import scan
from msa.extract.work import cluster, cluster_worker, crash_journal, isolation, view_run
from msa.extract.work.cluster import Cluster
from msa.extract.work.meter import Meter
from msa.extract.work.plan import Demand, plan
from msa.extract.work.prefetch import DecodeThreads, prefetched
from msa.extract.work.writer import WriterThread
from msa.progress import Progress
from msa.types import Modality
from tests.extract import corpus
from tests.extract.test_pipeline import Moody, states
from tests.faults import deadly_backbones

TEXT = Modality.TEXT


# the plan


def test_packed_batches_keep_the_order_and_never_pad():
    sizes = np.random.default_rng(0).integers(3, 129, 5000).tolist()
    found = plan(Demand(sizes, 1024, "packed"))
    assert [i for batch in found.batches for i in batch] == list(range(5000))
    assert max(sum(sizes[i] for i in batch) for batch in found.batches) <= 1024
    assert found.padding == 0


def test_sorted_batches_pad_less_than_two_percent():
    sizes = np.clip(np.random.default_rng(0).lognormal(3, 0.5, 5000), 3, 128).astype(int).tolist()
    found = plan(Demand(sizes, 1024, "padded"))
    assert sorted(i for batch in found.batches for i in batch) == list(range(5000))
    assert max(len(batch) * max(sizes[i] for i in batch) for batch in found.batches) <= 1024
    computed = sum(len(batch) * max(sizes[i] for i in batch) for batch in found.batches)
    assert found.padding == pytest.approx(1 - sum(sizes) / computed)
    assert found.padding < 0.02


def test_a_sample_beyond_the_budget_goes_alone():
    for batching in ("packed", "padded"):
        assert (1,) in plan(Demand([2, 100, 2], 10, batching)).batches
    assert all(plan(Demand([], 8, batching)).batches == () for batching in ("fixed", "packed", "padded"))


def test_the_parts_of_a_plan_are_the_plan():
    whole = plan(Demand([1] * 103, 10))
    parts = [whole.share(i, 7).batches for i in range(1, 8)]
    assert tuple(batch for part in parts for batch in part) == whole.batches
    assert whole.digest == plan(Demand([1] * 103, 10)).digest != plan(Demand([1] * 104, 10)).digest


def test_a_plan_can_be_made_again_from_what_is_stored(tmp_path, table, even):
    store = FeatureStore.create(tmp_path / "s")
    pipeline.extract(store, scan("table", table), [even], "cpu", Limits(samples=33, share=(2, 3)))
    [view] = store.views("posts")
    [segment] = store.manifest.views[view.id].segments
    folder = store.path / "views" / view.id / "seg" / segment.id
    known = json.loads((folder / "zarr.json").read_text())["attributes"]["run"]["plan"]
    index, backbone = store.index("posts"), even.load("cpu")
    rows = np.flatnonzero(index.has(TEXT)).tolist()[: known["samples"]]
    demand = Demand(backbone.sizes([index.text[row] for row in rows]), known["budget"], known["batching"])
    made = plan(demand).over(rows)
    made = made.share(*map(int, known["part"].split("/")))
    assert 1 < len(made.batches) < 33 and made.facts == known
    assert {row for batch in made.batches for row in batch} == set(np.flatnonzero(store.reader(view).length >= 0))


# the stages


def test_order_is_kept_however_long_each_takes():
    def decode(row):
        time.sleep(0.02 * (row % 3 == 0))
        return row * 10

    batches = [(0, 1, 2), (3,), (4, 5), (6, 7, 8, 9)]
    for threads in (0, 1, 4):
        found = list(prefetched(decode, batches, Meter(), 5.0, threads))
        assert found == [(batch, [row * 10 for row in batch]) for batch in batches]


def test_a_stuck_sample_is_given_up_and_the_rest_goes_on(monkeypatch):
    from msa.extract.work import prefetch

    monkeypatch.setattr(prefetch, "TICK_S", 0.01)
    decode = lambda row: time.sleep(30) if row == 1 else row  # noqa: E731
    for threads in (0, 1):
        found = list(prefetched(decode, [(0, 1), (2, 3), (4, 5)], Meter(), 0.1, threads))
        assert [clip for _, clips in found for clip in clips if not isinstance(clip, Exception)] == [0, 2, 3, 4, 5]
        assert str(found[0][1][1]) == "gave up after 0.1 s"


def test_an_interrupt_in_a_thread_reaches_the_caller():
    pool = DecodeThreads(1)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.result(pool.submit(interrupted), 5.0)
    pool.close()


def test_threads_that_take_the_last_of_the_work_do_not_disturb_the_end(monkeypatch):
    pool = DecodeThreads(1)

    class Gone(queue.SimpleQueue):
        def empty(self):
            return False  # and a moment later another process has taken it

    monkeypatch.setattr(pool, "tasks", Gone())
    pool.close()
    assert pool.tasks.get_nowait() is None


def test_the_writers_first_error_ends_the_work_and_nothing_is_written_after_it():
    done = []

    def work(n):
        if n == 2:
            raise OSError("full")
        done.append(n)

    def give():
        with WriterThread(Meter(), 4) as writer:
            for n in range(100):
                writer.submit(lambda n=n: work(n))
                time.sleep(0.001)

    with pytest.raises(OSError, match="full"):
        give()
    assert done == [0, 1]


def test_what_was_encoded_before_an_interrupt_is_written():
    done = []

    def give():
        with WriterThread(Meter(), 4) as writer:
            for n in range(3):
                writer.submit(lambda n=n: (time.sleep(0.01), done.append(n)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give()
    assert done == [0, 1, 2]


def test_a_second_interrupt_drops_what_waits_and_never_leaves_two_threads_at_one_segment(monkeypatch):
    done, real, calls = [], threading.Thread.join, []

    def join(self, *args):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt("again")
        real(self, *args)

    def give():
        with WriterThread(Meter(), 4) as writer:
            for n in range(4):
                writer.submit(lambda n=n: (time.sleep(0.1), done.append(n)))
            monkeypatch.setattr(threading.Thread, "join", join)
            raise KeyboardInterrupt("first")

    with pytest.raises(KeyboardInterrupt, match="first"):
        give()
    assert not calls[0].is_alive()
    before = list(done)
    assert before in ([], [0])
    time.sleep(0.15)
    assert done == before


def test_the_meter_says_what_bounds_the_run():
    meter = Meter(forward=8.0, decode_wait=1.0, write_wait=1.0)
    assert (meter.share, meter.bound) == (0.8, "forward")
    assert Meter(forward=1.0, decode_wait=3.0).bound == "decode"


def test_views_of_one_pass_share_batches_and_the_tightest_budget_fills_them():
    sound = Demand([30, 10, None, 20, 40], 60, "padded")
    faces = Demand([1, 1, 1, 1, None], 2)
    assert plan(sound).batches == ((4,), (0, 3), (1, 2))
    assert plan(faces).batches == ((0, 1), (2, 3, 4))
    both = plan(sound, faces)
    assert both.batches == ((4,), (0, 3), (1, 2))
    assert plan(sound, Demand([1, 1, 1, 1, None], 1)).batches == ((4,), (0,), (3,), (1,), (2,))
    assert both.padding == pytest.approx(1 - (40 + 50 + 10) / (40 + 60 + 10))
    assert (both.facts["batching"], both.facts["budget"]) == ("padded+fixed", "60+2")


# the engines


@pytest.fixture
def table(tmp_path):
    return corpus.write(tmp_path / "corpus", n=40)


@pytest.fixture
def ngrams():
    return Recipe.resolve(TEXT, "ngrams")


def test_every_engine_writes_the_same_states(tmp_path, table, ngrams):
    found = {}
    for name, engine in {"serial": SERIAL, "pipeline": PIPELINE, "dask": Cluster(workers=2)}.items():
        store = FeatureStore.create(tmp_path / name)
        [report] = pipeline.extract(store, scan("table", table), [ngrams], "cpu", engine=engine)
        assert (report.written, report.failed) == (40, []), name
        assert verify(store) == []
        found[name] = states(store)
    assert found["serial"] == found["pipeline"] == found["dask"]


def test_parts_that_schedule_themselves_fill_one_store(tmp_path, table, ngrams):
    store = FeatureStore.create(tmp_path / "s")
    for i in (3, 1, 2):
        limits = Limits(share=(i, 3), budget=4)
        pipeline.extract(FeatureStore.open(store.path), scan("table", table), [ngrams], "cpu", limits)
    store = FeatureStore.open(store.path)
    assert len(states(store)) == 40
    assert verify(store) == []


def test_a_part_wants_counts_and_finds_room_for_its_own_samples_alone(tmp_path, table, ngrams, monkeypatch):
    store = FeatureStore.create(tmp_path / "s")
    asked = []
    monkeypatch.setattr(pipeline.ViewRun, "stop_if_hopeless", lambda self, *rest: asked.append(len(self.todo)))
    [report] = pipeline.extract(store, scan("table", table), [ngrams], "cpu", Limits(share=(2, 5), budget=4))
    assert (report.wanted, report.already, report.written) == (8, 0, 8)
    assert set(asked) == {8}
    [report] = pipeline.extract(store, scan("table", table), [ngrams], "cpu", Limits(share=(2, 5), budget=4))
    assert (report.wanted, report.already, report.written) == (8, 8, 0)


# samples that kill


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    """Backbones that other processes can import too."""
    for name in ("fragile", "even", "threads"):
        (tmp_path / f"{name}_backbone.py").write_text(
            f"from tests.faults.deadly_backbones import {name.capitalize()}\n"
            "from msa.extract.backbone import BackboneSpec\n"
            "from msa.types import Modality\n"
            "SPECS = {'x': BackboneSpec(Modality.TEXT, batch=4)}\n"
            f"def load(spec, weights, device):\n    return {name.capitalize()}()\n"
        )
    info = tmp_path / "plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n")
    points = ["[msa.backbones]", "fragile = fragile_backbone", "even = even_backbone", "threads = threads_backbone"]
    (info / "entry_points.txt").write_text("\n".join(points))
    root = Path(__file__).resolve().parents[3]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")


@pytest.fixture
def fragile(plugins):
    return Recipe.resolve(TEXT, "fragile.x")


@pytest.fixture
def even(plugins):
    return Recipe.resolve(TEXT, "even.x")


@pytest.mark.parametrize("number", [1, 3])
def test_workers_compute_with_as_many_threads_as_the_command_would(tmp_path, table, plugins, number, monkeypatch):
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        for name, engine in {"pipeline": PIPELINE, "dask": Cluster(workers=1)}.items():
            store = FeatureStore.create(tmp_path / name)
            pipeline.extract(store, scan("table", table), [Recipe.resolve(TEXT, "threads.x")], "cpu", engine=engine)
            assert set(states(store).values()) == {np.full((1, 4), number, np.float16).tobytes()}, name
            [view] = store.views("posts")
            for run in describe.describe(store)["datasets"][0]["views"][0]["runs"]:
                assert (run["threads"], run["cpu"]) == (number, torch.backends.cpu.get_cpu_capability())
            assert "threads" not in view.attributes["identity"]
    finally:
        torch.set_num_threads(before)


RUN = """
    import sys
    from pathlib import Path
    from msa.cache.store import FeatureStore
    from msa.extract import pipeline
    from msa.extract.pipeline import Limits
    from msa.extract.recipe import Recipe
    from msa.extract.scan import scan
    from msa.types import Modality

    store, found = FeatureStore.create(sys.argv[1]), scan("table", Path(sys.argv[2]))
    pipeline.extract(store, found, [Recipe.resolve(Modality.TEXT, sys.argv[3])], "cpu", Limits(flush_s=0.0))
"""


def run(store, table, name, **environment):
    """A run in a process that may die; how it ended."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), store, table, name]
    return subprocess.run(command, env={**os.environ, **environment}).returncode


def accused(store, found, recipe, rows):
    """Note samples as what was at work in a process that is dead."""
    folder = store.path / "views" / recipe.view_id
    folder.mkdir(parents=True)
    dataset = store.add_index(found.index)
    note = crash_journal.CrashJournal(folder, "of-the-dead", dataset)
    note.begin(rows)
    note.path.write_bytes(_of_the_dead(note.path.read_bytes()))
    return note.path


def _of_the_dead(lines):
    """The same with a first line that names a process there is not."""
    header, rest = lines.split(b"\n", 1)
    writer = {"writer": whoami() | {"pid": 2**22 + 1}}
    return json.dumps(json.loads(header) | writer).encode() + b"\n" + rest


def test_a_sample_that_kills_the_run_becomes_a_record_of_the_next_one(tmp_path, table, fragile):
    text = table.read_text().replace("number 13", "number thirteen")
    table.write_text(text.replace("number 9", "number nine"))
    assert run(tmp_path / "s", table, "fragile.x") == -signal.SIGSEGV
    store = FeatureStore.open(tmp_path / "s")
    [report] = pipeline.extract(store, scan("table", table), [fragile], "cpu")
    assert sorted(report.failed) == [
        ("s07", "encode", "killed the process that worked on it (SIGSEGV)"),
        ("s11", "encode", "ValueError: not this one"),
    ]
    assert len(states(store)) == 38
    assert verify(store) == []
    assert not list(store.path.rglob(f"{crash_journal.PREFIX}*"))
    again = pipeline.ViewRun(store, scan("table", table), fragile, store.datasets["posts"], Limits(retry_errors=True))
    assert (again.suspects, again.todo) == ({7}, {7, 11})


def test_the_innocent_come_out_as_if_nothing_had_been(tmp_path, table, even):
    whole = FeatureStore.create(tmp_path / "whole")
    pipeline.extract(whole, scan("table", table), [even], "cpu")
    assert run(tmp_path / "s", table, "even.x", TEST_KILLED="1") == -signal.SIGKILL
    store = FeatureStore.open(tmp_path / "s")
    [note] = store.path.rglob(f"{crash_journal.PREFIX}*")
    assert crash_journal.suspects(note.parent, store.datasets["posts"])
    pipeline.extract(store, scan("table", table), [even], "cpu")
    assert states(store) == states(whole)  # whose numbers tell the size of the batch
    assert not note.exists()


def test_only_one_that_kills_a_fresh_process_is_convicted(tmp_path, table, fragile):
    found = scan("table", table)
    with closing(isolation.IsolatedModel(fragile, "cpu", 30.0)) as model:
        got = model.encode({row: found.raws[row][TEXT] for row in (1, 7, 9)})
    assert got[7].states.reason == "killed the process that worked on it (SIGSEGV)"
    assert got[1].states.shape == got[9].states.shape == (1, 4)


def test_a_suspect_that_never_comes_to_an_end_is_given_up(tmp_path, table, fragile):
    found, store = scan("table", table), FeatureStore.create(tmp_path / "s")
    note = accused(store, found, fragile, [13])
    limits = Limits(budget=1, share=(14, 40))
    with pytest.raises(BackboneError, match="none of 1 samples"):
        pipeline.extract(store, found, [fragile], "cpu", limits, engine=replace(PIPELINE, timeout_s=0.5))
    [failure] = store.reader(store.view("posts", TEXT)).failures.values()
    assert (failure["sample"], failure["stage"], failure["reason"]) == (13, "encode", "gave up after 0.5 s")
    assert not note.exists()


def test_a_note_tells_what_was_at_work_and_nothing_of_the_living(tmp_path):
    note = crash_journal.CrashJournal(tmp_path, "x", "corpus")
    for batch in ([1, 2], [3], [4, 5]):
        note.begin(batch)
    note.finish([1])
    note.finish([2, 3])
    note.begin([6])
    assert crash_journal.suspects(tmp_path, "corpus") == set()  # this process lives
    text = note.path.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{2**22 + 1}')
    note.path.write_text(f"{text}[3,[7")  # and it died in the midst of a line
    assert crash_journal.suspects(tmp_path, "corpus") == {4, 5, 6}
    assert crash_journal.suspects(tmp_path, "another") == set()
    crash_journal.forget(tmp_path, "corpus", unfinished={6})
    assert note.path.exists()
    crash_journal.forget(tmp_path, "corpus", unfinished={1, 2})
    assert not note.path.exists()


def test_a_lost_device_is_noted_for_the_next_run(tmp_path):
    with pytest.raises(BackboneError), crash_journal.CrashJournal.kept(tmp_path, "x", "corpus"):
        raise BackboneError("the GPU gave up: device-side assert triggered", fix="")
    assert (tmp_path / f"{crash_journal.PREFIX}x").exists()
    with pytest.raises(BackboneError), crash_journal.CrashJournal.kept(tmp_path, "y", "corpus"):
        raise BackboneError("no such weights", fix="")
    assert not (tmp_path / f"{crash_journal.PREFIX}y").exists()


def test_what_two_dead_runs_did_twice_stands_once_in_the_store(tmp_path, table, ngrams):
    store, found, folders = FeatureStore.create(tmp_path / "s"), scan("table", table), []
    run = pipeline.ViewRun(store, found, ngrams, store.add_index(found.index), Limits())
    with run.loaded("cpu"):
        for _ in range(2):
            folders.append(store.path / "views" / ngrams.view_id / "seg" / new_name())
            writer = SegmentWriter(folders[-1], run.dataset, run.form, run.facts)
            writer.write(0, found.index.digests[TEXT][0].tobytes(), np.ones((1, run.backbone.dim), np.float16))
            writer.flush()
            journal = folders[-1] / "journal.jsonl"
            journal.write_bytes(_of_the_dead(journal.read_bytes()))
    [report] = pipeline.extract(store, found, [ngrams], "cpu")
    assert (report.recovered, report.written) == (1, 39)
    assert verify(store) == []


# tasks


@pytest.fixture
def order(tmp_path, table, even):
    """All of a corpus as one task."""
    store, found = FeatureStore.create(tmp_path / "s"), scan("table", table)
    store.add_view(even.view_id, even.attributes(even.load("cpu")))
    run = pipeline.ViewRun(store, found, even, store.add_index(found.index), Limits())
    with run.loaded("cpu"):
        planned = pipeline.plan_of([run])
    driver = cluster._Driver([run], Cluster(timeout_s=7.0), "cpu", Progress(), None, planned)
    return driver._task(pipeline.unit_of([run], planned))


def test_a_task_that_was_begun_before_is_not_worked_on_by_another_worker(order):
    receipt = cluster_worker.run(order)
    assert (receipt.counters[TEXT].written, receipt.begun_before) == (40, False)
    assert order.timeout_s == 7.0
    assert not order.journal(TEXT).exists()
    assert cluster_worker.run(order).begun_before


def test_an_error_of_ours_comes_back_from_a_worker_with_what_was_done_before(order, monkeypatch):
    calls = []

    def encode(self, clips):
        calls.append(clips)
        if len(calls) == 3:
            raise UnknownNameError("word", "x", ["y"])
        return [np.ones((1, 4), np.float16) for _ in clips]

    monkeypatch.setattr(deadly_backbones.Even, "encode", encode)
    cluster_worker._models.clear()
    receipt = pickle.loads(pickle.dumps(cluster_worker.run(order)))
    assert receipt.problem.kind is UnknownNameError
    assert receipt.entries[TEXT].samples == receipt.counters[TEXT].written > 0


def _refuse():
    raise ConfigError("no GPU", fix="use another device")


def test_a_worker_holds_the_models_of_the_work_at_hand(even, ngrams, monkeypatch):
    cluster_worker._models.clear()
    assert cluster_worker.budgets({TEXT: even}, "cpu") == {TEXT: 30}
    assert cluster_worker.budgets({TEXT: ngrams}, "cpu") == {TEXT: view_run.CPU_BATCH}
    assert [key for key, _ in cluster_worker._models] == [ngrams.view_id]
    monkeypatch.setattr(cluster_worker, "pick_device", lambda device: _refuse())
    problem = pickle.loads(pickle.dumps(cluster_worker.budgets({TEXT: ngrams}, "cuda")))
    assert (problem.kind, problem.what) == (ConfigError, "no GPU")


@pytest.mark.slow
def test_a_sample_that_kills_its_worker_becomes_a_record_and_no_other_is_lost(tmp_path, table, fragile):
    store = FeatureStore.create(tmp_path / "s")
    text = table.read_text().replace("number 13", "number thirteen")
    table.write_text(text.replace("number 9", "number nine"))
    [report] = pipeline.extract(store, scan("table", table), [fragile], "cpu", engine=Cluster(workers=2))
    assert sorted(report.failed) == [
        ("s07", "encode", "killed the process that worked on it (SIGSEGV)"),
        ("s11", "encode", "ValueError: not this one"),
    ]
    assert report.written == 38
    assert len(states(store)) == 38
    assert verify(store) == []
    assert not list(store.path.rglob(f"{crash_journal.PREFIX}*"))


def test_a_scheduler_that_is_not_there_is_named(tmp_path, table, ngrams):
    store = FeatureStore.create(tmp_path / "s")
    with pytest.raises(ConfigError, match="no dask scheduler answers at tcp"):
        pipeline.extract(store, scan("table", table), [ngrams], "cpu", engine=Cluster("tcp://127.0.0.1:1"))


def test_too_many_failures_end_a_cluster_run_too(tmp_path, table):
    for i in range(40):
        (table.parent / f"{i}.png").write_bytes(f"no picture {i}".encode())
    rows = [f"s{i:02},positive,{i}.png" for i in range(40)]
    bad = table.with_name("bad.csv")
    bad.write_text("\n".join(["id,label,image", *rows]))
    store = FeatureStore.create(tmp_path / "s")
    pictures = Recipe.resolve(Modality.IMAGE, "descriptors")
    with pytest.raises(BackboneError, match="--max-errors allows 3"):
        pipeline.extract(store, scan("table", bad), [pictures], "cpu", Limits(max_errors=3), engine=Cluster(workers=1))


def test_a_recording_says_how_long_it_is_without_being_decoded(tmp_path):
    from tests.extract.media.test_decode import sound, tone, video

    raw = sound(tmp_path, tone(1.5))
    assert media.seconds(raw) == pytest.approx(1.5)
    assert media.seconds(replace(raw, start=0.5)) == pytest.approx(1.0)
    assert media.seconds(replace(raw, start=0.5, end=0.75)) == 0.25
    assert media.seconds(video(tmp_path / "v.mp4", sound=True)) == pytest.approx(2.0, abs=0.2)
    assert media.seconds(replace(raw, path=tmp_path / "none.wav")) == 0.0


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    import torch

    from msa.extract.work.forward import Failure, hidden_states

    freed = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(1))

    class Small(Moody):
        def encode(self, clips):
            if len(clips) > 2 or "huge" in clips:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return [np.ones((1, 4), np.float16) for _ in clips]

    found = hidden_states(Small(), list(range(8)), ["a"] * 7 + ["huge"])
    assert [row for row, states in found.items() if not isinstance(states, Failure)] == list(range(7))
    assert found[7] == Failure("encode", "OutOfMemoryError: CUDA out of memory")
    assert freed
