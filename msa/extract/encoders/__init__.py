"""What backbones of one modality share: a backbone file names the weights, these files run them.

Precision is decided in one place, lane.py: fp32 on a CPU; on a GPU fp16 autocast, taken again in fp32 where it
overflows. Nothing here changes a setting of the process: no threads, no seeds, no TF32 switch.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msa.errors import BackboneError
from msa.extract.encoders.lane import stored
from msa.names import printable

if TYPE_CHECKING:
    import torch

MAX_MESSAGE = 300  # letters of a library's own error in ours
# Tensors that a checkpoint may lack: nothing that is read here passes through them
UNUSED = ("pooler.", "masked_spec_embed", "num_batches_tracked", "position_ids")


def freeze(model: "torch.nn.Module", device: str) -> "torch.nn.Module":
    """Return the model on a device, in evaluation mode, without gradients."""
    return model.eval().requires_grad_(False).to(device)


def rows(hidden: Iterable[np.ndarray], dtype: str) -> list[np.ndarray]:
    """Cast hidden states, each (T, D), to the dtype of the store. Raises FloatingPointError for NaN or infinity."""
    stored_rows = []
    for i, states in enumerate(hidden):
        cast = stored(i, states, dtype)
        if isinstance(cast, FloatingPointError):
            raise cast
        stored_rows.append(cast)
    return stored_rows


def complete(source: Path, missing: Iterable[Any]) -> None:
    """Raise BackboneError where a checkpoint lacks tensors in use: they would be random without a word."""
    lacking = sorted(str(key) for key in missing if not any(name in str(key) for name in UNUSED))
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise BackboneError(
            f"{source} lacks tensors of this model, which would be random: {', '.join(lacking[:3])}{more}",
            fix="name the checkpoint of this very architecture, or download it again",
        )


def unloadable(source: Path, error: Exception, alias: str = "") -> BackboneError:
    """Return the error for files that are there but cannot be read as what they claim to be.

    Args:
        source: the file or folder, as the user named it.
        error: what a library said of it.
        alias: how the library knew the folder; `source` takes its place in the message.
    """
    message = str(error).strip().replace(alias, str(source)) if alias else str(error).strip()
    return BackboneError(
        f"{source} cannot be loaded: {type(error).__name__}: {printable(message.partition(chr(10))[0][:MAX_MESSAGE])}",
        fix="check that the download is whole and that this version of the library knows the architecture",
    )


def library_versions(*names: str) -> Mapping[str, str]:
    """Return installed versions, without the local part: a CPU and a CUDA build of torch are the same release."""
    from importlib.metadata import version

    return {name: version(name).partition("+")[0] for name in names}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and reports of unused tensors while transformers loads, then restore its settings."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
