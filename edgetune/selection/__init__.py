"""Ways of choosing which examples are trained; `make_selector` builds one from its settings.

Another method is one file here, one entry in `SELECTORS`, and one name in `config.settings`. Selectors see
batches and losses, never a model. May import `utils`, `config`, `data` and `run_files`.
"""

from __future__ import annotations

import numpy as np

from edgetune.config.settings import SelectionSettings
from edgetune.selection.auto_assist import AutoAssist
from edgetune.selection.cartography import CartographyAmbiguous, CartographyHard
from edgetune.selection.ftft import Ftft
from edgetune.selection.info_batch import InfoBatch
from edgetune.selection.rho_loss import RhoLoss
from edgetune.selection.selective_backprop import SelectiveBackprop, StaleSelectiveBackprop
from edgetune.selection.selector_contract import DataShape, Method, Selector, StageChange
from edgetune.selection.simple import Random, TrainAll
from edgetune.selection.svp import Svp
from edgetune.selection.swift_learn import SwiftLearn
from edgetune.selection.three_stage import ThreeStage
from edgetune.selection.threshold import AutoThreshold, FixedThreshold
from edgetune.utils.errors import UsageError

__all__ = ["SELECTORS", "DataShape", "Selector", "StageChange", "make_selector"]

SELECTORS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        TrainAll,
        Random,
        FixedThreshold,
        AutoThreshold,
        ThreeStage,
        AutoAssist,
        Svp,
        SelectiveBackprop,
        StaleSelectiveBackprop,
        InfoBatch,
        RhoLoss,
        CartographyAmbiguous,
        CartographyHard,
        Ftft,
        SwiftLearn,
    )
}


def make_selector(settings: SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    """Build the selector that the settings name.

    Args:
        settings: the method and its numbers.
        shape: what it may know of the data.
        rng: the selector's own generator; it is drawn from and saved with the state.
    """
    factory = SELECTORS.get(settings.method)
    if factory is None:
        raise UsageError(
            f"There is no selection method {settings.method!r}; choose from {sorted(SELECTORS)}."
        )
    return factory.build(settings, shape, rng)
