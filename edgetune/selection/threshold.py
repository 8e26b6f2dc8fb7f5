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
from edgetune.selection.row_table import count_of
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.staged import FILTER_BACKWARD, WARMUP, RowSet, Staged
from edgetune.utils.types import BoolArray, FloatArray


def above(losses: FloatArray, threshold: float | None) -> BoolArray:
    """Return which losses (B,) are above the threshold; all of them while there is none."""
    if threshold is None:
        return np.ones(len(losses), dtype=np.bool_)
    over: BoolArray = np.asarray(losses, dtype=np.float64) > threshold
    return over


def warmup_examples(warmup_fraction: float, n_examples: int) -> int:
    """Return after how many observed examples stage 0 ends: a share of one epoch, at least one."""
    return max(1, count_of(warmup_fraction, n_examples))


def highest_threshold(warmup_gain: float, label_entropy: float) -> float:
    """Return the mean loss (nats) at which stage 0 may end: so much below a guess's; infinite for no gain."""
    return (1 - warmup_gain) * label_entropy if warmup_gain else math.inf


class LossWindow:
    """The last K example losses (nats); their mean is L_low, eq. 2."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._losses: FloatArray = np.zeros(0, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, losses: FloatArray) -> None:
        """Take in losses (B,), newest last."""
        self._losses = np.concatenate([self._losses, np.asarray(losses, np.float64)])[-self.size :]

    def mean(self) -> float:
        """Return L_low; of fewer than K losses while there are fewer."""
        return float(self._losses.mean())

    def to_array(self) -> FloatArray:
        """Return the losses in the window, oldest first."""
        return np.array(self._losses)


class FixedThresholdSettings(MethodSettings):
    """Settings of `fixed-threshold`."""

    threshold: float = Field(0.3, ge=0, description="examples whose loss (nats) is above it are trained.")


class FixedThreshold(Staged):
    """Score everything, train what is above a given loss."""

    name: ClassVar[str] = "fixed-threshold"
    Settings: ClassVar[type[MethodSettings]] = FixedThresholdSettings
    is_filter: ClassVar[bool] = True

    @classmethod
    def build(
        cls, settings: FixedThresholdSettings, shape: DataShape, rng: np.random.Generator
    ) -> FixedThreshold:
        return cls(settings.threshold)

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self._threshold = threshold

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return above(losses, self._threshold)

    def report(self) -> dict[str, Any]:
        return {**super().report(), "threshold": self._threshold}


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


class AutoThreshold(Staged):
    """Warm up on everything, then score everything and train what is above L_low.

    warmup ──(warmup_fraction of an epoch observed, loss below a guess's; L_low set)─→ filter_backward ─→ end
    """

    name: ClassVar[str] = "auto-threshold"
    Settings: ClassVar[type[MethodSettings]] = AutoThresholdSettings
    is_filter: ClassVar[bool] = True

    @classmethod
    def build(
        cls, settings: AutoThresholdSettings, shape: DataShape, rng: np.random.Generator
    ) -> AutoThreshold:
        return cls(settings, shape)

    def __init__(self, settings: AutoThresholdSettings, shape: DataShape) -> None:
        super().__init__(WARMUP)
        self._n_needed = warmup_examples(settings.warmup_fraction, shape.n_examples)
        self._highest = highest_threshold(settings.warmup_gain, shape.label_entropy)
        self._moving = settings.moving_threshold
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
        return above(losses, self._threshold)

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        losses = np.asarray(losses, dtype=np.float64)
        late = self._unobserved.pop(batch.rows)
        if self._threshold is None:
            self._warm_up(losses)
        elif not late.all():
            fresh = ~late
            self._learn(batch.take(fresh) if late.any() else batch, losses[fresh], self._threshold)
            if self._moving:
                self._window.add(losses[fresh])
                self._threshold = self._window.mean()

    def report(self) -> dict[str, Any]:
        return {
            **super().report(),
            "threshold": self._threshold,
            "reached_last_stage": self._threshold is not None,
            "why": self._why_warm() if self._threshold is None else None,
        }

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "window": self._window.to_array(),
            "n_warm": self._n_warm,
            "threshold": self._threshold,
            "unobserved": self._unobserved.to_array(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._window = LossWindow(self._window.size)
        self._window.add(np.asarray(state["window"]))
        self._n_warm = int(state["n_warm"])
        self._threshold = None if state["threshold"] is None else float(state["threshold"])
        self._unobserved.fill(np.asarray(state["unobserved"]))

    def _warm_up(self, losses: FloatArray) -> None:
        """Take in losses of stage 0; when there are enough, and low ones, set L_low and enter stage 1."""
        self._window.add(losses)
        self._n_warm += len(losses)
        if self._n_warm < self._n_needed:
            return
        if (low := self._window.mean()) <= self._highest:
            self._threshold = low
            self._enter(
                FILTER_BACKWARD,
                f"{self._n_warm} examples observed; L_low is {low:.4f} nats over the last "
                f"{len(self._window)}",
            )

    def _why_warm(self) -> str:
        """Say why stage 0 was not left."""
        if self._n_warm < self._n_needed:
            return f"the run ended in stage 0: {self._n_warm} of {self._n_needed} examples observed"
        return (
            f"the run ended in stage 0: the mean of the last losses is {self._window.mean():.4f} nats; "
            f"{self._highest:.4f} would show that the model has begun to learn"
        )

    def _learn(self, batch: Batch, losses: FloatArray, threshold: float) -> None:
        """Learn from scored examples; the automatic threshold alone has nothing to learn."""
