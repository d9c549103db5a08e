"""The papers' experiments, run as printed on whatever of their data is in the store.

A printed figure stands beside ours only where the setting is the same: corpora, test samples and encoders. Elsewhere
the table says how it differs, and shows none.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from msa import catalog
from msa.annotations.cells import Writer
from msa.cache.store import FeatureStore
from msa.device import own_device
from msa.errors import ConfigError
from msa.fuse.experiments import bench, bench_record, cost, papers
from msa.fuse.experiments.selection import Data
from msa.fuse.experiments.workers import Workers
from msa.fuse.runs import plots
from msa.fuse.runs.files import make_folder, write_json, written
from msa.fuse.train.loop import Log
from msa.fuse.train.model import Model
from msa.types import Modality, Task

COMPLEXITY = "complexity"  # files of a table that needs no data
COMPLEXITY_DIMS = {Modality.TEXT: 768, Modality.AUDIO: 74, Modality.FACE: 35}  # CMU-MOSEI's public features
COMPLEXITY_STEPS = {Modality.TEXT: 50, Modality.AUDIO: 500, Modality.FACE: 500}


def candidates(experiment: papers.Experiment) -> dict[str, bench.Candidate]:
    """Return a candidate for each row of a table. Raises ConfigError where a head it names is not there."""
    if lacking := sorted({row.model for row in experiment.rows} - set(catalog.names("head"))):
        raise ConfigError(f"{experiment.title} needs {', '.join(lacking)}", fix="see `msa fuse list`")
    return {
        row.label: bench.Candidate(bench.alike(Model.of(row.model, experiment.preset, row.settings)))
        for row in experiment.rows
    }


def corpora(experiment: papers.Experiment, store: FeatureStore) -> tuple[str, ...] | None:
    """Return the datasets that the paper used and the store has; None where it has none."""
    for setting in experiment.settings:
        if available := tuple(name for name in setting.corpora if name in store.datasets):
            return available
    return None


def reproduce(
    name: str,
    named: Data,
    seeds: Sequence[int],
    store: FeatureStore,
    folder: Path,
    workers: Workers,
    log: Log = lambda line: None,
) -> dict[str, Any]:
    """Run a table of a paper; what `bench` gives, with `printed` for each row where the setting is the paper's."""
    experiment = papers.named(name)
    table = bench.bench(candidates(experiment), named, seeds, store, folder, workers, log)
    nearest, differs = differences(experiment, table)
    of = {row.label: row.printed for row in experiment.rows if row.printed and not differs}
    for row in table["rows"]:
        row["printed"] = dict(of[row["name"]][nearest]) if row["name"] in of else {}
    remarks = [f"the printed figures are not shown: {'; '.join(differs)}"] if differs else []
    table |= {"title": f"{experiment.title}, on {table['title']}", "audits": [*table["audits"], *remarks]}
    if experiment.remark:
        table["audits"].append(f"of the paper: {experiment.remark}")
    bench_record.write(table, folder)
    return table


def differences(experiment: papers.Experiment, table: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the number of the paper's setting nearest to the data of a table, and how they differ."""
    tested = max(row["test_samples"] for row in table["rows"])
    all_of = [setting.differs(table["corpora"], tested, table["backbones"]) for setting in experiment.settings]
    return min(enumerate(all_of), key=lambda pair: len(pair[1]))


def complexity(experiment: papers.Experiment, folder: Path) -> dict[str, Any]:
    """What each row costs at the lengths and widths of CMU-MOSEI's public features: no data is needed, and the paper
    does not say of what its own figures are. Written to `folder` as JSON, CSV and a picture."""
    dims, task = COMPLEXITY_DIMS, Task(low=-3.0, high=3.0)
    rows = [
        {"name": label, "printed": dict(row.printed[0])}
        | asdict(
            cost.at(
                partial(candidate.model.build, dims, task),
                COMPLEXITY_STEPS,
                candidate.model.widths(dims),
                task,
                own_device(),
            )
        )
        for (label, candidate), row in zip(candidates(experiment).items(), experiment.rows, strict=True)
    ]
    costs = {"title": experiment.title, "rows": rows, "remark": experiment.remark}
    make_folder(folder)
    write_json(folder / f"{COMPLEXITY}.json", costs)
    flat = [row | {f"printed_{name}": value for name, value in row["printed"].items()} for row in rows]
    with written(folder / f"{COMPLEXITY}.csv") as file:
        columns, table = [name for name in flat[0] if name not in ("printed", "lengths")], Writer(file)
        table.row(columns)
        table.rows([row.get(name) for name in columns] for row in flat)
    pairs = {
        "weights, millions": [(row["parameters"] / 1e6, row["printed"]["parameters"] / 1e6) for row in rows],
        "multiplications with addition, 10⁹": [(row["flops"] / 2e9, row["printed"]["flops"] / 1e9) for row in rows],
    }
    plots.beside_printed(folder / f"{COMPLEXITY}.png", [row["name"] for row in rows], pairs, experiment.title)
    return costs
