"""What decides the arithmetic of a forward on a device, and how much of a batch fits there."""

from typing import Any

from msa.device import free_on_card


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
    """Return a budget, stated for a 12 GB card, scaled to the free memory of this one; unchanged on a CPU."""
    if not device.startswith("cuda"):
        return budget
    return max(1, round(budget * min(4.0, free_on_card(device) / CARD)))
