"""The one training loop, for every head.

It is handed the training and the validation split, and seals the table behind them: no label of a test sample is in
reach, and test samples have no hidden states, so no choice - when to stop, which weights are best, when a rate was too
high - depends on them. (The store that the samples come from still holds them.)
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msa.device import numbered
from msa.errors import ConfigError
from msa.fuse.data import memory, sampler
from msa.fuse.data.loader import Source
from msa.fuse.data.table import Normalisation, Subset
from msa.fuse.head import Batch, FusionHead, LinearHead
from msa.fuse.train import checkpoint as checkpoints
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.convex import fit_path
from msa.fuse.train.evaluation import validate
from msa.fuse.train.result import TrainResult
from msa.fuse.train.schedule import Patience, Schedule

RESTART_FACTOR = 0.25  # of the learning rate, after a collapse

Log = Callable[[str], None]  # takes one line of progress
AfterEpoch = Callable[[int, FusionHead, Mapping[str, float]], None]


def fit(
    make: Callable[[], FusionHead],
    train: Subset,
    valid: Subset,
    norm: Normalisation,
    config: TrainConfig,
    seed: int,
    device: str,
    checkpoint: Path | None = None,
    log: Log = lambda line: None,
    after_epoch: AfterEpoch | None = None,
) -> TrainResult:
    """Train one head with one seed; restart once at a quarter of the rate when it collapses to one prediction.

    Args:
        make: builds the head; called after the seed is set.
        train: training samples.
        valid: validation samples, which choose the weights that are kept.
        norm: statistics of the training frames.
        config: how it is trained.
        seed: of weights, batches and dropout.
        device: such as "cpu" or "cuda:0".
        checkpoint: file with the state after every epoch; the same call after a kill continues from it.
        log: called with every line of progress.
        after_epoch: called with the number of the epoch (from 1; from 1 again after a restart), the head in evaluation
            mode, and the losses.

    Raises:
        ConfigError: where a split is empty, a step does not fit into memory, or no validation loss is finite.
    """
    if not len(train) or not len(valid):
        raise ConfigError(
            f"{train.table.name}: {len(train)} training and {len(valid)} validation samples",
            fix="both must hold some: check the splits with `msa cache info`",
        )
    train, valid, device = train.sealed(), valid.sealed(), numbered(device)
    torch.manual_seed(seed)
    head = make()  # only its class is asked for here: `Training` builds its own under the same seed
    if isinstance(head, LinearHead):
        log_of_seed = lambda line: log(f"seed {seed}: {line}")  # noqa: E731
        criterion = config.criterion(train.table.task)
        return fit_path(head.to(device), train, valid, norm, config.batch, criterion, log_of_seed, after_epoch)
    loop = Training(make, train, valid, norm, config, seed, device, checkpoint, log, after_epoch)
    result = loop.run()
    if result.collapsed:
        rate = config.lr * RESTART_FACTOR
        log(f"seed {seed}: collapsed to one answer at lr {config.lr:g}; once more at lr {rate:g}")
        slower = replace(config, lr=rate)
        again = Training(make, train, valid, norm, slower, seed, device, None, log, after_epoch).run()
        seconds, data = result.seconds + again.seconds, result.data_seconds + again.data_seconds
        return replace(again, restarted_at=rate, seconds=seconds, data_seconds=data)
    return result


class Training:
    """The state of one training: head, optimiser, schedule, best weights so far."""

    def __init__(
        self,
        make: Callable[[], FusionHead],
        train: Subset,
        valid: Subset,
        norm: Normalisation,
        config: TrainConfig,
        seed: int,
        device: str,
        checkpoint: Path | None,
        log: Log,
        after_epoch: AfterEpoch | None,
    ) -> None:
        torch.manual_seed(seed)
        self.head = make().to(device)
        self.train, self.valid, self.norm, self.config = train, valid, norm, config
        self.seed, self.device, self.checkpoint = seed, device, checkpoint
        self.log, self.after_epoch = log, after_epoch
        groups = self.head.param_groups(config.lr)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        self.schedule, self.patience = Schedule(self.optimiser, config), Patience(config.patience)
        self.amp = config.amp and device.startswith("cuda")
        self.scaler = torch.amp.GradScaler(enabled=self.amp)
        self.criterion = config.criterion(train.table.task)
        self.make = make
        self.lengths, self.widths = train.lengths()
        self.epoch = 0  # how many have ended
        self.result = TrainResult(state={})

    def run(self) -> TrainResult:
        if self.checkpoint and checkpoints.resume(self.checkpoint, self):
            self.log(f"seed {self.seed}: goes on after epoch {self.epoch}")
        if more := not self.ended:
            self._begin()
        while not self.ended:
            started = time.monotonic()
            losses = self._train_epoch()
            validation = validate(self.head, self.valid, self.norm, self.config.batch, self.device)
            losses |= validation.losses | {"lr": self.schedule.rate, "epoch": self.epoch}
            self._keep_if_best(losses, validation.distinct)
            self.epoch += 1
            self.schedule.after_epoch(self.epoch, losses[self.criterion])
            self.result.seconds += time.monotonic() - started
            self._log_epoch(losses)
            if self.checkpoint:
                checkpoints.write(self.checkpoint, self)
            if self.after_epoch:
                self.after_epoch(self.epoch, self.head, losses)
        if more:
            self._log_end()
        if not self.result.state:
            raise ConfigError(
                f"seed {self.seed}: the validation loss was never finite",
                fix="lower the rate (--set lr=1e-4), or look for odd values with `msa cache verify`",
            )
        return self.result

    @property
    def ended(self) -> bool:
        """Return whether all epochs are done or patience is exhausted."""
        return self.epoch >= self.config.epochs or self.patience.exhausted

    def _begin(self) -> None:
        """Load the hidden states, log where they are, and refuse a step that does not fit into memory."""
        table, means = self.train.table, self.head.means_only
        lengths = {m: 1 if means else max(int(n), 1) for m, n in zip(table.columns, self.lengths.max(0), strict=True)}
        source = self._source()
        memory.check(
            self.make, lengths, self.norm.widths(table.dims), table.task, self.config.batch, self.device, self.amp
        )
        self.log(f"seed {self.seed}: {source.location}")

    def _source(self) -> Source:
        return self.train.source(self.norm, self.device, self.head.means_only)

    def _train_epoch(self) -> dict[str, float]:
        self.head.train()
        plan = self._plan()
        by_name: dict[str, list[Tensor]] = {}
        sizes = [len(at) for at in plan]
        for step, batch in enumerate(self._timed(self._source().batches(plan))):
            self.schedule.before_step(self.epoch, step, len(plan))
            with torch.autocast("cuda", torch.float16, enabled=self.amp):
                _, terms = self.head.step(batch)
            self._step(torch.stack([term.float() for term in terms.values()]).sum())
            for name, term in terms.items():
                by_name.setdefault(name, []).append(term.detach())  # read after the epoch: reading waits for the device
        losses = {f"train_{name}": _mean(terms, sizes) for name, terms in by_name.items()}
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
        """Yield the same batches, and add up how long they are waited for."""
        waiting = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(waiting, None)
            self.result.data_seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def _log_epoch(self, losses: Mapping[str, float]) -> None:
        """Log one line for the epoch that has just ended; * marks the best so far."""
        mae = f"mae {losses['valid_mae']:.4f}, " if "valid_mae" in losses else ""
        left = round(self.result.seconds / self.epoch * (self.config.epochs - self.epoch))
        ends = f", at most {left // 60}:{left % 60:02} left" if not self.ended else ""
        best = "" if self.patience.stale else " *"
        self.log(
            f"seed {self.seed} epoch {self.epoch}/{self.config.epochs}: train {losses['train_loss']:.4f}, "
            f"valid {losses['valid_loss']:.4f}, {mae}lr {losses['lr']:.1e}{best}{ends}"
        )

    def _log_end(self) -> None:
        """Log why the training ended, how long it took, and what of that was not computing."""
        result = self.result
        share = result.data_seconds / result.seconds if result.seconds else 0.0
        measure = "MAE" if self.criterion == "valid_mae" else "loss"
        why = (
            f"no better validation {measure} in {self.patience.stale} epochs"
            if self.patience.exhausted
            else f"all {self.config.epochs} epochs are done"
        )
        self.log(f"seed {self.seed}: stopped after epoch {self.epoch}: {why}; best was epoch {result.best_epoch + 1}")
        self.log(
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

    def _keep_if_best(self, losses: dict[str, float], distinct: int) -> None:
        self.result.history.append(losses)
        if self.patience.improves(losses[self.criterion]):
            self.result.best_epoch = self.epoch
            self.result.state = {k: v.detach().cpu().clone() for k, v in self.head.state_dict().items()}
            self.result.collapsed = distinct == 1 and _vary(self.train)


def _mean(terms: list[Tensor], sizes: list[int]) -> float:
    """Return the mean over samples of a term () of every batch, whose sizes are given."""
    values = torch.stack(terms).tolist()
    return sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)


def _vary(train: Subset) -> bool:
    """Return whether labels differ, so that one prediction for all is a collapse; False for regression."""
    task = train.table.task
    return bool(task.classes) and len(np.unique(train.y > 0 if task.multilabel else train.y, axis=0)) > 1
