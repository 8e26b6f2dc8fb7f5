"""One combination of choices, and what it costs on the given data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgetune.data.batches import PAD_MULTIPLE, bucket_of
from edgetune.devices.device_profile import Operation
from edgetune.planning.plan import BackendCosts, DataLengths, DeviceCosts
from edgetune.utils.types import IntArray, StepCost

LOOP_OVERHEAD = 1.02
EVALUATION_BATCH = 64
PROBE_BATCHES, EVALUATION_BATCHES = 2, 8  # drawn at once
FP16_BYTES = 2


def scored_s(lengths: IntArray, cost: StepCost) -> float:
    """Predict the seconds of scoring rows, shortest first, every batch as wide as its longest row."""
    widths = np.sort(bucket_of(lengths)) * PAD_MULTIPLE
    batches = [widths[i : i + EVALUATION_BATCH] for i in range(0, len(widths), EVALUATION_BATCH)]
    return sum(cost("score", len(batch), int(batch[-1])) for batch in batches)


@dataclass(frozen=True)
class Candidate:
    """One combination of choices, and what it costs on the given data.

    Trained rows are priced by length bucket, scored rows as they are drawn, several batches at once.
    """

    device: DeviceCosts
    data: DataLengths
    costs: BackendCosts
    depth: int
    max_length: int
    batch_size: int
    exported: bool
    scores: bool = False

    def _call_s(self, ops: tuple[Operation, ...], n_rows: int, width: int) -> float:
        return sum(self.costs.cost.seconds(op, n_rows, width, self.depth) for op in ops)

    def _trained_row_s(self, ops: tuple[Operation, ...]) -> float:
        """Mean seconds of a row, over the buckets that the rows fall into."""
        lengths, batch = self.data.lengths, self.batch_size
        counts = np.bincount(bucket_of(np.minimum(lengths, self.max_length)))
        widths = np.flatnonzero(counts)
        spent = sum(counts[width] * self._call_s(ops, batch, int(width) * PAD_MULTIPLE) for width in widths)
        return LOOP_OVERHEAD * float(spent / batch / max(1, len(lengths)))

    @property
    def _prefix(self) -> tuple[Operation, ...]:
        return ("prefix",) if self.depth else ()

    @cached_property
    def again_row_s(self) -> float:
        """Seconds of training a row with cached hidden states, and of scoring it if the method scores."""
        return self._trained_row_s(("score", "train") if self.scores else ("train",))

    @cached_property
    def train_row_s(self) -> float:
        """Seconds of training a row for the first time."""
        return self._trained_row_s(
            (*self._prefix, "score", "train") if self.scores else (*self._prefix, "train")
        )

    def _scored_row_s(self, in_order: IntArray, n_batches: int, cached: bool = False) -> float:
        """Mean seconds of a row when `n_batches` batches are drawn at once, sorted, and scored.

        A batch is as wide as its longest row; the rows of a typical draw are the quantiles of all rows.
        """
        if not len(in_order):
            return 0.0
        n_drawn = min(n_batches * EVALUATION_BATCH, len(in_order))
        quantiles = ((np.arange(n_drawn) + 0.5) / n_drawn * len(in_order)).astype(np.int64)
        drawn = np.minimum(in_order[quantiles], self.max_length)
        ops: tuple[Operation, ...] = ("score",) if cached else (*self._prefix, "score")
        return scored_s(drawn, lambda _, n_rows, width: self._call_s(ops, n_rows, width)) / n_drawn

    @cached_property
    def probe_row_s(self) -> float:
        """Seconds of computing the features of a training row for the linear probe."""
        return self._scored_row_s(self.data.in_order[0], PROBE_BATCHES)

    @cached_property
    def cached_probe_row_s(self) -> float:
        """The same, with cached hidden states."""
        return self._scored_row_s(self.data.in_order[0], PROBE_BATCHES, cached=True)

    @cached_property
    def evaluate_row_s(self) -> float:
        """Seconds of scoring an evaluation row."""
        return self._scored_row_s(self.data.in_order[1], EVALUATION_BATCHES)

    @cached_property
    def cut_share(self) -> float:
        """The share of tokens cut off, of the training or the evaluation rows: whichever lose more."""
        both = (self.data.lengths, self.data.eval_lengths)
        cut = [1 - np.minimum(rows, self.max_length).sum() / max(1, rows.sum()) for rows in both if len(rows)]
        return float(max(cut, default=0.0))

    @cached_property
    def cache_needed_mb(self) -> float:
        """Memory that the hidden states of all training rows would take."""
        n_tokens = int(np.minimum(self.data.lengths, self.max_length).sum())
        return n_tokens * self.device.hidden_size * FP16_BYTES / 1e6 if self.depth else 0.0

    @cached_property
    def memory_mb(self) -> float:
        """Predicted peak, without the cache."""
        longest = int(np.minimum(self.data.lengths, self.max_length).max(initial=1))
        memory = self.costs.memory
        train_mb = memory.train_mb_per_token * self.batch_size * longest
        return memory.base_mb + max(train_mb, memory.score_mb_per_token * EVALUATION_BATCH * longest)

    def describe(self) -> str:
        """Return a name for it."""
        return f"{self.costs.key}, depth {self.depth}, {self.max_length} tokens, batch {self.batch_size}"
