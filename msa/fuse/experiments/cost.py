"""What a head costs: parameters, operations, time and memory, measured on batches of the data's own lengths."""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from msa.fuse.data import memory
from msa.fuse.data.table import Table
from msa.fuse.head import Batch, FusionHead
from msa.fuse.train.model import Model
from msa.types import Modality, Task

BATCH = 64  # samples of the training step whose memory is told, and of the many whose time is
REPEATS = 15  # of a forward that is timed ...
PATIENCE_S = 2.0  # ... or so many seconds, where they are slow


@dataclass(frozen=True)
class Cost:
    """Of one head on data of median lengths."""

    parameters: int
    flops: int  # of the forward of one sample; a multiplication and an addition are two
    latency_ms: float  # of a batch of one, median
    per_sample_ms: float  # in batches of 64, median
    step_bytes: int  # memory of a training step of 64: weights, gradients, optimiser and what backward needs
    lengths: Mapping[str, int]  # steps of each modality it was measured at
    threads: int  # of the CPU, that it was timed with


def measure(model: Model, data: Table, device: str) -> Cost:
    """Return the cost of a head with fresh weights on samples of the data's median length."""
    lengths = {m: typical(data, m) for m in data.columns}
    make = lambda: model.build(data.dims, data.task)  # noqa: E731
    return at(make, lengths, model.widths(data.dims), data.task, device)


def at(
    make: Callable[[], FusionHead],
    lengths: Mapping[Modality, int],
    dims: Mapping[Modality, int],
    task: Task,
    device: str,
) -> Cost:
    """Return the cost of a head at these lengths and widths."""
    torch.manual_seed(0)
    head = make().to(device).eval()
    single, many = (memory.noise(size, lengths, dims, task, device) for size in (1, BATCH))
    return Cost(
        parameters=sum(p.numel() for p in head.parameters()),
        flops=flops(head, single),
        latency_ms=_median_ms(head, single, device),
        per_sample_ms=_median_ms(head, many, device) / BATCH,
        step_bytes=round(memory.estimate(make, lengths, dims, task, device).of(BATCH)),
        lengths={str(m): n for m, n in lengths.items()},
        threads=torch.get_num_threads(),
    )


def flops(head: FusionHead, batch: Batch) -> int:
    """Return the floating-point operations of one forward, 2 for a multiplication with its addition.

    Taken on the CPU with the plain attention and LSTM kernels: the counter does not see into the fused ones, neither
    those of a CPU nor cuDNN's LSTM.
    """
    count, plain = FlopCounterMode(display=False), copy.deepcopy(head).cpu().requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # switching oneDNN off speaks of Intel's GPUs
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), count:
            plain(batch.to("cpu"))
    return int(count.get_total_flops())


def typical(data: Table, modality: Modality) -> int:
    """Return the median number of steps of a modality, over the samples that have it."""
    column = data.columns[modality]
    present = np.flatnonzero(column.present)
    lengths = [int(column.readers[column.source[i]].length[column.rows[i]]) for i in present]
    return max(1, round(statistics.median(lengths))) if lengths else 1


def _median_ms(head: FusionHead, batch: Batch, device: str) -> float:
    """Return the median time of REPEATS forwards after a first one, or of as many as PATIENCE_S allows."""
    taken: list[float] = []
    with torch.inference_mode():
        while len(taken) <= REPEATS and (len(taken) < 3 or sum(taken) < 1e3 * PATIENCE_S):
            began = time.perf_counter()
            head(batch)
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken[1:])
