"""Cross-fitting: if there are few rows, the weights of the ensemble are fitted on all of them.

    training and held-out rows ─→ folds, near-duplicates in one
    each fold: probe and n-grams fitted on the other folds ─→ log-probabilities of its rows

A quarter of 300 rows says little about which learner to trust. Learners fitted on four fifths of the rows say
more, and take about a second: with 100 and 300 rows of SST-2, AG News and Amazon reviews, the ensemble of
probe and n-grams gained 1.1 points in the mean of six draws each (docs/log.md, seventeenth session). With
1,000 rows it gained nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.data.near_duplicates import make_folds, similar_groups
from edgetune.data.token_store import TokenView
from edgetune.learners.linear_probe import (
    LinearProbe,
    cross_fit_linear_probe,
    fit_linear_probe,
    known_elsewhere,
)
from edgetune.learners.ngrams.learner import cross_fit_ngrams
from edgetune.runs.probing import FittedProbe
from edgetune.runs.setup import RunContext
from edgetune.utils.multi_label import is_multi_hot, log_probabilities, strata
from edgetune.utils.types import FloatArray, Labels

MOST_ROWS = 600
"""With more rows than this nothing is cross-fitted."""
TIME_RATE = 0.25
"""Share of the time for training that cross-fitting may take; with 300 rows it takes about a second."""


@dataclass(frozen=True)
class CrossFit:
    """Predictions of two learners for rows that they were not fitted on, and the probe fitted on all rows.

    Attributes:
        probe: fitted on all rows, with the penalty that is best for unseen rows.
        probe_log_proba, ngrams_log_proba: (n, C) by learners fitted on the other folds.
        labels: (n,) class ids, or multi-hot (n, C).
    """

    probe: LinearProbe
    probe_log_proba: FloatArray
    ngrams_log_proba: FloatArray
    labels: Labels

    def state(self) -> list[Any]:
        """Return the arrays for a checkpoint."""
        heads = [self.probe.weight, self.probe.bias]
        return [*heads, self.probe_log_proba, self.ngrams_log_proba, self.labels]

    @classmethod
    def of_state(cls, state: list[Any]) -> CrossFit:
        """Restore the object from its `state`."""
        weight, bias, *others = state
        return cls(LinearProbe(weight, bias), *others)


def cross_fit_all(run: RunContext, found: FittedProbe) -> CrossFit | None:
    """Cross-fit n-grams and the probe that was found, on training and held-out rows.

    Returns:
        None if there are many rows, if not all of them were read, or if there is too little time.
    """
    train, held_out, scored, clock = run.data.train, run.data.held_out, found.held_out, run.deadline.clock
    if held_out is None or scored is None or found.train_rows is None or found.features is None:
        return None
    n_rows = len(train) + len(held_out)
    if n_rows > MOST_ROWS or len(found.train_rows) + len(scored.rows) < n_rows:
        return None
    rows = np.concatenate([train.rows[found.train_rows], held_out.rows[scored.rows]])
    labels = np.concatenate([train.labels[found.train_rows], held_out.labels[scored.rows]])
    end_s = clock.elapsed_s() + TIME_RATE * clock.left_s()

    def time_left_s() -> float:
        return 0.0 if run.stop() else end_s - clock.elapsed_s()

    everything = TokenView(train.store, rows, labels, train.label_names)
    return cross_fit(everything, found.features(), run.config.train.seed, time_left_s)


def cross_fit(
    view: TokenView, features: FloatArray, seed: int, time_left_s: Callable[[], float]
) -> CrossFit | None:
    """Fit both learners once for each fold, on the rows of the other folds.

    Args:
        view: all labelled rows.
        features: (n, F) of these rows, from the untouched encoder.
        seed: of the folds.
        time_left_s: returns seconds until it has to be done.

    Returns:
        Their predictions for the rows that they were not fitted on. None if there is too little time, or if
        too many rows are near-duplicates of each other.
    """
    folds = make_folds(similar_groups(view), strata(view.labels), np.random.default_rng([seed, 8]))
    if folds is None:
        return None
    labels, n_classes = view.labels, len(view.label_names)
    found = cross_fit_linear_probe(features, labels, n_classes, folds, time_left_s=time_left_s)
    if found is None:
        return None
    strength, logits = found
    of_ngrams = cross_fit_ngrams(view.texts(), labels, n_classes, folds, seed, time_left_s)
    known = known_elsewhere(labels, folds)
    if not known.any():
        return None
    probe = fit_linear_probe(features, labels, n_classes, strength, lambda: time_left_s() <= 0)
    if time_left_s() <= 0:  # something was cut short
        return None
    return CrossFit(
        probe, log_probabilities(logits, is_multi_hot(labels))[known], of_ngrams[known], labels[known]
    )
