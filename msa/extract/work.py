"""A piece of work: some batches of one corpus through the models of some views, each into a segment of its own.

The same piece gives the same hidden states wherever it is done: in this process, or in that of a cluster's worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from msa.cache.segment import SegmentWriter
from msa.extract import media
from msa.extract.backbone import Backbone
from msa.extract.forward import Failure, Found, attempt, hidden_states
from msa.extract.recipe import Recipe
from msa.extract.stages import BEHIND, Behind, Meter, ahead
from msa.types import Modality, Raw


@dataclass(frozen=True)
class Engine:
    """How a piece is worked through; it decides the speed and nothing else."""

    threads: int | None = None  # that decode: None as many as there are cores, up to 8; 0 none, each batch in its turn
    behind: int = BEHIND  # batches that may wait for the writer; 0: each is written before the next is encoded
    timeout_s: float = 600.0  # for decoding one sample


PIPELINE = Engine()
SERIAL = Engine(threads=0, behind=0)


@dataclass(frozen=True)
class Piece:
    """Rows of an index in batches, and where their raw material lies; `todo` says what is wanted of which modality."""

    batches: Sequence[tuple[int, ...]]
    todo: Mapping[Modality, frozenset[int]]
    raws: Mapping[int, Mapping[Modality, Raw]]
    digests: Mapping[Modality, Mapping[int, bytes]]


@dataclass
class Tally:
    """What became of the samples of one view."""

    written: int = 0
    failed: list[tuple[int, str, str]] = field(default_factory=list)  # row, stage, reason
    counts: dict[str, int] = field(default_factory=dict)  # what the backbone counted: frames without a face

    def count(self, what: str, by: int) -> None:
        """Add to a count."""
        self.counts[what] = self.counts.get(what, 0) + by


@dataclass
class Station:
    """One view in a piece of work: its model and its segment."""

    recipe: Recipe
    backbone: Backbone
    writer: SegmentWriter
    todo: frozenset[int]
    digests: Mapping[int, bytes]
    budget: int = 1  # of a forward, where several views share the decoding
    tally: Tally = field(default_factory=Tally)
    waiting: list[tuple[int, Any]] = field(default_factory=list)  # rows and clips that do not fill a forward yet

    def prepared(self, clip: Any) -> Any:
        """What a decoding thread can do ahead, or the exception that kept it from doing so."""
        prepare = getattr(self.backbone, "prepare", lambda clip: clip)
        return attempt(lambda: prepare(clip))

    def gathered(self, batch: Sequence[int], clips: Sequence[Any], last: bool) -> tuple[list[int], list[Any]]:
        """What to encode now: all that waited and came, once it fills a forward or nothing more will come."""
        self.waiting += [(row, clip) for row, clip in zip(batch, clips, strict=True) if clip is not None]
        if not last and sum(self._cost(clip) for _, clip in self.waiting) < self.budget:
            return [], []
        now, self.waiting = self.waiting, []
        return [row for row, _ in now], [clip for _, clip in now]

    def _cost(self, clip: Any) -> int:
        """What a clip takes of the budget."""
        if isinstance(clip, np.ndarray) and hasattr(self.backbone, "sizes"):
            return int(self.backbone.sizes([len(clip) / media.RATE])[0])
        return 1

    def encode(self, batch: Sequence[int], clips: Sequence[Any]) -> tuple[dict[int, Found], dict[int, dict[str, int]]]:
        """Hidden states, or why there are none, of each row that has a clip, and what the model counted of it."""
        mine = [(row, clip) for row, clip in zip(batch, clips, strict=True) if clip is not None]
        if not hasattr(self.backbone, "counts"):
            return hidden_states(self.backbone, [row for row, _ in mine], [clip for _, clip in mine]), {}
        states: dict[int, Found] = {}
        counts: dict[int, dict[str, int]] = {}
        for row, clip in mine:  # one by one: what is counted is kept with the sample it is true of
            states |= hidden_states(self.backbone, [row], [clip])
            counts[row] = self.backbone.counts()
        return states, counts

    def write(self, states: Mapping[int, Found], counts: Mapping[int, Mapping[str, int]]) -> tuple[int, int]:
        """Write hidden states, or the record of why there are none; how many were written, how many failed."""
        before = self.tally.written, len(self.tally.failed)
        for row in sorted(self.todo.intersection(states)):
            found, of_row = states[row], counts.get(row, {})
            for what, by in of_row.items():
                self.tally.count(what, by)
            if isinstance(found, Failure):
                self.writer.fail(row, self.digests[row], found.stage, found.reason, of_row)
                self.tally.failed.append((row, found.stage, found.reason))
            else:
                self.writer.write(row, self.digests[row], found, of_row)
                self.tally.written += 1
        return self.tally.written - before[0], len(self.tally.failed) - before[1]


Watch = Callable[[Modality, Sequence[int], int, int], None]  # modality, rows, written, failed


def work_through(
    piece: Piece, stations: Mapping[Modality, Station], engine: Engine, meter: Meter, watch: Watch
) -> None:
    """Decode, forward, write. `watch` is told of every batch that is with the writer; what it raises ends the work."""
    alone = len(stations) == 1  # then the plan's batches are those of the forward

    with Behind(meter, engine.behind) as behind:

        def settle(modality: Modality, batch: Sequence[int], clips: Sequence[Any], last: bool = False) -> None:
            station = stations[modality]
            rows, ready = (batch, clips) if alone else station.gathered(batch, clips, last)
            if len(rows):
                with meter.forwarding():
                    found = station.encode(rows, ready)
                behind.do(lambda: watch(modality, list(found[0]), *station.write(*found)))

        for batch, clips in ahead(_decoder(piece, stations), piece.batches, meter, engine.timeout_s, engine.threads):
            for modality in stations:
                settle(modality, batch, [c if isinstance(c, Exception) else c.get(modality) for c in clips])
        for modality in stations:
            settle(modality, [], [], last=True)


def _decoder(piece: Piece, stations: Mapping[Modality, Station]) -> Callable[[int], dict[Modality, Any]]:
    """Row -> what is wanted of it, by modality: a clip, or the exception that kept it from being one."""
    sampling = stations[Modality.FACE].recipe.sampling if Modality.FACE in stations else media.FRAMES
    together = len(stations) > 1  # else batch mates come along, so that a resumed run meets the same shapes

    def decode(row: int) -> dict[Modality, Any]:
        wanted = {m: s for m, s in stations.items() if m in piece.raws[row] and (row in s.todo or not together)}
        found = media.clips({m: piece.raws[row][m] for m in wanted}, sampling)
        return {m: clip if isinstance(clip, Exception) else wanted[m].prepared(clip) for m, clip in found.items()}

    return decode
