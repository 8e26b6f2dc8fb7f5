"""InfoBatch: each pass leaves out a random half of the rows it finds easy, and weighs the other half double.

What: a row's score is the loss of its last train step. When a pass begins, rows whose score is below the
    mean of all known scores are left out with probability `prune_rate`, each drawn by itself (the
    released code keeps an exact count); those of them that stay are trained with their losses multiplied
    by `1 / (1 - prune_rate)`, so that the expected gradient is that of all rows. Rows without a score
    are trained. The last `full_rate` of the run trains on everything, unweighted. A chosen row keeps its
    weight while it waits in a queue, also past the pass's end: only its next choice replaces it.
Use when: the data is passed over several times; it is the mildest filter and pays for no forward pass.
Costs: nothing but the train steps, one draw per easy row and pass, and 7 bytes per row.
Loses when: there is one pass or less: nothing has a score before its first train step, so nothing is left
    out. Scores are as old as the row's last train step, which may lie several passes back.
Source: Qin et al., InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, ICLR 2024
    (arXiv 2303.04947).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.memory import RowLosses, RowTable
from edgetune.selection.selector_contract import DataShape, Selector
from edgetune.utils.types import BoolArray, FloatArray


def below_mean(losses: FloatArray) -> BoolArray:
    """Return which losses (n,) are below their mean; none, of equal losses."""
    if not len(losses):
        return np.zeros(0, dtype=np.bool_)
    # Sums of float32 values are exact enough in float64 that the mean of equal losses is that loss.
    wide = losses.astype(np.float64)
    return np.asarray(wide < wide.mean())


class InfoBatchSettings(MethodSettings):
    """Settings of `info-batch`."""

    prune_rate: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the examples with a loss below the mean that is left out.",
    )
    full_rate: float = Field(
        0.125,
        ge=0,
        le=1,
        description="everything is trained for this last share of the run.",
    )


class InfoBatch(Selector):
    """Leave out half of the rows below the mean loss, drawn anew each pass, and weigh the rest of them up."""

    name = "info-batch"
    Settings: ClassVar[type[MethodSettings]] = InfoBatchSettings
    _settings: InfoBatchSettings
    saved = (*Selector.saved, "_losses", "_pruned", "_raised", "_heavy", "_n_pruned", "_rng")

    def __init__(self, settings: InfoBatchSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._losses = RowLosses()
        self._pruned = RowTable(False, np.bool_)  # left out of this pass
        self._raised = RowTable(False, np.bool_)  # below the mean, yet in this pass
        self._heavy = RowTable(False, np.bool_)  # weighed up when it was last chosen
        self._n_pruned = 0

    def on_batch_start(self, progress: float, epoch: int) -> None:
        pass_begins = epoch != self.epoch
        super().on_batch_start(progress, epoch)
        if pass_begins:
            self._draw()

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        if self.progress >= 1 - self._settings.full_rate:
            self._heavy.put(batch.rows, False)
            return everything
        kept = ~self._pruned.get(batch.rows)
        chosen = batch.rows[kept]
        self._heavy.put(chosen, self._raised.get(chosen))
        self._n_pruned += len(batch) - len(chosen)
        return kept

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        heavy = self._heavy.get(batch.rows)
        if not heavy.any():
            return None
        return np.where(heavy, 1 / (1 - self._settings.prune_rate), 1.0)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        self._losses.measure(batch.rows, losses)

    def report(self) -> dict[str, Any]:
        """Add `n_pruned`: how often a row was left out of a pass."""
        return {**super().report(), "n_pruned": self._n_pruned}

    def _draw(self) -> None:
        """Decide for the whole pass: which rows below the mean are left out, which are weighed up."""
        rows, losses = self._losses.measured()
        easy = rows[below_mean(losses)]
        out = self._rng.random(len(easy)) < self._settings.prune_rate
        self._pruned, self._raised = RowTable(False, np.bool_), RowTable(False, np.bool_)
        self._pruned.put(easy[out], True)
        self._raised.put(easy[~out], True)
