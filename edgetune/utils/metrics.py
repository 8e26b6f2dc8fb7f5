"""Numbers computed from predictions and counts: pure functions over arrays, no input and no output.

Classes are numbered 0 … C-1. A class that no evaluated row has counts with F1 0 in macro-F1, so that
the figure does not depend on which rows happened to be held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgetune.utils.types import BoolArray, FloatArray, IntArray, Labels

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""


def softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return class probabilities (B, C) of logits (B, C), in float64."""
    shifted = logits.astype(np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return log-probabilities of logits (…, C), in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def entropy(probabilities: FloatArray) -> FloatArray:
    """(…) in nats, of probabilities (…, C)."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    nats: FloatArray = -(probabilities * logs).sum(axis=-1)
    return nats


def sigmoid(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return 1 / (1 + exp(-logits)) of logits (…), in float64."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def cross_entropy(logits: FloatArray, labels: Labels) -> npt.NDArray[np.float64]:
    """Return the loss of each example (B,) in nats.

    Args:
        logits: (B, C).
        labels: (B,) class ids, or (B, C) multi-hot: the mean over the classes of the binary cross-entropy.
    """
    wide = logits.astype(np.float64)
    if labels.ndim == 2:
        return np.asarray((np.logaddexp(0.0, wide) - labels * wide).mean(axis=1))
    top = wide.max(axis=-1)
    log_total = top + np.log(np.exp(wide - top[:, None]).sum(axis=-1))
    return np.asarray(log_total - wide[np.arange(len(labels)), labels.astype(np.int64)])


def is_right(logits: FloatArray, labels: Labels) -> BoolArray:
    """Return which examples (B,) are answered right.

    Args:
        logits: (B, C).
        labels: (B,) class ids, or (B, C) multi-hot: all labels of a row must then be right, its own
            with logits above 0 and no other.
    """
    if labels.ndim == 2:
        return np.asarray(((logits > 0) == (labels > 0)).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == labels)


def confusion_matrix(labels: IntArray, predicted: IntArray, n_classes: int) -> npt.NDArray[np.int64]:
    """Return counts (C, C): row is the true class, column the predicted one."""
    cells = np.bincount(labels.astype(np.int64) * n_classes + predicted, minlength=n_classes**2)
    return cells.astype(np.int64).reshape(n_classes, n_classes)


def accuracy(confusion: IntArray) -> float:
    """Return the share of rows on the diagonal."""
    return int(np.trace(confusion)) / int(confusion.sum())


def mcc(confusion: IntArray) -> float:
    """Return the Matthews correlation for C classes (Gorodkin 2004); 0 if either side is constant."""
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    n = int(confusion.sum())
    covariance = int(np.trace(confusion)) * n - int(true @ predicted)
    spread = (n * n - int(true @ true)) * (n * n - int(predicted @ predicted))
    return covariance / math.sqrt(spread) if spread else 0.0


def expected_calibration_error(probabilities: FloatArray, labels: IntArray, n_bins: int = 15) -> float:
    """Return how far confidence is from accuracy: 0 where they agree (Guo et al., ICML 2017, eq. 3).

    The rows are put into bins of equal width by the highest probability, a value on an edge into the lower
    bin; |accuracy - mean confidence| of a bin counts by its share of the rows.

    Args:
        probabilities: (N, C), not logarithms of them; N at least 1.
        labels: (N,) class ids.
        n_bins: bins between 0 and 1.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, n_bins + 1)[1:-1], right=True)
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(labels))


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the Wilson score interval (95 %) of a share."""
    if n <= 0:
        raise ValueError("an interval needs at least one row")
    share, weight = n_right / n, Z_95 * Z_95 / n
    middle = (share + weight / 2) / (1 + weight)
    half = Z_95 / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return (0.0 if n_right == 0 else middle - half), (1.0 if n_right == n else middle + half)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How one class fared.

    Attributes:
        label: its name.
        precision: share of the rows predicted as it that are it; 0 if there are none.
        recall: share of its rows that were found; 0 if it has none.
        f1: harmonic mean of the two.
        support: rows that are it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def class_scores(
    right: IntArray, support: IntArray, predicted: IntArray, label_names: Sequence[str]
) -> tuple[ClassScores, ...]:
    """Return the scores of every class, of rows (C,): found, there, and predicted as it."""
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    columns = (column.tolist() for column in (precision, recall, f1, support))
    return tuple(ClassScores(*scores) for scores in zip(map(str, label_names), *columns, strict=True))


def macro_f1(confusion: IntArray) -> float:
    """Return the mean F1 over all classes; a class that is neither there nor predicted counts as 0."""
    either = confusion.sum(axis=1) + confusion.sum(axis=0)
    return float((2 * np.diag(confusion) / np.maximum(either, 1)).mean())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a classifier did on labelled rows.

    Attributes:
        n: rows evaluated.
        accuracy: share predicted right.
        interval: its Wilson 95 % interval.
        macro_f1: mean F1 over all classes.
        mcc: Matthews correlation, in [-1, 1].
        loss: mean cross-entropy in nats.
        label_names: names of the C classes, those that the model does not have at the end.
        per_class: precision, recall, F1 and support of each.
        confusion: (C, C) counts, row true, column predicted.
        n_unknown: how many of the classes the model does not have: all of their rows are wrong, and they have
            no part in `loss`.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    mcc: float
    loss: float
    label_names: tuple[str, ...]
    per_class: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    n_unknown: int = 0

    @property
    def known(self) -> tuple[ClassScores, ...]:
        """Scores of the classes that the model has."""
        return self.per_class[: len(self.per_class) - self.n_unknown]

    @property
    def unknown_labels(self) -> dict[str, int]:
        """Evaluated rows of each class that the model does not have."""
        return {one.label: one.support for one in self.per_class[len(self.known) :]}

    @property
    def never_predicted(self) -> tuple[ClassScores, ...]:
        """Classes of the model that evaluated rows have and that none was predicted as."""
        predicted = np.array(self.confusion).sum(axis=0)
        return tuple(
            one for one, count in zip(self.known, predicted, strict=False) if one.support and not count
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, under the names that `summary.json` uses."""
        return {
            "n_eval": self.n,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "macro_f1": self.macro_f1,
            "mcc": self.mcc,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "label_names": list(self.label_names),
            "per_class": [asdict(scores) for scores in self.per_class],
            "confusion": [list(row) for row in self.confusion],
            "unknown_labels": self.unknown_labels,
        }


def read_evaluation(found: dict[str, Any], kind: type[Evaluation] = Evaluation, **more: Any) -> Evaluation:
    """Make an evaluation of what `to_dict` gave, also after JSON; `more` are fields of another kind's own."""
    low, high = found["accuracy_interval"]
    return kind(
        n=found["n_eval"],
        accuracy=found["accuracy"],
        interval=(low, high),
        macro_f1=found["macro_f1"],
        mcc=found.get("mcc", math.nan),
        loss=math.nan if found["loss"] is None else found["loss"],
        label_names=tuple(found["label_names"]),
        per_class=tuple(ClassScores(**scores) for scores in found["per_class"]),
        confusion=tuple(map(tuple, found.get("confusion", ()))),
        n_unknown=len(found.get("unknown_labels", {})),
        **more,
    )


def evaluate_predictions(logits: FloatArray, labels: IntArray, label_names: Sequence[str]) -> Evaluation:
    """Return every figure of logits against class ids.

    Args:
        logits: (B, C) of the classes that the model has; B at least 1.
        labels: (B,) class ids; those from C on are classes that the model does not have.
        label_names: names of all classes.
    """
    n_known, n_classes = logits.shape[1], len(label_names)
    if not len(labels):
        raise ValueError("an evaluation needs at least one row")
    confusion = confusion_matrix(labels, logits.argmax(axis=1), n_classes)
    is_known = labels < n_known
    losses = cross_entropy(logits[is_known], labels[is_known])
    return Evaluation(
        n=len(labels),
        accuracy=accuracy(confusion),
        interval=wilson_interval(int(np.trace(confusion)), len(labels)),
        macro_f1=macro_f1(confusion),
        mcc=mcc(confusion),
        loss=float(losses.mean()) if len(losses) else math.nan,
        label_names=tuple(str(name) for name in label_names),
        per_class=class_scores(np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0), label_names),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        n_unknown=n_classes - n_known,
    )


def t_norm_modelled(a_b: float, a_fb: float, forward_s: float, backward_s: float) -> float:
    """Return the paper's modelled time relative to training on everything (Ouyang et al., IJCAI 2023).

    Args:
        a_b: share of examples that skipped the backward pass alone.
        a_fb: share of examples that skipped both passes.
        forward_s: T_f, seconds of a forward pass per example.
        backward_s: T_b, seconds of a backward pass per example.
    """
    whole = forward_s + backward_s
    return (a_b * forward_s + (1 - a_b - a_fb) * whole) / whole


def agot(accuracy: float, t_norm: float, base: float, full: float, eps: float = 0.95) -> float:
    """Return the paper's accuracy gain over time, eq. 5.

    Args:
        accuracy: of the run.
        t_norm: its time relative to training on everything.
        base: accuracy without finetuning.
        full: accuracy of training on everything; must differ from `base`.
        eps: weight of accuracy against time.
    """
    return float((accuracy - base) / (full - base) / t_norm ** (1 - eps))


def paper_energy_kwh(
    elapsed_s: float, cpu_w: float, memory_w: float, gpu_w: float = 0.0, n_gpu: int = 0
) -> float:
    """Return the paper's estimate of energy, eq. 6: mean power draws times hours times 1.58 (PUE)."""
    return 1.58 * (elapsed_s / 3600) * (cpu_w + memory_w + n_gpu * gpu_w) / 1000


def paper_co2e_lb(energy_kwh: float) -> float:
    """Return pounds of CO2 equivalent of that energy, eq. 6 (US grid mean)."""
    return 0.954 * energy_kwh
