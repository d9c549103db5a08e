"""Transfer files of a store from one place to another: only missing ones, each checked before it gets its name.

A file for a folder grows under a temporary name that contains its SHA-256, so that an interrupted transfer continues
in the middle of it. It is compared with its SHA-256 and then renamed. A file for an object store is checked here and
put in one piece, so that it is never there in part.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from msa.cache.format import limits, local_files
from msa.cache.format.files import TEMPORARY
from msa.cache.format.manifest import Files
from msa.cache.storage.site import Disk, Site, persistently
from msa.cache.storage.wire import PIECE
from msa.errors import StoreError
from msa.progress import Progress

AT_ONCE = 8  # files


@dataclass(frozen=True)
class File:
    """File to send: its place, and the size and hash that it must have."""

    source: Site
    name: str
    size: int
    sha256: str


@dataclass
class Sent:
    """Files and bytes that a transfer sent; files that the target had do not count."""

    files: int = 0
    nbytes: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        """Count a file of which so many bytes were sent."""
        with self._lock:
            self.files, self.nbytes = self.files + 1, self.nbytes + nbytes


def send(files: list[File], target: Site, progress: Progress = Progress()) -> Sent:
    """Send files to a place, several at once, large ones first. Raises StoreError for one of another size or hash."""
    sent = Sent()
    if isinstance(target, Disk):
        _check_room(files, target)
    progress.begin(f"to {target}", sum(file.size for file in files))
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="msa-transfer")
    try:
        tasks = [pool.submit(_send, file, target, sent, progress) for file in sorted(files, key=lambda f: -f.size)]
        for task in tasks:
            task.result()
    finally:
        pool.shutdown(cancel_futures=True)  # files that were begun are finished, or continued later
        progress.end()
    return sent


def _check_room(files: Sequence[File], target: Disk) -> None:
    """Refuse files that need more room than is free, less what an earlier transfer left. Raises StoreError."""
    free = shutil.disk_usage(target.store).free
    needed = sum(file.size for file in files)
    if needed > free:
        needed -= sum(_present_bytes(target.store / file.name, file) for file in files)
    if needed > free:
        raise StoreError(
            f"{target}: {needed:,} bytes are needed, {free:,} bytes are free",
            fix="free some space, name a folder on another disk, or pull a part: --dataset, --view, --split",
        )


def _present_bytes(path: Path, file: File) -> int:
    """Return how many bytes of a file are on the disk, whole or under a temporary name."""
    for known in (path, path.with_name(f"{TEMPORARY}{file.sha256[:32]}")):
        with suppress(OSError):
            return min(os.lstat(known).st_size, file.size)
    return 0


def settle(name: str, data: bytes, target: Site) -> bytes:
    """Make a small file that others may make too, with other content; return what it holds in the end."""
    return data if target.add(name, data) else target.read(name)


def check(file: File, data: bytes) -> bytes:
    """Return the bytes of a file after comparing their hash. Raises StoreError."""
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise damaged(file)
    return data


def damaged(file: File) -> StoreError:
    """Return the error for a file that does not match the manifest of its store."""
    return StoreError(
        f"{file.source}/{file.name} does not match the SHA-256 in its manifest, {file.sha256[:16]}…",
        fix="nothing of it was copied; run `msa cache verify` at its place to see what else is damaged; "
        "`msa cache repair` drops what is damaged there",
    )


def _send(file: File, target: Site, sent: Sent, progress: Progress) -> None:
    if _has(target, file):
        progress.advance(file.size)
    elif isinstance(target, Disk):
        _download(file, target.store, target.store / file.name, sent, progress)
    elif isinstance(file.source, Disk):
        path = file.source.store / file.name
        _check(path, file)
        target.put(file.name, path)
        sent.add(file.size)
        progress.advance(file.size)
    else:
        with tempfile.TemporaryDirectory(prefix="msa-transfer-") as folder:
            path = Path(folder) / "file"
            _download(file, Path(folder), path, sent, progress)
            target.put(file.name, path)


def _has(target: Site, file: File) -> bool:
    """Return whether an earlier transfer sent it; in a folder it is hashed again, objects are always whole."""
    if isinstance(target, Disk):
        path = target.store / file.name
        status = local_files.lstat(target.store, path)
        if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        if limits.sha256(path) != file.sha256:
            return False
        with suppress(OSError):
            local_files.touch(target.store, path)  # new from now on, so that gc leaves it until it is published
        return True
    return target.size(file.name) == file.size


def _check(path: Path, file: File) -> None:
    try:
        if path.stat().st_size == file.size and limits.sha256(path) == file.sha256:
            return
    except (FileNotFoundError, NotADirectoryError):
        raise absent(file) from None
    raise damaged(file)


def _download(file: File, root: Path, path: Path, sent: Sent, progress: Progress) -> None:
    """Download under a temporary name with the hash, from where an earlier attempt stopped, and then rename."""
    local_files.make_folder(root, path.parent)
    temporary = path.with_name(f"{TEMPORARY}{file.sha256[:32]}")
    growing = _growing(root, temporary)
    if not _locked(growing):  # another transfer downloads the same: each into its own file
        growing.close()
        temporary = path.with_name(f"{TEMPORARY}{file.sha256[:32]}-{os.getpid()}-{threading.get_ident()}")
        growing = _growing(root, temporary)
    with growing:
        try:
            hashed = _hash_of_begun(growing, file, progress)
            before = growing.tell()
            persistently(lambda: _append(growing, hashed, file, progress), so_far=growing.tell)
            if growing.tell() != file.size or hashed.hexdigest() != file.sha256:
                growing.truncate(0)  # or the next attempt would continue it
                raise damaged(file)
            os.fsync(growing.fileno())
            local_files.rename(root, temporary, path)
        except StoreError:
            if not growing.tell():
                local_files.remove(root, temporary, missing_ok=True)
            raise
    local_files.sync(root, path.parent)
    sent.add(file.size - before)


def _growing(root: Path, path: Path) -> BinaryIO:
    return open(local_files.opened(root, path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+b")


def _hash_of_begun(growing: BinaryIO, file: File, progress: Progress) -> "hashlib._Hash":
    """Hash what an earlier attempt left, and move the position behind it."""
    hashed = hashlib.sha256()
    if growing.seek(0, os.SEEK_END) > file.size:
        growing.truncate(0)
    growing.seek(0)
    while piece := growing.read(PIECE):
        hashed.update(piece)
        progress.advance(len(piece))
    return hashed


def _append(growing: BinaryIO, hashed: "hashlib._Hash", file: File, progress: Progress) -> None:
    try:
        if growing.tell() < file.size:
            for piece in file.source.stream(file.name, growing.tell(), file.size):
                if growing.tell() + len(piece) > file.size:
                    raise _Grown
                growing.write(piece)
                growing.flush()  # so that after a kill the next attempt continues here
                hashed.update(piece)
                progress.advance(len(piece))
    except FileNotFoundError:
        raise absent(file) from None
    except _Grown:
        growing.truncate(0)
        growing.seek(0)


class _Grown(Exception):
    """A file is longer than its manifest says."""


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0  # or it was renamed or removed while we waited to open it


def absent(file: File) -> StoreError:
    """Return the error for a file that its manifest names and its place does not have."""
    return StoreError(
        f"{file.source} has no file {file.name}, which its manifest names",
        fix="it was removed there, or did not arrive: run `msa cache verify` at its place to see what is affected",
    )


def files(source: Site, needed: Mapping[str, Files]) -> list[File]:
    """Return the files of some folders of a place; `needed` is {folder: its files}."""
    return [
        File(source, f"{folder}/{name}", size, digest)
        for folder, files_of_folder in needed.items()
        for name, (size, digest) in files_of_folder.items()
    ]
