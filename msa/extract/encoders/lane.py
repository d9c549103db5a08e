"""To the device and back: a forward is begun here and its hidden states are fetched later, so that a GPU never waits.

On a CPU there is nothing to move and nothing to wait for. On a GPU three queues run side by side: copies to the card,
the model, copies from the card. While the model works on a batch the next one is copied and queued behind it, and the
one before comes back. What could go wrong with that, and does not:
- A copy is done in passing only from and to pinned memory; any other makes the host wait for the whole queue. PyTorch
  keeps a pinned buffer from being used again before the copies that it knows of are done.
- What one queue makes and another reads is marked (`record_stream`), or its memory could be given away too early.
- Whether a value overflowed is not asked while the queue runs, but carried back with the hidden states.

Never run on a card so far: the tests put a stand-in for `torch.cuda` under it that copies as late as a card may.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Run = Callable[[], "torch.Tensor"]


@dataclass
class Arrival:
    """The hidden states of one forward, on their way to the host.

    `fine`: known to be finite, so that this need not be checked again.
    """

    states: "torch.Tensor"  # on the host; not to be read before `wait`
    fine: bool = False
    landed: bool = True  # whether `wait` would return at once

    def wait(self) -> None:
        """Wait until they are on the host. Raises what went wrong on the device."""


class Lane:
    """Forwards on a CPU: nothing is copied."""

    def empty(self, shape: Sequence[int], dtype: "torch.dtype") -> "torch.Tensor":
        """Return memory of the host from which a copy to the device is fast."""
        import torch

        return torch.empty(tuple(shape), dtype=dtype)

    def there(self, host: "torch.Tensor") -> "torch.Tensor":
        """Return a tensor of `empty` on the device; the host must not write to it afterwards."""
        return host

    def numbers(self, values: Any, dtype: type) -> "torch.Tensor":
        """Return numbers, from lists or an array, as a tensor on the device."""
        import torch

        array: np.ndarray = np.asarray(values, dtype)
        host = torch.from_numpy(array)
        return self.there(self.empty(host.shape, host.dtype).copy_(host))

    def forward(self, run: Run, dtype: str) -> Arrival:
        """Begin `run()`, without a graph: float32 on a CPU; on a GPU as `dtype`, from fp16 autocast."""
        import torch

        with torch.inference_mode():
            return Arrival(run())


class CardLane(Lane):
    """Forwards on a GPU, with copies beside them. For one thread: the one that runs the models."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.inward, self.outward = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)

    def empty(self, shape: Sequence[int], dtype: "torch.dtype") -> "torch.Tensor":
        """Return pinned memory from PyTorch's cache, so that only the first few batches allocate it."""
        import torch

        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def there(self, host: "torch.Tensor") -> "torch.Tensor":
        """Copy a tensor to the device while the model still works on the batch before."""
        import torch

        with torch.cuda.stream(self.inward):
            device_tensor = torch.empty(host.shape, dtype=host.dtype, device=self.device)
            device_tensor.copy_(host, non_blocking=True)
        model = torch.cuda.current_stream(self.device)
        model.wait_stream(self.inward)
        device_tensor.record_stream(model)
        return device_tensor

    def forward(self, run: Run, dtype: str) -> "Landing":
        """Queue `run()` in half precision, and the way back of what it returns. In fp32 again if a value overflows."""
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.float16):  # 8 times closer than bf16
            hidden = run()
        return Landing(*self._back(hidden, dtype), again=lambda: self._again(run, dtype))

    def _again(self, run: Run, dtype: str) -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            states, _, done = self._back(run(), dtype)
        done.synchronize()
        return states

    def _back(self, hidden: "torch.Tensor", dtype: str) -> tuple["torch.Tensor", "torch.Tensor", Any]:
        """Begin the copy to the host; return hidden states, whether all are finite, and the event of their arrival."""
        import torch

        with torch.inference_mode():
            states = hidden.to(getattr(torch, dtype))  # in half the bytes of fp32
            fine = states.isfinite().all()
            self.outward.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.outward):
                hosts = []
                for tensor in (states, fine):
                    hosts.append(self.empty(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True))
                    tensor.record_stream(self.outward)
                done = torch.cuda.Event(blocking=True)  # to wait for it shall cost no core: decoders need them
                done.record(self.outward)
        return hosts[0], hosts[1], done


class Landing(Arrival):
    """Hidden states on their way from a GPU."""

    def __init__(self, states: "torch.Tensor", finite: "torch.Tensor", done: Any, again: Run) -> None:
        super().__init__(states, landed=False)
        self._finite, self._done = finite, done
        self._again: Run | None = again

    def wait(self) -> None:
        """Wait until the copy is done; what overflowed in half precision is computed again, in fp32."""
        if self.landed:
            return
        self._done.synchronize()
        self.fine = bool(self._finite)
        if not self.fine and self._again is not None:
            self.states = self._again()
        self.landed, self._again = True, None  # and with it the inputs, which lie on the card


@cache
def lane(device: str) -> Lane:
    """Return the lane of a device, one for all models on it."""
    import torch

    return CardLane(device) if torch.device(device).type == "cuda" else Lane()


@dataclass(frozen=True)
class Launched:
    """A batch under way: the forwards that were begun, and how what they return comes apart into clips.

    First `wait`, in the thread that runs the model; then `rows` or `each`, in any.
    """

    arrivals: Sequence[Arrival]
    split: Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]
    dtype: str  # of the store

    @property
    def landed(self) -> bool:
        """Whether `wait` would return at once."""
        return all(arrival.landed for arrival in self.arrivals)

    def wait(self) -> "Launched":
        """Wait until the hidden states are on the host."""
        for arrival in self.arrivals:
            arrival.wait()
        return self

    def states(self) -> list[np.ndarray]:
        """Return (T, dim) of each clip, as the device gave them; views that keep the memory of the whole batch."""
        return list(self.split([arrival.states.numpy() for arrival in self.arrivals]))

    def each(self) -> list[np.ndarray | FloatingPointError]:
        """Return (T, dim) of each clip in the dtype of the store, or why it has none."""
        return [self._stored(i, states) for i, states in enumerate(self.states())]

    def rows(self) -> list[np.ndarray]:
        """Return (T, dim) of each clip in the dtype of the store. Raises the first error."""
        each = self.wait().each()
        if error := next((states for states in each if isinstance(states, FloatingPointError)), None):
            raise error
        return [states for states in each if isinstance(states, np.ndarray)]

    def _stored(self, i: int, states: np.ndarray) -> np.ndarray | FloatingPointError:
        fine = all(arrival.fine for arrival in self.arrivals)
        return stored(i, states, self.dtype, fine)


def stored(i: int, states: np.ndarray, dtype: str, fine: bool = False) -> np.ndarray | FloatingPointError:
    """Return a copy in the dtype of the store, or the error where it is not finite.

    Args:
        i: number of the clip in its batch, for the message.
        states: (T, dim).
        dtype: of the store.
        fine: it is known to be finite.
    """
    with np.errstate(over="ignore"):  # reported below, with the number of the clip
        own = states.astype(dtype)
    if fine or np.isfinite(own).all():
        return own
    return FloatingPointError(f"clip {i} of this batch: its hidden states are not finite as {dtype}")
