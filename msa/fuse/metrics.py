"""Each metric with its definition and source; the task decides which are taken.

One of several classes. Precision, recall and F1 are means over the classes, weighted by support ("weighted", what the
CM-STA paper's equal accuracy and recall columns imply) or plain ("macro"), as scikit-learn takes them: a class never
predicted has precision 0, one that is neither in the truth nor predicted is left out. `f1_harmonic` is 2PR/(P + R) of
the weighted P and R, which is what most rows of that paper's table 2 print as F1. AUROC is one-vs-rest from the
softmax, weighted and macro over the classes the truth contains.

Labels that hold or not (CMU-MOSEI's emotions; Zadeh et al., 2018, https://aclanthology.org/P18-1208). One holds where
its intensity is above 0, and is said where its probability is above 0.5. For each and as `mean_` over all: accuracy;
weighted accuracy (TP N/P + TN) / 2N, which is the mean of sensitivity and specificity (Tong et al., 2017,
https://aclanthology.org/P17-1142), left out where all samples or none have the label; F1 of yes and of no, weighted by
support, by which papers on these emotions compare.

Values in [-3, 3] (CMU-MOSI, CMU-MOSEI). MAE and Pearson's correlation of the values as they are. `acc7` and `acc5`:
equal when clipped to +-3 or +-2 and rounded, halves to the even number (2.5 -> 2). Intervals, (0, 1] and so on with 0
by itself, are met too and would move +-1/3, +-4/3 and +-7/3. `acc2` and `f1` come in the two variants in use (Hazarika
et al., 2020, https://arxiv.org/abs/2005.03545, tell them apart): `_non0` leaves out the samples labelled 0 and asks for
p > 0, `_has0` takes all and asks for p >= 0. F1 is weighted by the support of the truth.

Values in [-1, 1] (CH-SIMS; Yu et al., 2020, https://aclanthology.org/2020.acl-main.343; borders as in the evaluation
that its authors publish, https://github.com/thuiar/MMSA). Values are clipped to +-1 before anything else, MAE and
correlation too. A border belongs to the class below it: `acc2` and `f1` cut at 0, which is negative; `acc3` at -0.1,
which is negative, and 0.1, which is neutral; `acc5` also at -0.7 and 0.7.

Any other values have MAE and correlation. The correlation of constants is undefined, given as 0 and named.

All of these but AUROC are functions of sums over samples, so they are written for weights w (R, n): ones (1, n) give
the figures, the counts of R drawn test sets give R of each, and the bootstrap cannot drift from the definition.

Clips of one video and recordings of one speaker are not independent, so what the bootstrap draws is groups: with
replacement, as many as there are, each with all its samples (cluster bootstrap; Field and Welsh, J. R. Statist. Soc. B
69, 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x; Davison and Hinkley, 1997, sec. 3.8). A group is the one of
the store's index, and a sample without one is a group of its own. Few groups give intervals that are rough and too
narrow; one gives none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from msa.types import Task

RESAMPLES = 1000  # of the bootstrap
PAIRED = 5  # times as many for a p-value: Holm multiplies the lowest there can be by the number of comparisons
FEW = 10  # groups, below which an interval is said to be rough
MOSI = (-3.0, 3.0)  # low and high of the task: which rules values are scored by
SIMS = (-1.0, 1.0)

Figures = dict[str, np.ndarray]  # metric -> (R,)


@dataclass(frozen=True)
class Score:
    """Metric values, and what must be said beside them."""

    values: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)


def score(task: Task, y: np.ndarray, output: np.ndarray) -> Score:
    """Return metrics of outputs (n, task.outputs), probabilities or values, against labels (n,) or (n, classes)."""
    values = {name: float(v[0]) for name, v in _measured(task, y, output, np.ones((1, len(y)))).items()}
    if task.multilabel:
        return Score(values, tuple(_notes_on_labels(task, y, output)))
    if not task.classes:
        return Score(values, tuple(_notes_on_values(task, y, output)))
    aurocs, notes = _auroc(y.astype(np.int64), output, task.classes)
    return Score(values | aurocs, (*notes, *_collapse(y, output, task.classes)))


def headline(task: Task) -> tuple[str, ...]:
    """Return the metrics a table shows."""
    if task.multilabel:
        return ("mean_accuracy", "mean_weighted_accuracy", "mean_f1")
    if task.classes:
        return ("accuracy", "f1_weighted", "f1_macro", "auroc_weighted", "auroc_macro")
    known = {
        MOSI: ("acc2_non0", "f1_non0", "acc2_has0", "f1_has0", "acc7"),
        SIMS: ("acc2", "f1", "acc3", "acc5"),
    }
    return ("mae", "corr", *known.get((task.low, task.high), ()))


def decisive(task: Task) -> tuple[str, int]:
    """Return the metric by which one head beats another; and 1 where more of it is better, -1 where less is."""
    if task.multilabel:
        return "mean_f1", 1
    return ("f1_weighted", 1) if task.classes else ("mae", -1)


def bootstrap(
    task: Task, y: np.ndarray, group: np.ndarray, outputs: Sequence[np.ndarray], seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals over groups of test samples of headline metrics averaged over seeds; `outputs` holds (n, outputs)
    per seed, and `group` (n,) the same number for samples of one group.

    The same groups are drawn for every seed: the interval says what another test set of as many groups might have
    given, not what another seed would. A metric that no draw defines has no interval, and of one group none has.
    """
    if groups(group) < 2:
        return {}
    w = _draws(group, seed)
    seeds = [_measured(task, y, output, w) for output in outputs]
    means = {name: np.mean([figures[name] for figures in seeds], 0) for name in headline(task) if name in seeds[0]}
    return {
        name: (float(np.nanpercentile(v, 2.5)), float(np.nanpercentile(v, 97.5)))
        for name, v in means.items()
        if not np.isnan(v).all()
    }


def paired(
    task: Task,
    y: np.ndarray,
    group: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    seed: int = 0,
) -> tuple[float, float]:
    """Return how much `first` beats `second` in the decisive metric, averaged over seeds, and the two-sided p-value.

    Paired bootstrap (Efron and Tibshirani, 1993, ch. 16) over the groups (n,): both are scored on the same drawn test
    sets; p is twice the share of draws on the other side of 0. It says whether other groups of test samples would have
    told the two apart as well, not whether other seeds would. No p is below 2^(1 - G), the least that a sign test on G
    groups can give: the same head may win in each of three videos by chance, and every draw of them would agree.
    """
    name, sign = decisive(task)

    def gain(w: np.ndarray) -> np.ndarray:
        a, b = (np.mean([_measured(task, y, output, w)[name] for output in seeds], 0) for seeds in (first, second))
        return np.asarray(sign * (a - b))

    drawn = np.concatenate([gain(_draws(group, (seed, turn))) for turn in range(PAIRED)])
    drawn = drawn[~np.isnan(drawn)]
    other = min(np.mean(drawn <= 0), np.mean(drawn >= 0)) if len(drawn) else 0.5
    here = float(gain(np.ones((1, len(y))))[0])
    least = max(1 / (len(drawn) + 1), 0.5 ** groups(group))  # of R draws none is below 1 / (R + 1)
    return here, float(min(1.0, 2 * max(other, least)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons, adjusted by Holm's step-down method (Scand. J. Statist. 6, 1979)."""
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def groups(group: np.ndarray) -> int:
    """Return the number of different groups in (n,)."""
    return len(np.unique(group))


def in_order(group: np.ndarray) -> np.ndarray:
    """Return groups (n,) renumbered 0, 1, ... in order of first appearance, int64."""
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]


def _draws(group: np.ndarray, seed: int | tuple[int, int]) -> np.ndarray:
    """Return how often each sample is drawn into each of R test sets of as many groups: (n,) -> (R, n)."""
    rng, number, g = np.random.default_rng(seed), in_order(group), groups(group)
    drawn = np.stack([np.bincount(rng.integers(0, g, g), minlength=g) for _ in range(RESAMPLES)])
    return drawn.astype(np.float64).take(number, axis=1)  # take keeps rows together in memory; an index would not


def majority(task: Task, y_train: np.ndarray, n: int) -> np.ndarray:
    """Return outputs (n, task.outputs) of the predictor that knows only the training labels.

    Of values it is their median, not their mean: no other constant is nearer to them in MAE.
    """
    if task.multilabel:
        return np.tile((y_train > 0).mean(0), (n, 1))
    if not task.classes:
        return np.full((n, 1), np.median(y_train))
    counts = np.bincount(y_train.astype(np.int64), minlength=len(task.classes))
    return np.tile(np.eye(len(task.classes))[counts.argmax()], (n, 1))


def majority_name(task: Task) -> str:
    """Return the name of that predictor in a table."""
    if task.multilabel:
        return "majority of each label"
    return "majority class" if task.classes else "training median"


def _measured(task: Task, y: np.ndarray, output: np.ndarray, w: np.ndarray) -> Figures:
    """Return every metric of the task but AUROC, under weights w (R, n) -> (R,) each."""
    if task.multilabel:
        return _labels(task.classes, y > 0, output > 0.5, w)
    if task.classes:
        return _classes(np.eye(len(task.classes), dtype=bool)[y.astype(np.int64)], output, w)
    y, p = _values(task, y, output)
    rules = {MOSI: _mosi, SIMS: _sims}.get((task.low, task.high))
    return {"mae": _share(np.abs(p - y), w), "corr": _pearson(y, p, w)} | (rules(y, p, w) if rules else {})


def _values(task: Task, y: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions (n,) as they are scored: float64, clipped for CH-SIMS."""
    y, p = y.astype(np.float64), output[:, 0].astype(np.float64)
    return (y.clip(*SIMS), p.clip(*SIMS)) if (task.low, task.high) == SIMS else (y, p)


# --- counts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How often each of C classes is true, is predicted, and is both: (R, C) each."""

    true: np.ndarray
    said: np.ndarray
    both: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray, w: np.ndarray) -> "Counts":
        """Count true and predicted classes, bool (n, C) with one per row, under weights (R, n)."""
        return cls(w @ y, w @ p, w @ (y & p))

    @classmethod
    def of_two(cls, y: np.ndarray, p: np.ndarray, w: np.ndarray) -> "Counts":
        """Count two classes, given as bool (n,)."""
        return cls.of(np.stack([~y, y], 1), np.stack([~p, p], 1), w)

    @property
    def accuracy(self) -> np.ndarray:
        """Return accuracy (R,); nan where there is no sample."""
        return _ratio(self.both.sum(1), self.true.sum(1), np.nan)

    @property
    def each(self) -> Figures:
        """Return precision, recall and F1 of every class (R, C); 0 where a class is never predicted, or never true."""
        return {
            "precision": _ratio(self.both, self.said, 0.0),
            "recall": _ratio(self.both, self.true, 0.0),
            "f1": _ratio(2 * self.both, self.true + self.said, 0.0),
        }

    def weighted(self, each: np.ndarray) -> np.ndarray:
        """Return the mean over the classes weighted by support: (R, C) -> (R,)."""
        return _ratio((each * self.true).sum(1), self.true.sum(1), np.nan)

    def macro(self, each: np.ndarray) -> np.ndarray:
        """Return the mean over the classes that are true or predicted at all: (R, C) -> (R,)."""
        met = self.true + self.said > 0
        return _ratio((each * met).sum(1), met.sum(1), np.nan)


def _ratio(a: np.ndarray, b: np.ndarray, empty: float) -> np.ndarray:
    """Return a / b, and `empty` where b is 0."""
    return np.divide(a, b, out=np.full(np.shape(b), empty), where=b > 0)


def _share(hits: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the mean of (n,) under weights (R, n) -> (R,)."""
    return _ratio(w @ hits, w.sum(1), np.nan)


# --- classes and labels -----------------------------------------------------------------------------------------------


def _classes(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> Figures:
    """Return metrics of truth (n, C) bool and probabilities (n, C) under weights (R, n)."""
    counts = Counts.of(y, np.eye(p.shape[1], dtype=bool)[p.argmax(1)], w)
    figures = {"accuracy": counts.accuracy}
    for average, mean in (("weighted", counts.weighted), ("macro", counts.macro)):
        figures |= {f"{name}_{average}": mean(values) for name, values in counts.each.items()}
    pre, rec = figures["precision_weighted"], figures["recall_weighted"]
    figures["f1_harmonic"] = _ratio(2 * pre * rec, pre + rec, 0.0)
    return figures | {"predicted_classes": (counts.said > 0).sum(1).astype(np.float64)}


def _auroc(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Return AUROC of probabilities (n, C) against class numbers (n,), and notes on classes that are left out."""
    from sklearn.metrics import roc_auc_score  # not needed by processes that only train

    support = np.bincount(y, minlength=len(classes))
    usable = [c for c in range(len(classes)) if 0 < support[c] < len(y)]
    skipped = [name for c, name in enumerate(classes) if c not in usable]
    notes = [f"AUROC leaves out {', '.join(skipped)}: no sample, or nothing else"] if skipped else []
    if not usable:
        return {"auroc_weighted": float("nan"), "auroc_macro": float("nan")}, notes
    each = np.array([roc_auc_score(y == c, p[:, c]) for c in usable])
    weighted = np.average(each, weights=support[usable])
    return {"auroc_weighted": float(weighted), "auroc_macro": float(each.mean())}, notes


def _collapse(y: np.ndarray, p: np.ndarray, classes: Sequence[str]) -> list[str]:
    predicted = np.unique(p.argmax(1))
    return (
        [f"collapsed: every sample is called {classes[predicted[0]]}"]
        if len(predicted) == 1 < len(np.unique(y))
        else []
    )


def _labels(classes: Sequence[str], y: np.ndarray, p: np.ndarray, w: np.ndarray) -> Figures:
    """Return metrics of true and predicted labels, bool (n, C), under weights (R, n)."""
    each: dict[str, Figures] = {"accuracy": {}, "weighted_accuracy": {}, "f1": {}}
    for c, name in enumerate(classes):
        counts = Counts.of_two(y[:, c], p[:, c], w)
        both = counts.true.all(1)  # yes and no: else one half of the mean would be of nothing
        each["accuracy"][name] = counts.accuracy
        each["weighted_accuracy"][name] = np.where(both, counts.each["recall"].mean(1), np.nan)
        each["f1"][name] = counts.weighted(counts.each["f1"])
    means = {f"mean_{metric}": _mean_defined(np.stack(list(by_label.values()))) for metric, by_label in each.items()}
    return means | {f"{metric}_{name}": v for metric, by_label in each.items() for name, v in by_label.items()}


def _mean_defined(each: np.ndarray) -> np.ndarray:
    """Return the mean (R,) of what is not nan in (C, R)."""
    known = ~np.isnan(each)
    return _ratio(np.where(known, each, 0.0).sum(0), known.sum(0), np.nan)


def _notes_on_labels(task: Task, y: np.ndarray, p: np.ndarray) -> list[str]:
    share = (y > 0).mean(0)
    single = [name for name, part in zip(task.classes, share, strict=True) if part in (0, 1)]
    silent = [name for name, most in zip(task.classes, p.max(0), strict=True) if most <= 0.5]
    notes = [f"weighted accuracy leaves out {', '.join(single)}: all samples or none have it"] if single else []
    return notes + ([f"never said: {', '.join(silent)}"] if silent else [])


# --- values -----------------------------------------------------------------------------------------------------------


def _mosi(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> Figures:
    """Return the metrics of CMU-MOSI and CMU-MOSEI for labels and predictions (n,)."""
    steps = {"acc7": 3.0, "acc5": 2.0}
    figures = {name: _share(np.rint(p.clip(-top, top)) == np.rint(y.clip(-top, top)), w) for name, top in steps.items()}
    return figures | _two(y > 0, p > 0, w * (y != 0), "_non0") | _two(y >= 0, p >= 0, w, "_has0")


def _sims(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> Figures:
    """Return the metrics of CH-SIMS for clipped labels and predictions (n,)."""
    figures = {}
    for name, borders in {"acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}.items():
        cuts = np.array(borders, np.float32)  # as labels are kept: a float32 0.1 would lie above the border 0.1
        level_y, level_p = (np.digitize(v.astype(np.float32), cuts, right=True) for v in (y, p))
        figures[name] = _share(level_y == level_p, w)
    return figures | _two(y > 0, p > 0, w)


def _two(y: np.ndarray, p: np.ndarray, w: np.ndarray, variant: str = "") -> Figures:
    """Return accuracy and F1 of two classes, given as bool (n,)."""
    counts = Counts.of_two(y, p, w)
    return {f"acc2{variant}": counts.accuracy, f"f1{variant}": counts.weighted(counts.each["f1"])}


def _pearson(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the correlation of (n,) and (n,) under weights (R, n) -> (R,); 0 where either is constant."""
    if np.ptp(y) == 0 or np.ptp(p) == 0:
        return np.zeros(len(w))
    a, b = ((v - v.mean()) / v.std() for v in (y, p))  # so that variances are near 1, and 0 is seen as such
    mean_a, mean_b = _share(a, w), _share(b, w)
    of_a, of_b = _share(a * a, w) - mean_a**2, _share(b * b, w) - mean_b**2
    defined = (of_a > 1e-12) & (of_b > 1e-12)
    spread = np.sqrt(np.where(defined, of_a * of_b, 1.0))
    return np.where(defined, (_share(a * b, w) - mean_a * mean_b) / spread, 0.0)


def _notes_on_values(task: Task, y: np.ndarray, output: np.ndarray) -> list[str]:
    y, p = _values(task, y, output)
    notes = []
    if np.ptp(p) == 0 or np.ptp(y) == 0:
        notes.append("correlation is undefined for constant values and given as 0")
    if (task.low, task.high) == MOSI and not y.any():
        notes.append("acc2_non0 and f1_non0 are undefined: every label is 0")
    return notes
