"""Options that several commands share, and the stores they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msa.commands import console, user_defaults

if TYPE_CHECKING:
    from msa.cache.store import FeatureStore

DEFAULT = "Default: MSA_STORE, ./msa-store, or the store last written to."
READABLE = "Store to read: a folder, or an address (s3://, gs://, https://)."
WRITABLE = "Store: a local folder."
StoreOption = Annotated[str | None, typer.Option("--store", help=f"{READABLE} {DEFAULT}")]
StoreArgument = Annotated[str | None, typer.Argument(help=f"{READABLE} Default: as for --store.", show_default=False)]
FolderOption = Annotated[str | None, typer.Option("--store", help=f"{WRITABLE} {DEFAULT}")]
FolderArgument = Annotated[str | None, typer.Argument(help=f"{WRITABLE} Default: as for --store.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be done; change nothing.")]
DeviceOption = Annotated[
    str, typer.Option(help="Device: auto (the GPU if there is one), cpu, cuda, or one GPU as cuda:1.")
]
# Of `msa fuse`
DataOption = Annotated[
    str | None, typer.Option(help="Dataset, or two to pair: mvsa-single+ravdess. Default: chosen from the store.")
]
PairingOption = Annotated[
    str, typer.Option(help="How samples of two datasets are paired: random, union, label_matched, zip or noisy_match.")
]
ModalitiesOption = Annotated[str | None, typer.Option(help="Modalities to use, such as text,image. Default: all.")]
ModalityViewOption = Annotated[
    list[str] | None,
    typer.Option(help="View of a modality, as text=roberta.base. Default: the newest of each modality."),
]
SeedsOption = Annotated[
    str, typer.Option(help="Number of seeds, counted from 42, or the seeds themselves: 3 or 7,8,9.")
]


def store_of(option: str | None) -> str | Path:
    """Return the store to read from; print which one it is if --store is not given."""
    path, why = user_defaults.store(option)
    console.store(path, why)
    return path


def folder_of(option: str | None) -> Path:
    """Return the store to write to; print which one it is if --store is not given."""
    path, why = user_defaults.folder(option)
    console.store(path, why)
    return path


def open_store(option: str | None) -> "FeatureStore":
    """Open the store to read from."""
    from msa.cache.store import FeatureStore

    return FeatureStore.open(store_of(option))


def open_folder(option: str | None) -> "FeatureStore":
    """Open the store to write to, a local folder."""
    from msa.cache.store import FeatureStore

    return FeatureStore.open(folder_of(option))
