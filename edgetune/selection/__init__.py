"""Ways of choosing which examples are trained; `make_selector` builds one from its settings.

Another method is one file here, one factory in `SELECTORS`, and one name in `config.METHODS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgetune.config import SelectionSettings
from edgetune.errors import UsageError
from edgetune.selection.base import Selector, StageChange
from edgetune.selection.everything import Random, TrainAll
from edgetune.selection.three_stage import ThreeStage
from edgetune.selection.threshold import AutoThreshold, FixedThreshold

__all__ = ["SELECTORS", "DataShape", "Selector", "StageChange", "make_selector"]


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a selector may know of the data beforehand.

    Attributes:
        n_examples: examples in one epoch.
        n_classes: labels are below this.
        vocab_size: token ids are below this.
    """

    n_examples: int
    n_classes: int
    vocab_size: int


class Factory(Protocol):
    """Builds a selector."""

    def __call__(
        self, settings: SelectionSettings, shape: DataShape, rng: np.random.Generator
    ) -> Selector: ...


def _train_all(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    return TrainAll()


def _random(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    return Random(settings.keep_rate, rng)


def _fixed_threshold(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    return FixedThreshold(settings.threshold)


def _auto_threshold(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    return AutoThreshold(settings, n_examples=shape.n_examples)


def _three_stage(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    return ThreeStage(
        settings,
        n_examples=shape.n_examples,
        n_classes=shape.n_classes,
        vocab_size=shape.vocab_size,
        rng=rng,
    )


SELECTORS: dict[str, Factory] = {
    TrainAll.name: _train_all,
    Random.name: _random,
    FixedThreshold.name: _fixed_threshold,
    AutoThreshold.name: _auto_threshold,
    ThreeStage.name: _three_stage,
}


def make_selector(
    settings: SelectionSettings,
    *,
    n_examples: int,
    n_classes: int,
    vocab_size: int,
    rng: np.random.Generator,
) -> Selector:
    """Build the selector that the settings name.

    Args:
        settings: the method and its numbers.
        n_examples: examples in one epoch, the unit of `warmup_fraction`.
        n_classes: labels are below this.
        vocab_size: token ids are below this.
        rng: the selector's own generator; it is drawn from and saved with the state.
    """
    factory = SELECTORS.get(settings.method)
    if factory is None:
        raise UsageError(
            f"There is no selection method {settings.method!r}; choose from {sorted(SELECTORS)}."
        )
    return factory(settings, DataShape(n_examples, n_classes, vocab_size), rng)
