"""Settings: frozen dataclasses, and `--set name=value` checked against their fields."""

import ast
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from msa.errors import ConfigError, UnknownNameError
from msa.names import shell_command
from msa.types import Modality

C = TypeVar("C")
MAX_INT = 2**31  # every integer setting is below


def with_settings(config: C, settings: Iterable[str], kind: str = "setting", also: object = None) -> C:
    """Return a copy of a dataclass with `name=value` settings applied.

    A value is parsed as the type of the default: `layers=2`, `dropout=0.3`, `gate_hidden=64,32`, `norm=pre`,
    `shared=false`.

    Args:
        config: the dataclass.
        settings: texts of the form `name=value`.
        kind: what an error calls an unknown setting.
        also: another dataclass whose settings are valid too and were applied before; errors name them.

    Raises:
        UnknownNameError: for an unknown name, with the near match.
        ConfigError: for a value of another type.
    """
    assert is_dataclass(config)
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    names = [*known, *(field.name for field in (fields(also) if is_dataclass(also) else ()))]
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} does not have the form name=value", fix=f"known names: {', '.join(names)}")
        if name not in known:
            raise UnknownNameError(kind, name, names)
        changes[name] = parse(name, text, _example(known[name], get_type_hints(type(config))[name]))
    return replace(config, **changes)  # type: ignore[type-var]


def _example(default: Any, hint: Any) -> Any:
    """Return the default as an example of the type; an empty `tuple[str, ...]` becomes a tuple of one text."""
    return ("",) if default == () and get_args(hint)[:1] == (str,) else default


def taking(config: C, settings: Iterable[str]) -> tuple[C, list[str]]:
    """Return a copy of a dataclass with those settings applied that name a field of it, and the settings left over.

    Raises ConfigError for a value of another type.
    """
    assert is_dataclass(config)
    known, given = {field.name for field in fields(config)}, list(settings)
    own = [setting for setting in given if setting.partition("=")[0] in known]
    return with_settings(config, own), [setting for setting in given if setting not in own]


def settings_of(config: object, *later: str) -> dict[str, Any]:
    """Return a dataclass's settings by name, without those of `later` that have their default value.

    Settings are part of the identity of a view. A setting that was added later must not change the identity of views
    that do not use it.
    """
    assert is_dataclass(config)
    defaults = {field.name: field.default for field in fields(config)}
    values = {name: getattr(config, name) for name in defaults}
    return {name: value for name, value in values.items() if name not in later or value != defaults[name]}


def from_plain(config: type[C], values: Mapping[str, Any], owner: str) -> C:
    """Return a settings dataclass from JSON values; missing settings get their defaults.

    `owner` names the settings in error messages.

    Raises:
        UnknownNameError: for a name that is not a field.
        ConfigError: for a value that does not have the declared type of its field.
    """
    hints = get_type_hints(config)
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownNameError(f"setting of {owner}", name, known)
        if not _is(value, hints[name]):
            raise ConfigError(
                f"{owner}: {name} is {_short(value)}, expected {_kind(hints[name])}",
                fix=f"see the values that {name} takes: {shell_command('msa', 'fuse', 'list', owner)}",
            )
        settings[name] = tuple(value) if isinstance(value, list) else value
    return config(**settings)


def _is(value: Any, hint: Any) -> bool:
    """Return whether a JSON value has the declared type of a field. An integer is also a float."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_is(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = [args[0]] * len(value) if args[1:] == (...,) else args
        return len(each) == len(value) and all(_is(item, arg) for item, arg in zip(value, each, strict=True))
    if hint is float:
        return (type(value) is float and math.isfinite(value)) or _is(value, int)
    if hint is int:
        return type(value) is int and abs(value) < MAX_INT
    return type(value) is (NoneType if hint is None else hint)


def _kind(hint: Any) -> str:
    return _choices(hint) or getattr(hint, "__name__", str(hint)) if get_origin(hint) is not tuple else str(hint)


def _short(value: object) -> str:
    text = ascii(value) if isinstance(value, str | int | float | NoneType) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked(config: object) -> None:
    """Raise ConfigError if a setting has a value that its Literal does not list. Called in `__post_init__`."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = ", ".join(map(repr, get_args(hint)))
            raise ConfigError(f"{name} is {value!r}, which is not one of its choices", fix=f"one of {choices}")


def describe(config: type) -> list[tuple[str, Any, str]]:
    """Return (name, default, description) of every field; the description is its choices and its source comment."""
    comments: dict[str, str] = {}
    for owner in reversed([c for c in config.__mro__ if is_dataclass(c)]):
        for line in inspect.getsource(owner).splitlines():
            if field := re.match(r"    (\w+): .*?  # (.*)", line):
                comments[field[1]] = field[2]
    hints = get_type_hints(config)
    descriptions = {f.name: [_choices(hints[f.name]), comments.get(f.name, "")] for f in fields(config)}
    return [(f.name, f.default, "; ".join(filter(None, descriptions[f.name]))) for f in fields(config)]


def _choices(hint: Any) -> str:
    return " | ".join(str(value) or "nothing" for value in get_args(hint)) if get_origin(hint) is Literal else ""


def parse(name: str, text: str, default: Any) -> Any:
    """Return `text` parsed as the type of `default`; if that is None, as a Python literal. Raises ConfigError."""
    try:
        return _parse(text.strip(), default)
    except (ValueError, SyntaxError):
        kind = type(default).__name__
        raise ConfigError(f"{name}={text!r} is not of type {kind}", fix=f"the default is {name}={default!r}") from None


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


def by_modality(words: Iterable[str], option: str) -> dict[str, str]:
    """Return `["text=a", "audio=b"]` as {"text": "a", "audio": "b"}: an option with a value for each modality."""
    names = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(
                f"{option} {word!r} does not have the form MODALITY=NAME", fix=f"for example {option} text=NAME"
            )
        names[modality(name)] = value
    return names


def modality(name: str) -> str:
    """Return the name of a modality, stripped. Raises UnknownNameError with the near match."""
    if name.strip() not in set(Modality):
        raise UnknownNameError("modality", name, Modality)
    return name.strip()
