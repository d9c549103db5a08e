"""A file or folder that is there whole under its name, or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msa.cache.format.files import TEMPORARY, is_full, sync_folder, sync_tree, told
from msa.errors import StoreError


@contextmanager
def whole(out: Path, nbytes: int) -> Iterator[Path]:
    """A name to write a file or folder of about `nbytes` under; it becomes `out` when the block ends well.

    Raises StoreError where `out` exists, or where there is no room for it.
    """
    if out.exists() or out.is_symlink():
        raise StoreError(f"{out} exists", fix="name another place, or move it away: nothing is written over")
    out.parent.mkdir(parents=True, exist_ok=True)
    if nbytes > (free := shutil.disk_usage(out.parent).free):
        raise _full(out, nbytes, free)
    temporary = out.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield temporary
        _sync(temporary)
        os.rename(temporary, out)
    except BaseException as error:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_full(error):
            what, fix = told(error, out) or ("", "")
            raise StoreError(what, fix=fix) from error
        raise
    sync_folder(out.parent)


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_tree(path)
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _full(out: Path, nbytes: int, free: int) -> StoreError:
    return StoreError(
        f"{out} needs about {nbytes / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free",
        fix="free some space, name another disk, or export fewer modalities",
    )
