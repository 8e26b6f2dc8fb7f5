"""TrainAll and Random: no loss is looked at before training.

What: `train-all` trains every example; `random` trains each one with probability `keep_rate`.
Use when: `train-all`, by default: no filter has beaten it at equal wall clock yet (docs/log.md);
    `random`, as the baseline that any filter must beat, or to cut a fixed share of the train steps.
Costs: nothing but the train steps (`random`: one seeded draw per example).
Loses when: `train-all`, if the data outlasts the time and much of it is already known; `random`, if
    the time would have sufficed for all. At equal wall clock with the learning rate decayed to zero,
    `random` is the rival every filter has to beat.
Source: Ouyang et al. 2023 (rows "TrainAll", "Random"); Li et al., Budgeted Training, ICLR 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.staged import Staged
from edgetune.utils.types import BoolArray


class TrainAll(Staged):
    """Train everything."""

    name: ClassVar[str] = "train-all"

    @classmethod
    def build(cls, settings: MethodSettings, shape: DataShape, rng: np.random.Generator) -> TrainAll:
        return cls()

    @property
    def skips_scoring(self) -> bool:
        return True


class RandomSettings(MethodSettings):
    """Settings of `random`."""

    keep_rate: float = Field(0.5, gt=0, le=1, description="an example is kept with this probability.")


class Random(Staged):
    """Train each example with one fixed probability."""

    name: ClassVar[str] = "random"
    Settings: ClassVar[type[MethodSettings]] = RandomSettings

    @classmethod
    def build(cls, settings: RandomSettings, shape: DataShape, rng: np.random.Generator) -> Random:
        return cls(settings.keep_rate, rng)

    @classmethod
    def share_trained(cls, settings: RandomSettings) -> float:
        return settings.keep_rate

    def __init__(self, keep_rate: float, rng: np.random.Generator) -> None:
        super().__init__()
        self._keep_rate = keep_rate
        self._rng = rng

    @property
    def skips_scoring(self) -> bool:
        return True

    def choose_score(self, batch: Batch) -> BoolArray:
        self.n_seen += len(batch)
        return self._rng.random(len(batch)) < self._keep_rate

    def state(self) -> dict[str, Any]:
        return {**super().state(), "rng": self._rng.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._rng.bit_generator.state = state["rng"]
