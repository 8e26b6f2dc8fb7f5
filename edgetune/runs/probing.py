"""Fits the linear probe of a run before training, on as many rows as are worth their time.

    held-out rows ─→ features ──────────────┐
    training rows ─→ features of a few ──────→ probe ─→ better than with half of them? ─→ twice as many …
                                                └─ else: training, from this probe where rows are few a class

If few rows per class can be trained, every doubling that still gains `GAIN` on the held-out rows is worth
more than the first train steps. With two classes it is the other way round. docs/log.md has the figures
(2026-11-28, fifteenth session): CLINC150 and SST-2, in a PyTorch prototype and in whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetune.data.near_duplicates import make_folds, similar_groups
from edgetune.data.token_store import TokenView
from edgetune.learners.linear_probe import (
    USUAL_STRENGTH,
    LinearProbe,
    best_strength,
    fit_linear_probe,
    known_elsewhere,
    probe_accuracy,
    quick_cross_fit_linear_probe,
)
from edgetune.planning.planner import FIRST_FIT_RATE, FIT_PROBE_S, PROBE_ROWS
from edgetune.runs.scoring import Scored, run_in_time
from edgetune.runs.setup import RunContext
from edgetune.utils.multi_label import strata
from edgetune.utils.types import FloatArray, IntArray, Labels

CHEAP_RATE, WHOLE_RATE = 0.1, 0.6
"""The rows are doubled if that takes less than the first share of the time left for training, or if all
remaining rows take less than the second; otherwise only if few steps or few rows per class can be trained."""
GAIN, SURE_ROWS = 0.01, 512
"""Accuracy on held-out rows that the last doubling must have gained. With fewer rows than the second number
the gain is not looked at, because it is mostly chance."""
FEW_STEPS = 40
"""With fewer steps than this, the encoder is seldom better than a probe on the rows that could be read in the
same time (AG News, 1,000 rows in a minute: 25 steps lost to a probe on 169 rows)."""
LEAST_TRAINING_STEPS = 16
"""Training is skipped if fewer steps than this fit; the linear probe is then the encoder."""
ROWS_PER_CLASS = 100
"""Training starts from the probe if fewer rows of each class will be trained, else from a randomly
initialized head. In a PyTorch prototype with 1,500 rows, starting from the probe won with 77 classes and lost
with six."""
LATER_FIT_RATE, CROSS_FIT_RATE = 0.06, 0.1
"""Shares of the deadline that a later fit, and all fits of cross-fitting may take."""
QUICK_RATE = 0.005
"""If a fit takes less than this share of the deadline, one is made for each penalty strength."""
CROSS_FIT_BELOW = 2
"""A probe that no training follows is cross-fitted on the held-out rows, unless at least this many times as
many training rows were read."""
GROWN = 1.5
"""A stage has to multiply the number of rows by this factor for its gain to be meaningful."""


@dataclass(frozen=True)
class FittedProbe:
    """A probe and how it was fitted.

    Attributes:
        probe: the head.
        n_rows: rows that it was fitted on.
        held_out: its logits on held-out rows that it was not fitted on; None if too few rows were read.
        refit: returns one fitted on the held-out rows too, if there is time; None if that is not possible.
        train_rows: positions of the training rows among those rows; None if they are not known.
        features: returns (n, F) of these and then of the held-out rows; None if they are not known.
    """

    probe: LinearProbe
    n_rows: int
    held_out: Scored | None
    refit: Callable[[], LinearProbe] | None = None
    train_rows: IntArray | None = None
    features: Callable[[], FloatArray] | None = None


class ProbeInTime:
    """Fits the linear probe of a run with a deadline."""

    def __init__(self, run: RunContext, end_s: Callable[[], float] | None = None) -> None:
        """`end_s` returns the time by which a fit must have ended; by default, when training must have."""
        self._run, self._seed, self._stop = run, run.config.train.seed, run.stop
        self._train, self._view = run.data.train, run.data.held_out
        self._deadline, self._clock = run.deadline, run.deadline.clock
        self._end_s = end_s or self._clock.end_s
        reads_all = self._deadline.plan.reads_all(len(self._train))
        self._fit_rate = CROSS_FIT_RATE if reads_all else FIRST_FIT_RATE
        self._n_classes = len(self._train.label_names)
        self._order = np.random.default_rng([self._seed, 4]).permutation(len(self._train))
        self._features: list[FloatArray] = []
        self._positions: list[IntArray] = []

    def fit(self) -> FittedProbe:
        """Fit it on as many rows as are worth their time.

        Raises:
            NoLinearHead: the model's head is not linear.
        """
        view, trains = self._view, self._deadline.trains
        if view is not None and not trains:
            return self._fit_alone(view)
        plan, started_s = self._deadline.plan, self._clock.elapsed_s()
        fit_rate = self._fit_rate if trains else LATER_FIT_RATE
        n_first, end_s, at_least, held_out = len(self._order), math.inf, PROBE_ROWS[0], None
        if trains:  # it may take twice the planned time in total
            n_first, end_s, at_least = plan.n_probe_rows, started_s + 2 * plan.lines["linear_probe"], 16
            if view is not None:
                held_out = self._held_out_features(view, started_s + plan.lines["linear_probe"], fit_rate)
        n_rows = self._read(self._order[:n_first], end_s, fit_rate, at_least)
        if held_out is None or n_rows < 32:
            return self._not_scored(n_rows, fit_rate)
        return self._grown(*held_out, n_rows)

    def fit_again(self) -> FittedProbe | None:
        """Fit the head of the trained encoder on the features of all rows; None if that is not possible."""
        view = self._view
        row_s = self._deadline.plan.read_again_row_s * self._clock.speed("score").cautious
        left_s = self._end_s() - self._clock.elapsed_s() - self._clock.kept_free_s(FIRST_FIT_RATE)
        if view is None or row_s * (len(self._train) + len(view)) > left_s:
            return None
        held_out = self._held_out_features(view, math.inf, FIRST_FIT_RATE)
        n_rows = self._read(self._order, math.inf, FIRST_FIT_RATE)
        return None if held_out is None or n_rows < len(self._order) else self._grown(*held_out, n_rows)

    def _fit_alone(self, view: TokenView) -> FittedProbe:
        """Fit it if no training follows: on the held-out rows first, and on others as time allows."""
        held_out = self._held_out_features(view, math.inf, CROSS_FIT_RATE)
        n_held_out = 0 if held_out is None else len(held_out[0])
        n_first, at_least = CROSS_FIT_BELOW * n_held_out, max(0, PROBE_ROWS[0] - n_held_out)
        n_first = max(n_first, self._deadline.plan.n_probe_rows) if n_held_out else len(self._order)
        n_first = n_first if self._deadline.plan.grows else self._deadline.plan.n_probe_rows
        n_rows = self._read(self._order[:n_first], math.inf, CROSS_FIT_RATE, at_least)
        if held_out is None:
            return self._not_scored(n_rows, CROSS_FIT_RATE)
        few = n_rows < CROSS_FIT_BELOW * n_held_out
        if few and (crossed := self._cross_fitted(*held_out, n_rows)) is not None:
            return crossed
        if not n_rows:
            rows, features = held_out
            return FittedProbe(self._fitted(features, view.labels[rows], CROSS_FIT_RATE), len(rows), None)
        if n_rows < 32:
            return self._not_scored(n_rows, CROSS_FIT_RATE)
        return self._grown(*held_out, n_rows)

    def _grown(self, rows: IntArray, features: FloatArray, n_rows: int) -> FittedProbe:
        """Fit on the `n_rows` training rows that were read, and on twice as many while that pays.

        The held-out rows (m,), with features (m, F), say whether it does.
        """
        view, order = self._view, self._order
        assert view is not None
        labels = view.labels[rows]
        n_tried = n_rows if n_rows == len(order) else n_rows // 2
        strength, tried = self._strength(n_tried, features, labels)
        probe = tried
        if n_tried < n_rows:
            probe = self._fitted(*self._rows(n_rows), self._fit_rate, strength)
        before, found = (probe_accuracy(each, features, labels) for each in (tried, probe))
        while n_rows < len(order) and self._is_worth_more(found - before, n_rows):
            wanted = order[n_rows : 2 * n_rows]
            n_before, n_rows = n_rows, n_rows + self._read(wanted, math.inf, LATER_FIT_RATE)
            if n_rows == n_before:
                break
            strength, probe = self._fitted_again(n_rows, strength, features, labels)
            before, found = found, probe_accuracy(probe, features, labels)
            if n_rows < GROWN * n_before or self._stop():
                break

        def refit() -> LinearProbe:
            """Fit on the held-out rows too; return the probe unchanged if there is no time for that."""
            late = False

            def stop() -> bool:
                nonlocal late
                clock = self._clock
                late = late or self._stop() or clock.elapsed_s() > clock.ensemble_end_s() - clock.save_s()
                return late

            y = np.concatenate([self._train.labels[train_rows], labels])
            again = fit_linear_probe(all_features(), y, self._n_classes, strength, stop)
            return probe if late else again

        def all_features() -> FloatArray:
            return np.concatenate([*self._features, features])

        train_rows = np.concatenate(self._positions)
        scored = Scored(view, rows, probe.logits(features))
        return FittedProbe(probe, n_rows, scored, refit, train_rows, all_features)

    def _cross_fitted(self, rows: IntArray, held_out: FloatArray, n_rows: int) -> FittedProbe | None:
        """Fit on training and held-out rows, and predict the latter with probes not fitted on them.

        The `n_rows` training rows that were read are in every fit; the held-out rows are (m,), with features
        (m, F). Returns None if there are no folds (`make_folds`), or no time for any fit.
        """
        view, rng = self._view, np.random.default_rng([self._seed, 8])
        assert view is not None
        own = make_folds(similar_groups(view.subset(rows)), strata(view.labels[rows]), rng)
        if own is None:
            return None
        features = np.concatenate([*self._features, held_out])
        train_rows = np.concatenate([np.empty(0, np.int64), *self._positions])
        labels = np.concatenate([self._train.labels[train_rows], view.labels[rows]])
        folds = np.concatenate([np.full(n_rows, -1), own])
        end_s = self._clock.elapsed_s() + CROSS_FIT_RATE * self._clock.limit_s()

        def time_left_s() -> float:
            return 0.0 if self._stop() else min(end_s - self._clock.elapsed_s(), self._clock.left_s())

        if time_left_s() <= 0:
            return None
        strength, logits, answered = quick_cross_fit_linear_probe(
            features, labels, self._n_classes, folds, time_left_s
        )
        probe = self._fitted(features, labels, LATER_FIT_RATE, strength)
        known = (answered & known_elsewhere(labels, folds))[n_rows:]
        scored = Scored(view, rows[known], logits[n_rows:][known])
        return FittedProbe(probe, len(labels), scored, train_rows=train_rows)

    def _is_worth_more(self, gain: float, n_rows: int) -> bool:
        """Return whether to double the rows again, given the accuracy gained by the last doubling."""
        if not self._deadline.trains:
            return self._deadline.plan.grows
        row_s = self._deadline.plan.probe_row_s * self._clock.speed("score").ratio
        n_left, left_s = len(self._train) - n_rows, self._clock.left_s()
        is_cheap = row_s * min(n_rows, n_left) < CHEAP_RATE * left_s or row_s * n_left < WHOLE_RATE * left_s
        few_steps = self._deadline.steps_that_fit() < FEW_STEPS
        wins = gain >= GAIN or n_rows < SURE_ROWS
        return wins and (is_cheap or few_steps or self.starts_training())

    def starts_training(self) -> bool:
        """Return whether training starts from the head of the probe instead of a randomly initialized one."""
        n_trained = min(self._deadline.steps_that_fit() * self._deadline.plan.batch_size, len(self._train))
        return self._run.model_loader.source.pools_mean and n_trained < ROWS_PER_CLASS * self._n_classes

    def _held_out_features(
        self, view: TokenView, end_s: float, fit_rate: float
    ) -> tuple[IntArray, FloatArray] | None:
        """Return positions and features of held-out rows, those that the end of the run also scores first."""
        order = np.random.default_rng([self._seed, 5]).permutation(len(view))
        takes_all = self._deadline.plan.grows and not self._deadline.trains
        n_rows = len(view) if takes_all else max(1, self._deadline.plan.n_weighed)
        return self._features_of(view, order[:n_rows], end_s, fit_rate)

    def _read(self, order: IntArray, end_s: float, fit_rate: float, at_least: int = 0) -> int:
        """Compute features of training rows; return the number of rows."""
        found = self._features_of(self._train, order, end_s, fit_rate, at_least)
        if found is None:
            return 0
        rows, features = found
        rank = np.empty(len(self._train), np.int64)
        rank[order] = np.arange(len(order))
        drawn = np.argsort(rank[rows])  # they come shortest first, but half of them must be like all
        self._features.append(features[drawn])
        self._positions.append(rows[drawn])
        return len(rows)

    def _features_of(
        self, view: TokenView, order: IntArray, end_s: float, fit_rate: float, at_least: int = 0
    ) -> tuple[IntArray, FloatArray] | None:
        """Compute features until `end_s`, or until just the time for a fit is left."""
        fit_s = self._clock.kept_free_s(fit_rate)

        def ends_s() -> float:
            return min(end_s, self._end_s() - fit_s)

        features = self._run.backend.features
        return run_in_time(features, view, order, self._deadline, self._stop, ends_s, at_least)

    def _rows(self, n_rows: int) -> tuple[FloatArray, Labels]:
        labels = self._train.labels[np.concatenate(self._positions)]
        return np.concatenate(self._features)[:n_rows], labels[:n_rows]

    def _until(self, rate: float) -> Callable[[], bool]:
        """Return what ends a fit: its share of the deadline, the end of the time, or a request to stop."""
        end_s = self._clock.elapsed_s() + rate * self._clock.limit_s()
        clock = self._clock
        return lambda: clock.elapsed_s() > min(end_s, self._end_s() - FIT_PROBE_S) or self._stop()

    def _not_scored(self, n_rows: int, rate: float) -> FittedProbe:
        """Fit on training rows, without held-out rows to compare on."""
        return FittedProbe(self._fitted(*self._rows(n_rows), rate), n_rows, None)

    def _fitted(
        self, features: FloatArray, labels: Labels, rate: float, strength: float = USUAL_STRENGTH
    ) -> LinearProbe:
        return fit_linear_probe(features, labels, self._n_classes, strength, self._until(rate))

    def _fitted_again(
        self, n_rows: int, strength: float, held_out: FloatArray, held_out_labels: Labels
    ) -> tuple[float, LinearProbe]:
        """Fit on more rows; if fits are quick, choose the strength again, as it depends on the rows."""
        started_s = self._clock.elapsed_s()
        probe = self._fitted(*self._rows(n_rows), LATER_FIT_RATE, strength)
        if self._clock.elapsed_s() - started_s > QUICK_RATE * self._clock.limit_s():
            return strength, probe
        return self._strength(n_rows, held_out, held_out_labels)

    def _strength(
        self, n_rows: int, held_out: FloatArray, held_out_labels: Labels
    ) -> tuple[float, LinearProbe]:
        features, labels = self._rows(n_rows)
        stop = self._until(self._fit_rate)
        return best_strength(features, labels, self._n_classes, held_out, held_out_labels, stop=stop)
