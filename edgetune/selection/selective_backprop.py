"""Selective-Backprop: train a row with a probability that rises with the rank of its loss.

What: `P(train) = percentile ** beta`, where the percentile is the share of the last `loss_window` losses that
    are at most the row's own. As in the original, the rows asked about enter the window first and are looked
    up then. Unlike the original, which counts only smaller losses, equal ones count too, so the highest loss
    of a window is always trained. `selective-backprop` scores every row. `selective-backprop-stale` scores in
    every `stale_epochs`-th pass, from the first on; in the passes between, a row is drawn by its last known
    loss without being scored, and a train step refreshes that loss at no cost. A row without a known loss is
    trained.
Use when: many rows are already learnt, a score is much cheaper than a train step, and labels are clean;
    the stale variant, where the data is passed over several times.
Costs: one forward pass per row seen, besides the train steps of those drawn; with beta 3 and distinct
    losses a quarter is drawn. The stale variant pays the forward passes in one of `stale_epochs` passes,
    and 4 bytes per row.
Loses when: labels are noisy (wrong ones rank highest in every pass), or time is short: a rank is relative,
    so of rows that are all still hard three quarters are scored and then skipped. Stale losses miss rows
    that were forgotten since.
Source: Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019 (arXiv 1910.00762).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.memory import LossWindow, RowLosses
from edgetune.selection.selector_contract import DataShape, Selector
from edgetune.utils.types import BoolArray, FloatArray


def percentiles(losses: FloatArray, window: FloatArray) -> FloatArray:
    """Return for each loss (B,) the share, in [0, 1], of the window's losses (K,) that are at most it."""
    n_at_most = np.searchsorted(np.sort(window), losses, side="right")
    return np.asarray(n_at_most / max(1, len(window)), dtype=np.float64)


class SelectiveBackpropSettings(MethodSettings):
    """Settings of `selective-backprop`."""

    beta: float = Field(
        3.0,
        ge=0,
        description="an example is trained with probability (percentile of its loss) ** beta.",
    )
    loss_window: int = Field(1024, ge=1, description="over how many last losses that percentile is taken.")


class SelectiveBackprop(Selector):
    """Score everything, train each row with probability (percentile of its loss) ** beta."""

    name = "selective-backprop"
    Settings: ClassVar[type[MethodSettings]] = SelectiveBackpropSettings
    _settings: SelectiveBackpropSettings
    is_filter = True
    saved: ClassVar[tuple[str, ...]] = (*Selector.saved, "_window", "_rng")

    def __init__(self, settings: Any, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._window = LossWindow(settings.loss_window)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return self._draw(losses)

    def _draw(self, losses: FloatArray) -> BoolArray:
        """Take the losses (B,) into the window, then draw each of them by its rank there."""
        # As float32, as a row's loss is kept: otherwise a loss would not equal itself a pass later.
        losses = np.asarray(losses, dtype=np.float32)
        self._window.add(losses)
        chances = percentiles(losses, self._window.losses) ** self._settings.beta
        return self._rng.random(len(losses)) < chances


class StaleSelectiveBackpropSettings(SelectiveBackpropSettings):
    """Settings of `selective-backprop-stale`."""

    stale_epochs: int = Field(3, ge=1, description="an example's loss is used for so many passes.")


class StaleSelectiveBackprop(SelectiveBackprop):
    """Selective-Backprop that scores in one pass and draws by those losses in the next ones too."""

    name = "selective-backprop-stale"
    Settings: ClassVar[type[MethodSettings]] = StaleSelectiveBackpropSettings
    _settings: StaleSelectiveBackpropSettings
    saved = (*SelectiveBackprop.saved, "_losses", "_n_drawn_stale")

    def __init__(self, settings: Any, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._losses = RowLosses()
        self._n_drawn_stale = 0  # rows decided on by an old loss, whether they were taken or not

    @property
    def skips_scoring(self) -> bool:
        """Whether this is a pass that scores nothing; before the first pass, it is one that does."""
        return (max(self.epoch, 1) - 1) % self._settings.stale_epochs != 0

    def choose_score(self, batch: Batch) -> BoolArray:
        chosen = super().choose_score(batch)
        if self.skips_scoring:
            stored = self._losses.get(batch.rows)
            known = ~np.isnan(stored)
            # Also the rows that are then skipped enter the window: it stays a sample of all rows.
            chosen[known] = self._draw(stored[known])
            self._n_drawn_stale += int(known.sum())
        return chosen

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        self._losses.measure(batch.rows, losses)

    def report(self) -> dict[str, Any]:
        return {**super().report(), "n_drawn_stale": self._n_drawn_stale}
