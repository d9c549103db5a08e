"""`msa cache ls` and `msa cache info`: what a store holds and where it comes from."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from msa.commands.console import as_json, count, say, show, size
from msa.commands.options import JsonOption, StoreArgument, StoreOption, open_store


def ls(store: StoreOption = None, json_: JsonOption = False) -> None:
    """List the datasets and views of a store."""
    opened = open_store(store)
    rows = [
        {"dataset": name, "modality": view.modality, "backbone": view.name, "view": view.id, "samples": view.samples}
        | {"failed": view.failed, "dim": view.dim, "bytes": view.nbytes}
        for name in opened.datasets
        for view in opened.views(name)
    ]
    if json_:
        as_json(rows)
    else:
        print_views(opened.where, opened.datasets, rows)


def info(
    store: StoreArgument = None,
    store_: StoreOption = None,
    failures: Annotated[bool, typer.Option("--failures", help="List every sample that failed.")] = False,
    cite: Annotated[
        bool, typer.Option("--cite", help="Print only the citations: of datasets, backbones and file formats.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Show sources, recipes, licences and failures of a store.

    With --json also every file with its size and SHA-256, every run, and every sample that failed or is not extracted.
    """
    from msa.cache.maintain import describe

    opened = open_store(store or store_)
    if cite:
        citations = describe.citations(opened)
        return as_json(dict(citations)) if json_ else print_citations(citations)
    about = describe.describe(opened)
    return as_json(about) if json_ else print_info(about, failures)


def print_views(path: Any, datasets: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each view."""
    columns = ["dataset", "modality", "backbone", "view", "samples", "failed", "dim", "size"]
    cells = [[*(row[name] for name in columns[:-1]), size(row["bytes"])] for row in rows]
    show(str(path), columns, cells, 4)
    for name in datasets:
        if name not in {row["dataset"] for row in rows}:
            say(f"  {name}: nothing extracted yet")


def print_citations(citations: Sequence[tuple[str, str]]) -> None:
    """Print what to cite, and how."""
    for what, how in citations:
        say(f"{what}: {how}")


def print_info(about: Mapping[str, Any], every_failure: bool) -> None:
    """Print the provenance of a store."""
    say(f"{about['store']}: format {about['format']}, generation {about['generation']}, {size(about['bytes'])}")
    for dataset in about["datasets"]:
        source = dataset["source"]
        samples = count(dataset["samples"], "sample")
        say()
        say(f"{dataset['name']}@{dataset['fingerprint']}: {samples}, split {dataset['split']}")
        say(f"  source    {source['title']}, {source['home']}")
        say(f"  licence   {source['licence']}" + ("" if source["redistribution"] else " (no redistribution)"))
        if source["citation"]:
            say(f"  cite      {source['citation']}")
        for reason, number in dataset["dropped"].items():
            say(f"  left out  {number} x {reason}")
        for leak in dataset["leaks"]:
            say(f"  leak      {leak}")
        for view in dataset["views"]:
            _print_view(view, every_failure)


def _print_view(view: Mapping[str, Any], every_failure: bool) -> None:
    weights = view["weights"]
    counts = f"{count(view['samples'], 'sample')}, {view['failed']} failed, {view['pending']} not extracted"
    say(f"  {view['modality']:<9} {view['backbone']}@{view['id']}: {counts}, {view['dim']} wide {view['dtype']}")
    if weights["name"]:
        version = f"revision {weights['revision'] or '-'}, sha256 {weights['sha256'][:16]}…"
        say(f"    weights {weights['name']}, {version}, licence {weights['licence'] or 'not stated'}")
        if not weights["redistribution"]:
            say("    weights and the features from them: no licence that allows redistribution is known")
    if view["recipe"]:
        say(f"    recipe  {', '.join(f'{option}={value}' for option, value in view['recipe'].items())}")
    for fact, value in view.get("facts", {}).items():
        say(f"    {fact}: {value}")
    for what, number in view["counts"].items():
        say(f"    counted {number} {what}")
    by = f" by {view['creator']}" if view["creator"] else ""
    say(f"    made    {view['created']}{by} on {view['device']}{_cpus(view.get('runs', ()))}, {view['versions']}")
    failures = view["failures"] if every_failure else view["failures"][:3]
    for failure in failures:
        say(f"    failed  {failure['id']}: {failure['stage']}: {failure['reason']}")
    if len(failures) < len(view["failures"]):
        say(f"    failed  and {len(view['failures']) - len(failures)} more: --failures lists them all")


def _cpus(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return threads and instruction set of the runs that recorded them, each distinct pair once."""
    pairs = [f"{count(run['threads'], 'thread')}, {run['cpu']}" for run in runs if {"threads", "cpu"} <= run.keys()]
    return "".join(f" ({pair})" for pair in dict.fromkeys(pairs))
