"""Settings are frozen dataclasses; `--set name=value` is checked against them here."""

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
MOST = 2**31  # no setting is a whole number of this size


def with_settings(config: C, settings: Iterable[str], kind: str = "setting", beside: object = None) -> C:
    """A copy of a dataclass with `name=value` settings applied.

    Args:
        config: the dataclass.
        settings: `name=value`, each.
        kind: what an unknown one is called in an error.
        beside: another dataclass, whose settings were taken out before: an error names them too.

    A value is read as the type of the default: `layers=2`, `dropout=0.3`, `gate_hidden=64,32`, `norm=pre`,
    `shared=false`. Raises UnknownNameError for an unknown name and ConfigError for a value of another type.
    """
    assert is_dataclass(config)
    known = {field.name: getattr(config, field.name) for field in fields(config)}
    all_of = [*known, *(field.name for field in (fields(beside) if is_dataclass(beside) else ()))]
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"{setting!r} is not of the form name=value", fix=f"known names: {', '.join(all_of)}")
        if name not in known:
            raise UnknownNameError(kind, name, all_of)
        changes[name] = parse(name, text, _example(known[name], get_type_hints(type(config))[name]))
    return replace(config, **changes)  # type: ignore[type-var]


def _example(default: Any, hint: Any) -> Any:
    """The default, or where it is an empty tuple of words one that says so: `tuple[str, ...]`."""
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
    """A dataclass's settings by name, without those of `later` that hold their default.

    Settings are part of what a view is known by: one that came later may not change that for those who never used it.
    """
    assert is_dataclass(config)
    defaults = {field.name: field.default for field in fields(config)}
    values = {name: getattr(config, name) for name in defaults}
    return {name: value for name, value in values.items() if name not in later or value != defaults[name]}


def from_plain(config: type[C], values: Mapping[str, Any], owner: str) -> C:
    """Return a settings dataclass made of plain values, as JSON holds them; what is left out has its default.

    `owner` is what the settings are of, for messages. Raises UnknownNameError for a name the dataclass does not have
    and ConfigError for a value of another type than the field is declared to have.
    """
    hints = get_type_hints(config)
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownNameError(f"setting of {owner}", name, known)
        if not _is(value, hints[name]):
            raise ConfigError(
                f"{owner}: {name} is {_short(value)}, which is no {_kind(hints[name])}",
                fix=f"see the values that {name} takes: {shell_command('msa', 'fuse', 'list', owner)}",
            )
        found[name] = tuple(value) if isinstance(value, list) else value
    return config(**found)


def _is(value: Any, hint: Any) -> bool:
    """Is a plain value of the type a field is declared to have? A whole number is a float too."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in args)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = [args[0]] * len(value) if args[1:] == (...,) else args
        return len(each) == len(value) and all(_is(item, one) for item, one in zip(value, each, strict=True))
    if hint is float:
        return (type(value) is float and math.isfinite(value)) or _is(value, int)
    if hint is int:
        return type(value) is int and abs(value) < MOST
    return type(value) is (NoneType if hint is None else hint)


def _kind(hint: Any) -> str:
    return _choices(hint) or getattr(hint, "__name__", str(hint)) if get_origin(hint) is not tuple else str(hint)


def _short(value: object) -> str:
    text = ascii(value) if isinstance(value, str | int | float | NoneType) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked(config: object) -> None:
    """Raise ConfigError where a setting holds none of the values its Literal lists; called in `__post_init__`."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            choices = ", ".join(map(repr, get_args(hint)))
            raise ConfigError(f"{name} is {value!r}, which is none of its choices", fix=f"one of {choices}")


def describe(config: type) -> list[tuple[str, Any, str]]:
    """(name, default, choices and the comment behind it in the source) of every field of a settings dataclass."""
    comments: dict[str, str] = {}
    for owner in reversed([c for c in config.__mro__ if is_dataclass(c)]):
        for line in inspect.getsource(owner).splitlines():
            if found := re.match(r"    (\w+): .*?  # (.*)", line):
                comments[found[1]] = found[2]
    hints = get_type_hints(config)
    told = {f.name: [_choices(hints[f.name]), comments.get(f.name, "")] for f in fields(config)}
    return [(f.name, f.default, "; ".join(filter(None, told[f.name]))) for f in fields(config)]


def _choices(hint: Any) -> str:
    return " | ".join(str(value) or "nothing" for value in get_args(hint)) if get_origin(hint) is Literal else ""


def parse(name: str, text: str, default: Any) -> Any:
    """`text` as a value of the type `default` has; where the default is None, as the literal it looks like."""
    try:
        return _parse(text.strip(), default)
    except (ValueError, SyntaxError):
        kind = type(default).__name__
        raise ConfigError(f"{name}={text!r} is no {kind}", fix=f"the default is {name}={default!r}") from None


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
    """`["text=a", "audio=b"]` -> {"text": "a", "audio": "b"}, for options that say something of each modality."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(f"{option} {word!r} is not of the form MODALITY=NAME", fix=f"such as {option} text=NAME")
        found[modality(name)] = value
    return found


def modality(name: str) -> str:
    """The modality a person named. Raises UnknownNameError with the near match."""
    if name.strip() not in set(Modality):
        raise UnknownNameError("modality", name, Modality)
    return name.strip()
