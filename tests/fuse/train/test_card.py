"""Stage 2 on a card, without one: tensors that only pretend to be there, and stand-ins for PyTorch's cards."""

import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from msa import catalog, device
from msa.errors import ConfigError
from msa.fuse import files
from msa.fuse.data import loader, memory
from msa.fuse.data.loader import Flat, Source, Stored
from msa.fuse.data.table import Normalisation
from msa.fuse.experiments import workers as parallel
from msa.fuse.heads import hcl
from msa.fuse.train import checkpoint
from msa.fuse.train.loop import Training, fit
from msa.fuse.train.result import TrainResult
from msa.types import Split
from tests.fuse.conftest import memory_table
from tests.fuse.heads.test_heads import build, random_batch
from tests.fuse.train.test_loop import RAW, Tiny, assert_same, config, trained

# PyTorch reads the lengths that a packed sequence holds, and a tensor without numbers has none
PACKED = {"dialoguegcn", "lmf", "mmgcn", "tfn"}
SCALAR, NONZERO, INDEX = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.index.Tensor,
)


def reads_numbers(func, args) -> bool:
    """Does the result, or its shape, depend on the numbers in a tensor?"""
    chosen = [one for one in args[1] if one is not None] if func is INDEX else []
    return func in (SCALAR, NONZERO) or any(one.dtype == torch.bool for one in chosen)


class Noted(TorchDispatchMode):
    """Note on a CPU what a head reads of its numbers: values, and how many there are of a kind."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if reads_numbers(func, args):
            self.notes.append((func, out if func is SCALAR else tuple(out.shape)))
        return out


class Told(TorchDispatchMode):
    """Give the same answers where the tensors have no numbers."""

    def __init__(self, notes):
        super().__init__()
        self.notes = list(notes)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not reads_numbers(func, args):
            return func(*args, **(kwargs or {}))
        known, answer = self.notes.pop(0)
        assert known is func
        if func is SCALAR:
            return answer
        if func is INDEX:  # a card takes indices that are on it, or on the CPU
            assert {one.device for one in args[1] if one is not None} <= {args[0].device, torch.device("cpu")}
            return args[0].new_empty(answer)
        return args[0].new_empty(answer, dtype=torch.int64)


def on_card(head):
    """What `head.to("cuda")` does to parameters and buffers, and to nothing else that a head may hold."""
    moved = {}
    for module in head.modules():
        for name, p in [*module._parameters.items(), *module._buffers.items()]:
            if p is not None:
                there = p.detach().to("cuda")
                there = nn.Parameter(there, p.requires_grad) if name in module._parameters else there
                setattr(module, name, moved.setdefault(id(p), there))
    return head


def step(head, batch):
    """The output and the terms of the loss of one training step."""
    outputs = []
    hook = head.register_forward_hook(lambda _, __, out: outputs.append(out))
    try:
        terms = head.step(batch)[1]
    finally:
        hook.remove()
    return [*outputs, *terms.values()]


@pytest.mark.parametrize("name", sorted(set(catalog.names("head")) - PACKED))
@pytest.mark.filterwarnings("ignore")
def test_a_heads_step_and_its_checkpoint_keep_to_the_card(name):
    """In fp16, as a card trains; nothing on the CPU meets what is on the card. Backward needs a real one."""
    with pytest.MonkeyPatch.context() as patch, Noted() as noted:
        patch.setattr(F, "one_hot", lambda y, n: torch.eye(n, dtype=torch.int64)[y])  # it reads its input on a CPU only
        step(build(name, small=True).train(), random_batch())
    with torch.backends.cudnn.flags(enabled=False), FakeTensorMode(), Told(noted.notes) as told:
        head, batch = on_card(build(name, small=True)).train(), random_batch().to("cuda")
        with torch.autocast("cuda", torch.float16):
            found = step(head, batch)
        assert {one.device.type for one in found} == {"cuda"}
        assert told.notes == []
        kept = files.on_cpu(head.state_dict())
        assert {one.device.type for one in kept.values()} == {"cpu"}
        again = on_card(build(name, small=True, seed=1))
        again.load_state_dict(kept)
        assert {one.device.type for one in again.state_dict().values()} == {"cuda"}


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_head_that_keeps_a_tensor_on_the_cpu_is_found(amp):
    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.scale = nn.Parameter(torch.ones(3)), torch.ones(3)

        def forward(self, x):
            return x * self.w + self.scale

    with FakeTensorMode():
        head, x = on_card(Forgets()), torch.ones(2, 3, device="cuda")
        with torch.autocast("cuda", torch.float16, enabled=amp), pytest.raises(RuntimeError, match="device"):
            head(x)


def test_hcl_clusters_the_same_numbers_whether_it_trains_in_half_precision_or_not(monkeypatch):
    head, batch = build("hcl", quiet=True, small=True).train(), random_batch()
    seen = []
    real = hcl.kmeans
    monkeypatch.setattr(hcl, "kmeans", lambda x, *rest: (seen.append(x), real(x, *rest))[1])
    head(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = head(batch)
    assert half.dtype == torch.bfloat16  # the rest is in half precision
    assert torch.equal(*seen)
    assert torch.equal(real(seen[0], 8, 20), real(seen[1], 8, 20))


# --- checkpoints ---------------------------------------------------------------------------------------------------


class Scaler:
    """GradScaler of a card, as far as a checkpoint knows it."""

    def __init__(self, enabled):
        self.enabled, self.loaded = enabled, None

    def is_enabled(self):
        return self.enabled

    def state_dict(self):
        return {"scale": 2.0, "_growth_tracker": 3} if self.enabled else {}

    def load_state_dict(self, state):
        if self.enabled and not state:
            raise RuntimeError("The source state dict is empty")
        self.loaded = state


def loop_at(path):
    whole = memory_table()
    parts = whole.subset(Split.TRAIN), whole.subset(Split.VALID)
    return Training(Tiny, *parts, RAW, config(), 1, "cpu", path, lambda line: None, None)


def saved(path, **changed):
    trained(checkpoint=path)
    torch.save(torch.load(path, weights_only=True) | changed, path)


def test_a_checkpoint_of_a_cpu_is_taken_up_on_a_card(tmp_path):
    saved(tmp_path / "c.pt")
    loop = loop_at(tmp_path / "c.pt")
    loop.scaler = Scaler(enabled=True)
    assert checkpoint.resume(loop.checkpoint, loop)
    assert loop.epoch == 4
    assert loop.scaler.loaded is None  # its scale begins anew


def test_a_checkpoint_of_a_card_is_taken_up_on_a_card_and_on_a_cpu(tmp_path):
    on_a_card = {"scaler": {"scale": 8.0, "_growth_tracker": 1}, "cuda_rng": [torch.zeros(16, dtype=torch.uint8)] * 3}
    saved(tmp_path / "c.pt", **on_a_card)
    loop = loop_at(tmp_path / "c.pt")
    loop.scaler = Scaler(enabled=True)
    assert checkpoint.resume(loop.checkpoint, loop)
    assert loop.scaler.loaded == on_a_card["scaler"]
    assert_same(trained(checkpoint=tmp_path / "c.pt"), trained())


def test_the_chance_of_one_card_is_kept_and_given_back_to_it(tmp_path, monkeypatch):
    """A checkpoint held that of every card of the machine, and another machine has other cards."""
    given = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda where: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, where: given.append((state.tolist(), where)))
    loop = loop_at(tmp_path / "c.pt")
    loop.device = "cuda:1"
    checkpoint.write(loop.checkpoint, loop)
    other = loop_at(tmp_path / "c.pt")
    other.device = "cuda:0"
    assert checkpoint.resume(other.checkpoint, other)
    assert given == [([7], "cuda:0")]


@pytest.mark.filterwarnings("ignore")
def test_what_is_kept_is_on_the_cpu():
    with FakeTensorMode():
        there = torch.ones(2, device="cuda")
        kept = files.on_cpu({"state": {"w": there}, "list": [there, (there, 1)], "number": 2.5})
    assert kept["state"]["w"].device.type == "cpu"
    assert kept["list"][0].device.type == kept["list"][1][0].device.type == "cpu"
    assert kept["number"] == 2.5


def test_a_result_that_was_resumed_is_kept_without_a_card(tmp_path):
    path = tmp_path / "c.pt"
    trained(checkpoint=path)
    files.save(tmp_path / "fit.pt", vars(trained(checkpoint=path)))
    again = TrainResult.decode(files.load(tmp_path / "fit.pt"))
    assert all(one.device.type == "cpu" for one in again.state.values())
    assert_same(again, trained())


# --- which card, and how much of it --------------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch):
    """Four cards; each thread begins at card 0, as with CUDA."""
    chosen = threading.local()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: getattr(chosen, "card", 0))
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: setattr(chosen, "card", card))
    return chosen


def test_a_card_is_named_by_its_number_so_that_every_thread_means_the_same(cards):
    device.choose_card(2)
    assert device.own_device() == device.numbered("cuda") == "cuda:2"
    assert device.numbered("cuda:1") == "cuda:1"
    assert device.numbered("cpu") == "cpu"
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(device.own_device()))
    thread.start()
    thread.join()
    assert elsewhere == ["cuda:0"]  # what "cuda" alone would mean there


def test_more_processes_than_cards_share_them_in_turn(cards):
    found = []
    for ordinal in range(6):
        device.choose_card(ordinal)
        found.append(torch.cuda.current_device())
    assert found == [0, 1, 2, 3, 0, 1]


def test_a_loop_trains_on_the_card_its_process_has_chosen(cards, monkeypatch):
    device.choose_card(3)
    asked = []

    def stop(make, train, valid, norm, config, seed, where, *rest):
        asked.append(where)
        raise ConfigError("enough", fix="")

    monkeypatch.setattr("msa.fuse.train.loop.Training", stop)
    whole = memory_table()
    with pytest.raises(ConfigError, match="enough"):
        fit(Tiny, whole.subset(Split.TRAIN), whole.subset(Split.VALID), RAW, config(), 1, "cuda")
    assert asked == ["cuda:3"]


@pytest.mark.parametrize(
    ("address", "at_once", "ordinal"),
    [
        ("tcp://10.0.0.1:4001", 3, 0),
        ("tcp://10.0.0.1:4003", 3, 2),
        ("tcp://10.0.0.2:4001", 1, 0),
        ("tcp://10.0.0.3:9", 1, 0),
    ],
)
def test_dask_workers_of_one_machine_are_numbered_among_themselves(address, at_once, ordinal):
    workers = ["tcp://10.0.0.1:4003", "tcp://10.0.0.2:4001", "tcp://10.0.0.1:4002", "tcp://10.0.0.1:4001"]
    shuffled = random.Random(0).sample(workers, len(workers))
    assert parallel._among(address, shuffled) == (at_once, ordinal)


def test_dask_workers_of_one_machine_take_different_cards_and_share_its_memory(cards, monkeypatch):
    import distributed

    workers = {f"tcp://10.0.0.1:{port}": 1 for port in (4001, 4002, 4003)}
    monkeypatch.setattr(loader, "AT_ONCE", 1)
    monkeypatch.setattr(distributed, "get_client", lambda: SimpleNamespace(nthreads=lambda: workers))
    found = []
    for address in workers:
        monkeypatch.setattr(distributed, "get_worker", lambda address=address: SimpleNamespace(address=address))
        found.append(parallel._in_turn(lambda: (torch.cuda.current_device(), loader.AT_ONCE)))
    assert found == [(0, 3), (1, 3), (2, 3)]


def test_what_pytorch_keeps_in_stock_is_free_for_the_next_training(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (1_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda where: 60_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda where: 20_000)
    assert memory.free("cuda:0") == 41_000


# --- the loop's copies ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("at", "moves"), [("cuda:1", False), ("cuda:0", True), ("cpu", True)])
def test_a_batch_is_moved_to_the_very_card_and_only_if_it_is_elsewhere(monkeypatch, at, moves):
    source = Source(memory_table().subset(Split.TRAIN), {}, Normalisation({}), "cuda:1", "")
    pinned = []
    with FakeTensorMode():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self.device.type), self)[1])
        tensor = torch.ones(3, device=at)
        moved = source._moved(tensor)
    assert str(moved.device) == "cuda:1"
    assert (moved is not tensor) is moves
    assert pinned == (["cpu"] if at == "cpu" else [])  # PyTorch refuses to pin what is on a card


def test_a_training_whose_batches_are_copied_ahead_ends_as_one_whose_are_not(monkeypatch):
    """Pinned memory may be given to others once its copy is done; no batch may stand in memory of another one."""
    straight = trained()
    monkeypatch.setattr(memory, "free", lambda where: 0)
    monkeypatch.setattr(memory, "check", lambda *_: None)
    copies = []

    def copied(self, tensor):
        copies.append(threading.current_thread().name)
        there = tensor.clone()
        if tensor.is_floating_point():
            tensor.fill_(np.nan)  # the host's memory is used for another tensor now
        return there

    monkeypatch.setattr(Source, "_moved", copied)
    assert_same(trained(), straight)
    assert copies
    assert all(name.startswith("batches") for name in copies)  # in the loader's thread
    whole = memory_table().subset(Split.TRAIN).source(RAW)
    assert all(isinstance(one, Stored) and not isinstance(one, Flat) for one in whole.states.values())
