"""What the pictures of a run show: numbers of lines, dots, cells and bars, read back from the figure."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from msa.fuse import metrics
from msa.fuse.runs import plots
from msa.fuse.train.result import TrainResult
from tests.fuse.batches import EMOTIONS


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would be written."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    return figures


def points(line):
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_a_learning_curve_has_both_losses_of_every_seed_and_a_dot_at_the_epoch_kept(drawn, tmp_path):
    history = [{"train_loss": 9.0, "train_task": 3.0, "valid_loss": 2.5}, {"train_loss": 1.0, "valid_loss": 2.0}]
    fits = {42: TrainResult({}, history, best_epoch=1), 43: TrainResult({}, history[::-1], best_epoch=0)}
    plots.learning_curve(tmp_path / "a.png", fits, "probe on clips")
    axes = drawn[0].axes[0]
    assert [points(line) for line in axes.lines] == [
        ([1, 2], [3.0, 1.0]),  # the task's own loss, where there are others beside it
        ([1, 2], [2.5, 2.0]),
        ([2], [2.0]),
        ([1, 2], [1.0, 3.0]),
        ([1, 2], [2.0, 2.5]),
        ([1], [2.0]),
    ]
    assert [line.get_linestyle() for line in axes.lines[:2]] == [":", "-"]
    assert [to_hex(line.get_color()) for line in axes.lines] == [to_hex("C0")] * 3 + [to_hex("C1")] * 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["seed 42", "seed 43"]


def test_a_confusion_matrix_shows_shares_of_the_true_class_and_mean_counts(drawn, tmp_path):
    y = np.array([0, 0, 0, 0, 1, 1])
    one = np.eye(3)[[0, 0, 0, 1, 1, 2]]
    two = np.eye(3)[[0, 0, 0, 0, 1, 1]]
    plots.confusion_matrix(tmp_path / "a.png", ("sad", "calm", "glad"), y, [one, two], "t")
    axes = drawn[0].axes[0]
    cells = {(int(t.get_position()[1]), int(t.get_position()[0])): t for t in axes.texts}
    expected = {(0, 0): "88%\n3.5", (0, 1): "12%\n0.5", (0, 2): "0%\n0.0", (1, 1): "75%\n1.5", (1, 2): "25%\n0.5"}
    expected |= {(1, 0): "0%\n0.0", (2, 0): "0%\n0.0", (2, 1): "0%\n0.0", (2, 2): "0%\n0.0"}  # no sample is glad
    assert {place: text.get_text() for place, text in cells.items()} == expected
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.875, 0.125, 0], [0, 0.75, 0.25], [0, 0, 0]])
    assert axes.images[0].get_clim() == (0, 1)
    assert [cells[place].get_color() for place in ((0, 0), (0, 1))] == ["white", "black"]
    assert "mean of 2 seeds" in axes.get_title()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_bars_of_labels_are_means_over_seeds_with_a_dot_for_each(drawn, tmp_path):
    chance = np.random.default_rng(0)
    y = (chance.random((40, 6)) < 0.4).astype(np.float32)
    outputs = [chance.random((40, 6)), chance.random((40, 6))]
    plots.each_label(tmp_path / "a.png", EMOTIONS, y, outputs, "t")
    axes = drawn[0].axes[0]
    scores = [metrics.score(EMOTIONS, y, output).values for output in outputs]
    for container, name in zip(axes.containers, ("weighted_accuracy", "f1"), strict=True):
        each = np.array([[values[f"{name}_{c}"] for c in EMOTIONS.classes] for values in scores])
        np.testing.assert_allclose([bar.get_height() for bar in container], each.mean(0))
    middles = [[bar.get_x() + bar.get_width() / 2 for bar in container] for container in axes.containers]
    np.testing.assert_allclose(middles, [np.arange(6) - 0.2, np.arange(6) + 0.2])
    shares = [f"{name}\n{share:.0%}" for name, share in zip(EMOTIONS.classes, (y > 0).mean(0), strict=True)]
    assert [label.get_text() for label in axes.get_xticklabels()] == shares


def test_values_of_each_seed_stand_beside_each_other_around_the_true_one(drawn, tmp_path):
    y = np.array([-1.0, 1.0])
    outputs = {1: np.array([[-3.0], [0.5]]), 2: np.array([[0.0], [0.0]]), 3: np.array([[1.0], [1.0]])}
    plots.predicted_values(tmp_path / "a.png", y, outputs, "t")
    *seeds, line = drawn[0].axes[0].lines
    np.testing.assert_allclose([s.get_xdata() for s in seeds], [y - 0.02, y, y + 0.02])
    assert [points(s)[1] for s in seeds] == [[-3.0, 0.5], [0.0, 0.0], [1.0, 1.0]]
    assert points(line) == ([-3.0, 1.0], [-3.0, 1.0])


def test_a_forest_has_the_first_row_on_top_and_constants_as_lines(drawn, tmp_path):
    rows = [("best", 0.8, (0.7, 0.9), [0.75, 0.85]), ("probe", 0.6, (0.5, 0.7), [0.6])]
    plots.forest(tmp_path / "a.png", rows, "accuracy", "t", {"majority": 0.4})
    axes = drawn[0].axes[0]
    assert [points(line) for line in axes.lines] == [
        ([0.7, 0.9], [1, 1]),
        ([0.75, 0.85], [1, 1]),
        ([0.8], [1]),
        ([0.5, 0.7], [0, 0]),
        ([0.6], [0]),
        ([0.6], [0]),
        ([0.4, 0.4], [0, 1]),
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["probe", "best"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["majority"]
    plots.forest(tmp_path / "b.png", rows, "accuracy", "t", {})
    assert drawn[1].axes[0].get_legend() is None


def test_measured_and_printed_figures_share_a_row_and_an_axis_from_zero(drawn, tmp_path):
    pairs = {"accuracy": [(0.7, 0.8), (0.6, 0.9)], "F1": [(0.5, 0.4), (0.3, 0.2)]}
    plots.beside_printed(tmp_path / "a.png", ["full", "without"], pairs, "t")
    for panel, (what, values) in zip(drawn[0].axes, pairs.items(), strict=True):
        ours, printed = zip(*values, strict=True)
        assert [points(line) for line in panel.lines] == [(list(ours), [1, 0]), (list(printed), [1, 0])]
        assert (panel.get_xlabel(), panel.get_xlim()[0]) == (what, 0)
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["full", "without"]
    assert [text.get_text() for text in drawn[0].axes[-1].get_legend().get_texts()] == ["here", "printed"]


def test_a_title_with_dollars_is_no_mathematics(tmp_path):
    plots.forest(tmp_path / "a.png", [("$x_$", 0.5, (0.4, 0.6), [0.5])], "a$", "$\\frac{$ and $", {})
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
