"""Linear probe: multinomial logistic regression on the untouched encoder's features.

Where rows may have several labels, it is one logistic regression a class, with the same penalty.

Linear probing as in Kumar et al., "Fine-Tuning can Distort Pretrained Features" (ICLR 2022). The features are
what the head's last linear layer sees, so the fitted weights are a head of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgetune.utils.metrics import cross_entropy, log_softmax, sigmoid
from edgetune.utils.multi_label import best_micro_f1, class_counts, is_multi_hot
from edgetune.utils.types import BoolArray, FloatArray, IntArray, Labels

STRENGTHS = (0.05, 0.25, 0.01, 0.002)
"""Inverse penalties (scikit-learn's C) on standardised features, in the order in which they are tried; if
time is short, only the first is. Two classes of SST-2 are best at 0.01 to 0.03, four topics of AG News
below 0.01 from 500 rows on, 150 intents at 0.1 to 0.3."""
USUAL_STRENGTH = STRENGTHS[0]
ITERATIONS = 200
TOLERANCE = 3e-4
ABSENT = 1e-2
"""A class without a row counts as this share of one row, so that its bias is low and finite."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier.

    Attributes:
        weight: (C, F) float32.
        bias: (C,) float32.
    """

    weight: FloatArray
    bias: FloatArray

    def logits(self, features: FloatArray) -> FloatArray:
        """Return (N, C) of features (N, F)."""
        found: FloatArray = features @ self.weight.T + self.bias
        return found


def fit_linear_probe(
    features: FloatArray,
    labels: Labels,
    n_classes: int,
    strength: float = USUAL_STRENGTH,
    stop: Callable[[], bool] = lambda: False,
) -> LinearProbe:
    """Fit a linear classifier by L-BFGS on standardised features.

    Args:
        features: (n, F).
        labels: (n,) class ids, or multi-hot (n, C).
        n_classes: C; a class without a row gets a low bias.
        strength: inverse of the penalty, as scikit-learn's C: the summed log loss counts so much against half
            the squared weights.
        stop: asked after every iteration; what was reached by then is returned.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    n, width = features.shape
    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std < 1e-6] = 1.0
    inputs = ((features - mean) / std).astype(np.float32)
    rows, several = np.arange(n), is_multi_hot(labels)
    penalty = 1.0 / (strength * n)

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights = flat.reshape(width + 1, n_classes).astype(np.float32)
        logits = inputs @ weights[:-1] + weights[-1]
        if several:
            error = sigmoid(logits).astype(np.float32) - labels
            value = n_classes * float(cross_entropy(logits, labels).mean())
        else:
            log_proba = log_softmax(logits)
            error = np.exp(log_proba).astype(np.float32)
            error[rows, labels] -= 1.0
            value = -float(log_proba[rows, labels].mean())
        slope = np.concatenate([inputs.T @ error / n + penalty * weights[:-1], error.mean(axis=0)[None]])
        value += 0.5 * penalty * float((weights[:-1] ** 2).sum())
        return value, slope.astype(np.float64).ravel()

    counts = class_counts(labels, n_classes)
    shares = np.maximum(counts, ABSENT) / n
    start = np.zeros((width + 1, n_classes))
    start[-1] = np.log(shares) - (
        np.log(np.maximum(n - counts, ABSENT) / n) if several else np.log(shares).mean()
    )

    def halt(reached: FloatArray) -> None:
        if stop():
            raise StopIteration

    options = {"maxiter": ITERATIONS, "ftol": 1e-7, "gtol": TOLERANCE}
    with threadpool_limits(1, user_api="blas"):  # 1.2 to 10 times as fast as two threads (Zen 3)
        found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", callback=halt, options=options)
    reached = found.x.reshape(start.shape)
    slope = reached[:-1] / std[:, None]
    bias = reached[-1] - mean @ slope
    return LinearProbe(slope.T.astype(np.float32), bias.astype(np.float32))


def best_strength(
    features: FloatArray,
    labels: Labels,
    n_classes: int,
    held_out: FloatArray,
    held_out_labels: Labels,
    strengths: Iterable[float] = STRENGTHS,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, LinearProbe]:
    """Return the strength whose probe has the smallest log loss on held-out rows, and that probe.

    Held-out rows whose class is not in `labels` are left out, because their loss is smallest for the probe
    that has learned least.

    Args:
        features: (n, F) to fit on.
        labels: (n,) class ids, or multi-hot (n, C).
        n_classes: C.
        held_out: (m, F) to compare on.
        held_out_labels: of these.
        strengths: to choose from.
        stop: see `fit_linear_probe`.
    """
    if not is_multi_hot(labels) and (known := np.isin(held_out_labels, labels)).any():
        held_out, held_out_labels = held_out[known], held_out_labels[known]
    found: list[tuple[float, float, LinearProbe]] = []
    for strength in strengths:
        if found and stop():
            break
        probe = fit_linear_probe(features, labels, n_classes, strength, stop)
        loss = float(cross_entropy(probe.logits(held_out), held_out_labels).mean())
        found.append((loss, strength, probe))
    _, strength, probe = min(found, key=lambda item: item[0])
    return strength, probe


def cross_fit_linear_probe(
    features: FloatArray,
    labels: Labels,
    n_classes: int,
    folds: IntArray,
    strengths: Iterable[float] = STRENGTHS,
    time_left_s: Callable[[], float] = lambda: math.inf,
) -> tuple[float, FloatArray] | None:
    """Choose the strength by cross-validation, and return the logits of the left-out rows.

    Args:
        features: (n, F).
        labels: (n,) class ids, or multi-hot (n, C).
        n_classes: C.
        folds: (n,) the fold of each row; -1 for a row of every fit.
        strengths: to choose from.
        time_left_s: seconds until it has to be done.

    Returns:
        The strength of the smallest log loss, and the logits (n, C) of its probes, each row's by the probe
        that was not fitted on it. None if the fits so far show that there is no time for all.
    """
    tried, numbers = tuple(strengths), np.unique(folds[folds >= 0]).tolist()
    n_left = len(tried) * len(numbers)
    found: list[tuple[float, float, FloatArray]] = []
    known = known_elsewhere(labels, folds)
    for strength in tried:
        logits = np.zeros((len(labels), n_classes), dtype=np.float32)
        for number in numbers:
            before_s, own = time_left_s(), folds == number
            probe = fit_linear_probe(features[~own], labels[~own], n_classes, strength)
            logits[own] = probe.logits(features[own])
            n_left -= 1
            after_s = time_left_s()
            if after_s <= 0 or (before_s - after_s) * n_left > after_s:
                return None
        loss = float(cross_entropy(logits[known], labels[known]).mean()) if known.any() else 0.0
        found.append((loss, strength, logits))
    _, strength, logits = min(found, key=lambda item: item[0])
    return strength, logits


def quick_cross_fit_linear_probe(
    features: FloatArray,
    labels: Labels,
    n_classes: int,
    folds: IntArray,
    time_left_s: Callable[[], float] = lambda: math.inf,
) -> tuple[float, FloatArray, BoolArray]:
    """As `cross_fit_linear_probe`, with less than half of the fits, and fewer where time is short.

    The first fold chooses the strength, from the usual ones on, for half of the time at most. The other folds
    follow as long as another fit and the caller's own are likely to end in time.

    Returns:
        The strength, the logits (n, C), and which rows (n,) have any: those of the folds that were reached.
    """
    given_s, own = time_left_s(), folds == 0
    strength, probe = best_strength(
        features[~own],
        labels[~own],
        n_classes,
        features[own],
        labels[own],
        stop=lambda: time_left_s() < given_s / 2,
    )
    logits = np.zeros((len(labels), n_classes), dtype=np.float32)
    logits[own] = probe.logits(features[own])
    answered, took_s = own.copy(), 0.0
    for number in np.unique(folds[folds > 0]).tolist():
        before_s = time_left_s()
        if before_s < 2 * took_s or before_s <= 0:
            break
        own = folds == number
        probe = fit_linear_probe(features[~own], labels[~own], n_classes, strength)
        logits[own], answered[own] = probe.logits(features[own]), True
        took_s = before_s - time_left_s() if math.isfinite(before_s) else 0.0
    return strength, logits, answered


def known_elsewhere(labels: Labels, folds: IntArray) -> BoolArray:
    """Return which rows (n,) are of a fold, and of a class that other rows have: others say nothing.

    Where rows may have several labels, all of a fold say something of some class.
    """
    if is_multi_hot(labels):
        return np.asarray(folds >= 0)
    known = np.zeros(len(labels), dtype=np.bool_)
    for fold in np.unique(folds[folds >= 0]):
        known[folds == fold] = np.isin(labels[folds == fold], labels[folds != fold])
    return known


def probe_accuracy(probe: LinearProbe, features: FloatArray, labels: Labels) -> float:
    """Return the share of rows that a probe has right; of several labels a row, the best micro-F1."""
    if is_multi_hot(labels):
        return best_micro_f1(sigmoid(probe.logits(features)), labels)
    return float((probe.logits(features).argmax(axis=1) == labels).mean())
