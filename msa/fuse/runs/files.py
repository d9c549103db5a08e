"""Formats in the folder of a run or of a sweep: safetensors, CSV, JSON, and folders below it; no link is followed."""

import csv
import fcntl
import io
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from msa.annotations.cells import plain
from msa.cache.format import files
from msa.errors import ConfigError
from msa.fuse.files import refuse, regular, short, write

MAX_TABLE = 2**28  # bytes of predictions.csv


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
        tensors_by_name = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors_by_name.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor.float()).any()):
            refuse(path, f"{name} holds NaN")
    return tensors_by_name


def numbers_in(path: Path) -> int:
    """Return how many numbers a safetensors file holds. Raises ConfigError where it is missing or damaged."""
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
    """Yield line number and cells of every row of a run's CSV. Raises ConfigError where it is missing or damaged."""
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
    """Return the value with None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: with_null(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [with_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@contextmanager
def written(path: Path) -> Iterator[io.StringIO]:
    """Yield a text to fill; it becomes the file when the block ends without an error."""
    text = io.StringIO(newline="")
    yield text
    write(path, text.getvalue().encode("utf-8"))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and work in it as the only process. Raises ConfigError where another one is at work there.

    A file system without locks keeps no process out.
    """
    make_folder(folder)
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is at work in {folder}", fix="wait for it, or name another folder with --out"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(place)


def make_folder(folder: Path) -> None:
    """Make the folder of a run or of many. Raises ConfigError where there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if files.told(error, folder):
            raise  # the disk's doing: the command says so
        raise ConfigError(
            f"{folder}: no folder can be made there: {error.strerror}", fix="name another folder with --out"
        ) from None
