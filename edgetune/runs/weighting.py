"""The weights of a run's learners, and the evaluation of the ensemble that they make."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetune.config.settings import TrainSettings
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import ENCODER
from edgetune.learners.ensemble import Ensemble, MemberScore, fit_ensemble
from edgetune.runs.scoring import Scored
from edgetune.utils.metrics import Evaluation, cross_entropy
from edgetune.utils.multi_label import (
    calibration_error,
    evaluate_answers,
    is_multi_hot,
    log_odds,
    log_probabilities,
    micro_f1,
)
from edgetune.utils.types import FloatArray, Labels

FEWEST_ROWS = 20
"""The encoder takes part only if it was scored on this many held-out rows, or on all of them."""
KEPT_RATE = 0.95
"""Share of the held-out rows whose highest class probability reaches the threshold in the summary."""


@dataclass(frozen=True)
class Weighted:
    """Learners and their weights, fitted on held-out rows.

    Attributes:
        ensemble: learners and weights.
        members: how each learner did on these rows.
        threshold: value that the highest class probability reaches on 95 % of them; a text below it may
            belong to no class. None if a text may have several classes.
    """

    ensemble: Ensemble
    members: tuple[MemberScore, ...]
    threshold: float | None = None


def weigh(
    log_probas: dict[str, FloatArray], labels: Labels, settings: TrainSettings, train: TokenView
) -> Weighted:
    """Fit the weights of learners on rows that none of them was trained on.

    Args:
        log_probas: (N, C) of every learner by name.
        labels: (N,) class ids, or multi-hot (N, C).
        settings: the metric, and how classes are weighted.
        train: training rows, for the frequencies of the classes.
    """
    metric = settings.metric
    ensemble, members = fit_ensemble(
        log_probas, labels, metric=metric, keep="best" if settings.single else "pool"
    )
    if is_multi_hot(labels):  # which have a threshold for each class instead
        return Weighted(ensemble, members)
    by = None if settings.class_weight == "balanced" else metric
    if by != "accuracy" and settings.class_weight != "none":
        counts = np.bincount(train.labels, minlength=len(train.label_names)) + 1
        ensemble = ensemble.balanced(log_probas, labels.astype(np.int64), counts / counts.sum(), by)
    largest = np.exp(ensemble.combine(log_probas).max(axis=1))
    return Weighted(ensemble, members, float(np.quantile(largest, 1 - KEPT_RATE)))


def has_enough_rows(scored: Scored) -> bool:
    """Return whether an encoder was scored on enough of the held-out rows to fit its weight."""
    return len(scored.rows) >= min(FEWEST_ROWS, len(scored.view))


def is_better(one: Scored | None, other: Scored | None, errors: float = 0.0) -> bool:
    """Return whether one encoder or head has a smaller log loss on held-out rows than another.

    Each is taken at the temperature that suits it best.

    The n-grams take no part in the comparison. If held-out rows repeat phrases of training rows, as in SST-2,
    the n-grams are right on nearly all of them, and the ensemble hardly depends on the encoder. The first is
    also better if there was no time to score the other on enough rows.

    Args:
        one: its logits on held-out rows; None if it was not scored.
        other: the same of the other.
        errors: standard errors of the mean difference by which the loss must be smaller.
    """
    if one is None:
        return False
    if other is None or not np.isfinite(other.logits).all():
        return True
    rows, of_other, of_one = np.intersect1d(other.rows, one.rows, return_indices=True)
    if len(rows) < min(FEWEST_ROWS, len(other.view)):
        return True
    labels = other.view.labels[rows]
    more = _calibrated_losses(other.logits[of_other], labels)
    more -= _calibrated_losses(one.logits[of_one], labels)
    return bool(more.mean() > errors * more.std() / math.sqrt(len(rows)))


def _calibrated_losses(logits: FloatArray, labels: Labels) -> FloatArray:
    """Return the log losses (N,) in nats of logits (N, C) at the temperature that suits these rows."""
    log_probas = {ENCODER: log_probabilities(logits, is_multi_hot(labels))}
    ensemble, _ = fit_ensemble(log_probas, labels)
    combined = ensemble.combine(log_probas)
    return cross_entropy(log_odds(combined) if ensemble.multi_label else combined, labels)


@dataclass(frozen=True)
class EnsembleEvaluation:
    """Figures on the evaluation rows.

    Attributes:
        combined: of the ensemble.
        alone: of each learner, by name.
        calibration_error: of the ensemble's probabilities.
    """

    combined: Evaluation
    alone: dict[str, Evaluation]
    calibration_error: float


def evaluate_learners(
    weighted: Weighted, log_probas: dict[str, FloatArray], labels: Labels, label_names: tuple[str, ...]
) -> EnsembleEvaluation:
    """Evaluate an ensemble, and each learner alone at its own thresholds.

    Args:
        weighted: the ensemble.
        log_probas: (N, C) of every learner by name, on evaluation rows.
        labels: (N,) class ids, or multi-hot (N, C).
        label_names: by class id.
    """
    ensemble, own = weighted.ensemble, {score.name: score.thresholds for score in weighted.members}
    combined = ensemble.combine(log_probas)

    def evaluated(answers: FloatArray, thresholds: tuple[float, ...]) -> Evaluation:
        return evaluate_answers(answers, labels, label_names, thresholds)

    alone = {name: evaluated(found, own.get(name, ensemble.thresholds)) for name, found in log_probas.items()}
    whole = evaluated(combined, ensemble.thresholds)
    return EnsembleEvaluation(whole, alone, calibration_error(np.exp(combined), labels))


def learner_fields(
    name: str, weight: float, evaluation: Evaluation | None, held_out: MemberScore | None
) -> dict[str, Any]:
    """Return what the summary says about one learner."""
    return {
        "name": name,
        "weight": weight,
        "accuracy": None if evaluation is None else evaluation.accuracy,
        "macro_f1": None if evaluation is None else evaluation.macro_f1,
        "micro_f1": micro_f1(evaluation),
        "held_out": None if held_out is None else asdict(held_out),
    }
