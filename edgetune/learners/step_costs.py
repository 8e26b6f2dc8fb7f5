"""What a row would have cost without a filter, by the run's own train steps.

By length, since a filter keeps other lengths than it is shown; and over the whole run, since machines drift.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgetune.utils.types import FloatArray, IntArray


@dataclass
class StepCosts:
    """Rows and seconds of train steps by length bucket, of those steps that cost what unfiltered ones do.

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

    def state(self) -> dict[str, Any]:
        """Return the arrays by name."""
        return asdict(self)
