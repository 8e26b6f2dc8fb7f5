"""Ways of choosing which examples are trained; `make_selector` builds one from its settings.

Another method is one file here and nothing else: a subclass of `Selector` with a `name`, and beside it its
settings as a `MethodSettings`. The command line, `--set` and the method cards read both; the card also shows
the entries `What`, `Use when`, `Costs`, `Loses when` and `Source` of the file's docstring. Afterwards,
`python tools/docs.py` brings docs/method-cards.md up to date. Selectors see batches and losses, never a
model. May import `utils`, `config`, `data` and `run_files`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from pydantic import create_model, field_validator

from edgetune.config import settings as config
from edgetune.selection.selector_contract import DataShape, Selector, StageChange
from edgetune.utils.errors import did_you_mean
from edgetune.utils.plugins import classes_of

__all__ = [
    "FILTERS",
    "METHODS",
    "PRESETS",
    "SELECTORS",
    "DataShape",
    "SelectionSettings",
    "Selector",
    "StageChange",
    "make_selector",
]


_KINDS = {kind.name: kind for kind in classes_of(__name__, Selector, "name")}
SELECTORS = {name: _KINDS[name] for name in sorted(_KINDS, key=lambda name: (name != "train-all", name))}
METHODS = tuple(SELECTORS)
FILTERS = frozenset(name for name, kind in SELECTORS.items() if kind.is_filter)
"""Methods that score rows before they train them."""


class _KnownMethod(config.SelectionSettings):
    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        if method not in SELECTORS:
            hint = did_you_mean(method, METHODS)
            raise ValueError(f"there is no method of that name.{hint} Choose from {', '.join(METHODS)}")
        return method


def _settings() -> tuple[type[config.MethodSettings], ...]:
    """Return the settings of all methods, without those that others extend."""
    kinds = {kind.Settings for kind in SELECTORS.values()}
    last = (kind for kind in kinds if not any(kind in other.__mro__[1:] for other in kinds))
    return tuple(sorted(last, key=lambda kind: kind.__name__))


# Pydantic makes the class; a type checker knows the settings that all methods share.
SelectionSettings = cast("Any", create_model("SelectionSettings", __base__=(_KnownMethod, *_settings())))
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": {"preset": "paper"}}
for _kind in SELECTORS.values():
    PRESETS["paper"].update(_kind.Settings.paper)


def make_selector(settings: config.SelectionSettings, shape: DataShape, rng: np.random.Generator) -> Selector:
    """Build the selector that the settings name.

    Args:
        settings: the method and its numbers, a `SelectionSettings` of this module.
        shape: what it may know of the data.
        rng: the selector's own generator; it is drawn from and saved with the state.
    """
    return SELECTORS[settings.method](settings, shape, rng)
