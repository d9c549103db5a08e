"""Files of S3 and Google Cloud Storage, through obstore. Its errors become StoreErrors without credentials."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msa.cache.storage import wire
from msa.cache.storage.wire import CHECK, Body, Refused, Unreachable
from msa.errors import ConfigError, StoreError
from msa.names import printable

MOST_NAMES = 10**6  # names of manifests that are listed at most
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL), or "
    "AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud",
}


class Bucket:
    """The files below a prefix of a bucket. `url` is the address without secrets."""

    writable = True
    retries = True

    def __init__(self, url: str) -> None:
        self.url = url
        self._scheme = url.partition(":")[0]
        check_environment()
        with self._errors(""):
            self._store = _s3(url) if self._scheme == "s3" else _gs(url)

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has; None where there is none."""
        import obstore

        try:
            with self._errors(name):
                return int(obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            return None

    def get(self, name: str, start: int = 0, end: int | None = None) -> Body:
        """Return a file, or its bytes from `start` up to `end`. Raises FileNotFoundError, StoreError."""
        import obstore

        part: Any = {"offset": start} if end is None else (start, end)
        options: Any = {"range": part} if start or end is not None else None
        with self._errors(name):
            answer = obstore.get(self._store, name, options=options)
            return Body(int(answer.meta["size"]), self._pieces(name, answer))

    def put(self, name: str, source: Path | bytes) -> None:
        """Write or replace a file, whole or not at all."""
        import obstore

        with self._errors(name):
            obstore.put(self._store, name, source, mode="overwrite")

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name, by a conditional put; return whether it was written."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._errors(name):
            try:
                obstore.put(self._store, name, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def manifests(self) -> list[int] | None:
        """Return the numbers of all generations, ascending; None where names cannot be listed."""
        import obstore
        from obstore.exceptions import NotSupportedError, PermissionDeniedError

        generations, seen = [], 0
        with self._errors("manifests"), suppress(NotSupportedError, PermissionDeniedError):
            for names in obstore.list(self._store, "manifests"):
                seen += len(names)
                if seen > MOST_NAMES:
                    raise StoreError(
                        f"{self.url}/manifests has more than {MOST_NAMES} names, one for each generation",
                        fix="check the address; this is no store that msa wrote",
                    )
                numbers = (wire.generation_of(name["path"].rpartition("/")[2]) for name in names)
                generations += [number for number in numbers if number is not None]
            return sorted(generations)
        return None

    def _pieces(self, name: str, answer: Any) -> Iterator[bytes]:
        with self._errors(name):
            yield from map(
                bytes, answer.stream(min_chunk_size=1)
            )  # as they arrive, so that their speed can be measured

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn what obstore raises into a StoreError; FileNotFoundError stays one."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name}") from None
        except BaseError as error:  # `from None`: its own text may hold an address with a password
            raise self._failed(error) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise StoreError(
                f"{self.url}: obstore, which talks to it, broke down: {_first_line(error)}",
                fix="look for an odd value among the AWS_* and GOOGLE_* variables and in the profile of ~/.aws; if "
                "there is none, this is a fault of obstore: report it there",
            ) from None

    def _failed(self, error: Exception) -> StoreError:
        """Return the StoreError for a request that failed."""
        text = _first_line(error)
        if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError") or "metadata" in text:
            return Refused(f"{self.url} refused access: {text}", fix=_CREDENTIALS[self._scheme])
        return Unreachable(f"{self.url} cannot be reached: {text}", fix=CHECK)


def check_environment() -> None:
    """Raise ConfigError where a variable that goes into request headers holds characters that headers may not have."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("AWS_") and not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"the variable {name} holds a line break, a control character or a letter beyond ASCII, which cannot "
                "be sent",
                fix=f"set {name} again: a line break at its end often comes from reading it out of a file",
            )
        if name.startswith("GOOGLE_") and not value.isprintable():
            raise ConfigError(f"the variable {name} holds a line break or a control character", fix=f"set {name} again")


def redacted(text: str) -> str:
    """Return a message without user, password and query of any address, and without secrets of the environment."""
    text = re.sub(r"(?<=://)[^/\s\"'@]*@", "", text)
    text = re.sub(r"(?<=\w)\?[^\s\"'<>]+=[^\s\"'<>]+", "", text)
    for secret in filter(None, (os.environ.get(name) for name in _SECRETS)):
        text = text.replace(secret, "***")
    return text


def _first_line(error: BaseException) -> str:
    return printable(redacted(str(error).partition("\n")[0]))[:500]


def _client() -> dict[str, Any]:
    from datetime import timedelta

    silent = f"{wire.SILENT_S:g}s"
    options = {"connect_timeout": f"{wire.CONNECT_S:g}s", "timeout": "300s", "read_timeout": silent}
    return {"client_options": options, "retry_config": {"retry_timeout": timedelta(seconds=60)}}


def _gs(url: str) -> Any:
    from obstore.store import GCSStore

    return GCSStore.from_url(url, **_client())


def _s3(url: str) -> Any:
    from obstore.store import S3Store

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    named = _client() | ({"endpoint": endpoint} if endpoint else {})
    if endpoint.startswith("http://"):
        named["client_options"]["allow_http"] = True
    if provider := _profile():
        named["credential_provider"] = provider
    return S3Store.from_url(url, **named)


def _profile() -> Callable[[], Any] | None:
    """Return a provider of the credentials in ~/.aws, through boto3, where the environment has none."""
    named = "AWS_PROFILE" in os.environ or (Path.home() / ".aws" / "credentials").exists()
    if "AWS_ACCESS_KEY_ID" in os.environ or not named:
        return None
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:  # boto3 is not a dependency of msa
        return None
    made: Callable[[], Any] = Boto3CredentialProvider()
    return made
