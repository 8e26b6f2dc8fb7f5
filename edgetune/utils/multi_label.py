"""Rows with several labels each, or none: labels as multi-hot arrays (n, C), and how answers are evaluated.

Class ids (n,) stand for one label a row. Functions that serve both decide by `labels.ndim`. Learners answer
with log-probabilities (N, C): of a class among all where a row has one label, else of each class on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetune.utils.metrics import (
    ClassScores,
    Evaluation,
    class_scores,
    cross_entropy,
    evaluate_predictions,
    expected_calibration_error,
    log_softmax,
    read_evaluation,
    wilson_interval,
)
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
    """Return the threshold (C,) of each class that has the best F1 on these rows; of equals the middle one.

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
    equals = (np.flatnonzero(column >= column.max() - 1e-12) for column in f1.T)
    return np.array([THRESHOLDS[at[len(at) // 2]] for at in equals])


def best_micro_f1(probabilities: FloatArray, labels: Labels) -> float:
    """Return the micro-F1 at the best common threshold; arguments as of `choose_thresholds`."""
    true = labels > 0
    scores = [f1_of_all(probabilities >= threshold, true) for threshold in THRESHOLDS]
    return max(scores)


def f1_of_all(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> float:
    """Return the micro-F1 of predictions (N, C); 0 where nothing is true or predicted."""
    total = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class MultiLabelEvaluation(Evaluation):
    """What a classifier did on rows that may have several labels.

    `accuracy` is the subset accuracy, the share of rows whose labels are all right, and `interval` is its
    interval. `loss` is the mean binary cross-entropy over rows and classes. There is no `mcc` (not a number)
    and no `confusion` (empty).

    Attributes:
        micro_f1: F1 of all decisions on all classes together.
        thresholds: (C,) probabilities from which a class is predicted.
        n_predicted: (C,) rows for which it was.
    """

    micro_f1: float = math.nan
    thresholds: tuple[float, ...] = ()
    n_predicted: tuple[int, ...] = ()

    @property
    def never_predicted(self) -> tuple[ClassScores, ...]:
        """Classes of the model that evaluated rows have and that were predicted for none."""
        pairs = zip(self.known, self.n_predicted, strict=False)
        return tuple(one for one, count in pairs if one.support and not count)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, under the names that `summary.json` uses."""
        found = Evaluation.to_dict(self)  # `super()` does not work in a dataclass with slots
        return {name: value for name, value in found.items() if name not in ("mcc", "confusion")} | {
            "micro_f1": self.micro_f1,
            "thresholds": list(self.thresholds),
            "n_predicted": list(self.n_predicted),
        }


def micro_f1(found: Evaluation | None) -> float | None:
    """Return the micro-F1 of rows that may have several labels; None of any other evaluation."""
    return found.micro_f1 if isinstance(found, MultiLabelEvaluation) else None


def calibration_error(probabilities: FloatArray, labels: Labels) -> float:
    """Return the expected calibration error; of several labels a row, over all decisions on a class."""
    if not is_multi_hot(labels):
        return expected_calibration_error(probabilities, labels.astype(np.int64))
    known = probabilities.ravel()
    true = labels[:, : probabilities.shape[1]].ravel().astype(np.int64)
    return expected_calibration_error(np.stack([1 - known, known], axis=1), true)


def evaluate_answers(
    log_p: FloatArray, labels: Labels, label_names: Sequence[str], thresholds: Sequence[float] = ()
) -> Evaluation:
    """Return every figure of an answer (N, C) against class ids (N,) or multi-hot labels (N, C).

    Args:
        log_p: log-probabilities of the classes that the model has; N at least 1. Where rows have one label,
            logits will do.
        labels: those from C on are classes that the model does not have.
        label_names: names of all classes.
        thresholds: (C,) probabilities from which a class is predicted, where rows may have several labels;
            () for `USUAL_THRESHOLD`.

    Raises:
        ValueError: the shapes do not fit.
    """
    if not is_multi_hot(labels):
        return evaluate_predictions(log_p, labels.astype(np.int64), label_names)
    n_known = log_p.shape[-1]
    if not len(labels) or len(log_p) != len(labels) or not n_known <= len(label_names) == labels.shape[1]:
        raise ValueError(f"answers {log_p.shape}, labels {labels.shape}, {len(label_names)} names do not fit")
    limits = np.array(thresholds or [USUAL_THRESHOLD] * n_known)
    true, predicted = labels > 0, np.zeros(labels.shape, dtype=np.bool_)
    predicted[:, :n_known] = np.exp(log_p) >= limits
    support, n_predicted = true.sum(axis=0), predicted.sum(axis=0)
    right = (true & predicted).sum(axis=0)
    per_class = class_scores(right, support, n_predicted, label_names)
    n_exact = int((true == predicted).all(axis=1).sum())
    return MultiLabelEvaluation(
        n=len(labels),
        accuracy=n_exact / len(labels),
        interval=wilson_interval(n_exact, len(labels)),
        macro_f1=float(np.mean([one.f1 for one in per_class])),
        mcc=math.nan,
        loss=float(cross_entropy(log_odds(log_p), labels[:, :n_known]).mean()),
        label_names=tuple(map(str, label_names)),
        per_class=per_class,
        confusion=(),
        n_unknown=len(label_names) - n_known,
        micro_f1=f1_of_all(predicted, true),
        thresholds=tuple(limits.tolist()),
        n_predicted=tuple(n_predicted.tolist()),
    )


def restore_evaluation(found: dict[str, Any]) -> Evaluation:
    """Make an evaluation of what `to_dict` of either kind gave, also after JSON."""
    if "thresholds" not in found:
        return read_evaluation(found)
    return read_evaluation(
        found,
        MultiLabelEvaluation,
        micro_f1=found["micro_f1"],
        thresholds=tuple(found["thresholds"]),
        n_predicted=tuple(found["n_predicted"]),
    )
