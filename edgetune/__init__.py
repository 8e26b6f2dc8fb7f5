"""Finetune a text classifier on the machine you have, in the time you have.

from edgetune import finetune, load_run, plan
print(plan("reviews.csv", deadline="10m").reasons)
result = finetune("reviews.csv", deadline="10m")
load_run(result.run_dir).predict(["the battery died in a day"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgetune.planning.ahead import plan
    from edgetune.profiles.measure import measure_profile
    from edgetune.result import RunResult
    from edgetune.run import finetune, resume
    from edgetune.saved import Prediction, Run, load_run

__all__ = [
    "Prediction",
    "Run",
    "RunResult",
    "__version__",
    "finetune",
    "load_run",
    "measure_profile",
    "plan",
    "resume",
]

_HOMES = {
    "finetune": "edgetune.run",
    "resume": "edgetune.run",
    "plan": "edgetune.planning.ahead",
    "measure_profile": "edgetune.profiles.measure",
    "RunResult": "edgetune.result",
    "load_run": "edgetune.saved",
    "Run": "edgetune.saved",
    "Prediction": "edgetune.saved",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `edgetune --help` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgetune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
