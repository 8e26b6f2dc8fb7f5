"""Values that settings and command-line options choose from. Without pydantic, which would slow `--help`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from edgetune.utils.plugins import module_names

Preset = Literal["default", "paper"]
Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Pooling = Literal["auto", "mean", "cls"]
Metric = Literal["accuracy", "macro-f1"]
ClassWeight = Literal["auto", "balanced", "none"]
Learner = Literal["ngrams", "probe", "encoder"]
LogTo = Literal["tensorboard", "mlflow", "wandb-offline"]

OPENERS_PACKAGE = "edgetune.backends.openers"
"""Its modules have the names of the backends: plug-ins, of which this folder knows the names alone."""

if TYPE_CHECKING:
    Backend: TypeAlias = str
else:
    _BACKENDS = ("auto", *module_names(OPENERS_PACKAGE))
    Backend = Literal[_BACKENDS]
