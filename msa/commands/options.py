"""What the commands share: options, and how results are printed."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from msa import catalog
from msa.annotations import splits
from msa.commands import console, user_defaults
from msa.errors import ConfigError, UnknownNameError
from msa.names import shell_command

if TYPE_CHECKING:
    from msa.cache.index import Index
    from msa.cache.share.sync import Restriction
    from msa.cache.store import FeatureStore
    from msa.fuse.runs.run import Run

WHERE = "a folder, or to read s3://, gs://, https://"
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help=f"The store: {WHERE}. Default: MSA_STORE, ./msa-store, the last one written to."),
]
StoreArgument = Annotated[
    str | None, typer.Argument(help=f"The store: {WHERE}. Default: as with --store.", show_default=False)
]
FolderOption = Annotated[
    str | None,
    typer.Option("--store", help="The store: a folder. Default: MSA_STORE, ./msa-store, the last one written to."),
]
FolderArgument = Annotated[
    str | None, typer.Argument(help="The store: a folder. Default: as with --store.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
DeviceOption = Annotated[str, typer.Option(help="auto (the GPU where there is one), cpu, cuda, cuda:1.")]

FREE = {
    "hf:PATH_OR_ID": "Any encoder of transformers, for text or audio, from a folder or the hub.",
    "timm:NAME[@CHECKPOINT]": "Any image model of timm, from the hub or a file.",
}


_resumable: dict[Path, str] = {}  # file -> the command that continues once that file is there


def continues_with(command: str, once: Path) -> None:
    """Say with which command this one continues after Ctrl-C, as soon as the file `once` is there."""
    _resumable[once] = command


def interrupted() -> None:
    """Print that a command was interrupted, and the command that continues it."""
    again = [command for path, command in _resumable.items() if path.exists()]
    console.warn("interrupted; what was committed is kept. To continue:")
    console.command(again[-1] if again else shell_command("msa", *sys.argv[1:]))


NO_MEMORY = "this machine, or a limit set on it, has too little memory for this"
MORE_MEMORY = (
    "end other programs, or raise the limit (ulimit -v); below one, set MALLOC_ARENA_MAX=1 OMP_NUM_THREADS=1 "
    "OPENBLAS_NUM_THREADS=1, for every thread reserves memory of its own"
)


class Commands(typer.core.TyperGroup):
    """Commands, of which each may meet too little memory, or a disk that is full, fails, or is not ours to write to."""

    def invoke(self, ctx: Any) -> Any:
        """Run one. Raises ConfigError where the system says so of memory or of a file, wherever that came up."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            from msa.cache.format.files import told

            if (known := told(error)) is None:
                raise
            raise ConfigError(known[0], fix=known[1]) from error
        except MemoryError as error:
            raise ConfigError(f"{NO_MEMORY}{f': {error}' if str(error) else ''}", fix=MORE_MEMORY) from error


def store_of(option: str | None) -> str | Path:
    """Return the store to read from, and print which one it is where --store does not say so."""
    meant, why = user_defaults.store(option)
    console.store(meant, why)
    return meant


def folder_of(option: str | None) -> Path:
    """Return the store to write to, and print which one it is where --store does not say so."""
    meant, why = user_defaults.folder(option)
    console.store(meant, why)
    return meant


def open_store(store: str | None) -> "FeatureStore":
    """Open the store that is named, or the one that is meant where none is: to read."""
    from msa.cache.store import FeatureStore

    return FeatureStore.open(store_of(store))


def open_folder(store: str | None) -> "FeatureStore":
    """Open the same, to write: a folder."""
    from msa.cache.store import FeatureStore

    return FeatureStore.open(folder_of(store))


def may_share(restrictions: Sequence["Restriction"]) -> None:
    """Ask whether what licences forbid shall be done all the same. Raises ConfigError where nobody can be asked."""
    if not restrictions:
        return
    console.restrictions(restrictions)
    if not sys.stdin.isatty():
        raise ConfigError(
            f"nothing was pushed: {len(restrictions)} licences forbid it, or do not say that it is allowed (see above)",
            fix="leave these out with --dataset and --view; or add --i-may-share, if you may",
        )
    console.confirm("do you have the right to share this all the same?")


def print_json(value: Any, wanted: bool) -> None:
    """Print a result as JSON, where --json asks for it."""
    if wanted:
        console.as_json(value)


def print_run(run: "Run") -> None:
    """The table of a run, and where its files are."""
    from msa.fuse.experiments import tables as results

    console.sheet(results.sheet(run))
    console.say(files_of(run))


def files_of(run: "Run") -> str:
    """Where a run's files are, in one line."""
    return f"run: {run.folder}  ({', '.join([*run.pictures, 'predictions.csv', 'metrics.json'])})"


def print_corpus(index: "Index") -> None:
    """Print what a corpus holds, and which classes a part has too few samples of."""
    console.corpus(index)
    few = list(splits.scarce(index.counts(), index.task.classes))
    for line in few:
        console.warn(line)
    drawn = index.about["split"]
    if few and "stratified" in drawn:
        console.warn("each class is in the same ratio already: label more samples, or draw other parts with --seed N")
    elif few and "drawn" in drawn:
        console.warn("draw other parts with --seed N, or each class in the same ratio with --set stratify=true")


def about(index: "Index") -> dict[str, Any]:
    """What is worth saying of a corpus that was just read."""
    kept = ("split", "dropped", "encodings", "leaks")
    return {"dataset": index.name, "samples": len(index), **{name: index.told[name] for name in kept}}


def listed(kind: str | None, name: str | None) -> None:
    """Print what there is of a kind, or of every kind; with a name, what can be set there."""
    tables: dict[str, Callable[[], dict[str, str]]] = {
        "datasets": lambda: catalog.describe("dataset"),
        "backbones": lambda: catalog.backbones() | FREE,
        "heads": lambda: catalog.describe("head"),
        "formats": lambda: catalog.describe("format"),
    }
    if kind is not None and kind not in tables:
        raise UnknownNameError("list", kind, tables)
    if kind is not None and name is not None:
        return console.settings(name, _settings(kind.removesuffix("s"), name))
    for title, rows in tables.items():
        if kind in (None, title):
            console.show(title, ["name", "what it is"], list(rows().items()))
    return None


def _settings(kind: str, name: str) -> dict[str, list[tuple[str, Any, str]]]:
    """Title -> (setting, default, what it is)."""
    from msa.config import describe

    if kind == "backbone":
        from msa.extract.presets import described

        return described(name)
    found = {"settings": describe(catalog.load(kind, name).Config)}
    if kind in ("dataset", "format"):
        found["where parts are drawn"] = describe(splits.Config)
    if kind == "head":
        from msa.fuse.train.config import TrainConfig
        from msa.fuse.train.model import Model

        own = Model.of(name).training
        found["training"] = [(field, getattr(own, field), what) for field, _, what in describe(TrainConfig)]
    return found
