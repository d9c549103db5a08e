"""Every metric by hand or by a second route."""

import numpy as np
import pytest
from scipy.stats import binom, pearsonr
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from msa.fuse import metrics
from msa.types import SENTIMENT
from tests.fuse.conftest import VALUES

CLASSES = SENTIMENT.classes


def sure(predicted, n=3):
    """Probabilities that say one class each."""
    return np.eye(n)[np.asarray(predicted)] * 0.8 + 0.2 / n


def random_case(n=200, seed=0):
    """Labels of uneven classes and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.2, 0.1, 0.7])
    logits = rng.normal(size=(n, 3)) + 0.8 * np.eye(3)[y]
    return y, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_accuracy_precision_recall_and_f1_worked_out_by_hand():
    """Truth nnn uu ppppp, said nnu up ppppn: of class n 2 of 3 said are right and 2 of 3 true found, and so on."""
    y, said = [0, 0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2, 2, 2, 0]
    found = metrics.classification(np.array(y), sure(said), CLASSES).values
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
    found, said = metrics.classification(y, p, CLASSES).values, p.argmax(1)
    assert found["accuracy"] == accuracy_score(y, said)
    assert found[f"precision_{average}"] == pytest.approx(precision_score(y, said, average=average))
    assert found[f"recall_{average}"] == pytest.approx(recall_score(y, said, average=average))
    assert found[f"f1_{average}"] == pytest.approx(f1_score(y, said, average=average))
    auroc = roc_auc_score(y, p, multi_class="ovr", average=average)
    assert found[f"auroc_{average}"] == pytest.approx(auroc)


def test_weighted_recall_is_accuracy_as_in_every_row_of_the_paper():
    y, p = random_case(seed=1)
    found = metrics.classification(y, p, CLASSES).values
    assert found["recall_weighted"] == pytest.approx(found["accuracy"])


def test_the_arguments_of_f1_are_truth_then_prediction():
    """Public code swaps them, which weights each class by how often it is said: .710 in place of .690 here."""
    y, said = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 0])
    bad, good = 2 * 2 / (4 + 3), 2 * 5 / (6 + 7)  # twice the hits over true plus said
    found = metrics.classification(y, sure(said, 2), ("bad", "good")).values["f1_weighted"]
    assert found == pytest.approx(0.4 * bad + 0.6 * good)
    assert found == pytest.approx(0.690, abs=5e-4)
    swapped = metrics.classification(said, sure(y, 2), ("bad", "good")).values["f1_weighted"]
    assert swapped == pytest.approx(0.3 * bad + 0.7 * good)
    assert swapped == pytest.approx(0.710, abs=5e-4)


def test_the_harmonic_f1_is_that_of_weighted_precision_and_recall():
    """The printed row of a constant predictor of a 59 % class: P .3481, R .59, F1 .4379, which is both kinds of F1."""
    y = np.repeat([0, 2], [41, 59])
    found = metrics.classification(y, sure([2] * 100), CLASSES).values
    assert found["precision_weighted"] == pytest.approx(0.3481)
    assert found["f1_harmonic"] == pytest.approx(2 * 0.3481 * 0.59 / (0.3481 + 0.59))
    assert found["f1_weighted"] == pytest.approx(2 * 0.59**2 / 1.59)
    y, p = random_case()
    found = metrics.classification(y, p, CLASSES).values
    pre, rec = found["precision_weighted"], found["recall_weighted"]
    assert found["f1_harmonic"] == pytest.approx(2 / (1 / pre + 1 / rec))
    assert found["f1_harmonic"] != pytest.approx(found["f1_weighted"], abs=1e-3)
    assert metrics.classification(np.array([0, 0]), sure([1, 2]), CLASSES).values["f1_harmonic"] == 0


def test_auroc_is_the_chance_that_a_sample_of_the_class_is_ranked_above_another():
    y, p = random_case(60)
    each, support = [], []
    for c in range(3):
        mine, others = p[y == c, c], p[y != c, c]
        each.append(np.mean([(a > b) + (a == b) / 2 for a in mine for b in others]))
        support.append(len(mine))
    found = metrics.classification(y, p, CLASSES).values
    assert found["auroc_macro"] == pytest.approx(np.mean(each))
    assert found["auroc_weighted"] == pytest.approx(np.average(each, weights=support))


def test_auroc_skips_an_absent_class_and_names_it():
    y, p = random_case()
    y, p = y[y != 1], p[y != 1]
    score = metrics.classification(y, p, CLASSES)
    each = [roc_auc_score(y == c, p[:, c]) for c in (0, 2)]
    assert score.values["auroc_macro"] == pytest.approx(np.mean(each))
    assert score.values["auroc_weighted"] == pytest.approx(np.average(each, weights=[(y == 0).sum(), (y == 2).sum()]))
    assert any("AUROC leaves out neutral" in note for note in score.notes)
    assert metrics.classification(*random_case(), CLASSES).notes == ()


def test_auroc_of_a_single_class_is_undefined_and_says_so():
    score = metrics.classification(np.zeros(4, int), sure([0, 1, 0, 0]), CLASSES)
    assert np.isnan(score.values["auroc_weighted"])
    assert np.isnan(score.values["auroc_macro"])
    assert score.notes == ("AUROC leaves out negative, neutral, positive: no sample, or nothing else",)


def test_a_constant_predictor_is_named_as_a_collapse():
    y, _ = random_case()
    score = metrics.classification(y, sure([2] * len(y)), CLASSES)
    assert score.values["predicted_classes"] == 1
    assert score.values["auroc_weighted"] == 0.5
    assert score.notes == ("collapsed: every sample is called positive",)
    constant_truth = metrics.classification(np.full(3, 2), sure([2] * 3), CLASSES)
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
    score = metrics.regression(np.array(y), np.array(p))
    assert score.values["corr"] == 0
    assert "undefined for constant values" in score.notes[0]
    assert np.isfinite(score.values["mae"])


def test_the_bootstrap_interval_of_accuracy_is_the_binomial_one():
    """Resampling n outcomes, k of them right, is drawing from a binomial: its quantiles, up to 1,000 draws' noise."""
    n, k = 300, 234
    y = np.zeros(n, int)
    output = sure([0] * k + [1] * (n - k))
    low, high = metrics.bootstrap(SENTIMENT, y, [output])["accuracy"]
    wanted = binom.ppf([0.025, 0.975], n, k / n) / n
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.008)


def test_the_fast_f1_of_the_bootstrap_is_scikit_learns_even_where_a_class_is_missing():
    for y, p in (random_case(40, seed) for seed in range(5)):
        for some in (slice(None), slice(0, 3)):
            yy, pp = y[some], p[some]
            for weighted, average in ((True, "weighted"), (False, "macro")):
                theirs = f1_score(yy, pp.argmax(1), average=average, zero_division=0)
                assert metrics._f1(yy, pp, 3, weighted) == pytest.approx(theirs)


def test_the_bootstrap_averages_seeds_over_the_same_draws():
    """Two seeds that err on different halves: each accuracy varies, their mean hardly can."""
    y = np.zeros(100, int)
    one, two = sure([0] * 50 + [1] * 50), sure([1] * 50 + [0] * 50)
    assert metrics.bootstrap(SENTIMENT, y, [one, two])["accuracy"] == (0.5, 0.5)
    low, high = metrics.bootstrap(SENTIMENT, y, [one])["accuracy"]
    assert high - low > 0.15


def test_the_bootstrap_is_the_same_twice_and_covers_the_figure():
    y, p = random_case()
    one, two = (metrics.bootstrap(SENTIMENT, y, [p, p]) for _ in range(2))
    assert one == two
    found = metrics.classification(y, p, CLASSES).values
    assert set(one) == {"accuracy", "f1_weighted", "f1_macro"}
    assert all(low < found[name] < high for name, (low, high) in one.items())


def test_the_bootstrap_of_values_is_finite_and_covers_the_figure():
    rng = np.random.default_rng(0)
    y = rng.normal(size=80)
    p = (y + rng.normal(size=80))[:, None]
    bounds, found = metrics.bootstrap(VALUES, y, [p]), metrics.regression(y, p[:, 0]).values
    assert all(bounds[name][0] < found[name] < bounds[name][1] for name in ("mae", "corr"))


def test_the_majority_knows_the_training_labels_and_nothing_else():
    output = metrics.majority(SENTIMENT, np.array([0, 1, 1, 2], np.float32), 5)
    assert output.tolist() == [[0, 1, 0]] * 5
    values = metrics.majority(VALUES, np.array([-1.0, 0.0, 2.5]), 2)
    assert values.tolist() == [[0.5], [0.5]]


def test_a_table_shows_only_metrics_that_are_computed():
    y, p = random_case()
    assert set(metrics.headline(SENTIMENT)) <= set(metrics.score(SENTIMENT, y, p).values)
    assert set(metrics.headline(VALUES)) == set(metrics.score(VALUES, y.astype(float), p[:, :1]).values)
