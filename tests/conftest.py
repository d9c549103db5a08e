"""What every test shares: no network, settings of its own, and the way to the real data beside the checkout."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: on a busy machine, threads that wait for each other cost seconds
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MSA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory, monkeypatch):
    """No test reads or changes what the person at this machine told msa to remember."""
    monkeypatch.setenv("MSA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("MSA_STORE", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real corpora (data/) and weights (weights/); the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED} (set MSA_SHARED to a folder with data/ and weights/)")
    return SHARED
