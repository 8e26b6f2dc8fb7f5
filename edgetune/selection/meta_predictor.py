"""The meta predictor: does an example's loss exceed L_low? Asked before any forward pass.

What: naive Bayes over which features an example has, learned online from scored examples; optionally
    its log odds are scaled to be probabilities (Platt), so that its log loss (eq. 4) means something.
    The scaling never changes who is predicted easy: that is the sign of the naive Bayes log odds, or, when
    a share of the hard rows is asked for, the log odds that this share of the last ones had.
    The features `tokens` are the paper's (token ids, BernoulliNB); `hashed` are ours.
Costs: a sort of the batch's (row, feature) pairs, then arithmetic on those; `tokens` also one pass
    over the table after each fit. A small fraction of a millisecond for 32 rows of 20 tokens (0.1 to
    predict, 0.2 to learn); memory 16 bytes per feature, half a megabyte to a megabyte.
Loses when: hardness is not in the words. With a head on frozen MiniLM, SST-2, 14,000 rows in one pass and
    27 % of them hard, AUC for "hard" over rows 640-2,560 and over the last 8,000: BernoulliNB 0.53 and
    0.66 (it calls 100 % and 95 % easy), ours 0.66 and 0.74 (66 % and 53 %, of which 20 % and 13 % are
    hard). With a finetuned encoder expect less.
Source: Ouyang et al., IJCAI 2023, §3, eq. 4; Platt, 1999. The cutoff by recall is ours.

`Audit` counts how good its calls are, where a loss tells the truth. In stage 2 nothing is known of most
rows that are called easy, but each of them had the same chance to be explored: those that were stand for
all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edgetune.data.batches import Batch
from edgetune.selection.features import FeatureSpace
from edgetune.selection.memory import Stateful
from edgetune.selection.naive_bayes import NaiveBayes, log_loss
from edgetune.utils.types import BoolArray, FloatArray


class PlattScaling(Stateful):
    """Online logistic regression of the outcome on the log odds: p(1) = sigmoid(slope * odds + shift).

    One damped Newton step per batch on curvature that forgets, so no step size has to fit the scale
    of the odds. The slope is kept from turning negative.
    """

    saved = ("_weights", "_curvature")
    _LARGEST_ODDS = 30.0
    _FORGET = 0.98

    def __init__(self) -> None:
        self._weights = np.array([0.2, 0.0])  # slope, shift: naive Bayes is overconfident from the start
        self._curvature = np.diag([20.0, 4.0])

    def __call__(self, odds: FloatArray) -> FloatArray:
        """(B,) scaled log odds."""
        scaled: FloatArray = self._weights[0] * self._inputs(odds)[0] + self._weights[1]
        return scaled

    def update(self, odds: FloatArray, y: BoolArray) -> None:
        """Learn from the odds (B,) that were given before `y` (B,) was known."""
        inputs = self._inputs(odds)
        p = 1.0 / (1.0 + np.exp(-(self._weights @ inputs)))
        self._curvature = self._FORGET * self._curvature + (inputs * np.maximum(p * (1 - p), 0.01)) @ inputs.T
        self._weights = self._weights + np.linalg.solve(self._curvature, inputs @ (y - p))
        self._weights[0] = max(self._weights[0], 0.0)

    def _inputs(self, odds: FloatArray) -> FloatArray:
        return np.stack([np.clip(odds, -self._LARGEST_ODDS, self._LARGEST_ODDS), np.ones(len(odds))])


class Cutoff(Stateful):
    """From which log odds a row is called hard, so that a share of the hard rows is.

    A quantile of the log odds of the last 128 hard rows, as they were before the truth was known. A row that
    stands for others (one of twenty was explored) weighs as much as those: when the explored rows turn out
    hard, the cutoff falls by itself.
    """

    saved = ("_last",)
    _N_HARD, _FEWEST = 128, 8

    def __init__(self, recall: float) -> None:
        self._missed = 1 - recall
        self._last: FloatArray = np.zeros((2, 0))

    def add(self, odds: FloatArray, weights: FloatArray) -> None:
        """Take in hard rows: their log odds and how many rows each stands for, (N,) each, newest last."""
        self._last = np.concatenate([self._last, [odds, weights]], axis=1)[:, -self._N_HARD :]

    @property
    def odds(self) -> float:
        """The log odds; -inf, which calls everything hard, while too few hard rows are known."""
        if self._last.shape[1] < self._FEWEST:
            return -np.inf
        ranked, mass = self._last[:, self._last[0].argsort(kind="stable")]
        mass = mass.cumsum()
        return float(ranked[mass[:-1].searchsorted(self._missed * mass[-1], side="right")])


class Lesson(NamedTuple):
    """What one scored batch showed of the predictor.

    Attributes:
        called_hard: (B,) what it predicted before it was fitted to the batch.
        loss: its mean log loss (eq. 4), nats.
        base_loss: the log loss of knowing only the share of hard examples so far, nats.
    """

    called_hard: BoolArray
    loss: float
    base_loss: float


class MetaPredictor(Stateful):
    """Feature space, naive Bayes and, if calibrated, the scaling: predicts y' = 1[loss > L_low].

    `recall` is the share of the hard rows to be called so; 0 goes by the sign of the log odds alone.
    """

    saved = ("_bayes", "_platt", "_cutoff")

    def __init__(self, space: FeatureSpace, bayes: NaiveBayes, *, calibrated: bool, recall: float) -> None:
        self._space = space
        self._bayes = bayes
        self._platt = PlattScaling() if calibrated else None
        self._cutoff = Cutoff(recall) if recall else None

    def predict(self, batch: Batch) -> BoolArray:
        """(B,) which examples are expected to be hard; all of them before the first lesson."""
        return self._called_hard(self._bayes.log_odds(self._space(batch)))

    def learn(self, batch: Batch, hard: BoolArray, weights: FloatArray, *, after_fit: bool) -> Lesson:
        """Predict, then fit.

        Args:
            batch: B scored examples.
            hard: (B,) whether each loss was above L_low.
            weights: (B,) how many rows each stands for; the cutoff goes by them, the fit does not.
            after_fit: take the log loss from the fitted predictor (else from the one before).
        """
        x = self._space(batch)
        odds = self._bayes.log_odds(x)
        share = (self._bayes.class_count[1] + 1) / (self._bayes.class_count.sum() + 2)
        base_odds = np.full(len(batch), np.log(share) - np.log1p(-share))
        called_hard = self._called_hard(odds)
        before = log_loss(self._scaled(odds), hard)
        if self._platt is not None:
            self._platt.update(odds, hard)
        if self._cutoff is not None:
            self._cutoff.add(odds[hard], weights[hard])
        self._bayes.partial_fit(x, hard)
        loss = log_loss(self._scaled(self._bayes.log_odds(x)), hard) if after_fit else before
        return Lesson(called_hard, loss, log_loss(base_odds, hard))

    def _called_hard(self, odds: FloatArray) -> BoolArray:
        if not self._bayes.class_count.any():
            return np.ones(len(odds), np.bool_)
        called: BoolArray = odds > 0
        return called if self._cutoff is None else called | (odds >= self._cutoff.odds)

    def _scaled(self, odds: FloatArray) -> FloatArray:
        return odds if self._platt is None else self._platt(odds)


@dataclass
class Audit(Stateful):
    """Counts of rows whose call and loss are both known.

    Attributes:
        n_easy: called easy; in stage 1 all of those, in stage 2 the explored.
        n_easy_below: of them, with a loss that is no higher than the threshold.
        n_explored, n_explored_hard: called easy in stage 2 and scored anyway; of them, above the threshold.
        n_called, n_called_hard: called hard in stage 2; of them, above the threshold.
    """

    saved = ("n_easy", "n_easy_below", "n_explored", "n_explored_hard", "n_called", "n_called_hard")

    n_easy: int = 0
    n_easy_below: int = 0
    n_explored: int = 0
    n_explored_hard: int = 0
    n_called: int = 0
    n_called_hard: int = 0

    def count(self, easy: BoolArray, hard: BoolArray, *, in_stage_two: bool) -> None:
        """Count a batch: calls and truth, (B,) each; in stage 2 the rows called easy were explored."""
        self.n_easy += int(np.count_nonzero(easy))
        self.n_easy_below += int(np.count_nonzero(easy & ~hard))
        if in_stage_two:
            self.n_explored += int(np.count_nonzero(easy))
            self.n_explored_hard += int(np.count_nonzero(easy & hard))
            self.n_called += int(np.count_nonzero(~easy))
            self.n_called_hard += int(np.count_nonzero(~easy & hard))

    def report(self, explore_rate: float) -> dict[str, Any]:
        """Return shares in [0, 1], None where nothing was counted.

        Args:
            explore_rate: with which probability a row that is called easy is explored.
        """
        n_missed = self.n_explored_hard / explore_rate if explore_rate else 0.0
        known = self.n_explored > 0
        return {
            "n_explored": self.n_explored,
            "explored_hard_rate": _share(self.n_explored_hard, self.n_explored),
            "overlap_rate": _share(self.n_easy_below, self.n_easy),
            "predictor_precision": _share(self.n_called_hard, self.n_called),
            "predictor_recall": _share(self.n_called_hard, self.n_called_hard + n_missed) if known else None,
        }


def _share(part: float, whole: float) -> float | None:
    return None if whole == 0 else part / whole
