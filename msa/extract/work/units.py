"""A piece of work: some batches of one corpus through the models of some views, each into a segment of its own.

The same piece gives the same hidden states wherever it is done: in this process, or in that of a cluster's worker.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from msa.cache.write.segment import SegmentWriter
from msa.extract.backbone import Backbone
from msa.extract.media import decode as media
from msa.extract.recipe import Recipe
from msa.extract.work.crash_journal import Note
from msa.extract.work.forward import Failure, Flight, Found, attempt, hidden_states, launch
from msa.extract.work.stages import BEHIND, Behind, Meter, ahead
from msa.types import Modality, Raw


@dataclass(frozen=True)
class Engine:
    """How a piece is worked through; it decides the speed and nothing else."""

    threads: int | None = None  # that decode: None as many as there are cores, up to 8; 0 none, each batch in its turn
    behind: int = BEHIND  # batches that may wait for the writer; 0: each is written before the next is encoded
    timeout_s: float = 600.0  # for decoding one sample
    aloft: int = 1  # batches still on the GPU while the next one is begun


PIPELINE = Engine()
SERIAL = Engine(threads=0, behind=0, aloft=0)


@dataclass(frozen=True)
class Piece:
    """Rows of an index in batches, and where their raw material lies; `todo` says what is wanted of which modality."""

    batches: Sequence[tuple[int, ...]]
    todo: Mapping[Modality, frozenset[int]]
    raws: Mapping[int, Mapping[Modality, Raw]]
    digests: Mapping[Modality, Mapping[int, bytes]]
    bounds: media.Bounds = media.BOUNDS  # of one sample's decoding

    def divided(self, suspects: Collection[int]) -> tuple["Piece", "Piece"]:
        """The batches that no suspect has a part in, and the others. A row that nothing is wanted of is none."""
        feared = {row for todo in self.todo.values() for row in todo.intersection(suspects)}
        apart = [batch for batch in self.batches if not feared.isdisjoint(batch)]
        return replace(self, batches=[b for b in self.batches if feared.isdisjoint(b)]), replace(self, batches=apart)


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
    note: Note  # of what is at work
    budget: int = 1  # of a forward, where several views share the decoding
    tally: Tally = field(default_factory=Tally)
    waiting: list[tuple[int, Any]] = field(default_factory=list)  # rows and clips that do not fill a forward yet

    def gathered(self, batch: Sequence[int], clips: Sequence[Any], last: bool) -> tuple[list[int], list[Any]]:
        """What to encode now: what waited, once it fills a forward or has no room for what came; at last, all."""
        came = [(row, clip) for row, clip in zip(batch, clips, strict=True) if clip is not None]
        together = self.waiting + came
        cost = self._cost([clip for _, clip in together])
        if self.waiting and came and cost > self.budget:
            now, self.waiting = self.waiting, came
        elif last or cost >= self.budget:
            now, self.waiting = together, []
        else:
            now, self.waiting = [], together
        return [row for row, _ in now], [clip for _, clip in now]

    def _cost(self, clips: Sequence[Any]) -> int:
        """What a forward of these clips, as they came or as they were prepared, takes of the budget."""
        lengths = [len(clip) / media.RATE for clip in clips if hasattr(clip, "__len__")]
        if not lengths or self.backbone.sizes is None:
            return len(clips)
        sizes = self.backbone.sizes(lengths)
        padded = self.backbone.batching == "padded"
        return int(len(sizes) * max(sizes) if padded else sum(sizes))

    def launch(self, batch: Sequence[int], clips: Sequence[Any]) -> tuple[Flight, dict[int, dict[str, int]]]:
        """Begin the forward of each row that has a clip; and what the model counted of it, where it counts."""
        mine = [(row, clip) for row, clip in zip(batch, clips, strict=True) if clip is not None]
        rows, own = [row for row, _ in mine], [clip for _, clip in mine]
        if self.backbone.counts is not None:
            states, counts = encoded(self.backbone, rows, own)
            return Flight(done=states), counts
        return launch(self.backbone, rows, own), {}

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
        self.note.settle(states)
        return self.tally.written - before[0], len(self.tally.failed) - before[1]


Watch = Callable[[Modality, Sequence[int], int, int], None]  # modality, rows, written, failed
Counts = dict[int, dict[str, int]]  # of each row


def work_through(
    piece: Piece, stations: Mapping[Modality, Station], engine: Engine, meter: Meter, watch: Watch
) -> None:
    """Decode, forward, write. `watch` is told of every batch that is with the writer; what it raises ends the work."""
    alone = len(stations) == 1  # then the plan's batches are those of the forward

    def wanted(modality: Modality, row: int) -> bool:
        return alone or row in stations[modality].todo  # batch mates come along: a resumed run meets the same shapes

    def noted() -> Iterator[tuple[int, ...]]:
        for batch in piece.batches:
            for station in stations.values():
                station.note.begin(station.todo.intersection(batch))
            yield batch

    decode = decoder(piece.raws, {m: (s.recipe, s.backbone) for m, s in stations.items()}, wanted, piece.bounds)
    flying: deque[tuple[Modality, Flight, Counts]] = deque()
    with Behind(meter, engine.behind) as behind:

        def land(aloft: int) -> None:
            """Hand over what has arrived; wait for it where more than `aloft` batches are under way."""
            while flying and (flying[0][1].landed or len(flying) > aloft):
                modality, flight, counts = flying.popleft()
                with meter.forwarding():
                    flight.land()
                behind.do(partial(hand_over, modality, flight, counts))

        def hand_over(modality: Modality, flight: Flight, counts: Counts) -> None:
            states = flight.found()
            watch(modality, list(states), *stations[modality].write(states, counts))

        def settle(modality: Modality, batch: Sequence[int], clips: Sequence[Any], last: bool = False) -> None:
            station = stations[modality]
            rows, ready = (batch, clips) if alone else station.gathered(batch, clips, last)
            if len(rows):
                with meter.forwarding():
                    flying.append((modality, *station.launch(rows, ready)))
                land(engine.aloft)

        with closing(ahead(decode, noted(), meter, engine.timeout_s, engine.threads)) as decoded:
            for batch, clips in decoded:
                for modality in stations:
                    settle(modality, batch, [c if isinstance(c, Exception) else c.get(modality) for c in clips])
        for modality in stations:
            settle(modality, [], [], last=True)
        land(0)


def decoder(
    raws: Mapping[int, Mapping[Modality, Raw]],
    models: Mapping[Modality, tuple[Recipe, Backbone]],
    wanted: Callable[[Modality, int], bool] = lambda modality, row: True,
    bounds: media.Bounds = media.BOUNDS,
) -> Callable[[int], dict[Modality, Any]]:
    """Row -> what is wanted of it, by modality: a clip, or the exception that kept it from being one.

    Clips are prepared as far as a decoding thread can do that for the model.
    """
    sampling = models[Modality.FACE][0].sampling if Modality.FACE in models else media.FRAMES

    def prepared(backbone: Backbone, clip: Any) -> Any:
        return clip if isinstance(clip, Exception) else attempt(lambda: backbone.prepare(clip))

    def decode(row: int) -> dict[Modality, Any]:
        due = {m: raw for m, raw in raws[row].items() if m in models and wanted(m, row)}
        found = media.clips(due, sampling, bounds)
        return {m: prepared(models[m][1], clip) for m, clip in found.items()}

    return decode


def encoded(backbone: Backbone, batch: Sequence[int], clips: Sequence[Any]) -> tuple[dict[int, Found], Counts]:
    """Hidden states, or why there are none, of each row, and what the model counted of it."""
    if backbone.counts is None:
        return hidden_states(backbone, list(batch), clips), {}
    states: dict[int, Found] = {}
    counts: Counts = {}
    for row, clip in zip(batch, clips, strict=True):  # one by one: what is counted is kept with its sample
        states |= hidden_states(backbone, [row], [clip])
        counts[row] = backbone.counts()
    return states, counts
