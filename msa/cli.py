"""The command line. Each command is a function in `msa/commands`; this module puts them together."""

import os
import signal
import sys
from typing import Annotated

import typer

from msa import __version__
from msa.commands import cache, console, demo, exits, extract, fuse, listing, predict
from msa.errors import MsaError

INTERRUPTED = 130  # exit code of Ctrl-C

app = typer.Typer(
    cls=exits.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(extract.extract)
app.command("list")(listing.list_)
app.command()(predict.predict)
app.command()(demo.demo)
app.add_typer(cache.app, name="cache")
app.add_typer(fuse.app, name="fuse")


def main() -> None:
    """Run the command line. An MsaError prints two lines and exits with 1; any other exception keeps its traceback."""
    # Waiting threads must sleep: where cores are shared, spinning ones made encoding ten times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop request acts as Ctrl-C
    try:
        app()
    except MsaError as error:
        console.fail(error.what, error.fix)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            exits.interrupted()
        raise


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"msa {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Multimodal sentiment analysis in two stages.

    Stage 1 (extract) turns raw media into hidden states once and keeps them in a store. Stage 2 (fuse) trains small
    fusion heads from the store.
    """


if __name__ == "__main__":
    main()
