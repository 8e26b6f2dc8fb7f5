"""What is kept of a training loop while it runs: counts, rows' statistics, prices of steps, the history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from edgetune.data.batches import PAD_MULTIPLE, Batch, TokenSource, bucket_of
from edgetune.learners.progress import Progress
from edgetune.learners.step_costs import StepCosts
from edgetune.run_files.counters import Counters
from edgetune.run_files.example_stats import ExampleStats
from edgetune.run_files.history import HistoryWriter
from edgetune.selection.selector_contract import StageChange
from edgetune.utils.meter import Meter
from edgetune.utils.metrics import cross_entropy
from edgetune.utils.types import FloatArray


class Diverged(Exception):
    """A loss came out as no number: the weights are spoilt."""


class LoopRecord:
    """Measures and writes down what a loop does; it decides nothing.

    Attributes:
        counts: what happened so far.
        rows: what happened to every row.
        prices: what rows cost unfiltered.
        loss: mean of the last step, nats.
    """

    def __init__(
        self, source: TokenSource, meter: Meter, history: HistoryWriter, run_progress: Progress
    ) -> None:
        self._meter, self._history, self._run_progress = meter, history, run_progress
        self.counts = Counters()
        self.rows = ExampleStats.empty(source.n_numbered)
        self.prices = StepCosts.empty(int(bucket_of(source.lengths.max(initial=0))) + 1)
        self.loss = float("nan")
        self._operation_s = 0.0

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        return {
            "counts": asdict(self.counts),
            "loss": self.loss,
            "record": self.rows.state(),
            "prices": self.prices.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken."""
        self.counts, self.loss = Counters(**state["counts"]), state["loss"]
        self.rows, self.prices = ExampleStats(**state["record"]), StepCosts(**state["prices"])

    @contextlib.contextmanager
    def timed(self, operation: str, batch: Batch, phase: str) -> Iterator[None]:
        """Measure a call of the backend, and charge it to a phase."""
        started_s = self._meter.elapsed_s()
        if operation == "train" and self.counts.first_step_s is None:
            self.counts.first_step_s = started_s
        with self._meter.phase(phase):
            yield
        self._operation_s = self._meter.elapsed_s() - started_s
        self._run_progress.record_duration(operation, len(batch), batch.width, self._operation_s)

    def saw(self, batch: Batch, n_kept: int) -> None:
        """Count rows of the stream, of which so many were kept."""
        self.rows.saw(batch)
        self.counts.n_seen += len(batch)
        self.counts.n_skipped_both += len(batch) - n_kept

    def scored(self, batch: Batch, logits: FloatArray) -> FloatArray:
        """Count scored rows; return their losses (B,).

        Raises:
            Diverged: one of them is not finite.
        """
        losses = _finite_losses(batch, logits)
        self.counts.n_scored += len(batch)
        self.rows.scored(batch, logits, losses)
        return losses

    def trained(self, batch: Batch, logits: FloatArray, *, full_price: bool) -> FloatArray:
        """Count trained rows; return their losses (B,).

        Args:
            batch: these rows.
            logits: (B, C) before the step.
            full_price: whether the step cost what one of an unfiltered run does.

        Raises:
            Diverged: one of the losses is not finite.
        """
        losses = _finite_losses(batch, logits)
        self.loss = float(losses.mean())
        self.rows.trained(batch, logits, losses)
        self.counts.n_steps += 1
        self.counts.n_trained += len(batch)
        if full_price:
            self.prices.add(batch.width // PAD_MULTIPLE, len(batch), self._operation_s)
        return losses

    def write_step(self, batch: Batch, lr: float, epoch: int, stage: str) -> None:
        """Write a step into the history."""
        self._history.append(
            kind="step",
            t_s=self._meter.elapsed_s(),
            step=self.counts.n_steps,
            epoch=epoch,
            stage=stage,
            lr=lr,
            loss=self.loss,
            n=len(batch),
            width=batch.width,
            train_s=self._operation_s,
            **self.counts.totals(),
        )

    @contextlib.contextmanager
    def noting_skips(self, stage: Callable[[], str]) -> Iterator[None]:
        """Write into the history that rows were skipped, unless a step says so."""
        n_steps, n_skipped = self.counts.n_steps, self.counts.n_skipped
        yield
        if self.counts.n_steps == n_steps and self.counts.n_skipped > n_skipped:
            totals = self.counts.totals()
            self._history.append(kind="skip", t_s=self._meter.elapsed_s(), stage=stage(), **totals)

    def write_stage(self, change: StageChange) -> None:
        """Write into the history that the selector entered a stage."""
        t_s, n_seen = self._meter.elapsed_s(), change.n_seen
        self._history.append(kind="stage", t_s=t_s, stage=change.stage, n_seen=n_seen, reason=change.reason)

    def count_restart(self, n_waiting: int) -> None:
        """Count the steps so far as those of a model that is given up, and waiting rows as left."""
        self.counts.n_steps_reference = self.counts.n_steps
        self.counts.n_trained_reference = self.counts.n_trained
        self.counts.n_left += n_waiting


def _finite_losses(batch: Batch, logits: FloatArray) -> FloatArray:
    losses = cross_entropy(logits, batch.labels)
    if not np.isfinite(losses).all():
        raise Diverged
    return losses
