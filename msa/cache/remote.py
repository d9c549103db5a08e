"""Where a store can lie: a folder, S3, Google Cloud Storage, or a web server (which can only be read from).

    site = remote.site("s3://bucket/prefix")            # or gs://bucket/prefix, https://host/prefix, a folder
    site.read("manifests/00000012.json")

Names are those of the store's layout, relative to its root. Credentials come from where they usually do - AWS_* and
GOOGLE_* variables, the profile of ~/.aws where boto3 is there, ~/.netrc - and go into request headers alone: every
message, and `str(site)`, show an address without user, password and query.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

from msa.cache import layout, manifest, trust
from msa.cache.files import write_durably
from msa.errors import ConfigError, StoreError

SCHEMES = ("s3", "gs", "http", "https")
HINT = "manifests/latest.json"  # {"msa_format", "generation"}: where to begin to look, for servers that cannot list
TRIES = 4  # of a transfer that breaks in the middle; each request is tried several times by obstore itself
PAUSE_S = 0.5  # before the second try, twice as long before each further one
PIECE = 2**20  # bytes that are read at a time
_NUMBER = re.compile(r"([0-9]{8,})\.json")
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
T = TypeVar("T")


class Site(manifest.Place, Protocol):
    """The files of one store, wherever it lies. Every name is relative to its root."""

    @property
    def writable(self) -> bool:
        """Can files be put there?"""

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none."""

    def read(self, name: str, limit: int = trust.MAX_JSON) -> bytes:
        """A small file, whole. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """A file from some byte on, piece by piece. Raises FileNotFoundError."""

    def put(self, name: str, source: Path) -> None:
        """Make a file with the content of another: whole or not at all."""

    def add(self, name: str, data: bytes) -> bool:
        """Make a small file, whole or not at all, unless there is one of that name; did we?"""

    def hint(self, generation: int) -> None:
        """Say which generation is the newest, to those who cannot list."""


class Unreachable(StoreError):
    """The connection broke or was never made: it may be worth trying again."""


def is_url(text: object) -> bool:
    """Is this an address, and no folder?"""
    return isinstance(text, str) and "://" in text


def shown(url: str) -> str:
    """The address as it may be shown and kept: without user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", ""))


def site(where: str | Path) -> Site:
    """The place of a store by address or folder; nothing is asked of it yet. Raises ConfigError for other addresses."""
    return connect(str(where)) if is_url(where) else Disk(Path(where))


def connect(url: str) -> "Remote":
    """A place behind an address. Raises ConfigError where it is none of ours."""
    parts, name = urlsplit(url), shown(url)
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES or not parts.hostname:
        raise ConfigError(
            f"{name} is no address of a store", fix=f"name a folder, or {', '.join(f'{s}://...' for s in SCHEMES)}"
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{name} was given with a query (?...): every file of a store has an address of its own, and would need it",
            fix="give the address of the store's folder alone, and credentials through the environment",
        )
    return Remote(name, _store(scheme, parts.hostname, url), scheme in ("s3", "gs"))


@dataclass(frozen=True)
class Disk(manifest.Folder):
    """A store in a folder of this machine, or of a file server."""

    @property
    def writable(self) -> bool:
        """Whether the file system agrees is found out by trying."""
        return True

    def __str__(self) -> str:
        return str(self.store)

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none."""
        try:
            return (self.store / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str, limit: int = trust.MAX_JSON) -> bytes:
        """A small file, whole. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""
        trust.check_inside(self.store, self.store / name)
        return trust.read_bytes(self.store / name, limit)

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """A file from some byte on, piece by piece. Raises FileNotFoundError."""
        trust.check_inside(self.store, self.store / name)
        with open(trust.open_regular(self.store / name), "rb") as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    def put(self, name: str, source: Path) -> None:
        """Make a file with the content of another: whole or not at all."""
        path = self.store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, source.read_bytes())

    def add(self, name: str, data: bytes) -> bool:
        """Make a small file, whole or not at all, unless there is one of that name; did we?"""
        path = self.store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return manifest.create_durably(path, data)

    def hint(self, generation: int) -> None:
        """Say which generation is the newest, to those to whom a web server shows this folder."""
        with suppress(OSError):
            write_durably(self.store / HINT, _hint(generation))


def _told(way: Callable[..., T]) -> Callable[..., T]:
    """Turn what obstore raises into a StoreError without anybody's credentials; FileNotFoundError stays."""

    @wraps(way)
    def asked(self: "Remote", *words: Any, **named: Any) -> T:
        from obstore.exceptions import BaseError

        try:
            return way(self, *words, **named)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{words[0] if words else ''}") from None
        except BaseError as error:  # `from None`: its own text may hold an address with a password
            raise self.failed(error) from None

    return asked


@dataclass(frozen=True)
class Remote:
    """A store behind an address. `url` is the address as it may be shown."""

    url: str
    store: Any = field(repr=False)  # of obstore
    writable: bool

    def __str__(self) -> str:
        return self.url

    # files

    @_told
    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where there is none."""
        import obstore

        try:
            return int(obstore.head(self.store, name)["size"])
        except FileNotFoundError:
            return None

    @_told
    def read(self, name: str, limit: int = trust.MAX_JSON) -> bytes:
        """A small file, whole. Raises FileNotFoundError where there is none, StoreError above `limit` bytes."""
        import obstore

        found = obstore.get(self.store, name)
        if found.meta["size"] > limit:
            raise StoreError(
                f"{self.url}/{name} has {found.meta['size']} bytes, at most {limit} were expected",
                fix="this is no store that msa wrote, or a damaged one: ask whoever published it",
            )
        return bytes(found.bytes())

    @_told
    def range(self, name: str, start: int, end: int) -> memoryview:
        """The bytes from `start` up to `end` of a file. Raises FileNotFoundError, StoreError where there are fewer."""
        import obstore

        data = memoryview(obstore.get_range(self.store, name, start=start, end=end))
        if len(data) != end - start:
            raise StoreError(
                f"{self.url}/{name}: asked for bytes {start} to {end - 1} and got {len(data)}",
                fix="it was cut short or replaced: ask whoever published it; `msa cache pull` checks every file",
            )
        return data

    def stream(self, name: str, start: int = 0) -> Iterator[bytes]:
        """A file from some byte on, piece by piece. Raises FileNotFoundError."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            options: Any = {"range": {"offset": start}} if start else None
            yield from map(bytes, obstore.get(self.store, name, options=options).stream(PIECE))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name}") from None
        except BaseError as error:
            raise self.failed(error) from None

    @_told
    def put(self, name: str, source: Path) -> None:
        """Make a file with the content of another: whole or not at all."""
        import obstore

        self._check_writable()
        obstore.put(self.store, name, source)

    @_told
    def add(self, name: str, data: bytes) -> bool:
        """Make a small file, whole or not at all, unless there is one of that name; did we? A conditional put."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self._check_writable()
        try:
            obstore.put(self.store, name, data, mode="create")
        except (AlreadyExistsError, PreconditionError):
            # the answer to a put that had succeeded may have been lost, and what was then sent again met our own
            return bytes(obstore.get(self.store, name).bytes()) == data
        return True

    # generations: see manifest.Place

    @_told
    def numbers(self) -> list[int]:
        """The numbers of all generations, ascending; of a place that cannot be listed, the newest alone."""
        import obstore
        from obstore.exceptions import NotSupportedError, PermissionDeniedError

        if self.writable:
            with suppress(NotSupportedError, PermissionDeniedError):
                names = [found["path"].rpartition("/")[2] for found in obstore.list(self.store, "manifests").collect()]
                return sorted(int(found[1]) for found in map(_NUMBER.fullmatch, names) if found)
        newest = self._newest()
        return [newest] if newest else []

    def get(self, number: int) -> bytes:
        """The bytes of a generation. Raises FileNotFoundError where there is none."""
        return self.read(f"manifests/{number:08d}.json")

    def create(self, number: int, data: bytes) -> bool:
        """Make a generation, whole, unless there is one of that number; did we?"""
        made = self.add(f"manifests/{number:08d}.json", data)
        if made:
            self.hint(number)
        return made

    @_told
    def hint(self, generation: int) -> None:
        """Say which generation is the newest, to those who cannot list. It may be late: readers look beyond it."""
        import obstore

        obstore.put(self.store, HINT, _hint(generation), mode="overwrite")

    def _newest(self) -> int:
        """The largest number that is there, found by asking for single files; 0 where there is none.

        Generations follow each other without gaps. From one that is there - the hint's, else the first - steps double
        until one is missing, and halve again until its neighbour is found.
        """
        low = 0
        with suppress(FileNotFoundError, StoreError):
            said = trust.parse(HINT, self.read(HINT)).get("generation")
            low = said if type(said) is int and 0 < said < 10**8 and self._has(said) else 0
        step = 1
        while self._has(low + step):
            low, step = low + step, 2 * step
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._has(middle) else (low, middle)
        return low

    def _has(self, number: int) -> bool:
        import obstore
        from obstore.exceptions import PermissionDeniedError

        try:  # servers that must not say what they have say "forbidden" of what they have not
            obstore.head(self.store, f"manifests/{number:08d}.json")
        except (FileNotFoundError, PermissionDeniedError):
            return False
        return True

    def _check_writable(self) -> None:
        if not self.writable:
            raise StoreError(
                f"{self.url} can only be read from: a web server takes no files",
                fix="push to the folder or bucket it serves",
            )

    def failed(self, error: Exception) -> StoreError:
        """What a person needs to know of a request that failed."""
        said = redacted(str(error).partition("\n")[0])
        kind = type(error).__name__
        if kind in ("PermissionDeniedError", "UnauthenticatedError") or "metadata" in said:
            return StoreError(f"{self.url} refused us: {said}", fix=_CREDENTIALS[self.url.partition(":")[0]])
        return Unreachable(
            f"{self.url} cannot be reached: {said}",
            fix="check the address and the network, then run the same command again: it goes on where it stopped",
        )


_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL), or "
    "AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud",
    "http": "put the host's user and password into ~/.netrc",
    "https": "put the host's user and password into ~/.netrc",
}


def redacted(text: str) -> str:
    """A message without user and password of any address, without queries, and without what the environment hides."""
    text = re.sub(r"(?<=://)[^/\s\"'@]*@", "", text)
    text = re.sub(r"(?<=\w)\?[^\s\"'<>]+=[^\s\"'<>]+", "", text)
    for secret in filter(None, (os.environ.get(name) for name in _SECRETS)):
        text = text.replace(secret, "***")
    return text


def persistently(way: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """What `way` returns, tried again after a pause where the connection breaks; the last failure is raised."""
    for number in range(TRIES):
        try:
            return way()
        except Unreachable:
            if number == TRIES - 1:
                raise
            wait(PAUSE_S * 2**number)
    raise AssertionError


def folder_of(site: Remote) -> Path:
    """Where what was brought from an address is kept: `MSA_CACHE`, or the user's cache folder, by host and address."""
    from msa.cache.fingerprint import key

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if site.url.startswith("s3:") else ""
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", site.url.rpartition("/")[2])[:40]
    return cache_root() / f"{key({'url': site.url, 'endpoint': shown(endpoint) if endpoint else ''})}-{last}"


def cache_root() -> Path:
    """The folder of everything that was brought from elsewhere. It may be deleted at any time."""
    if named := os.environ.get("MSA_CACHE"):
        return Path(named)
    from platformdirs import user_cache_path

    return user_cache_path("msa") / "stores"


def check_root(site: Site) -> None:
    """Is there a store, of a format we know? Raises StoreError."""
    try:
        root = trust.parse(f"{site}/zarr.json", site.read("zarr.json"))
    except FileNotFoundError:
        raise StoreError(
            f"there is no store at {site}", fix="check the address; `msa cache push` makes a store there"
        ) from None
    manifest.check_format(f"{site}/zarr.json", (root.get("attributes") or {}).get("msa_format"))


def _hint(generation: int) -> bytes:
    return b'{"msa_format": %d, "generation": %d}\n' % (layout.FORMAT, generation)


def _store(scheme: str, host: str, url: str) -> Any:
    from datetime import timedelta

    from obstore.store import GCSStore, HTTPStore, S3Store

    retry: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
    client: dict[str, Any] = {"connect_timeout": "10s", "timeout": "300s", "read_timeout": "60s"}
    if scheme == "gs":
        return GCSStore.from_url(url, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        named: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        if endpoint.startswith("http://"):
            client["allow_http"] = True
        if provider := _profile():
            named["credential_provider"] = provider
        return S3Store.from_url(shown(url), client_options=client, retry_config=retry, **named)  # type: ignore[arg-type]
    client |= {"allow_http": scheme == "http"}
    if headers := _authorization(url, host):
        client["default_headers"] = headers
    return HTTPStore.from_url(shown(url), client_options=client, retry_config=retry)  # type: ignore[arg-type]


def _profile() -> Any:
    """The credentials of ~/.aws, which obstore leaves to boto3, where the environment has none itself."""
    named = "AWS_PROFILE" in os.environ or (Path.home() / ".aws" / "credentials").exists()
    if "AWS_ACCESS_KEY_ID" in os.environ or not named:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:  # boto3 is no dependency of ours
        return None
    return Boto3CredentialProvider()


def _authorization(url: str, host: str) -> Mapping[str, str]:
    """The header that names user and password: those of the address, else those of ~/.netrc (or NETRC)."""
    import base64
    import netrc
    from urllib.parse import unquote

    parts = urlsplit(url)
    pair = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username else None
    if pair is None:
        path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
        with suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(path).authenticators(host)
            pair = (known[0], known[2] or "") if known else None
    if pair is None:
        return {}
    return {"authorization": "Basic " + base64.b64encode(":".join(pair).encode()).decode()}
