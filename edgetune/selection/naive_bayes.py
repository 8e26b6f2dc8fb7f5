"""Two naive Bayes classifiers over present features, for two classes, learned by counting.

`BernoulliNaiveBayes` has the numbers of scikit-learn's BernoulliNB (`partial_fit`, learned prior), which
the paper's code uses. Each smoothed feature pulls a little toward the larger class even if nobody ever
saw it, and there are 30,000 of them: for the first thousands of examples it calls everything easy.
`PooledNaiveBayes` shrinks each feature toward the class shares, so what is rare says next to nothing,
and leaves absent features out, so no table has to be recomputed after a fit.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edgetune.selection.features import Presence
from edgetune.utils.types import BoolArray, FloatArray, IntArray

LOWEST_LOG_PROBA = float(np.log(np.finfo(np.float64).eps))
"""A certainly wrong prediction costs 36.04 nats, as in scikit-learn's `log_loss`."""


def log_probabilities(odds: FloatArray) -> FloatArray:
    """(B, 2) log p(0), log p(1) of log odds (B,), which may be infinite."""
    return np.stack([-np.logaddexp(0.0, odds), -np.logaddexp(0.0, -odds)], axis=1)


def log_loss(log_proba: FloatArray, y: BoolArray) -> float:
    """Return the mean of -log p(y'|w) in nats, eq. 4."""
    gold = log_proba[np.arange(len(y)), y.astype(np.int64)]
    return float(-np.maximum(gold, LOWEST_LOG_PROBA).mean())


class NaiveBayes(Protocol):
    """What the meta predictor asks of a classifier."""

    class_count: FloatArray  # (2,) examples of each class

    def partial_fit(self, x: Presence, y: BoolArray) -> None: ...

    def log_odds(self, x: Presence) -> FloatArray: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class _Counts:
    """How many examples of each class there were, and how many of them had each feature.

    Attributes:
        class_count: (2,) examples of each class.
        feature_count: (2, V) examples of each class that have the feature.
    """

    def __init__(self, n_features: int) -> None:
        self.class_count: FloatArray = np.zeros(2)
        self.feature_count: FloatArray = np.zeros((2, n_features))

    def partial_fit(self, x: Presence, y: BoolArray) -> None:
        """Count B more examples of classes `y` (B,)."""
        self.class_count += np.bincount(y, minlength=2)
        n_features = self.feature_count.shape[1]
        np.add.at(self.feature_count.reshape(-1), y[x.rows] * n_features + x.features, 1.0)

    def state(self) -> dict[str, Any]:
        return {"class_count": self.class_count.copy(), "feature_count": self.feature_count.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.class_count = np.array(state["class_count"], dtype=np.float64)
        self.feature_count = np.array(state["feature_count"], dtype=np.float64)


class PooledNaiveBayes(_Counts):
    """Naive Bayes over present features, each shrunk toward saying nothing."""

    def __init__(self, n_features: int, strength: float = 2.0) -> None:
        super().__init__(n_features)
        self._strength = strength

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
        log_n = np.log(self.feature_count[:, x.features] + self._strength * shares[:, under])
        evidence = log_n[1] - log_n[0] - np.log(shares[1] / shares[0])[under]
        odds: FloatArray = np.bincount(x.rows, weights=evidence, minlength=x.n_rows) + prior
        return odds

    def _shares(self, parents: IntArray, overall: FloatArray) -> FloatArray:
        """Return the class shares (2, K + 1) among examples with each of K features, then `overall`."""
        counts = self.feature_count[:, parents] + self._strength * overall
        return np.concatenate([counts / counts.sum(axis=0), overall], axis=1)


class BernoulliNaiveBayes(_Counts):
    """Naive Bayes over the presence and absence of features; a feature beyond the table makes it grow."""

    def __init__(self, n_features: int, alpha: float = 1.0) -> None:
        super().__init__(n_features)
        self._alpha = alpha
        self._absent = np.zeros((2, n_features))  # log(1 - p) without its denominator, see below
        self._absent_sum = np.zeros(2)
        self._stale = True

    def partial_fit(self, x: Presence, y: BoolArray) -> None:
        """Count B more examples of classes `y` (B,)."""
        self._grow(x)
        super().partial_fit(x, y)
        self._stale = True

    def log_prior(self) -> FloatArray:
        """(2,) log of each class's share; 0 for both before the first example."""
        if not self.class_count.any():
            return np.zeros(2)
        with np.errstate(divide="ignore"):
            shares: FloatArray = np.log(self.class_count) - np.log(self.class_count.sum())
        return shares

    def joint_log_likelihood(self, x: Presence) -> FloatArray:
        """(B, 2) log p(class) + sum of log p over present + sum of log (1 - p) over absent features."""
        self._grow(x)
        self._refresh()
        present = np.log(self.feature_count[:, x.features] + self._alpha) - self._absent[:, x.features]
        return np.stack(
            [
                np.bincount(x.rows, weights=present[c], minlength=x.n_rows) + constant
                for c, constant in enumerate(self._absent_sum + self.log_prior())
            ],
            axis=1,
        )

    def log_odds(self, x: Presence) -> FloatArray:
        """(B,) log p(1|x) - log p(0|x); infinite while only one class was seen."""
        joint = self.joint_log_likelihood(x)
        odds: FloatArray = joint[:, 1] - joint[:, 0]
        return odds

    def predict(self, x: Presence) -> BoolArray:
        """(B,) the likelier class; a tie is class 0, as in scikit-learn."""
        return self.log_odds(x) > 0

    def load_state(self, state: dict[str, Any]) -> None:
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
        np.subtract((self.class_count + self._alpha)[:, None], self.feature_count, out=self._absent)
        np.log(self._absent, out=self._absent)
        denominator = np.log(self.class_count + 2 * self._alpha)
        self._absent_sum = self._absent.sum(axis=1) - self._absent.shape[1] * denominator
        self._stale = False
