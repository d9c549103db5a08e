"""The files of a run and of a sweep: read with suspicion, written whole.

Run folders are passed on. A file is read only where it is a regular one, and no larger than such a file can be; a
link, a pipe or a device of its name is a ConfigError. What is written replaces what had the name, so that a link
leads nothing out of the folder. Nothing that is read runs code: JSON, CSV, safetensors, and PyTorch's files as plain
values and tensors alone.
"""

import csv
import io
import json
import math
import os
import pickle
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from msa.annotations.cells import plain
from msa.cache.format import files, local_files
from msa.errors import ConfigError
from msa.names import shell_command

MAX_TABLE = 2**28  # bytes of predictions.csv
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


def there(path: Path) -> bool:
    """Is there a regular file? Raises ConfigError where something else has its name."""
    try:
        regular(path)
    except FileNotFoundError:
        return False
    return True


def subfolder(root: Path, *names: str) -> Path:
    """Make a folder below `root`, a run's or a sweep's, and return its path.

    Raises ConfigError where one of the folders is a link: what is written there would land outside of `root`.
    """
    folder = root
    for name in names:
        folder = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if files.told(error, folder):
                raise  # the disk's doing: the command says so
            refuse(folder, f"no folder can be made there: {error.strerror}")
        if folder.is_symlink():
            refuse(folder, f"is a link to {os.path.realpath(folder)}, and what is written below would land there")
    return folder


def tensors(path: Path, names: Mapping[str, Sequence[int] | None]) -> dict[str, Tensor]:
    """Read a safetensors file that holds these tensors and no others.

    Args:
        path: the file.
        names: the shape each has to have; None where any will do.

    Raises:
        ConfigError: where the file is missing or damaged, has others, or numbers that are NaN.
    """
    with _named(path), safe_open(regular(path), "pt") as file:
        held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if lost := sorted(names.keys() - held.keys()):
            refuse(path, f"lacks {', '.join(lost[:3])}")
        if more := sorted(held.keys() - names.keys()):
            refuse(path, f"holds {', '.join(map(short, more[:3]))}, which is not expected there")
        for name, shape in names.items():
            if shape is not None and held[name] != tuple(shape):
                refuse(path, f"{name} has shape {list(held[name])}, expected {list(shape)}")
        found = {name: file.get_tensor(name) for name in names}
    for name, tensor in found.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor.float()).any()):
            refuse(path, f"{name} holds NaN")
    return found


def numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds. Raises ConfigError where it is missing or damaged."""
    with _named(path), safe_open(regular(path), "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what is wrong with a safetensors file into a ConfigError that names it."""
    try:
        yield
    except FileNotFoundError:
        refuse(path, "the file is missing")
    except (SafetensorError, OSError, ValueError) as error:
        refuse(path, f"is no safetensors file: {error}")


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of every row of a CSV of a run. Raises ConfigError where the file is missing or damaged."""
    try:
        with open(regular(path, MAX_TABLE), newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    refuse(path, f"line {reader.line_num} has not as many cells as the header")
                yield reader.line_num, {plain(name): plain(cell) for name, cell in row.items()}
    except FileNotFoundError:
        refuse(path, "the file is missing")
    except (csv.Error, UnicodeDecodeError) as error:
        refuse(path, f"is no CSV in UTF-8: {error}")


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
    """The same values with every tensor on the CPU: what is kept or sent has to be read where there is no card."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: on_cpu(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def write_json(path: Path, value: Mapping[str, Any], new: bool = False) -> None:
    """Write a JSON file, whole or not at all; a value that is not a number becomes null.

    A `new` one never takes the place of another process's.
    """
    text = json.dumps(with_null(value), indent=1, ensure_ascii=False, allow_nan=False)
    target = path.with_name(f"{files.TEMPORARY}{uuid.uuid4().hex}") if new else path
    write(target, text.encode("utf-8"))
    if new:
        try:
            os.link(target, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            target.replace(path)
        target.unlink(missing_ok=True)


def with_null(value: Any) -> Any:
    """JSON knows no NaN: a score that is undefined is null."""
    if isinstance(value, Mapping):
        return {name: with_null(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def written(path: Path) -> Iterator[io.StringIO]:
    """A text to fill, which becomes the file when the block ends well."""
    text = io.StringIO(newline="")
    yield text
    write(path, text.getvalue().encode("utf-8"))


def short(value: object) -> str:
    """A stranger's value, short enough for a message and without what a terminal obeys."""
    if value is None:
        return "null"
    text = ascii(value) if not isinstance(value, list | dict) else f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:57]}..."
