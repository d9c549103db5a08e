"""`msa cache`: look into the store, check it, share it, clean it. A body is: import, one call, print."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from msa import catalog
from msa.commands import console, user_defaults
from msa.commands.options import (
    FolderArgument,
    FolderOption,
    JsonOption,
    StoreArgument,
    StoreOption,
    about,
    folder_of,
    may_share,
    open_folder,
    open_store,
    print_corpus,
    print_json,
)

app = typer.Typer(help="Look into the store of hidden states, check it, clean it.", no_args_is_help=True)


@app.command()
def ls(store: StoreOption = None, json_: JsonOption = False) -> None:
    """The datasets and views of a store."""
    opened = open_store(store)
    views = [(name, view) for name in opened.datasets for view in opened.views(name)]
    rows = [
        {"dataset": name, "modality": v.modality, "backbone": v.name, "view": v.id, "samples": v.samples}
        | {"failed": v.failed, "dim": v.dim, "bytes": v.nbytes}
        for name, v in views
    ]
    print_json(rows, json_)
    if not json_:
        console.views(opened.where, opened.datasets, rows)


@app.command()
def info(
    store: StoreArgument = None,
    store_: StoreOption = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every sample that could not be extracted.")
    ] = False,
    cite: Annotated[
        bool, typer.Option("--cite", help="Only what to cite for it: corpora, backbones, file formats.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Where everything in a store comes from: corpora, recipes, weights, licences, versions, failures.

    With --json also every file with its size and SHA-256, every run, and every sample that failed or is to be done.
    """
    from msa.cache.maintain.describe import citations, describe

    if cite:
        named = citations(open_store(store or store_))
        print_json(dict(named), json_)
        if not json_:
            console.citations(named)
        return
    found = describe(open_store(store or store_))
    print_json(found, json_)
    if not json_:
        console.provenance(found, failures)


@app.command()
def verify(
    store: FolderArgument = None,
    store_: FolderOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also every chunk's checksum, every number, and what zarr-python reads.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check every file, size, SHA-256 and table, and say whom a fault concerns; exit code 1 when something is wrong."""
    from msa.cache.maintain.verify import report

    found = report(folder_of(store or store_), deep, console.Bar())
    print_json([asdict(p) for p in found.problems], json_)
    if not json_:
        console.findings(found.path, found.problems, found.remarks)
    raise typer.Exit(code=bool(found.problems))


@app.command()
def repair(
    store: FolderArgument = None,
    store_: FolderOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: JsonOption = False,
) -> None:
    """Drop damaged samples and say what extracts them again.

    Keeps every sample that is whole. Damaged files are set aside; `msa cache gc` removes them later.
    """
    from msa.cache.maintain import repair as repairing

    plan = repairing.plan(folder_of(store or store_), console.Bar(), catalog.names("dataset"))
    print_json({"steps": [asdict(step) for step in plan.steps], "commands": plan.commands}, json_)
    if not json_:
        console.mending(plan.report.path, plan.steps, plan.commands)
    if dry_run or not plan.steps:
        return
    if not yes:
        console.confirm("do this?", err=json_)
    left = repairing.carry_out(plan, console.Bar())
    if not json_:
        then = "run what is said above" if plan.commands else ""
        console.findings(left.path, left.problems, left.remarks, then)
    raise typer.Exit(code=bool(left.problems))


@app.command()
def rm(
    dataset: Annotated[str | None, typer.Option(help="A dataset, with its hidden states.")] = None,
    view: Annotated[str | None, typer.Option(help="A view, by id: see `msa cache ls`.")] = None,
    store: FolderOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Free the space at once; what a tag needs stays. There is no way back then.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a dataset or a view from a store. Its space is freed by `msa cache gc` later, or with --now at once."""
    from msa.cache.maintain.remove import remove

    if (dataset is None) == (view is None):
        raise typer.BadParameter("name either --dataset or --view")
    opened = open_folder(store)
    if not yes:
        console.confirm(f"remove {dataset or view} from {opened.path}?")
    before = opened.manifest["generation"]
    found = remove(opened, dataset=dataset, view=view, now=now)
    console.removed(str(dataset or view), opened.path, before, found)


@app.command()
def log(
    store: FolderOption = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many generations, the newest first.")] = 20,
    json_: JsonOption = False,
) -> None:
    """The history of a store: who changed what and when, generation by generation, and what can still be read."""
    from msa.cache.maintain.history import log as history

    found = list(history(open_folder(store).path, number))
    print_json([asdict(one) | {"told": one.told} for one in found], json_)
    if not json_:
        console.log(found)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="A generation or a tag.", show_default=False)],
    after: Annotated[str, typer.Argument(help="Another one.", show_default=False)],
    store: FolderOption = None,
    json_: JsonOption = False,
) -> None:
    """What differs between two generations of a store: datasets, views, samples, segments, bytes."""
    from msa.cache.maintain.history import diff as changes

    found = changes(open_folder(store).path, before, after)
    print_json([asdict(change) for change in found], json_)
    if not json_:
        console.changes(found)


@app.command()
def tag(
    name: Annotated[str | None, typer.Argument(help="The tag, such as paper-v1. None: list them.")] = None,
    generation: Annotated[
        str | None, typer.Argument(help="What it names: a generation or another tag. Default: the newest.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the tag; the generation stays.")] = False,
    store: FolderOption = None,
) -> None:
    """Name a generation of a store, so that it can be found again and is never swept; without a name, list the tags."""
    from msa.cache.maintain import history

    path = open_folder(store).path
    if name is None:
        if delete:
            raise typer.BadParameter("name the tag to delete")
        return console.show("", ["tag", "generation"], list(history.tags(path).items()), 1)
    if delete:
        history.untag(path, name)
        return console.say(f"tag {name} was deleted")
    return console.say(f"generation {history.tag(path, name, generation)} is now called {name}")


@app.command()
def rollback(
    generation: Annotated[str, typer.Argument(help="A generation or a tag: see `msa cache log`.", show_default=False)],
    store: FolderOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make a store show again what an older generation showed, in a new generation: that can be rolled back too."""
    from msa.cache.maintain import history

    path = open_folder(store).path
    wanted = history.number(path, generation)
    console.changes(history.diff(path, max(history.numbers(path), default=0), wanted))
    if not yes:
        console.confirm(f"do this to {path}?")
    made = history.rollback(path, generation)
    console.say(f"generation {made['generation']} shows what generation {wanted} showed")


@app.command()
def gc(
    store: FolderArgument = None,
    store_: FolderOption = None,
    grace: Annotated[
        str, typer.Option(help="Generations that were the newest within this time are kept: 24h, 7d, 30m, 0.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: JsonOption = False,
) -> None:
    """Free what only older generations need, and what killed runs left unfinished.

    Kept is what the newest generation needs, every tagged one, and every one that a reader may have opened within the
    grace period; segments that are being written are left alone. What killed runs had committed is published first.
    """
    from msa.cache.maintain import gc as sweeping
    from msa.cache.write import recovery

    opened, span = open_folder(store or store_), sweeping.seconds(grace)
    found, freed = sweeping.survey(opened.path, span), 0
    if not json_:
        console.survey(found)
        for line in recovery.silent(opened.path):
            console.warn(line)
    if not dry_run and (found.litter or found.left):
        if not yes:
            console.confirm(f"sweep {opened.path}?", err=json_)
        found, freed = sweeping.sweep(opened, span)
    print_json(asdict(found) | {"freed": freed}, json_)
    if not json_:
        console.swept(found, freed, dry_run)


@app.command()
def compact(
    view: Annotated[str | None, typer.Option(help="One view, by name or id: see `msa cache ls`. Default: all.")] = None,
    store: FolderOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of what, write nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Rewrite many small segments of a view, as kills and job arrays leave them, into few with full shards.

    Every hidden state keeps its bits. The old segments stay for whoever reads them until `msa cache gc`.
    """
    from msa.cache.maintain.compact import compact as rewrite

    found = rewrite(open_folder(store), view, console.Bar(), dry_run)
    print_json([asdict(one) for one in found], json_)
    if not json_:
        console.compacted(found, dry_run)


DatasetOption = Annotated[
    list[str] | None, typer.Option(help="Only this dataset, or these: see `msa cache ls`. Default: all.")
]
ViewOption = Annotated[
    list[str] | None,
    typer.Option(help="Only this view, or these, by backbone or id. Default: all."),
]
SplitOption = Annotated[list[str] | None, typer.Option(help="Only samples of this part, or these: train, valid, test.")]
SamplesOption = Annotated[
    Path | None, typer.Option(help="Only the samples a file names: an id a line, or a CSV or JSONL with a column id.")
]


@app.command()
def push(
    to: Annotated[
        str, typer.Argument(help="Where: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.", show_default=False)
    ],
    store: StoreOption = None,
    dataset: DatasetOption = None,
    view: ViewOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    i_may_share: Annotated[
        bool, typer.Option("--i-may-share", help="Do not ask where a licence forbids it: you know that you may.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Add a store, or a part of it, to another place: what is missing there travels, and appears when all is there.

    Asks first where a licence of the data or of the weights does not allow to hand them on.
    """
    from msa.cache.share import sync
    from msa.cache.share.subset import Selection

    opened = open_store(store)
    wanted = Selection(dataset or (), view or (), split or (), samples)
    if not i_may_share:
        may_share(sync.restrictions(opened, wanted))
    result = sync.push(opened, to, wanted, console.Bytes())
    print_json(asdict(result), json_)
    if not json_:
        console.shared(result)


@app.command()
def pull(
    origin: Annotated[
        str,
        typer.Argument(metavar="FROM", help="Another store: a folder, s3://, gs:// or https://.", show_default=False),
    ],
    store: FolderOption = None,
    dataset: DatasetOption = None,
    view: ViewOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    json_: JsonOption = False,
) -> None:
    """Add another store, or a part of it, to a folder's: what is missing here travels, and appears when all is there.

    Interrupted, the same command goes on where it stopped. What arrives is enough to train and to repeat a run.
    """
    from msa.cache.share import sync
    from msa.cache.share.subset import Selection

    wanted = Selection(dataset or (), view or (), split or (), samples)
    result = sync.pull(origin, folder_of(store), wanted, console.Bytes())
    print_json(asdict(result) | {"licences": dict(result.licences)}, json_)
    if not json_:
        console.shared(result)


@app.command()
def merge(
    other: Annotated[
        str, typer.Argument(help="Another store: a folder, s3://, gs:// or https://.", show_default=False)
    ],
    store: FolderOption = None,
    json_: JsonOption = False,
) -> None:
    """Add another store to a folder's and make corpora of one name one: the samples of both, each once.

    Samples that both have must be equal: where they differ in input, label or part, nothing is done and they are named.
    """
    from msa.cache.share import sync

    result = sync.merge(other, folder_of(store), console.Bytes())
    print_json(asdict(result) | {"licences": dict(result.licences)}, json_)
    if not json_:
        console.shared(result)


@app.command()
def clone(
    origin: Annotated[
        str, typer.Argument(metavar="FROM", help="A store: a folder, s3://, gs:// or https://.", show_default=False)
    ],
    to: Annotated[str, typer.Argument(help="Where there is none: a folder, s3:// or gs://.", show_default=False)],
    json_: JsonOption = False,
) -> None:
    """Copy the newest generation of a store, all of it, to where there is none. Interrupted, it goes on."""
    from msa.cache.share import sync

    result = sync.clone(origin, to, console.Bytes())
    print_json(asdict(result) | {"licences": dict(result.licences)}, json_)
    if not json_:
        console.shared(result)


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(help="What it is: see `msa list formats`.", show_default=False)],
    source: Annotated[Path, typer.Argument(help="The file or folder.", show_default=False)],
    store: FolderOption = None,
    name: Annotated[str | None, typer.Option(help="What to call the corpus. Default: after the file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Of the format: `msa list formats NAME`.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="JSON or CSV that names the samples of each part.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, where the file has none.")] = 42,
    json_: JsonOption = False,
) -> None:
    """Take over hidden states that others made: pickles, .npy, HDF5, .csd. Nothing in a file is ever executed.

    Padding is taken off, what is not finite becomes 0 and is counted, and every head trains on the result.
    """
    module = catalog.load("format", format)
    from msa.annotations.splits import Config as Drawing
    from msa.cache.exchange import _import as importing
    from msa.cache.store import FeatureStore
    from msa.config import taking, with_settings

    drawing, own = taking(Drawing(), set_ or ())
    foreign = module.read(source, with_settings(module.Config(), own, f"setting of {format}", drawing), name)
    path = folder_of(store)
    opened = FeatureStore.create(path)
    index, found = importing.bring_in(opened, foreign, split, seed, console.Bar(), drawing)
    if remark := user_defaults.keep(path):  # now that there is something in it
        console.warn(remark)
    print_json({"store": str(path), **about(index), "views": [asdict(i) for i in found]}, json_)
    if not json_:
        print_corpus(index)
        if missing := importing.lacking(index):
            console.warn(missing)
        console.imported(found, path)
        mine = {view.view_id for view in found}
        if others := [f"{v.modality}: {v.name}@{v.id}" for v in opened.views(index.name) if v.id not in mine]:
            console.say(f"  {index.name} also has, from before: {', '.join(others)}")


@app.command()
def export(
    format: Annotated[str, typer.Argument(help="One that `msa list formats` says can be written.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The file or folder to make.", show_default=False)],
    dataset: Annotated[str, typer.Option(help="The corpus: see `msa cache ls`.", show_default=False)],
    view: Annotated[list[str] | None, typer.Option(help="Which view: text=roberta.base. Default: the newest.")] = None,
    store: StoreOption = None,
) -> None:
    """Write a corpus with its hidden states for other programs."""
    module = catalog.load("format", format)
    from msa.cache.exchange import _export as exporting
    from msa.config import by_modality

    remarks = exporting.export(open_store(store), dataset, by_modality(view or (), "--view"), format, module, out)
    console.say(f"{dataset} was written to {out}")
    for remark in remarks:
        console.say(f"  {remark}")
