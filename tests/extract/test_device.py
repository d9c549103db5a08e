"""What decides the arithmetic of a forward, and how much of a batch fits on a card."""

import torch

from msa.extract import device
from msa.extract.device import CARD, fitting


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
