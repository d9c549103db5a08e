"""The one training loop, for every head.

It is handed the training and the validation part, and seals the table behind them: it holds no label of a test sample,
and to it no test sample has hidden states, so no choice - when to stop, which weights are best, when a rate was too
high - depends on them. (The reader below, of a view, still knows all rows of the store.)
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from msa.config import checked, modality
from msa.errors import ConfigError
from msa.fuse.data import memory, sampler
from msa.fuse.data.loader import Source
from msa.fuse.data.table import Normalisation, Part
from msa.fuse.head import Batch, FusionHead, answers
from msa.fuse.runs import files
from msa.fuse.train.device import numbered
from msa.types import Task

RESTART_FACTOR = 0.25  # of the learning rate, after a collapse


@dataclass(frozen=True)
class TrainConfig:
    """How a head is trained. A head's presets override these (TRAIN in its file); `--set` overrides both."""

    lr: float = 3e-4
    weight_decay: float = 3e-3
    batch: int = 16
    bucket: bool = True  # samples of similar length in a batch, so that less than a tenth of it is padding
    epochs: int = 50
    patience: int = 5  # epochs without a better validation, by `select`
    select: Literal["loss", "mae"] = "loss"  # the task's, on validation, says which weights are best; mae is of values
    warmup_epochs: float = 1.0  # linear, from 0
    schedule: str = "plateau"  # plateau (factor 0.5, patience 2) | cosine | none
    clip: float = 1.0  # gradient norm; 0 = off
    amp: bool = True  # fp16 autocast on a GPU; a CPU gains nothing from it
    normalise: tuple[str, ...] = ("audio", "face")  # per dimension, on the training split's valid frames

    def __post_init__(self) -> None:
        checked(self)
        if self.schedule not in ("plateau", "cosine", "none"):
            raise ConfigError(f"schedule={self.schedule!r}", fix="one of plateau, cosine, none")
        if not min(self.lr, self.batch, self.epochs, self.patience) > 0:
            raise ConfigError("lr, batch, epochs and patience must be above 0", fix="see `msa fuse train --help`")
        if not min(self.weight_decay, self.warmup_epochs, self.clip) >= 0:
            raise ConfigError("weight_decay, warmup_epochs and clip must not be below 0", fix="0 switches them off")
        for name in self.normalise:
            modality(name)

    def criterion(self, task: Task) -> str:
        """The column of the history whose lowest value says which epoch is best."""
        return "valid_mae" if self.select == "mae" and not task.classes else "valid_loss"


@dataclass
class Fit:
    """What a training came to: the best weights on validation, and every epoch's losses."""

    state: dict[str, Tensor]
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    collapsed: bool = False  # the best weights say the same of every validation sample
    restarted_at: float | None = None  # the lower learning rate, after a collapse
    skipped_steps: int = 0  # whose gradient was not finite
    seconds: float = 0.0  # of all epochs, before and after an interruption or a restart
    data_seconds: float = 0.0  # of these, how long training steps waited for their batches
    padding: float = 0.0  # the share of the numbers in the last epoch's batches that was padding

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Fit":
        """Return what `vars` of one gave. Raises KeyError, TypeError or ValueError for anything else."""
        fit = cls(**values)
        if not isinstance(fit.state, dict) or not all(isinstance(one, Tensor) for one in fit.state.values()):
            raise TypeError("its weights are no tensors")
        for epoch in fit.history:
            if not {"train_loss", "valid_loss"} <= epoch.keys() or not all(isinstance(name, str) for name in epoch):
                raise ValueError("an epoch without its losses")
            if not all(type(value) in (int, float) for value in epoch.values()):
                raise TypeError("an epoch whose losses are no numbers")
        if (
            type(fit.best_epoch) is not int
            or not -1 <= fit.best_epoch < len(fit.history)
            or type(fit.history) is not list
        ):
            raise ValueError(f"best_epoch {fit.best_epoch} of {len(fit.history)} epochs")
        if type(fit.collapsed) is not bool or type(fit.skipped_steps) is not int:
            raise TypeError("collapsed or skipped_steps of another type")
        times = (fit.seconds, fit.data_seconds, fit.padding, fit.restarted_at or 0.0)
        if not all(type(value) in (int, float) and math.isfinite(value) for value in times):
            raise TypeError("a time or a rate that is no number")
        return fit


Watch = Callable[[str], None]
AfterEpoch = Callable[[int, FusionHead, Mapping[str, float]], None]


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
    after_epoch: AfterEpoch | None = None,
) -> Fit:
    """Train one head with one seed; restarted once at a quarter of the rate when it collapses to one answer.

    `checkpoint` is a file the state after every epoch is kept in: the same call after a kill goes on from there.
    `after_epoch` is shown the head, in evaluation mode, and the losses after epoch 1, 2, ...; after 1 again after a
    restart.
    """
    if not len(train) or not len(valid):
        raise ConfigError(
            f"{train.table.name}: {len(train)} training and {len(valid)} validation samples",
            fix="both must hold some: check the splits with `msa cache info`",
        )
    train, valid, device = train.sealed(), valid.sealed(), numbered(device)
    loop = _Loop(make, train, valid, norm, config, seed, device, checkpoint, watch, after_epoch)
    result = loop.run()
    if result.collapsed:
        rate = config.lr * RESTART_FACTOR
        watch(f"seed {seed}: collapsed to one answer at lr {config.lr:g}; once more at lr {rate:g}")
        slower = replace(config, lr=rate)
        again = _Loop(make, train, valid, norm, slower, seed, device, None, watch, after_epoch).run()
        seconds, data = result.seconds + again.seconds, result.data_seconds + again.data_seconds
        return replace(again, restarted_at=rate, seconds=seconds, data_seconds=data)
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
        after_epoch: AfterEpoch | None,
    ) -> None:
        torch.manual_seed(seed)
        self.head = make().to(device)
        self.train, self.valid, self.norm, self.config = train, valid, norm, config
        self.seed, self.device, self.checkpoint = seed, device, checkpoint
        self.watch, self.after_epoch = watch, after_epoch
        groups = self.head.param_groups(config.lr)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimiser, factor=0.5, patience=2)
        self.amp = config.amp and device.startswith("cuda")
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.criterion = config.criterion(train.table.task)
        self.steps_per_epoch = math.ceil(len(train) / config.batch)
        self.make = make
        self.lengths, self.widths = train.lengths()
        self.epoch, self.stale, self.best = 0, 0, math.inf
        self.result = Fit(state={})

    def run(self) -> Fit:
        self._resume()
        if more := self._goes_on():
            self._begin()
        while self._goes_on():
            started = time.monotonic()
            losses = self._train_epoch()
            found = validate(self.head, self.valid, self.norm, self.config.batch, self.device)
            losses |= found.losses | {"lr": self.optimiser.param_groups[0]["lr"], "epoch": self.epoch}
            self._keep(losses, found.distinct)
            self.epoch += 1
            if self.config.schedule == "plateau" and self.epoch >= self.config.warmup_epochs:
                self.plateau.step(losses[self.criterion])
            self.result.seconds += time.monotonic() - started
            self._report(losses)
            self._save()
            if self.after_epoch:
                self.after_epoch(self.epoch, self.head, losses)
        if more:
            self._tell()
        if not self.result.state:
            raise ConfigError(
                f"seed {self.seed}: the validation loss was never finite",
                fix="lower the rate (--set lr=1e-4), or look for odd values with `msa cache verify`",
            )
        return self.result

    def _goes_on(self) -> bool:
        return self.epoch < self.config.epochs and self.stale < self.config.patience

    def _begin(self) -> None:
        """Bring the hidden states, say where they are, and refuse a step there is no memory for."""
        table, means = self.train.table, self.head.means_only
        lengths = {m: 1 if means else max(int(n), 1) for m, n in zip(table.columns, self.lengths.max(0), strict=True)}
        source = self._source()
        memory.check(self.make, lengths, table.dims, table.task, self.config.batch, self.device, self.amp)
        self.watch(f"seed {self.seed}: {source.told}")

    def _source(self) -> Source:
        return self.train.source(self.norm, self.device, self.head.means_only)

    def _train_epoch(self) -> dict[str, float]:
        self.head.train()
        plan = self._plan()
        self.steps_per_epoch = len(plan)
        told: dict[str, list[Tensor]] = {}
        sizes = [len(at) for at in plan]
        for step, batch in enumerate(self._timed(self._source().batches(plan))):
            self._set_rate(self.epoch + step / self.steps_per_epoch, step)
            with torch.autocast("cuda", torch.float16, enabled=self.amp):
                _, terms = self.head.step(batch)
            self._step(torch.stack([term.float() for term in terms.values()]).sum())
            for name, term in terms.items():
                told.setdefault(name, []).append(term.detach())  # read at the end: a device is not to be waited for
        losses = {f"train_{name}": _mean(terms, sizes) for name, terms in told.items()}
        return {"train_loss": sum(losses.values()), **(losses if len(losses) > 1 else {})}

    def _plan(self) -> sampler.Plan:
        size, chance = self.config.batch, (self.seed, self.epoch)
        if self.head.whole_groups:
            plan = sampler.whole_groups(*self.train.groups(), size, chance)
        else:
            bucket = self.config.bucket and not self.head.means_only
            plan = sampler.shuffled(self.lengths, self.widths, size, chance, bucket)
        self.result.padding = 0.0 if self.head.means_only else sampler.padding(plan, self.lengths, self.widths)
        return plan

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, with a clock on how long they are waited for."""
        waiting = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(waiting, None)
            self.result.data_seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _report(self, losses: Mapping[str, float]) -> None:
        """One line for the epoch that has just ended; * marks the best so far."""
        mae = f"mae {losses['valid_mae']:.4f}, " if "valid_mae" in losses else ""
        left = round(self.result.seconds / self.epoch * (self.config.epochs - self.epoch))
        ends = f", at most {left // 60}:{left % 60:02} left" if self._goes_on() else ""
        self.watch(
            f"seed {self.seed} epoch {self.epoch}/{self.config.epochs}: train {losses['train_loss']:.4f}, "
            f"valid {losses['valid_loss']:.4f}, {mae}lr {losses['lr']:.1e}{' *' if not self.stale else ''}{ends}"
        )

    def _tell(self) -> None:
        """Why the training ended, how long it took, and what of that was not computing."""
        result = self.result
        share = result.data_seconds / result.seconds if result.seconds else 0.0
        measure = "MAE" if self.criterion == "valid_mae" else "loss"
        why = (
            f"no better validation {measure} in {self.stale} epochs"
            if self.stale >= self.config.patience
            else f"all {self.config.epochs} epochs are done"
        )
        self.watch(f"seed {self.seed}: stopped after epoch {self.epoch}: {why}; best was epoch {result.best_epoch + 1}")
        self.watch(
            f"seed {self.seed}: {result.seconds:.1f} s, {share:.1%} of it waiting for data; "
            f"{result.padding:.1%} of a batch is padding"
        )

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

    def _keep(self, losses: dict[str, float], distinct: int) -> None:
        self.result.history.append(losses)
        self.stale += 1
        if losses[self.criterion] < self.best:
            self.best, self.stale = losses[self.criterion], 0
            self.result.best_epoch = self.epoch
            self.result.state = {k: v.detach().cpu().clone() for k, v in self.head.state_dict().items()}
            self.result.collapsed = distinct == 1 and _vary(self.train)

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
            "cuda_rng": [torch.cuda.get_rng_state(self.device)] if self.device.startswith("cuda") else [],
            "config": _plain(self.config),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        files.save(self.checkpoint, state)

    def _resume(self) -> None:
        if self.checkpoint is None or not files.there(self.checkpoint):
            return
        state = files.load(self.checkpoint)
        try:
            if state["config"] != _plain(self.config):
                raise ConfigError(
                    f"{self.checkpoint} was made with other settings",
                    fix="delete it, or resume with the run's own settings",
                )
            self.head.restore(state["head"], self.checkpoint)
            self._restore(state)
        except torch.OutOfMemoryError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:  # a file that was changed
            files.damaged(self.checkpoint, error)
        self.watch(f"seed {self.seed}: goes on after epoch {self.epoch}")

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take up all but the weights, on whatever device the checkpoint was made."""
        _check_moments(state["optimiser"], self.optimiser)
        self.optimiser.load_state_dict(state["optimiser"])
        _check_like("plateau", state["plateau"], self.plateau.state_dict())
        self.plateau.load_state_dict(state["plateau"])
        if self.scaler.is_enabled() and state["scaler"]:  # a training on a CPU has none, and its scale begins anew here
            _check_like("scaler", state["scaler"], self.scaler.state_dict())
            self.scaler.load_state_dict(state["scaler"])
        _check_like("loop", state["loop"], {"epoch": 0, "stale": 0, "best": 0.0})
        self.epoch, self.stale, self.best = (state["loop"][name] for name in ("epoch", "stale", "best"))
        self.result = Fit.of(state["result"])
        if not 0 <= self.epoch == len(self.result.history) or self.stale < 0:
            raise ValueError(f"epoch {self.epoch} of {len(self.result.history)}")
        torch.set_rng_state(state["rng"])
        if self.device.startswith("cuda") and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][0], self.device)


def _check_like(what: str, given: Any, own: Any) -> None:
    """Raise TypeError or ValueError where plain values are not of the same kind as our own."""
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
        raise ValueError("moments of parameters that are not there")
    for number, moments in given["state"].items():
        shapes = {"step": torch.Size(), "exp_avg": weights[number].shape, "exp_avg_sq": weights[number].shape}
        if {name: value.shape for name, value in moments.items()} != shapes:
            raise ValueError(f"moments of parameter {number} of another shape")


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def _vary(train: Part) -> bool:
    """Are there at least two different labels to be told apart? Of values nothing is said: they have no collapse."""
    task = train.table.task
    return bool(task.classes) and len(np.unique(train.y > 0 if task.multilabel else train.y, axis=0)) > 1


@dataclass(frozen=True)
class Validation:
    """What a head makes of a part: mean losses, by their column in the history, and how many answers it has."""

    losses: dict[str, float]
    distinct: int  # different answers: classes, sets of probabilities in whole percent, or values


@torch.inference_mode()
def validate(head: FusionHead, part: Part, norm: Normalisation, size: int, device: str) -> Validation:
    """Mean loss over a part and, of values, their mean absolute error.

    In fp32, whatever the training: the test and every later prediction are, on any machine, and the best weights are
    to be the best there.

    The loss is that of the task alone: auxiliary terms serve training and do not say which weights answer best.
    """
    head.eval()
    total, error = 0.0, 0.0
    said: set[Any] = set()
    for _, batch in _every_sample(head, part, norm, size, device):
        output, terms = head.step(batch)
        task = terms["task"] if "task" in terms else sum(terms.values())
        total += float(task) * len(batch)
        said |= _distinct(head.task, output.float())
        if not head.task.classes:
            error += float((output.float().squeeze(1) - batch.y).abs().sum())
    losses = {"valid_loss": total / len(part)}
    return Validation(losses if head.task.classes else losses | {"valid_mae": error / len(part)}, len(said))


def _every_sample(
    head: FusionHead, part: Part, norm: Normalisation, size: int, device: str
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every sample once, in batches with little padding, or of whole groups: positions in the part, and the batch."""
    plan = sampler.whole_groups(*part.groups(), size) if head.whole_groups else sampler.ordered(*part.lengths(), size)
    return zip(plan, part.source(norm, numbered(device), head.means_only).batches(plan), strict=True)


def _mean(terms: list[Tensor], sizes: list[int]) -> float:
    """Mean over samples of what was told of every batch."""
    told = torch.stack(terms).tolist()
    return sum(value * size for value, size in zip(told, sizes, strict=True)) / sum(sizes)


def _distinct(task: Task, output: Tensor) -> set[Any]:
    """The different answers in an output (B, outputs).

    Of labels these are not the labels said: where all are rare a sound head may say none of them to anybody, and
    only one whose probabilities are everywhere the same has collapsed.
    """
    if task.multilabel:
        return {tuple(row) for row in (100 * answers(task, output)).round().tolist()}
    return set((output.argmax(1) if task.classes else output.squeeze(1)).tolist())


@torch.inference_mode()
def predict(head: FusionHead, part: Part, norm: Normalisation, size: int, device: str) -> np.ndarray:
    """Probabilities (n, classes) or values (n, 1) for a part, in its order, float64."""
    head.eval()
    found = np.empty((len(part), head.task.outputs))
    for at, batch in _every_sample(head, part, norm, size, device):
        found[at] = answers(head.task, head(batch).float()).cpu().numpy()
    if not np.isfinite(found).all():
        raise ConfigError(
            f"{type(head).__name__} answers some samples of {part.table.name} with NaN or infinity",
            fix="its weights or the hidden states are damaged: `msa cache verify --deep`, or train it anew",
        )
    return found
