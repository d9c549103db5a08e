"""The device that a process computes on."""

import pytest
import torch

from msa import device
from msa.errors import ConfigError


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
