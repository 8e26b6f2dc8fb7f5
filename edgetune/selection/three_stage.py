"""ThreeStage: first skip backward passes, then, once words tell hard from easy, forward passes too.

What: stage 0 trains everything and sets L_low (eq. 2). Stage 1 scores everything, trains
    `loss > L_low`, and teaches the meta predictor y' = 1[loss > L_low]. Once the predictor's log loss
    (eq. 4), a mean over the last W scored batches, is at most ALT, stage 2 scores only what the
    predictor calls hard, and a small random share of what it calls easy (exploration). It calls so many hard
    that `recall` of the hard ones are among them, by what exploration shows. A calibrated
    predictor must also beat the log loss of knowing only the share of hard examples: when that share
    is a third, a predictor that has learned nothing already scores 0.64.
Use when: there is time for several passes over a set with many easy examples, and the words tell which
    ones those are (redundant data, plain topics); or to repeat the paper, with the preset `paper`.
Costs: a forward pass per example scored, the train steps of those kept, and well under 1 ms per batch
    for the predictor, which stage 2 asks and teaches about four batches at once. Examples predicted easy cost
    the prediction alone.
Loses when: the predictor cannot tell (its loss stays above ALT: then this is AutoThreshold, which
    `report()` says), data is seen for a few passes only, or labels are noisy. The exploration's
    `explored_hard_rate` is the share of the predicted-easy examples that should have been trained.
Source: Ouyang et al., IJCAI 2023, §3, eqs. 2 and 4. Exploration, calibration, the recall
    that is asked for, the comparison before fitting and the wait for a model that has begun to learn are
    ours; the preset `paper` turns them off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.meta_predictor import Audit, MetaPredictor
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.staged import FILTER_BACKWARD, FILTER_FORWARD, RowSet
from edgetune.selection.threshold import AutoThreshold, AutoThresholdSettings
from edgetune.utils.types import BoolArray, FloatArray

LEAST_GAIN = 0.02
"""A calibrated predictor must beat the log loss of the hard share alone by this much; noise does less."""

AT_ONCE = 4
"""Batches that stage 2 asks and teaches the predictor about at once: a call costs more than its rows do."""


class LossCurve:
    """The predictor's loss per scored batch: the last W for the comparison, a thinned past to plot."""

    _MOST_POINTS = 128

    def __init__(self, window: int) -> None:
        self.window = window
        self._last: deque[float] = deque(maxlen=window)
        self._points: list[tuple[int, float]] = []
        self._every = 1
        self.n_batches = 0

    @property
    def full(self) -> bool:
        """Whether W batches were scored."""
        return len(self._last) == self.window

    @property
    def mean(self) -> float | None:
        """Mean log loss (nats) over the last W batches, or over fewer while there are fewer."""
        return float(np.mean(self._last)) if self._last else None

    @property
    def points(self) -> list[list[float]]:
        """At most 128 pairs of scored batch number and window mean."""
        return [[n, mean] for n, mean in self._points]

    def add(self, loss: float) -> None:
        self._last.append(loss)
        self.n_batches += 1
        if self.n_batches % self._every == 0:
            self._points.append((self.n_batches, float(np.mean(self._last))))
        if len(self._points) == self._MOST_POINTS:
            self._points = self._points[1::2]
            self._every *= 2

    def state(self) -> dict[str, Any]:
        return {
            "last": list(self._last),
            "points": self.points,
            "every": self._every,
            "n_batches": self.n_batches,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._last = deque(state["last"], maxlen=self.window)
        self._points = [(int(n), float(mean)) for n, mean in state["points"]]
        self._every = int(state["every"])
        self.n_batches = int(state["n_batches"])


class ThreeStageSettings(AutoThresholdSettings):
    """Settings of `three-stage`."""

    paper: ClassVar[Mapping[str, Any]] = {
        **AutoThresholdSettings.paper,
        "features": "tokens",
        "calibrated": False,
        "recall": 0.0,
        "alt": 0.5,
        "alt_window": 8,
        "alt_after_fit": True,
        "explore_rate": 0.0,
    }

    features: Literal["tokens", "hashed"] = Field(
        "hashed",
        description="what the meta predictor sees: `tokens`, or hashed tokens with length and label.",
    )
    calibrated: bool = Field(
        True,
        description="whether the predictor's log odds are scaled to be probabilities.",
    )
    recall: float = Field(
        0.8,
        ge=0,
        le=1,
        description="stage 2 calls so many examples hard that this share of the hard ones is among them; "
        "0, or with nothing explored: those that are likelier hard than not.",
    )
    alt: float = Field(
        0.69,
        gt=0,
        description="stage 1 ends when the predictor's mean log loss (nats) is at most this.",
    )
    alt_window: int = Field(16, ge=1, description="over how many scored batches that mean is taken (W).")
    alt_after_fit: bool = Field(
        False,
        description="compare the loss on a batch after fitting it (else before: test, then train).",
    )
    explore_rate: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of predicted-easy examples that are scored anyway.",
    )


class ThreeStage(AutoThreshold):
    """Warm up; skip backward passes; skip forward passes.

    warmup ──(L_low set)─→ filter_backward ──(predictor loss <= ALT over W batches)─→ filter_forward
    """

    name: ClassVar[str] = "three-stage"
    Settings: ClassVar[type[MethodSettings]] = ThreeStageSettings

    @classmethod
    def build(cls, settings: Any, shape: DataShape, rng: np.random.Generator) -> ThreeStage:
        return cls(settings, shape, rng)

    def __init__(self, settings: ThreeStageSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape)
        self._predictor = _predictor(settings, shape)
        self._curve = LossCurve(settings.alt_window)
        self._base_curve = LossCurve(settings.alt_window)
        self._must_beat_base = settings.calibrated
        self._alt = settings.alt
        self._alt_after_fit = settings.alt_after_fit
        self._explore_rate = settings.explore_rate
        self._at_once = AT_ONCE * shape.batch_size
        self._rng = rng
        self._explored = RowSet()  # predicted easy in stage 2, scored anyway, loss still to come
        self._audit = Audit()

    @property
    def lookahead(self) -> int:
        return self._at_once if self.stage == FILTER_FORWARD else 1

    @property
    def decision_size(self) -> int:
        return self.lookahead

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        if self.stage != FILTER_FORWARD:
            return everything
        hard = self._predictor.predict(batch)
        explored = ~hard & (self._rng.random(len(batch)) < self._explore_rate)
        self._explored.put(batch.rows, explored)
        return hard | explored

    def report(self) -> dict[str, Any]:
        reached = self.stage == FILTER_FORWARD
        plain = super().report()
        return {
            **plain,
            "reached_last_stage": reached,
            "why": self._why_not() if self.stage == FILTER_BACKWARD else plain["why"],
            "predictor_loss": self._curve.mean,
            "predictor_base_loss": self._base_curve.mean,
            "predictor_losses": self._curve.points,
            **self._audit.report(self._explore_rate),
        }

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "predictor": self._predictor.state(),
            "curve": self._curve.state(),
            "base_curve": self._base_curve.state(),
            "explored": self._explored.to_array(),
            "audit": self._audit.state(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._predictor.load_state(state["predictor"])
        self._curve.load_state(state["curve"])
        self._base_curve.load_state(state["base_curve"])
        self._explored.fill(np.asarray(state["explored"]))
        self._audit = Audit(**state["audit"])
        self._rng.bit_generator.state = state["rng"]

    def _learn(self, batch: Batch, losses: FloatArray, threshold: float) -> None:
        """Teach the predictor, keep its audit, and enter stage 2 when its loss allows."""
        hard = losses > threshold
        explored = self._explored.pop(batch.rows)
        # An explored row stands for all those that were skipped, of which it is a random sample.
        weights = np.where(explored, 1 / self._explore_rate, 1.0) if explored.any() else np.ones(len(batch))
        lesson = self._predictor.learn(batch, hard, weights, after_fit=self._alt_after_fit)
        self._curve.add(lesson.loss)
        self._base_curve.add(lesson.base_loss)
        if self.stage == FILTER_FORWARD:
            self._audit.stage_two(explored, hard)
        else:
            self._audit.stage_one(lesson.called_hard, hard)
            self._leave_stage_one()

    def _leave_stage_one(self) -> None:
        loss, base = self._curve.mean, self._base_curve.mean
        if loss is None or base is None or not self._curve.full:
            return
        if loss <= self._alt and (not self._must_beat_base or loss <= base * (1 - LEAST_GAIN)):
            reason = f"predictor loss {loss:.4f} <= ALT {self._alt:.4f} over {self._curve.window} batches"
            self._enter(FILTER_FORWARD, reason)

    def _why_not(self) -> str:
        """Say why stage 1 was not left."""
        loss, base = self._curve.mean, self._base_curve.mean
        if loss is None or base is None or not self._curve.full:
            return f"only {self._curve.n_batches} of {self._curve.window} batches were scored in stage 1"
        last = f"over the last {self._curve.window} batches"
        if loss > self._alt:
            return f"predictor loss {loss:.4f} > ALT {self._alt:.4f} {last}"
        share = f"{base:.4f}, the loss of predicting the share of hard rows"
        return f"predictor loss {loss:.4f} is not {LEAST_GAIN:.0%} below {share}, {last}"


def _predictor(settings: ThreeStageSettings, shape: DataShape) -> MetaPredictor:
    """Build the meta predictor of the settings, with nothing learned."""
    calibrated = settings.calibrated
    recall = settings.recall if settings.explore_rate else 0.0  # else nobody knows what is missed
    if settings.features == "tokens":
        return MetaPredictor.over_tokens(shape.vocab_size, calibrated=calibrated, recall=recall)
    return MetaPredictor.over_hashes(shape.n_classes, calibrated=calibrated, recall=recall)
