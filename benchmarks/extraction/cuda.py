"""The targets on a GPU: models of real size with random weights, beside the card's own dense matrix product.

Operations are counted from the architectures: 0.170 GFLOP a token of BERT-base, 13.7 a second of sound of
wav2vec2-base, 10.7 a picture of ResNeSt-50d (224 px); a multiplication and an addition are two.

The bare forward is the best that the card does with clips that are decoded: each batch is begun while the one before is
at work. Beside it stands what it does when every batch is waited for.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.extraction import made, sound, text
from benchmarks.extraction.measure import Row, in_turns
from msa.cache.store import FeatureStore
from msa.extract import pipeline
from msa.extract.media import decode
from msa.extract.scan import Scan
from msa.types import Modality

MEMORY_GB = 11  # at default budgets: a card of 12 GB
SIDE = 8192  # of the matrices whose product is the peak


@dataclass(frozen=True)
class Subject:
    """A model on a GPU, a corpus for it, and what its forward costs."""

    name: str
    modality: Modality
    model: Any
    dataset: Scan
    unit: str
    units: float  # in the corpus
    gflop: float  # of a unit


def rows(folder: Path, quick: bool, device: str = "cuda") -> list[Row]:
    """Every model: samples a second, share of the dense peak, the whole pipeline, memory."""
    import torch

    top = peak(device, SIDE if device == "cuda" else SIDE // 32)
    name = torch.cuda.get_device_name() if device == "cuda" else "no card, a rehearsal"
    print(f"{name}: {top:,.0f} TFLOP/s in a dense fp16 product of {SIDE} x {SIDE}", flush=True)
    table = []
    for subject in (texts, recordings, pictures):
        table += measured(subject(folder / subject.__name__, 1 if quick else 10, device), folder, top, device)
    return table


def measured(subject: Subject, folder: Path, top: float, device: str = "cuda") -> list[Row]:
    """The rows of one model. The bare forward takes clips that are decoded already, in the batches of the pipeline."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    recipe = made.Loaded.of(subject.modality, subject.name, subject.model)
    raws = [raw[subject.modality] for raw in subject.dataset.raws]
    prepare: Callable[[Any], Any] = getattr(subject.model, "prepare", lambda clip: clip)
    clips = [prepare(decode.clip(subject.modality, raw)) for raw in raws]
    store = FeatureStore.create(folder / f"{subject.name}-store")
    run = pipeline.ViewRun(store, subject.dataset, recipe, store.add_index(subject.dataset.index), pipeline.Limits())
    with run.loaded(device):
        batches = [[clips[i] for i in batch] for batch in pipeline.plan_of([run]).batches]

    def bare() -> None:
        before = subject.model.launch([])
        for batch in batches:
            launched = subject.model.launch(batch)
            before.wait()
            before = launched
        before.wait()

    def in_turn() -> None:
        for batch in batches:
            subject.model.launch(batch).wait()

    bare()  # kernels are chosen
    taken = in_turns({"bare": bare, "in turn": in_turn}, 3)
    alone = taken["bare"]
    memory = torch.cuda.max_memory_allocated() / 1e9
    began = time.perf_counter()
    [report] = pipeline.extract(store, subject.dataset, [recipe], device)
    whole = time.perf_counter() - began
    assert report.written == len(clips), report.failed[:1]

    flops = subject.units * subject.gflop / alone / 1e3
    rate, name = f"{len(clips) / alone:,.0f} samples/s", subject.name
    told = f"{rate}, {subject.units / alone:,.0f} {subject.unit}/s"
    return [
        Row(f"{name}, bare forward", told, f"{flops:,.1f} of {top:,.1f} TFLOP/s", f"{flops / top:.2f}"),
        Row.of_rates(
            f"{name}, one ahead", len(clips) / alone, len(clips) / taken["in turn"], None, "samples/s", "in turn"
        ),
        Row.of_rates(
            f"{name}, pipeline", len(clips) / whole, len(clips) / alone, 0.90, "samples/s", "the bare forward"
        ),
        Row(f"{name}, pipeline bound by", report.bound, f"{report.share:.2f} of the loop in the forward"),
        Row(f"{name}, peak memory", f"{memory:.1f} GB", f"{MEMORY_GB} GB", "", f"<= {MEMORY_GB}", memory <= MEMORY_GB),
    ]


def peak(device: str, side: int = SIDE) -> float:
    """TFLOP/s of a large product in half precision, the best of several."""
    import torch

    a, b = (torch.randn(side, side, device=device).half() for _ in range(2))

    def product() -> None:
        for _ in range(20):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()

    product()
    return 20 * 2 * side**3 / min(seconds(product) for _ in range(5)) / 1e12


def seconds(work: Callable[[], object]) -> float:
    """Wall time."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# subjects


def texts(folder: Path, size: int, device: str) -> Subject:
    """BERT-base over texts as long as tweets, packed; their words are token numbers."""
    packed, _ = text.encoders(device)
    sizes = made.spread(7000 * size)
    words = (" ".join(map(str, own)) for own in text.numbers(sizes))
    dataset = made.corpus(folder, ["text"], ({"text": own} for own in words))
    return Subject("BERT-base", Modality.TEXT, packed, dataset, "tokens", sum(sizes), 0.170)


def recordings(folder: Path, size: int, device: str) -> Subject:
    """wav2vec2-base over clips of 1 to 15 s, in exact padded batches."""
    lengths = np.random.default_rng(0).uniform(1, 15, 120 * size)
    model = sound.encoder(sound.network(device=device), padded=True, device=device, dtype="float16")
    dataset = made.recordings(folder, lengths.tolist())
    return Subject("wav2vec2-base", Modality.AUDIO, model, dataset, "audio s", float(lengths.sum()), 13.7)


def pictures(folder: Path, size: int, device: str) -> Subject:
    """ResNeSt-50d over JPEGs of 500 x 700."""
    dataset = made.pictures(folder, 500 * size)
    return Subject("ResNeSt-50d", Modality.IMAGE, network(device), dataset, "pictures", 500.0 * size, 10.7)


def network(device: str, name: str = "resnest50d") -> Any:
    """A timm model with random weights and the preparation its own weights would want."""
    import timm
    import torch
    from timm.data import create_transform, resolve_model_data_config

    from msa.extract.encoders.image import ImageEncoder

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
    config = resolve_model_data_config(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    transform, width = create_transform(**config, is_training=False, normalize=False), model.num_features
    return ImageEncoder(model, transform, config, "grid", device, "float16", width, versions={})
