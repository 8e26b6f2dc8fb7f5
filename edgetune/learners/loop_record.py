"""What is kept of a training loop while it runs: counts, rows' statistics, prices of steps, the history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetune.data.batches import PAD_MULTIPLE, Batch, TokenSource, bucket_of
from edgetune.learners.progress import Progress
from edgetune.run_files.counters import Counters
from edgetune.run_files.example_stats import ExampleStats
from edgetune.run_files.history import HistoryWriter
from edgetune.selection.selector_contract import StageChange
from edgetune.utils.meter import Meter
from edgetune.utils.metrics import cross_entropy
from edgetune.utils.types import FloatArray, IntArray


class Diverged(Exception):
    """A loss came out as no number: the weights are spoilt."""


@dataclass
class StepCosts:
    """What a row would have cost without a filter, by the run's own train steps.

    Rows and seconds of those steps that cost what unfiltered ones do: by length bucket, since a filter keeps
    other lengths than it is shown, and over the whole run, since machines drift.

    Attributes:
        n: (K,) rows.
        seconds: (K,) of their steps.
    """

    n: IntArray
    seconds: FloatArray

    @classmethod
    def empty(cls, n_buckets: int) -> StepCosts:
        """Return prices of which nothing is known; buckets are below `n_buckets`."""
        return cls(np.zeros(n_buckets, dtype=np.int64), np.zeros(n_buckets))

    def add(self, bucket: int, n_rows: int, seconds: float) -> None:
        """Take in a train step of rows that were padded to the bucket's width."""
        self.n[bucket] += n_rows
        self.seconds[bucket] += seconds

    def mean_s(self) -> float | None:
        """Seconds of a row as they came; None before the first step."""
        return float(self.seconds.sum() / self.n.sum()) if self.n.any() else None

    def mean_s_of(self, n_seen: IntArray) -> float | None:
        """Return the mean seconds of rows of which so many are of each bucket, (K,).

        A bucket without a step costs, per token, what lies between its neighbours' prices.

        Returns:
            None before the first step, or without a row.
        """
        known = np.flatnonzero(self.n)
        if not len(known) or not n_seen.any():
            return None
        per_width = self.seconds[known] / self.n[known] / np.maximum(known, 1)
        buckets = np.arange(len(self.n))
        prices = np.interp(buckets, known, per_width) * np.maximum(buckets, 1)
        return float(prices @ n_seen / n_seen.sum())


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
            "prices": asdict(self.prices),
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
