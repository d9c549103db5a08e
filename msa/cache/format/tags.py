"""Tags: small immutable files, `tags/<name>.json`, that name generations. A store is opened by number or by tag."""

import re
from pathlib import Path

from msa.cache.format import generations, limits, local_files
from msa.errors import StoreError, UnknownNameError

_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # digits alone are a generation


def is_name(text: str) -> bool:
    """Return whether a tag may be called so."""
    return bool(_NAME.fullmatch(text))


def read(store: Path) -> dict[str, int]:
    """Return name -> generation of every tag, sorted by name. Raises StoreError where one names no generation."""
    known = {}
    for path in (store / "tags" / name for name in local_files.listed(store, store / "tags")):
        if path.suffix == ".json" and is_name(path.stem):
            number = limits.read_json(path).get("generation")
            if type(number) is not int or number < 1:
                raise StoreError(f"damaged store: {path} names no generation", fix=f"delete it: {path}")
            known[path.stem] = number
    return known


def generation_of(store: Path, name: int | str) -> int:
    """Return the number of a generation that is named by its number or by a tag. Raises UnknownNameError."""
    if isinstance(name, int) or name.isdecimal():
        return int(name)
    tags = read(store)
    if name not in tags:
        numbers = generations.generations(store)
        known = [f"generations {numbers[0]} to {numbers[-1]}"] if numbers else []
        raise UnknownNameError("generation or tag", name, [*tags, *known])
    return tags[name]
