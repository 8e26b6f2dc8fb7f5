"""Finetune a text classifier on the machine you have, in the time you have.

from edgetune import finetune, load_run, plan
print(plan("reviews.csv", deadline="10m").reasons)
result = finetune("reviews.csv", deadline="10m")
load_run(result.run_dir).predict(["the battery died in a day"])

`check`, `finetune`, `plan` and `evaluate` take a path, or rows in memory: a list of (text, label) pairs
or of dicts, a dict of columns, a pandas data frame, or a `datasets.Dataset`. `predict` takes a list of
texts, or such a table. `load_run` opens a run once, to predict and evaluate several times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgetune.utils.version import __version__

if TYPE_CHECKING:
    from edgetune.checking.data_check import DataCheck
    from edgetune.data.examples import DataOptions
    from edgetune.inference.saved_run import Prediction, Run, evaluate, load_run, predict
    from edgetune.profiling.measure import measure_profile
    from edgetune.run_files.summary import RunResult
    from edgetune.runs.dry_run import check, plan
    from edgetune.runs.run import finetune, resume


__all__ = [
    "DataCheck",
    "DataOptions",
    "Prediction",
    "Run",
    "RunResult",
    "__version__",
    "check",
    "evaluate",
    "finetune",
    "load_run",
    "measure_profile",
    "plan",
    "predict",
    "resume",
]

_HOMES = {
    "DataOptions": "edgetune.data.examples",
    "finetune": "edgetune.runs.run",
    "resume": "edgetune.runs.run",
    "plan": "edgetune.runs.dry_run",
    "check": "edgetune.runs.dry_run",
    "DataCheck": "edgetune.checking.data_check",
    "measure_profile": "edgetune.profiling.measure",
    "RunResult": "edgetune.run_files.summary",
    "predict": "edgetune.inference.saved_run",
    "evaluate": "edgetune.inference.saved_run",
    "load_run": "edgetune.inference.saved_run",
    "Run": "edgetune.inference.saved_run",
    "Prediction": "edgetune.inference.saved_run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `edgetune --help` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgetune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
