"""A log-linear pool of learners, weighted by what they get right on held-out rows.

    log p(c | x) = log_softmax( sum_l w_l log p_l(c | x) ),  w_l >= 0

Logarithmic opinion pool (Heskes, "Selecting weighting factors in logarithmic opinion pools", NIPS 1997), one
weight a learner. The scale of the weights is a temperature (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017), so that the pooled probabilities come out calibrated, and an over-confident learner has
a small weight even where it is the best. The log loss is convex in the weights.

How the weights are found:
    1. Each learner alone gets its temperature t_l, by log loss, damped toward 1.
    2. The pool gets weights w_l, by log loss: their sum damped toward 1, and w_l / t_l toward each other, as
       only calibrated learners can be compared.
    3. Learners that the pool does as well without are dropped, one at a time, and the others fitted again:
       the log loss stays within 0.2 % of that of the pool of all, and the metric at or above that of the best
       learner alone. That the metric may not fall at all would keep half of the learners that are mere noise,
       for a row or two that they have right by chance.
    4. If the pool scores below its best learner on these rows, by more than chance makes of it, that learner
       alone is the ensemble. Chance is two standard errors of the difference, each the square root of the
       number of rows on which the two differ. With one, three rows of a hundred decided against a pool of
       less log loss, and for the worse of its learners (QQP, 100 rows: 64.8 % in place of 73.7).

The damping counts as so many rows' worth of log loss: one setting serves a hundred rows, where it keeps the
weights moderate, and a thousand, where it hardly shows. Equal shares are the better centre than the best
learner alone: learners of like quality with errors of their own are what is worth pooling.

Where rows may have several labels, the same is done to the log-odds of each class, by the mean binary
cross-entropy over rows and classes, which alone decides between learners:

    log-odds p(c | x) = sum_l w_l log-odds p_l(c | x)

A class is predicted from its threshold on, which has the best F1 on the held-out rows (`choose_thresholds`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edgetune.utils.errors import RunError
from edgetune.utils.metrics import accuracy, confusion_matrix, cross_entropy, log_softmax, macro_f1
from edgetune.utils.multi_label import (
    MultiLabelEvaluation,
    choose_thresholds,
    evaluate_answers,
    is_multi_hot,
    log_odds,
    log_sigmoid,
)
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray, Labels

SCHEMA_VERSION = 2
MULTI_LABEL_VERSION = 3
"""Of an ensemble for rows with several labels."""

FLOOR = math.log(1e-6)
"""Log-probabilities below it count as it: one class that a learner rules out does not veto all the others."""

DAMPING = 2.0
"""Rows' worth of log loss that hold the weights back."""

LOSS_TOLERANCE = 2e-3
"""Learners are dropped while the log loss stays within this share above that of the pool of all, or …"""

LOSS_TOLERANCE_NATS = 0.1
"""… within so many nats in all rows together, where the loss is near 0."""

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Strengths of the correction for class frequencies from which a metric chooses."""

MAX_FACTOR = 1e3
MAX_WEIGHT = MAX_FACTOR**2
"""Of a temperature or a factor, and of their product: far above any that is fitted."""

Metric: TypeAlias = Literal["accuracy", "macro-f1"]
Wide: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ensemble:
    """Which learners answer together, and with what weights.

    Attributes:
        names: of the learners, sorted; each has a weight above 0.
        weights: one a learner, on its log-probabilities. They need not add up to 1.
        n_rows: held-out rows that they were fitted on.
        bias: (C,) added to the log-probabilities of the classes; () for none.
        thresholds: (C,) probabilities from which a class is predicted, where a row may have several; else ().
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    n_rows: int
    bias: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.weights):
            raise ValueError(f"it has {len(self.names)} learners and {len(self.weights)} weights")
        if len(set(self.names)) != len(self.names):
            raise ValueError("it names a learner twice")
        for name, weight in zip(self.names, self.weights, strict=True):
            if not 0 < weight <= MAX_WEIGHT:
                raise ValueError(f'the weight of "{brief(name)}" is {brief(weight)}, not above 0 and finite')
        if not all(map(math.isfinite, self.bias)):
            raise ValueError("a bias is not finite")
        if not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError("a threshold is no probability")
        if self.n_rows < 1:
            raise ValueError(f"it was fitted on {brief(self.n_rows)} rows")

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes."""
        return bool(self.thresholds)

    def combine(self, log_probas: Mapping[str, FloatArray]) -> Wide:
        """Return the log-probabilities (N, C) of the pool, normalised where a row has one class.

        Args:
            log_probas: (N, C) of every learner by name; those that are not of the ensemble are ignored.

        Raises:
            ValueError: one is missing, has another shape, or is not made of log-probabilities.
        """
        missing = [name for name in self.names if name not in log_probas]
        if missing:
            raise ValueError(f"no log-probabilities of {', '.join(missing)}")
        pooled = _pooled(self.weights, _stacked(log_probas, self.names, self.multi_label))
        if self.multi_label:
            return log_sigmoid(pooled)
        if self.bias:
            if len(self.bias) != pooled.shape[1]:
                raise ValueError(f"{len(self.bias)} biases and {pooled.shape[1]} classes")
            pooled = log_softmax(pooled) + np.array(self.bias)
        return log_softmax(pooled)

    def balanced(
        self,
        log_probas: Mapping[str, FloatArray],
        labels: IntArray,
        shares: FloatArray,
        metric: Metric | None,
    ) -> Ensemble:
        """Return this ensemble with a correction for unequal class frequencies.

        The bias of a class is -s log(its share). With s = 1 the answer is that for equally frequent classes
        ("Long-tail learning via logit adjustment", Menon et al., ICLR 2021).

        Args:
            log_probas: as of `combine`, on held-out rows.
            labels: (N,) of these rows.
            shares: (C,) of the classes in the training rows, all above 0.
            metric: by which s is chosen from `STRENGTHS`, the smallest of equally good ones. None: s is 1.
        """
        strengths = (1.0,) if metric is None else STRENGTHS
        found = [replace(self, bias=tuple((-s * np.log(shares)).tolist()) if s else ()) for s in strengths]
        scores = [score(one.combine(log_probas), labels, metric or "accuracy") for one in found]
        return found[int(np.argmax(scores))]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "schema_version": MULTI_LABEL_VERSION if self.multi_label else SCHEMA_VERSION,
            "names": list(self.names),
            "weights": list(self.weights),
            "n_rows": self.n_rows,
            "bias": list(self.bias),
            "thresholds": list(self.thresholds),
        }

    @classmethod
    def from_dict(cls, found: Any) -> Ensemble:
        """Make an ensemble of what `to_dict` gave, also after JSON.

        Raises:
            RunError: that is not what it is.
        """
        try:
            if not isinstance(found, dict):
                raise ValueError("it is no JSON object")
            version, names, n_rows = (found.get(name) for name in ("schema_version", "names", "n_rows"))
            if version not in (SCHEMA_VERSION, MULTI_LABEL_VERSION) or isinstance(version, bool):
                reads = f"this edgetune reads {SCHEMA_VERSION}"
                raise ValueError(f"its schema_version is {brief(version)}, and {reads}")
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its names are no list of words")
            if not isinstance(n_rows, int) or isinstance(n_rows, bool):
                raise ValueError(f"its n_rows is {brief(n_rows)}, not a whole number")
            weights = _numbers("weights", found.get("weights"))
            bias = _numbers("biases", found.get("bias"))
            thresholds = _numbers("thresholds", found.get("thresholds", []))
            return cls(tuple(names), weights, n_rows, bias, thresholds)
        except (ValueError, OverflowError) as error:
            raise RunError(
                f"The ensemble of this run cannot be used: {error}; copy the run folder, or train again."
            ) from error


@dataclass(frozen=True)
class MemberScore:
    """How one learner did alone on the held-out rows, before any temperature.

    Attributes:
        name: of the learner.
        accuracy: share of rows that it has right.
        macro_f1: mean F1 over all classes.
        log_loss: mean nats, with its log-probabilities cut off at `FLOOR`.
        weight: its weight in the ensemble; 0 if it was dropped.
        micro_f1: F1 of all classes together, where a row may have several; then `accuracy` is the share of
            rows with all of them right, and all three rest on thresholds chosen on the same rows.
        thresholds: (C,) these thresholds, of its own probabilities; () where a row has one class.
    """

    name: str
    accuracy: float
    macro_f1: float
    log_loss: float
    weight: float
    micro_f1: float | None = None
    thresholds: tuple[float, ...] = ()


def fit_ensemble(
    log_probas: Mapping[str, FloatArray],
    labels: Labels,
    *,
    metric: Metric = "accuracy",
    keep: Literal["pool", "best"] = "pool",
) -> tuple[Ensemble, tuple[MemberScore, ...]]:
    """Fit the weights of a pool of learners on rows that none of them was trained on.

    On these rows the ensemble never scores below its best learner by more than two standard errors of the
    difference, and its log loss is never above that learner's. The order of the learners makes no difference.

    Args:
        log_probas: (N, C) of every learner by name; N at least 1.
        labels: (N,) class ids, or multi-hot (N, C). A class may be absent.
        metric: that the ensemble must not lose by pooling.
        keep: "best" gives the best learner alone, with its temperature.

    Returns:
        The ensemble, and the score of every learner in the order given.

    Raises:
        ValueError: no learner, no row, or arrays that do not fit each other.
    """
    names = tuple(sorted(log_probas))
    stacked = _stacked(log_probas, names, is_multi_hot(labels))
    rows = _HeldOut(names, stacked, np.asarray(labels), metric)
    singles = [rows.fit([learner]) for learner in range(len(names))]
    fitted = min(singles, key=lambda one: (-one.score, one.loss))
    if keep == "pool" and len(names) > 1:
        whole = rows.fit(range(len(names)))
        pool = _pruned(rows, whole, min(fitted.score, whole.score))
        if pool.score >= fitted.score - rows.chance(pool, fitted) and pool.loss <= fitted.loss:
            fitted = pool
    weights = {
        names[i]: float(weight) for i, weight in zip(fitted.members, fitted.weights, strict=True) if weight
    }
    scores = {name: rows.member_score(i, weights.get(name, 0.0)) for i, name in enumerate(names)}
    ensemble = Ensemble(tuple(weights), tuple(weights.values()), rows.n, thresholds=rows.thresholds(fitted))
    return ensemble, tuple(scores[name] for name in log_probas)


@dataclass(frozen=True)
class _Fit:
    """Weights of some of the learners, and what they reach on the held-out rows.

    Attributes:
        members: their numbers, ascending.
        weights: (M,), at or above 0.
        loss: mean nats, without damping.
        score: by the metric.
        pooled: (N, C) their weighted sum on these rows.
    """

    members: tuple[int, ...]
    weights: Wide
    loss: float
    score: float
    pooled: Wide


class _HeldOut:
    """The held-out rows: log-probabilities of L learners, the labels, and what is measured on them.

    Where rows may have several labels, log-odds stand for the log-probabilities.
    """

    def __init__(self, names: Sequence[str], log_p: Sequence[Wide], labels: Labels, metric: Metric) -> None:
        if not names:
            raise ValueError("an ensemble needs at least one learner")
        self.n, self.n_classes = log_p[0].shape
        self.multi_label = is_multi_hot(labels)
        if not self.n or labels.shape != (log_p[0].shape if self.multi_label else (self.n,)):
            raise ValueError(f"{self.n} rows of log-probabilities and labels {labels.shape} do not fit")
        if labels.min() < 0 or labels.max() >= self.n_classes:
            raise ValueError(f"labels {labels.min()} to {labels.max()} in {self.n_classes} classes")
        self.labels, self.metric = labels, metric
        self.names, self.log_p = names, np.stack(log_p)
        alone = [_fitted_weights(one[None], np.ones(1), labels) for one in self.log_p]
        self.temperatures = np.concatenate(alone)

    def fit(self, members: Iterable[int]) -> _Fit:
        """Fit the pool of these learners; of one, it is that learner with its temperature."""
        chosen = list(members)
        inputs, weights = self.log_p[chosen], self.temperatures[chosen]
        if len(chosen) > 1:
            weights = _fitted_weights(inputs, weights, self.labels)
        loss, pooled = float(_log_loss(weights, inputs, self.labels)[0]), _pooled(weights, inputs)
        # The log loss alone compares log-odds.
        metric = 0.0 if self.multi_label else score(pooled, self.labels.astype(np.int64), self.metric)
        return _Fit(tuple(chosen), weights, loss, metric, pooled)

    def chance(self, one: _Fit, other: _Fit) -> float:
        """Return two standard errors of the difference between the scores of two fits."""
        if self.multi_label:
            return 0.0
        differ = one.pooled.argmax(axis=1) != other.pooled.argmax(axis=1)
        return 2 * math.sqrt(np.count_nonzero(differ)) / float(self.n)

    def thresholds(self, fitted: _Fit) -> tuple[float, ...]:
        """Return the thresholds (C,) of a pool of log-odds; () where a row has one class."""
        if not self.multi_label:
            return ()
        return tuple(choose_thresholds(np.exp(log_sigmoid(fitted.pooled)), self.labels).tolist())

    def member_score(self, learner: int, weight: float) -> MemberScore:
        """Return how one learner did alone."""
        log_p = self.log_p[learner]
        if self.multi_label:
            chosen = choose_thresholds(np.exp(log_sigmoid(log_p)), self.labels).tolist()
            found = evaluate_answers(log_sigmoid(log_p), self.labels, [""] * self.n_classes, chosen)
            assert isinstance(found, MultiLabelEvaluation)
            figures = (found.accuracy, found.macro_f1, found.loss, weight, found.micro_f1)
            return MemberScore(self.names[learner], *figures, tuple(chosen))
        confusion = confusion_matrix(self.labels.astype(np.int64), log_p.argmax(axis=1), self.n_classes)
        loss = float(-log_p[np.arange(self.n), self.labels].mean())
        return MemberScore(self.names[learner], accuracy(confusion), macro_f1(confusion), loss, weight)


def score(log_p: Wide, labels: IntArray, metric: Metric) -> float:
    """Return the metric of log-probabilities (N, C) on rows of these labels (N,)."""
    confusion = confusion_matrix(labels, log_p.argmax(axis=1), log_p.shape[1])
    return accuracy(confusion) if metric == "accuracy" else macro_f1(confusion)


def _pruned(rows: _HeldOut, whole: _Fit, least: float) -> _Fit:
    """Return the pool without the learners that it does as well without; `least` is what it must score."""
    most = whole.loss + max(LOSS_TOLERANCE * whole.loss, LOSS_TOLERANCE_NATS / rows.n)
    pool = whole
    while len(pool.members) > 1:
        rests = [rows.fit(j for j in pool.members if j != i) for i in pool.members]
        as_good = [rest for rest in rests if rest.loss <= most and rest.score >= least]
        if not as_good:
            break
        pool = min(as_good, key=lambda rest: rest.loss)
    return pool


def _fitted_weights(log_p: Wide, temperatures: Wide, labels: Labels) -> Wide:
    """Return the weights (L,) of learners (L, N, C): those of the least log loss with damping.

        mean log loss + damping / N [ S - 1 - log S  +  L sum_l (v_l - mean v)^2 ]

    with v_l = w_l / t_l, t_l the temperatures, and S = sum_l w_l. The first damping is that of a gamma prior
    with its mode at S = 1, so that S is never 0; the second is 0 for one learner. Two copies of a learner get
    its weight between them. All of it is convex.
    """
    from scipy.optimize import minimize

    n_learners, strength = len(log_p), DAMPING / len(labels)

    def objective(factors: Wide) -> tuple[float, Wide]:
        loss, slope = _log_loss(factors * temperatures, log_p, labels)
        total = max(float(factors @ temperatures), 1e-9)  # a line search may try 0
        off = factors - factors.mean()
        prior = total - 1 - math.log(total) + n_learners * float(off @ off)
        prior_slope = (1 - 1 / total) * temperatures + 2 * n_learners * off
        return loss + strength * prior, slope * temperatures + strength * prior_slope

    start, bounds = np.full(n_learners, 1 / n_learners), [(0.0, MAX_FACTOR)] * n_learners
    options = {"ftol": 1e-10, "gtol": 1e-6}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x * temperatures, dtype=np.float64)


def _log_loss(weights: Wide, log_p: Wide, labels: Labels) -> tuple[float, Wide]:
    """Return the mean log loss of a pool of (L, N, C), and its gradient (L,).

    The gradient is E_p[log p_l] - log p_l(label), p the pool, in the mean over the rows. With several labels
    a row, log_p are log-odds, and the mean is over rows and classes.
    """
    n_learners, n, n_classes = log_p.shape
    flat = log_p.reshape(n_learners, n * n_classes)
    if is_multi_hot(labels):
        pooled = weights @ flat
        error = np.exp(log_sigmoid(pooled)) - labels.ravel()
        loss = float(cross_entropy(pooled.reshape(n, n_classes), labels).mean())
        return loss, np.asarray(flat @ error / error.size, dtype=np.float64)
    row = np.arange(n)
    scores = (weights @ flat).reshape(n, n_classes)
    scores -= scores.max(axis=1, keepdims=True)
    of_labels = scores[row, labels]
    pool = np.exp(scores, out=scores)
    totals = pool.sum(axis=1)
    pool /= totals[:, None]
    slope = flat @ pool.ravel() - log_p[:, row, labels].sum(axis=1)
    return float((np.log(totals) - of_labels).mean()), slope / n


def _pooled(weights: Iterable[float], log_p: Iterable[Wide]) -> Wide:
    """Return the weighted sum (N, C), not normalised; the same numbers whenever it is the same pool."""
    terms = [weight * one for weight, one in zip(weights, log_p, strict=True)]
    return np.asarray(sum(terms[1:], start=terms[0]))


def _stacked(
    log_probas: Mapping[str, FloatArray], names: Sequence[str], multi_label: bool = False
) -> list[Wide]:
    """Return these arrays (N, C) in float64, cut off at `FLOOR`; as log-odds for several labels."""
    arrays = [np.maximum(np.asarray(log_probas[name], dtype=np.float64), FLOOR) for name in names]
    for name, one in zip(names, arrays, strict=True):
        if one.ndim != 2 or not one.shape[1] or one.shape != arrays[0].shape:
            raise ValueError(f"{name} has log-probabilities {one.shape}, {names[0]} has {arrays[0].shape}")
        if not (one <= 1e-3).all():  # float32 rounds a little above 0; nan fails too
            raise ValueError(f"{name} has values that are no log-probabilities: nan, or above 0")
    return [np.minimum(log_odds(one), -FLOOR) for one in arrays] if multi_label else arrays


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(one) in (int, float) for one in values):
        raise ValueError(f"its {name} are no list of numbers")
    return tuple(map(float, values))
