"""Where models run, and how much of a batch fits there."""

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
