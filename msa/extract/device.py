"""Where models run, and how much of a batch fits there."""

from typing import Any

from msa.errors import ConfigError


def pick_device(asked: str) -> str:
    """`auto` is the GPU where there is one. Raises ConfigError where a GPU is asked for in vain."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {asked}: torch {torch.__version__} sees no GPU here", fix="use --device auto or cpu"
        )
    return asked


def threads() -> int:
    """How many threads a forward uses on the CPU here: torch's own count, which OMP_NUM_THREADS decides."""
    import torch

    return torch.get_num_threads()


def use_threads(number: int) -> None:
    """Let forwards of this thread of the process use so many: sums are split by their number, so it decides bits."""
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def arithmetic() -> dict[str, Any]:
    """What decides the last bits on a CPU: the number of threads, and the instructions torch has chosen (`AVX2`)."""
    import torch

    return {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


CARD = 11e9  # bytes free on the 12 GB card that the backbones' budgets are stated for


def fitting(budget: int, device: str) -> int:
    """A budget stated for a 12 GB card, for the memory that is free on this one; on a CPU it stays as it is.

    What PyTorch keeps in stock for whoever asks next is free: the model of the view before has left it.
    """
    if not device.startswith("cuda"):
        return budget
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, round(budget * min(4.0, free / CARD)))
