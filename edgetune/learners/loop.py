"""The one training loop: every selector and every backend goes through it.

Per batch of the stream: choose_score → queue → score → choose_train → observe → queue → train step.
A selector that skips scoring has its rows go to the second queue at once, and observes the losses of their
train step. Both queues hand out full batches of one length bucket; what is left in them at the end is
trained, not dropped. A selector may be asked about several batches of the stream at once, may
decide over a pool of scored ones, and may have the model start afresh: the model so far was a reference that
only measured, its time counts as preparation, and what is queued is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.config.settings import TrainSettings
from edgetune.data.batches import Batch, RowStream, TokenSource
from edgetune.data.queues import BucketQueue, Waiting
from edgetune.learners.loop_record import LoopRecord, StepCosts
from edgetune.learners.progress import Position, Progress, decayed_rate, progress_within
from edgetune.run_files.counters import Counters
from edgetune.run_files.example_stats import ExampleStats
from edgetune.run_files.history import HistoryWriter
from edgetune.selection.selector_contract import Selector, StageChange
from edgetune.utils.failpoints import failpoint
from edgetune.utils.meter import Meter


@dataclass
class Loop:
    """One run's training, an epoch at a time.

    Attributes:
        backend: runs the model.
        selector: chooses examples.
        source: training rows.
        settings: `lr`, which is not None, `epochs` and `batch_size` are read.
        meter: where time is charged.
        history: takes one record per step or skipped batch.
        rng: decides the order of rows.
        run_progress: says how far the run is and when it ends.
        should_stop: asked before every batch and step.
        on_progress: told after every batch, with the last step's mean loss (nats).
        stopped: whether somebody asked it to stop.
        epoch: the pass that was begun last, from 1; 0 before the first.
        lr_scale: factor of the learning rate, below 1 once the loss has diverged.
    """

    backend: Backend
    selector: Selector
    source: TokenSource
    settings: TrainSettings
    meter: Meter
    history: HistoryWriter
    rng: np.random.Generator
    run_progress: Progress
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[Counters, float], None] = lambda counts, loss: None
    stopped: bool = False
    epoch: int = 0
    lr_scale: float = 1.0
    _n_stages: int = 0

    def __post_init__(self) -> None:
        self._stream = RowStream(self.source, self.settings.batch_size, self.rng)
        self._waiting = Waiting(self.settings.batch_size)
        self._first_state: bytes | None = None
        self._record = LoopRecord(self.source, self.meter, self.history, self.run_progress)

    @property
    def counts(self) -> Counters:
        """What happened so far."""
        return self._record.counts

    @property
    def row_stats(self) -> ExampleStats:
        """What happened to every row."""
        return self._record.rows

    @property
    def prices(self) -> StepCosts:
        """What rows cost unfiltered."""
        return self._record.prices

    @property
    def n_waiting(self) -> int:
        """Examples in a queue, or scored and not decided on."""
        return len(self._waiting)

    def _at(self, n_in_hand: int = 0) -> Position:
        """Return how far the loop is while so many rows have left a queue for a step not made yet."""
        return Position(self.counts.n_seen - self.n_waiting - n_in_hand, self.counts.n_steps)

    @property
    def finished(self) -> bool:
        """Whether the limit of steps or of time was reached; the end of the data does not count."""
        return self.run_progress.finished(self._at())

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]; rows waiting in a queue are not done."""
        return self.run_progress.progress(self._at())

    def begin(self) -> None:
        """Let the selector prepare; call once, before the first pass."""
        with self.meter.phase("prepare"):
            self.selector.prepare(self.source, self._must_stop)
            self.source.release()
            if self.selector.restarts:
                self._first_state = self.backend.state()

    def run_epoch(self, epoch: int) -> None:
        """Pass over the rows once, or over what is left of this pass; flush the queues after the last one.

        Asked to stop, it stops between two batches of the stream, where `state()` can be taken.

        Raises:
            Diverged: a loss is not finite.
        """
        if epoch != self.epoch:
            self.epoch = epoch
            with self.meter.phase("load"):
                self._stream.begin()
        while len(self._stream):
            if self._must_stop():
                return
            with self.meter.phase("load"):
                batch = self._stream.next(self.selector.lookahead)
            if self._take(batch):
                with self.meter.phase("load"):
                    # The rest of the pass is drawn anew from all rows, also those that the reference saw.
                    self._stream.draw_rest_anew()
            self._after_batch()
        if epoch == self.settings.epochs:
            self._flush()

    def state(self) -> dict[str, Any]:
        """Return everything but the backend's state that decides how the run goes on, between two batches."""
        return {
            "epoch": self.epoch,
            "lr_scale": self.lr_scale,
            "n_stages": self._n_stages,
            "starts_afresh": self._first_state is not None,
            "stream": self._stream.state(),
            **self._waiting.state(),
            **self._record.state(),
            "selector": self.selector.state(),
        }

    def load_state(self, state: dict[str, Any], backend: bytes, first: Callable[[], bytes]) -> None:
        """Go on exactly where `state()` and the backend's state were taken; there is no `begin` then.

        Args:
            state: of a loop over the same rows, with the same settings.
            backend: the backend's state (parameters and optimizer) at that time.
            first: returns that of a run that has not begun.
        """
        self._first_state = (self._first_state or first()) if state["starts_afresh"] else None
        self.backend.load_state(backend)
        self.epoch, self._n_stages = state["epoch"], state["n_stages"]
        self.lr_scale = state["lr_scale"]
        self._stream.load_state(state["stream"])
        self._waiting.load_state(state, self.source.numbered)
        self._record.load_state(state)
        self.selector.load_state(state["selector"])

    def _must_stop(self) -> bool:
        if self.should_stop():
            self.stopped = True
        return self.stopped or self.finished

    def _take(self, batch: Batch) -> bool:
        """Select, score and train what this batch makes possible, and queue the rest.

        Returns:
            Whether the model started afresh.
        """
        with self._record.noting_skips(lambda: self.selector.stage):
            with self.meter.phase("select"):
                self.selector.on_batch_start(self.progress, self.epoch)
            reset_model = self._note_stages()
            with self.meter.phase("select"):
                kept = batch.take(self.selector.choose_score(batch))
                self._record.saw(batch, len(kept))
                scores = not self.selector.skips_scoring
                (self._waiting.to_score if scores else self._waiting.to_train).add(kept)
            while scores and (full := self._next(self._waiting.to_score)) is not None:
                self._score(full)
            self._train_full()
        return reset_model

    def _score(self, batch: Batch) -> None:
        """Make a forward pass, let the selector decide once enough rows are scored, queue what it keeps."""
        batch = self._that_fits("score", batch)
        if not len(batch):
            return
        with self._record.timed("score", batch, "score"):
            logits = self.backend.score(batch)
        with self.meter.phase("select"):
            self._waiting.hold(batch, self._record.scored(batch, logits))
            if self._waiting.n_undecided >= self.selector.decision_size:
                self._decide()

    def _decide(self) -> None:
        """Let the selector choose among the scored rows that wait for it."""
        if (found := self._waiting.undecided()) is None:
            return
        batch, losses = found
        kept = batch.take(self.selector.choose_train(batch, losses))
        self.selector.observe(batch, losses)
        self.counts.n_skipped_backward += len(batch) - len(kept)
        self._waiting.to_train.add(kept.mark_scored())

    def _train(self, batch: Batch) -> None:
        """Make one optimizer step; let the selector observe rows that it had not seen the loss of."""
        batch = self._that_fits("train", batch)
        if not len(batch):
            return
        lr = self._learning_rate(len(batch))
        with self.meter.phase("select"):
            weights = self.selector.loss_weights(batch)
        with self._record.timed("train", batch, "prepare" if self._trains_reference else "train"):
            logits = self.backend.train_step(batch, lr, weights)
        with self.meter.phase("select"):
            unscored = ~batch.scored
            # A row that was scored costs less to train if a cache holds its output of the frozen layers.
            full_price = bool(unscored.all()) or self.backend.cache is None
            losses = self._record.trained(batch, logits, full_price=full_price)
            if unscored.any():
                self.selector.observe(batch.take(unscored), losses[unscored])
        failpoint("step")
        self._record.write_step(batch, lr, self.epoch, self.selector.stage)

    @property
    def _trains_reference(self) -> bool:
        """Whether the model that is trained now will be given up, so that its time counts as preparation."""
        return self._first_state is not None

    def _learning_rate(self, n_in_hand: int) -> float:
        """Return the rate for a step of so many rows."""
        assert self.settings.lr is not None
        at = self._at(n_in_hand)
        # If the model restarts, the steps of an unfiltered run do not tell how far the run is.
        progress = (
            self.run_progress.progress(at) if self.selector.restarts else self.run_progress.decay_progress(at)
        )
        return decayed_rate(self.lr_scale * self.settings.lr, progress_within(progress, self.selector.span))

    def _train_full(self) -> None:
        """Train all full batches without checking for a stop: `state()` cannot describe a full batch."""
        while not self.finished and (batch := self._next(self._waiting.to_train)) is not None:
            self._train(batch)

    def _next(self, queue: BucketQueue) -> Batch | None:
        with self.meter.phase("select"):
            return next(queue.full(), None)

    def _that_fits(self, operation: str, batch: Batch) -> Batch:
        """Cut a batch to the rows for which there is time."""
        n_fit = self.run_progress.rows_that_fit(operation, len(batch), batch.width)
        self.counts.n_left += len(batch) - n_fit
        return batch.cut(0, n_fit)

    def _flush(self) -> None:
        """Score and train what is left, in batches that may mix lengths."""
        left = self._waiting.to_score.flush()
        # Check for a stop before taking a batch: one that was taken and not trained would be lost.
        while not self._must_stop() and (batch := next(left, None)) is not None:
            with self._record.noting_skips(lambda: self.selector.stage):
                self._score(batch)
        if self._must_stop():
            return
        with self.meter.phase("select"):
            self._decide()
        self._train_full()
        left = self._waiting.to_train.flush()
        while not self._must_stop() and (batch := next(left, None)) is not None:
            self._train(batch)
        self._after_batch()

    def _after_batch(self) -> None:
        self._note_stages()
        self.on_progress(self.counts, self._record.loss)

    def _note_stages(self) -> bool:
        """Record the stages entered since the last look; return whether one of them started afresh."""
        reset_model = False
        for change in self.selector.stages[self._n_stages :]:
            self._record.write_stage(change)
            if change.reset_model:
                self._start_afresh(change)
                reset_model = True
        self._n_stages = len(self.selector.stages)
        return reset_model

    def _start_afresh(self, change: StageChange) -> None:
        """Go back to the first weights; rows that wait were chosen for the model that is given up."""
        if self._first_state is None:
            raise RuntimeError(
                f"stage {change.stage} resets the model, but the initial weights were not kept"
            )
        with self.meter.phase("prepare"):
            self.backend.load_state(self._first_state)
        self._first_state = None
        self._record.count_restart(self.n_waiting)
        self._waiting.clear()
