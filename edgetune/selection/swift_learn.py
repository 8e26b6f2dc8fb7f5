"""SwiftLearn: train on the few rows that matter most, and measure all of them again now and then.

What: a row's importance is its last measured loss. The first pass is warm-up: it trains everything, and
    its train steps measure. Then only the top `top_rate` of the measured rows are trained, the same ones
    pass after pass, until a refresh: every `refresh_epochs` passes all rows are scored, those above the
    cut are trained at once, and the next pass begins with a new top share, so that rows can return. The
    cut is the lowest loss of the top share; in a refresh it is taken anew as fresh losses replace the
    old. A row that was never measured is trained, which measures it.
Use when: the data is passed over many times and most of it is redundant.
Costs: a full first pass; then `top_rate` of the train steps, a forward pass per row in every refresh, and
    5 bytes per row.
Loses when: there are few passes (in one nothing is dropped at all), labels are noisy (a tenth by loss can
    be mostly wrong labels), or the tenth is overfitted between two refreshes.
Source: Hajimolahoseini et al., SwiftLearn, arXiv 2311.15134.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.memory import RowLosses, RowTable, top
from edgetune.selection.selector_contract import SUBSET, WARMUP, DataShape, Selector
from edgetune.utils.types import BoolArray, FloatArray

CUTS_PER_REFRESH = 32
"""How often a refresh takes its cut anew; each time sorts all losses, so it cannot be every batch."""


class SwiftLearnSettings(MethodSettings):
    """Settings of `swift-learn`."""

    top_rate: float = Field(0.1, gt=0, le=1, description="share of all rows that is trained.")
    refresh_epochs: int = Field(3, ge=1, description="everything is measured again after so many passes.")


class SwiftLearn(Selector):
    """Train on the tenth of the rows with the highest loss; measure all rows again every few passes.

    warmup ──(second pass begins)─→ subset ─→ end
    """

    name = "swift-learn"
    Settings: ClassVar[type[MethodSettings]] = SwiftLearnSettings
    _settings: SwiftLearnSettings
    first_stage = WARMUP
    saved = (*Selector.saved, "_losses", "_chosen", "_cut", "_n_measured", "_n_kept", "_n_since_cut")

    def __init__(self, settings: SwiftLearnSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._losses = RowLosses()
        self._chosen = RowTable(False, np.bool_)
        self._cut: float | None = None
        self._n_measured = self._n_kept = 0  # when the top share was last taken
        self._n_since_cut = 0  # losses measured since, in a refresh

    @property
    def skips_scoring(self) -> bool:
        return not self._refreshing

    @property
    def _refreshing(self) -> bool:
        return self.stage == SUBSET and self._measures(self.epoch)

    def _measures(self, epoch: int) -> bool:
        """Return whether a pass measures all rows: the first one and every refresh."""
        return (max(epoch, 1) - 1) % self._settings.refresh_epochs == 0

    def on_batch_start(self, progress: float, epoch: int) -> None:
        left = self.epoch
        super().on_batch_start(progress, epoch)
        if epoch < 2 or epoch == left:
            return
        if self._measures(left) or self._measures(epoch) or self._cut is None:
            self._take_top()
        if self.stage == WARMUP:
            self._enter(SUBSET, self._what_was_taken())

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        if self.stage == WARMUP or self._refreshing:
            return everything
        chosen: BoolArray = self._chosen.get(batch.rows) | ~self._losses.known(batch.rows)
        return chosen

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return self._above_cut(losses)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        if self.stage == SUBSET:
            # Its first loss came after the top share was taken: it is in if the loss would have been.
            late = ~self._losses.known(batch.rows)
            self._chosen.put(batch.rows[late], self._above_cut(losses[late]))
        self._losses.measure(batch.rows, losses)
        if self._refreshing:
            self._n_since_cut += len(batch)
            if self._n_since_cut * CUTS_PER_REFRESH >= max(1, self._n_measured):
                self._take_top()

    def report(self) -> dict[str, Any]:
        """Add `n_measured` and `n_kept` as of when the top share was last taken; the threshold is its cut."""
        return {
            **super().report(),
            "threshold": self._cut,
            "n_measured": self._n_measured,
            "n_kept": self._n_kept,
        }

    def _why_not(self) -> str | None:
        return None if self.stage == SUBSET else "the data was seen only once, so no row was dropped"

    def _above_cut(self, losses: FloatArray) -> BoolArray:
        """Return which losses (B,) are in the top share; all of them while nothing was measured."""
        if self._cut is None:
            return np.ones(len(losses), dtype=np.bool_)
        # As float32, as the loss that the cut is: otherwise that row itself could fall below it.
        above: BoolArray = np.asarray(losses, dtype=np.float32) >= np.float32(self._cut)
        return above

    def _take_top(self) -> None:
        """Take the top share of the measured rows by their last loss, and its lowest loss as the cut."""
        rows, losses = self._losses.measured()
        taken = top(losses, self._settings.top_rate)
        self._chosen = RowTable(False, np.bool_)
        self._chosen.put(rows[taken], True)
        self._cut = float(losses[taken].min()) if len(taken) else None
        self._n_measured, self._n_kept, self._n_since_cut = len(rows), len(taken), 0

    def _what_was_taken(self) -> str:
        if self._cut is None:
            return f"pass {self.epoch} begins; no row has been measured yet"
        return f"{self._n_kept} of {self._n_measured} measured rows kept, loss >= {self._cut:.4f} nats"
