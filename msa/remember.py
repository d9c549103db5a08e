"""What a person told msa once: where the store is and where each corpus lies. A small JSON file, standard library only.

A store to read from is a folder or an address (s3://, gs://, https://), which stays the text it is; `folder` is for
commands that write, and refuses addresses.

Order of precedence everywhere: the option of this command, the environment (MSA_STORE), what was remembered, the
built-in default. MSA_HOME names another folder for the file.
"""

import json
import os
from pathlib import Path
from typing import Any

from msa.errors import ConfigError

DEFAULT_STORE = Path("msa-store")


def store(option: str | Path | None) -> str | Path:
    """The store to read from: an address as text, a folder as a path."""
    given = option if option is not None else os.environ.get("MSA_STORE") or _read().get("store", DEFAULT_STORE)
    return str(given) if "://" in str(given) else Path(given)


def folder(option: str | Path | None) -> Path:
    """The store to write to. Raises ConfigError where an address is meant."""
    meant = store(option)
    if isinstance(meant, Path):
        return meant
    address = meant.partition("://")[0] + "://" + meant.partition("://")[2].partition("?")[0].rpartition("@")[2]
    raise ConfigError(
        f"{address} is an address, and this command works on a folder of this machine",
        fix=f"bring it here with `msa cache pull {address} --store FOLDER`, work on that, and `msa cache push` it",
    )


def root(dataset: str, option: Path | None) -> Path | None:
    """Where a corpus lies, if anybody ever said so."""
    if option is not None:
        return option
    known = _read().get("roots", {}).get(dataset)
    return Path(known) if known else None


def keep_store(path: Path) -> None:
    """Use this store from now on where none is named."""
    _write(_read() | {"store": str(path.resolve())})


def keep_root(dataset: str, path: Path) -> None:
    """Look for this corpus here from now on."""
    known = _read()
    _write(known | {"roots": known.get("roots", {}) | {dataset: str(path.resolve())}})


def _file() -> Path:
    from platformdirs import user_config_path

    home = os.environ.get("MSA_HOME")
    return (Path(home) if home else user_config_path("msa")) / "settings.json"


def _read() -> dict[str, Any]:
    try:
        known = json.loads(_file().read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{_file()} is not JSON: {error}", fix="mend or delete it") from None
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, Any]) -> None:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1), "utf-8")
    temporary.replace(path)
