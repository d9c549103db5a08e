"""Kills and poison: what an extraction loses when its processes die, and when samples are broken or deadly.

python -m benchmarks.faults [PART ...] [--kills 20] [--engine dask] [--samples 10000]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from benchmarks.extraction import made, overlap
from msa.cache.maintain.verify import verify
from msa.cache.store import FeatureStore
from msa.extract import job, pipeline
from msa.extract.pipeline import Limits
from msa.extract.recipe import Recipe
from msa.extract.scan import Scan, scan
from msa.extract.work.cluster import Cluster
from msa.types import Modality
from tests.faults import killed_models as models

ENGINES = ("serial", "pipeline", "dask")
PARTS = ("kills", "poison")
KILLS, SAMPLES, SEED = 20, 10_000, 0
CORPUS, BATCH, FLUSH_S = 240, 4, 0.2  # of the kills: 2.4 s of work, a shard every 20 samples or so
DEADLY = 5  # samples that kill their worker


def main(words: list[str] | None = None) -> None:
    """Run both trials, or the one that is named, and say what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; both")
    parser.add_argument("--kills", type=int, default=KILLS, help="shared among the engines")
    parser.add_argument("--engine", choices=ENGINES, help="kill runs of this one alone")
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments of the kills")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the poison trial, one in a hundred poisonous")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "ENGINE"), help=argparse.SUPPRESS)
    asked = parser.parse_args(words or [])
    if asked.child:
        return extract(Path(asked.child[0]), asked.child[1])
    if unknown := set(asked.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="msa-bench-") as folder:
        if "kills" in (asked.parts or PARTS):
            kills(Path(folder), asked.kills, [asked.engine] if asked.engine else ENGINES, asked.seed)
        if "poison" in (asked.parts or PARTS):
            poison(Path(folder) / "poison", asked.samples)
    return None


# kills


def kills(folder: Path, count: int, engines: Sequence[str] = ENGINES, seed: int = SEED) -> None:
    """SIGKILL at a random moment, the same command again, until the store is whole; then another store."""
    made.texts(folder / "texts", CORPUS)
    chance, whole = np.random.default_rng(seed), Trial(folder / "whole", "serial")
    whole.finish()
    shard = FLUSH_S / models.SAMPLE_S
    print(f"{count} kills; {CORPUS} samples of {models.SAMPLE_S} s, a shard every {FLUSH_S} s: {shard:.0f} samples")
    print("engine | kills | stores | bitwise equal | problems | samples done again after a kill: median, most")
    for i, engine in enumerate(engines):
        left = count // len(engines) + (i < count % len(engines))
        trials: list[Trial] = []
        again: list[int] = []
        while left:
            trial = Trial(folder / f"{engine}{len(trials)}", engine)
            killed = trial.kill(left, chance)
            left, again = left - killed, again + trial.again(killed)
            trials.append(trial)
        equal = sum(states(trial.store) == states(whole.store) for trial in trials)
        problems = [problem for trial in trials for problem in verify(FeatureStore.open(trial.store))]
        told = f"{np.median(again):.0f}, {max(again)}" if again else "none"
        print(f"{engine} | {len(again)} | {len(trials)} | {equal} | {len(problems)} | {told}", flush=True)
        for problem in problems[:3]:
            print(f"  {problem}")


class Trial:
    """A store in a folder of its own, into which processes that may be killed extract `texts` beside it."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder, self.engine, self.store, self.log = folder, engine, folder / "store", folder / "log"
        folder.mkdir()
        self.log.touch()

    def start(self) -> subprocess.Popen[bytes]:
        """A run, with its workers in a process group of its own, once it has encoded something or is over."""
        before = self.log.read_text().count("encoded")
        command = [sys.executable, "-m", "benchmarks.faults", "--child", str(self.folder), self.engine]
        child = subprocess.Popen(command, start_new_session=True)
        while child.poll() is None and self.log.read_text().count("encoded") == before:
            time.sleep(0.01)
        return child

    def kill(self, most: int, chance: np.random.Generator) -> int:
        """Run until the store is whole, killing at most so many runs at random moments; how many were killed."""
        for killed in range(most):
            child = self.start()
            try:
                assert child.wait(chance.uniform(0, CORPUS * models.SAMPLE_S)) == 0, f"the {self.engine} run failed"
                return killed  # through before its moment came
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)  # the run and its workers, as a power cut would
                child.wait()
        self.finish()
        return most

    def finish(self) -> None:
        """Run to the end."""
        assert self.start().wait() == 0, f"the {self.engine} run failed"

    def again(self, kills: int) -> list[int]:
        """Samples that were encoded and were not in the store when the next run began, for each kill.

        A negative number is what a run took for the work of another one still alive, and a later one found.
        """
        encoded, lost = 0, [0]
        for line in self.log.read_text().splitlines():
            if line == "encoded":
                encoded += 1
            else:
                lost.append(encoded - int(line.removeprefix("begun ")))
        lost[-1] = encoded - CORPUS  # with those that came along in a batch that was partly done
        assert len(lost) == kills + 2, "every run notes that it began"
        return np.diff(lost[1:]).tolist()


def extract(folder: Path, engine: str) -> None:
    """What a run does: a table beside `folder` into the store in it."""
    store, log = FeatureStore.create(folder / "store"), folder / "log"
    dataset, recipe = scan("table", folder.parent / "texts" / "made.csv"), models.Slowly.of(log)
    limits = Limits(flush_s=FLUSH_S, budget=BATCH)
    pipeline.extract(store, dataset, [recipe], "cpu", limits, models.Begun(log), job.engine(engine))


def states(path: Path) -> Mapping[str, bytes]:
    """Sample id -> bytes of its hidden states."""
    store = FeatureStore.open(path)
    index, reader = store.index("made"), store.reader(store.view("made", Modality.TEXT))
    return {index.ids[row]: reader.read(row).tobytes() for row in np.flatnonzero(reader.length >= 0).tolist()}


# poison


def poison(folder: Path, n: int) -> None:
    """Texts, pictures and recordings through a cluster of two, one in a hundred of them poisonous."""
    dataset, recipes = (
        poisoned(folder, n),
        [
            models.Fragile.around(Recipe.resolve(Modality.TEXT, "ngrams")),
            Recipe.resolve(Modality.IMAGE, "descriptors"),
            Recipe.resolve(Modality.AUDIO, "librosa"),
        ],
    )
    store, written = FeatureStore.create(folder / "store"), 0
    failed: list[tuple[str, str, str]] = []
    print(f"\n{n:,} samples through {overlap.WORKERS} workers, {n // 100} of them poisonous, {DEADLY} of these deadly")
    print("backbone | written | failed | seconds", flush=True)
    with overlap.running() as client:
        for recipe in recipes:
            engine = Cluster(client.scheduler.address)
            [report] = pipeline.extract(store, dataset, [recipe], "cpu", engine=engine)
            print(f"{report.name} | {report.written} | {len(report.failed)} | {report.seconds:.0f}", flush=True)
            written, failed = written + report.written, failed + report.failed
        with suppress(TimeoutError):  # the nanny may be bringing one back
            client.wait_for_workers(overlap.WORKERS, timeout=30)
        alive = len(client.scheduler_info()["workers"])
    deaths = sum("killed" in reason for _, _, reason in failed)
    problems = len(verify(FeatureStore.open(store.path)))
    print(
        f"{written:,} in the store, {len(failed)} records, {deaths} of them of dead workers; "
        f"{problems} problems; {alive} workers alive"
    )


def poisoned(folder: Path, n: int) -> Scan:
    """Half texts, a quarter each small pictures and short recordings; every hundredth is poisonous."""
    import soundfile
    from PIL import Image

    folder.mkdir(parents=True)
    chance = np.random.default_rng(SEED)

    def rows() -> Iterator[dict[str, str]]:
        for i in range(n):
            bad = i % 100 == 50
            if i < n // 2:
                how = (models.DEADLY if i < 100 * DEADLY else models.REFUSED) if bad else "is a lovely text"
                yield {"text": f"number {i} {how}"}
                continue
            kind, ending = ("image", "png") if i < 3 * n // 4 else ("audio", "wav")
            path = folder / f"{i}.{ending}"
            if bad:
                path.write_bytes(f"no {kind}: {i}".encode())
            elif kind == "image":
                Image.fromarray(chance.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
            else:
                soundfile.write(path, made.voice(chance.uniform(0.3, 1.0), seed=i), made.RATE)
            yield {kind: path.name}

    return made.corpus(folder, ["text", "image", "audio"], rows())


if __name__ == "__main__":
    main(sys.argv[1:])
