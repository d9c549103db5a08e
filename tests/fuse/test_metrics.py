"""Every metric by hand or by a second route."""

import numpy as np
import pytest
from scipy.stats import binom, pearsonr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from msa.fuse import metrics
from msa.fuse.experiments import tables
from msa.types import SENTIMENT, Task
from tests.fuse.batches import EMOTIONS
from tests.fuse.conftest import VALUES

TWO = Task(classes=("bad", "good"))
SIMS = Task(low=-1.0, high=1.0)
OTHER = Task(low=0.0, high=10.0)
FEAR = Task(classes=("happy", "fear"), multilabel=True)
TASKS = [SENTIMENT, EMOTIONS, VALUES, SIMS, OTHER]


def sure(predicted, n=3):
    """Probabilities that say one class each."""
    return np.eye(n)[np.asarray(predicted)] * 0.8 + 0.2 / n


def single(y):
    """Every sample a group of its own, whatever the groups are called."""
    return 3 * np.arange(len(y))[::-1]


def random_case(n=200, seed=0):
    """Labels of uneven classes and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.2, 0.1, 0.7])
    logits = rng.normal(size=(n, 3)) + 0.8 * np.eye(3)[y]
    return y, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_accuracy_precision_recall_and_f1_worked_out_by_hand():
    """Truth nnn uu ppppp, said nnu up ppppn: of class n 2 of 3 said are right and 2 of 3 true found, and so on."""
    y, said = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2, 2, 2, 0]
    found = metrics.score(SENTIMENT, np.array(y), sure(said)).values
    precision, recall = np.array([2 / 3, 1 / 2, 4 / 5]), np.array([2 / 3, 1 / 2, 4 / 5])
    f1, share = np.array([2 / 3, 1 / 2, 4 / 5]), np.array([0.3, 0.2, 0.5])
    assert found["accuracy"] == pytest.approx(0.7)
    for name, values in {"precision": precision, "recall": recall, "f1": f1}.items():
        assert found[f"{name}_weighted"] == pytest.approx(values @ share)
        assert found[f"{name}_macro"] == pytest.approx(values.mean())
    assert found["predicted_classes"] == 3


@pytest.mark.parametrize("average", ["weighted", "macro"])
def test_every_figure_is_scikit_learns(average):
    y, p = random_case()
    found, said = metrics.score(SENTIMENT, y, p).values, p.argmax(1)
    assert found["accuracy"] == accuracy_score(y, said)
    assert found[f"precision_{average}"] == pytest.approx(precision_score(y, said, average=average))
    assert found[f"recall_{average}"] == pytest.approx(recall_score(y, said, average=average))
    assert found[f"f1_{average}"] == pytest.approx(f1_score(y, said, average=average))
    auroc = roc_auc_score(y, p, multi_class="ovr", average=average)
    assert found[f"auroc_{average}"] == pytest.approx(auroc)


def test_weighted_recall_is_accuracy_as_in_every_row_of_the_paper():
    y, p = random_case(seed=1)
    found = metrics.score(SENTIMENT, y, p).values
    assert found["recall_weighted"] == pytest.approx(found["accuracy"])


def test_the_arguments_of_f1_are_truth_then_prediction():
    """Public code swaps them, which weights each class by how often it is said: .710 in place of .690 here."""
    y, said = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0])
    bad, good = 2 * 2 / (4 + 3), 2 * 5 / (6 + 7)  # twice the hits over true plus said
    found = metrics.score(TWO, y, sure(said, 2)).values["f1_weighted"]
    assert found == pytest.approx(0.4 * bad + 0.6 * good)
    assert found == pytest.approx(0.690, abs=5e-4)
    swapped = metrics.score(TWO, said, sure(y, 2)).values["f1_weighted"]
    assert swapped == pytest.approx(0.3 * bad + 0.7 * good)
    assert swapped == pytest.approx(0.710, abs=5e-4)


def test_the_harmonic_f1_is_that_of_weighted_precision_and_recall():
    """The printed row of a constant predictor of a 59 % class: P .3481, R .59, F1 .4379, which is both kinds of F1."""
    y = np.repeat([0, 2], [41, 59])
    found = metrics.score(SENTIMENT, y, sure([2] * 100)).values
    assert found["precision_weighted"] == pytest.approx(0.3481)
    assert found["f1_harmonic"] == pytest.approx(2 * 0.3481 * 0.59 / (0.3481 + 0.59))
    assert found["f1_weighted"] == pytest.approx(2 * 0.59**2 / 1.59)
    y, p = random_case()
    found = metrics.score(SENTIMENT, y, p).values
    pre, rec = found["precision_weighted"], found["recall_weighted"]
    assert found["f1_harmonic"] == pytest.approx(2 / (1 / pre + 1 / rec))
    assert found["f1_harmonic"] != pytest.approx(found["f1_weighted"], abs=1e-3)
    assert metrics.score(SENTIMENT, np.array([0, 0]), sure([1, 2])).values["f1_harmonic"] == 0


def test_auroc_is_the_chance_that_a_sample_of_the_class_is_ranked_above_another():
    y, p = random_case(60)
    each, support = [], []
    for c in range(3):
        mine, others = p[y == c, c], p[y != c, c]
        each.append(np.mean([(a > b) + (a == b) / 2 for a in mine for b in others]))
        support.append(len(mine))
    found = metrics.score(SENTIMENT, y, p).values
    assert found["auroc_macro"] == pytest.approx(np.mean(each))
    assert found["auroc_weighted"] == pytest.approx(np.average(each, weights=support))


def test_auroc_skips_an_absent_class_and_names_it():
    y, p = random_case()
    y, p = y[y != 1], p[y != 1]
    score = metrics.score(SENTIMENT, y, p)
    each = [roc_auc_score(y == c, p[:, c]) for c in (0, 2)]
    assert score.values["auroc_macro"] == pytest.approx(np.mean(each))
    assert score.values["auroc_weighted"] == pytest.approx(np.average(each, weights=[(y == 0).sum(), (y == 2).sum()]))
    assert any("AUROC leaves out neutral" in note for note in score.notes)
    assert metrics.score(SENTIMENT, *random_case()).notes == ()


def test_auroc_of_a_single_class_is_undefined_and_says_so():
    score = metrics.score(SENTIMENT, np.zeros(4, int), sure([0, 1, 0, 0]))
    assert np.isnan(score.values["auroc_weighted"])
    assert np.isnan(score.values["auroc_macro"])
    assert score.notes == ("AUROC leaves out negative, neutral, positive: no sample, or nothing else",)


def test_a_constant_predictor_is_named_as_a_collapse():
    y, _ = random_case()
    score = metrics.score(SENTIMENT, y, sure([2] * len(y)))
    assert score.values["predicted_classes"] == 1
    assert score.values["auroc_weighted"] == 0.5
    assert score.notes == ("collapsed: every sample is called positive",)
    constant_truth = metrics.score(SENTIMENT, np.full(3, 2), sure([2] * 3))
    assert not any("collapsed" in note for note in constant_truth.notes)


def test_correlation_and_error_are_those_of_unclipped_values():
    rng = np.random.default_rng(0)
    y, p = rng.uniform(-3, 3, 50), rng.normal(size=50) * 9
    found = metrics.score(VALUES, y, p[:, None])
    assert found.values["corr"] == pytest.approx(pearsonr(p, y).statistic)
    assert found.values["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(y, p, strict=True)) / 50)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("y", "p"), [([1.0, 2.0, 3.0], [0.5, 0.5, 0.5]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0], [2.0])]
)
def test_correlation_of_constants_is_0_and_flagged_never_nan(y, p):
    score = metrics.score(VALUES, np.array(y), np.array(p)[:, None])
    assert score.values["corr"] == 0
    assert "undefined for constant values" in score.notes[0]
    assert np.isfinite(score.values["mae"])


def test_the_bootstrap_interval_of_accuracy_is_the_binomial_one():
    """Resampling n outcomes, k of them right, is drawing from a binomial: its quantiles, up to 1,000 draws' noise."""
    n, k = 300, 234
    y = np.zeros(n, int)
    output = sure([0] * k + [1] * (n - k))
    low, high = metrics.bootstrap(SENTIMENT, y, single(y), [output])["accuracy"]
    wanted = binom.ppf([0.025, 0.975], n, k / n) / n
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.008)


def case_of(task, n, seed=0):
    """Labels (n,) or (n, C) with ties, zeros and rare classes, and outputs that know something of them."""
    rng = np.random.default_rng(seed)
    if task.multilabel:
        y = rng.integers(0, 4, (n, task.outputs)) * (
            rng.random((n, task.outputs)) < np.linspace(0.8, 0.1, task.outputs)
        )
        return y.astype(np.float32), np.clip((y > 0) * 0.4 + rng.random(y.shape) * 0.6, 0, 1)
    if task.classes:
        return random_case(n, seed)
    y = (rng.integers(-6, 7, n) / 6 * task.high).astype(np.float32)
    return y, (y + rng.normal(size=n) * task.high / 2)[:, None]


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("n", [4, 60])
def test_a_drawn_test_set_has_the_figures_it_has_when_it_is_written_out(task, n):
    """The bootstrap only counts how often a sample is drawn; with four samples most draws lack something."""
    y, output = case_of(task, n)
    draws = np.random.default_rng(1).integers(0, n, (20, n))
    w = np.stack([np.bincount(draw, minlength=n) for draw in draws]).astype(float)
    found = metrics._measured(task, y, output, w)
    assert set(metrics.headline(task)) - set(found) <= {"auroc_weighted", "auroc_macro"}
    for i, draw in enumerate(draws):
        whole = metrics.score(task, y[draw], output[draw]).values
        for name, values in found.items():
            assert values[i] == pytest.approx(whole[name], abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_an_interval_holds_the_share_of_drawn_test_sets_it_says(task):
    y, output = case_of(task, 50)
    rng = np.random.default_rng(5)
    draws = [rng.integers(0, 50, 50) for _ in range(100)]
    drawn = [metrics.score(task, y[draw], output[draw]).values for draw in draws]
    for name, (low, high) in metrics.bootstrap(task, y, single(y), [output, output]).items():
        assert np.mean([low <= values[name] <= high for values in drawn]) > 0.9, name
        assert low < metrics.score(task, y, output).values[name] < high


def test_the_bootstrap_averages_seeds_over_the_same_draws():
    """Two seeds that err on different halves: each accuracy varies, their mean hardly can."""
    y = np.zeros(100, int)
    one, two = sure([0] * 50 + [1] * 50), sure([1] * 50 + [0] * 50)
    assert metrics.bootstrap(SENTIMENT, y, single(y), [one, two])["accuracy"] == (0.5, 0.5)
    low, high = metrics.bootstrap(SENTIMENT, y, single(y), [one])["accuracy"]
    assert high - low > 0.15


def test_the_bootstrap_is_the_same_twice_and_covers_the_figure():
    y, p = random_case()
    one, two = (metrics.bootstrap(SENTIMENT, y, single(y), [p, p]) for _ in range(2))
    assert one == two
    found = metrics.score(SENTIMENT, y, p).values
    assert set(one) == {"accuracy", "f1_weighted", "f1_macro"}
    assert all(low < found[name] < high for name, (low, high) in one.items())


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_of_single_samples_the_bootstrap_is_what_it_was_to_the_bit(task):
    """Counts as they were drawn before there were groups."""
    n, (y, output) = 150, case_of(task, 150)
    rng = np.random.default_rng(0)
    w = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(metrics.RESAMPLES)]).astype(np.float64)
    drawn = metrics._measured(task, y, output, w)
    found = metrics.bootstrap(task, y, single(y), [output])
    assert found
    for name, bounds in found.items():
        assert bounds == tuple(np.nanpercentile(drawn[name], [2.5, 97.5]))


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_clips_that_all_say_the_same_count_as_one(task):
    """Ten copies of every sample know no more than the sample: the interval and the p are those of the samples."""
    y, output = case_of(task, 60)
    other = case_of(task, 60, seed=1)[1]
    copied = np.tile(np.arange(60), 10)
    for name, (low, high) in metrics.bootstrap(task, y[copied], copied, [output[copied]]).items():
        assert (low, high) == pytest.approx(metrics.bootstrap(task, y, single(y), [output])[name], abs=1e-9)
    low, high = metrics.bootstrap(task, y, single(y), [output])[metrics.decisive(task)[0]]
    each = metrics.bootstrap(task, y[copied], single(copied), [output[copied]])[metrics.decisive(task)[0]]
    assert each[1] - each[0] < 0.6 * (high - low)  # what was printed before: as if copies were news
    whole = metrics.paired(task, y, single(y), [output], [other])
    assert metrics.paired(task, y[copied], copied, [output[copied]], [other[copied]]) == pytest.approx(whole, abs=1e-9)


def test_a_drawn_test_set_is_of_whole_groups_put_together(monkeypatch):
    """Of groups of 1 to 7 samples, in disorder, by taking the samples themselves and scoring them."""
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    y, p = random_case(60, seed=3)
    group = np.random.default_rng(4).permutation(np.repeat(np.arange(15), np.resize([1, 7, 4], 15)))
    named = group[np.sort(np.unique(group, return_index=True)[1])]  # in the order in which they are met
    rng, by_hand = np.random.default_rng(0), []
    for _ in range(40):
        rows = np.concatenate([np.flatnonzero(group == named[g]) for g in rng.integers(0, 15, 15)])
        by_hand.append(metrics.score(SENTIMENT, y[rows], p[rows]).values["f1_macro"])
    found = metrics.bootstrap(SENTIMENT, y, group, [p])["f1_macro"]
    assert found == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))


def test_few_groups_tell_nothing_from_chance_and_one_has_no_interval():
    y = np.resize(np.arange(3), 90)
    right, wrong = sure(y), sure((y + 1) % 3)
    assert metrics.bootstrap(SENTIMENT, y, np.zeros(90, int), [right]) == {}
    for groups in (1, 2, 5):
        gain, p = metrics.paired(SENTIMENT, y, np.arange(90) % groups, [right], [wrong])
        assert (gain, p) == (1.0, 2.0 ** (1 - groups))


def test_the_majority_knows_the_training_labels_and_nothing_else():
    output = metrics.majority(SENTIMENT, np.array([0, 1, 1, 2], np.float32), 5)
    assert output.tolist() == [[0, 1, 0]] * 5
    assert metrics.majority(FEAR, np.array([[3, 0], [0.5, 0], [0, 1]]), 2).tolist() == [[2 / 3, 1 / 3]] * 2


def test_no_constant_comes_nearer_in_mae_than_the_majority_of_values():
    y = np.array([-3.0, -1.0, 0.0, 0.25, 3.0])
    median = metrics.majority(VALUES, y, 5)
    assert median.tolist() == [[0.0]] * 5
    errors = [np.abs(y - other).mean() for other in np.linspace(-3, 3, 601)]
    assert metrics.score(VALUES, y, median).values["mae"] == pytest.approx(min(errors))


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_a_table_shows_only_metrics_that_are_computed_and_have_a_title(task):
    found = metrics.score(task, *case_of(task, 60)).values
    assert set(metrics.headline(task)) <= set(found) & set(tables.TITLES)
    name, sign = metrics.decisive(task)
    assert name in metrics.headline(task)
    better = case_of(task, 60)[0]
    perfect = better if task.multilabel else np.eye(3)[better] if task.classes else better[:, None]
    best = metrics.score(task, better, perfect).values[name]
    assert sign * best > sign * found[name]  # what is right beats what is half right


# --- values -------------------------------------------------------------------------------------------------------


def of_values(task, y, p, dtype=np.float32):
    """Figures of labels as a store keeps them and of predictions."""
    return metrics.score(task, np.array(y, dtype), np.array(p, np.float64)[:, None])


def test_seven_and_five_steps_are_rounded_half_to_even_after_clipping():
    assert of_values(VALUES, [2.5, 1.5, 0.5, -0.5, -2.5], [2, 2, 0, 0, -2]).values["acc7"] == 1
    assert of_values(VALUES, [2.5, 1.5, 0.5, -0.5, -2.5], [3, 1, 1, -1, -3]).values["acc7"] == 0  # half up, half down
    found = of_values(VALUES, [3, 3, -3, 2, 2.4], [7.2, 2.4, -2.2, 2.6, 1.6]).values
    assert found["acc7"] == pytest.approx(2 / 5)  # 3 and 3; 2 and 2
    assert found["acc5"] == 1  # beyond 2 all is 2


def test_seven_steps_are_not_the_intervals_of_other_papers():
    """There 0 is alone and (0, 1] is 1: all of these would be one step further out, and wrong."""
    y, p = [1 / 3, 4 / 3, 7 / 3, -1 / 3, -4 / 3, -7 / 3], [0, 1, 2, 0, -1, -2]
    assert of_values(VALUES, y, p).values["acc7"] == 1
    assert not (np.sign(y) * np.ceil(np.abs(y)) == p).any()


def test_two_classes_with_and_without_the_labels_that_are_zero():
    found = of_values(VALUES, [0, 0, 1, -1, 2, -2, 3], [-0.1, 0, 0.5, 0.5, -1, -1, 0]).values
    assert found["acc2_non0"] == pytest.approx(2 / 5)  # 1 and -2; a prediction of 0 is not positive
    assert found["f1_non0"] == pytest.approx(3 / 5 * (2 * 1 / (3 + 2)) + 2 / 5 * (2 * 1 / (2 + 3)))
    assert found["acc2_has0"] == pytest.approx(4 / 7)  # the second 0, 1, -2 and 3: there it is
    assert found["f1_has0"] == pytest.approx(5 / 7 * (2 * 3 / (5 + 4)) + 2 / 7 * (2 * 1 / (2 + 3)))


def test_the_arguments_of_the_f1_of_values_are_truth_then_prediction():
    """As above: .690, and .710 when they are swapped."""
    y, p = [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1], [-1, -1, 1, 1, 1, 1, 1, 1, 1, -1]
    for task, name in ((VALUES, "f1_has0"), (VALUES, "f1_non0"), (SIMS, "f1")):
        assert of_values(task, y, p).values[name] == pytest.approx(0.4 * 4 / 7 + 0.6 * 10 / 13)
        assert of_values(task, p, y).values[name] == pytest.approx(0.3 * 4 / 7 + 0.7 * 10 / 13)


def test_two_classes_of_values_are_scikit_learns():
    y, output = case_of(VALUES, 200)
    p, found = output[:, 0], metrics.score(VALUES, y, output).values
    some = y != 0
    assert found["acc2_has0"] == pytest.approx(accuracy_score(y >= 0, p >= 0))
    assert found["f1_has0"] == pytest.approx(f1_score(y >= 0, p >= 0, average="weighted"))
    assert found["acc2_non0"] == pytest.approx(accuracy_score(y[some] > 0, p[some] > 0))
    assert found["f1_non0"] == pytest.approx(f1_score(y[some] > 0, p[some] > 0, average="weighted"))


def test_without_a_label_that_is_not_zero_half_of_the_metrics_are_undefined_and_said_so():
    y, output = np.zeros(5, np.float32), np.linspace(-1, 1, 5)[:, None]
    score = metrics.score(VALUES, y, output)
    assert np.isnan([score.values["acc2_non0"], score.values["f1_non0"]]).all()
    assert score.values["acc2_has0"] == pytest.approx(3 / 5)
    assert "acc2_non0 and f1_non0 are undefined: every label is 0" in score.notes
    bounds = metrics.bootstrap(VALUES, y, single(y), [output])
    assert set(bounds) == set(metrics.headline(VALUES)) - {"acc2_non0", "f1_non0"}


def test_sims_clips_before_anything_else():
    score = of_values(SIMS, [1, -1, 0.5], [5, -5, 0.5])
    assert score.values["mae"] == 0
    assert score.values["corr"] == pytest.approx(1)
    assert of_values(VALUES, [1, -1, 0.5], [5, -5, 0.5]).values["mae"] == pytest.approx(8 / 3)
    constant = of_values(SIMS, [1, -1, 0.5], [2, 3, 4])  # all the same once clipped
    assert constant.values["corr"] == 0
    assert "undefined for constant values" in constant.notes[0]


def test_zero_is_negative_in_sims():
    assert of_values(SIMS, [0, 0.2, 0, 0.2], [-0.5, 0.5, 0, 0]).values["acc2"] == pytest.approx(3 / 4)
    assert of_values(SIMS, [0, 0, 0, 0.2], [0.01, 0, 0, 1]).values["acc2"] == pytest.approx(3 / 4)


def test_a_border_of_sims_belongs_to_the_class_below_it_in_float32_too():
    """float32(0.1) is above 0.1 and float32(-0.7) is above -0.7: compared carelessly both change sides."""
    borders, below, above = [-0.7, -0.1, 0.1, 0.7], [-0.9, -0.4, 0.0, 0.4], [-0.4, 0.0, 0.4, 0.9]
    for dtype in (np.float32, np.float64):
        assert of_values(SIMS, borders, below, dtype).values["acc5"] == 1
        assert of_values(SIMS, borders, above, dtype).values["acc5"] == 0
        assert of_values(SIMS, below, np.array(borders, dtype)).values["acc5"] == 1
    assert of_values(SIMS, [-0.1, 0.1, 0.7], [-1, 0.05, 0.2]).values["acc3"] == 1
    assert of_values(SIMS, [-0.1, 0.1, 0.7], [0, 0.2, 0.05]).values["acc3"] == 0


def test_values_of_another_range_have_error_and_correlation_alone():
    assert set(of_values(OTHER, [0, 5, 9.5], [1, 5, 9]).values) == {"mae", "corr"}
    assert metrics.headline(OTHER) == ("mae", "corr")


# --- labels -------------------------------------------------------------------------------------------------------


def test_labels_are_scored_one_by_one_worked_out_by_hand():
    """Happy holds in 2 of 5 and is said to 1 of them and 1 other: TP 1, P 2, TN 2, N 3. Fear never holds."""
    y = np.array([[3, 0], [1 / 3, 0], [0, 0], [0, 0], [0, 0]], np.float32)
    p = np.array([[0.9, 0.1], [0.2, 0.2], [0.8, 0.3], [0.1, 0.1], [0.5, 0.5]])
    score = metrics.score(FEAR, y, p)
    assert score.values["accuracy_happy"] == pytest.approx(3 / 5)
    assert score.values["weighted_accuracy_happy"] == pytest.approx((1 * 3 / 2 + 2) / (2 * 3))
    assert score.values["f1_happy"] == pytest.approx(2 / 5 * (2 * 1 / (2 + 2)) + 3 / 5 * (2 * 2 / (3 + 3)))
    assert score.values["accuracy_fear"] == score.values["f1_fear"] == 1
    assert np.isnan(score.values["weighted_accuracy_fear"])
    assert score.values["mean_accuracy"] == pytest.approx((3 / 5 + 1) / 2)
    assert score.values["mean_weighted_accuracy"] == pytest.approx(3.5 / 6)
    assert score.values["mean_f1"] == pytest.approx((0.6 + 1) / 2)
    assert score.notes == ("weighted accuracy leaves out fear: all samples or none have it", "never said: fear")


def test_every_figure_of_a_label_is_scikit_learns():
    y, p = case_of(EMOTIONS, 200)
    found = metrics.score(EMOTIONS, y, p).values
    for c, name in enumerate(EMOTIONS.classes):
        truth, said = y[:, c] > 0, p[:, c] > 0.5
        assert found[f"accuracy_{name}"] == pytest.approx(accuracy_score(truth, said))
        assert found[f"weighted_accuracy_{name}"] == pytest.approx(balanced_accuracy_score(truth, said))
        assert found[f"f1_{name}"] == pytest.approx(f1_score(truth, said, average="weighted"))
    for metric in ("accuracy", "weighted_accuracy", "f1"):
        each = [found[f"{metric}_{name}"] for name in EMOTIONS.classes]
        assert found[f"mean_{metric}"] == pytest.approx(np.mean(each))
