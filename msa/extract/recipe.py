"""A recipe: a backbone, its options and its weights, resolved so far that it gives the same numbers, but for rounding.

Two recipes with the same identity fill the same view. Not part of it: batch size, device, paths, names.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from msa import __version__, catalog
from msa.cache.format import fingerprint, generations
from msa.cache.store import FeatureStore
from msa.errors import BackboneError
from msa.extract import presets, weights
from msa.extract.backbone import Backbone, BackboneSpec, Weights, checked
from msa.extract.device import arithmetic
from msa.extract.media import decode
from msa.extract.media.container import Sampling
from msa.names import shell_command
from msa.types import Modality

EXTRACTOR = 1  # raised when the code between raw material and hidden states changes its numbers
COMPUTE = "fp32 on a CPU, fp16 autocast on a GPU with fp32 where a value overflows"


@dataclass(frozen=True)
class Recipe:
    """What turns one modality into hidden states."""

    name: str  # as the user calls it
    family: str  # file in backbones/
    spec: BackboneSpec
    weights: Weights

    @classmethod
    def resolve(
        cls, modality: Modality, name: str, overrides: Sequence[str] = (), store: FeatureStore | None = None
    ) -> "Recipe":
        """Find the weights behind a name. A store that holds hidden states of the same name pins the revision."""
        family, spec = presets.spec_of(modality, name, overrides)
        if name == family:
            name = f"{family}.{catalog.variants(family)[0]}"
        if spec.revision is None and store is not None:
            spec = replace(spec, revision=_pinned(store, spec.weights))
        return cls(name, family, spec, weights.resolve(spec))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the numbers, besides the input itself."""
        return {
            "extractor": EXTRACTOR,
            "modality": self.spec.modality,
            "family": self.spec.weights.partition(":")[0] or self.name,
            "architecture": self.spec.weights.partition("@")[0] if self.spec.weights.startswith("timm:") else "",
            "weights_sha256": self.weights.sha256,
            "libraries": {} if self.spec.weights else self._libraries(),
            "options": {k: v for k, v in self.spec.options.items() if (k, v) not in self.spec.added.items()},
            "decoding": decode.versions(self.spec.modality, self.spec.options),
            "compute": COMPUTE,
            "dtype": self.spec.dtype,
        }

    def _libraries(self) -> dict[str, str]:
        """What hand-made descriptors are computed by; it takes the place of weights. Arrays are arrays: no numpy."""
        return {name: v for name, v in self.load("cpu").versions.items() if name not in ("numpy", "scipy")}

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video it wants."""
        options = self.spec.options
        return Sampling(options["fps"], options["side"]) if "fps" in options else decode.FRAMES

    @property
    def label(self) -> str:
        """What tables call it: the name without the folders of this machine."""
        kind, _, rest = self.name.partition(":")
        return f"{kind}:{Path(rest.partition('@')[0]).name}" if kind in presets.FREE else self.name

    @property
    def view_id(self) -> str:
        """Hash of the identity."""
        return fingerprint.key(self.identity)

    def load(self, device: str) -> Backbone:
        """The frozen model on a device."""
        return checked(catalog.load("backbone", self.family).load(self.spec, self.weights, device), self.family)

    @contextmanager
    def loaded(self, device: str) -> Iterator[Backbone]:
        """The model, which gives back what it holds at the end."""
        backbone = self.load(device)
        try:
            yield backbone
        finally:
            backbone.close()

    def attributes(self, backbone: Backbone) -> dict[str, Any]:
        """The provenance of a view: its identity, and what it came from."""
        return {
            "modality": self.spec.modality,
            "backbone": self.label,
            "family": self.family,
            "dim": backbone.dim,
            "dtype": self.spec.dtype,
            "columns": list(backbone.columns),
            "identity": self.identity,
            "weights": {
                "name": self.spec.weights,
                "revision": self.weights.revision,
                "sha256": self.weights.sha256,
                "licence": self.spec.licence,
                "path": str(self.weights.path.resolve()) if _is_local(self.spec) and self.weights.path else "",
            },
            "source": self.spec.source,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    @classmethod
    def of_view(cls, attributes: Mapping[str, Any], found_at: str | None = None) -> "Recipe":
        """The recipe a view was made by, resolved again; `found_at` names where the same weights lie on this machine.

        Raises BackboneError where the weights are other ones, whatever they are called.
        """
        known, modality = attributes["weights"], Modality(attributes["modality"])
        if imported := attributes["identity"].get("imported"):
            raise BackboneError(
                f"the {modality} this run was trained on was imported ({attributes['backbone']}, "
                f"{attributes['source']}): nothing here can make it from raw input",
                fix=f"train on {modality} that msa extracts itself, or leave it out: msa fuse train --modalities ...; "
                f"to score another file of this kind: {shell_command('msa', 'cache', 'import', imported)} "
                "FILE --name NAME, then msa fuse eval RUN --data NAME",
            )
        name = found_at or (known["name"] if attributes["family"] in presets.FREE else attributes["backbone"])
        family, spec = presets.spec_of(modality, name)
        if known["path"] and found_at is None:
            spec = replace(spec, weights=_at(spec.weights, Path(known["path"]), modality))
        options = {**spec.added, **attributes["identity"]["options"]}
        kinds = [{name: _kind(value) for name, value in of.items()} for of in (options, spec.options)]
        if kinds[0] != kinds[1]:
            raise BackboneError(
                f"{name}: the view was made with the options {', '.join(options) or 'none'}, and this version has "
                f"{', '.join(spec.options) or 'none'}",
                fix="install the msa the run was trained with, or extract and train again",
            )
        spec = replace(spec, revision=known["revision"], options=options)
        found = weights.resolve(spec)
        if found.sha256 != known["sha256"]:
            raise BackboneError(
                f"{name}: these weights have SHA-256 {found.sha256[:12]}…, "
                f"the hidden states of the view came from {known['sha256'][:12]}…",
                fix=f"find the weights of revision {known['revision'] or 'that day'}, or extract and train again",
            )
        return cls(name, family, spec, found)


def _kind(value: object) -> type:
    """The type of an option, as far as JSON keeps it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return list if isinstance(value, list | tuple) else type(value)


def _at(weights_name: str, path: Path, modality: Modality) -> str:
    """The name of weights that lay at `path` when a view was made. Raises BackboneError where they do no more."""
    if not path.exists():
        raise BackboneError(
            f"the weights for {modality} lay at {path}, and nothing is there",
            fix="say where they are on this machine: "
            + shell_command("--weights", f"{modality}={weights_name.partition(':')[0]}:PATH"),
        )
    kind, _, rest = weights_name.partition(":")
    return f"timm:{rest.partition('@')[0]}@{path}" if kind == "timm" else f"{kind}:{path}"


def run_facts(backbone: Backbone, device: str) -> dict[str, Any]:
    """What is written beside each segment: it may change the last bits, never the meaning."""
    return {
        "device": device,
        "versions": {"msa": __version__, "python": platform.python_version(), **backbone.versions},
        "platform": platform.platform(),
        "creator": generations.creator(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **arithmetic(),
        **_gpu(device),
    }


def _gpu(device: str) -> dict[str, Any]:
    """The card and the libraries that drive it."""
    if not device.startswith("cuda"):
        return {}
    import torch

    cudnn = torch.backends.cudnn.version()
    return {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "cudnn": cudnn}


def _is_local(spec: BackboneSpec) -> bool:
    kind, _, name = spec.weights.partition(":")
    return "@" in name if kind == "timm" else Path(name).is_dir()


def _pinned(store: FeatureStore, weights_name: str) -> str | None:
    """The revision of these weights under which the store already holds hidden states."""
    known = [store.attributes(view_id)["weights"] for view_id in store.manifest.views]
    return next((str(w["revision"]) for w in reversed(known) if w["name"] == weights_name and w["revision"]), None)
