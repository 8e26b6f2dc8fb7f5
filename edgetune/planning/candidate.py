"""One combination of choices: what it costs on the given data, and which accuracy is expected of it.

Expected are points of accuracy lost against unlimited training, by a rule of thumb whose constants each come
from a measurement (docs/deadlines.md, docs/log.md). It ranks plans; it does not promise an accuracy.

    trained    = (1 - LESS * frozen) * (STEPS / sqrt(steps) + ROWS / sqrt(distinct rows / 32))
                 + DEPTH * frozen² + CUT * cut
    probe alone = PROBE - PROBE_DOUBLING * log2(rows / 64) + CUT * cut
    from a probe of all rows = probe alone - TUNED * sqrt(steps / TUNED_STEPS) * (1 - UNEVEN * (frozen - ½)²)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from edgetune.data.batches import PAD_MULTIPLE, bucket_of, rows_at_once
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

    @property
    def _prefix(self) -> tuple[Operation, ...]:
        return ("prefix",) if self.depth else ()

    def _trained_row_s(self, prefix: tuple[Operation, ...]) -> float:
        """Mean seconds of a row, over the buckets that the rows fall into."""
        ops: tuple[Operation, ...] = (*prefix, "score", "train") if self.scores else (*prefix, "train")
        lengths, batch = self.data.lengths, self.batch_size
        counts = np.bincount(bucket_of(np.minimum(lengths, self.max_length)))
        widths = np.flatnonzero(counts)
        spent = sum(counts[width] * self._call_s(ops, batch, int(width) * PAD_MULTIPLE) for width in widths)
        return LOOP_OVERHEAD * float(spent / batch / max(1, len(lengths)))

    @cached_property
    def again_row_s(self) -> float:
        """Seconds of training a row with cached hidden states, and of scoring it if the method scores."""
        return self._trained_row_s(())

    @cached_property
    def train_row_s(self) -> float:
        """Seconds of training a row for the first time."""
        return self._trained_row_s(self._prefix)

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
        memory, most = self.costs.memory, self.costs.most_tokens
        train_mb = memory.train_mb_per_token * rows_at_once(self.batch_size, longest, most) * longest
        return memory.base_mb + max(train_mb, memory.score_mb_per_token * EVALUATION_BATCH * longest)

    def describe(self) -> str:
        """Return a name for it."""
        return f"{self.costs.key}, depth {self.depth}, {self.max_length} tokens, batch {self.batch_size}"


ProbeKind = Literal["first token", "mean", "apart"]

STEPS_POINTS, ROWS_POINTS = 19.0, 71.0
"""SST-2, batch 32, rate to zero, held-out rows: 103, 406 and 1,125 steps over new rows gave 85.7, 89.8 and
92.3, 453 steps over 4,000 rows 87.4. So what is missing is mostly rows, not steps."""
DEPTH_POINTS, DEPTH_LESS = 11.0, 0.5
"""SST-2, mean of held-out and dev rows, at 60 and 200 steps: depth 2 of 6 lost -0.4 and 0.6 points against
depth 0, depth 4 lost 0.6 and 2.3, depth 5 lost 5.1 and 4.7. A frozen part learns sooner and less."""
CUT_POINTS = 10.0
"""AG News: cutting about a third of all tokens (32 instead of 128) cost 0.8 points. SST-2, whose evaluation
rows are longer than its training rows: limit 32 cuts 7 % of their tokens, and a run of 70 steps had 79.2 %
where one with limit 128 had 82.2. The runs differed in more than that (docs/log.md)."""
PROBE_POINTS, PROBE_DOUBLING, PROBE_POINTS_ROWS = 39.0, 3.1, 64
"""SST-2: the probe on the first token of 64, 256, 512 and 2,048 rows gave 55, 63, 64 and 71 %."""
PAIRS_POINTS = 3.0
"""More is lost if an encoder of single texts has to read pairs: QQP had 82.5 and 85.0 after 281 and 951
steps, QNLI 82.6 after 293 (docs/results, 120 and 300 s)."""
MEAN_POINTS, MEAN_DOUBLING, MEAN_MOST = 24.0, 2.4, 2048
"""The probe on the mean of the tokens. SST-2, 100, 300 and 3,000 rows: 69, 76 and 80 %. In a minute,
where about 1,500 rows are trained, it beats the trained encoder on five sets of six. More rows than the third
number add little: 79.2 % with 1,859 rows and 80.2 with 14,428 (docs/results). With n-grams and 5,000 rows,
such a probe has 82.0 %, and 130 steps of training 85.3 (docs/log.md, twenty-seventh session)."""
APART_POINTS, APART_DOUBLING = 20.0, 1.6
"""The probe on the two texts of a pair, read apart. QQP, 300, 1,000 and 8,000 rows: 79.5, 82.0 and 82.6 %."""
TUNED_POINTS, TUNED_STEPS, LEAST_TUNED_STEPS, TUNED_UNEVEN = 2.5, 40, 16, 2.4
"""What training adds to a probe on the mean that has read all rows. With 75 to 750 rows of SST-2, AG News, R8
and CLINC150, 20 and 40 steps with three of six layers frozen added 2 points in the mean (-0.5 to 7), steps of
the whole encoder less (a PyTorch prototype, 400 test rows each; docs/log.md, twenty-third session)."""
BATCH = 32


def points_lost(
    n_rows: float, n_distinct: int, frozen_share: float, cut_share: float, pair: bool = False
) -> float:
    """Return the expected loss in accuracy points of a trained encoder.

    `n_rows` are trained over all passes; shares are of frozen layers, and of tokens that are cut off.
    """
    n_rows = max(n_rows, 1.0)
    steps, distinct = n_rows / BATCH, min(n_rows, n_distinct) / BATCH
    trained = STEPS_POINTS / math.sqrt(steps) + ROWS_POINTS / math.sqrt(distinct)
    sooner = 1 - DEPTH_LESS * frozen_share
    lost = sooner * trained + DEPTH_POINTS * frozen_share**2 + CUT_POINTS * cut_share
    return lost + (PAIRS_POINTS if pair else 0.0)


def tuned_points_lost(n_trained: float, n_distinct: int, frozen_share: float, cut_share: float) -> float:
    """Return the expected loss of an encoder that is trained after a probe on the mean has read all rows.

    Arguments are as of `points_lost`. Fewer than `LEAST_TUNED_STEPS` steps add nothing to the probe.
    """
    steps = n_trained / BATCH
    gain = TUNED_POINTS * math.sqrt(min(1.0, steps / TUNED_STEPS)) if steps >= LEAST_TUNED_STEPS else 0.0
    even = 1 - TUNED_UNEVEN * (frozen_share - 0.5) ** 2
    return probe_points_lost(n_distinct, cut_share, "mean") - gain * even


def probe_points_lost(n_rows: int, cut_share: float = 0.0, kind: ProbeKind = "first token") -> float:
    """Return the expected loss in accuracy points of a linear probe on `n_rows` rows' features of a kind."""
    at_64, doubling, most = {
        "first token": (PROBE_POINTS, PROBE_DOUBLING, math.inf),
        "mean": (MEAN_POINTS, MEAN_DOUBLING, MEAN_MOST),
        "apart": (APART_POINTS, APART_DOUBLING, math.inf),
    }[kind]
    doublings = math.log2(min(max(n_rows, 1), most) / PROBE_POINTS_ROWS)
    return at_64 - doubling * doublings + CUT_POINTS * cut_share
