"""What every test shares: no network, settings of its own, and the way to the real data beside the checkout."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny tensors: on a busy machine, threads that wait for each other cost seconds
os.environ.setdefault("MPLBACKEND", "Agg")

from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MSA_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_configure(config):
    """Let several test runs share the folder of temporary files.

    At its end, each removes folders of earlier runs. Where two remove the same one, pytest warns that it is not empty,
    which as an error would leave pytest's own listing of the folder open and end a run without a failure with code 1.
    """
    config.addinivalue_line("filterwarnings", r"ignore:\(rm_rf\) error removing:pytest.PytestWarning")


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory, monkeypatch):
    """Settings of the user of this machine are neither read nor changed by a test."""
    monkeypatch.setenv("MSA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("MSA_STORE", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real corpora (data/) and weights (weights/); the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED} (set MSA_SHARED to a folder with data/ and weights/)")
    return SHARED
