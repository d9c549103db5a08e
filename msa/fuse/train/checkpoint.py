"""The state of a training after an epoch, in one file: written, checked, and taken up again.

A checkpoint may come from a stranger, as a run does: it is read as plain values and tensors, and every value is
compared with the training's own before it is taken. Keys and shapes are fixed: older checkpoints open.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from msa.errors import ConfigError
from msa.fuse import files
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.result import TrainResult

if TYPE_CHECKING:
    from msa.fuse.train.loop import Training


def write(path: Path, training: "Training") -> None:
    """Write all that a training needs to continue."""
    patience = training.patience
    state = {
        "head": training.head.state_dict(),
        "optimiser": training.optimiser.state_dict(),
        "plateau": training.schedule.plateau.state_dict(),
        "scaler": training.scaler.state_dict(),
        "loop": {"epoch": training.epoch, "stale": patience.stale, "best": patience.best},
        "result": vars(training.result),
        "rng": torch.get_rng_state(),
        "cuda_rng": [torch.cuda.get_rng_state(training.device)] if training.device.startswith("cuda") else [],
        "config": _plain(training.config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save(path, state)


def resume(path: Path, training: "Training") -> bool:
    """Continue a training from a checkpoint; False where there is none.

    Raises ConfigError where the file is damaged, belongs to another head, or was made with other settings.
    """
    if not files.exists(path):
        return False
    state = files.load(path)
    try:
        if state["config"] != _plain(training.config):
            raise ConfigError(
                f"{path} was made with other settings",
                fix="delete it, or resume with the run's own settings",
            )
        training.head.restore(state["head"], path)
        _restore(state, training)
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:  # a file that was changed
        files.damaged(path, error)
    return True


def _restore(state: Mapping[str, Any], training: "Training") -> None:
    """Take up all but the weights, on whatever device the checkpoint was made."""
    _check_moments(state["optimiser"], training.optimiser)
    training.optimiser.load_state_dict(state["optimiser"])
    plateau, scaler = training.schedule.plateau, training.scaler
    _check_like("plateau", state["plateau"], plateau.state_dict())
    plateau.load_state_dict(state["plateau"])
    if scaler.is_enabled() and state["scaler"]:  # a training on a CPU has none, and its scale begins anew here
        _check_like("scaler", state["scaler"], scaler.state_dict())
        scaler.load_state_dict(state["scaler"])
    counters = state["loop"]
    _check_like("loop", counters, {"epoch": 0, "stale": 0, "best": 0.0})
    training.epoch = counters["epoch"]
    training.patience.stale, training.patience.best = counters["stale"], counters["best"]
    training.result = TrainResult.decode(state["result"])
    if not 0 <= training.epoch == len(training.result.history) or training.patience.stale < 0:
        raise ValueError(f"epoch {training.epoch} of {len(training.result.history)}")
    torch.set_rng_state(state["rng"])
    if training.device.startswith("cuda") and state["cuda_rng"]:
        torch.cuda.set_rng_state(state["cuda_rng"][0], training.device)


def _check_like(what: str, given: Any, own: Any) -> None:
    """Raise TypeError or ValueError where plain values are not of the same kind as this training's own."""
    number = lambda value: type(value) in (int, float)  # noqa: E731
    if isinstance(own, Mapping):
        if not isinstance(given, Mapping) or not given.keys() <= own.keys():
            raise ValueError(f"{what} has other members")
        for name, value in given.items():
            _check_like(f"{what}.{name}", value, own[name])
    elif isinstance(own, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(own):
            raise ValueError(f"{what} has another length")
        for i, value in enumerate(own):
            _check_like(f"{what}[{i}]", given[i], value)
    elif type(given) is not type(own) and not (number(given) and number(own)):
        raise TypeError(f"{what} is {type(given).__name__}, expected {type(own).__name__}")


def _check_moments(given: Mapping[str, Any], optimiser: torch.optim.Optimizer) -> None:
    """Raise TypeError or ValueError where an optimiser's state is not that of the same parameters."""
    _check_like("param_groups", given["param_groups"], optimiser.state_dict()["param_groups"])
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    if not set(given["state"]) <= set(range(len(weights))):
        raise ValueError("moments of unknown parameters")
    for number, moments in given["state"].items():
        shapes = {"step": torch.Size(), "exp_avg": weights[number].shape, "exp_avg_sq": weights[number].shape}
        if {name: value.shape for name, value in moments.items()} != shapes:
            raise ValueError(f"moments of parameter {number} of another shape")


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
