"""The part of a run in which the model changes: the loop, evaluations, saves, and the summary at the end."""

from __future__ import annotations

from functools import partial

import numpy as np

from edgetune.data.token_store import TokenView
from edgetune.inference.saved_run import score_view
from edgetune.learners.loop import Loop
from edgetune.learners.loop_record import Diverged
from edgetune.learners.progress import Progress
from edgetune.run_files.counters import Counters
from edgetune.run_files.history import HistoryWriter
from edgetune.run_files.summary import RunResult
from edgetune.runs.context import RunContext
from edgetune.runs.ensembling import EnsembleStage
from edgetune.runs.finalize import make_summary, write_summary
from edgetune.runs.model_saver import ModelSaver
from edgetune.runs.recovery import Recovery
from edgetune.runs.resume import Interruption
from edgetune.runs.scoring import Scored
from edgetune.runs.setup import Prepared
from edgetune.selection import DataShape, make_selector
from edgetune.selection.selector_contract import REFERENCE
from edgetune.utils.errors import Interrupted
from edgetune.utils.failpoints import failpoint
from edgetune.utils.formatting import counted
from edgetune.utils.metrics import Evaluation, entropy

SENSOR_EVERY_S = 1.0


class Training:
    """One run's training, from the first batch (or from an interruption) to the summary.

    It ends with the data; `TimedTraining` overrides what is different under a deadline.
    """

    def __init__(
        self,
        run: RunContext[Prepared],
        history: HistoryWriter,
        interruption: Interruption | None = None,
        ensemble: EnsembleStage | None = None,
    ) -> None:
        """`ensemble` has the n-grams if they are fitted already."""
        self._run, self._history, self._interruption = run, history, interruption
        self._prepared, self._config, self._backend = run.prepared, run.prepared.config, run.prepared.backend
        self._meter, self._view, self._stop = run.meter, run.view, run.stop
        self._sensor_read_s = run.meter.elapsed_s()
        self._rows_at_once: int | None = None
        self._saver, self._ensemble = ModelSaver(run), ensemble or EnsembleStage(run)
        self._recovery = Recovery(run, self._saver, self._ensemble)
        self._loop = self._make_loop()

    def run(self) -> RunResult:
        """Train, keep the best model, and write the summary."""
        loop = self._loop
        self._view.begin(self._prepared, self._config)
        try:
            if self._interruption is not None:
                self._recovery.restore(self._interruption, loop, self._history)
                self._ensemble.restore()
            else:
                self._begin()
            begun = self._interruption is not None or not self._stop()
            self._run_epochs()
        finally:
            self._view.end()
        self._run.deadline.mark("train")
        resumable = False
        if loop.stopped:
            # A preparation that was cut short differs from that of an uninterrupted run.
            if begun and self._run.deadline.trains:
                resumable = self._recovery.write(loop, self._history)
            self._saver.save_interrupted()
            self._ensemble.finish_interrupted(partial(self._backend.score, keep=False))
        else:
            self._finish()
        with self._meter.phase("save"):
            loop.row_stats.save(self._run.folder.path)
        result = write_summary(self._run, self._summary, partial(self._summary, encoder_alone=True))
        if loop.stopped:
            raise self._interrupted(resumable)
        self._recovery.finish()
        return result

    def _begin(self) -> None:
        """Fit the n-grams, and let the selector prepare."""
        self._ensemble.begin()
        self._loop.begin()

    def _run_epochs(self) -> None:
        epoch = max(1, self._loop.epoch)
        while True:
            try:
                self._loop.run_epoch(epoch)
            except Diverged:
                if not self._recovery.roll_back(self._loop, self._make_loop(), self._history):
                    self._end_diverged(epoch)
                    return
                epoch = max(1, self._loop.epoch)
                continue
            if self._loop.stopped or not self._continues_after(epoch):
                return
            epoch += 1

    def _continues_after(self, epoch: int) -> bool:
        """Evaluate after a pass if that is wanted; return whether another one follows."""
        last = epoch == self._config.train.epochs
        keeps_best = self._config.train.keep != "last" and self._loop.selector.stage != REFERENCE
        if last or self._loop.finished or keeps_best:  # a model that is not kept need not be evaluated
            self._end_epoch(epoch)
        return not (last or self._loop.finished or self._out_of_patience)

    @property
    def _out_of_patience(self) -> bool:
        patience = self._config.budget.patience
        return patience is not None and self._saver.n_worse >= patience

    def _end_epoch(self, epoch: int) -> None:
        """Evaluate after a pass, and keep the best model."""
        self._evaluate(epoch, self._prepared.data.evaluation)

    def _end_diverged(self, epoch: int) -> None:
        """The last good weights are back; evaluate them if nothing was."""
        if self._saver.best is None:
            self._end_epoch(epoch)

    def _finish(self) -> None:
        """Combine the best encoder with the other learners, and evaluate that."""
        self._ensemble.finish_best()

    def _make_loop(self) -> Loop:
        """Return a loop that has not begun, with a new selector."""
        config, data, deadline = self._config, self._prepared.data, self._run.deadline
        train = config.train
        shares = np.array(list(data.train.counts.values())) / len(data.train)
        answers = np.stack([shares, 1 - shares], axis=1) if data.train.labels.ndim == 2 else shares[None]
        guess_loss = float(entropy(answers).mean())
        shape = DataShape(
            len(data.train), len(shares), self._prepared.vocab_size, guess_loss, train.batch_size
        )
        selector = make_selector(config.selection, shape, np.random.default_rng([train.seed, 3]))
        return Loop(
            backend=self._backend,
            selector=deadline.guarded(selector, config.selection),
            source=data.train,
            settings=train,
            meter=self._meter,
            history=self._history,
            rng=np.random.default_rng([train.seed, 2]),
            run_progress=deadline.progress(Progress(len(data.train), train)),
            should_stop=self._stop,
            on_progress=self._after_batch,
        )

    def _after_batch(self, counts: Counters, loss: float) -> None:
        """Show the progress of the run, and write a checkpoint if one is due."""
        elapsed_s = self._meter.elapsed_s()
        self._view.progress(self._loop.progress, counts, loss, self._loop.selector.stage, elapsed_s)
        if elapsed_s - self._sensor_read_s > SENSOR_EVERY_S:
            self._sensor_read_s = elapsed_s
            self._run.sensor.joules()  # energy counters wrap around, and power has to be sampled
        if (max_rows := self._backend.microbatches.max_rows) != self._rows_at_once:
            self._rows_at_once = max_rows
            self._view.warn(
                "Memory ran out: batches are now processed in parts of at most "
                f"{counted(max_rows or 0, 'row')}; the batch size of each step is unchanged."
            )
        self._recovery.between_batches(self._loop, self._history)

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

    def _interrupted(self, resumable: bool) -> Interrupted:
        where, out = self._saver.newest, self._run.folder.path
        then = f"To resume, run: edgetune finetune --resume {out}"
        if not resumable:
            config = out / "config.toml"
            then = f"To start again, run: edgetune finetune --config {config} --out {out} --overwrite"
        steps = counted(self._loop.counts.n_steps, "step")
        return Interrupted(f"Stopped after {steps}; the model trained so far is in {where}. {then}")

    def _summary(self, encoder_alone: bool = False) -> RunResult:
        combined = None if encoder_alone else self._ensemble.evaluation
        return make_summary(
            self._run,
            self._loop,
            self._saver.best if combined is None else combined,
            self._saver.best_epoch,
            self._recovery.breaks,
            self._recovery.n_diverged,
            self._ensemble.to_dict(),
        )
