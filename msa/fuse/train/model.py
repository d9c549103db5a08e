"""Heads by name: class, preset, settings, and how the head is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from types import ModuleType
from typing import Any

from msa import catalog
from msa.config import from_plain, taking, with_settings
from msa.errors import ConfigError, UnknownNameError
from msa.fuse.data import memory
from msa.fuse.data.table import widened
from msa.fuse.head import FusionHead, head_class
from msa.fuse.train.config import TrainConfig
from msa.names import shell_command
from msa.types import Modality, Task


@dataclass(frozen=True)
class Declared:
    """What a head's file declares beside its class: presets, how each is trained, and what a search varies."""

    presets: Mapping[str, Any]  # name -> Config
    train: Mapping[str, Mapping[str, Any]]  # name of a preset -> fields of TrainConfig that differ
    search: Mapping[str, Sequence[Any]]  # field of Config -> choices


def declared(module: ModuleType) -> Declared:
    """Return what a head's file declares.

    Raises ConfigError for a key that is no preset, field of TrainConfig or field of the head's Config, with file, key
    and near match; and for a preset that is no Config.
    """
    where = module.__file__ or module.__name__
    presets = getattr(module, "PRESETS", {"default": module.Config()})
    train, search = getattr(module, "TRAIN", {}), getattr(module, "SEARCH", {})
    for name, config in presets.items():
        if not isinstance(config, module.Config):
            raise ConfigError(
                f"{where}: PRESETS[{name!r}] is {type(config).__name__}, and no Config of this file",
                fix=f"write Config(...), with the settings of {name}",
            )
    general = [field.name for field in fields(TrainConfig)]
    for preset, values in train.items():
        if preset not in presets:
            raise catalog.unknown_key(f"{where}: TRAIN", preset, presets)
        for key in values:
            if key not in general:
                raise catalog.unknown_key(f"{where}: TRAIN[{preset!r}]", key, general)
    own = [field.name for field in fields(module.Config)]
    for key in search:
        if key not in own:
            raise catalog.unknown_key(f"{where}: SEARCH", key, own)
    return Declared(presets, train, search)


@dataclass(frozen=True)
class Model:
    """A head and all its settings; `build` makes one for given widths."""

    name: str
    preset: str
    settings: Mapping[str, Any]  # every field of the head's Config
    training: TrainConfig

    @classmethod
    def of(cls, name: str, preset: str = "default", settings: Sequence[str] = ()) -> "Model":
        """Return a preset with `--set name=value` applied: to the head's Config first, then to TrainConfig."""
        known = declared(catalog.load("head", name))
        if preset not in known.presets:
            raise UnknownNameError(f"preset of {name}", preset, known.presets)
        training = replace(TrainConfig(), **known.train.get(preset, {}))
        return cls(name, preset, asdict(known.presets[preset]), training).changed(settings)

    def changed(self, settings: Sequence[str]) -> "Model":
        """Return the same model with `name=value` settings of the head or of the training changed."""
        own = {field.name for field in fields(self.module.Config)}
        general = {field.name for field in fields(TrainConfig)}
        asked = {setting.partition("=")[0] for setting in settings}
        if unknown := sorted(asked - own - general):
            raise UnknownNameError(f"setting of {self.name}", unknown[0], own | general)
        config, rest = taking(self.config, settings)
        training = with_settings(self.training, rest)
        return Model(self.name, self.preset, asdict(config), training)

    @cached_property
    def module(self) -> ModuleType:
        """Return the head's module."""
        return catalog.load("head", self.name)

    @cached_property
    def config(self) -> Any:
        """Return the settings as the head's own dataclass.

        Raises UnknownNameError for a setting the head does not have, ConfigError for a value of another type.
        """
        return from_plain(self.module.Config, self.settings, self.name)

    def shapes(self, dims: Mapping[Modality, int], task: Task, most: float) -> dict[str, tuple[int, ...] | None]:
        """Return the name and the shape of all weights of such a head, without memory for them.

        Buffers have None: some grow with what a head is trained on.

        Args:
            dims: width of each modality.
            task: what is predicted.
            most: numbers that all weights and buffers together may be.

        Raises:
            ConfigError: where there would be more, and where the settings make no head.
        """
        try:
            with memory.weightless(most):
                head = self.build(dims, task)
        except memory.TooLarge as error:
            raise ConfigError(
                f"{self.name} with these settings and widths would have {error}",
                fix="make it smaller, or take one of its presets: msa fuse list " + self.name,
            ) from None
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AssertionError) as error:
            if self.settings == self._of_preset():
                raise  # the head's own fault
            raise ConfigError(
                f"{self.name} cannot be built with these settings: {str(error).splitlines()[0][:200]}",
                fix=f"see what can be set: {shell_command('msa', 'fuse', 'list', self.name)}",
            ) from error
        weights = dict(head.named_parameters())
        return {name: tuple(weights[name].shape) if name in weights else None for name in head.state_dict()}

    def _of_preset(self) -> dict[str, Any] | None:
        """Return the settings of the preset as it is now, None where the head has none of that name."""
        presets = declared(self.module).presets
        return asdict(presets[self.preset]) if self.preset in presets else None

    def build(self, dims: Mapping[Modality, int], task: Task) -> FusionHead:
        """Return a head with fresh weights. Raises ConfigError where the settings do not fit the modalities."""
        if not dims:
            raise ConfigError(f"{self.name} needs at least one modality", fix="extract one, or mend --modalities")
        make: Callable[..., FusionHead] = head_class(self.module)
        return make(self.config, self.widths(dims), task)

    def widths(self, dims: Mapping[Modality, int]) -> dict[Modality, int]:
        """Return the width of each modality in a batch, given the widths in the store."""
        return widened(dims, self.training.stats)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` gives the same model back."""
        training = asdict(self.training)
        return {"name": self.name, "preset": self.preset, "settings": dict(self.settings), "training": training}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Model":
        """Return the model that `to_json` wrote. Raises ConfigError where the training's settings are none."""
        training = from_plain(TrainConfig, plain["training"], plain["name"])
        return cls(plain["name"], plain["preset"], _tuples(plain["settings"]), training)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with tuples for lists: JSON has no tuples, settings have no lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
