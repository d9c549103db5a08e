"""The contract every head keeps. A new file in msa/fuse/heads is under these tests without a line from its author."""

import dataclasses
import re
from itertools import combinations

import pytest
import torch

from msa import catalog
from msa.fuse.head import Batch, FusionHead, head_class
from msa.types import SENTIMENT, Modality, Task
from tests.fuse.batches import EMOTIONS, random_labels

TEXT, IMAGE, AUDIO, FACE = Modality.TEXT, Modality.IMAGE, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 40, IMAGE: 48, AUDIO: 32}
STEPS = {TEXT: 5, IMAGE: 4, AUDIO: 7, FACE: 3}
SUBSETS = [s for n in (1, 2, 3) for s in combinations(DIMS, n)] + [(TEXT, AUDIO, FACE), (TEXT, IMAGE, AUDIO, FACE)]
RANGE = Task(low=-3.0, high=3.0)
TRAIN_KEYS = {
    "lr",
    "weight_decay",
    "batch",
    "epochs",
    "patience",
    "warmup_epochs",
    "schedule",
    "clip",
    "select",
    "stats",
}
NO_GRADIENT = re.compile(r"(^|[._])(k|key|w_k|k_proj|to_k)\.bias$")  # softmax does not see a shift common to all keys

pytestmark = pytest.mark.parametrize("name", catalog.names("head"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Heads this small lose more to waiting for each other's threads than they gain, tenfold on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_batch(dims=DIMS, task=SENTIMENT, size=16, seed=0) -> Batch:
    """Samples of one step up to STEPS; what is behind the mask is noise, not zeros."""
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(size, STEPS[m], d, generator=g) for m, d in dims.items()}
    length = {m: torch.randint(1, STEPS[m] + 1, (size, 1), generator=g) for m in dims}
    mask = {m: torch.arange(STEPS[m]) < length[m] for m in dims}
    return Batch(x, mask, random_labels(task, size, g), torch.arange(size))


def build(name, dims=DIMS, task=SENTIMENT, quiet=False, small=False, seed=0) -> FusionHead:
    """A head with its default settings; `quiet` without dropout, `small` by the preset of that name if it has one."""
    module = catalog.load("head", name)
    config = getattr(module, "PRESETS", {}).get("small", module.Config()) if small else module.Config()
    if quiet:
        rates = [f.name for f in dataclasses.fields(config) if "dropout" in f.name]
        config = dataclasses.replace(config, **dict.fromkeys(rates, 0.0))
    torch.manual_seed(seed)
    return head_class(module)(config, dims, task)


def settled(name, **how) -> FusionHead:
    """A head a few steps into its life: running statistics filled, and no parameter still at a special start."""
    head = build(name, **how)
    batch = random_batch(how.get("dims", DIMS), how.get("task", SENTIMENT), seed=99)
    with torch.no_grad():
        head.train()(batch)
        for p in head.parameters():
            p += 0.02 * torch.randn_like(p)
    return head


def masked(batch: Batch, missing: dict[Modality, list[int]], seed=0) -> Batch:
    """The batch without some modalities of some samples, with new noise behind the mask."""
    g = torch.Generator().manual_seed(seed)
    x, mask = dict(batch.x), {m: k.clone() for m, k in batch.mask.items()}
    for m, rows in missing.items():
        mask[m][rows] = False
    for m in x:
        x[m] = torch.where(mask[m][:, :, None], x[m], torch.randn(x[m].shape, generator=g))
    return Batch(x, mask, batch.y, batch.row)


def backward(head: FusionHead, batch: Batch) -> None:
    head.zero_grad()
    sum(head.train().step(batch)[1].values()).backward()


def gradients(head: FusionHead) -> dict[str, float]:
    """Largest gradient of each parameter that can have one; a parameter outside the graph counts as 0."""
    named = ((n, p) for n, p in head.named_parameters() if not NO_GRADIENT.search(n))
    return {n: 0.0 if p.grad is None else p.grad.abs().max().item() for n, p in named}


def dead(head: FusionHead) -> list[str]:
    """Parameters whose gradient is absent or no more than rounding."""
    found = gradients(head)
    return [n for n, g in found.items() if not g > 1e-8 * max(found.values())]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_padding_never_changes_a_prediction(name, mode):
    head, batch = settled(name, quiet=True).train(mode == "train"), random_batch()
    g = torch.Generator().manual_seed(1)
    more = {m: 3 + i for i, m in enumerate(batch.x)}  # steps to append, another number for each modality
    noise = {m: 10 * torch.randn(len(batch), n, DIMS[m], generator=g) for m, n in more.items()}
    padded = Batch(
        {m: torch.cat([x, noise[m]], 1) for m, x in batch.x.items()},
        {m: torch.nn.functional.pad(k, (0, more[m])) for m, k in batch.mask.items()},
        batch.y,
        batch.row,
    )
    torch.manual_seed(0)
    short = head(batch)
    torch.manual_seed(0)
    torch.testing.assert_close(head(padded), short, atol=1e-6, rtol=0)
    assert short.isfinite().all()


def test_every_parameter_gets_a_gradient(name):
    head = settled(name)
    backward(head, random_batch())
    assert dead(head) == []


@pytest.mark.parametrize("modalities", SUBSETS, ids="+".join)
def test_any_subset_of_modalities_will_do(name, modalities):
    dims = {m: DIMS.get(m, 24) for m in modalities}
    head, batch = settled(name, dims=dims), random_batch(dims)
    assert head.eval()(batch).shape == (16, 3)
    backward(head, batch)
    assert dead(head) == []


def test_the_order_of_dims_does_not_matter(name):
    backwards = dict(reversed(DIMS.items()))
    first, second = build(name), build(name, dims=backwards)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.eval()(random_batch()), second.eval()(random_batch()), atol=0, rtol=0)


def test_a_reloaded_head_gives_the_same_numbers(name):
    head, batch = settled(name).eval(), random_batch()
    other = build(name, seed=1)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.eval()(batch), head(batch), atol=0, rtol=0)


@pytest.mark.parametrize("task", [SENTIMENT, EMOTIONS, RANGE], ids=["classes", "labels", "values"])
def test_a_batch_of_one_works(name, task):
    head, batch = settled(name, task=task), random_batch(task=task, size=1)
    assert head.eval()(batch).isfinite().all()
    backward(head, batch)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


LEARNT_ABSENCE = {  # heads whose paper or whose "Missing" gives an absent modality a learnt constant, and where
    "almt": ["embed", "layers"],
    "hcl": ["embed", "ccl", "fuse"],
    "dlf": ["refine", "gate"],
    "lmf": ["w."],
}
MISSING = {
    "one sample lacks one": {TEXT: [0], IMAGE: [1], AUDIO: [2]},
    "one sample lacks all but one": {TEXT: [0, 1], IMAGE: [1, 2], AUDIO: [0, 2]},
    "no sample has text": {TEXT: list(range(16))},
    "no sample has an image": {IMAGE: list(range(16))},
    "no sample has audio": {AUDIO: list(range(16))},
}


@pytest.mark.parametrize("task", [SENTIMENT, RANGE, EMOTIONS], ids=["classes", "values", "labels"])
def test_a_step_returns_the_output_that_forward_gives_and_what_validation_looks_at(name, task):
    head, batch = settled(name, task=task).eval(), random_batch(task=task)
    output, terms = head.step(batch)
    torch.testing.assert_close(output, head(batch), atol=0, rtol=0)
    assert "task" in terms and all(term.shape == () for term in terms.values())


@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING)
def test_a_missing_modality_is_finite_and_its_values_are_never_read(name, missing):
    head, batch = settled(name), random_batch()
    first, second = (masked(batch, missing, seed) for seed in (1, 2))
    torch.testing.assert_close(head.eval()(first), head(second), atol=1e-6, rtol=0)
    assert head(first).isfinite().all()
    backward(head, first)
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def losses(head: FusionHead, batch: Batch) -> dict[str, torch.Tensor]:
    """Every term, in training, with the same draws each time and the labels of single modalities as they were."""
    state = {key: value.clone() for key, value in head.state_dict().items()}
    torch.manual_seed(0)
    terms = head.train().step(batch)[1]
    head.load_state_dict(state)
    return {key: term.detach() for key, term in terms.items()}


@pytest.mark.parametrize("task", [SENTIMENT, RANGE], ids=["classes", "values"])
def test_what_is_behind_the_mask_changes_no_loss(name, task):
    """Noise, further padding, and a modality that a sample lacks: masks hold in auxiliary losses too."""
    head, batch = settled(name, quiet=True, task=task), masked(random_batch(task=task), MISSING["one sample lacks one"])
    more = {m: 2 + i for i, m in enumerate(batch.x)}
    g = torch.Generator().manual_seed(5)
    other = Batch(
        {m: torch.cat([x, 0 * x[:, :1].expand(-1, more[m], -1)], 1) for m, x in batch.x.items()},
        {m: torch.nn.functional.pad(k, (0, more[m])) for m, k in batch.mask.items()},
        batch.y,
        batch.row,
    )
    for m, x in other.x.items():
        other.x[m][~other.mask[m]] = 10 * torch.randn(int((~other.mask[m]).sum()), x.shape[2], generator=g)
    first, second = losses(head, batch), losses(head, other)
    assert first.keys() == second.keys()
    for key, term in first.items():
        torch.testing.assert_close(second[key], term, atol=1e-5, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("task", [SENTIMENT, RANGE], ids=["classes", "values"])
@pytest.mark.parametrize("lost", DIMS)
def test_a_modality_that_no_sample_has_trains_nothing_of_its_own(name, task, lost):
    """A mask that is added, or missing, leaves a bias of that modality with a gradient, in the answer or in a loss."""
    head, batch = settled(name, task=task), masked(random_batch(task=task), {lost: list(range(16))})
    backward(head, batch)
    learns = {n: p.grad.abs().max().item() for n, p in head.named_parameters() if p.grad is not None}
    own = [n for n, g in learns.items() if lost in n.split(".") and g > 1e-9 * max(learns.values())]
    assert [n for n in own if not any(part in n for part in LEARNT_ABSENCE.get(name, []))] == []


def test_a_prediction_does_not_depend_on_its_batch_mates(name):
    head, batch = settled(name).eval(), random_batch(size=8)
    with torch.no_grad():
        together = head(batch)
        for i in range(8):
            x, mask = ({m: t[i : i + 1] for m, t in part.items()} for part in (batch.x, batch.mask))
            alone = head(Batch(x, mask, batch.y[i : i + 1], batch.row[i : i + 1]))
            torch.testing.assert_close(alone, together[i : i + 1], atol=1e-6, rtol=0)


def test_64_samples_can_be_learnt_by_heart(name):
    head, batch = build(name, quiet=True, small=True), random_batch(size=64)
    recipe = getattr(catalog.load("head", name), "TRAIN", {}).get("default", {})
    optimiser = torch.optim.AdamW(head.param_groups(max(recipe.get("lr", 0.0), 5e-4)), weight_decay=0.0)
    for step in range(1000):
        if step % 10 == 0 and (head.eval()(batch).argmax(1) == batch.y).all():
            return
        backward(head, batch)
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
    assert (head.eval()(batch).argmax(1) == batch.y).all(), "not learnt in 1000 steps"


def test_regression_gives_one_value_and_learns(name):
    head, batch = build(name, task=RANGE, quiet=True, small=True), random_batch(task=RANGE)
    optimiser = torch.optim.AdamW(head.param_groups(1e-3))
    assert head.eval()(batch).shape == (16, 1)
    error = lambda: (head.eval()(batch).squeeze(1) - batch.y).square().mean().item()  # noqa: E731
    before = error()
    for _ in range(30):
        backward(head, batch)
        optimiser.step()
    assert error() < before


def test_every_preset_builds_and_names_only_known_training_values(name):
    module = catalog.load("head", name)
    presets, train = getattr(module, "PRESETS", {}), getattr(module, "TRAIN", {})
    for config in presets.values():
        assert isinstance(config, module.Config)
        assert head_class(module)(config, DIMS, SENTIMENT).eval()(random_batch()).shape == (16, 3)
    assert train.keys() <= presets.keys()
    assert all(values.keys() <= TRAIN_KEYS for values in train.values())
