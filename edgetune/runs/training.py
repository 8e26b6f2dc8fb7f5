"""The part of a run in which the model changes: the loop, evaluations, saves, and the receipt at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from edgetune.backends.backend_contract import Backend, NoLinearHead
from edgetune.data.batches import Batch
from edgetune.data.token_store import TokenView
from edgetune.inference.saved_ensemble import PROBE
from edgetune.inference.saved_run import score_view
from edgetune.learners.filter_guard import GuardedSelector
from edgetune.learners.loop import Diverged, Loop, LoopSettings
from edgetune.learners.progress import Progress
from edgetune.planning.clock import ClockProgress
from edgetune.run_files.counters import Counters
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.summary import RunResult
from edgetune.runs.context import RunContext
from edgetune.runs.deadline import Deadline, Scored, score_in_time
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import make_receipt, write_receipt
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.probing import LEAST_TRAINING_STEPS, FittedProbe, ProbeInTime
from edgetune.runs.recovery import Recovery
from edgetune.runs.resume import Interruption
from edgetune.runs.setup import Prepared
from edgetune.selection import FILTERS, DataShape, Selector, make_selector
from edgetune.selection.staged import REFERENCE
from edgetune.utils.errors import BudgetError, Interrupted
from edgetune.utils.failpoints import failpoint
from edgetune.utils.formatting import counted
from edgetune.utils.metrics import Evaluation, entropy
from edgetune.utils.types import FloatArray

SENSOR_EVERY_S = 1.0


class Training:
    """One run's training, from the first batch (or from a break) to the receipt."""

    def __init__(self, run: RunContext[Prepared], interruption: Interruption | None = None) -> None:
        self._run, self._interruption = run, interruption
        self._prepared, self._config, self._deadline = run.prepared, run.prepared.config, run.deadline
        self._meter, self._view, self._stop = run.meter, run.view, run.stop
        self._sensor_read_s = run.meter.elapsed_s()
        self._backend: Backend = run.prepared.backend
        self._saver, self._ensemble = ModelSaver(run), EnsembleStage(run)
        self._rows_at_once: int | None = None
        self._recovery = Recovery(run, self._saver, self._ensemble)

    def run(self) -> RunResult:
        """Train, keep the best model, and write the receipt."""
        with HistoryWriter(self._run.folder.path / "history.jsonl", self._run.logs.record) as history:
            loop = self._make_loop(self._make_selector(), history)
            self._view.begin(self._prepared, self._config)
            try:
                if self._interruption is not None:
                    self._recovery.restore(self._interruption, loop, history)
                    self._ensemble.restore()
                else:
                    self._begin(loop)
                trains = self._deadline is None or self._deadline.trains
                begun = trains and (self._interruption is not None or not self._stop())
                if trains:
                    self._run_epochs(loop, history)
                elif self._stop():
                    loop.stopped = True
                    if (probe := self._ensemble.probe) is not None:
                        self._keep_probe(probe)
            finally:
                self._view.end()
            if self._deadline is not None:
                self._deadline.mark("train")
                if not loop.stopped:
                    self._end_timed(self._deadline, loop, history)
            # A preparation that was cut short is not what the unbroken run would have gone on with.
            resumable = loop.stopped and begun and self._recovery.write(loop, history)
        if loop.stopped:
            self._saver.save_interrupted()
            self._ensemble.finish_interrupted(partial(self._backend.score, keep=False))
        elif self._deadline is None:
            self._ensemble.finish_best()
        with self._meter.phase("save"):
            loop.record.save(self._run.folder.path)
        result = write_receipt(
            self._run, partial(self._summary, loop), partial(self._summary, loop, encoder_alone=True)
        )
        if loop.stopped:
            raise self._interrupted(loop.counts, resumable)
        self._recovery.finish()
        return result

    def _make_selector(self) -> Selector:
        config, data = self._config, self._prepared.data
        shares = np.array(list(data.train.counts.values())) / len(data.train)
        answers = np.stack([shares, 1 - shares], axis=1) if data.train.labels.ndim == 2 else shares[None]
        guess_loss = float(entropy(answers).mean())
        batch_size, vocab_size = config.train.batch_size, self._prepared.vocab_size
        shape = DataShape(len(data.train), len(shares), vocab_size, guess_loss, batch_size)
        selector = make_selector(config.selection, shape, np.random.default_rng([config.train.seed, 3]))
        if self._deadline is not None and config.selection.watched and config.selection.method in FILTERS:
            return GuardedSelector(selector, self._deadline.score_rate)
        return selector

    def _begin(self, loop: Loop) -> None:
        """Fit the n-grams, make a first usable encoder under a deadline, and let the selector prepare."""
        self._ensemble.begin()
        if self._deadline is not None and "probe" in self._config.train.learners:
            self._make_linear_probe(self._deadline)
        if self._deadline is None or self._deadline.trains:
            loop.begin()
        if self._deadline is not None:
            self._deadline.clock.begin()

    def _run_epochs(self, loop: Loop, history: HistoryWriter) -> None:
        epoch = max(1, loop.epoch)
        while True:
            try:
                loop.run_epoch(epoch)
            except Diverged:
                fresh = self._make_loop(self._make_selector(), history)
                if self._recovery.roll_back(loop, fresh, history):
                    epoch = max(1, loop.epoch)
                    continue
                if self._deadline is None and self._saver.best is None:
                    self._end_epoch(epoch, history, self._prepared.data.evaluation)
                return
            if loop.stopped or not self._continues_after(loop, epoch, history):
                return
            epoch += 1

    def _continues_after(self, loop: Loop, epoch: int, history: HistoryWriter) -> bool:
        """Evaluate after a pass where that is wanted; return whether another one follows."""
        last = epoch == self._config.train.epochs
        measures = loop.selector.stage == REFERENCE or self._config.train.keep == "last"
        if measures and not last and not loop.finished:
            return True  # a model that is not kept need not be evaluated
        if self._deadline is None:
            self._end_epoch(epoch, history, self._prepared.data.evaluation)
        elif self._config.budget.patience is not None and not loop.finished:
            self._look_for_better(self._deadline, epoch, history)
        return not last and not loop.finished and not self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.budget.patience
        return patience is not None and self._saver.n_worse >= patience

    def _look_for_better(self, deadline: Deadline, epoch: int, history: HistoryWriter) -> None:
        """Under a deadline: evaluate the planned number of rows, always the same, if there is time for it."""
        rows, rng = self._prepared.data.evaluation, np.random.default_rng([self._config.train.seed, 5])
        planned_s = deadline.plan.lines["evaluate"] + deadline.plan.lines["ensemble"]
        needed_s = planned_s * deadline.clock.speed("score").cautious + deadline.clock.save_s()
        if needed_s < deadline.clock.left_s():
            self._end_epoch(epoch, history, rows.subset(rng.permutation(len(rows))[: deadline.plan.n_eval]))

    def _make_loop(self, selector: Selector, history: HistoryWriter) -> Loop:
        train = self._config.train
        assert train.lr is not None
        settings = LoopSettings(train.lr, train.epochs, train.batch_size, train.decay, train.max_steps)
        loop = Loop(
            backend=self._backend,
            selector=selector,
            source=self._prepared.data.train,
            settings=settings,
            meter=self._meter,
            history=history,
            rng=np.random.default_rng([train.seed, 2]),
            run_progress=self._progress(settings),
            should_stop=self._stop,
        )
        loop.on_progress = partial(self._on_progress, loop, selector, history)
        return loop

    def _progress(self, settings: LoopSettings) -> Progress:
        data = settings.data_progress(len(self._prepared.data.train))
        return (
            data if self._deadline is None else ClockProgress(self._deadline.clock, self._deadline.cost, data)
        )

    def _on_progress(
        self, loop: Loop, selector: Selector, history: HistoryWriter, counts: Counters, loss: float
    ) -> None:
        """Show where the run is; keep what is on disk fresh and the filter honest."""
        self._view.progress(loop.progress, counts, loss, selector.stage, self._meter.elapsed_s())
        if self._meter.elapsed_s() - self._sensor_read_s > SENSOR_EVERY_S:
            self._sensor_read_s = self._meter.elapsed_s()
            self._run.sensor.joules()  # counters wrap, and power has to be followed
        if (max_rows := self._backend.microbatches.max_rows) != self._rows_at_once:
            self._rows_at_once = max_rows
            self._view.warn(
                f"Memory ran out: batches are now processed in parts of at most {max_rows} "
                f"row{'s'[: max_rows != 1]}; the batch size of each step is unchanged."
            )
        if self._deadline is not None:
            self._watch_time(self._deadline, loop, selector)
        self._recovery.between_batches(loop, history)

    def _watch_time(self, deadline: Deadline, loop: Loop, selector: Selector) -> None:
        """Switch a losing filter off, say how many rows will fit, save in passing."""
        if isinstance(selector, GuardedSelector):
            why = selector.check_balance(loop.counts, loop.prices.mean_s(), self._meter.split_s())
            if why:
                self._view.say(f"The filter is switched off: {why}.")
        if selector.skips_scoring and (n_rows := deadline.revise(loop.counts.n_trained)):
            planned = deadline.plan.n_rows
            self._view.say(
                f"At the speed of the first steps, {n_rows:,} examples are expected ({planned:,} planned)"
            )
        if self._saver.best is None and deadline.save_is_due():  # else the best so far lies there
            self._saver.save_in_passing()

    def _make_linear_probe(self, deadline: Deadline) -> None:
        """Fit and save the first usable model, and decide whether there is time for training after it."""
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
                self._ensemble.note_probe(found, save=deadline.trains)
                self._ensemble.cross_fit(found)  # before the save, after which training begins at once
                self._backend.set_head(found.probe.weight, found.probe.bias)
                if deadline.trains:  # else it is saved once, at the end, which comes now
                    self._saver.save(skip_onnx=True)
                if deadline.trains and not stage.starts_training():
                    self._backend.set_head(*drawn)
        deadline.mark("linear_probe")

    def _end_timed(self, deadline: Deadline, loop: Loop, history: HistoryWriter) -> None:
        """Compare with the linear probe, save, fit the weights, then evaluate with what time is left.

        Where patience has run out the best model was saved and evaluated before.
        """
        if self._out_of_patience:
            deadline.mark("save")
            self._ensemble.finish_best()
            return
        trained = loop.counts.n_steps > loop.counts.n_steps_reference
        if deadline.trains and not trained:
            self._view.warn("There was no time for a single training step; the encoder is untouched.")
        scored = self._choose_encoder(deadline, trained)
        if deadline.trains or self._ensemble.encoder == PROBE:
            self._saver.save()
            self._saver.forget()
        deadline.mark("save")
        if self._ensemble.held_out is not None:
            self._ensemble.finish(scored)
            deadline.mark("ensemble")
        if not self._ensemble.needs_encoder:
            self._ensemble.evaluate(None)
            deadline.mark("evaluate")
            return
        rows = self._prepared.data.evaluation
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating up to {counted(len(rows), 'row')}")
            scored = self._score_in_time(deadline, rows, deadline.clock.evaluation_end_s)
        if scored is not None:
            self._ensemble.evaluate(scored)
        deadline.mark("evaluate")
        if scored is None:
            self._view.warn(
                "There was no time left to evaluate; run `edgetune evaluate` to measure the model."
            )
            (self._run.folder.path / "metrics.json").unlink(missing_ok=True)
            return
        found = scored.evaluation()
        self._record_evaluation(loop.epoch, found, history)
        self._saver.note(found, loop.epoch)
        self._ensemble.write_metrics()

    def _choose_encoder(self, deadline: Deadline, trained: bool) -> Scored | None:
        """Keep the better of trained encoder and linear probe in the backend; return its held-out rows.

        Args:
            deadline: says how long there is.
            trained: whether a step was made.
        """
        probe, held_out = self._ensemble.probe, self._ensemble.held_out
        if not trained and probe is not None:
            self._keep_probe(probe)
            if probe.held_out is not None:
                return probe.held_out
        if held_out is None:
            return None
        after_s = deadline.clock.save_s()
        if trained and probe is not None:
            after_s += deadline.plan.lines["open"]
        with self._meter.phase("ensemble"):
            scored = self._score_in_time(
                deadline, held_out, lambda: deadline.clock.ensemble_end_s() - after_s
            )
            keeps_probe = trained and self._ensemble.prefers_probe(scored)
        deadline.mark("ensemble")
        if not keeps_probe:
            return scored
        assert probe is not None
        self._view.say(
            "On the held-out rows the trained encoder is no better than the linear probe; the probe is kept."
        )
        with self._meter.phase("open"):
            self._backend.load_state(self._prepared.reopen().state())
        self._keep_probe(probe)
        return probe.held_out

    def _keep_probe(self, found: FittedProbe) -> None:
        """Make the linear probe the encoder that is saved, fitted on the held-out rows too if it can be."""
        with self._meter.phase("linear_probe"):
            if self._ensemble.crossed is not None:
                probe = self._ensemble.crossed.probe
            else:
                probe = found.probe if found.refit is None else found.refit()
        self._backend.set_head(probe.weight, probe.bias)
        self._ensemble.encoder = PROBE

    def _score_in_time(
        self, deadline: Deadline, rows: TokenView, end_s: Callable[[], float]
    ) -> Scored | None:
        rng = np.random.default_rng([self._config.train.seed, 5])
        return score_in_time(self._backend, rows, deadline.clock, deadline.cost, rng, self._stop, end_s)

    def _record_evaluation(self, epoch: int, found: Evaluation, history: HistoryWriter) -> None:
        history.append_evaluation(self._meter.elapsed_s(), epoch, found)
        self._view.evaluated(epoch, found)

    def _end_epoch(self, epoch: int, history: HistoryWriter, rows: TokenView) -> None:
        """Evaluate; save the model when it is the best so far."""
        failpoint("evaluation-begun")
        with self._meter.phase("evaluate"):
            self._view.say(f"Evaluating {counted(len(rows), 'row')}")
            score = partial(self._backend.score, keep=self._config.train.epochs > 1)
            evaluated = Scored(rows, np.arange(len(rows)), score_view(score, rows))
        found = evaluated.evaluation()
        self._record_evaluation(epoch, found, history)
        with self._meter.phase("ensemble"):
            held_out = self._scored_held_out(score)
        chosen_by = None if held_out is None else held_out.evaluation()
        if self._saver.consider(found, epoch, chosen_by) and held_out is not None:
            self._ensemble.note(held_out, evaluated)

    def _scored_held_out(self, score: Callable[[Batch], FloatArray]) -> Scored | None:
        held_out = self._ensemble.held_out
        if held_out is None:
            return None
        return Scored(held_out, np.arange(len(held_out)), score_view(score, held_out))

    def _interrupted(self, counts: Counters, resumable: bool) -> Interrupted:
        where, out = self._saver.newest, self._run.folder.path
        then = f"To resume, run: edgetune finetune --resume {out}"
        if not resumable:
            config = out / "config.toml"
            then = f"To start again, run: edgetune finetune --config {config} --out {out} --overwrite"
        return Interrupted(
            f"Stopped after {counted(counts.n_steps, 'step')}; the model trained so far is in {where}. {then}"
        )

    def _summary(self, loop: Loop, encoder_alone: bool = False) -> RunResult:
        combined = None if encoder_alone else self._ensemble.evaluation
        return make_receipt(
            self._run,
            loop,
            self._saver.best if combined is None else combined,
            self._saver.best_epoch,
            self._recovery.breaks,
            self._recovery.n_diverged,
            self._ensemble.to_dict(),
        )
