"""Training that follows a plan, under a deadline or on few rows: a usable model early, and an end on time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgetune.backends.backend_contract import NoLinearHead
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import PROBE
from edgetune.learners.filter_guard import GuardedSelector
from edgetune.run_files.counters import Counters
from edgetune.runs.cross_fitting import cross_fit_all
from edgetune.runs.deadline import PlanWithoutDeadline
from edgetune.runs.probing import LEAST_TRAINING_STEPS, FittedProbe, ProbeInTime
from edgetune.runs.scoring import Scored, score_in_time
from edgetune.runs.training import Training
from edgetune.runs.weighting import is_better
from edgetune.utils.errors import BudgetError
from edgetune.utils.formatting import counted

DOUBT_ERRORS = 1.0
"""Standard errors by which the log loss of a probe on few rows must be below that of the trained encoder.
With 100 rows of AG News, the encoder was worse by less than one on 25 held-out rows, and 3 points better on
1,000 test rows."""


class TimedTraining(Training):
    """Training that ends by a clock, or with its data if that comes first."""

    def _begin(self) -> None:
        """Fit the n-grams, make a first usable encoder, and let the selector prepare."""
        self._ensemble.begin()
        if "probe" in self._config.train.learners:
            self._make_linear_probe()
        if self._run.deadline.trains:
            self._loop.begin()
        self._run.deadline.clock.begin()

    def _make_linear_probe(self) -> None:
        """Fit and save the first usable model, and decide whether there is time for training after it."""
        deadline = self._run.deadline
        with self._meter.phase("linear_probe"):
            try:
                drawn = self._backend.head()
                stage = ProbeInTime(self._prepared, deadline, self._stop)
                found = stage.fit()
            except NoLinearHead as error:
                if not deadline.trains:
                    raise BudgetError(
                        f"The budget is too small for training, and a linear probe is not possible: {error}"
                    ) from error
                self._view.say(f"No linear probe is fitted before training: {error}")
            else:
                if deadline.trains and deadline.steps_that_fit() < LEAST_TRAINING_STEPS and not self._stop():
                    deadline.give_to_probe(found.n_rows)
                self._ensemble.weigh_probe(found, save=deadline.trains)
                # before the save, after which training begins at once
                data, seed = self._prepared.data, self._config.train.seed
                if not self._config.train.text_learners:  # cross-fitting does not cover them
                    self._ensemble.crossed = cross_fit_all(data, found, seed, deadline.clock, self._stop)
                self._backend.set_head(found.probe.weight, found.probe.bias)
                if deadline.trains:  # else it is saved once, at the end, which comes now
                    self._saver.save(skip_onnx=True)
                if deadline.trains and not stage.starts_training():
                    self._backend.set_head(*drawn)
        deadline.mark("linear_probe")

    def _run_epochs(self) -> None:
        if self._run.deadline.trains:
            super()._run_epochs()
        elif self._stop():
            self._loop.stopped = True
            if (probe := self._ensemble.probe) is not None:
                self._keep_probe(probe)

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate the planned number of rows, always the same ones, if patience is set and there is time."""
        deadline = self._run.deadline
        if self._config.budget.patience is None or self._loop.finished:
            return
        planned_s = deadline.plan.lines["evaluate"] + deadline.plan.lines["ensemble"]
        needed_s = planned_s * deadline.clock.speed("score").cautious + deadline.clock.save_s()
        if needed_s < deadline.clock.left_s():
            rows = self._prepared.data.evaluation
            rng = np.random.default_rng([self._config.train.seed, 5])
            self._evaluate(epoch, rows.subset(rng.permutation(len(rows))[: deadline.plan.n_eval]))

    def _end_diverged(self, epoch: int) -> None:
        """The last good weights are back; they are evaluated at the end."""

    def _after_batch(self, counts: Counters, loss: float) -> None:
        """Switch off a filter that loses time, say how many rows will fit, save the model if it is due."""
        selector = self._loop.selector
        if isinstance(selector, GuardedSelector):
            why = selector.check_balance(counts, self._loop.prices.mean_s(), self._meter.split_s())
            if why:
                self._view.say(f"The filter is switched off: {why}.")
        if selector.skips_scoring and (n_rows := self._run.deadline.revise(counts.n_trained)):
            self._view.say(
                f"At the speed of the first steps, {n_rows:,} examples are expected "
                f"({self._run.deadline.plan.n_rows:,} planned)"
            )
        if self._saver.best is None and self._run.deadline.save_is_due():  # else the best so far lies there
            self._saver.save_in_passing()
        super()._after_batch(counts, loss)

    def _finish(self) -> None:
        """Compare with the linear probe, save, fit the weights, then evaluate in the time that is left.

        If patience has run out, the best model has already been saved and evaluated.
        """
        deadline = self._run.deadline
        if self._out_of_patience:
            deadline.mark("save")
            self._ensemble.finish_best()
            return
        trained = self._loop.counts.n_steps > self._loop.counts.n_steps_reference
        if deadline.trains and not trained:
            self._view.warn("There was no time for a single training step; the encoder is untouched.")
        scored = self._choose_encoder(trained)
        if deadline.trains or self._ensemble.encoder == PROBE:
            self._saver.save()
            self._saver.forget()
        deadline.mark("save")
        if self._ensemble.held_out is not None:
            self._ensemble.finish(scored)
            deadline.mark("ensemble")
        if not self._ensemble.needs_encoder:
            self._ensemble.evaluate_ngrams()
            deadline.mark("evaluate")
            return
        rows = self._prepared.data.evaluation
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating up to {counted(len(rows), 'row')}")
            scored = self._score_in_time(rows, deadline.clock.evaluation_end_s)
        if scored is not None:
            self._ensemble.evaluate(scored)
        deadline.mark("evaluate")
        if scored is None:
            self._ensemble.warn_not_evaluated()
            return
        found = scored.evaluation()
        self._record_evaluation(self._loop.epoch, found)
        self._saver.note(found, self._loop.epoch)
        self._ensemble.write_metrics()

    def _choose_encoder(self, trained: bool) -> Scored | None:
        """Keep the better of trained encoder and linear probe in the backend; return its held-out scores.

        Args:
            trained: whether any train step was made.
        """
        probe, held_out = self._ensemble.probe, self._ensemble.held_out
        if not trained and probe is not None:
            self._keep_probe(probe)
            if probe.held_out is not None:
                return probe.held_out
        if held_out is None:
            return None
        end_s = self._run.deadline.choice_end_s(opens_again=trained and probe is not None)
        keeps_probe, n_train = False, len(self._prepared.data.train)
        with self._meter.phase("ensemble"):
            scored = self._score_in_time(held_out, end_s)
            if trained and probe is not None and self._run.deadline.plan.reads_all(n_train):
                keeps_probe, scored = self._choose_of_few(probe, scored, end_s)
            elif trained and probe is not None:
                keeps_probe = is_better(probe.held_out, scored)
        self._run.deadline.mark("ensemble")
        if probe is None or not keeps_probe:
            return scored
        self._view.say(
            "On the held-out rows the trained encoder is no better than the linear probe; the probe is kept."
        )
        with self._meter.phase("open"):
            self._backend.load_state(self._prepared.reopen().state())
        self._keep_probe(probe)
        return probe.held_out

    def _choose_of_few(
        self, probe: FittedProbe, scored: Scored | None, end_s: Callable[[], float]
    ) -> tuple[bool, Scored | None]:
        """Choose between probe and trained encoder if rows are few; fit the head of the latter again.

        That head learns from the held-out rows too, which are a quarter of 300 rows. So few held-out rows
        hardly tell which encoder is better, and training usually helps, so the probe is kept only if it is
        better by `DOUBT_ERRORS` standard errors.

        Args:
            probe: on the untouched encoder.
            scored: the trained encoder on held-out rows.
            end_s: returns when this has to be done.

        Returns:
            Whether the probe is kept, and the held-out scores of the trained encoder with its best head.
        """
        again = ProbeInTime(self._prepared, self._run.deadline, self._stop, end_s).fit_again()
        if again is not None and is_better(scored, again.held_out, DOUBT_ERRORS):
            again = None  # the head that was trained is clearly better
        if again is not None:
            scored = again.held_out
        keeps_probe = is_better(probe.held_out, scored, DOUBT_ERRORS)
        if again is not None and again.refit is not None and not keeps_probe:
            head = again.refit()
            self._backend.set_head(head.weight, head.bias)
        return keeps_probe, scored

    def _keep_probe(self, found: FittedProbe) -> None:
        """Use the linear probe as the encoder to save, fitted on the held-out rows too if possible.

        The encoder is untouched now. After an interruption, the features are computed again if time allows.
        """
        resumed = self._interruption is not None and isinstance(self._run.deadline, PlanWithoutDeadline)
        with self._meter.phase("linear_probe"):
            if resumed and self._ensemble.crossed is None and found.refit is None:
                found = ProbeInTime(self._prepared, self._run.deadline, self._stop).fit()
            if self._ensemble.crossed is not None:
                probe = self._ensemble.crossed.probe
            else:
                probe = found.probe if found.refit is None else found.refit()
        self._backend.set_head(probe.weight, probe.bias)
        self._ensemble.encoder = PROBE

    def _score_in_time(self, rows: TokenView, end_s: Callable[[], float]) -> Scored | None:
        clock, rng = self._run.deadline.clock, np.random.default_rng([self._config.train.seed, 5])
        return score_in_time(self._backend, rows, clock, self._run.deadline.cost, rng, self._stop, end_s)
