"""Where models run, and how much of a batch fits there."""

import pytest
import torch

from msa.errors import ConfigError
from msa.extract import device
from msa.extract.device import CARD, fitting


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_the_gpu_where_there_is_one_and_other_names_stay(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert device.pick_device("auto") == ("cuda" if there else "cpu")
    assert device.pick_device("cpu") == "cpu"


def test_a_gpu_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=f"--device {name}: torch .* sees no GPU") as error:
            device.pick_device(name)
        assert "cpu" in error.value.fix
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("cuda:1") == "cuda:1"


def test_threads_are_set_only_where_they_differ(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    device.use_threads(3)
    assert (device.threads(), calls) == (3, [])
    device.use_threads(2)
    assert calls == [2]
    assert device.arithmetic() == {"threads": 3, "cpu": torch.backends.cpu.get_cpu_capability()}


def test_a_budget_follows_the_memory_that_is_free(monkeypatch):
    assert fitting(2048, "cpu") == 2048
    kept = {"memory_reserved": 0, "memory_allocated": 0}
    for name in kept:
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: kept[name])
    for free, expected in ((CARD, 2048), (CARD / 4, 512), (CARD * 100, 8192), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), 0))
        assert fitting(2048, "cuda:0") == expected
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(CARD / 4), 0))
    kept |= {"memory_reserved": CARD // 2, "memory_allocated": CARD // 4}  # what torch keeps in stock is free as well
    assert fitting(2048, "cuda:0") == 1024
