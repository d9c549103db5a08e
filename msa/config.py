"""Settings are frozen dataclasses; `--set name=value` is checked against them here."""

import ast
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from msa.errors import ConfigError, UnknownNameError

C = TypeVar("C")


def with_settings(config: C, settings: Iterable[str], kind: str = "setting") -> C:
    """A copy of a dataclass with `name=value` settings applied.

    A value is read as the type of the default: `layers=2`, `dropout=0.3`, `gate_hidden=64,32`, `norm=pre`,
    `shared=false`. Raises UnknownNameError for an unknown name and ConfigError for a value of another type.
    """
    assert is_dataclass(config)
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is not of the form name=value", fix=f"known names: {', '.join(known)}")
        if name not in known:
            raise UnknownNameError(kind, name, known)
        changes[name] = parse(name, text, known[name])
    return replace(config, **changes)  # type: ignore[type-var]


def parse(name: str, text: str, default: Any) -> Any:
    """`text` as a value of the type `default` has; where the default is None, as the literal it looks like."""
    try:
        return _parse(text.strip(), default)
    except (ValueError, SyntaxError):
        kind = type(default).__name__
        raise ConfigError(f"{name}={text!r} is not a {kind}", fix=f"the default is {name}={default!r}") from None


def _parse(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        inner = default[0] if default else 0.0
        return tuple(_parse(part.strip(), inner) for part in text.strip("()").split(",") if part.strip())
    if isinstance(default, int):
        return int(text)
    if isinstance(default, float):
        return float(text)
    if "," in text and not text.startswith(("(", "[")):
        return tuple(ast.literal_eval(f"({text},)"))
    return ast.literal_eval(text)
