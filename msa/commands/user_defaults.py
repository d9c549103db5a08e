"""User defaults: the store last written to and the folder of each dataset, in a small JSON file.

The default store is MSA_STORE, else ./msa-store if it is a store, else the store last written to, else ./msa-store.
MSA_HOME sets another folder for the JSON file.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msa.errors import ConfigError
from msa.names import shell_command

DEFAULT_STORE = Path("msa-store")


def store(option: str | Path | None) -> tuple[str | Path, str]:
    """Return the store to read from and the reason for the choice, which is empty if the option names the store.

    A folder is returned as a Path, an address (s3://, gs://, https://) as text.
    """
    if option is not None:
        given, why = option, ""
    elif environment := os.environ.get("MSA_STORE"):
        given, why = environment, "from MSA_STORE"
    elif (DEFAULT_STORE / "zarr.json").exists():
        given, why = DEFAULT_STORE, "in this folder"
    elif last := _read().get("store"):
        given, why = str(last), "the store last written to"
    else:
        given, why = DEFAULT_STORE, "the default"
    return (str(given) if "://" in str(given) else Path(given)), why


def folder(option: str | Path | None) -> tuple[Path, str]:
    """Return the store to write to and the reason for the choice. Raises ConfigError for an address."""
    path, why = store(option)
    if isinstance(path, Path):
        return path, why
    address = path.partition("://")[0] + "://" + path.partition("://")[2].partition("?")[0].rpartition("@")[2]
    raise ConfigError(
        f"{address} is an address, but this command needs a local folder",
        fix=f"download it with `{shell_command('msa', 'cache', 'pull', address, '--store', 'FOLDER')}`, "
        "change the copy, and upload it with `msa cache push`",
    )


def root(dataset: str, option: Path | None) -> Path | None:
    """Return the folder of a dataset: the option, else the remembered one, else None."""
    if option is not None:
        return option
    known = _roots(_read()).get(dataset)
    return Path(str(known)) if known else None


def keep(store: Path, roots: Mapping[str, Path] | None = None) -> str:
    """Remember this store and the folders of datasets as defaults.

    Returns the reason if that fails, else an empty text: a command does not fail because of it.
    """
    try:
        known = _read()
        folders = {name: str(path.resolve()) for name, path in (roots or {}).items()}
        _write(known | {"store": str(store.resolve()), "roots": _roots(known) | folders})
    except OSError as error:
        why = f"{_file()} cannot be written: {error.strerror}"
    except ConfigError as error:
        why = error.what
    else:
        return ""
    return f"{why}; next time name the store with --store, or set MSA_HOME to a writable folder"


def _file() -> Path:
    from platformdirs import user_config_path

    home = os.environ.get("MSA_HOME")
    return (Path(home) if home else user_config_path("msa")) / "settings.json"


def _read() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(
            f"{_file()} cannot be read: {error.strerror}",
            fix="repair or delete it, or set MSA_HOME to another folder",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{_file()} is not JSON: {error}", fix="repair or delete it") from None
    return known if isinstance(known, dict) else {}


def _roots(known: Mapping[str, Any]) -> dict[str, Any]:
    roots = known.get("roots")
    return roots if isinstance(roots, dict) else {}


def _write(known: dict[str, Any]) -> None:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(json.dumps(known, indent=1), "utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()  # a full disk gets its space back
        raise
