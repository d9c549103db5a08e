"""The training loop: what it sees, what it keeps, and that it can be stopped and gone on with."""

import gc
import math
import os
import sys
from dataclasses import replace
from itertools import pairwise
from types import FunctionType, ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from msa import catalog
from msa.errors import ConfigError, UnknownNameError
from msa.fuse.data.table import Column, Normalisation
from msa.fuse.head import FusionHead, masked_mean
from msa.fuse.train import loop
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.convex import PATH
from msa.fuse.train.evaluation import Validation, predict, validate
from msa.fuse.train.loop import fit
from msa.fuse.train.model import Model
from msa.fuse.train.result import TrainResult
from msa.types import SENTIMENT, Split
from tests.fuse.batches import EMOTIONS, emotions_of, emotions_table
from tests.fuse.conftest import IMAGE, TEXT, VALUES, Memory, memory_table

RAW = Normalisation({})
SMALL = {  # settings under which a head trains in no time; one that is not named here is taken as it is
    "cmsta": ["dim=8", "heads=2", "layers=1", "cm_layers=1", "gate_hidden=8", "rank=2", "hidden=8"],
    "probe": ["stats="],  # the tables of these tests are not widened
}


class Tiny(FusionHead):
    """Text alone, through one hidden layer with dropout, so that chance has a say in training."""

    def __init__(self, task=SENTIMENT, hidden=6):
        super().__init__(task)
        self.body = nn.Sequential(nn.Linear(8, hidden), nn.Tanh(), nn.Dropout(0.3))
        self.out = nn.Linear(hidden, task.outputs)

    def forward(self, batch):
        return self.out(self.body(masked_mean(batch.x[TEXT], batch.mask[TEXT])))


class Constant(FusionHead):
    """What a collapse looks like: one answer, whatever is asked."""

    def __init__(self, task=SENTIMENT):
        super().__init__(task)
        self.bias = nn.Parameter(torch.zeros(task.outputs))

    def forward(self, batch):
        return self.bias.expand(len(batch), -1)


class Fragile(Tiny):
    """Collapses above a learning rate of 0.02, as deep post-norm encoders do."""

    def param_groups(self, lr):
        self.dead = lr > 0.02
        return super().param_groups(lr)

    def forward(self, batch):
        z = super().forward(batch)
        return self.out.bias.expand_as(z) if self.dead else z


class Trap(Tiny):
    """The loss of any training batch that holds one of these rows is not a number."""

    def __init__(self, rows, value=math.nan):
        super().__init__()
        self.rows, self.value = torch.tensor(rows), value

    def step(self, batch):
        output, terms = super().step(batch)
        hit = self.training and torch.isin(batch.row, self.rows).any()
        return output, {"task": terms["task"] * self.value} if hit else terms


class Forbidden:
    """Values of which some may not be read."""

    def __init__(self, values, rows):
        self.values, self.rows = values, set(rows.tolist())
        self.length = np.array([len(own) for own in values]) if isinstance(values, list) else None

    def __getitem__(self, rows):
        assert not self.rows & set(np.atleast_1d(rows).tolist()), "a test sample was read"
        return self.values[rows]

    read = __getitem__

    gather, flat = Memory.gather, Memory.flat


def poisoned(whole):
    """The table with test labels and test hidden states that raise when they are read."""
    test = whole.subset(Split.TEST).rows
    columns = {}
    for m, column in whole.columns.items():
        reader = Forbidden(column.readers[0].states, test)
        reader.view = column.view
        columns[m] = Column((reader,), column.source, column.rows)
    return replace(whole, columns=columns, y=Forbidden(whole.y, test))


def config(**changed):
    return TrainConfig(**{"lr": 0.01, "batch": 8, "epochs": 4, "patience": 99, "warmup_epochs": 0.0} | changed)


def trained(make=Tiny, seed=1, whole=None, norm=RAW, checkpoint=None, log=lambda line: None, **changed) -> TrainResult:
    whole = whole or memory_table()
    parts = whole.subset(Split.TRAIN), whole.subset(Split.VALID)
    return fit(make, *parts, norm, config(**changed), seed, "cpu", checkpoint, log)


def small(name):
    model = Model.of(name, settings=SMALL.get(name, []))
    return lambda: model.build({TEXT: 8, IMAGE: 6}, SENTIMENT)


def assert_same(one, two):
    """The same weights to the last bit, and the same history."""
    assert one.state.keys() == two.state.keys()
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    timeless = {"state": {}, "seconds": 0, "data_seconds": 0}
    assert replace(one, **timeless) == replace(two, **timeless)


@pytest.fixture
def steps():
    """Every step of an optimiser: its learning rates and the norm of the gradient it was given."""
    seen = []

    def note(optimiser, args, kwargs):
        if not isinstance(optimiser, torch.optim.AdamW):
            return
        grads = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        rates = [float(group["lr"]) for group in optimiser.param_groups]
        seen.append((rates, torch.cat([g.flatten() for g in grads]).norm().item()))

    hook = register_optimizer_step_pre_hook(note)
    yield seen
    hook.remove()


# --- what it sees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.names("head"))
def test_training_never_reads_a_test_sample(name):
    whole = poisoned(memory_table())
    norm = Normalisation.fit(whole.subset(Split.TRAIN), ("text", "image"))
    found = trained(small(name), whole=whole, norm=norm, epochs=2)
    assert 2 <= len(found.history) <= (len(PATH) if name == "probe" else 2)
    head = small(name)()
    head.load_state_dict(found.state)
    with pytest.raises(AssertionError, match="a test sample was read"):  # the poison works: the one test step meets it
        predict(head, whole.subset(Split.TEST), norm, 8, "cpu")


def reachable(*roots):
    """Every object that can be reached through attributes, items and closures; not through modules and classes."""
    seen, left = {}, list(roots)
    while left:
        found = left.pop()
        if id(found) in seen or isinstance(found, type | ModuleType):
            continue
        seen[id(found)] = found
        left += [c.cell_contents for c in found.__closure__ or ()] if isinstance(found, FunctionType) else []
        left += [] if isinstance(found, FunctionType) else gc.get_referents(found)
    return list(seen.values())


def test_no_test_label_can_be_reached_from_where_training_stands(monkeypatch):
    """Structural: of all that the head, the loop or a search could ever follow, nothing holds one of these numbers."""
    y = np.random.default_rng(0).uniform(-3, 3, 60).astype(np.float32)  # every label is like no other
    whole, labels = memory_table(task=VALUES, y=y), {}
    for split in Split:
        labels[split] = set(y[whole.subset(split).rows].tolist())
    found = []

    class Nosy(Tiny):
        def step(self, batch):
            if not found:
                found.extend(reachable(*(sys._getframe(n).f_locals for n in (1, 2, 3))))  # up to `fit`
            return super().step(batch)

    sealed = whole.sealed()  # as `experiment` hands it to `fit`
    parts = sealed.subset(Split.TRAIN), sealed.subset(Split.VALID)
    del whole
    fit(lambda: Nosy(VALUES), *parts, RAW, config(epochs=1), 1, "cpu")
    arrays = [a for a in found if isinstance(a, np.ndarray | torch.Tensor) and a.ndim]
    numbers = {float(n) for a in arrays if "float32" in str(a.dtype) for n in np.asarray(a.tolist()).ravel()}
    assert labels[Split.TRAIN] <= numbers  # the search finds what is there
    assert labels[Split.VALID] <= numbers
    assert not labels[Split.TEST] & numbers


def test_the_loop_seals_what_it_is_handed():
    seen = []

    class Spy(Tiny):
        def step(self, batch):
            seen.append(not self.training or sys._getframe(1).f_locals["self"].train.table.is_sealed)
            return super().step(batch)

    trained(Spy, epochs=1)
    assert seen and all(seen)
    whole = memory_table()
    with pytest.raises(ConfigError, match="test samples among those to train"):
        fit(Tiny, whole.subset(Split.TRAIN), whole.subset(Split.TEST), RAW, config(), 1, "cpu")


def test_the_validation_part_changes_no_weight_only_which_are_kept():
    one = trained(epochs=3)
    whole = memory_table()
    other = whole.take(np.flatnonzero((whole.split != 1) | (np.arange(60) % 2 == 0)))  # half of the validation split
    two = trained(whole=other, epochs=3)
    assert [e["train_loss"] for e in one.history] == [e["train_loss"] for e in two.history]
    assert [e["valid_loss"] for e in one.history] != [e["valid_loss"] for e in two.history]


@pytest.mark.parametrize("split", [0, 1])
def test_a_table_without_training_or_validation_samples_is_refused_with_the_counts(split):
    whole = memory_table()
    with pytest.raises(ConfigError, match="36 training and 0 valid" if split else "0 training and 12 valid"):
        trained(whole=whole.take(np.flatnonzero(whole.split != split)))


def test_every_epoch_visits_every_training_sample_once_in_another_order():
    orders = []

    class Spy(Tiny):
        def step(self, batch):
            if self.training:
                orders.append(batch.row.tolist())
            return super().step(batch)

    trained(Spy, epochs=2)
    epochs = [[row for rows in orders[n : n + 5] for row in rows] for n in (0, 5)]
    wanted = memory_table().subset(Split.TRAIN).rows.tolist()
    assert [sorted(rows) for rows in epochs] == [wanted, wanted]
    assert epochs[0] != epochs[1] != wanted


# --- what it optimises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.names("head"))
def test_every_parameter_is_optimised(name):
    """An optimiser that skips the first two tensors was shipped by another toolkit."""
    torch.manual_seed(1)
    head = small(name)()
    groups = head.param_groups(0.01)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in head.parameters())
    before = {n: p.detach().clone() for n, p in head.named_parameters()}
    after = trained(lambda: head, epochs=1).state
    assert [n for n, p in before.items() if torch.equal(p, after[n])] == []


def test_a_head_learns_the_signal_it_is_given():
    found = trained(whole=memory_table(signal=2.0), epochs=30)
    head = Tiny()
    head.load_state_dict(found.state)
    part = memory_table(signal=2.0).subset(Split.TEST)
    assert (predict(head, part, RAW, 8, "cpu").argmax(1) == part.y).mean() > 0.9
    assert found.history[-1]["train_loss"] < 0.5 * found.history[0]["train_loss"]


def test_a_gradient_is_cut_to_the_length_asked_for_and_keeps_it_at_0(steps):
    class Steep(Tiny):
        def step(self, batch):
            output, terms = super().step(batch)
            return output, {"task": 1000 * terms["task"]}

    trained(Steep, epochs=1, clip=0.5)
    assert [norm for _, norm in steps] == pytest.approx([0.5] * 5, rel=1e-4)
    steps.clear()
    trained(Steep, epochs=1, clip=0.0)
    assert min(norm for _, norm in steps) > 10
    steps.clear()
    trained(epochs=1, clip=1e6)  # and a short one is not made longer
    assert max(norm for _, norm in steps) < 10


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_that_is_not_finite_is_left_out_and_counted(steps, value, clip):
    found = trained(lambda: Trap([0], value), epochs=3, clip=clip)
    assert found.skipped_steps == 3
    assert len(steps) == 3 * 4  # of five steps in an epoch one is left out
    assert all(p.isfinite().all() for p in found.state.values())
    assert trained(epochs=1).skipped_steps == 0


def test_a_loss_that_never_becomes_finite_is_an_error_not_a_result():
    class Broken(Tiny):
        def forward(self, batch):
            return super().forward(batch) * math.nan

    with pytest.raises(ConfigError, match="seed 1: the validation loss was never finite"):
        trained(Broken)


def test_several_loss_terms_are_summed_and_each_is_told():
    class Two(Tiny):
        def step(self, batch):
            output, terms = super().step(batch)
            return output, terms | {"weights": 0.1 * self.out.weight.square().sum()}

    epoch = trained(Two, epochs=1).history[0]
    assert epoch["train_loss"] == pytest.approx(epoch["train_task"] + epoch["train_weights"])
    assert "train_task" not in trained(epochs=1).history[0]


def test_mixed_precision_stays_off_on_a_cpu():
    seen = set()

    class Spy(Tiny):
        def forward(self, batch):
            output = super().forward(batch)
            seen.add((torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"), output.dtype))
            return output

    trained(Spy, epochs=1, amp=True)
    assert seen == {(False, False, torch.float32)}
    assert_same(trained(amp=True), trained(amp=False))


# --- what it keeps ------------------------------------------------------------------------------------------------


def overfitted(**changed):
    """Labels of chance at a high rate: the validation loss soon rises."""
    y = np.random.default_rng(0).integers(0, 3, 60).astype(np.float32)
    return trained(whole=memory_table(y=y, signal=0.0), **{"epochs": 40, "lr": 0.05, "patience": 4} | changed)


def test_the_weights_kept_are_those_of_the_lowest_validation_loss():
    """Reloaded, they give the loss that was recorded; so does cross-entropy over the part as one batch."""
    found = overfitted()
    y = np.random.default_rng(0).integers(0, 3, 60).astype(np.float32)
    part = memory_table(y=y, signal=0.0).subset(Split.VALID)
    losses = [epoch["valid_loss"] for epoch in found.history]
    assert found.best_epoch == int(np.argmin(losses)) < len(losses) - 1
    head = Tiny()
    head.load_state_dict(found.state)
    assert validate(head, part, RAW, 8, "cpu").losses == {"valid_loss": losses[found.best_epoch]}
    batch = part.batch(part.rows, RAW)
    whole = F.cross_entropy(head.eval()(batch), batch.y).item()
    assert whole == pytest.approx(losses[found.best_epoch], rel=1e-6)


def test_auxiliary_terms_have_no_say_in_which_weights_are_kept():
    """One that falls for ever would keep the last epoch; the task's own loss has long risen by then."""

    class Distracted(Tiny):
        age = 0

        def step(self, batch):
            self.age += self.training
            output, terms = super().step(batch)
            return output, terms | {"auxiliary": torch.tensor(1000.0 / (1 + self.age))}

    y = np.random.default_rng(0).integers(0, 3, 60).astype(np.float32)
    whole, how = memory_table(y=y, signal=0.0), {"epochs": 40, "lr": 0.05, "patience": 4}
    plain, distracted = trained(whole=whole, **how), trained(Distracted, whole=whole, **how)
    assert distracted.best_epoch == plain.best_epoch
    assert [e["valid_loss"] for e in distracted.history] == [e["valid_loss"] for e in plain.history]


def test_the_weights_kept_are_those_of_a_training_that_ends_there():
    found = overfitted()
    short = overfitted(epochs=found.best_epoch + 1)
    assert all(torch.equal(found.state[name], short.state[name]) for name in found.state)


def test_training_stops_after_as_many_epochs_without_a_better_loss_as_asked():
    for patience in (1, 4):
        found = overfitted(patience=patience)
        assert len(found.history) == found.best_epoch + 1 + patience
    assert len(overfitted(patience=99, epochs=9).history) == 9


def test_validation_counts_every_sample_alike_whatever_the_batch_size():
    torch.manual_seed(0)
    head, part = Tiny(), memory_table().subset(Split.VALID)
    losses = [validate(head, part, RAW, size, "cpu").losses["valid_loss"] for size in (1, 5, 12)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    predicted = predict(head, part, RAW, 5, "cpu").argmax(1)
    assert validate(head, part, RAW, 5, "cpu").distinct == len(set(predicted))


def test_validation_passes_a_batch_through_a_head_once_also_where_step_calls_no_forward():
    passes = []

    class Apart(Tiny):
        def step(self, batch):
            output = self.out(self.body(masked_mean(batch.x[TEXT], batch.mask[TEXT])))
            return output, {"task": F.cross_entropy(output, batch.y)}

    part, results = memory_table().subset(Split.VALID), []
    for kind in (Tiny, Apart):
        torch.manual_seed(0)
        head = kind()
        head.body.register_forward_hook(lambda _, inputs, output: passes.append(len(output)))
        results.append(validate(head, part, RAW, 5, "cpu"))
        assert passes == [5, 5, 2]
        passes.clear()
    assert results[0] == results[1]


def test_a_head_that_asks_for_whole_groups_gets_them_in_training_and_in_testing():
    seen = []

    class Talk(Tiny):
        whole_groups = True

        def forward(self, batch):
            seen.append((self.training, batch.group.tolist(), batch.position.tolist()))
            return super().forward(batch)

    order = np.random.default_rng(0).permutation(60)
    whole = memory_table(group=order // 4, position=order % 4)
    found = trained(Talk, whole=whole, epochs=2)
    assert len(found.history) == 2
    whole_part = whole.subset(Split.TEST)
    head = Talk()
    head.load_state_dict(found.state)
    out = predict(head, whole_part, RAW, 8, "cpu")
    alone = predict(head, whole_part, RAW, 1, "cpu")
    np.testing.assert_allclose(out, alone, atol=1e-6)  # in the order of the part, however they are batched
    for group in range(15):
        there = group in whole.group[whole.subset(Split.TRAIN).rows]
        assert sum(group in groups for training, groups, _ in seen if training) == 2 * there  # once an epoch
    for _, groups, places in seen:
        assert len(groups) <= 8 or len(set(groups)) == 1
        pairs = list(zip(groups, places, strict=True))
        assert all(a[1] < b[1] for a, b in pairwise(pairs) if a[0] == b[0])


def test_what_a_training_spent_on_data_is_told(monkeypatch):
    lines = []
    found = trained(epochs=2, log=lines.append)
    assert 0 < found.data_seconds < found.seconds
    assert 0 < found.padding < 0.5
    assert "kept in memory" in lines[0]
    assert lines[-1].startswith("seed 1: ") and "waiting for data" in lines[-1]


def test_predictions_are_probabilities_in_the_order_of_the_part():
    torch.manual_seed(0)
    head, part = Tiny(), memory_table().subset(Split.TEST)
    found = predict(head, part, RAW, 5, "cpu")
    assert found.shape == (12, 3)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    for i, row in enumerate(part.rows):
        alone = head(part.batch(np.array([row]), RAW)).softmax(1)[0].detach().numpy()
        np.testing.assert_allclose(found[i], alone, atol=1e-6)


def test_values_are_trained_on_squared_error_and_predicted_as_they_are():
    y = np.random.default_rng(0).uniform(-3, 3, 60).astype(np.float32)
    whole = memory_table(task=VALUES, y=y, signal=0.5)
    found = trained(lambda: Tiny(VALUES), whole=whole, epochs=5)
    assert not found.collapsed
    head = Tiny(VALUES)
    head.load_state_dict(found.state)
    part = whole.subset(Split.VALID)
    output = predict(head, part, RAW, 8, "cpu")
    assert output.shape == (12, 1)
    error = np.mean((output[:, 0] - part.y) ** 2)
    best = found.history[found.best_epoch]
    assert error == pytest.approx(best["valid_loss"], rel=1e-6)
    assert np.abs(output[:, 0] - part.y).mean() == pytest.approx(best["valid_mae"], rel=1e-6)
    assert "valid_mae" not in trained(epochs=1).history[0]


def scripted(monkeypatch, losses, maes):
    """Validations that say this."""
    said = iter([Validation({"valid_loss": a, "valid_mae": b}, 9) for a, b in zip(losses, maes, strict=True)])
    monkeypatch.setattr(loop, "validate", lambda *_: next(said))


@pytest.mark.parametrize(("select", "best", "rates"), [("loss", 1, [0.01] * 5 + [0.005]), ("mae", 4, [0.01] * 6)])
def test_values_are_chosen_by_the_loss_or_by_the_absolute_error_and_by_nothing_else(monkeypatch, select, best, rates):
    """Which weights are kept, when training stops, and when the rate is halved."""
    scripted(monkeypatch, [1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9], [0.9, 0.8, 0.8, 0.8, 0.3, 0.4, 0.4, 0.4])
    whole = memory_table(task=VALUES, y=np.linspace(-3, 3, 60, dtype=np.float32), signal=0.0)
    found = trained(lambda: Tiny(VALUES), whole=whole, epochs=8, patience=4, select=select)
    assert found.best_epoch == best
    assert len(found.history) == min(best + 1 + 4, 8)
    assert [epoch["lr"] for epoch in found.history][:6] == pytest.approx(rates)


def test_classes_are_chosen_by_the_loss_whatever_a_head_prefers_for_values():
    assert_same(trained(select="mae"), trained(select="loss"))
    assert Model.of("hcl").training.select == "mae"
    assert Model.of("cmsta").training.select == "loss"


def test_labels_are_trained_one_by_one_and_predicted_as_probabilities_of_their_own():
    whole = emotions_table()
    found = trained(lambda: Tiny(EMOTIONS), whole=whole, epochs=40, lr=0.05)
    head = Tiny(EMOTIONS)
    head.load_state_dict(found.state)
    part = whole.subset(Split.VALID)
    p, y = predict(head, part, RAW, 5, "cpu"), part.y > 0
    assert p.shape == (12, 6)
    wanted = -np.where(y, np.log(p), np.log1p(-p)).mean()  # cross-entropy of yes and no, over samples and labels
    assert wanted == pytest.approx(found.history[found.best_epoch]["valid_loss"], rel=1e-4)
    assert ((p > 0.5) == y).mean() > 0.9
    assert not found.collapsed


def test_how_strongly_a_label_holds_does_not_matter_to_its_loss():
    weak = trained(lambda: Tiny(EMOTIONS), whole=emotions_table(y=np.sign(emotions_of(60))), epochs=2)
    assert_same(weak, trained(lambda: Tiny(EMOTIONS), whole=emotions_table(), epochs=2))


@pytest.mark.parametrize("name", catalog.names("head"))
def test_every_head_learns_several_labels_at_once(name):
    model, whole = Model.of(name, settings=SMALL.get(name, [])), emotions_table()
    make = lambda: model.build({TEXT: 8, IMAGE: 6}, EMOTIONS)  # noqa: E731
    found = trained(make, whole=whole, epochs=3, lr=1e-3)
    assert found.history[-1]["train_loss"] < found.history[0]["train_loss"]
    head = make()
    head.load_state_dict(found.state)
    assert predict(head, whole.subset(Split.TEST), RAW, 8, "cpu").shape == (12, 6)


# --- chance and interruption --------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, two, three = trained(seed=1), trained(seed=1), trained(seed=2)
    assert_same(one, two)
    assert not torch.equal(one.state["out.weight"], three.state["out.weight"])


def test_what_was_drawn_before_a_training_has_no_say():
    one = trained()
    torch.rand(5)
    np.random.default_rng().random()
    assert_same(one, trained())


class Killed(BaseException):
    pass


def kill_at(*epochs):
    """A log that ends the training when these lines come by."""
    left = [f"epoch {n}/" for n in epochs]

    def log(line):
        if left and left[0] in line:
            raise Killed(left.pop(0))

    return log


HOW = {
    "plateau": {"schedule": "plateau", "warmup_epochs": 1.0, "epochs": 12, "lr": 0.2},
    "cosine": {"schedule": "cosine", "warmup_epochs": 1.5, "epochs": 6},
    "early stop": {"schedule": "none", "patience": 2, "epochs": 30, "lr": 0.1},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_training_killed_in_every_epoch_ends_as_an_uninterrupted_one_bit_for_bit(tmp_path, how):
    whole = memory_table(y=np.random.default_rng(0).integers(0, 3, 60).astype(np.float32))
    straight = trained(whole=whole, **how)
    epochs = len(straight.history)
    assert epochs >= 4
    assert (len({epoch["lr"] for epoch in straight.history}) > 1) is (how["schedule"] != "none")
    checkpoint, log, lines = tmp_path / "a" / "checkpoint.pt", kill_at(*range(1, epochs + 1)), []
    for _ in range(epochs):
        with pytest.raises(Killed):
            trained(whole=whole, checkpoint=checkpoint, log=log, **how)
        torch.rand(7)  # whatever else drew numbers in between
    assert_same(trained(whole=whole, checkpoint=checkpoint, log=lines.append, **how), straight)
    assert lines[0] == f"seed 1: goes on after epoch {epochs - 1}"


def test_a_training_that_had_ended_is_taken_from_its_checkpoint(tmp_path):
    checkpoint, lines = tmp_path / "checkpoint.pt", []
    one = trained(checkpoint=checkpoint)
    two = trained(checkpoint=checkpoint, log=lines.append)
    assert_same(one, two)
    assert two.seconds == one.seconds > 0  # what it took, not what reading it took
    assert lines == ["seed 1: goes on after epoch 4"]


def test_skipped_steps_are_counted_across_an_interruption(tmp_path):
    make, checkpoint = (lambda: Trap([0])), tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        trained(make, checkpoint=checkpoint, log=kill_at(3))
    assert trained(make, checkpoint=checkpoint).skipped_steps == 4


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    trained(checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="was made with other settings"):
        trained(checkpoint=checkpoint, lr=0.02)


def test_a_checkpoint_of_another_version_of_the_head_is_refused(tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    trained(checkpoint=checkpoint)
    state = torch.load(checkpoint, weights_only=True)
    state["head"] = {f"old.{name}": value for name, value in state["head"].items()}
    torch.save(state, checkpoint)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt do not fit .* Missing key"):
        trained(checkpoint=checkpoint)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint, real, count = tmp_path / "checkpoint.pt", os.rename, []

    def torn(temporary, path, **folders):
        count.append(path)
        if len(count) == 3:
            os.close(os.open(temporary, os.O_WRONLY | os.O_TRUNC, dir_fd=folders.get("src_dir_fd")))
            raise Killed
        real(temporary, path, **folders)

    monkeypatch.setattr(os, "rename", torn)
    with pytest.raises(Killed):
        trained(checkpoint=checkpoint)
    lines = []
    assert_same(trained(checkpoint=checkpoint, log=lines.append), trained())
    assert lines[0] == "seed 1: goes on after epoch 2"


# --- collapse -----------------------------------------------------------------------------------------------------


def test_a_collapse_is_restarted_once_at_a_quarter_of_the_rate_and_named():
    lines = []
    found = trained(Fragile, lr=0.04, epochs=12, log=lines.append)
    assert found.restarted_at == 0.01
    assert not found.collapsed
    assert "seed 1: collapsed to one answer at lr 0.04; once more at lr 0.01" in lines
    straight = trained(Fragile, lr=0.01, epochs=12)
    assert straight.restarted_at is None
    assert_same(replace(found, restarted_at=None), straight)


def test_the_time_of_a_restarted_training_is_that_of_both_attempts(monkeypatch):
    clock = iter(range(1000))  # asked before and after every epoch: each takes a second
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    assert trained(Fragile, lr=0.01, epochs=3).seconds == 3
    assert trained(Fragile, lr=0.04, epochs=3).seconds == 6


def test_a_collapse_that_stays_is_reported_as_one_and_not_restarted_again():
    lines = []
    found = trained(Constant, log=lines.append)
    assert found.collapsed
    assert found.restarted_at == 0.0025
    assert sum("collapsed" in line for line in lines) == 1
    assert sum("epoch 1/" in line for line in lines) == 2


def test_a_restart_that_is_killed_begins_again_and_ends_the_same(tmp_path):
    lines, checkpoint = [], tmp_path / "checkpoint.pt"

    def log(line):
        lines.append(line)
        if sum("epoch 2/" in line for line in lines) == 2:
            raise Killed

    with pytest.raises(Killed):
        trained(Fragile, lr=0.04, checkpoint=checkpoint, log=log)
    assert_same(trained(Fragile, lr=0.04, checkpoint=checkpoint), trained(Fragile, lr=0.04))


def test_one_class_is_no_collapse_where_the_training_labels_are_one():
    found = trained(Constant, whole=memory_table(y=np.zeros(60, np.float32)))
    assert not found.collapsed
    assert found.restarted_at is None


def test_a_collapse_of_labels_is_one_answer_to_everything_and_not_a_row_of_noes():
    collapsed = trained(lambda: Constant(EMOTIONS), whole=emotions_table())
    assert collapsed.collapsed
    rare = emotions_table(y=emotions_of(60) * (np.arange(60) % 5 == np.arange(60) // 15)[:, None])
    found = trained(lambda: Tiny(EMOTIONS), whole=rare, epochs=8, lr=0.02)
    head = Tiny(EMOTIONS)
    head.load_state_dict(found.state)
    p = predict(head, rare.subset(Split.VALID), RAW, 8, "cpu")
    assert not (p > 0.5).any() and np.ptp(p, 0).max() > 0.01
    assert not found.collapsed and found.restarted_at is None
    same = emotions_table(y=np.tile(np.float32([1, 0, 2, 0, 0, 0]), (60, 1)) * (1 + np.arange(60) % 2)[:, None])
    assert not trained(lambda: Constant(EMOTIONS), whole=same, epochs=1).collapsed  # there is but one answer


def test_a_collapse_is_judged_by_the_weights_that_are_kept(monkeypatch):
    """One class in the first epoch and three in the best one is a good training, and the other way round a bad one."""
    for script, collapsed in (([(1.0, 1), (0.5, 3), (0.9, 1)], False), ([(1.0, 3), (0.5, 1), (0.9, 3)], True)):
        said = iter([Validation({"valid_loss": loss}, distinct) for loss, distinct in script * 2])
        monkeypatch.setattr(loop, "validate", lambda *_, said=said: next(said))
        assert trained(epochs=3).collapsed is collapsed


# --- learning rates -----------------------------------------------------------------------------------------------


def rates(steps):
    return [rate[0] for rate, _ in steps]


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0, 2.0])
def test_the_rate_rises_in_a_straight_line_to_its_full_height_and_stays(steps, warmup):
    trained(epochs=4, schedule="none", warmup_epochs=warmup)
    full = math.ceil(warmup * 5)  # five steps an epoch
    wanted = [0.01 * min(1, (k + 1) / max(1, warmup * 5)) for k in range(20)]
    assert rates(steps) == pytest.approx(wanted)
    assert rates(steps)[full:] == [0.01] * (20 - full)


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_cosine_falls_from_the_full_rate_to_nothing_as_pytorchs_does(steps, warmup):
    trained(epochs=5, schedule="cosine", warmup_epochs=warmup)
    start = int(warmup * 5)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=25 - start)
    wanted = []
    for _ in range(25 - start):
        wanted.append(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()
    assert rates(steps)[start:] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 1.0, 2.0])
def test_a_plateau_halves_the_rate_after_more_than_two_epochs_without_a_better_loss(steps, monkeypatch, warmup):
    losses = [1.0, 0.9, 0.8, 0.85, 0.85, 0.85, 0.7, 0.75, 0.75, 0.75, 0.6]
    said = iter(losses)
    monkeypatch.setattr(loop, "validate", lambda *_: Validation({"valid_loss": next(said)}, 3))
    found = trained(epochs=len(losses), schedule="plateau", warmup_epochs=warmup)
    wanted = [0.01] * 6 + [0.005] * 4 + [0.0025]  # epochs 3 to 5 and 7 to 9 were no better
    assert rates(steps)[9::5] == pytest.approx(wanted[1:])
    assert [epoch["lr"] for epoch in found.history][1:] == pytest.approx(wanted[1:])


def test_rates_of_several_groups_keep_their_proportion(steps):
    class Groups(Tiny):
        def param_groups(self, lr):
            return [
                {"params": list(self.body.parameters()), "lr": lr},
                {"params": list(self.out.parameters()), "lr": lr / 10},
            ]

    trained(Groups, epochs=4, schedule="cosine", warmup_epochs=1.0)
    assert len(steps) == 20
    assert all(b == pytest.approx(a / 10) for (a, b), _ in steps)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": 0.0}, "must be above 0"),
        ({"lr": math.nan}, "must be above 0"),
        ({"epochs": 0}, "must be above 0"),
        ({"batch": -1}, "must be above 0"),
        ({"patience": 0}, "must be above 0"),
        ({"clip": -1.0}, "must not be below 0"),  # would climb the gradient
        ({"warmup_epochs": -1.0}, "must not be below 0"),
        ({"weight_decay": -0.1}, "must not be below 0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"select": "f1"}, "select is 'f1', which is not one of its choices"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        config(**wrong)


def test_a_modality_to_normalise_that_does_not_exist_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'audio'"):
        config(normalise=("audoi",))
