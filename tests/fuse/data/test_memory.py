"""What a step will take is known before the first one, and what does not fit is refused with what does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msa.errors import ConfigError
from msa.fuse.data import memory
from msa.fuse.data.memory import Living, Need
from msa.fuse.head import Batch, FusionHead
from msa.types import Task
from tests.fuse.conftest import AUDIO, TEXT
from tests.fuse.train.test_loop import Tiny, assert_same, trained

VALUES = Task(low=-3.0, high=3.0)
DIMS = {TEXT: 16, AUDIO: 8}
D = 32


class Crossed(FusionHead):
    """Scores of every step of one modality for every step of another: memory grows with their product."""

    def __init__(self):
        super().__init__(VALUES)
        self.t, self.a, self.out = nn.Linear(16, D), nn.Linear(8, D), nn.Linear(D, 1)

    def forward(self, batch: Batch):
        t, a = self.t(batch.x[TEXT]), self.a(batch.x[AUDIO])
        return self.out((F.softmax(t @ a.mT / D**0.5, 2) @ a).mean(1))


def needed(head, batch):
    """Bytes of one real step of this size, counted as it runs."""
    inputs = [*batch.x.values(), *batch.mask.values(), batch.y, batch.row, batch.group, batch.position]
    with Living([*inputs, *head.parameters()]) as living:
        sum(head.step(batch)[1].values()).backward()
    state = sum(p.numel() * 4 for p in head.parameters())
    return living.peak + sum(t.numel() * t.element_size() for t in inputs) + 2 * state


@pytest.mark.parametrize("steps", [(60, 80), (1500, 900)], ids=["short", "long"])
def test_an_estimate_from_few_samples_is_near_what_many_take(steps):
    lengths = dict(zip((TEXT, AUDIO), steps, strict=True))
    need = memory.estimate(Crossed, lengths, DIMS, VALUES, "cpu")
    found = needed(Crossed(), memory.noise(12, lengths, DIMS, VALUES, "cpu"))
    assert 0.95 < need.of(12) / found < 1.4
    scores = 12 * math.prod(steps) * 4
    assert need.of(12) > 2 * scores  # the products are in it


def test_what_lives_is_counted_until_it_is_let_go():
    weight = torch.randn(1000, requires_grad=True)
    with Living([weight]) as living:
        a = weight * 2
        assert living.now == 4000
        b = a.view(10, 100)  # the same storage
        assert living.now == 4000
        del a
        assert living.now == 4000
        del b
        assert living.now == 0
        c = (weight * 3).exp()  # kept for backward
        assert living.now == 4000
        c.sum().backward()
        assert weight.grad is not None
    assert living.peak >= 8000
    assert living.largest == 4000


def test_a_step_that_would_not_fit_is_refused_before_anything_is_trained(monkeypatch):
    lengths = {TEXT: 375, AUDIO: 500}
    need = memory.estimate(Crossed, lengths, DIMS, VALUES, "cpu")
    monkeypatch.setattr(memory, "free", lambda device: int(need.of(20) / memory.SPARE))
    memory.check(Crossed, lengths, DIMS, VALUES, 16, "cpu")
    with pytest.raises(ConfigError, match=r"batch=64 with 375 text, 500 audio steps needs about") as error:
        memory.check(Crossed, lengths, DIMS, VALUES, 64, "cpu")
    assert error.value.fix.startswith("--set batch=16 needs about")
    monkeypatch.setattr(memory, "free", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"2 samples alone need more than the 800 B of memory that are free") as error:
        memory.check(Crossed, lengths, DIMS, VALUES, 64, "cpu")
    assert "--set batch=1" in error.value.fix
    memory.check(Crossed, lengths, DIMS, VALUES, 1, "cpu")  # which may fit
    monkeypatch.setattr(memory, "estimate", lambda *_: Need(900, 100))
    with pytest.raises(ConfigError, match="needs about 7 kB") as error:
        memory.check(Crossed, lengths, DIMS, VALUES, 64, "cpu")
    assert error.value.fix.startswith("a single sample needs 1 kB")


@pytest.mark.parametrize(("times", "measured"), [(1.0, 1), (2.4, 2)], ids=["not 2 samples", "2 samples and not 4"])
def test_counting_stops_where_the_small_batch_does_not_fit(monkeypatch, times, measured):
    """The check itself must not take what it finds too much: `Crossed` holds two maps of scores for each sample."""
    lengths = {TEXT: 400, AUDIO: 500}
    batches, largest = [], []

    class Counted(memory.Living):
        def __init__(self, *args):
            super().__init__(*args)
            batches.append(self)

    monkeypatch.setattr(memory, "Living", Counted)
    scores = 4 * 2 * math.prod(lengths.values())  # bytes of one map for two samples
    room = times * 2 * scores
    monkeypatch.setattr(memory, "free", lambda device: room / memory.SPARE)
    with pytest.raises(ConfigError, match=r"batch=64 with 400 text, 500 audio steps (does not fit|needs)") as error:
        memory.check(Crossed, lengths, DIMS, VALUES, 64, "cpu")
    assert len(batches) == measured
    largest = max(living.peak for living in batches)
    assert largest < room + 2 * scores  # one map more, at the moment it is counted
    assert ("a smaller preset" in error.value.fix) == (measured == 1)


def test_a_training_refuses_it_and_names_the_batch_that_fits(monkeypatch):
    monkeypatch.setattr(memory, "HARMLESS", 1e12)
    monkeypatch.setattr(memory, "free", lambda device: 2000)
    with pytest.raises(ConfigError, match=r"a training step of batch=8 with 6 text, 6 image steps") as error:
        trained()
    assert "--set batch=" in error.value.fix or "single sample" in error.value.fix


def test_an_estimate_changes_nothing_of_the_training(monkeypatch):
    unmeasured, measured = [], []
    one = trained(lambda: unmeasured.append(1) or Tiny())
    monkeypatch.setattr(memory, "HARMLESS", 1e12)
    two = trained(lambda: measured.append(1) or Tiny())
    assert len(measured) == len(unmeasured) + 1  # one more for the estimate
    assert_same(one, two)


def test_what_is_small_is_not_measured():
    def never():
        raise AssertionError("it was built for an estimate")

    memory.check(never, {TEXT: 30}, {TEXT: 768}, VALUES, 16, "cpu")


@pytest.mark.parametrize(("room", "batch"), [(1000, 0), (1100, 1), (1199, 1), (1200, 2), (7500, 64), (8500, 64)])
def test_the_batch_that_fits_is_a_power_of_two(room, batch):
    assert Need(1000, 100).fitting(room) == batch


CGROUPS = {
    "version 2": ("0::/job/task\n", "memory.max", "memory.current", ""),
    "version 1": ("4:cpu,memory:/job/task\n0::/\n", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory"),
}


@pytest.mark.parametrize(("own", "limit", "used", "home"), CGROUPS.values(), ids=CGROUPS)
def test_a_control_groups_limit_counts_and_its_page_cache_gives_way(tmp_path, own, limit, used, home):
    inside = tmp_path / "fs" / home / "job"
    (inside / "task").mkdir(parents=True)
    for folder, most, now in ((inside, "5000", "1000"), (inside / "task", "max", "700")):
        (folder / limit).write_text(most)
        (folder / used).write_text(now)
        (folder / "memory.stat").write_text("anon 3\ninactive_file 200\n")
    (tmp_path / "own").write_text(own)
    assert list(memory._left_in_groups(tmp_path / "fs", tmp_path / "own")) == [4200]
    assert list(memory._left_in_groups(tmp_path / "none", tmp_path / "nothing")) == []
    assert memory.free("cpu") > 0


def test_sizes_are_said_in_units_a_reader_knows():
    assert [memory.human(n) for n in (999, 1000, 2.5e6, 15.24e9)] == ["999 B", "1 kB", "2 MB", "15.2 GB"]
