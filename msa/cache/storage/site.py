"""Locations of a store: a folder, S3, Google Cloud Storage, or a web server (read only).

    site = remote.site("s3://bucket/prefix")            # or gs://bucket/prefix, https://host/prefix, a folder
    site.read("manifests/00000012.json")

Names are those of the store's layout, relative to its root. Credentials come from where they usually do - AWS_* and
GOOGLE_* variables, the profile of ~/.aws where boto3 is installed, ~/.netrc - and go into request headers alone: every
message, and `str(site)`, show an address without user, password and query.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit, urlunsplit

from msa.cache.format import attributes, generations, layout, limits, local_files
from msa.cache.storage.object_store import Bucket
from msa.cache.storage.wire import AGAIN, LEAST, PIECE, Body, NoRanges, Refused, Unreachable, Wire, paced
from msa.errors import ConfigError, StoreError
from msa.names import printable

SCHEMES = ("s3", "gs", "http", "https")
HINT = "manifests/latest.json"  # {"msa_format", "generation"}: where to begin the search on servers that cannot list
TRIES = 4  # of a request, or of a transfer that breaks in the middle
PAUSE_S = 0.5  # before the second try, twice as long before each further one
PATIENCE_S = 45.0  # after which no request is repeated
MOST_GENERATIONS = 10**8  # their names have eight digits
CREDULOUS = 16  # at this step, check that the server calls number 0 missing, which no store has
T = TypeVar("T")


class Site(generations.Place, Protocol):
    """The files of one store at any location. Names are relative to its root."""

    @property
    def writable(self) -> bool:
        """Whether files can be written."""

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""

    def read(self, name: str, limit: int = limits.MAX_JSON) -> bytes:
        """Return a small file. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""

    def stream(self, name: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Yield a file from byte `start` on. Raises FileNotFoundError, and StoreError where it has not `size` bytes."""

    def put(self, name: str, source: Path) -> None:
        """Write a file with the content of another, whole or not at all."""

    def add(self, name: str, data: bytes) -> bool:
        """Write a small file, whole, unless there is one of that name; return whether it was written."""

    def hint(self, generation: int) -> None:
        """Write which generation is the newest, for readers that cannot list files."""


def is_url(text: object) -> bool:
    """Return whether this is an address and not a folder."""
    return isinstance(text, str) and "://" in text


def shown(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket that is not closed
        return f"{printable(url.partition('://')[0])}://..."
    host = parts.netloc.rpartition("@")[2]
    return printable(urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", "")))


def site(where: str | Path) -> Site:
    """Return the site at an address or folder, without a request. Raises ConfigError for other addresses."""
    return connect(str(where)) if is_url(where) else Disk(Path(where))


def connect(url: str) -> "Remote":
    """Return the site behind an address. Raises ConfigError where it is not the address of a store."""
    name = shown(url)
    parts = _parts(url)
    if parts is None:
        raise ConfigError(
            f"{name} is not the address of a store", fix=f"name a folder, or {', '.join(f'{s}://...' for s in SCHEMES)}"
        )
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{name} was given with a query (?...): every file of a store has an address of its own, and would need it",
            fix="give the address of the store's folder alone, and credentials through the environment",
        )
    if scheme in ("s3", "gs"):
        return Remote(name, Bucket(name))
    from msa.cache.storage.web import Web  # imported late: urllib3 is slow to import

    return Remote(name, Web(name, _authorization(url, host)))


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an address; None where it has invalid characters, no host, or another scheme."""
    try:
        parts = urlsplit(url)
        odd = parts.port == 0  # ValueError where it is not a number, or too large
        (parts.hostname or "").encode("idna")
    except ValueError:  # also a bracket that is not closed, and a host whose letters no host may have
        return None
    if odd or not url.isprintable() or not parts.hostname or parts.scheme.lower() not in SCHEMES:
        return None
    return parts


@dataclass(frozen=True)
class Disk(generations.Folder):
    """A store in a folder of this machine, or of a file server."""

    @property
    def writable(self) -> bool:
        """True; writing fails where the file system is read only."""
        return True

    def __str__(self) -> str:
        return str(self.store)

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""
        try:
            return (self.store / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str, limit: int = limits.MAX_JSON) -> bytes:
        """Return a small file. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""
        limits.check_inside(self.store, self.store / name)
        return limits.read_bytes(self.store / name, limit)

    def stream(self, name: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Yield a file from byte `start` on. Raises FileNotFoundError, and StoreError where it has not `size` bytes."""
        limits.check_inside(self.store, self.store / name)
        with open(limits.open_regular(self.store / name), "rb") as file:
            actual = os.fstat(file.fileno()).st_size
            if size is not None and actual != size:
                raise wrong_size(self, name, size, actual)
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    def put(self, name: str, source: Path) -> None:
        """Write a file with the content of another, whole or not at all."""
        path = self.store / name
        local_files.make_folder(self.store, path.parent)
        local_files.write(self.store, path, source.read_bytes())

    def add(self, name: str, data: bytes) -> bool:
        """Write a small file, whole, unless there is one of that name; return whether it was written."""
        path = self.store / name
        local_files.make_folder(self.store, path.parent)
        return generations.create_durably(self.store, path, data)

    def hint(self, generation: int) -> None:
        """Write which generation is the newest, for readers of this folder through a web server."""
        with suppress(OSError):
            local_files.write(self.store, self.store / HINT, _hint(generation))


@dataclass(frozen=True)
class Remote:
    """A store behind an address. `url` is the address without secrets."""

    url: str
    wire: Wire = field(repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def writable(self) -> bool:
        """Whether files can be written."""
        return self.wire.writable

    # files

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""
        return self._tried(lambda: self.wire.size(name))

    def read(self, name: str, limit: int = limits.MAX_JSON) -> bytes:
        """Return a small file. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""
        return self._tried(lambda: self._whole(name, limit))

    def range(self, name: str, start: int, end: int, size: int | None = None) -> memoryview:
        """Return the bytes from `start` up to `end` of a file, which has `size` bytes where that is known.

        Raises FileNotFoundError, StoreError where there are fewer or the file is of another size, and NoRanges where
        the server sends whole files only.
        """
        return memoryview(self._tried(lambda: self._part(name, start, end, size)))

    def stream(self, name: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Yield a file from byte `start` on. Raises FileNotFoundError, and StoreError where it has not `size` bytes."""
        try:
            body, skipped = self.wire.get(name, start), start
        except NoRanges:
            body, skipped = self.wire.get(name), 0
        with closing(body):
            self._check_size(name, body, size)
            pieces = paced(body.pieces, f"{self.url}/{name}")
            while skipped < start and (piece := next(pieces, b"")):
                skipped += len(piece)
                if skipped > start:
                    yield piece[start - skipped :]
            yield from pieces

    def put(self, name: str, source: Path) -> None:
        """Write a file with the content of another, whole or not at all."""
        self._check_writable()
        self.wire.put(name, source)

    def add(self, name: str, data: bytes) -> bool:
        """Write a small file, whole, unless there is one of that name; return whether it was written."""
        self._check_writable()
        # obstore may have repeated a put whose answer was lost: then the file is there, with this content
        return self.wire.create(name, data) or self.read(name) == data

    def _tried(self, request: Callable[[], T]) -> T:
        """Return the answer to a request, which is repeated where the connection breaks."""
        return request() if self.wire.retries else persistently(request)

    def _whole(self, name: str, limit: int) -> bytes:
        with closing(self.wire.get(name)) as body:
            data = self._gathered(name, body, limit)
        if body.size is not None and len(data) != body.size:
            raise Unreachable(f"{self.url}/{name} broke off after {len(data)} of {body.size} bytes", fix=AGAIN)
        return data

    def _part(self, name: str, start: int, end: int, size: int | None) -> bytes:
        with closing(self.wire.get(name, start, end)) as body:
            self._check_size(name, body, size)
            data = self._gathered(name, replace(body, size=None), end - start)
        if len(data) != end - start:
            raise StoreError(
                f"{self.url}/{name}: asked for bytes {start} to {end - 1} and got {len(data)}",
                fix="it was cut short or replaced: ask for a copy that `msa cache verify` finds whole",
            )
        return data

    def _gathered(self, name: str, body: Body, limit: int) -> bytes:
        """Return all that is sent. Raises StoreError as soon as it is, or is announced as, more than `limit` bytes."""
        data, received = bytearray(), body.size or 0
        if received <= limit:
            for piece in paced(body.pieces, f"{self.url}/{name}"):
                data += piece
                if (received := len(data)) > limit:
                    break
        if received > limit:
            raise StoreError(
                f"{self.url}/{name} has {received:,} bytes or more, at most {limit:,} were expected",
                fix="this is not a store that msa wrote, or a damaged one: `msa cache verify` where it lies tells",
            )
        return bytes(data)

    def _check_size(self, name: str, body: Body, size: int | None) -> None:
        if size is not None and body.size is not None and body.size != size:
            raise wrong_size(self, name, size, body.size)

    # generations: see generations.Place

    def numbers(self) -> list[int]:
        """Return the numbers of all generations, ascending; only the newest where files cannot be listed."""
        listed = self._tried(self.wire.manifests)
        if listed is not None:
            return listed
        newest = self._newest()
        return [newest] if newest else []

    def get(self, number: int) -> bytes:
        """Return the bytes of a manifest. Raises FileNotFoundError where there is none."""
        return self.read(layout.manifest_path(number))

    def create(self, number: int, data: bytes) -> bool:
        """Write a manifest unless there is one of that number; return whether it was written."""
        made = self.add(layout.manifest_path(number), data)
        if made:
            self.hint(number)
        return made

    def hint(self, generation: int) -> None:
        """Write which generation is the newest, for readers that cannot list files. They also look for later ones."""
        self.wire.put(HINT, _hint(generation))

    def _newest(self) -> int:
        """Return the largest number of a manifest, by requests for single files; 0 where there is none.

        Generations follow each other without gaps. From one that is there - the hint's, else the first - steps double
        until one is missing, and halve again until its neighbour is found. Raises StoreError where the server has
        whatever it is asked for, and so would never come to an end.
        """
        low, step = self._hinted(), 1
        while self._has(low + step):
            low, step = low + step, 2 * step
            if (step == CREDULOUS and self._has(0)) or low + step >= MOST_GENERATIONS:
                raise StoreError(
                    f"{self.url}: the server claims to have every generation it is asked for, also number 0, "
                    "which no store has",
                    fix="check the address: the server answers with a page of its own where a file is missing",
                )
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._has(middle) else (low, middle)
        return low

    def _hinted(self) -> int:
        """Return the generation that the hint names, if it is there; else 0."""
        try:
            generation = limits.parse(HINT, self.read(HINT)).get("generation")
        except FileNotFoundError:
            return 0
        except Unreachable:
            raise
        except StoreError:  # a damaged hint is ignored
            return 0
        return (
            generation if type(generation) is int and 0 < generation < MOST_GENERATIONS and self._has(generation) else 0
        )

    def _has(self, number: int) -> bool:
        try:  # servers that may not tell which files exist say "forbidden" of what they have not
            return self.size(layout.manifest_path(number)) is not None
        except Refused:
            return False

    def _check_writable(self) -> None:
        if not self.writable:
            raise StoreError(
                f"{self.url} can only be read from: a web server takes no files",
                fix="push to the folder or bucket it serves",
            )


def wrong_size(site: Site, name: str, expected: int, actual: int) -> StoreError:
    """Return the error for a file that has another size than its manifest says."""
    return StoreError(
        f"{site}/{name} has {actual:,} bytes, and its manifest says {expected:,}",
        fix="it was cut short or replaced, or the manifest lies: get a copy that `msa cache verify` finds whole",
    )


def persistently(
    request: Callable[[], T],
    wait: Callable[[float], None] = time.sleep,
    so_far: Callable[[], int] = lambda: 0,
) -> T:
    """Return what `request` returns; repeat it after a pause where it raises Unreachable, and raise the last failure.

    Args:
        request: What is repeated.
        wait: Called with the seconds to wait.
        so_far: Returns how many bytes have arrived. After a try that was faster than LEAST, counting begins again.
    """
    began, tries, arrived_before = time.monotonic(), 0, so_far()
    while True:
        try:
            return request()
        except Unreachable:
            now, arrived, tries = time.monotonic(), so_far(), tries + 1
            if arrived - arrived_before > LEAST * (now - began):
                began, tries, arrived_before = now, 1, arrived
            elif tries == TRIES or now - began > PATIENCE_S:
                raise
            wait(PAUSE_S * 2 ** (tries - 1))


def folder_of(site: Remote) -> Path:
    """Return the folder of the local mirror of an address, in `MSA_CACHE` or the cache folder of the user."""
    from msa.cache.format.fingerprint import key

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if site.url.startswith("s3:") else ""
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", site.url.rpartition("/")[2])[:40]
    return cache_root() / f"{key({'url': site.url, 'endpoint': shown(endpoint) if endpoint else ''})}-{last}"


def cache_root() -> Path:
    """Return the folder of all local mirrors. It may be deleted at any time."""
    if named := os.environ.get("MSA_CACHE"):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("msa") / "stores"


def check_root(site: Site) -> None:
    """Raise StoreError where there is no store, or one of a newer format."""
    try:
        data = site.read("zarr.json")
    except FileNotFoundError:
        raise StoreError(
            f"there is no store at {site}", fix="check the address; `msa cache push` makes a store there"
        ) from None
    if data.lstrip()[:1] == b"<":
        raise StoreError(
            f"there is no store at {site}: the server sends a web page in place of zarr.json",
            fix="check the address; it has to be that of the folder that holds zarr.json",
        )
    attributes.check_root(f"{site}/zarr.json", limits.parse(f"{site}/zarr.json", data))


def _hint(generation: int) -> bytes:
    return b'{"msa_format": %d, "generation": %d}\n' % (layout.FORMAT, generation)


def _authorization(url: str, host: str) -> Mapping[str, str]:
    """Return the header with user and password: those of the address, else those of ~/.netrc (or NETRC)."""
    import base64
    import netrc
    from urllib.parse import unquote

    parts = urlsplit(url)
    pair = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username else None
    if pair is None:
        path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
        with suppress(OSError, netrc.NetrcParseError):
            login = netrc.netrc(path).authenticators(host)
            pair = (login[0], login[2] or "") if login else None
    if pair is None:
        return {}
    return {"authorization": "Basic " + base64.b64encode(":".join(pair).encode()).decode()}
