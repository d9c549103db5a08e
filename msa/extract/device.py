"""The device that models run on, what decides its arithmetic, and how much of a batch fits there."""

from typing import Any

from msa.errors import ConfigError


def pick_device(asked: str) -> str:
    """Return the device: of `auto` the GPU where there is one. Raises ConfigError for a GPU that torch does not see."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {asked}: torch {torch.__version__} sees no GPU here", fix="use --device auto or cpu"
        )
    return asked


def threads() -> int:
    """Return how many threads a forward uses on the CPU here: torch's own count, which OMP_NUM_THREADS decides."""
    import torch

    return torch.get_num_threads()


def use_threads(number: int) -> None:
    """Set the number of threads of a forward: sums are split by it, so it decides the last bits."""
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def arithmetic() -> dict[str, Any]:
    """Return what decides the last bits on a CPU: the number of threads and the instructions of torch (`AVX2`)."""
    import torch

    return {"threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability()}


CARD = 11e9  # bytes free on the 12 GB card that the backbones' budgets are stated for


def fitting(budget: int, device: str) -> int:
    """Return a budget, stated for a 12 GB card, scaled to the free memory of this one; unchanged on a CPU.

    Blocks that PyTorch keeps in its cache count as free: the model of the view before has left them.
    """
    if not device.startswith("cuda"):
        return budget
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, round(budget * min(4.0, free / CARD)))
