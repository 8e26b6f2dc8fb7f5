"""The n-grams of a run, and other learners of texts, fitted within the time that they may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import SavedEnsemble, text_log_probas
from edgetune.learners.ngrams.learner import Ngrams
from edgetune.learners.ngrams.solving import import_solvers
from edgetune.learners.text_learner import Learned, TextLearner, find_text_learner
from edgetune.planning.planner import refit_pays
from edgetune.runs.setup import RunContext
from edgetune.utils.types import FloatArray, IntArray

REFIT_CAUTION = 1.3
"""Factor on the time of a second fit. With just the time of the first one, the solver does not expect an
exact fit to end, and makes a few passes instead (Ohsumed-23 in 20 s: 65.2 % in place of 68.5)."""
OTHERS_RATE = 0.1
"""Share of the time left that the learners of texts beside the n-grams may take together."""


class TextFits:
    """Fits the n-grams and the other learners of texts, and measures how long they take.

    Attributes:
        ngrams: fitted on the training rows, or on all rows; set by `fit` or `load`.
        others: the other learners, by name; set by the same.
        are_there: whether these are set.
    """

    ngrams: Ngrams
    others: Mapping[str, TextLearner]

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._fit_s = self._row_s = 0.0
        self._before: Ngrams | None = None
        self.are_there = False

    def fit(self) -> None:
        """Fit all of them on the training rows, the others each in its share of the time left."""
        import_solvers()  # first, as the second fit does not have to
        train, clock, settings = self._run.data.train, self._run.deadline.clock, self._run.config.train
        started_s = self._run.meter.elapsed_s()
        limit_s = self._run.deadline.ngrams_limit_s(self._run.config.data.pair)
        self.ngrams = self._fitted(Ngrams.fit, train, limit_s)
        self._fit_s = self._run.meter.elapsed_s() - started_s
        exact = self.ngrams.exact
        if exact is not None and math.isfinite(limit_s):  # else it could not be repeated after a break
            self._before, self._fit_s = self.ngrams, self._fit_s - exact.trial_s
        others: dict[str, TextLearner] = {}
        for name in settings.text_learners:
            self._run.view.say(f"Fitting {name}")
            limit_s = OTHERS_RATE / len(settings.text_learners) * clock.left_s()
            others[name] = self._fitted(find_text_learner(name).fit, train, limit_s)
        self.others, self.are_there = others, True

    def load(self, found: SavedEnsemble) -> None:
        """Take those that were saved before a break."""
        self.ngrams, self.others, self.are_there = found.ngrams, found.others, True

    def again_s(self, held_out: TokenView) -> float:
        """Return the seconds that a second fit will take, on the held-out rows too."""
        n_train = len(self._run.data.train)
        return REFIT_CAUTION * self._fit_s * (n_train + len(held_out)) / n_train

    def fit_again(self, held_out: TokenView, save_s: float) -> None:
        """Fit the n-grams on training and held-out rows together, if that pays and there is time.

        Those fitted on the training rows alone are kept if the second fit was cut short. `save_s` are left
        for saving.
        """
        train, clock, ngrams = self._run.data.train, self._run.deadline.clock, self.ngrams
        left_s = clock.ensemble_end_s() - clock.elapsed_s() - save_s
        if not refit_pays(len(train), len(held_out)) or left_s < self.again_s(held_out):
            return
        rows = np.concatenate([train.rows, held_out.rows])
        labels = np.concatenate([train.labels, held_out.labels])
        every_row = TokenView(train.store, rows, labels, train.label_names)
        found = self._fitted(partial(Ngrams.fit, before=self._before), every_row, left_s)
        coarser = (ngrams.analyzer, found.analyzer) == ("subword", "word")
        less_exact = ngrams.exact is not None and found.exact is None
        if found.n_rows > ngrams.n_rows and not (coarser or less_exact or self._run.stop()):
            self.ngrams = found

    def _fitted(self, fit: Callable[..., Learned], rows: TokenView, limit_s: float) -> Learned:
        elapsed_s, seed = self._run.meter.elapsed_s, self._run.config.train.seed
        started_s = elapsed_s()

        def time_left_s() -> float:
            return 0.0 if self._run.stop() else limit_s - (elapsed_s() - started_s)

        texts = rows.texts()
        rows.release()  # the pages that they were read from
        return fit(texts, rows.labels, len(rows.label_names), seed=seed, time_left_s=time_left_s)

    def log_probas(self, view: TokenView, rows: IntArray) -> dict[str, FloatArray]:
        """Return log-probabilities (n, C) of rows (n,) of a view by every learner of texts."""
        return text_log_probas(self.ngrams, self.others, view.texts(rows))

    def timed_log_probas(self, view: TokenView) -> dict[str, FloatArray]:
        """Return those of all rows, and record the time per row."""
        texts, started_s = view.texts(), self._run.meter.elapsed_s()
        found = text_log_probas(self.ngrams, self.others, texts)
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
        return np.random.default_rng([self._run.config.train.seed, 5]).permutation(n_rows)[:n_fit]
