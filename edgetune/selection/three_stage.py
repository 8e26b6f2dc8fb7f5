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

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.features import HashedFeatures, TokenFeatures
from edgetune.selection.memory import LossCurve, RowSet
from edgetune.selection.meta_predictor import Audit, MetaPredictor
from edgetune.selection.naive_bayes import BernoulliNaiveBayes, NaiveBayes, PooledNaiveBayes
from edgetune.selection.selector_contract import FILTER_BACKWARD, FILTER_FORWARD, DataShape
from edgetune.selection.threshold import AutoThreshold, AutoThresholdSettings
from edgetune.utils.types import BoolArray, FloatArray

LEAST_GAIN = 0.02
"""A calibrated predictor must beat the log loss of the hard share alone by this much; noise does less."""

AT_ONCE = 4
"""Batches that stage 2 asks and teaches the predictor about at once: a call costs more than its rows do."""


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

    name = "three-stage"
    Settings: ClassVar[type[MethodSettings]] = ThreeStageSettings
    _settings: ThreeStageSettings
    saved = (*AutoThreshold.saved, "_predictor", "_curve", "_base_curve", "_explored", "_audit", "_rng")

    def __init__(self, settings: ThreeStageSettings, shape: DataShape, rng: np.random.Generator) -> None:
        super().__init__(settings, shape, rng)
        tokens = settings.features == "tokens"
        space = TokenFeatures(shape.vocab_size) if tokens else HashedFeatures(shape.n_classes)
        kind: type[NaiveBayes] = BernoulliNaiveBayes if tokens else PooledNaiveBayes
        recall = settings.recall if settings.explore_rate else 0.0  # else nobody knows what is missed
        bayes, calibrated = kind(space.n_features), settings.calibrated
        self._predictor = MetaPredictor(space, bayes, calibrated=calibrated, recall=recall)
        self._curve = LossCurve(settings.alt_window)
        self._base_curve = LossCurve(settings.alt_window)
        self._explored = RowSet()  # predicted easy in stage 2, scored anyway, loss still to come
        self._audit = Audit()

    @property
    def lookahead(self) -> int:
        return AT_ONCE * self._shape.batch_size if self.stage == FILTER_FORWARD else 1

    def choose_score(self, batch: Batch) -> BoolArray:
        everything = super().choose_score(batch)
        if self.stage != FILTER_FORWARD:
            return everything
        hard = self._predictor.predict(batch)
        explored = ~hard & (self._rng.random(len(batch)) < self._settings.explore_rate)
        self._explored.put(batch.rows, explored)
        return hard | explored

    def report(self) -> dict[str, Any]:
        return {
            **super().report(),
            "predictor_loss": self._curve.mean,
            "predictor_base_loss": self._base_curve.mean,
            "predictor_losses": list(self._curve.points),
            **self._audit.report(self._settings.explore_rate),
        }

    def _learn(self, batch: Batch, losses: FloatArray, threshold: float) -> None:
        """Teach the predictor, keep its audit, and enter stage 2 when its loss allows."""
        hard = losses > threshold
        explored = self._explored.pop(batch.rows)
        # An explored row stands for all those that were skipped, of which it is a random sample.
        weights = np.ones(len(batch))
        if explored.any():
            weights[explored] = 1 / self._settings.explore_rate
        lesson = self._predictor.learn(batch, hard, weights, after_fit=self._settings.alt_after_fit)
        self._curve.add(lesson.loss)
        self._base_curve.add(lesson.base_loss)
        if self.stage == FILTER_FORWARD:
            self._audit.count(explored, hard, in_stage_two=True)
            return
        self._audit.count(~lesson.called_hard, hard, in_stage_two=False)
        if self._why_not() is None:
            figures = f"{self._curve.mean:.4f} <= ALT {self._settings.alt:.4f}"
            self._enter(FILTER_FORWARD, f"predictor loss {figures} over {self._curve.window} batches")

    def _why_not(self) -> str | None:
        if self.stage != FILTER_BACKWARD:
            return super()._why_not()
        loss, base = self._curve.mean, self._base_curve.mean
        if loss is None or base is None or not self._curve.full:
            return f"only {self._curve.n_batches} of {self._curve.window} batches were scored in stage 1"
        last = f"over the last {self._curve.window} batches"
        if loss > self._settings.alt:
            return f"predictor loss {loss:.4f} > ALT {self._settings.alt:.4f} {last}"
        if self._settings.calibrated and loss > base * (1 - LEAST_GAIN):
            share = f"{base:.4f}, the loss of predicting the share of hard rows"
            return f"predictor loss {loss:.4f} is not {LEAST_GAIN:.0%} below {share}, {last}"
        return None
