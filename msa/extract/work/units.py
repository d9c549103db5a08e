"""Work units: some batches of one dataset through the models of some views, each into a segment of its own.

The same unit gives the same hidden states wherever it is done: in this process, or in a worker of a cluster.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from msa.cache.write.segment import SegmentWriter
from msa.extract.backbone import Backbone
from msa.extract.media import decode as media
from msa.extract.recipe import Recipe
from msa.extract.work.crash_journal import CrashJournal
from msa.extract.work.forward import Encoded, Failure
from msa.types import Modality, Raw

Watch = Callable[[Modality, Sequence[int], int, int], None]  # modality, rows, written, failed


@dataclass(frozen=True)
class WorkUnit:
    """Rows of a dataset's index in batches, and where their raw material lies.

    A batch is decoded and encoded whole for each view that lacks one of its rows, and only those rows are written: the
    shape of a batch decides the last bits of its hidden states, and so a resumed run meets the same shapes.
    """

    batches: Sequence[tuple[int, ...]]
    raws: Mapping[int, Mapping[Modality, Raw]]  # row -> what of it is decoded
    todo: Mapping[Modality, Mapping[int, bytes]]  # row -> digest of its raw material, of the rows that are written
    bounds: media.Bounds = media.BOUNDS  # of one sample's decoding

    def only(self, batches: Sequence[tuple[int, ...]]) -> "WorkUnit":
        """Return the unit of some of the batches."""
        rows = {row for batch in batches for row in batch}
        raws = {row: self.raws[row] for row in sorted(rows)}
        todo = {m: {row: digest for row, digest in todo.items() if row in rows} for m, todo in self.todo.items()}
        return replace(self, batches=batches, raws=raws, todo=todo)

    def split(self, suspects: Collection[int]) -> tuple["WorkUnit", "WorkUnit"]:
        """Return the unit of the batches without a suspect that is to be written, and the unit of the others."""
        suspected = {row for todo in self.todo.values() for row in todo if row in suspects}
        safe = [batch for batch in self.batches if suspected.isdisjoint(batch)]
        return self.only(safe), self.only([batch for batch in self.batches if not suspected.isdisjoint(batch)])


@dataclass
class Counters:
    """What became of the samples of one view."""

    written: int = 0
    failed: list[tuple[int, str, str]] = field(default_factory=list)  # row, stage, reason
    counts: Counter[str] = field(default_factory=Counter)  # what the backbone counted: frames without a face


@dataclass
class ViewJob:
    """One view in a work unit: its model, its segment, and the rows that are written to it."""

    recipe: Recipe
    backbone: Backbone
    writer: SegmentWriter
    todo: Mapping[int, bytes]  # row -> digest of its raw material
    journal: CrashJournal
    counters: Counters = field(default_factory=Counters)

    def write(self, batch: Mapping[int, Encoded]) -> tuple[int, int]:
        """Write hidden states and failure records; return how many samples were written and how many failed."""
        written, failed = 0, 0
        for row in sorted(self.todo.keys() & batch.keys()):
            states, counts = batch[row].states, batch[row].counts
            self.counters.counts.update(counts)
            if isinstance(states, Failure):
                self.writer.fail(row, self.todo[row], states.stage, states.reason, counts)
                self.counters.failed.append((row, states.stage, states.reason))
                failed += 1
            else:
                self.writer.write(row, self.todo[row], states, counts)
                self.counters.written += 1
                written += 1
        self.journal.finish(batch)
        return written, failed
