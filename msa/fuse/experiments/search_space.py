"""What `msa fuse tune` varies: rate, decay, batch, dropouts, and what a head's file names in SEARCH."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from msa.fuse.train.model import Model, declared

if TYPE_CHECKING:
    import optuna


def space(model: Model) -> dict[str, Callable[["optuna.Trial"], Any]]:
    """Return what is searched, a setting -> how a trial suggests it.

    Rate, decay and batch around the preset's, every dropout, and what the head's file names in SEARCH.
    """
    own = model.training
    suggestions: dict[str, Callable[[optuna.Trial], Any]] = {
        "lr": lambda trial: trial.suggest_float("lr", own.lr / 10, own.lr * 10, log=True),
        "weight_decay": lambda trial: trial.suggest_float("weight_decay", 0.0, max(0.01, 3 * own.weight_decay)),
        "batch": lambda trial: trial.suggest_categorical("batch", sorted({16, 32, 64, own.batch})),
    }
    for field in fields(model.module.Config):
        if "dropout" in field.name and isinstance(model.settings[field.name], float):
            suggestions[field.name] = partial(_dropout, name=field.name)
    for name, values in choices(model).items():
        suggestions[name] = partial(_choice, name=name, choices=values)
    return suggestions


def choices(model: Model) -> dict[str, list[Any]]:
    """Return the choices that the head's file names in SEARCH, and the preset's own."""
    return {name: sorted({*own, model.settings[name]}) for name, own in declared(model.module).search.items()}


def _dropout(trial: "optuna.Trial", name: str) -> float:
    return trial.suggest_float(name, 0.0, 0.6)


def _choice(trial: "optuna.Trial", name: str, choices: Sequence[Any]) -> Any:
    return trial.suggest_categorical(name, choices)


def defaults(model: Model) -> dict[str, Any]:
    """Return the preset as a point of the space."""
    values = {**asdict(model.training), **model.settings}
    return {name: values[name] for name in space(model)}


def as_settings(params: Mapping[str, Any]) -> list[str]:
    """Return parameters as `--set` takes them."""
    return [f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()]
