"""`msa cache push`, `pull`, `merge` and `clone`: move stores between places."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from msa.commands.console import as_json, confirm, count, say, size, warn
from msa.commands.options import FolderOption, JsonOption, StoreOption, folder_of, open_store
from msa.commands.progress import Bytes
from msa.errors import ConfigError

DatasetOption = Annotated[
    list[str] | None, typer.Option(help="Only this dataset; `msa cache ls` lists them. Default: all.")
]
ViewOption = Annotated[list[str] | None, typer.Option(help="Only this view, by backbone or id. Default: all.")]
SplitOption = Annotated[
    list[str] | None, typer.Option(help="Only samples of this split: train, valid or test. Default: all.")
]
SamplesOption = Annotated[
    Path | None,
    typer.Option(help="Only samples listed in this file: one id per line, or a CSV or JSONL with a column id."),
]
ANY_STORE = "A store: a folder, s3://, gs:// or https://."


def push(
    to: Annotated[
        str, typer.Argument(help="Destination: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.", show_default=False)
    ],
    store: StoreOption = None,
    dataset: DatasetOption = None,
    view: ViewOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    i_may_share: Annotated[
        bool,
        typer.Option("--i-may-share", help="Confirm that you may share data whose licence forbids it; do not ask."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Upload a store or a subset of it.

    Sends only what is missing; readers see nothing until the upload is complete. Asks first if the licence of a dataset
    or of weights does not allow redistribution.
    """
    from msa.cache.share import licences, sync
    from msa.cache.share.subset import Selection

    opened = open_store(store)
    wanted = Selection(dataset or (), view or (), split or (), samples)
    if not i_may_share:
        _confirm_right(licences.restrictions(opened, wanted))
    _print(sync.push(opened, to, wanted, Bytes()), json_)


def pull(
    origin: Annotated[str, typer.Argument(metavar="FROM", help=ANY_STORE, show_default=False)],
    store: FolderOption = None,
    dataset: DatasetOption = None,
    view: ViewOption = None,
    split: SplitOption = None,
    samples: SamplesOption = None,
    json_: JsonOption = False,
) -> None:
    """Download a store or a subset of it.

    Fetches only what is missing; readers see nothing until the download is complete. The same command continues an
    interrupted download. The result is enough to train from and to repeat a run.
    """
    from msa.cache.share import sync
    from msa.cache.share.subset import Selection

    wanted = Selection(dataset or (), view or (), split or (), samples)
    _print(sync.pull(origin, folder_of(store), wanted, Bytes()), json_)


def merge(
    other: Annotated[str, typer.Argument(help=ANY_STORE, show_default=False)],
    store: FolderOption = None,
    json_: JsonOption = False,
) -> None:
    """Merge another store into a local one.

    Datasets of the same name become one dataset with the samples of both, each once. Samples in both stores must have
    the same input, label and split; otherwise nothing is changed and the differing samples are named.
    """
    from msa.cache.share import sync

    _print(sync.merge(other, folder_of(store), Bytes()), json_)


def clone(
    origin: Annotated[str, typer.Argument(metavar="FROM", help=ANY_STORE, show_default=False)],
    to: Annotated[
        str, typer.Argument(help="Destination without a store: a folder, s3:// or gs://.", show_default=False)
    ],
    json_: JsonOption = False,
) -> None:
    """Copy a whole store to a new place.

    Copies the newest generation. The same command continues an interrupted copy.
    """
    from msa.cache.share import sync

    _print(sync.clone(origin, to, Bytes()), json_)


def _confirm_right(restrictions: Sequence[Any]) -> None:
    """Ask for confirmation if licences forbid sharing. Raises ConfigError without a terminal to ask on."""
    if not restrictions:
        return
    print_restrictions(restrictions)
    if not sys.stdin.isatty():
        raise ConfigError(
            f"nothing was pushed: {count(len(restrictions), 'licence')} (see above) forbid sharing or do not allow it",
            fix="leave these out with --dataset and --view; or add --i-may-share if you have the right",
        )
    confirm("do you have the right to share this?")


def print_restrictions(restrictions: Sequence[Any]) -> None:
    """Print why parts of a store may not be shared."""
    for restriction in restrictions:
        warn(f"{restriction.what}: no permission to share it is known: {restriction.why}")


def _print(result: Any, json_: bool) -> None:
    if json_:
        as_json(asdict(result) | {"licences": dict(result.licences)})
    else:
        print_transferred(result)


def print_transferred(result: Any) -> None:
    """Print what a transfer moved, and the licences of the data."""
    moved = f"{count(result.files, 'file')}, {size(result.bytes)} transferred" if result.files else "already complete"
    held = f"{count(result.samples, 'sample')} in all views"
    datasets = ", ".join(result.datasets) or "nothing"
    say(f"{datasets}: {held}, in {result.to} (generation {result.generation}); {moved}")
    if result.close:
        say(f"  {count(result.close, 'sample')} in both stores differ only by rounding: {result.to} keeps its own")
    for name, licence in result.licences:
        say(f"  {name}: licence: {licence}")
