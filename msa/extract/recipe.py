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
from msa.extract.media.clips import Sampling
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
        """Find the weights behind a name.

        Args:
            modality: what the backbone has to encode.
            name: of a variant, a family, a hub repository or a folder.
            overrides: `name=value` of its options.
            store: pins the revision where it holds hidden states of the same weights.
        """
        family, spec = presets.spec_of(modality, name, overrides)
        if name == family:
            name = f"{family}.{catalog.variants(family)[0]}"
        if spec.revision is None and store is not None:
            spec = replace(spec, revision=_pinned(store, spec.weights))
        return cls(name, family, spec, weights.resolve(spec))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the numbers, besides the input itself."""
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
        """Return the libraries that compute descriptors, in place of weights; arrays are arrays: no numpy or scipy."""
        return {name: v for name, v in self.load("cpu").versions.items() if name not in ("numpy", "scipy")}

    @property
    def sampling(self) -> Sampling:
        """The frames of a video that are taken."""
        options = self.spec.options
        return Sampling(options["fps"], options["side"]) if "fps" in options else decode.FRAMES

    @property
    def label(self) -> str:
        """The name in tables, without the folders of this machine."""
        kind, _, rest = self.name.partition(":")
        return f"{kind}:{Path(rest.partition('@')[0]).name}" if kind in presets.FREE else self.name

    @property
    def view_id(self) -> str:
        """Hash of the identity."""
        return fingerprint.key(self.identity)

    def load(self, device: str) -> Backbone:
        """Return the frozen model on a device."""
        return checked(catalog.load("backbone", self.family).load(self.spec, self.weights, device), self.family)

    @contextmanager
    def loaded(self, device: str) -> Iterator[Backbone]:
        """Load the model for a block, and close it afterwards."""
        backbone = self.load(device)
        try:
            yield backbone
        finally:
            backbone.close()

    def attributes(self, backbone: Backbone) -> dict[str, Any]:
        """Return the provenance of a view: its identity, and what it came from."""
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
        """Return the recipe of a view, resolved again; `found_at` names its weights on this machine.

        Raises BackboneError where the weights are not the same, whatever they are called.
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
        resolved = weights.resolve(spec)
        if resolved.sha256 != known["sha256"]:
            raise BackboneError(
                f"{name}: these weights have SHA-256 {resolved.sha256[:12]}…, "
                f"the hidden states of the view came from {known['sha256'][:12]}…",
                fix=f"find the weights of revision {known['revision'] or 'that day'}, or extract and train again",
            )
        return cls(name, family, spec, resolved)


def _kind(value: object) -> type:
    """Return the type of an option, as far as JSON keeps it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return list if isinstance(value, list | tuple) else type(value)


def _at(weights_name: str, path: Path, modality: Modality) -> str:
    """Return the name of weights that were at `path` when a view was made. Raises BackboneError where they are gone."""
    if not path.exists():
        raise BackboneError(
            f"the weights for {modality} were at {path}, which does not exist",
            fix="give their path on this machine: "
            + shell_command("--weights", f"{modality}={weights_name.partition(':')[0]}:PATH"),
        )
    kind, _, rest = weights_name.partition(":")
    return f"timm:{rest.partition('@')[0]}@{path}" if kind == "timm" else f"{kind}:{path}"


def run_facts(backbone: Backbone, device: str) -> dict[str, Any]:
    """Return the facts recorded with each segment: they may change the last bits, never the meaning."""
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
    """Return the card and the libraries that drive it."""
    if not device.startswith("cuda"):
        return {}
    import torch

    cudnn = torch.backends.cudnn.version()
    return {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "cudnn": cudnn}


def _is_local(spec: BackboneSpec) -> bool:
    kind, _, name = spec.weights.partition(":")
    return "@" in name if kind == "timm" else Path(name).is_dir()


def _pinned(store: FeatureStore, weights_name: str) -> str | None:
    """Return the revision of these weights under which the store already holds hidden states."""
    known = [store.attributes(view_id)["weights"] for view_id in store.manifest.views]
    return next((str(w["revision"]) for w in reversed(known) if w["name"] == weights_name and w["revision"]), None)
