"""How a command ends early: interrupted, out of memory, on a full disk."""

import sys
from pathlib import Path
from typing import Any

import typer.core

from msa.commands import console
from msa.errors import ConfigError
from msa.names import shell_command

NO_MEMORY = "too little memory: this machine, or a limit set on the process, has no more"
MORE_MEMORY = (
    "end other programs, or raise the limit (ulimit -v); below one, set MALLOC_ARENA_MAX=1 OMP_NUM_THREADS=1 "
    "OPENBLAS_NUM_THREADS=1, because every thread reserves memory of its own"
)

_resumable: dict[Path, str] = {}  # file -> the command that continues once that file exists


class Commands(typer.core.TyperGroup):
    """Command group that turns the system's errors of memory and files into ConfigError, for all its commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises ConfigError for MemoryError, and for an OSError whose cause the user can fix."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            from msa.cache.format.files import told

            if (known := told(error)) is None:
                raise
            raise ConfigError(known[0], fix=known[1]) from error
        except MemoryError as error:
            raise ConfigError(f"{NO_MEMORY}{f': {error}' if str(error) else ''}", fix=MORE_MEMORY) from error


def continues_with(command: str, once: Path) -> None:
    """Register the command that continues this one after Ctrl-C, valid as soon as the file `once` exists."""
    _resumable[once] = command


def interrupted() -> None:
    """Print that the command was interrupted, and the command that continues it."""
    commands = [command for path, command in _resumable.items() if path.exists()]
    console.warn("interrupted; what was committed is kept. To continue:")
    console.command(commands[-1] if commands else shell_command("msa", *sys.argv[1:]))
