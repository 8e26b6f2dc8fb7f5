"""The part of a run in which the encoder changes: the loop, evaluations and saves, up to the summary.

Without a plan, the run ends after its passes, and the model of the best pass is kept. With a plan (under a
deadline, or on few rows), a linear probe gives a usable model early, the better of probe and trained encoder
is kept, and a deadline is met.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from edgetune.backends.backend_contract import NoLinearHead
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import PROBE
from edgetune.inference.saved_run import score_view
from edgetune.learners.filter_guard import GuardedSelector
from edgetune.learners.loop import Loop
from edgetune.learners.loop_record import Diverged
from edgetune.learners.progress import Progress
from edgetune.run_files.counters import Counters
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.summary import RunResult
from edgetune.runs.cross_fitting import cross_fit_all
from edgetune.runs.deadline import PlanWithoutDeadline
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import write_summary
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.open_choices import vocab_size
from edgetune.runs.probing import LEAST_TRAINING_STEPS, FittedProbe, ProbeInTime
from edgetune.runs.recovery import Recovery
from edgetune.runs.scoring import Scored, is_better, score_in_time
from edgetune.runs.setup import RunContext
from edgetune.selection import DataShape, make_selector
from edgetune.selection.selector_contract import REFERENCE
from edgetune.utils.errors import BudgetError, Interrupted
from edgetune.utils.failpoints import failpoint
from edgetune.utils.formatting import counted
from edgetune.utils.metrics import Evaluation, entropy
from edgetune.utils.types import IntArray

SENSOR_EVERY_S = 1.0
DOUBT_ERRORS = 1.0
"""On few rows, standard errors by which the log loss of the probe must be below that of the trained encoder
for the probe to be kept, and that of the trained head below that of the head fitted again. With 100 rows of
AG News, the encoder was worse by less than one standard error on 25 held-out rows, and 3 points better on
1,000 test rows."""


class Training:
    """One run's training, from the first batch (or from an interruption) to the summary."""

    def __init__(self, run: RunContext, history: HistoryWriter, ensemble: EnsembleStage) -> None:
        """`ensemble` has the n-grams if they are fitted already."""
        self._run, self._history, self._ensemble = run, history, ensemble
        self._config, self._backend, self._deadline = run.config, run.backend, run.deadline
        self._meter, self._view, self._stop = run.meter, run.view, run.stop
        self._sensor_read_s = run.meter.elapsed_s()
        self._rows_at_once: int | None = None
        self._saver = ModelSaver(run)
        self._loop = self._make_loop()
        self._recovery = Recovery(run, self._loop, history, self._saver, ensemble)

    def run(self) -> RunResult:
        """Train, keep the best model, and write the summary."""
        loop = self._loop
        self._view.begin(self._run, self._config)
        try:
            if self._run.interruption is not None:
                self._recovery.restore(self._run.interruption)
                self._ensemble.restore()
            else:
                self._begin()
            # A preparation that was cut short cannot be resumed: it differs from an uninterrupted one.
            is_prepared = self._run.interruption is not None or not self._stop()
            if self._deadline.trains:
                self._run_epochs()
            elif self._stop():
                loop.stopped = True
                if self._ensemble.probe is not None:
                    self._keep_probe(self._ensemble.probe)
        finally:
            self._view.end()
        self._deadline.mark("train")
        stopped = None
        if loop.stopped:
            stopped = self._keep_interrupted(is_prepared)
        else:
            self._finish()
        with self._meter.phase("save"):
            loop.row_stats.save(self._run.folder.path)
        result = write_summary(self._run, loop, self._saver, self._recovery, self._ensemble)
        if stopped is not None:
            raise stopped
        self._recovery.finish()
        return result

    def _begin(self) -> None:
        """Fit the n-grams, make a first usable encoder if that is planned, and let the selector prepare."""
        self._ensemble.begin()
        if self._deadline.has_plan and "probe" in self._config.train.learners:
            self._make_linear_probe()
        if self._deadline.trains:
            self._loop.begin()
        self._deadline.clock.begin()

    def _make_linear_probe(self) -> None:
        """Fit and save the first usable model, and decide whether there is time for training after it."""
        deadline = self._deadline
        with self._meter.phase("linear_probe"):
            try:
                drawn = self._backend.head()
                stage = ProbeInTime(self._run)
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
                # Cross-fitting does not cover other learners of texts.
                if not self._config.train.text_learners:
                    self._ensemble.crossed = cross_fit_all(self._run, found)
                self._backend.set_head(found.probe.weight, found.probe.bias)
                if deadline.trains:  # else it is saved once, at the end, which comes now
                    self._saver.save(skip_onnx=True)
                if deadline.trains and not stage.starts_training():
                    self._backend.set_head(*drawn)
        deadline.mark("linear_probe")

    def _run_epochs(self) -> None:
        epoch = max(1, self._loop.epoch)
        while True:
            try:
                self._loop.run_epoch(epoch)
            except Diverged:
                if not self._recovery.roll_back(self._make_loop()):
                    if not self._deadline.has_plan and self._saver.best is None:
                        self._end_epoch(epoch)  # else a model was evaluated already, or will be at the end
                    return
                epoch = max(1, self._loop.epoch)
                continue
            if self._loop.stopped or not self._continues_after(epoch):
                return
            epoch += 1

    def _continues_after(self, epoch: int) -> bool:
        """Evaluate after a pass if that is wanted; return whether another one follows."""
        last = epoch == self._config.train.epochs or self._loop.finished
        keeps_best = self._config.train.keep != "last" and self._loop.selector.stage != REFERENCE
        if last or keeps_best:  # a model that is not kept need not be evaluated
            self._end_epoch(epoch)
        return not (last or self._loop.finished or self._out_of_patience)

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.budget.patience
        return patience is not None and self._saver.n_worse >= patience

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate after a pass, and keep the best model.

        With a plan, that is done only if patience is set and there is time; the planned number of rows is
        evaluated, the same ones each time.
        """
        deadline, rows = self._deadline, self._run.data.evaluation
        if deadline.has_plan:
            if self._config.budget.patience is None or self._loop.finished:
                return
            planned_s = deadline.plan.lines["evaluate"] + deadline.plan.lines["ensemble"]
            needed_s = planned_s * deadline.clock.speed("score").cautious + deadline.clock.save_s()
            if needed_s >= deadline.clock.left_s():
                return
            rows = rows.subset(self._drawn(rows)[: deadline.plan.n_eval])
        self._evaluate(epoch, rows)

    def _drawn(self, rows: TokenView) -> IntArray:
        """Return the order in which rows are scored."""
        return np.random.default_rng([self._config.train.seed, 5]).permutation(len(rows))

    def _finish(self) -> None:
        """Compare with the linear probe, save, fit the weights, then evaluate in the time that is left.

        Without a plan, or if patience has run out, the best model has already been saved and evaluated.
        """
        deadline = self._deadline
        if not deadline.has_plan or self._out_of_patience:
            deadline.mark("save")
            self._ensemble.finish_best()
            return
        trained = self._loop.counts.n_steps > self._loop.counts.n_steps_reference
        if deadline.trains and not trained:
            self._view.warn("There was no time for a single training step; the encoder is untouched.")
        scored = self._choose_encoder(trained)
        self._backend.end_training()  # saving needs memory, too
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
        rows = self._run.data.evaluation
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating up to {counted(len(rows), 'row')}")
            scored = self._score_in_time(rows, deadline.clock.evaluation_end_s)
        if scored is None:
            deadline.mark("evaluate")
            self._ensemble.warn_not_evaluated()
            return
        self._ensemble.evaluate(scored)
        deadline.mark("evaluate")
        found = scored.evaluation()
        epoch = 0 if self._ensemble.encoder == PROBE else self._loop.epoch
        self._record_evaluation(epoch, found)
        self._saver.note(found, epoch)
        self._ensemble.write_metrics()

    def _choose_encoder(self, trained: bool) -> Scored | None:
        """Keep the better of trained encoder and linear probe in the backend; return its held-out scores."""
        probe, held_out = self._ensemble.probe, self._ensemble.held_out
        if not trained and probe is not None:
            self._keep_probe(probe)
            if probe.held_out is not None:
                return probe.held_out
        if held_out is None:
            return None
        end_s = self._deadline.choice_end_s(opens_again=trained and probe is not None)
        keeps_probe, n_train = False, len(self._run.data.train)
        with self._meter.phase("ensemble"):
            scored = self._score_in_time(held_out, end_s)
            if trained and probe is not None and self._deadline.plan.reads_all(n_train):
                keeps_probe, scored = self._choose_of_few(probe, scored, end_s)
            elif trained and probe is not None:
                keeps_probe = is_better(probe.held_out, scored)
        self._deadline.mark("ensemble")
        if probe is None or not keeps_probe:
            return scored
        self._view.say(
            "On the held-out rows the trained encoder is no better than the linear probe; the probe is kept."
        )
        with self._meter.phase("open"):
            self._backend.load_state(self._run.open_backend().state())
        self._keep_probe(probe)
        return probe.held_out

    def _choose_of_few(
        self, probe: FittedProbe, scored: Scored | None, end_s: Callable[[], float]
    ) -> tuple[bool, Scored | None]:
        """Choose between probe and trained encoder if rows are few; fit the head of the latter again.

        That head learns from the held-out rows too (of 300 rows, a quarter are held out); it is used unless
        the trained one is better by `DOUBT_ERRORS` standard errors. So few held-out rows hardly tell which
        encoder is better, and training usually helps, so the probe, too, is kept only if it is better by
        that much.

        Returns:
            Whether the probe is kept, and the held-out scores of the trained encoder with its best head.
        """
        again = ProbeInTime(self._run, end_s).fit_again()
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

        The encoder in the backend must have its initial weights. If a run without a deadline was resumed, the
        features are computed again, because a checkpoint does not hold them.
        """
        resumed = self._run.interruption is not None and isinstance(self._deadline, PlanWithoutDeadline)
        with self._meter.phase("linear_probe"):
            if resumed and self._ensemble.crossed is None and found.refit is None:
                found = ProbeInTime(self._run).fit()
            if self._ensemble.crossed is not None:
                probe = self._ensemble.crossed.probe
            else:
                probe = found.probe if found.refit is None else found.refit()
        self._backend.set_head(probe.weight, probe.bias)
        self._ensemble.encoder = PROBE

    def _score_in_time(self, rows: TokenView, end_s: Callable[[], float]) -> Scored | None:
        order = self._drawn(rows)
        return score_in_time(self._backend, rows, order, self._deadline, self._stop, end_s)

    def _make_loop(self) -> Loop:
        """Return a loop that has not begun, with a new selector."""
        config, train, data = self._config, self._config.train, self._run.data.train
        shares = np.array(list(data.counts.values())) / len(data)
        guesses = np.stack([shares, 1 - shares], axis=1) if data.labels.ndim == 2 else shares[None]
        n_tokens = vocab_size(self._run.model_loader.tokenizer_file)
        shape = DataShape(len(data), len(shares), n_tokens, float(entropy(guesses).mean()), train.batch_size)
        selector = make_selector(config.selection, shape, np.random.default_rng([train.seed, 3]))
        return Loop(
            backend=self._backend,
            selector=self._deadline.guarded(selector, config.selection),
            source=data,
            settings=train,
            meter=self._meter,
            history=self._history,
            rng=np.random.default_rng([train.seed, 2]),
            run_progress=self._deadline.progress(Progress(len(data), train)),
            should_stop=self._stop,
            on_progress=self._after_batch,
        )

    def _after_batch(self, counts: Counters, loss: float) -> None:
        """Show the progress of the run, keep its promises in time, and write a checkpoint if one is due."""
        selector, deadline = self._loop.selector, self._deadline
        if isinstance(selector, GuardedSelector):
            why = selector.check_balance(counts, self._loop.prices.mean_s(), self._meter.split_s())
            if why:
                self._view.say(f"The filter is switched off: {why}.")
        if selector.skips_scoring and (n_rows := deadline.revise(counts.n_trained)):
            self._view.say(
                f"At the speed of the first steps, {n_rows:,} examples are expected "
                f"({deadline.plan.n_rows:,} planned)"
            )
        if self._saver.best is None and deadline.save_is_due():  # else the best so far lies there
            self._saver.save_in_passing()
        elapsed_s = self._meter.elapsed_s()
        self._view.progress(self._loop.progress, counts, loss, selector.stage, elapsed_s)
        if elapsed_s - self._sensor_read_s > SENSOR_EVERY_S:
            self._sensor_read_s = elapsed_s
            self._run.sensor.joules()  # energy counters wrap around, and power has to be sampled
        if (max_rows := self._backend.microbatches.max_rows) != self._rows_at_once:
            self._rows_at_once = max_rows
            self._view.warn(
                "Memory ran out: batches are now processed in parts of at most "
                f"{counted(max_rows or 0, 'row')}; the batch size of each step is unchanged."
            )
        self._recovery.between_batches()

    def _evaluate(self, epoch: int, rows: TokenView) -> None:
        """Evaluate; save the model when it is the best so far."""
        failpoint("evaluation-begun")
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating {counted(len(rows), 'row')}")
            evaluated = self._scored(rows)
        found = evaluated.evaluation()
        self._record_evaluation(epoch, found)
        held_out = None
        with self._meter.phase("ensemble"):
            if self._ensemble.held_out is not None:
                held_out = self._scored(self._ensemble.held_out)
        chosen_by = None if held_out is None else held_out.evaluation()
        if self._saver.consider(found, epoch, chosen_by) and held_out is not None:
            self._ensemble.note(held_out, evaluated)

    def _scored(self, rows: TokenView) -> Scored:
        score = partial(self._backend.score, keep=self._config.train.epochs > 1)
        return Scored(rows, np.arange(len(rows)), score_view(score, rows))

    def _record_evaluation(self, epoch: int, found: Evaluation) -> None:
        self._history.append_evaluation(self._meter.elapsed_s(), epoch, found)
        self._view.evaluated(epoch, found)

    def _keep_interrupted(self, is_prepared: bool) -> Interrupted:
        """Keep what was trained so far; return what to say, once the summary is written."""
        resumable = is_prepared and self._deadline.trains and self._recovery.write()
        where, out = self._saver.save_interrupted(), self._run.folder.path
        self._ensemble.finish_interrupted()
        then = f"To resume, run: edgetune finetune --resume {out}"
        if not resumable:
            config = out / "config.toml"
            then = f"To start again, run: edgetune finetune --config {config} --out {out} --overwrite"
        steps = counted(self._loop.counts.n_steps, "step")
        return Interrupted(f"Stopped after {steps}; the model trained so far is in {where}. {then}")
