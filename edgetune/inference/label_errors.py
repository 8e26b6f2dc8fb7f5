"""Finds labels that are probably wrong, by out-of-fold probabilities.

    texts ─→ folds, near-duplicates in one ─→ n-grams, a linear probe and nearest neighbours of other folds
          ─→ ensemble of them ─→ probabilities ─→ rows whose label is improbable

A model that was trained on a wrong label often repeats it; one that never saw the row does not. That is the
idea of confident learning (Northcutt, Jiang and Chuang, JAIR 2021), which `python tools/bench label_errors`
measures this beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgetune.data.near_duplicates import N_FOLDS, Words, make_folds, similar_groups
from edgetune.inference.saved_ensemble import NGRAMS, PROBE
from edgetune.learners.ensemble import fit_ensemble
from edgetune.learners.linear_probe import known_elsewhere, quick_cross_fit_linear_probe
from edgetune.learners.ngrams.learner import cross_fit_ngrams
from edgetune.utils.metrics import log_softmax
from edgetune.utils.types import BoolArray, FloatArray, IntArray

N_NEIGHBOURS, NEIGHBOUR_WIDTH, NEIGHBOUR_FLOOR = 50, 0.1, 0.02
"""Rows that vote, by exp(cosine / width), and the share of the votes that all classes get evenly."""
ROWS_AT_ONCE = 1024
ODDS = 10.0
"""With these odds two thirds of the suggestions were right on AG News with 5 % of the labels flipped."""


@dataclass(frozen=True)
class LabelErrors:
    """What learners that never saw a row say of its label, (n,) each.

    Attributes:
        suggested: the most probable class.
        probability: of that class.
        label_probability: of the row's label.
        is_error: whether the label is probably wrong: the suggested one is `ODDS` times as probable.
        ranked: all rows, the label that is most probably wrong first: by its probability over the mean of
            this on all rows of that label, so that labels which are hard to predict are not suspected the
            more; rows of which nothing is known last.
    """

    suggested: IntArray
    probability: FloatArray
    label_probability: FloatArray
    is_error: BoolArray
    ranked: IntArray


def out_of_fold_probabilities(
    texts: Sequence[str], labels: IntArray, n_classes: int, features: FloatArray | None, seed: int
) -> FloatArray:
    """Return probabilities (n, C) of every row by learners that were fitted on other rows.

    Args:
        texts: (n,); those of a pair with `PAIR_SEPARATOR` between them.
        labels: (n,) class ids.
        n_classes: C.
        features: (n, F) of the untouched encoder; None for the n-grams alone.
        seed: of the folds and of the n-grams.

    Returns:
        The probabilities; not a number in rows whose class no other fold has.
    """
    rng = np.random.default_rng([seed, 9])
    folds = make_folds(similar_groups(Words(texts)), labels, rng)
    if folds is None:  # most rows are alike
        folds = rng.permutation(len(texts)) % N_FOLDS
    log_probas = {NGRAMS: cross_fit_ngrams(texts, labels, n_classes, folds, seed)}
    if features is not None:
        _, logits, _ = quick_cross_fit_linear_probe(features, labels, n_classes, folds)
        log_probas[PROBE] = log_softmax(logits)
        log_probas["neighbours"] = _neighbour_log_proba(features, labels, n_classes, folds)
    found = np.full((len(texts), n_classes), np.nan)
    known = known_elsewhere(labels, folds)
    if known.any():
        log_probas = {name: values[known] for name, values in log_probas.items()}
        ensemble, _ = fit_ensemble(log_probas, labels[known])
        found[known] = np.exp(ensemble.combine(log_probas))
    return found


def _neighbour_log_proba(
    features: FloatArray, labels: IntArray, n_classes: int, folds: IntArray
) -> FloatArray:
    """Return log-probabilities (n, C) by the labels of the nearest rows of other folds, weighted by cosine.

    Few wrong labels among many neighbours do little harm, while a linear classifier bends to fit them.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    found = np.full((len(labels), n_classes), NEIGHBOUR_FLOOR / n_classes)
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        n_nearest = min(N_NEIGHBOURS, len(others))
        for own in np.array_split(np.flatnonzero(folds == fold), len(labels) // ROWS_AT_ONCE + 1):
            cosine = unit[own] @ unit[others].T
            nearest = np.argpartition(-cosine, n_nearest - 1, axis=1)[:, :n_nearest]
            weights = np.exp((np.take_along_axis(cosine, nearest, axis=1) - 1) / NEIGHBOUR_WIDTH)
            weights *= (1 - NEIGHBOUR_FLOOR) / weights.sum(axis=1, keepdims=True)
            np.add.at(found, (own[:, None], labels[others[nearest]]), weights)
    result: FloatArray = np.log(found)
    return result


def find_label_errors(probabilities: FloatArray, labels: IntArray) -> LabelErrors:
    """Find the labels that are probably wrong.

    Args:
        probabilities: (n, C) of `out_of_fold_probabilities`; rows without any keep their label.
        labels: (n,) class ids.
    """
    rows, known = np.arange(len(labels)), ~np.isnan(probabilities[:, 0])
    suggested = np.where(known, np.nan_to_num(probabilities).argmax(axis=1), labels)
    probability, of_label = probabilities[rows, suggested], probabilities[rows, labels]
    n_classes = probabilities.shape[1]
    sums = np.bincount(labels[known], of_label[known], minlength=n_classes)
    usual = sums / np.maximum(1, np.bincount(labels[known], minlength=n_classes))
    score = np.full(len(labels), np.inf)
    score[known] = of_label[known] / usual[labels[known]]
    ranked = np.argsort(score, kind="stable")
    return LabelErrors(suggested, probability, of_label, probability > ODDS * of_label, ranked)
