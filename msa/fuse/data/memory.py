"""Free memory, and what a training step will need: estimated before the first step, since a CPU gives no error.

Linux kills a process that takes too much, so a step that does not fit cannot be caught and repeated with half a batch.
A step is run on two small batches of the longest samples instead, while the bytes of every live tensor are counted,
and extrapolated to the real batch along a straight line. Counting stops where even the small batch does not fit.
Decision 0008 says what was measured.
"""

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from msa.device import free_on_card
from msa.errors import ConfigError
from msa.fuse.head import Batch, FusionHead
from msa.types import Modality, Task

SAMPLES = (2, 4)  # of the small batches
SPARE = 0.8  # of the free memory a step may take: allocators leave gaps, estimates fell short by up to 17 %
HARMLESS = 2000  # times the inputs, at WIDE numbers per step: what is smaller than that is not measured
WIDE = 512
MODULES = 20_000  # with parameters and buffers, of a head: the largest known has 2,000, and building takes time too


def free(device: str) -> int:
    """Return the bytes that are free: on the device, or on the machine and in this process's control group."""
    if device.startswith("cuda"):
        return free_on_card(device)
    import psutil

    return min([psutil.virtual_memory().available, *_left_in_groups()])


class TooLarge(Exception):
    """A head or a step that is larger than it may be; the text says how large."""


@contextmanager
def weightless(most: float) -> Iterator[None]:
    """Build modules without memory for their weights, and stop where these would be more than `most` numbers.

    Raises TooLarge. What a settings file says is not believed: layers=1000000000 would take days before it fails.
    """
    parts, numbers, thread = 0, 0, threading.get_ident()

    def count(_: nn.Module, __: str, made: Tensor | nn.Module | None) -> None:
        nonlocal parts, numbers
        if threading.get_ident() != thread:  # PyTorch's hooks are those of all threads
            return
        parts += 1
        numbers += made.numel() if isinstance(made, Tensor) else 0
        if numbers > most:
            raise TooLarge(f"more than {most:,.0f} weights")
        if parts > MODULES:
            raise TooLarge(f"more than {MODULES:,} modules and parameters")

    registered = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
        hooks.register_module_module_registration_hook(count),
    ]
    try:
        with torch.device("meta"):
            yield
    finally:
        for hook in registered:
            hook.remove()


def named(device: str) -> str:
    """Return the name of a device's memory, for messages."""
    return "memory" if device == "cpu" else "the GPU's memory"


def human(size: float) -> str:
    """Return a size with its unit, such as 1.5 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield limit less use of this process's control group and its parents, version 2 or 1; nothing if unlimited."""
    lines = own.read_text("utf-8").splitlines() if own.exists() else []
    paths = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines)}
    v1, v2 = next((path for kinds, path in paths.items() if "memory" in kinds.split(",")), "/"), paths.get("", "/")
    for home, path, limit, used in (
        (root, v2, "memory.max", "memory.current"),
        (root / "memory", v1, "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        place = home / path.strip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(home):
                break
            try:
                most, now = ((folder / name).read_text("utf-8").strip() for name in (limit, used))
                kept = dict(line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines())
            except OSError:  # inside a container the path may be that of the machine outside
                continue
            if most != "max":
                yield max(int(most) - int(now) + int(kept.get("inactive_file", 0)), 0)  # the page cache gives way


@dataclass(frozen=True)
class Need:
    """Bytes of a training step by the number of samples in its batch."""

    fixed: float  # weights, their gradients and Adam's two moments
    sample: float  # a sample of the longest lengths

    def of(self, batch: int) -> float:
        """Return the bytes of a step of `batch` samples."""
        return self.fixed + batch * self.sample

    def fitting(self, room: float) -> int:
        """Return the largest power of 2 that fits as a batch; 0 where not even one sample does."""
        most = int((room - self.fixed) // self.sample)
        return 1 << (most.bit_length() - 1) if most > 0 else 0


def check(
    make: Callable[[], FusionHead],
    lengths: Mapping[Modality, int],
    dims: Mapping[Modality, int],
    task: Task,
    batch: int,
    device: str,
    amp: bool = False,
) -> None:
    """Raise ConfigError where a step of `batch` samples of these lengths would not fit, with the batch that does."""
    room = SPARE * free(device)
    if harmless(lengths, dims, batch) < room:
        return
    steps = ", ".join(f"{n} {m}" for m, n in lengths.items())
    try:
        need = estimate(make, lengths, dims, task, device, amp, room)
    except TooLarge:
        if batch < SAMPLES[0]:
            return  # fewer than were measured: they may fit
        raise ConfigError(
            f"a training step of batch={batch} with {steps} steps does not fit: {SAMPLES[0]} samples alone need more "
            f"than the {human(room)} of {named(device)} that are free",
            fix="take a smaller preset, shorter features or a larger machine, or --set batch=1",
        ) from None
    if need.of(batch) <= room:
        return
    fits = need.fitting(room)
    raise ConfigError(
        f"a training step of batch={batch} with {steps} steps needs about {human(need.of(batch))}, and "
        f"{human(room)} of {named(device)} are free",
        fix=f"--set batch={fits} needs about {human(need.of(fits))}"
        if fits
        else f"a single sample needs {human(need.of(1))}: take a smaller preset, shorter features or a larger machine",
    )


def harmless(lengths: Mapping[Modality, int], dims: Mapping[Modality, int], batch: int) -> float:
    """Return an upper bound of a step's bytes for any known head; most trainings are below it and need no measuring."""
    steps = sum(lengths.values())
    inputs = sum(n * max(dims[m], WIDE) for m, n in lengths.items())
    return 4.0 * HARMLESS * batch * (inputs + steps**2)


def estimate(
    make: Callable[[], FusionHead],
    lengths: Mapping[Modality, int],
    dims: Mapping[Modality, int],
    task: Task,
    device: str,
    amp: bool = False,
    room: float = math.inf,
) -> Need:
    """Return what a training step needs, extrapolated from batches of SAMPLES; the random state stays as it was.

    Args:
        make: builds the head.
        lengths: steps of the longest sample in each modality.
        dims: width of each modality.
        task: what is predicted.
        device: where it would be trained.
        amp: fp16 autocast on a GPU.
        room: bytes that the small batches may take.

    Raises:
        TooLarge: where even the smaller batch takes more than `room`.
    """
    devices = [torch.device(device)] if device.startswith("cuda") else []
    few, more = SAMPLES
    with torch.random.fork_rng(devices):
        head = make().to(device).train()
        first = _step(head, noise(few, lengths, dims, task, device), amp, room)
        try:
            second = _step(head, noise(more, lengths, dims, task, device), amp, room)
            sample = (second - first) / (more - few)
        except TooLarge:
            sample = first / few  # at the most
    state = 3 * sum(p.numel() * p.element_size() for p in head.parameters())  # weights and Adam's two moments
    return Need(max(first - few * sample, 0.0) + state, max(sample, 1.0))


def noise(samples: int, steps: Mapping[Modality, int], dims: Mapping[Modality, int], task: Task, device: str) -> Batch:
    """Return a batch of noise without padding."""
    x = {m: torch.randn(samples, n, dims[m]) for m, n in steps.items()}
    mask = {m: torch.ones(samples, n, dtype=torch.bool) for m, n in steps.items()}
    if task.multilabel:
        y = torch.randint(2, (samples, task.outputs)).float()
    else:
        y = torch.arange(samples) % task.outputs if task.classes else torch.randn(samples)
    return Batch(x, mask, y, torch.arange(samples)).to(device)


def _step(head: FusionHead, batch: Batch, amp: bool, room: float) -> int:
    """Return the peak bytes of a step beside the head's own and its gradients, the batch included.

    On a CPU: what forward leaves for backward, and three times the largest tensor, since backward makes a gradient
    from another while it still holds what both belong to. Raises TooLarge where forward takes more than `room`.
    """
    inputs = [*batch.x.values(), *batch.mask.values(), batch.y, batch.row, batch.group, batch.position]
    own = sum(t.numel() * t.element_size() for t in inputs)
    head.zero_grad(set_to_none=True)
    if (device := inputs[0].device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            _loss(head, batch, amp).backward()
        except torch.OutOfMemoryError:
            raise TooLarge(f"a step of {len(batch)} samples") from None
        gradients = sum(p.numel() * p.element_size() for p in head.parameters() if p.grad is not None)
        return own + max(torch.cuda.max_memory_allocated(device) - before - gradients, 0)
    with Living([*inputs, *head.parameters(), *head.buffers()], room - own) as living:
        loss = _loss(head, batch, amp)
        left = living.now
    del loss
    return own + max(living.peak, left + 3 * living.largest)


def _loss(head: FusionHead, batch: Batch, amp: bool) -> Tensor:
    with torch.autocast("cuda", torch.float16, enabled=amp):
        _, terms = head.step(batch)
    return torch.stack([term.float() for term in terms.values()]).sum()


class Living(TorchDispatchMode):
    """Counts the storage of every tensor that an operation makes, as long as it lives. Raises TooLarge above `most`."""

    def __init__(self, known: Sequence[Tensor], most: float = math.inf) -> None:
        super().__init__()
        self.most = most
        self.now = self.peak = self.largest = 0  # bytes
        self.alive: set[int] = set()
        for tensor in known:
            self._count(tensor, 0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to be skipped would import the compiler, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                self._count(made, made.untyped_storage().nbytes())
        return out

    def _count(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self.alive:
            self.alive.add(id(storage))
            self.now += size
            self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
            weakref.finalize(storage, self._gone, id(storage), size)
            if self.now > self.most:
                raise TooLarge(f"more than {human(self.most)} of live tensors")

    def _gone(self, name: int, size: int) -> None:
        self.alive.discard(name)
        self.now -= size
