"""The one training loop, for every head.

It is handed the training and the validation part and never sees the test part: no choice it makes - when to stop,
which weights are best, when a rate was too high - can depend on test labels.
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msa.config import modality
from msa.errors import ConfigError
from msa.fuse.data import Normalisation, Part
from msa.fuse.head import FusionHead

RESTART_FACTOR = 0.25  # of the learning rate, after a collapse


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. A head's presets override these (TRAIN in its file); `--set` overrides both."""

    lr: float = 3e-4
    weight_decay: float = 3e-3
    batch: int = 16
    epochs: int = 50
    patience: int = 5  # epochs without a better validation loss
    warmup_epochs: float = 1.0  # linear, from 0
    schedule: str = "plateau"  # plateau (factor 0.5, patience 2) | cosine | none
    clip: float = 1.0  # gradient norm; 0 = off
    amp: bool = True  # fp16 autocast on a GPU; a CPU gains nothing from it
    normalise: tuple[str, ...] = ("audio", "face")  # per dimension, on the training split's valid frames

    def __post_init__(self) -> None:
        if self.schedule not in ("plateau", "cosine", "none"):
            raise ConfigError(f"schedule={self.schedule!r}", fix="one of plateau, cosine, none")
        if not min(self.lr, self.batch, self.epochs, self.patience) > 0:
            raise ConfigError("lr, batch, epochs and patience must be above 0", fix="see `msa fuse train --help`")
        if not min(self.weight_decay, self.warmup_epochs, self.clip) >= 0:
            raise ConfigError("weight_decay, warmup_epochs and clip must not be below 0", fix="0 switches them off")
        for name in self.normalise:
            modality(name)


@dataclass
class Fit:
    """What a training came to: the best weights by validation loss, and every epoch's losses."""

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    collapsed: bool = False  # the best weights call every validation sample the same class
    restarted_at: float | None = None  # the lower learning rate, after a collapse
    skipped_steps: int = 0  # whose gradient was not finite
    seconds: float = 0.0  # of all epochs, before and after an interruption or a restart


Watch = Callable[[str], None]


def fit(
    make: Callable[[], FusionHead],
    train: Part,
    valid: Part,
    norm: Normalisation,
    config: TrainConfig,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    watch: Watch = lambda line: None,
) -> Fit:
    """Train one head with one seed; restarted once at a quarter of the rate when it collapses to one class.

    `checkpoint` is a file the state after every epoch is kept in: the same call after a kill goes on from there.
    """
    if not len(train) or not len(valid):
        raise ConfigError(
            f"{train.table.name}: {len(train)} training and {len(valid)} validation samples",
            fix="both must hold some: check the splits with `msa cache info`",
        )
    loop = _Loop(make, train, valid, norm, config, seed, device, checkpoint, watch)
    result = loop.run()
    if result.collapsed:
        rate = config.lr * RESTART_FACTOR
        watch(f"seed {seed}: collapsed to one class at lr {config.lr:g}; once more at lr {rate:g}")
        again = _Loop(make, train, valid, norm, replace(config, lr=rate), seed, device, None, watch).run()
        return replace(again, restarted_at=rate, seconds=result.seconds + again.seconds)
    return result


class _Loop:
    """The state of one training: model, optimiser, schedule, best weights so far."""

    def __init__(
        self,
        make: Callable[[], FusionHead],
        train: Part,
        valid: Part,
        norm: Normalisation,
        config: TrainConfig,
        seed: int,
        device: str,
        checkpoint: Path | None,
        watch: Watch,
    ) -> None:
        torch.manual_seed(seed)
        self.head = make().to(device)
        self.train, self.valid, self.norm, self.config = train, valid, norm, config
        self.seed, self.device, self.checkpoint, self.watch = seed, device, checkpoint, watch
        groups = self.head.param_groups(config.lr)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimiser, factor=0.5, patience=2)
        self.amp = config.amp and device.startswith("cuda")
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.steps_per_epoch = math.ceil(len(train) / config.batch)
        self.epoch, self.stale, self.best = 0, 0, math.inf
        self.result = Fit(state={})

    def run(self) -> Fit:
        self._resume()
        while self.epoch < self.config.epochs and self.stale < self.config.patience:
            started = time.monotonic()
            losses = self._train_epoch()
            loss, predicted = validate(self.head, self.valid, self.norm, self.config.batch, self.device)
            losses |= {"valid_loss": loss, "lr": self.optimiser.param_groups[0]["lr"], "epoch": self.epoch}
            self._keep(losses, predicted)
            self.epoch += 1
            if self.config.schedule == "plateau" and self.epoch >= self.config.warmup_epochs:
                self.plateau.step(loss)
            self.result.seconds += time.monotonic() - started
            self._save()
        if not self.result.state:
            raise ConfigError(
                f"seed {self.seed}: the validation loss was never finite",
                fix="lower the rate (--set lr=1e-4), or look for odd values with `msa cache verify`",
            )
        return self.result

    def _train_epoch(self) -> dict[str, float]:
        self.head.train()
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.train))
        total: dict[str, float] = {}
        for step, batch in enumerate(self.train.batches(self.config.batch, self.norm, order)):
            self._set_rate(self.epoch + step / self.steps_per_epoch, step)
            with torch.autocast("cuda", torch.float16, enabled=self.amp):
                terms = self.head.loss(batch.to(self.device))
            loss = torch.stack([term.float() for term in terms.values()]).sum()
            self._step(loss)
            for name, term in terms.items():
                total[name] = total.get(name, 0.0) + float(term.detach()) * len(batch)
        losses = {f"train_{name}": value / len(self.train) for name, value in total.items()}
        return {"train_loss": sum(losses.values()), **(losses if len(losses) > 1 else {})}

    def _step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.head.parameters(), self.config.clip or math.inf)
        if not torch.isfinite(norm):
            self.result.skipped_steps += 1
        if self.amp or torch.isfinite(norm):  # the scaler skips such steps itself, and must see them to adapt
            self.scaler.step(self.optimiser)
        self.scaler.update()

    def _set_rate(self, epoch: float, step: int) -> None:
        """Warm-up and cosine set the rate before each step; the plateau schedule changes it between epochs."""
        config = self.config
        if epoch < config.warmup_epochs:
            factor = (epoch * self.steps_per_epoch + 1) / max(1.0, config.warmup_epochs * self.steps_per_epoch)
        elif config.schedule == "cosine":
            span = max(config.epochs - config.warmup_epochs, 1e-9)
            factor = 0.5 * (1 + math.cos(math.pi * min(1.0, (epoch - config.warmup_epochs) / span)))
        elif config.schedule == "none" or (step == 0 and self.epoch == math.ceil(config.warmup_epochs)):
            factor = 1.0
        else:
            return
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * min(1.0, factor)

    def _keep(self, losses: dict[str, float], predicted: int) -> None:
        self.result.history.append(losses)
        self.stale += 1
        if losses["valid_loss"] < self.best:
            self.best, self.stale = losses["valid_loss"], 0
            self.result.best_epoch = self.epoch
            self.result.state = {k: v.detach().cpu().clone() for k, v in self.head.state_dict().items()}
            classes = self.train.table.task.classes
            self.result.collapsed = bool(classes) and predicted == 1 < len(np.unique(self.train.y))
        self.watch(
            f"seed {self.seed} epoch {self.epoch + 1}: train {losses['train_loss']:.4f}, "
            f"valid {losses['valid_loss']:.4f}, lr {losses['lr']:.1e}" + (" *" if not self.stale else "")
        )

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        state = {
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loop": {"epoch": self.epoch, "stale": self.stale, "best": self.best},
            "result": vars(self.result),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.startswith("cuda") else [],
            "config": _plain(self.config),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state: Mapping[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"] != _plain(self.config):
            raise ConfigError(
                f"{self.checkpoint} was made with other settings",
                fix="delete it, or resume with the run's own settings",
            )
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.plateau.load_state_dict(state["plateau"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.stale, self.best = (state["loop"][name] for name in ("epoch", "stale", "best"))
        self.result = Fit(**state["result"])
        torch.set_rng_state(state["rng"].cpu())
        if self.device.startswith("cuda"):
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
        self.watch(f"seed {self.seed}: goes on after epoch {self.epoch}")


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


@torch.inference_mode()
def validate(head: FusionHead, part: Part, norm: Normalisation, size: int, device: str) -> tuple[float, int]:
    """Mean loss over a part, and how many distinct classes are predicted; in fp32, as the test will be."""
    head.eval()
    total, predicted = 0.0, set()
    for batch in part.batches(size, norm):
        moved = batch.to(device)
        total += float(sum(term.float() for term in head.loss(moved).values())) * len(batch)
        predicted |= set(head(moved).argmax(1).tolist())
    return total / len(part), len(predicted)


@torch.inference_mode()
def predict(head: FusionHead, part: Part, norm: Normalisation, size: int, device: str) -> np.ndarray:
    """Probabilities (n, classes) or values (n, 1) for a part, float64."""
    head.eval()
    found = []
    for batch in part.batches(size, norm):
        output = head(batch.to(device)).float()
        found.append((output.softmax(1) if head.task.classes else output).cpu().numpy().astype(np.float64))
    return np.concatenate(found)
