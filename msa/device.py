"""The device that this process computes on: the CPU, or one card, by its number.

"cuda" alone means the card that a thread has chosen, and a new thread has chosen card 0: a thread that reads batches
ahead would copy them to another card than the one its training runs on. So training names a card with its number.
"""

from msa.errors import ConfigError


def pick_device(asked: str = "auto") -> str:
    """Return the device: of `auto` the GPU where there is one. Raises ConfigError for a GPU that torch does not see."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {asked}: torch {torch.__version__} sees no GPU here", fix="use --device auto or cpu"
        )
    return asked


def own_device() -> str:
    """Return the device this process trains on: "cpu", or the card it has chosen, such as "cuda:1"."""
    return numbered(pick_device())


def numbered(device: str) -> str:
    """Return the same device with the number of the card, which holds in every thread."""
    import torch

    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def choose_card(ordinal: int) -> None:
    """Take one of several cards, by this process's number among those at work on the machine."""
    import torch

    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(ordinal % torch.cuda.device_count())


def free_on_card(device: str) -> int:
    """Return the bytes that a model may still take on a card, with those that PyTorch keeps in its cache."""
    import torch

    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
