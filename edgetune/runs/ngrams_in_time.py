"""The n-grams of a run, and other learners of texts, fitted within the time that they may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import text_log_probas
from edgetune.learners.ngrams.learner import Ngrams
from edgetune.learners.ngrams.solving import import_solvers
from edgetune.learners.text_learner import Learned, TextLearner, find_text_learner
from edgetune.planning.planner import refit_pays
from edgetune.runs.context import RunContext
from edgetune.runs.setup import PreparedRows
from edgetune.utils.types import FloatArray, IntArray

REFIT_CAUTION = 1.3
"""Factor on the time of a second fit. With just the time of the first one, the solver does not expect an
exact fit to end, and makes a few passes instead (Ohsumed-23 in 20 s: 65.2 % in place of 68.5)."""
OTHERS_RATE = 0.1
"""Share of the time left that the learners of texts beside the n-grams may take together."""


class NgramsInTime:
    """Fits the n-grams and the other learners of texts, and measures how long they take."""

    def __init__(self, run: RunContext[PreparedRows]) -> None:
        self._run = run
        self._fit_s = self._row_s = 0.0
        self._before: Ngrams | None = None

    def move_to(self, run: RunContext[PreparedRows]) -> None:
        """Go on in a run that opened an encoder after the n-grams were fitted."""
        self._run = run

    def fit(self) -> Ngrams:
        """Fit the n-grams on the training rows."""
        import_solvers()  # first, as the second fit does not have to
        prepared, started_s = self._run.prepared, self._run.meter.elapsed_s()
        limit_s = self._run.deadline.ngrams_limit_s(prepared.config.data.pair)
        found = self._fitted(Ngrams.fit, prepared.data.train, limit_s)
        self._fit_s = self._run.meter.elapsed_s() - started_s
        if found.exact is not None and math.isfinite(limit_s):  # else it could not be repeated after a break
            self._before, self._fit_s = found, self._fit_s - found.exact.trial_s
        return found

    def fit_others(self) -> dict[str, TextLearner]:
        """Fit the other learners of texts on the training rows, each in its share of the time left."""
        data, names = self._run.prepared.data, self._run.prepared.config.train.text_learners
        found: dict[str, TextLearner] = {}
        for name in names:
            self._run.view.say(f"Fitting {name}")
            limit_s = OTHERS_RATE / len(names) * self._run.deadline.clock.left_s()
            found[name] = self._fitted(find_text_learner(name).fit, data.train, limit_s)
        return found

    def again_s(self, held_out: TokenView) -> float:
        """Return the seconds that a second fit will take, on the held-out rows too."""
        n_train = len(self._run.prepared.data.train)
        return REFIT_CAUTION * self._fit_s * (n_train + len(held_out)) / n_train

    def fit_again(self, ngrams: Ngrams, held_out: TokenView, save_s: float) -> Ngrams:
        """Fit the n-grams on training and held-out rows together, if that pays and there is time.

        Args:
            ngrams: fitted on the training rows; returned if the second fit does not pay or was cut short.
            held_out: the other rows.
            save_s: seconds to leave for saving the n-grams.
        """
        train, clock = self._run.prepared.data.train, self._run.deadline.clock
        left_s = clock.ensemble_end_s() - clock.elapsed_s() - save_s
        if not refit_pays(len(train), len(held_out)) or left_s < self.again_s(held_out):
            return ngrams
        rows = np.concatenate([train.rows, held_out.rows])
        labels = np.concatenate([train.labels, held_out.labels])
        every_row = TokenView(train.store, rows, labels, train.label_names)
        found = self._fitted(partial(Ngrams.fit, before=self._before), every_row, left_s)
        coarser = (ngrams.analyzer, found.analyzer) == ("subword", "word")
        less_exact = ngrams.exact is not None and found.exact is None
        cut_short = found.n_rows <= ngrams.n_rows or coarser or less_exact or self._run.stop()
        return ngrams if cut_short else found

    def _fitted(self, fit: Callable[..., Learned], rows: TokenView, limit_s: float) -> Learned:
        elapsed_s, seed = self._run.meter.elapsed_s, self._run.prepared.config.train.seed
        started_s = elapsed_s()

        def time_left_s() -> float:
            return 0.0 if self._run.stop() else limit_s - (elapsed_s() - started_s)

        return fit(rows.texts(), rows.labels, len(rows.label_names), seed=seed, time_left_s=time_left_s)

    def timed_log_probas(
        self, ngrams: Ngrams, others: Mapping[str, TextLearner], view: TokenView
    ) -> dict[str, FloatArray]:
        """Return log-probabilities (N, C) of rows by every learner of texts, and record the time per row."""
        texts, started_s = view.texts(), self._run.meter.elapsed_s()
        found = text_log_probas(ngrams, others, texts)
        self._row_s = (self._run.meter.elapsed_s() - started_s) / len(view)
        return found

    def rows_in_time(self, n_rows: int) -> IntArray:
        """Return the rows, of `n_rows`, that there is time to predict: all, or a random sample."""
        n_fit, clock = n_rows, self._run.deadline.clock
        if self._row_s:
            left_s = clock.evaluation_end_s() - clock.elapsed_s()
            n_fit = int(max(0.0, min(n_rows, left_s / self._row_s)))
        if n_fit == n_rows:
            return np.arange(n_rows)
        return np.random.default_rng([self._run.prepared.config.train.seed, 5]).permutation(n_rows)[:n_fit]
