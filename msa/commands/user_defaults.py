"""What a person told msa once: where the store is and where each corpus lies. A small JSON file, standard library only.

A store to read from is a folder or an address (s3://, gs://, https://), which stays the text it is; `folder` is for
commands that write, and refuses addresses.

The store that is used: the option of this command, else MSA_STORE, else ./msa-store where that is a store, else the
store last written to, else ./msa-store. MSA_HOME names another folder for the file.
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
    """Return the store to read from, an address as text or a folder as a path, and why it is this one.

    The reason is empty where the option names the store.
    """
    if option is not None:
        given, why = option, ""
    elif environment := os.environ.get("MSA_STORE"):
        given, why = environment, "from MSA_STORE"
    elif (DEFAULT_STORE / "zarr.json").exists():
        given, why = DEFAULT_STORE, "in this folder"
    elif remembered := _read().get("store"):
        given, why = str(remembered), "the store last written to"
    else:
        given, why = DEFAULT_STORE, "the default"
    return (str(given) if "://" in str(given) else Path(given)), why


def folder(option: str | Path | None) -> tuple[Path, str]:
    """Return the store to write to, and why it is this one. Raises ConfigError where an address is meant."""
    meant, why = store(option)
    if isinstance(meant, Path):
        return meant, why
    address = meant.partition("://")[0] + "://" + meant.partition("://")[2].partition("?")[0].rpartition("@")[2]
    raise ConfigError(
        f"{address} is an address, and this command works on a folder of this machine",
        fix=f"bring it here with `{shell_command('msa', 'cache', 'pull', address, '--store', 'FOLDER')}`, "
        "work on that, and `msa cache push` it",
    )


def root(dataset: str, option: Path | None) -> Path | None:
    """Where a corpus lies, if anybody ever said so."""
    if option is not None:
        return option
    known = _roots(_read()).get(dataset)
    return Path(str(known)) if known else None


def keep(store: Path, roots: Mapping[str, Path] | None = None) -> str:
    """Use this store from now on where none is named, and look for corpora there: dataset -> folder.

    Returns why it will not be remembered, or nothing: what a command was asked for does not depend on it.
    """
    try:
        known = _read()
        there = {name: str(path.resolve()) for name, path in (roots or {}).items()}
        _write(known | {"store": str(store.resolve()), "roots": _roots(known) | there})
    except OSError as error:
        why = f"{_file()} cannot be written: {error.strerror}"
    except ConfigError as error:
        why = error.what
    else:
        return ""
    return f"{why}; name the store with --store next time, or a folder for such settings with MSA_HOME"


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
            fix="mend or delete it, or name another folder for such settings with MSA_HOME",
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{_file()} is not JSON: {error}", fix="mend or delete it") from None
    return known if isinstance(known, dict) else {}


def _roots(known: Mapping[str, Any]) -> dict[str, Any]:
    found = known.get("roots")
    return found if isinstance(found, dict) else {}


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
