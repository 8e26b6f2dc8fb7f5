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

from typing import ClassVar

from pydantic import Field

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch
from edgetune.selection.selector_contract import Selector
from edgetune.utils.types import BoolArray


class TrainAll(Selector):
    """Train everything."""

    name = "train-all"


class RandomSettings(MethodSettings):
    """Settings of `random`."""

    keep_rate: float = Field(0.5, gt=0, le=1, description="an example is kept with this probability.")


class Random(Selector):
    """Train each example with one fixed probability."""

    name = "random"
    Settings: ClassVar[type[MethodSettings]] = RandomSettings
    _settings: RandomSettings
    saved = (*Selector.saved, "_rng")

    @classmethod
    def share_trained(cls, settings: RandomSettings) -> float:
        return settings.keep_rate

    def choose_score(self, batch: Batch) -> BoolArray:
        self.n_seen += len(batch)
        return self._rng.random(len(batch)) < self._settings.keep_rate
