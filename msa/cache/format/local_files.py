"""Changes inside a store: the one place that writes, renames, lists and removes there, and never through a link.

A store may come from a stranger, and every name in it may be a symbolic link to somewhere else. Each function here
takes the root of the store and a path below it, and walks from one to the other by open folders (`dir_fd`), none of
which may be a link (`O_NOFOLLOW`). A link that is put there in the meantime is refused as well. The root itself, and
what leads to it, may be links. `tests/test_house.py` keeps the rest of `msa/cache` from doing this in another way.
"""

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ELOOP, EMFILE, EMLINK, ENAMETOOLONG, ENOTDIR, ENOTEMPTY
from pathlib import Path
from typing import NoReturn

from msa.cache.format.files import TEMPORARY
from msa.errors import StoreError
from msa.names import shell_command

MOST_DEEP = 16  # folders in folders; those of a store are at most 8 deep
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER = (ELOOP, EMLINK, ENOTDIR)  # what systems say of a link where a folder is wanted


@contextmanager
def folder(root: Path, path: Path, make: bool = False) -> Iterator[int]:
    """Open a folder of the store, to work in it by `dir_fd`; `make` makes it, and what leads to it, where missing.

    Raises FileNotFoundError where there is none, StoreError where a link or a file is in the way.
    """
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        at = root
        for name in _names(root, path):
            at = at / name
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=handle)
            below = _enter(handle, at)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def listed(root: Path, path: Path) -> list[str]:
    """Return the names in a folder, sorted; none where there is no folder. Raises StoreError where it is a link."""
    try:
        with folder(root, path) as here:
            return sorted(os.listdir(here))
    except FileNotFoundError:
        return []


def folders(root: Path, path: Path) -> list[Path]:
    """Return the folders in a folder, sorted; links to folders are none."""
    try:
        with folder(root, path) as here:
            return [path / name for name in sorted(os.listdir(here)) if _is_folder(here, name)]
    except FileNotFoundError:
        return []


def tree(root: Path, path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield a file or folder and everything in it, each with its lstat; links are named and not followed.

    What others remove meanwhile is passed over. Raises StoreError where folders lie deeper in each other than any of a
    store do.
    """
    about = lstat(root, path)
    if about is None:
        return
    yield path, about
    left = [path] if stat.S_ISDIR(about.st_mode) else []
    while left:
        parent = left.pop()
        if len(parent.parts) > len(path.parts) + MOST_DEEP:
            _refuse_depth(path)
        entries = []
        with suppress(FileNotFoundError), folder(root, parent) as here:
            for name in sorted(os.listdir(here)):
                with suppress(FileNotFoundError):
                    entries.append((parent / name, os.stat(name, dir_fd=here, follow_symlinks=False)))
        left += [below for below, about in entries if stat.S_ISDIR(about.st_mode)]
        yield from entries


def is_folder(root: Path, path: Path) -> bool:
    """Return whether there is a folder at a path. Raises StoreError where a link or a file is in its place."""
    try:
        with folder(root, path):
            return True
    except FileNotFoundError:
        return False


def lstat(root: Path, path: Path) -> os.stat_result | None:
    """Return what lies at a path, a link as a link; None where nothing does."""
    if path == root:
        return root.stat()
    try:
        with folder(root, path.parent) as here:
            return os.stat(path.name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return None


def refuse_links(root: Path, path: Path) -> None:
    """Raise StoreError where anything in a folder is neither a file nor a folder: a link, a pipe, a device."""
    for entry, about in tree(root, path):
        if stat.S_ISLNK(about.st_mode):
            _refuse_link(entry)
        if not stat.S_ISDIR(about.st_mode) and not stat.S_ISREG(about.st_mode):
            raise StoreError(f"{entry} is neither a file nor a folder", fix=f"remove it: {shell_command('rm', entry)}")


def make_folder(root: Path, path: Path, new: bool = False) -> None:
    """Make a folder and what leads to it, unless they exist.

    With `new` it must not exist, and what leads to it must: raises FileExistsError and FileNotFoundError.
    """
    if path == root:
        root.mkdir(parents=True, exist_ok=not new)
    elif new:
        with folder(root, path.parent) as here:
            os.mkdir(path.name, dir_fd=here)
    else:
        with folder(root, path, make=True):
            pass


def write(root: Path, path: Path, *parts: bytes | bytearray | memoryview, durably: bool = True) -> None:
    """Write a file that either is there whole under `path` or is not there at all, in a folder that exists.

    `durably` syncs it and its folder: it survives a power cut.
    """
    temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
    with folder(root, path.parent) as here:
        try:
            with open(temporary, "wb", opener=_opener(here)) as file:
                for part in parts:
                    file.write(part)
                file.flush()
                if durably:
                    os.fsync(file.fileno())
            os.rename(temporary, path.name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=here)  # a full disk gets its space back
            raise
        if durably:
            os.fsync(here)


def create(root: Path, path: Path, data: bytes, refused: Callable[[OSError], Exception]) -> bool:
    """Make a file that is there whole or not at all, unless others made it first; return whether we did.

    It is written under a temporary name, synced, and given its name with link(2). Over a network a link may be reported
    as failed although it was made: the answer was lost, and what the client then sent again found the name taken, by
    ourselves. The number of names the file has tells. `refused` makes the error to raise where linking fails.
    """
    temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
    with folder(root, path.parent) as here:
        try:
            with open(temporary, "xb", opener=_opener(here)) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path.name, src_dir_fd=here, dst_dir_fd=here)
            except OSError as error:
                if os.stat(temporary, dir_fd=here, follow_symlinks=False).st_nlink != 2:
                    if isinstance(error, FileExistsError):
                        return False
                    raise refused(error) from error
            os.fsync(here)
            return True
        finally:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=here)


def opened(root: Path, path: Path, flags: int) -> int:
    """Open a regular file, with flags of `os.open`; return a descriptor that the caller closes.

    Raises FileNotFoundError where it is missing and not to be made, StoreError where it is no regular file.
    """
    with folder(root, path.parent) as here:
        try:
            handle = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=here)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                _refuse(here, path)
            raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StoreError(f"{path} is not a regular file", fix=f"remove it: {shell_command('rm', path)}")
    return handle


@contextmanager
def folder_durably(root: Path, final: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `final` when the block ends well and vanishes when it does not.

    `final` is named after its contents: where others made it meanwhile, theirs stays.
    """
    temporary = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    make_folder(root, temporary)
    try:
        yield temporary
        sync_tree(root, temporary)
        try:
            rename(root, temporary, final)
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
            remove(root, temporary)  # others made the same at the same time
    except BaseException:
        with suppress(OSError):
            remove(root, temporary)
        raise
    with folder(root, final.parent) as here:
        os.fsync(here)


@contextmanager
def folder_for_now(root: Path, parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, removed when the block ends."""
    temporary = parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    make_folder(root, temporary)
    try:
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            remove(root, temporary)


def rename(root: Path, old: Path, new: Path) -> None:
    """Give a file, folder or link another name; a link is renamed itself. Raises FileNotFoundError where it is gone."""
    with folder(root, old.parent) as here, folder(root, new.parent) as there:
        try:
            os.rename(old.name, new.name, src_dir_fd=here, dst_dir_fd=there)
        except FileNotFoundError as error:
            raise FileNotFoundError(error.errno, error.strerror, str(old)) from None


def remove(root: Path, path: Path, missing_ok: bool = False) -> None:
    """Remove a file, a folder with everything in it, or a link and not what it points to.

    Raises FileNotFoundError where nothing is there, unless `missing_ok`.
    """
    try:
        with folder(root, path.parent) as here:
            if _is_folder(here, path.name):
                shutil.rmtree(path.name, dir_fd=here)  # follows no link either, and stops where one is put in its way
            else:
                os.unlink(path.name, dir_fd=here)
    except FileNotFoundError:
        if not missing_ok:
            raise
    except (RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (EMFILE, ENAMETOOLONG):
            raise
        _refuse_depth(path)


def remove_empty(root: Path, path: Path) -> None:
    """Remove an empty folder. Raises FileNotFoundError where it is gone, another OSError where it is not empty."""
    with folder(root, path.parent) as here:
        os.rmdir(path.name, dir_fd=here)


def link(root: Path, old: Path, new: Path) -> None:
    """Give a file a second name (a hard link). Raises FileExistsError where the name is taken."""
    with folder(root, old.parent) as here, folder(root, new.parent) as there:
        os.link(old.name, new.name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def remove_tree(root: Path, path: Path) -> None:
    """Remove a folder; its name goes first, so that no reader meets it half removed."""
    doomed = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    rename(root, path, doomed)
    remove(root, doomed)


def touch(root: Path, path: Path) -> None:
    """Set the time of a file to now: what is about to be used is not collected. Raises FileNotFoundError."""
    with folder(root, path.parent) as here:
        os.utime(path.name, dir_fd=here, follow_symlinks=False)


def sync(root: Path, path: Path) -> None:
    """Make names that were just created or renamed in a folder durable."""
    with folder(root, path) as here:
        os.fsync(here)


def sync_tree(root: Path, path: Path) -> None:
    """fsync every file and folder below, so that a rename can publish them together."""
    for entry, about in tree(root, path):
        if stat.S_ISDIR(about.st_mode):
            sync(root, entry)
        elif stat.S_ISREG(about.st_mode):
            handle = opened(root, entry, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _names(root: Path, path: Path) -> tuple[str, ...]:
    names = path.relative_to(root).parts
    if ".." in names:
        raise StoreError(f"{path} leads out of {root}", fix="report this: no path that msa makes contains '..'")
    return names


def _opener(here: int) -> Callable[[str, int], int]:
    return lambda name, flags: os.open(name, _NEW, 0o666, dir_fd=here)


def _enter(here: int, path: Path) -> int:
    try:
        return os.open(path.name, _FOLDER, dir_fd=here)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
    except OSError as error:
        if error.errno in _NO_FOLDER:
            _refuse(here, path)
        raise


def _is_folder(here: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _refuse(here: int, path: Path) -> NoReturn:
    with suppress(OSError):
        if stat.S_ISLNK(os.stat(path.name, dir_fd=here, follow_symlinks=False).st_mode):
            _refuse_link(path)
    raise StoreError(
        f"damaged store: {path} is not a folder", fix="move it away, then see what `msa cache verify` and `repair` say"
    )


def _refuse_link(path: Path) -> NoReturn:
    raise StoreError(
        f"{path} is a symbolic link, and nothing in a store is changed through one",
        fix="remove the link, or put what it points to in its place; only the folder of the whole store may be a link",
    )


def _refuse_depth(path: Path) -> NoReturn:
    raise StoreError(
        f"damaged store: folders in {path} lie deeper in each other than those of any store",
        fix=f"see what it is, and remove it by hand: {shell_command('rm', '-r', path)}",
    )
