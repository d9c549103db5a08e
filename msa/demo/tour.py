"""The whole way on made data: generate -> extract -> train -> show, through the same calls the commands make."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msa.demo import data

if TYPE_CHECKING:
    from msa.fuse.runs.run import Run
    from msa.progress import Progress

CORPORA = {"mvsa-single": "mvsa_single", "tess": "tess"}  # dataset -> folder


def take(folder: Path, seeds: int, progress: "Progress", watch: Callable[[str], None]) -> "Run":
    """Make data below `folder`, extract it with the classic preset and train CM-STA beside a linear probe."""
    from msa.cache.store import FeatureStore
    from msa.extract.job import Job, execute, recipes, survey
    from msa.fuse.experiments.request import Request, train

    watch(f"making posts, pictures and voices in {folder}")
    data.make(folder)
    store = FeatureStore.create(folder / "store")
    for dataset, below in CORPORA.items():
        job = Job(dataset, folder / below, preset="classic")
        found = survey(job, store, progress)
        execute(job, found, recipes(job, found, store), store, progress)
    asked = Request("cmsta", preset="light", data="+".join(CORPORA), pairing="union", seeds=str(seeds))
    return train(asked, store.path, folder / f"run-{seeds}", None, None, watch)


def a_picture(folder: Path) -> Path:
    """Some picture of the made posts."""
    return min((folder / CORPORA["mvsa-single"] / "data").glob("*.jpg"))
