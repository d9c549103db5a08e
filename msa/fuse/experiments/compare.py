"""Runs beside each other: which settings, data and views differ between them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msa.errors import ConfigError, MsaError
from msa.fuse.experiments import bench_record
from msa.fuse.runs.run import Run
from msa.fuse.train.model import Model

BENCH = "bench.json"


def opened(folders: Iterable[Path]) -> tuple[list[Run], dict[Path, dict[str, Any]], list[str]]:
    """Return the runs, the tables of benches by their folders, and what is wrong with those that cannot be read.

    A folder that is neither stands for the runs and benches that lie directly in it, by name; of these, one that is
    damaged does not hide the others. Raises ConfigError where there are none, and where one that was named is damaged.
    """
    runs, benches, damaged = [], {}, []
    for folder in folders:
        if not folder.exists():
            raise ConfigError(f"there is no folder {folder}", fix="name a folder that `msa fuse train` wrote")
        below = [folder]
        if folder.is_dir() and not any(os.path.lexists(folder / name) for name in ("run.json", BENCH)):
            below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
            below = [path for path in below if any(os.path.lexists(path / name) for name in ("run.json", BENCH))]
            if not below:
                raise ConfigError(
                    f"{folder} is not a run, and there is none in it", fix="name a folder that `msa fuse train` wrote"
                )
        for path in below:
            try:
                if os.path.lexists(path / BENCH):
                    benches[path] = bench_record.read(path)
                else:
                    runs.append(_comparable(path))
            except MsaError as error:
                if path == folder:
                    raise
                damaged.append(error.what)
    if not runs and not benches:
        raise ConfigError(f"nothing can be shown: {'; '.join(damaged)}", fix="name another folder")
    return runs, benches, damaged


def _comparable(folder: Path) -> Run:
    """Open a run whose preset is known here: what it changed is told by it."""
    run = Run.open(folder)
    try:
        Model.of(run.model.name, run.model.preset)
    except MsaError as error:
        raise ConfigError(f"{folder / 'run.json'}: {error.what}", fix=error.fix) from None
    return run


def differences(runs: Sequence[Run]) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """Return the names of what differs between runs, its values in each run, and what is the same in all of them.

    A setting counts where at least one run has changed it from its preset, because defaults of different heads always
    differ. A setting that a run's head does not have is `-`.
    """
    chosen = [_chosen(run) for run in runs]
    settings = [_settings(run.model) for run in runs]
    presets = [_settings(Model.of(run.model.name, run.model.preset)) for run in runs]
    changed = [
        name
        for name in dict.fromkeys(name for facts_of_run in settings for name in facts_of_run)
        if any(own.get(name) != default.get(name) for own, default in zip(settings, presets, strict=True))
    ]
    facts = [
        facts_of_run | {name: own[name] for name in changed if name in own}
        for facts_of_run, own in zip(chosen, settings, strict=True)
    ]
    names = list(dict.fromkeys(name for facts_of_run in facts for name in facts_of_run))
    differing = [name for name in names if len({facts_of_run.get(name) for facts_of_run in facts}) > 1]
    same = {name: facts[0][name] for name in names if name not in differing}
    return differing, [[facts_of_run.get(name, "-") for name in differing] for facts_of_run in facts], same


def _chosen(run: Run) -> dict[str, str]:
    """Return what was chosen for a run besides settings: head, data, pairing, modalities, views, seeds."""
    wanted: Mapping[str, Any] = run.record["experiment"]
    data, views = wanted["data"], run.record["data"]["views"]
    return {
        "model": run.model.name,
        "preset": run.model.preset,
        "data": "+".join(data["corpora"]),
        "pairing": run.record["data"]["protocol"],
        "modalities": ",".join(views),
        "seeds": ",".join(map(str, wanted["seeds"])),
        **{f"{m} view": f"{view['attributes'].get('backbone', '?')}@{view['id'][:6]}" for m, view in views.items()},
    }


def _settings(model: Model) -> dict[str, str]:
    """Return every setting of the head and of the training, as it is written after --set."""
    written = {**model.settings, **asdict(model.training)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in written.items()}
