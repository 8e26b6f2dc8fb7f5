"""Rows with several labels each, or none: labels as multi-hot arrays (n, C), and what is computed of them.

Class ids (n,) stand for one label a row. Functions that serve both decide by `labels.ndim`. Learners answer
with log-probabilities (N, C): of a class among all where a row has one label, else of each class on its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgetune.utils.metrics import log_softmax
from edgetune.utils.types import FloatArray, IntArray, Labels

Wide = npt.NDArray[np.float64]

THRESHOLDS: Wide = np.arange(0.02, 0.98, 0.01).round(2)
"""Probabilities from which a class's threshold is chosen."""
USUAL_THRESHOLD = 0.5
PRIOR_ROWS = 10.0
"""Rows of each class that the mean of all classes stands for where its threshold is chosen."""


def is_multi_hot(labels: Labels) -> bool:
    """Return whether rows may have several labels."""
    return labels.ndim == 2


def multi_hot(label_sets: Sequence[Sequence[int]], n_classes: int) -> npt.NDArray[np.float32]:
    """Return sets of class ids as an array (n, C) of 0 and 1."""
    found = np.zeros((len(label_sets), n_classes), dtype=np.float32)
    for row, ids in enumerate(label_sets):
        found[row, list(ids)] = 1.0
    return found


def class_counts(labels: Labels, n_classes: int) -> IntArray:
    """Return how many rows have each class (C,)."""
    if is_multi_hot(labels):
        return np.asarray(labels.sum(axis=0, dtype=np.float64)).astype(np.int64)
    return np.bincount(labels.astype(np.int64), minlength=n_classes)


def strata(labels: Labels) -> IntArray:
    """Return the class (n,) by which each row is drawn: its rarest one; C for a row without any."""
    if not is_multi_hot(labels):
        return labels.astype(np.int64)
    n_classes = labels.shape[1]
    frequency = np.where(labels > 0, class_counts(labels, n_classes), np.inf)
    rarest = frequency.argmin(axis=1) if n_classes else np.zeros(len(labels), dtype=np.int64)
    return np.where(labels.any(axis=1), rarest, n_classes)


def log_probabilities(logits: FloatArray, multi_label: bool) -> Wide:
    """Return the log-probabilities (N, C) that logits stand for."""
    return log_sigmoid(logits) if multi_label else log_softmax(logits)


def log_sigmoid(logits: FloatArray) -> Wide:
    """Return log-probabilities of logits, each on its own, in float64."""
    return -np.logaddexp(0.0, -logits.astype(np.float64))


def log_odds(log_p: FloatArray) -> Wide:
    """Return the logits of log-probabilities: the inverse of `log_sigmoid`."""
    wide = np.minimum(log_p.astype(np.float64), -1e-15)
    return np.asarray(wide - np.log(-np.expm1(wide)))


def choose_thresholds(probabilities: FloatArray, labels: Labels) -> Wide:
    """Return the threshold (C,) of each class that has the best F1 on these rows.

    To the counts of a class those of all classes are added, scaled to `PRIOR_ROWS` rows of one class. So the
    threshold of a class with few rows is near the one that would be best for all.

    Args:
        probabilities: (N, C).
        labels: (N, C) multi-hot.
    """
    true = labels > 0
    support = true.sum(axis=0)
    found, predicted = (np.zeros((len(THRESHOLDS), labels.shape[1])) for _ in range(2))
    for at, threshold in enumerate(THRESHOLDS):
        above = probabilities >= threshold
        found[at], predicted[at] = (above & true).sum(axis=0), above.sum(axis=0)
    scale = PRIOR_ROWS / max(1, int(support.sum()))
    prior_found, prior_predicted = (
        scale * counts.sum(axis=1, keepdims=True) for counts in (found, predicted)
    )
    f1 = 2 * (found + prior_found) / (predicted + prior_predicted + support + PRIOR_ROWS)
    return np.asarray(THRESHOLDS[f1.argmax(axis=0)])


def best_micro_f1(probabilities: FloatArray, labels: Labels) -> float:
    """Return the micro-F1 at the best common threshold; arguments as of `choose_thresholds`."""
    true = labels > 0
    scores = [f1_of_all(probabilities >= threshold, true) for threshold in THRESHOLDS]
    return max(scores)


def f1_of_all(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Return the micro-F1 of predictions (N, C); 0 where nothing is true or predicted."""
    total = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / total if total else 0.0
