"""Local mirror of a remote store, filled as it is read: what was fetched once is not requested again.

The mirror is laid out like the store (see site.folder_of). Small files are fetched whole and compared with the SHA-256
of the manifest before they get their names. A shard is a sparse file of full length, which is made only after the
server has confirmed that length; beside it, `.have` marks which of its blocks of 4 KiB are there:

    inode of the shard (u64) | its bytes (u64) | start of the machine (16 bytes) | one byte per block: 1 = it is there

A byte and not a bit, so that two processes never undo each other's marks, and a mark is made after its data: a killed
process leaves at most data without marks, which are fetched again. After a power cut marks may have outlived their
data, so what the last start of the machine left is compared with the checksums it carries. The reader checks every
chunk against its crc32c in any case.
"""

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from msa.cache.format import generations, limits
from msa.cache.format.files import TEMPORARY, is_full
from msa.cache.format.manifest import Files, Manifest
from msa.cache.storage.site import Remote, cache_root, folder_of, wrong_size
from msa.cache.storage.wire import NoRanges
from msa.errors import ConfigError, StoreError

BLOCK = 4096  # bytes: a page, the least a sparse file can hold
GAP = 16 * BLOCK  # two ranges with no more than this between them become one request
LARGEST = 8 * 2**20  # bytes of one request
AT_ONCE = 64  # requests: a batch of 64 samples waits for one round trip
BESIDE = 32  # shards of a segment whose indexes are fetched together
HEADER = 32  # bytes
DEFAULT_BYTES = 20 * 10**9  # of all shards together
MARKS = ".have"
LOCK = ".lock"  # where there are no hard links: held while a file is made
T = TypeVar("T")


@dataclass
class _Sparse:
    """A shard of the mirror."""

    path: Path
    name: str  # in the store
    size: int
    have: np.ndarray  # (blocks,) uint8, shared with other processes
    whole: threading.Lock = field(default_factory=threading.Lock)  # held while all of it is fetched


class Blocks:
    """Local mirror of a remote store; implements shard.Blocks."""

    def __init__(self, site: Remote, pinned: Manifest) -> None:
        self.site = site
        self.root = folder_of(site)
        if self.root.is_symlink():
            raise StoreError(
                f"{self.root}, where a copy of {site} is kept, is a link to elsewhere",
                fix="delete the link; MSA_CACHE should name a folder that others cannot write to",
            )
        self._files = {
            f"{folder}/{name}": facts for folder, files in pinned.needed.items() for name, facts in files.items()
        }
        self._shards: dict[Path, _Sparse] = {}
        self._lock = threading.Lock()
        self._brought = 0  # bytes since the size of all mirrors was looked at
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None

    def files(self, folder: Path, files: Files) -> None:
        """Bring these small files. Shards among them are left where they are."""
        missing = [
            folder / name
            for name, facts in files.items()
            if not name.startswith("data/c/") and not _is_there(folder / name, facts)
        ]
        with _keeping(self.root):
            for _ in self._each(self._small, missing):
                pass

    def shard(self, path: Path) -> None:
        """Make the sparse file of a shard, with its chunk index, and those of its neighbours."""
        with self._lock, _keeping(self.root):
            if path in self._shards:
                return
            beside = path.parents[1].relative_to(self.root).as_posix() + "/"
            names = [name for name in self._files if name.startswith(beside)]
            paths = [self.root / name for name in names] if len(names) <= BESIDE else [path]
            for _ in self._each(self._check_size, [shard_path for shard_path in paths if not shard_path.exists()]):
                pass
            new = [self._open(shard_path) for shard_path in paths if shard_path not in self._shards]
            tails = [(known, known.size - _index_bytes(known.path, known.size), known.size) for known in new]
            runs = [(known, *run) for known, begin, end in tails for run in _missing(known, [(begin, end)])]
            for _ in self._each(lambda run: self._range(*run), runs):
                pass
            self._shards |= {known.path: known for known in new}  # last: a shard in here has its index

    def bring(self, wanted: Sequence[tuple[Path, int, int]]) -> None:
        """Fetch these parts of shards, (path, offset, bytes); all missing ranges are requested at once."""
        runs = []
        for path in dict.fromkeys(path for path, _, _ in wanted):
            if path not in self._shards:
                self.shard(path)
            known = self._shards[path]
            spans = [(offset, offset + size) for other, offset, size in wanted if other == path]
            runs += [(known, begin, end) for begin, end in _missing(known, spans)]
        with _keeping(self.root):
            for _ in self._each(lambda run: self._range(*run), runs):
                pass

    def _each(self, fetch: Callable[[T], None], wanted: Sequence[T]) -> Iterable[None]:
        """Call `fetch` for each, many at once; the first failure is raised."""
        if os.getpid() != self._pid:  # the threads behind obstore did not come along
            raise StoreError(
                f"{self.site} was opened before this process was forked, and cannot be read after that",
                fix="open the store in each worker, or start workers with the method `spawn`",
            )
        if len(wanted) < 2:
            return map(fetch, wanted)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="msa-blocks")
        return self._pool.map(fetch, wanted)

    def _small(self, path: Path) -> None:
        name = path.relative_to(self.root).as_posix()
        size, digest = self._facts(name)
        try:
            data = self.site.read(name, size)
        except FileNotFoundError:
            raise _missing_there(self.site, name) from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(
                f"{self.site}/{name} does not match the SHA-256 in the manifest",
                fix="it was damaged there or on the way: try again, and tell those who published it",
            )
        self._folder(path)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _range(self, known: _Sparse, begin: int, end: int) -> None:
        try:
            data = self.site.range(known.name, begin, end, known.size)
        except FileNotFoundError:
            raise _missing_there(self.site, known.name) from None
        except NoRanges:
            self._all(known)
            return
        with open(_ours(known.path), "r+b", buffering=0) as file:
            _write(file, data, begin)
        known.have[begin // BLOCK : -(-end // BLOCK)] = 1
        self._brought += len(data)

    def _all(self, known: _Sparse) -> None:
        """Fetch a whole shard, from a server without ranges."""
        with known.whole:
            if known.have.all():
                return
            with open(_ours(known.path), "r+b", buffering=0) as file:
                at = 0
                for piece in self.site.stream(known.name, 0, known.size):
                    _write(file, memoryview(piece), at)
                    at += len(piece)
            if at != known.size:
                raise wrong_size(self.site, known.name, known.size, at)
            known.have[:] = 1
            self._brought += at

    def _check_size(self, path: Path) -> None:
        """Raise StoreError where a shard is missing, of another size, or larger than MSA_CACHE_BYTES."""
        name = path.relative_to(self.root).as_posix()
        size, _ = self._facts(name)
        actual = self.site.size(name)
        if actual is None:
            raise _missing_there(self.site, name)
        if actual != size:
            raise wrong_size(self.site, name, size, actual)
        if size > most_bytes():
            raise StoreError(
                f"{self.site}/{name} has {size:,} bytes, and no more than {most_bytes():,} of the disk may be used",
                fix="if you trust the store, raise MSA_CACHE_BYTES (as in 500GB), or `msa cache pull` what you need",
            )

    def _folder(self, path: Path) -> None:
        """Make the folder of a file of the mirror."""
        limits.check_inside(self.root, path)
        path.parent.mkdir(parents=True, exist_ok=True)

    def _facts(self, name: str) -> tuple[int, str]:
        try:
            size, digest = self._files[name]
        except KeyError:
            raise StoreError(
                f"{self.site}: this generation names no file {name}", fix="ask its publisher to verify the store"
            ) from None
        return int(size), str(digest)

    def _open(self, path: Path) -> _Sparse:
        """Open or make the sparse file and its marks; both are kept from eviction while this process lives."""
        name = path.relative_to(self.root).as_posix()
        size, _ = self._facts(name)
        self._folder(path)
        marks = path.with_name(MARKS)
        for _ in range(10):  # another process may make or evict it at the same time
            _make(path, lambda file: file.truncate(size))
            with suppress(FileNotFoundError):
                header = path.stat().st_ino.to_bytes(8, "little") + size.to_bytes(8, "little")
                _make(marks, lambda file, header=header: _begin_marks(file, header, size))  # type: ignore[misc]
                with open(_ours(marks), "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_SH)  # kept by the map below, which holds the same file open
                    if _is_ours(file.fileno(), marks) and path.stat().st_size == size:
                        marks_map = mmap.mmap(file.fileno(), 0)
                        if marks_map[:16] == header and len(marks_map) == HEADER + -(-size // BLOCK):
                            known = _Sparse(path, name, size, np.frombuffer(marks_map, np.uint8, offset=HEADER))
                            if marks_map[16:HEADER] != _boot():
                                _reconsider(known)
                                marks_map[16:HEADER] = _boot()
                            os.utime(marks)
                            self._evict()
                            return known
                        marks.unlink(missing_ok=True)  # of a shard that is gone
                    elif path.stat().st_size != size:
                        path.unlink()
        raise StoreError(f"{path} cannot be made", fix=f"delete {self.root}, which is only a copy, and try again")

    def _evict(self) -> None:
        """Delete the shards opened longest ago, but by no living process, down to MSA_CACHE_BYTES."""
        most = most_bytes()
        if self._shards and self._brought < most // 50:
            return
        self._brought, shards = 0, []
        root = cache_root().resolve()
        for marks in root.glob(f"*/views/*/seg/*/data/c/*/{MARKS}"):
            with suppress(FileNotFoundError, StoreError):
                limits.check_inside(root, marks)
                shards.append((marks.stat().st_mtime, marks.with_name("0").stat().st_blocks * 512, marks))
        over = sum(size for _, size, _ in shards) - most
        for _, size, marks in sorted(shards):
            if over <= 0:
                return
            with suppress(OSError), open(marks, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where it is in use, here or elsewhere
                marks.unlink()  # first: marks must not outlive their shard
                marks.with_name("0").unlink()
                over -= size


def most_bytes() -> int:
    """Return how many bytes all mirrored shards may take: MSA_CACHE_BYTES, in bytes or as 50GB."""
    text = os.environ.get("MSA_CACHE_BYTES", "")
    if not text:
        return DEFAULT_BYTES
    number, unit = text.rstrip("BbKkMmGgTt"), text.lstrip("0123456789. ").rstrip("Bb").upper()
    try:
        return int(float(number) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[unit])
    except (ValueError, KeyError):
        raise ConfigError(f"MSA_CACHE_BYTES is {text!r}", fix="give bytes, or a number with a unit: 50GB") from None


def _missing(known: _Sparse, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the byte ranges to request: missing blocks of these spans, near ones joined, large ones in pieces."""
    runs: list[list[int]] = []
    for begin, end in sorted(spans):
        first = begin // BLOCK
        new = np.flatnonzero(known.have[first : -(-end // BLOCK)] == 0) + first
        for part in np.split(new, np.flatnonzero(np.diff(new) > GAP // BLOCK) + 1) if len(new) else ():
            a, b = int(part[0]) * BLOCK, min((int(part[-1]) + 1) * BLOCK, known.size)
            if runs and a <= runs[-1][1] + GAP:
                runs[-1][1] = max(runs[-1][1], b)
            else:
                runs.append([a, b])
    return [(a, min(a + LARGEST, end)) for begin, end in runs for a in range(begin, end, LARGEST)]


def _is_there(path: Path, facts: Sequence[object]) -> bool:
    """Return whether a small file was fetched already.

    Metadata is compared by its SHA-256. Arrays are in folders that are named after their content or at random, and have
    checksums: their size is enough.
    """
    try:
        if path.stat().st_size != facts[0]:
            return False
        return path.name != "zarr.json" or hashlib.sha256(path.read_bytes()).hexdigest() == facts[1]
    except (FileNotFoundError, NotADirectoryError):
        return False


def _index_bytes(path: Path, size: int) -> int:
    """Return the bytes of the chunk index at the end of a shard; of all of the file where it has another layout."""
    meta = limits.read_json(path.parents[2] / "zarr.json")
    codec = meta["codecs"][0]
    if codec["name"] != "sharding_indexed" or codec["configuration"].get("index_location", "end") != "end":
        return size
    rows = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
    return min(size, rows // codec["configuration"]["chunk_shape"][0] * 16 + 4)


def _reconsider(known: _Sparse) -> None:
    """Clear the marks of every chunk that does not match its checksum, after a start of the machine."""
    from msa.cache.format.small_arrays import holds

    tail = _index_bytes(known.path, known.size)
    data = np.memmap(known.path, np.uint8, "r")
    index = data[known.size - tail :]
    if tail == known.size or not _whole(known, known.size - tail, known.size) or not holds(index):
        known.have[:] = 0
        return
    good, bad = np.zeros(len(known.have), bool), np.zeros(len(known.have), bool)
    good[(known.size - tail) // BLOCK :] = True
    for offset, size in index[:-4].copy().view("<i8").reshape(-1, 2).tolist():
        inside = offset >= 0 and size > 4 and offset + size <= known.size - tail
        if inside and _whole(known, offset, offset + size):
            blocks = good if holds(data[offset : offset + size]) else bad
            blocks[offset // BLOCK : -(-(offset + size) // BLOCK)] = True
    known.have[~good | bad] = 0  # a block was written whole or not at all: one good chunk in it is enough


def _whole(known: _Sparse, begin: int, end: int) -> bool:
    return bool(known.have[begin // BLOCK : -(-end // BLOCK)].all())


def _make(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file, whole, unless there is one."""
    if path.exists():
        return
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            fill(file)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in generations.NO_LINKS:
                raise
            with open(path.with_name(LOCK), "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _begin_marks(file: BinaryIO, header: bytes, size: int) -> None:
    file.write(header + _boot())
    file.truncate(HEADER + -(-size // BLOCK))  # zeros that take no room


def _write(file: BinaryIO, data: memoryview, at: int) -> None:
    """Write all of `data` at byte `at` of a file. Raises OSError on a full disk."""
    written = 0
    while written < len(data):
        written += os.pwrite(file.fileno(), data[written:], at + written)


def _ours(path: Path) -> int:
    """Return a descriptor to read and write a regular file of the mirror. Raises StoreError for a link in its place."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _planted(path) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _planted(path)
    return handle


def _planted(path: Path) -> StoreError:
    return StoreError(
        f"{path} is a link, a folder or a device where a file of a copy should be",
        fix=f"delete {path}, and let MSA_CACHE name a folder that others cannot write to",
    )


@contextmanager
def _keeping(root: Path) -> Iterator[None]:
    """Turn an OSError of writing to the mirror into a StoreError with a fix."""
    try:
        yield
    except OSError as error:
        fix = "let MSA_CACHE name a folder on a local disk that you may write to"
        if is_full(error):
            fix = "free some space, lower MSA_CACHE_BYTES, or let MSA_CACHE name a folder on another disk"
        raise StoreError(
            f"{root}, where a copy of what is read from elsewhere is kept, cannot be written to: {error.strerror}",
            fix=fix,
        ) from error


def _is_ours(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one of that name."""
    return os.fstat(handle).st_ino == path.stat().st_ino


def _boot() -> bytes:
    """Return 16 bytes that change with every start of the machine; zeros where there are none."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return uuid.UUID(text).bytes
    except (OSError, ValueError):
        return bytes(16)


def _missing_there(site: Remote, name: str) -> StoreError:
    return StoreError(
        f"{site} has no file {name}, which its manifest names",
        fix="it was removed there, or never arrived: ask its publisher, or open the store again",
    )
