"""TETFN: what text does to the others, and the labels of single modalities by hand."""

import numpy as np
import pytest
import torch

from msa.fuse.data.table import Normalisation
from msa.fuse.head import Batch
from msa.fuse.heads.tetfn import TETFN, Config, highest
from msa.fuse.modules.unimodal import JOINT, UnimodalLabels
from msa.fuse.train.config import TrainConfig
from msa.fuse.train.loop import fit
from msa.types import SENTIMENT, Modality, Split, Task
from tests.fuse.batches import EMOTIONS, random_batch
from tests.fuse.conftest import memory_table

TEXT, AUDIO, FACE = Modality.TEXT, Modality.AUDIO, Modality.FACE
DIMS = {TEXT: 7, AUDIO: 5, FACE: 6}
SMALL = Config(dim=10, heads=2, layers=1, rnn=4, joint=6, unimodal=5)
RANGE = Task(low=-3.0, high=3.0)
ROWS, HERE = torch.arange(4), {"text": torch.ones(4).bool(), "audio": torch.ones(4).bool()}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def labels(task=RANGE):
    return UnimodalLabels(task, ["text", "audio"], {JOINT: 3, "text": 2, "audio": 2})


def vectors(size=4):
    return {JOINT: torch.rand(size, 3), "text": torch.rand(size, 2), "audio": torch.rand(size, 2)}


def self_mm(now, before, y, i, name, own=None):
    """The label of sample i from its own vectors and those the rows were last seen with; `own` are the modality's."""
    alpha = {}
    for part, known in ((JOINT, y), (name, y if own is None else own)):
        positive, negative = (
            torch.stack([v for v, s in zip(before[part], known, strict=True) if keep(s)]).mean(0)
            for keep in (lambda s: s > 0, lambda s: s < 0)
        )
        near, far = (now[part][i] - positive).norm(), (now[part][i] - negative).norm()
        alpha[part] = (far - near) / near
    y_m, ratio = y[i], alpha[name] / alpha[JOINT]
    return ((y_m * ratio + y_m + alpha[name] - alpha[JOINT]) / 2).clamp(-3, 3)


def test_labels_of_values_move_as_in_self_mm():
    made, y = labels(), torch.tensor([1.0, -2.0, 0.5, -1.0])
    first, second, third = vectors(), vectors(), vectors()
    made.update(first, HERE, ROWS, y)
    torch.testing.assert_close(made.target, y[:, None, None].expand(4, 2, 1))  # epoch 1: the sample's own
    made.update(second, HERE, ROWS, y)
    for i in range(4):
        for j, name in enumerate(("text", "audio")):
            expected = y[i] / 3 + 2 / 3 * self_mm(second, first, y, i, name)  # epoch 2: 1/3 old and 2/3 new
            torch.testing.assert_close(made.target[i, j, 0], expected, rtol=1e-4, atol=1e-5)
    before = made.target.clone()
    made.update(third, HERE, ROWS, y)
    expected = before[0, 0, 0] / 2 + self_mm(third, second, y, 0, "text") / 2  # epoch 3: half and half
    torch.testing.assert_close(made.target[0, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_centres_of_a_modality_are_of_its_own_labels():
    made, y = labels(), torch.tensor([1.0, -2.0, 0.5, -1.0])
    first, second = vectors(), vectors()
    made.update(first, HERE, ROWS, y)
    own = torch.tensor([1.0, -2.0, -0.5, -1.0])  # the third has become negative in the text
    made.target[:, 0, 0] = own
    made.update(second, HERE, ROWS, y)
    expected = own[2] / 3 + 2 / 3 * self_mm(second, first, y, 2, "text", own)
    torch.testing.assert_close(made.target[2, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_labels_of_classes_follow_the_shares_of_distances():
    made, y = labels(SENTIMENT), torch.tensor([0, 1, 2, 1])
    first, second = vectors(), vectors()
    made.update(first, HERE, ROWS, y)
    made.update(second, HERE, ROWS, y)
    for i in range(4):
        found = torch.zeros(3)
        for c in range(3):
            share = {}
            for part in (JOINT, "text"):
                near = (second[part][i] - first[part][y == c].mean(0)).norm()
                far = (second[part][i] - first[part][y != c].mean(0)).norm()
                share[part] = far / (near + far)
            found[c] = ((y[i] == c).float() + share["text"] - share[JOINT]).clamp(0, 1)
        one_hot = torch.eye(3)[y[i]]
        torch.testing.assert_close(made.target[i, 0], one_hot / 3 + 2 / 3 * found / found.sum())


def test_labels_of_several_at_a_time_stay_between_no_and_yes():
    made, y = labels(EMOTIONS), torch.randint(2, (4, 6)).float()
    for _ in range(3):
        made.update(vectors(), HERE, ROWS, y)
    assert ((made.target >= 0) & (made.target <= 1)).all()
    assert (made.target != y[:, None]).any()


def test_a_modality_that_a_sample_lacks_pulls_no_centre():
    y = torch.tensor([1.0, -2.0, 0.5, -1.0])
    first, second, elsewhere = vectors(), vectors(), vectors()
    lacks = HERE | {"text": torch.tensor([1, 1, 0, 1]).bool()}
    found = []
    for text in (first["text"], torch.where(lacks["text"][:, None], first["text"], elsewhere["text"])):
        made = labels()
        made.update(first | {"text": text}, lacks, ROWS, y)
        made.update(second, HERE, ROWS, y)
        found.append(made.target)
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


def test_an_error_counts_as_much_as_the_label_has_moved_and_in_full_at_first():
    made, y = labels(), torch.tensor([1.0, -2.0, 0.5, -1.0])
    outputs = {name: torch.randn(4, 1) for name in ("text", "audio")}
    plain = sum((o[:, 0] - y).abs().mean() for o in outputs.values())
    torch.testing.assert_close(made.losses(outputs, HERE, ROWS, y), plain)
    made.update(vectors(), HERE, ROWS, y)
    torch.testing.assert_close(made.losses(outputs, HERE, ROWS, y), plain)  # seen, and not yet moved
    made.update(vectors(), HERE, ROWS, y)
    moved = [
        (made.target[:, j, 0] - y).abs().tanh() * (o[:, 0] - made.target[:, j, 0]).abs()
        for j, o in enumerate(outputs.values())
    ]
    torch.testing.assert_close(made.losses(outputs, HERE, ROWS, y), sum(m.mean() for m in moved))


def test_a_class_without_samples_leaves_the_labels_as_they_are():
    made, y = labels(), torch.tensor([1.0, 2.0, 0.5, 1.0])
    for _ in range(3):
        made.update(vectors(), HERE, ROWS, y)
    torch.testing.assert_close(made.target, y[:, None, None].expand(4, 2, 1))


def trained(head, batch, steps=3):
    for _ in range(steps):
        sum(head.train().step(batch)[1].values()).backward()
    return head


@pytest.mark.parametrize("task", [RANGE, SENTIMENT, EMOTIONS], ids=["values", "classes", "labels"])
def test_a_checkpoint_holds_the_labels_whatever_the_rows(task):
    batch = random_batch(DIMS, task)
    batch = Batch(batch.x, batch.mask, batch.y, batch.row + 1000)
    head, other = trained(TETFN(SMALL, DIMS, task), batch), TETFN(SMALL, DIMS, task)
    other.load_state_dict(head.state_dict())
    assert other.labels.visits(batch.row).tolist() == [3] * 8 and not other.labels.visits(batch.row - 10).any()
    losses = []
    for one in (head, other):
        torch.manual_seed(1)
        losses.append(one.train().step(batch)[1])
    torch.testing.assert_close(*losses)
    other.load_state_dict(TETFN(SMALL, DIMS, task).state_dict())  # and back to one that knows no row
    assert not other.labels.visits(batch.row).any()


def test_validation_sees_one_term_and_moves_no_label():
    batch = random_batch(DIMS, RANGE)
    head = trained(TETFN(SMALL, DIMS, RANGE), batch).eval()
    before = head.labels.target.clone()
    assert head.step(batch)[1].keys() == {"task"}
    torch.testing.assert_close(head.labels.target, before, atol=0, rtol=0)
    assert head.train().step(batch)[1].keys() == {"task", "unimodal"}
    assert TETFN(SMALL, {TEXT: 7}, RANGE).train().step(batch)[1].keys() == {"task"}


def test_a_step_goes_through_the_transformers_once():
    head, batch, times = TETFN(SMALL, DIMS, RANGE).eval(), random_batch(DIMS, RANGE), []
    head.fuse.register_forward_hook(lambda *_: times.append(1))
    output, terms = head.step(batch)
    torch.testing.assert_close(terms["task"], (output[:, 0] - batch.y).abs().mean())
    assert len(times) == 1


def test_audio_reads_the_face_through_text():
    head, batch = TETFN(SMALL, DIMS, RANGE).eval(), random_batch(DIMS, RANGE, full=True)
    z = {m: head.place(x) for m, x in head.embedded(batch).items()}
    other = z | {TEXT: torch.randn_like(z[TEXT])}
    assert not torch.allclose(head._stream(AUDIO, FACE, z, batch.mask), head._stream(AUDIO, FACE, other, batch.mask))
    enhanced = head.enhance["face_to_audio"](z[FACE], z[TEXT], batch.mask[TEXT])
    expected = head.cross["face_to_audio"](z[AUDIO], head.place(enhanced), batch.mask[FACE])
    torch.testing.assert_close(head._stream(AUDIO, FACE, z, batch.mask), expected)
    plain = head.cross["face_to_text"](z[TEXT], z[FACE], batch.mask[FACE])
    torch.testing.assert_close(head._stream(TEXT, FACE, z, batch.mask), plain)
    assert sorted(head.enhance) == ["audio_to_face", "face_to_audio"]


def test_the_highest_step_is_a_valid_one():
    x, mask = torch.randn(3, 4, 2), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    expected = torch.stack([x[0, :2].max(0).values, x[1].max(0).values, torch.zeros(2)])
    torch.testing.assert_close(highest(x, mask), expected)


def test_a_killed_training_goes_on_with_the_labels_it_had(tmp_path):
    whole = memory_table(n=30, task=RANGE, y=np.linspace(-2, 2, 30, dtype=np.float32))
    make = lambda: TETFN(SMALL, whole.dims, RANGE)  # noqa: E731
    config = TrainConfig(batch=8, epochs=4, patience=9)

    def train(checkpoint=None, kill_at=None):
        def after(epoch, head, losses):
            if epoch == kill_at:
                raise KeyboardInterrupt

        parts = whole.subset(Split.TRAIN), whole.subset(Split.VALID)
        return fit(make, *parts, Normalisation({}), config, 1, "cpu", checkpoint, after_epoch=after)

    straight = train()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "checkpoint.pt", kill_at=3)
    resumed = train(tmp_path / "checkpoint.pt")
    assert resumed.history == straight.history
    assert all(epoch["train_unimodal"] > 0 for epoch in straight.history)
    assert all(torch.equal(resumed.state[name], straight.state[name]) for name in straight.state)


def test_a_class_without_samples_does_not_stop_the_labels_of_the_others():
    made, y = labels(SENTIMENT), torch.tensor([0, 2, 2, 0])
    for _ in range(3):
        made.update(vectors(), HERE, ROWS, y)
    one_hot = torch.eye(3)[y]
    assert (made.target != one_hot[:, None]).any() and (made.target[:, :, 1] == 0).all()
    torch.testing.assert_close(made.target.sum(2), torch.ones(4, 2))


def test_a_value_in_the_middle_belongs_to_neither_centre():
    labels = UnimodalLabels(Task(low=-3.0, high=3.0), ["text"], {JOINT: 2, "text": 2})
    known, has = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, 0.0]]), torch.ones(3)
    far, near = labels._distances(torch.zeros(1, 2), known, has, torch.tensor([[2.0], [0.0], [-2.0]]))
    assert (far.item(), near.item()) == (1.0, 3.0)
