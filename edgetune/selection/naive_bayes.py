"""Two naive Bayes classifiers over present features, for two classes, learned by counting.

`BernoulliNaiveBayes` has the numbers of scikit-learn's BernoulliNB (`partial_fit`, learned prior), which
the paper's code uses. Each smoothed feature pulls a little toward the larger class even if nobody ever
saw it, and there are 30,000 of them: for the first thousands of examples it calls everything easy.
`PooledNaiveBayes` shrinks each feature toward the class shares, so what is rare says next to nothing,
and leaves absent features out, so no table has to be recomputed after a fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from edgetune.selection.features import Presence
from edgetune.selection.memory import Stateful
from edgetune.utils.types import BoolArray, FloatArray, IntArray

STRENGTH = 2.0
"""Examples' worth of class shares by which the counts of a feature are shrunk."""

ALPHA = 1.0
"""Examples of each kind that are added to the counts, as in scikit-learn."""

LOWEST_LOG_PROBA = float(np.log(np.finfo(np.float64).eps))
"""A certainly wrong prediction costs 36.04 nats, as in scikit-learn's `log_loss`."""


def log_loss(odds: FloatArray, y: BoolArray) -> float:
    """Return the mean of -log p(y'|w) in nats, eq. 4, of log odds (B,), which may be infinite."""
    gold = -np.logaddexp(0.0, np.where(y, -odds, odds))
    return float(-np.maximum(gold, LOWEST_LOG_PROBA).mean())


class NaiveBayes(ABC, Stateful):
    """Counts how many examples of each class there were, and how many of them had each feature.

    Attributes:
        class_count: (2,) examples of each class.
        feature_count: (2, V) examples of each class that have the feature.
    """

    saved = ("class_count", "feature_count")

    def __init__(self, n_features: int) -> None:
        self.class_count: FloatArray = np.zeros(2)
        self.feature_count: FloatArray = np.zeros((2, n_features))

    def partial_fit(self, x: Presence, y: BoolArray) -> None:
        """Count B more examples of classes `y` (B,)."""
        self.class_count += np.bincount(y, minlength=2)
        n_features = self.feature_count.shape[1]
        np.add.at(self.feature_count.reshape(-1), y[x.rows] * n_features + x.features, 1.0)

    @abstractmethod
    def log_odds(self, x: Presence) -> FloatArray:
        """(B,) log p(1|x) - log p(0|x)."""


class PooledNaiveBayes(NaiveBayes):
    """Naive Bayes over present features, each shrunk toward saying nothing."""

    def log_odds(self, x: Presence) -> FloatArray:
        """(B,) log p(1|x) - log p(0|x); 0 before the first example.

        With N the class counts plus 1, s_c = N_c / (N_0 + N_1) the class shares, n_c the counts of a
        feature and k the strength: logit s_1 + sum over present features of the evidence
        log (n_1 + k s_1) / (n_0 + k s_0) - logit s_1, which is 0 for a feature never seen. For a feature
        that is a case of another, s are the shares of that one, shrunk in the same way.
        """
        total = self.class_count + 1
        shares = self._shares(x.parents, (total / total.sum())[:, None])
        prior = np.log(total[1] / total[0])
        under = slice(-1, None) if x.under is None else x.under
        log_n = np.log(self.feature_count[:, x.features] + STRENGTH * shares[:, under])
        evidence = log_n[1] - log_n[0] - np.log(shares[1] / shares[0])[under]
        odds: FloatArray = np.bincount(x.rows, weights=evidence, minlength=x.n_rows) + prior
        return odds

    def _shares(self, parents: IntArray, overall: FloatArray) -> FloatArray:
        """Return the class shares (2, K + 1) among examples with each of K features, then `overall`."""
        counts = self.feature_count[:, parents] + STRENGTH * overall
        return np.concatenate([counts / counts.sum(axis=0), overall], axis=1)


class BernoulliNaiveBayes(NaiveBayes):
    """Naive Bayes over the presence and absence of features; a feature beyond the table makes it grow."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self._absent = np.zeros((2, n_features))  # log(1 - p) without its denominator, see below
        self._absent_sum = np.zeros(2)
        self._stale = True

    def partial_fit(self, x: Presence, y: BoolArray) -> None:
        self._grow(x)
        super().partial_fit(x, y)
        self._stale = True

    def joint_log_likelihood(self, x: Presence) -> FloatArray:
        """(B, 2) log p(class) + sum of log p over present + sum of log (1 - p) over absent features."""
        self._grow(x)
        self._refresh()
        present = np.log(self.feature_count[:, x.features] + ALPHA) - self._absent[:, x.features]
        log_prior = np.zeros(2)
        if self.class_count.any():
            with np.errstate(divide="ignore"):
                log_prior = np.log(self.class_count) - np.log(self.class_count.sum())
        return np.stack(
            [
                np.bincount(x.rows, weights=present[c], minlength=x.n_rows) + constant
                for c, constant in enumerate(self._absent_sum + log_prior)
            ],
            axis=1,
        )

    def log_odds(self, x: Presence) -> FloatArray:
        """(B,) log p(1|x) - log p(0|x); infinite while only one class was seen."""
        joint = self.joint_log_likelihood(x)
        odds: FloatArray = joint[:, 1] - joint[:, 0]
        return odds

    def load_state(self, state: Any) -> None:
        super().load_state(state)
        self._stale = True

    def _grow(self, x: Presence) -> None:
        missing = int(x.features.max(initial=-1)) + 1 - self.feature_count.shape[1]
        if missing > 0:
            self.feature_count = np.pad(self.feature_count, ((0, 0), (0, missing)))
            self._stale = True

    def _refresh(self) -> None:
        """After a fit, recompute log(examples without the feature + alpha) and sum log(1 - p).

        Written in place: allocating half a megabyte anew costs more than the logarithms.
        """
        if not self._stale:
            return
        if self._absent.shape != self.feature_count.shape:
            self._absent = np.empty_like(self.feature_count)
        np.subtract((self.class_count + ALPHA)[:, None], self.feature_count, out=self._absent)
        np.log(self._absent, out=self._absent)
        denominator = np.log(self.class_count + 2 * ALPHA)
        self._absent_sum = self._absent.sum(axis=1) - self._absent.shape[1] * denominator
        self._stale = False
