"""FixedThreshold and AutoThreshold: train what the model still gets wrong.

What: every example is scored (forward only); those with `loss > threshold` are trained. The fixed
    threshold is given; the automatic one, L_low, is the mean of the last K example losses of a
    warm-up that trains everything (eq. 2, and §3.2: stage 1 to the end, no predictor). The warm-up goes
    on until those losses are well below what guessing costs: a threshold near that of a guess trains
    only what the model has wrong, and unlearns what it has right.
Use when: there is time for several passes, most examples are soon easy, and a score is cheap beside a
    train step (nothing frozen). Take the automatic threshold unless the scale of the losses is known.
Costs: one forward pass per example seen, on top of the train steps of those kept. It pays only where
    the skipped share exceeds T_s / T_u, the price of a score over the price of a train step.
Loses when: the time is short (an early model finds most examples hard, so scores are spent for
    little), labels are noisy (the wrong ones have the highest losses), or the threshold is set high:
    at 0.7 a two-class model in the paper falls to chance. On our machines train-all with the
    learning rate decayed to zero ties or wins at equal wall clock.
Source: Ouyang et al., IJCAI 2023, §3.2, eq. 2. The wait for a model that has begun to learn is ours;
    the preset `paper` does not wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.memory import LossWindow, RowSet, count_of
from edgetune.selection.selector_contract import FILTER_BACKWARD, WARMUP, DataShape, Selector
from edgetune.utils.types import BoolArray, FloatArray


def above(losses: FloatArray, threshold: float) -> BoolArray:
    """Return which losses (B,) are above the threshold."""
    over: BoolArray = np.asarray(losses, dtype=np.float64) > threshold
    return over


class FixedThresholdSettings(MethodSettings):
    """Settings of `fixed-threshold`."""

    threshold: float = Field(0.3, ge=0, description="examples whose loss (nats) is above it are trained.")


class FixedThreshold(Selector):
    """Score everything, train what is above a given loss."""

    name = "fixed-threshold"
    Settings: ClassVar[type[MethodSettings]] = FixedThresholdSettings
    _settings: FixedThresholdSettings
    is_filter = True

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return above(losses, self._settings.threshold)

    def report(self) -> dict[str, Any]:
        return {**super().report(), "threshold": self._settings.threshold}


class AutoThresholdSettings(MethodSettings):
    """Settings of `auto-threshold`."""

    paper: ClassVar[Mapping[str, Any]] = {
        "warmup_gain": 0.0,
    }

    warmup_fraction: float = Field(0.1, gt=0, le=1, description="stage 0 lasts this share of one epoch.")
    warmup_gain: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="and goes on until the last losses are this share below what guessing costs (nats, by "
        "the shares of the labels); 0: it does not wait for that.",
    )
    threshold_window: int = Field(
        128,
        ge=1,
        description="L_low is the mean of this many last example losses.",
    )
    moving_threshold: bool = Field(False, description="whether L_low follows the window after stage 0.")


class AutoThreshold(Selector):
    """Warm up on everything, then score everything and train what is above L_low.

    warmup ──(warmup_fraction of an epoch observed, loss below a guess's; L_low set)─→ filter_backward ─→ end
    """

    name = "auto-threshold"
    Settings: ClassVar[type[MethodSettings]] = AutoThresholdSettings
    _settings: AutoThresholdSettings
    is_filter = True
    first_stage = WARMUP
    saved: ClassVar[tuple[str, ...]] = (*Selector.saved, "_window", "_n_warm", "_threshold", "_unobserved")

    def __init__(self, settings: AutoThresholdSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        self._n_needed = max(1, count_of(settings.warmup_fraction, shape.n_examples))
        # so much below the loss of a guess; without a gain to wait for, any loss will do
        gain = settings.warmup_gain
        self._highest = (1 - gain) * shape.label_entropy if gain else math.inf
        self._window = LossWindow(settings.threshold_window)
        self._n_warm = 0
        self._threshold: float | None = None
        self._unobserved = RowSet()  # chosen in stage 0, their train step still to come

    @property
    def skips_scoring(self) -> bool:
        return self._threshold is None

    def choose_score(self, batch: Batch) -> BoolArray:
        self._unobserved.put(batch.rows, self.skips_scoring)
        return super().choose_score(batch)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        assert self._threshold is not None
        return above(losses, self._threshold)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        losses = np.asarray(losses, dtype=np.float64)
        late = self._unobserved.pop(batch.rows)
        if self._threshold is None:
            self._warm_up(losses)
        elif not late.all():
            fresh = ~late
            self._learn(batch.take(fresh) if late.any() else batch, losses[fresh], self._threshold)
            if self._settings.moving_threshold:
                self._window.add(losses[fresh])
                self._threshold = self._window.mean()

    def report(self) -> dict[str, Any]:
        return {**super().report(), "threshold": self._threshold}

    def _warm_up(self, losses: FloatArray) -> None:
        """Take in losses of stage 0; when there are enough, and low ones, set L_low and enter stage 1."""
        self._window.add(losses)
        self._n_warm += len(losses)
        if self._n_warm >= self._n_needed and (low := self._window.mean()) <= self._highest:
            self._threshold = low
            self._enter(
                FILTER_BACKWARD,
                f"{self._n_warm} examples observed; L_low is {low:.4f} nats over the last "
                f"{len(self._window.losses)}",
            )

    def _why_not(self) -> str | None:
        if self._threshold is not None:
            return None
        if self._n_warm < self._n_needed:
            return f"the run ended in stage 0: {self._n_warm} of {self._n_needed} examples observed"
        return (
            f"the run ended in stage 0: the mean of the last losses is {self._window.mean():.4f} nats; "
            f"{self._highest:.4f} would show that the model has begun to learn"
        )

    def _learn(self, batch: Batch, losses: FloatArray, threshold: float) -> None:
        """Learn from scored examples; the automatic threshold alone has nothing to learn."""
