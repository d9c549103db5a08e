"""`msa demo`: both stages on generated data."""

from pathlib import Path
from typing import Annotated

import typer

from msa.commands.console import note, say
from msa.commands.fuse.training import print_run
from msa.commands.progress import Bar
from msa.names import shell_command


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for data, store and run.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings, each with its own seed.")] = 2,
) -> None:
    """Run both stages on a small generated dataset.

    Generates posts with pictures and spoken clips, extracts their hidden states, trains heads, and prints the results.
    """
    from msa.demo import tour

    run = tour.take(folder, seeds, Bar(), note)
    print_run(run)
    say()
    say("Try a prediction:")
    words = ["--text", "what a wonderful day", "--image", tour.a_picture(folder)]
    say(f"  {shell_command('msa', 'predict', '--run', run.folder, *words)}")
