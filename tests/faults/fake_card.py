"""A stand-in for a GPU's queues, on a CPU: copies are done as late as a card may, and memory is given away at once.

What a card would let pass most of the time, and spoil now and then, is an error here every time.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from msa.extract.encoders import image, packed, speech, text
from msa.extract.encoders.lane import CardLane

GIVEN_AWAY = "memory of the card was given away before it was copied"


class Queue:
    """A stream. The model's does everything at once; a side stream does its copies when it is waited for."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log
        self.waiting: list[Callable[[], None]] = []

    def wait_stream(self, other: "Queue") -> None:
        if self.name == "model":
            other.finish(len(other.waiting))

    def finish(self, count: int) -> None:
        now, self.waiting = self.waiting[:count], self.waiting[count:]
        with torch.inference_mode():
            for work in now:
                work()


class Mark:
    """An event."""

    def __init__(self, blocking: bool) -> None:
        assert blocking, "a host that waits shall not spin"

    def record(self, queue: Queue) -> None:
        self.queue, self.passed = queue, False
        queue.waiting.append(self._pass)

    def _pass(self) -> None:
        self.passed = True

    def synchronize(self) -> None:
        self.queue.log.append("wait")
        if not self.passed:
            self.queue.finish(self.queue.waiting.index(self._pass) + 1)


class Card:
    """Puts itself in the place of `torch.cuda` and of every encoder's `lane`; `log` tells when the host waited."""

    def __init__(self, monkeypatch: Any) -> None:
        self.log: list[str] = []
        self.model = self.current = Queue("model", self.log)
        self.sides = iter([Queue("inward", self.log), Queue("outward", self.log)])
        self.pinned: dict[int, torch.Tensor] = {}  # by id
        self.recorded: dict[int, set[str]] = {}  # id of a tensor -> the queues its memory is kept for
        self.kept: list[torch.Tensor] = []  # so that no id is given twice
        self.sent: list[torch.Tensor] = []  # to the card
        copy_ = torch.Tensor.copy_

        def late(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
            if not non_blocking:
                return copy_(to, source)
            assert id(to) in self.pinned or id(source) in self.pinned, "the host would wait: no memory here is pinned"
            assert self.current is not self.model, "the model would wait for the copy"
            to.fill_(1)  # what lay there before
            self.current.waiting.append(self._copying(to, source, copy_))
            return to

        monkeypatch.setattr(torch.Tensor, "copy_", late)
        monkeypatch.setattr(torch.Tensor, "record_stream", self._record)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(self.sides))
        monkeypatch.setattr(torch.cuda, "Event", Mark)
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        self.lane = CardLane("cpu")
        monkeypatch.setattr(self.lane, "empty", self._empty)
        for module in (image, packed, speech, text):
            monkeypatch.setattr(module, "lane", lambda device: self.lane)

    @contextmanager
    def _entered(self, queue: Queue) -> Iterator[None]:
        before, self.current = self.current, queue
        yield
        self.current = before

    def _empty(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        host = torch.empty(tuple(shape), dtype=dtype)
        self.pinned[id(host)] = host
        return host

    @property
    def _record(self) -> Callable[[torch.Tensor, Queue], None]:
        def record(tensor: torch.Tensor, queue: Queue) -> None:
            self.kept.append(tensor)
            self.recorded.setdefault(id(tensor), set()).add(queue.name)

        return record

    def _copying(self, to: torch.Tensor, source: torch.Tensor, copy_: Any) -> Callable[[], None]:
        """PyTorch keeps pinned memory until its copies are done, and the card's own for the queues it was told of."""
        host = self.pinned.get(id(source))
        there, name = weakref.ref(source), self.current.name
        if host is not None:
            self.sent.append(to)

        def work() -> None:
            now = there() if host is None else host
            assert now is not None and (host is not None or name in self.recorded.get(id(now), ())), GIVEN_AWAY
            copy_(to, now)

        return work

    @property
    def unmarked(self) -> int:
        """How many tensors were sent to the card whose memory is not kept until the model has read them."""
        return sum("model" not in self.recorded.get(id(there), ()) for there in self.sent)
