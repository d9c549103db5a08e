"""What the tests of single heads share: made batches, how many parameters there are, and labels several at a time."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from msa.cache.write.segment import Form
from msa.fuse.head import Batch
from msa.types import Task
from tests.fuse.conftest import AUDIO, TEXT, WIDTH, add_corpus, classes_of, memory_table, states_of

EMOTIONS = Task(classes=("happy", "sad", "anger", "surprise", "disgust", "fear"), multilabel=True)  # CMU-MOSEI's


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def random_batch(dims, task, steps=5, size=8, full=False) -> Batch:
    """Every modality padded to `steps` (the literal reading of CM-STA's eq. 2 asks for it), noise behind the mask."""
    x = {m: torch.randn(size, steps, d) for m, d in dims.items()}
    length = {m: torch.full((size, 1), steps) if full else torch.randint(1, steps + 1, (size, 1)) for m in dims}
    mask = {m: torch.arange(steps) < length[m] for m in dims}
    return Batch(x, mask, random_labels(task, size), torch.arange(size))


def random_labels(task, size, generator=None) -> torch.Tensor:
    """Class numbers or values (size,), or intensities 0..3 (size, classes)."""
    if task.multilabel:
        return torch.randint(4, (size, task.outputs), generator=generator).float()
    if task.classes:
        return torch.randint(task.outputs, (size,), generator=generator)
    return torch.randn(size, generator=generator)


def emotions_of(n) -> np.ndarray:
    """(n, 6) float32 intensities that the class of `classes_of` decides; fear never holds."""
    holds = np.eye(3)[classes_of(n).astype(int)] @ [[1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0]]
    return (holds * (1 + np.arange(n) % 3)[:, None] / 3 * 2).astype(np.float32)


def emotions_table(n=60, **changed):
    """A table without a store, with six labels for each sample."""
    return replace(memory_table(n=n), task=EMOTIONS, **{"y": emotions_of(n)} | changed)


def add_emotions(store, name="clips", labels=None):
    """Write 60 clips with text and sound and six labels each."""
    labels = emotions_of(60) if labels is None else labels
    index = replace(add_corpus(store, name, 60, ()), task=EMOTIONS, labels=labels, label_names=EMOTIONS.classes)
    store.add_index(index)
    for m in (TEXT, AUDIO):
        view_id = m[0] * 16
        store.add_view(view_id, {"modality": m, "backbone": f"made.{m}", "dim": WIDTH[m], "dtype": "float16"})
        writer = store.writer(view_id, index.fingerprint, Form(WIDTH[m], "float16", 16, 4096), {})
        for i, y in enumerate(classes_of(60)):
            writer.write(i, index.digests[m][i].tobytes(), states_of(i, float(y), WIDTH[m], 2.0, name))
        store.publish(view_id, [writer.seal()])
    return index
