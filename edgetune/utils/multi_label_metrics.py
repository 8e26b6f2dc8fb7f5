"""Evaluation where rows may have several labels: F1 over all labels and over classes, and exact matches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.utils.metrics import (
    ClassScores,
    Evaluation,
    cross_entropy,
    evaluate_predictions,
    expected_calibration_error,
    read_evaluation,
    wilson_interval,
)
from edgetune.utils.multi_label import (
    USUAL_THRESHOLD,
    f1_of_all,
    is_multi_hot,
    log_odds,
)
from edgetune.utils.types import FloatArray, Labels


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
    f1 = 2 * right / np.maximum(support + n_predicted, 1)
    precision, recall = right / np.maximum(n_predicted, 1), right / np.maximum(support, 1)
    figures = zip(map(str, label_names), precision, recall, f1, support, strict=True)
    n_exact = int((true == predicted).all(axis=1).sum())
    return MultiLabelEvaluation(
        n=len(labels),
        accuracy=n_exact / len(labels),
        interval=wilson_interval(n_exact, len(labels)),
        macro_f1=float(f1.mean()),
        mcc=math.nan,
        loss=float(cross_entropy(log_odds(log_p), labels[:, :n_known]).mean()),
        label_names=tuple(map(str, label_names)),
        per_class=tuple(
            ClassScores(name, float(p), float(r), float(f), int(count)) for name, p, r, f, count in figures
        ),
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
    low, high = found["accuracy_interval"]
    return MultiLabelEvaluation(
        n=found["n_eval"],
        accuracy=found["accuracy"],
        interval=(low, high),
        macro_f1=found["macro_f1"],
        mcc=math.nan,
        loss=math.nan if found["loss"] is None else found["loss"],
        label_names=tuple(found["label_names"]),
        per_class=tuple(ClassScores(**scores) for scores in found["per_class"]),
        confusion=(),
        n_unknown=len(found["unknown_labels"]),
        micro_f1=found["micro_f1"],
        thresholds=tuple(found["thresholds"]),
        n_predicted=tuple(found["n_predicted"]),
    )
