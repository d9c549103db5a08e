"""Serial, pipeline and dask: the same store, whatever does the work, and whatever befalls it."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msa.cache.store import FeatureStore
from msa.cache.verify import verify
from msa.errors import BackboneError, ConfigError, UnknownNameError
from msa.extract import cluster, job, media, pipeline
from msa.extract.cluster import Cluster
from msa.extract.pipeline import Limits
from msa.extract.plan import plan
from msa.extract.recipe import Recipe
from msa.extract.scan import scan
from msa.extract.stages import Behind, Decoders, Meter, ahead
from msa.extract.work import PIPELINE, SERIAL
from msa.types import Modality
from tests.extract import corpus
from tests.extract.test_pipeline import Moody, states

TEXT = Modality.TEXT


# the plan


def test_packed_batches_keep_the_order_and_never_pad():
    sizes = np.random.default_rng(0).integers(3, 129, 5000).tolist()
    found = plan(sizes, 1024, "packed")
    assert [i for batch in found.batches for i in batch] == list(range(5000))
    assert max(sum(sizes[i] for i in batch) for batch in found.batches) <= 1024
    assert found.padding == 0


def test_sorted_batches_pad_less_than_two_percent():
    sizes = np.clip(np.random.default_rng(0).lognormal(3, 0.5, 5000), 3, 128).astype(int).tolist()
    found = plan(sizes, 1024, "padded")
    assert sorted(i for batch in found.batches for i in batch) == list(range(5000))
    assert max(len(batch) * max(sizes[i] for i in batch) for batch in found.batches) <= 1024
    computed = sum(len(batch) * max(sizes[i] for i in batch) for batch in found.batches)
    assert found.padding == pytest.approx(1 - sum(sizes) / computed)
    assert found.padding < 0.02


def test_a_sample_beyond_the_budget_goes_alone():
    for batching in ("packed", "padded"):
        assert (1,) in plan([2, 100, 2], 10, batching).batches
    assert plan([], 8).batches == plan([], 8, "packed").batches == plan([], 8, "padded").batches == ()


def test_the_parts_of_a_plan_are_the_plan():
    whole = plan([1] * 103, 10)
    parts = [whole.share(i, 7).batches for i in range(1, 8)]
    assert tuple(batch for part in parts for batch in part) == whole.batches
    assert whole.digest == plan([1] * 103, 10).digest != plan([1] * 104, 10).digest


# the stages


def test_order_is_kept_however_long_each_takes():
    def decode(row):
        time.sleep(0.02 * (row % 3 == 0))
        return row * 10

    batches = [(0, 1, 2), (3,), (4, 5), (6, 7, 8, 9)]
    for threads in (0, 1, 4):
        found = list(ahead(decode, batches, Meter(), 5.0, threads))
        assert found == [(batch, [row * 10 for row in batch]) for batch in batches]


def test_a_stuck_sample_is_given_up_and_the_rest_goes_on(monkeypatch):
    from msa.extract import stages

    monkeypatch.setattr(stages, "TICK_S", 0.01)
    decode = lambda row: time.sleep(30) if row == 1 else row  # noqa: E731
    found = list(ahead(decode, [(0, 1), (2, 3), (4, 5)], Meter(), 0.1, threads=1))
    assert [clip for _, clips in found for clip in clips if not isinstance(clip, Exception)] == [0, 2, 3, 4, 5]
    assert str(found[0][1][1]) == "gave up after 0.1 s"


def test_an_interrupt_in_a_thread_reaches_the_caller():
    pool = Decoders(1)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.result(pool.submit(interrupted), 5.0)
    pool.close()


def test_the_writers_first_error_ends_the_work_and_nothing_is_written_after_it():
    done = []

    def work(n):
        if n == 2:
            raise OSError("full")
        done.append(n)

    def give():
        with Behind(Meter()) as behind:
            for n in range(100):
                behind.do(lambda n=n: work(n))
                time.sleep(0.001)

    with pytest.raises(OSError, match="full"):
        give()
    assert done == [0, 1]


def test_what_was_encoded_before_an_interrupt_is_written():
    done = []

    def give():
        with Behind(Meter()) as behind:
            for n in range(3):
                behind.do(lambda n=n: (time.sleep(0.01), done.append(n)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give()
    assert done == [0, 1, 2]


def test_the_meter_says_what_bounds_the_run():
    meter = Meter(forward=8.0, decode_wait=1.0, write_wait=1.0)
    assert (meter.share, meter.bound) == (0.8, "forward")
    assert Meter(forward=1.0, decode_wait=3.0).bound == "decode"


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


class Fragile(Moody):
    """Dies with its process at some texts, refuses others."""

    def encode(self, clips):
        for clip in clips:
            if "number 7" in clip:
                os._exit(7)
            if "number 11" in clip:
                raise ValueError("not this one")
        return [np.full((1, 4), len(clip), np.float16) for clip in clips]


@pytest.fixture
def fragile(monkeypatch, tmp_path):
    """A plug-in that workers can import too."""
    (tmp_path / "fragile_backbone.py").write_text(
        "from tests.extract.test_engines import Fragile\n"
        "from msa.extract.backbone import BackboneSpec\n"
        "from msa.types import Modality\n"
        "SPECS = {'x': BackboneSpec(Modality.TEXT, batch=4)}\n"
        "def load(spec, weights, device):\n    return Fragile()\n"
    )
    info = tmp_path / "fragile-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[msa.backbones]\nfragile = fragile_backbone\n")
    root = Path(__file__).resolve().parents[2]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    return Recipe.resolve(TEXT, "fragile.x")


@pytest.mark.slow
def test_a_sample_that_kills_its_worker_becomes_a_record_and_no_other_is_lost(tmp_path, table, fragile):
    store = FeatureStore.create(tmp_path / "s")
    [report] = pipeline.extract(store, scan("table", table), [fragile], "cpu", engine=Cluster(workers=2))
    assert sorted(report.failed) == [
        ("s07", "encode", "killed the process that worked on it"),
        ("s11", "encode", "ValueError: not this one"),
    ]
    assert report.written == 38
    assert len(states(store)) == 38
    assert verify(store) == []
    assert not list(store.path.rglob(f"{cluster.NOTE}*"))


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


def test_engines_and_parts_are_known_by_name():
    assert job.engine("serial", timeout_s=3).timeout_s == 3
    assert job.engine("dask", 4) == Cluster(None, 4)
    with pytest.raises(UnknownNameError, match="pipelin"):
        job.engine("pipelin")
    with pytest.raises(ConfigError, match="--scheduler is of engine dask"):
        job.engine("serial", scheduler="tcp://x:1")
    assert job.share("2/8") == (2, 8)
    for text in ("0/3", "4/3", "x", "1/"):
        with pytest.raises(ConfigError, match="is no part"):
            job.share(text)


def test_a_recording_says_how_long_it_is_without_being_decoded(tmp_path):
    from tests.extract.test_media import sound, tone, video

    raw = sound(tmp_path, tone(1.5))
    assert media.seconds(raw) == pytest.approx(1.5)
    assert media.seconds(replace(raw, start=0.5)) == pytest.approx(1.0)
    assert media.seconds(replace(raw, start=0.5, end=0.75)) == 0.25
    assert media.seconds(video(tmp_path / "v.mp4", sound=True)) == pytest.approx(2.0, abs=0.2)
    assert media.seconds(replace(raw, path=tmp_path / "none.wav")) == 0.0


def test_a_budget_follows_the_memory_that_is_free(monkeypatch):
    import torch

    from msa.extract.device import CARD, fitting

    assert fitting(2048, "cpu") == 2048
    for free, expected in ((CARD, 2048), (CARD / 4, 512), (CARD * 100, 8192), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), 0))
        assert fitting(2048, "cuda:0") == expected


def test_a_batch_that_does_not_fit_is_halved_until_it_does(monkeypatch):
    import torch

    from msa.extract.forward import Failure, hidden_states

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
