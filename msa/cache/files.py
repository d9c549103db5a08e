"""Files that survive a power cut: temporary name, fsync, rename, fsync of the folder."""

import os
import shutil
from pathlib import Path

TEMPORARY = ".tmp-"  # whatever carries this prefix was never finished and may be swept


def write_durably(path: Path, *parts: bytes | bytearray | memoryview) -> None:
    """Write a file that either is there whole under `path` or is not there at all."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with open(temporary, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # a full disk gets its space back
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were just created or renamed in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below, so that a rename can publish them together."""
    for parent, _, names in os.walk(folder):
        for name in names:
            handle = os.open(os.path.join(parent, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(parent))


def remove_tree(folder: Path) -> None:
    """Delete a folder; the name goes first, so that nobody meets it half deleted."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)
