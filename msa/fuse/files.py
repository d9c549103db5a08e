"""Single files of a training: read with suspicion, written whole.

Run folders are passed on. A file is read only where it is a regular one, and no larger than such a file can be; a
link, a pipe or a device of its name is a ConfigError. What is written replaces what had the name, so that a link
leads nothing out of the folder. Nothing that is read runs code: PyTorch's files are plain values and tensors alone.
"""

import io
import math
import os
import pickle
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from msa.cache.format import local_files
from msa.errors import ConfigError
from msa.names import shell_command

RESTORE = "restore the file from a copy of the run, or train again in another folder"


def regular(path: Path, limit: float = math.inf) -> Path:
    """Return the path of a regular file of at most `limit` bytes.

    Raises FileNotFoundError where there is none, and ConfigError where it is a link, a folder, a pipe, a device, or
    larger.
    """
    about = _about(path)
    if not stat.S_ISREG(about.st_mode):
        refuse(path, f"is {_KINDS.get(stat.S_IFMT(about.st_mode), 'a device')}, and no regular file")
    if about.st_size > limit:
        refuse(path, f"has {about.st_size} bytes, at most {limit:.0f} were expected")
    if not os.access(path, os.R_OK):
        refuse(path, "cannot be read: permission denied")
    return path


_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def _about(path: Path) -> os.stat_result:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # such as a file where the folder should be
        refuse(path, f"cannot be read: {error}")


def exists(path: Path) -> bool:
    """Return whether there is a regular file. Raises ConfigError where something else has its name."""
    try:
        regular(path)
    except FileNotFoundError:
        return False
    return True


def refuse(path: Path, what: str) -> NoReturn:
    """Raise the ConfigError for a file of a run that is not what msa wrote."""
    raise ConfigError(f"{path}: {what}", fix=RESTORE)


def write(path: Path, *parts: bytes | bytearray | memoryview, durably: bool = True) -> None:
    """Write a file in a folder that exists, whole or not at all; a link of its name is replaced.

    Without `durably` that holds for a killed process, not for a power cut: for what is written again and again.
    """
    local_files.write(path.parent, path, *parts, durably=durably)


def save(path: Path, value: Any) -> None:
    """Write plain values and tensors, wherever they are, as PyTorch's file of tensors on the CPU."""
    text = io.BytesIO()
    torch.save(on_cpu(value), text)
    write(path, text.getbuffer(), durably=False)


def load(path: Path) -> Any:
    """Read what `save` wrote: plain values and tensors on the CPU.

    Raises FileNotFoundError where there is no such file, and ConfigError where it is not one of these: nothing in it
    is run, and no more memory is taken than the file has bytes.
    """
    regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than it has")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, TypeError, LookupError, EOFError) as error:
        damaged(path, error)
    except (RuntimeError, AttributeError, NotImplementedError, RecursionError, OSError, AssertionError) as error:
        damaged(path, error)  # what PyTorch raises for a file that was cut or changed


def damaged(path: Path, error: object) -> NoReturn:
    """Raise the ConfigError for the file of a training under way, which can be begun again."""
    why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    raise ConfigError(
        f"{path}: damaged, or none that msa wrote: {why}",
        fix=f"remove it, and that seed is trained from its beginning: {shell_command('rm', path)}",
    )


def on_cpu(value: Any) -> Any:
    """Return the same values with every tensor on the CPU, so that they can be read where there is no card."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: on_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def short(value: object) -> str:
    """Return a stranger's value, short enough for a message and without terminal control characters."""
    if value is None:
        return "null"
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:57]}..."
