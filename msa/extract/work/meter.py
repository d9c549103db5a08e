"""What limits the speed of an extraction: the model, decoding or writing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIMITS = {"forward": "the model", "decode": "decoding", "write": "writing"}  # as reports name them -> in words


@dataclass
class Meter:
    """Seconds the model worked, and seconds it waited for decoded clips and for the writer."""

    forward: float = 0.0
    decode_wait: float = 0.0
    write_wait: float = 0.0
    decoded_ahead: int = 0  # batches that wait for the model
    to_write: int = 0  # batches that wait for the writer

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Count the block as work of the model."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.forward += time.monotonic() - began

    @property
    def share(self) -> float:
        """Share of its peak throughput that the model reached, 0 to 1."""
        whole = self.forward + self.decode_wait + self.write_wait
        return self.forward / whole if whole else 1.0

    @property
    def bound(self) -> str:
        """What limits the speed: forward, decode or write."""
        seconds = {"forward": self.forward, "decode": self.decode_wait, "write": self.write_wait}
        return max(seconds, key=lambda name: seconds[name])

    def __str__(self) -> str:
        """Return one line for a progress bar."""
        return f"limited by {LIMITS[self.bound]}, {self.decoded_ahead} decoded ahead, {self.to_write} to write"
