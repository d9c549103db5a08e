"""Files of a web server, read only, through urllib3, bounded in bytes and in time.

No more is read than was requested, never the page that comes with an error, and no answer that does not give its
length first. A redirect is followed without the password, to web addresses alone, and never from one host into the
network of this machine.
"""

import http.client
import ipaddress
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from msa.cache.storage import wire
from msa.cache.storage.wire import CHECK, PIECE, Body, NoRanges, Refused, Unreachable
from msa.errors import StoreError
from msa.names import printable

REDIRECTS = 5
CONNECTIONS = 64  # that are kept open
_BROKEN = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Web:
    """The files below an address. `url` is the address without secrets, `headers` hold user and password."""

    writable = False
    retries = False

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self._headers = dict(headers)

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""
        try:
            answer = self._ask("HEAD", name, {})
        except FileNotFoundError:
            return None
        answer.close()
        return self._length(name, answer)

    def get(self, name: str, start: int = 0, end: int | None = None) -> Body:
        """Return a file, or its bytes from `start` up to `end`. Raises FileNotFoundError, NoRanges, StoreError."""
        part = start > 0 or end is not None
        wanted = {"range": f"bytes={start}-{'' if end is None else end - 1}"} if part else {}
        answer = self._ask("GET", name, wanted)
        try:
            length = self._length(name, answer)
            if not part:
                return Body(length, self._pieces(name, answer, length), answer.close)
            if answer.status == 200:
                raise NoRanges(
                    f"{self.url}: this web server sends whole files only, it knows no ranges",
                    fix="`msa cache clone` brings all of it; or serve the folder with nginx, Apache or Caddy",
                )
            size = self._checked(name, answer, start, end, length)
        except BaseException:
            answer.close()
            raise
        return Body(size, self._pieces(name, answer, length), answer.close)

    def put(self, name: str, source: Path | bytes) -> None:
        """Raise AssertionError: a web server is read only."""
        raise AssertionError(name)

    def create(self, name: str, data: bytes) -> bool:
        """Raise AssertionError: a web server is read only."""
        raise AssertionError(name)

    def manifests(self) -> None:
        """Return None: a web server does not list names."""

    def _ask(self, method: str, name: str, wanted: Mapping[str, str]) -> Any:
        """Return the answer of status 200 or 206, after redirects; its body is not read yet."""
        address, named = f"{self.url}/{name}", dict(self._headers)
        for _ in range(REDIRECTS + 1):
            try:
                answer = self._pools(address).request(
                    method,
                    address,
                    headers={"accept-encoding": "identity", **named, **wanted},
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=wire.CONNECT_S, read=wire.SILENT_S),
                )
            except _BROKEN as error:
                raise self._broken(error) from None
            if answer.status not in (301, 302, 303, 307, 308):
                return self._accepted(name, answer)
            answer.close()
            onward = self._onward(address, answer.headers.get("location", ""))
            if _origin(onward) != _origin(address):
                named = {}
            address = onward
        raise StoreError(f"{self.url}/{name}: sent on more than {REDIRECTS} times", fix="check the address")

    def _accepted(self, name: str, answer: Any) -> Any:
        """Return the same answer, or raise what its status means."""
        status, packed = answer.status, answer.headers.get("content-encoding", "identity")
        if status in (200, 206) and packed.lower() == "identity":
            return answer
        answer.close()
        where = f"{self.url}/{name}"
        if status in (200, 206):
            raise StoreError(
                f"{where}: the server packs its files ({printable(packed)[:40]}), although it was asked not to",
                fix="let it serve the folder as it is, or clone the store from another place",
            )
        if status in (404, 410):
            raise FileNotFoundError(where)
        if status in (401, 403, 407):
            raise Refused(
                f"{self.url} refused access: {where} answers {status}",
                fix="put the host's user and password into ~/.netrc",
            )
        if status == 416:
            raise StoreError(
                f"{where} has fewer bytes than its manifest says",
                fix="it was cut short or replaced: ask for a copy that `msa cache verify` finds whole",
            )
        kind = Unreachable if status == 429 or status >= 500 else StoreError
        raise kind(f"{self.url} cannot be reached: {where} answers {status}", fix=CHECK)

    def _onward(self, address: str, location: str) -> str:
        """Return where a redirect leads. Raises StoreError where that is not a web address, or lies in this network."""
        try:
            onward = urljoin(address, location)
            parts, before = urlsplit(onward), urlsplit(address)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host, parts, onward = "", urlsplit(""), location
        usable = parts.scheme == "https" or (parts.scheme == "http" and before.scheme == "http")
        if not host or not usable or not onward.isprintable():
            raise StoreError(
                f"{self.url} sends us on to {_short(onward)}, which is no web address that can be followed",
                fix="check the address; if it is right, the server is not to be trusted",
            )
        if host != before.hostname and _proxy(onward) is None and not _public(host):
            raise StoreError(
                f"{self.url} sends us on to {_short(onward)}, which lies in this network and not on its own host",
                fix="if you trust it, give that address itself",
            )
        return onward

    def _length(self, name: str, answer: Any) -> int:
        """Return the length that the answer gives. Raises StoreError where it gives none."""
        length = answer.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,20}", length):
            raise StoreError(
                f"{self.url}/{name}: the server does not say how many bytes it has",
                fix="serve the folder by a server of plain files, such as nginx, Apache or Caddy",
            )
        return int(length)

    def _checked(self, name: str, answer: Any, start: int, end: int | None, length: int) -> int | None:
        """Return the size of the whole file by a partial answer. Raises StoreError where it is of another range."""
        content_range = answer.headers.get("content-range", "")
        part = _RANGE.fullmatch(content_range)
        if (
            part is None
            or int(part[1]) != start
            or int(part[2]) - start + 1 != length
            or (end and length > end - start)
        ):
            raise StoreError(
                f"{self.url}/{name}: asked for bytes {start} to {'the end' if end is None else end - 1} and got "
                f"{length}, {_short(content_range) or 'without a content-range'}",
                fix="the server or a proxy before it is at fault: try another network or another copy of the store",
            )
        return None if part[3] == "*" else int(part[3])

    def _pieces(self, name: str, answer: Any, length: int) -> Iterator[bytes]:
        left = length
        try:
            while left:
                piece = answer.read1(min(PIECE, left))
                if not piece:
                    raise Unreachable(
                        f"{self.url}/{name} broke off: {length - left} of {length} bytes arrived", fix=CHECK
                    )
                left -= len(piece)
                yield piece
        except _BROKEN as error:
            raise self._broken(error) from None
        finally:
            answer.close() if left else answer.release_conn()

    def _broken(self, error: Exception) -> Unreachable:
        if isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.NameResolutionError):
            reason = str(error).rpartition(": ")[2]
        elif isinstance(error, urllib3.exceptions.ReadTimeoutError):
            reason = f"nothing came for {wire.SILENT_S:g} s"
        elif isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            reason = f"no connection within {wire.CONNECT_S:g} s"
        elif "IncompleteRead" in str(error):
            reason = "the answer broke off before its end"
        else:
            reason = _short(str(error))
        return Unreachable(f"{self.url} cannot be reached: {printable(reason)}", fix=CHECK)

    def _pools(self, address: str) -> urllib3.PoolManager:
        proxy = _proxy(address)
        if proxy not in self._managers:
            self._managers[proxy] = _manager(proxy)
        return self._managers[proxy]

    @cached_property
    def _managers(self) -> dict[str | None, urllib3.PoolManager]:
        """Connection pools by proxy."""
        return {}


class _Deadlines:
    """Closes connections whose answer has not begun in time: one thread for all connections of a process."""

    def __init__(self) -> None:
        self._due: dict[int, tuple[float, socket.socket]] = {}
        self._late: set[int] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, sock: socket.socket) -> int:
        """Start waiting for an answer; return the key for `end`."""
        with self._lock:
            self._due[id(sock)] = time.monotonic() + wire.SILENT_S, sock
            if self._thread is None or not self._thread.is_alive():  # the first, or the first after a fork
                self._thread = threading.Thread(target=self._watch, name="msa-deadlines", daemon=True)
                self._thread.start()
        return id(sock)

    def end(self, key: int) -> bool:
        """Stop waiting; return whether the answer was too late."""
        with self._lock:
            self._due.pop(key, None)
            late = key in self._late
            self._late.discard(key)
            return late

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, wire.SILENT_S / 4))
            with self._lock:
                over = [key for key, (due, _) in self._due.items() if due < time.monotonic()]
                for key in over:
                    self._late.add(key)
                    with suppress(OSError):  # it is closed already
                        socket.socket.shutdown(self._due.pop(key)[1], socket.SHUT_RDWR)


_deadlines = _Deadlines()


class _Prompt:
    """A connection on which the head of an answer has to be complete in time, also if it arrives byte by byte."""

    sock: socket.socket

    def getresponse(self) -> Any:
        key, answer, late = _deadlines.begin(self.sock), None, False
        try:
            answer = super().getresponse()  # type: ignore[misc]
        except _BROKEN:
            if not (late := _deadlines.end(key)):
                raise
        finally:
            late = _deadlines.end(key) or late
        if late:  # what arrived until then may look like an answer
            if answer is not None:
                answer.close()
            raise TimeoutError(f"no whole answer within {wire.SILENT_S:g} s")
        return answer


class _Plain(_Prompt, HTTPConnection):
    pass


class _Secure(_Prompt, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


def _manager(proxy: str | None) -> urllib3.PoolManager:
    if proxy is None:
        made = urllib3.PoolManager(maxsize=CONNECTIONS)
    else:
        parts = urlsplit(proxy)
        pair = f"{parts.username}:{parts.password or ''}" if parts.username else None
        headers = urllib3.make_headers(proxy_basic_auth=pair) if pair else None
        made = urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, proxy_headers=headers)
    made.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return made


def _proxy(address: str) -> str | None:
    """Return the proxy that the environment names for an address."""
    parts = urlsplit(address)
    named = getproxies().get(parts.scheme)
    return None if named is None or proxy_bypass(parts.hostname or "") else named


def _public(host: str) -> bool:
    """Return whether all addresses of a host are public."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return True  # it cannot be reached either
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_global for address in addresses)


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port


def _short(text: str) -> str:
    """Return text of a server for a message: printable, without queries, at most 120 characters."""
    shown = printable(re.sub(r"\?\S*", "", text))
    return shown if len(shown) <= 120 else f"{shown[:117]}..."
