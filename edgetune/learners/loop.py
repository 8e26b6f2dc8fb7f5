"""The one training loop: every selector and every backend goes through it.

Per batch of the stream: advance → choose_score → drop → score → choose_train → observe → queue → train step.
A selector that trains *straight* skips the scoring: its rows go to the queue at once and it observes the
losses of their train step. Both queues hand out full batches of one length bucket; what is left in them
at the end is trained, not dropped. A selector may be asked about several batches of the stream at once, may
decide over a pool of scored ones, and may have the model start afresh (a reference that only measures,
charged as preparation): then what is queued is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from edgetune.backends.backend_contract import Backend
from edgetune.data.batches import PAD_MULTIPLE, Batch, bucket_of
from edgetune.data.queues import BucketQueue, Waiting
from edgetune.data.stream import RowSource, RowStream
from edgetune.learners.progress import DataProgress, Position, Progress, decayed_rate, progress_within
from edgetune.learners.step_costs import StepCosts
from edgetune.run_files.counters import Counters
from edgetune.run_files.example_stats import ExampleStats
from edgetune.run_files.history import Recorder
from edgetune.selection.selector_contract import Selector, StageChange
from edgetune.utils.failpoints import failpoint
from edgetune.utils.meter import Meter
from edgetune.utils.metrics import cross_entropy
from edgetune.utils.types import FloatArray


class Diverged(Exception):
    """A loss came out as no number: the weights are spoilt."""


@dataclass(frozen=True)
class LoopSettings:
    """The numbers that the loop needs.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the rows.
        batch_size: examples per optimizer step.
        decay: `examples` or `steps`, see `settings.TrainSettings`.
        max_steps: optimizer steps at most, or None.
    """

    lr: float
    epochs: int
    batch_size: int
    decay: str = "examples"
    max_steps: int | None = None

    def data_progress(self, n_examples: int) -> DataProgress:
        """Return the pace of a run that ends with so many examples a pass."""
        return DataProgress(n_examples, self.epochs, self.batch_size, self.decay, self.max_steps)


@dataclass
class Loop:
    """One run's training, an epoch at a time.

    Attributes:
        backend: runs the model.
        selector: chooses examples.
        source: training rows.
        settings: the numbers.
        meter: where time is charged.
        history: takes one record per step or skipped batch.
        rng: decides the order of rows.
        run_progress: says how far the run is and when it ends; by default the data does.
        should_stop: asked before every batch and step.
        on_progress: told after every batch, with the last step's mean loss (nats).
        counts: what happened so far.
        record: what happened to every row.
        prices: what rows cost unfiltered.
        stopped: whether somebody asked it to stop.
        epoch: the pass that was begun last, from 1; 0 before the first.
        lr_scale: factor of the learning rate, below 1 once the loss has diverged.
    """

    backend: Backend
    selector: Selector
    source: RowSource
    settings: LoopSettings
    meter: Meter
    history: Recorder
    rng: np.random.Generator
    run_progress: Progress = None  # type: ignore[assignment]  # set below when not given
    should_stop: Callable[[], bool] = lambda: False
    on_progress: Callable[[Counters, float], None] = lambda counts, loss: None
    counts: Counters = field(default_factory=Counters)
    stopped: bool = False
    epoch: int = 0
    lr_scale: float = 1.0
    _loss: float = float("nan")
    _n_stages: int = 0

    def __post_init__(self) -> None:
        self._stream = RowStream(self.source, self.settings.batch_size, self.rng)
        self._waiting = Waiting(self.settings.batch_size)
        self._first_state: bytes | None = None
        self.record = ExampleStats.empty(self.source.n_numbered)
        longest = self.source.lengths.max(initial=0)
        self.prices = StepCosts.empty(int(bucket_of(longest)) + 1)
        if self.run_progress is None:
            self.run_progress = self.settings.data_progress(len(self.source))

    @property
    def n_waiting(self) -> int:
        """Examples in a queue, or scored and not decided on."""
        return len(self._waiting)

    def _at(self, n_in_hand: int = 0) -> Position:
        """Return how far the loop is while so many rows have left a queue for a step not made yet."""
        return Position(self.counts.n_seen - self.n_waiting - n_in_hand, self.counts.n_steps)

    @property
    def finished(self) -> bool:
        """Whether the limit of steps or of time was reached."""
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
                    # Rows that the first model saw are among the rest again.
                    self._stream.draw_rest_anew()
            self._after_batch()
        if epoch == self.settings.epochs:
            self._flush()

    def state(self) -> dict[str, Any]:
        """Return everything but the backend's state that decides how the run goes on, between two batches."""
        return {
            "epoch": self.epoch,
            "counts": asdict(self.counts),
            "loss": self._loss,
            "lr_scale": self.lr_scale,
            "n_stages": self._n_stages,
            "starts_afresh": self._first_state is not None,
            "stream": self._stream.state(),
            **self._waiting.state(),
            "record": self.record.state(),
            "prices": self.prices.state(),
            "selector": self.selector.state(),
        }

    def load_state(self, state: dict[str, Any], backend: bytes, first: Callable[[], bytes]) -> None:
        """Go on exactly where `state()` and the backend's state were taken; there is no `begin` then.

        Args:
            state: of a loop over the same rows, with the same settings.
            backend: parameters and optimizer then.
            first: returns those of a run that has not begun.
        """
        if state["starts_afresh"]:
            self._first_state = self._first_state or first()
        else:
            self._first_state = None
        self.backend.load_state(backend)
        self.epoch, self._n_stages = state["epoch"], state["n_stages"]
        self.counts = Counters(**state["counts"])
        self._loss, self.lr_scale = state["loss"], state["lr_scale"]
        self._stream.load_state(state["stream"])
        self._waiting.load_state(state, self.source.numbered)
        self.record = ExampleStats(**state["record"])
        self.prices = StepCosts(**state["prices"])
        self.selector.load_state(state["selector"])

    def _must_stop(self) -> bool:
        if self.should_stop():
            self.stopped = True
        return self.stopped or self.finished

    def _take(self, batch: Batch) -> bool:
        """Bring rows of the stream as far as they go; return whether the model started afresh."""
        steps_before, skipped_before = self.counts.n_steps, self.counts.n_skipped
        with self.meter.phase("select"):
            self.selector.on_batch_start(self.progress, self.epoch)
        reset_model = self._note_stages()
        with self.meter.phase("select"):
            self.record.saw(batch)
            self.counts.n_seen += len(batch)
            chosen = self.selector.choose_score(batch)
            kept = batch if chosen.all() else batch.take(chosen)
            self.counts.n_skipped_both += len(batch) - len(kept)
            straight = self.selector.skips_scoring
            (self._waiting.to_train if straight else self._waiting.to_score).add(kept)
        if not straight:
            self._score_full()
        self._train_full()
        if self.counts.n_steps == steps_before and self.counts.n_skipped > skipped_before:
            self._record_skip()
        return reset_model

    def _score_full(self) -> None:
        while (batch := self._next(self._waiting.to_score)) is not None:
            self._score(batch)

    def _train_full(self) -> None:
        """Train all full batches: asked to stop in between, it would leave what no state describes."""
        while not self.finished and (batch := self._next(self._waiting.to_train)) is not None:
            self._train(batch)

    def _next(self, queue: BucketQueue) -> Batch | None:
        with self.meter.phase("select"):
            return next(queue.full(), None)

    def _that_fits(self, operation: str, batch: Batch) -> Batch:
        """Cut a batch to the rows for which there is time."""
        n_fit = self.run_progress.rows_that_fit(operation, len(batch), batch.width)
        self.counts.n_left += len(batch) - n_fit
        return batch if n_fit == len(batch) else batch.take(np.arange(n_fit))

    def _score(self, batch: Batch) -> None:
        """Pay for a forward pass, let the selector decide, queue what it keeps."""
        batch = self._that_fits("score", batch)
        if not len(batch):
            return
        started = self.meter.elapsed_s()
        with self.meter.phase("score"):
            logits = self.backend.score(batch)
        self.run_progress.record_duration("score", len(batch), batch.width, self.meter.elapsed_s() - started)
        with self.meter.phase("select"):
            losses = _finite(cross_entropy(logits, batch.labels))
            self.counts.n_scored += len(batch)
            self.record.scored(batch, logits, losses)
            self._waiting.hold(batch, losses)
            if self._waiting.n_undecided >= self.selector.decision_size:
                self._decide()

    def _decide(self) -> None:
        """Let the selector choose among the scored rows that wait for it."""
        if (found := self._waiting.undecided()) is None:
            return
        batch, losses = found
        keep = self.selector.choose_train(batch, losses)
        self.selector.observe(batch, losses)
        kept = batch if keep.all() else batch.take(keep)
        self.counts.n_skipped_backward += len(batch) - len(kept)
        self._waiting.to_train.add(kept.mark_scored())

    def _train(self, batch: Batch) -> None:
        """Make one optimizer step; let the selector observe rows that it had not seen the loss of."""
        batch = self._that_fits("train", batch)
        if not len(batch):
            return
        at = self._at(len(batch))
        # Where the model starts afresh, the steps of an unfiltered run say nothing of how far it is.
        progress = (
            self.run_progress.progress(at) if self.selector.restarts else self.run_progress.decay_progress(at)
        )
        lr = decayed_rate(self.lr_scale * self.settings.lr, progress_within(progress, self.selector.span))
        with self.meter.phase("select"):
            weights = self.selector.loss_weights(batch)
        started = self.meter.elapsed_s()
        if self.counts.first_step_s is None:
            self.counts.first_step_s = started
        with self.meter.phase("prepare" if self._first_state is not None else "train"):
            logits = self.backend.train_step(batch, lr, weights)
        train_s = self.meter.elapsed_s() - started
        width = batch.width
        self.run_progress.record_duration("train", len(batch), width, train_s)
        with self.meter.phase("select"):
            losses = _finite(cross_entropy(logits, batch.labels))
            self._loss = float(losses.mean())
            self.record.trained(batch, logits, losses)
            unscored = ~batch.scored
            if unscored.all() or self.backend.cache is None:  # else the score has paid for frozen layers
                self.prices.add(width // PAD_MULTIPLE, len(batch), train_s)
            if unscored.all():
                self.selector.observe(batch, losses)
            elif unscored.any():
                self.selector.observe(batch.take(unscored), losses[unscored])
        self.counts.n_steps += 1
        self.counts.n_trained += len(batch)
        failpoint("step")
        self._record_step(len(batch), width, lr, train_s)

    def _flush(self) -> None:
        """Score and train what is left, in batches that may mix lengths."""
        left = self._waiting.to_score.flush()
        # To stop is asked before each batch: one that was handed out would be lost.
        while not self._must_stop() and (batch := next(left, None)) is not None:
            skipped_before = self.counts.n_skipped
            self._score(batch)
            if self.counts.n_skipped > skipped_before:
                self._record_skip()
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
        self.on_progress(self.counts, self._loss)

    def _note_stages(self) -> bool:
        """Record the stages entered since the last look; return whether one of them started afresh."""
        reset_model = False
        for change in self.selector.stages[self._n_stages :]:
            self.history.append(
                kind="stage",
                t_s=self.meter.elapsed_s(),
                stage=change.stage,
                n_seen=change.n_seen,
                reason=change.reason,
            )
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
        self.counts.n_steps_reference, self.counts.n_trained_reference = (
            self.counts.n_steps,
            self.counts.n_trained,
        )
        self.counts.n_left += self.n_waiting
        self._waiting.clear()

    def _record_step(self, n_rows: int, width: int, lr: float, train_s: float) -> None:
        self.history.append(
            kind="step",
            t_s=self.meter.elapsed_s(),
            step=self.counts.n_steps,
            epoch=self.epoch,
            stage=self.selector.stage,
            lr=lr,
            loss=self._loss,
            n=n_rows,
            width=width,
            train_s=train_s,
            **self.counts.totals(),
        )

    def _record_skip(self) -> None:
        self.history.append(
            kind="skip",
            t_s=self.meter.elapsed_s(),
            stage=self.selector.stage,
            **self.counts.totals(),
        )


def _finite(losses: FloatArray) -> FloatArray:
    """Return the losses (B,).

    Raises:
        Diverged: one of them is not finite.
    """
    if not np.isfinite(losses).all():
        raise Diverged
    return losses
