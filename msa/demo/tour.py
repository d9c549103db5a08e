"""The demo: generate -> extract -> train -> show, with the calls that the commands make."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msa.demo import data

if TYPE_CHECKING:
    from msa.fuse.runs.run import Run
    from msa.progress import Progress

DATASETS = {"mvsa-single": "mvsa_single", "tess": "tess"}  # dataset -> folder


def take(folder: Path, seeds: int, progress: "Progress", log: Callable[[str], None]) -> "Run":
    """Generate data below `folder`, extract it with preset classic, and train CM-STA and its baselines.

    Args:
        folder: where data, store and run go.
        seeds: how many trainings.
        progress: callback of the extraction.
        log: called with each line of progress.
    """
    from msa.cache.store import FeatureStore
    from msa.extract.job import Job, execute, recipes, survey
    from msa.fuse.experiments.request import Request, train

    log(f"generating posts, pictures and voices in {folder}")
    data.make(folder)
    store = FeatureStore.create(folder / "store")
    for dataset, below in DATASETS.items():
        job = Job(dataset, folder / below, preset="classic")
        scan = survey(job, store, progress)
        execute(job, scan, recipes(job, scan, store), store, progress)
    asked = Request("cmsta", preset="light", data="+".join(DATASETS), pairing="union", seeds=str(seeds))
    return train(asked, store.path, folder / f"run-{seeds}", None, None, log)


def a_picture(folder: Path) -> Path:
    """Return a picture of the generated posts."""
    return min((folder / DATASETS["mvsa-single"] / "data").glob("*.jpg"))
