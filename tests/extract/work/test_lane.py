"""The way to a GPU and back, over a stand-in for one: nothing is read too early, given away too soon or waited for."""

import random
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msa.cache.store import FeatureStore
from msa.errors import BackboneError
from msa.extract import pipeline
from msa.extract.backbone import Backbone, BackboneSpec, Weights
from msa.extract.encoders.lane import Arrival, CardLane, Launched
from msa.extract.pipeline import PIPELINE, SERIAL
from msa.extract.recipe import Recipe
from msa.extract.scan import scan
from msa.extract.work.forward import hidden_states
from msa.types import Modality
from tests.extract import corpus
from tests.extract.backbones.test_backbones import far, folders, one_thread, pictures, timm_spec  # noqa: F401
from tests.extract.encoders import test_packed, test_speech
from tests.faults.fake_card import GIVEN_AWAY, Card

FP16 = 5e-3  # how far, relative, hidden states may be from those in fp32


@pytest.fixture
def card(monkeypatch) -> Card:
    return Card(monkeypatch)


def bert():
    return test_packed.encoder(test_packed.network("bert")), [f"{'a b c d e f g h ' * n} z" for n in (1, 9, 2, 16, 3)]


def mpnet():
    """Padded, not packed."""
    return test_packed.encoder(test_packed.network("mpnet")), ["a b c", "d", "e f g h i j"]


def wav2vec2(tmp_path):
    folder = test_speech.made(tmp_path / "w", *test_speech.FAMILIES["wav2vec2-base"])
    noise = np.random.default_rng(0)
    return test_speech.loaded(folder), [noise.standard_normal(n).astype(np.float32) for n in (5000, 400, 9000, 720)]


def resnet(folders):  # noqa: F811
    from msa.extract.encoders import image
    from msa.extract.weights import resolve

    spec = timm_spec(folders["test_resnet"], "test_resnet")
    return image.load(spec, resolve(spec), "cpu"), pictures()


@pytest.fixture(params=["bert", "mpnet", "wav2vec2", "resnet"])
def encoder_and_clips(request, folders, tmp_path):  # noqa: F811
    return {
        "bert": bert,
        "mpnet": mpnet,
        "wav2vec2": lambda: wav2vec2(tmp_path),
        "resnet": lambda: resnet(folders),
    }[request.param]()


def test_batches_under_way_together_give_each_clip_what_it_has_alone(encoder_and_clips, monkeypatch):
    encoder, clips = encoder_and_clips
    alone = [encoder.encode([clip])[0] for clip in clips]
    card = Card(monkeypatch)
    order = random.Random(0).sample(range(len(clips)), len(clips))
    halves = [order[::2], order[1::2]]
    under_way = [encoder.launch([clips[i] for i in half]) for half in halves]
    assert card.log == []  # the second was begun before the first was waited for
    assert not any(launched.landed for launched in under_way)
    for half, launched in zip(halves, under_way, strict=True):
        for i, states in zip(half, launched.rows(), strict=True):
            assert states.dtype == encoder.dtype
            assert far(states, alone[i]) <= FP16
        assert launched.landed
    assert card.unmarked == 0


def test_memory_that_is_not_kept_until_it_was_copied_is_noticed(card, monkeypatch):
    """Else the test above would show nothing."""
    encoder, clips = bert()
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, queue: None)
    card.sent.clear()
    launched = encoder.launch(clips)
    assert card.unmarked == len(card.sent) == 2  # token numbers and positions
    with pytest.raises(AssertionError, match=GIVEN_AWAY):
        launched.wait()


def test_what_is_read_before_it_has_arrived_is_something_else(card):
    encoder, clips = bert()
    launched = encoder.launch(clips)
    early = [states.copy() for states in launched.states()]
    assert far(early[0], launched.rows()[0]) > 0.1


def test_results_travel_in_the_dtype_of_the_store(card):
    encoder, clips = bert()
    encoder.dtype = "float16"
    launched = encoder.launch(clips)
    assert [arrival.states.dtype for arrival in launched.arrivals] == [torch.float16]
    [states, *_] = launched.rows()
    assert states.base is None  # and not a view that keeps the pinned memory of the whole batch


def test_pictures_travel_as_bytes(card, folders):  # noqa: F811
    encoder, clips = resnet(folders)
    card.sent.clear()
    encoder.launch(clips)
    assert [(there.dtype, tuple(there.shape)) for there in card.sent] == [(torch.uint8, (4, 160, 160, 3))]


class Once(torch.nn.Module):
    """1e6 in fp16's place, 2.0 in fp32: what overflows under autocast alone."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bool] = []

    def __call__(self) -> torch.Tensor:
        half = torch.is_autocast_enabled("cpu")
        self.calls.append(half)
        return torch.tensor([[torch.inf if half else 2.0]])


def test_what_overflows_in_half_precision_is_taken_again_in_fp32_when_it_is_waited_for(card):
    run = Once()
    launched = Launched([card.lane.forward(run, "float16")], lambda hidden: hidden, "float16")
    assert run.calls == [True]
    assert launched.rows()[0].tolist() == [[2.0]]
    assert launched.wait().rows()[0].tolist() == [[2.0]]
    assert run.calls == [True, False]


def test_what_is_not_finite_in_fp32_either_names_its_clip(card):
    def run() -> torch.Tensor:
        return torch.tensor([[1.0], [torch.nan], [3.0]])

    launched = Launched([card.lane.forward(run, "float16")], lambda hidden: hidden[0], "float16")
    one, two, three = launched.wait().each()
    assert (one.item(), three.item()) == (1, 3)
    assert isinstance(two, FloatingPointError)
    with pytest.raises(FloatingPointError, match="clip 1 of this batch"):
        launched.rows()


class NoQuestions(TorchDispatchMode):
    """Fails where the host would have to know a number that the device computes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        asks = name in ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal")
        asks |= name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        asks |= name == "lift_fresh" and torch.is_inference_mode_enabled()  # numbers of the host in the model's midst
        assert not asks, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["bert", "wav2vec2", "hubert", "wavlm", "resnet"])
def test_nothing_is_asked_of_the_device_until_its_results_are_wanted(kind, folders, tmp_path, monkeypatch):  # noqa: F811
    if kind == "bert":
        encoder, clips = bert()
    elif kind == "resnet":
        encoder, clips = resnet(folders)
    else:
        encoder = test_speech.loaded(test_speech.made(tmp_path / "w", *test_speech.FAMILIES[f"{kind}-base"]))
        clips = [np.ones(n, np.float32) for n in (5000, 400, 900)]
    Card(monkeypatch)
    with NoQuestions():
        launched = encoder.launch(clips)
    assert len(launched.rows()) == len(clips)


def test_the_stand_in_notices_a_question():
    with pytest.raises(AssertionError, match="waits for the device"), NoQuestions():
        bool(torch.ones(2).all())


def test_a_lane_is_a_card_s_for_a_gpu_alone():
    assert not isinstance(test_packed.packed.lane("cpu"), CardLane)


class Short(Backbone):
    """A backbone on a card that has room for two clips, at first or when its results are waited for."""

    def __init__(self, where: str, error: Exception) -> None:
        self.where, self.error = where, error
        self.held: list[weakref.ref] = []
        self.held_when_tried_again: list[bool] = []

    def _forward(self, clips: list[str], where: str) -> list[np.ndarray]:
        self.held_when_tried_again += [ref() is not None for ref in self.held]
        if where == self.where and len(clips) > 2:
            activations = np.zeros(9)  # which the traceback of the error keeps
            self.held.append(weakref.ref(activations))
            raise self.error
        return [np.full((1, 2), len(clip)) for clip in clips]

    def launch(self, clips: list[str]) -> Launched:
        self._forward(clips, "launch")
        arrival = Arrival(torch.zeros(0), fine=True, landed=False)
        arrival.wait = lambda: self._forward(clips, "wait")
        return Launched([arrival], lambda _: [np.full((1, 2), len(clip)) for clip in clips], "float16")

    def encode(self, clips: list[str]) -> list[np.ndarray]:
        return self.launch(clips).rows()


@pytest.mark.parametrize("where", ["launch", "wait"])
@pytest.mark.parametrize("words", ["CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"])
def test_a_batch_without_room_is_taken_in_halves_when_its_memory_is_free(where, words):
    short = Short(where, RuntimeError(words))
    found = hidden_states(short, range(7), ["a", "bb", "ccc", "d", "ee", "fff", "g"])
    assert [found[i][0, 0] for i in range(7)] == [1, 2, 3, 1, 2, 3, 1]
    assert short.held and not any(short.held_when_tried_again)


def test_a_clip_alone_without_room_is_tried_once_more():
    class Crowded(Short):
        def _forward(self, clips, where):
            if where == "launch":
                self.held.append(len(clips))
                if len(self.held) == 1:
                    raise self.error
            return [np.ones((1, 2))]

    crowded = Crowded("launch", torch.OutOfMemoryError("CUDA out of memory"))
    assert hidden_states(crowded, [3], ["a"])[3].shape == (1, 2)
    assert crowded.held == [1, 1]


@pytest.mark.parametrize("where", ["launch", "wait"])
def test_a_card_that_is_lost_ends_the_run_and_is_no_clip_s_fault(where):
    lost = Short(where, RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"))
    with pytest.raises(BackboneError, match="gave up in a batch of 4: CUDA error: an illegal memory access") as told:
        hidden_states(lost, range(4), list("abcd"))
    assert "what was extracted is kept" in told.value.fix


@dataclass(frozen=True)
class Slow(Recipe, Backbone):
    """A backbone whose batches are under way until they are waited for; `log` tells in which order that happens."""

    log: list[str] = field(default_factory=list)

    def load(self, device: str) -> "Slow":
        return self

    dim, budget, versions = 2, 4, {}

    def launch(self, clips: list[str]) -> Launched:
        number = sum(word.startswith("launch") for word in self.log)
        self.log.append(f"launch {number}")
        arrival = Arrival(torch.zeros(0), fine=True, landed=False)

        def wait() -> None:
            self.log.append(f"wait {number}")
            arrival.landed = True

        arrival.wait = wait
        return Launched([arrival], lambda _: [np.full((1, 2), len(clip)) for clip in clips], "float16")

    def encode(self, clips: list[str]) -> list[np.ndarray]:
        return self.launch(clips).rows()


@pytest.mark.parametrize(
    ("engine", "order"),
    [
        (PIPELINE, "launch 0, launch 1, wait 0, launch 2, wait 1, wait 2"),
        (SERIAL, "launch 0, wait 0, launch 1, wait 1, launch 2, wait 2"),
    ],
)
def test_the_next_batch_is_begun_before_the_one_before_is_waited_for(tmp_path, engine, order):
    recipe = Slow("slow", "slow", BackboneSpec(Modality.TEXT), Weights(None, None, "0" * 64))
    store, found = FeatureStore.create(tmp_path / "store"), scan("table", corpus.write(tmp_path / "corpus", 10))
    [report] = pipeline.extract(store, found, [recipe], "cpu", engine=engine)
    assert (report.written, report.failed) == (10, [])
    assert ", ".join(recipe.log) == order
    reader = store.reader(store.view("posts", Modality.TEXT))
    assert [reader.read(row)[0, 0] for row in range(10)] == [len(text) for text in found.index.text]


def test_failures_of_one_batch_leave_the_others_under_way(card):
    encoder, clips = bert()
    alone = encoder.encode(clips)
    found = hidden_states(encoder, [7, 8], [clips[0], ValueError("no text")])
    assert far(found[7], alone[0]) <= FP16
    assert found[8].stage == "decode"
