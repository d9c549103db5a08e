"""The device that this process trains on: the CPU, or one card, by its number.

"cuda" alone means the card that a thread has chosen, and a new thread has chosen card 0: the thread that reads batches
ahead would copy them to another card than the one its training runs on. So a card is always named with its number.
"""

import torch


def own_device() -> str:
    """Return the device this process trains on: "cpu", or the card it has chosen, such as "cuda:1"."""
    return numbered("cuda" if torch.cuda.is_available() else "cpu")


def numbered(device: str) -> str:
    """Return the same device with the number of the card, which holds in every thread."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def choose_card(ordinal: int) -> None:
    """Take one of several cards, by this process's number among those at work on the machine."""
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(ordinal % torch.cuda.device_count())
