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
LogTo = Literal["tensorboard", "mlflow", "wandb-offline"]

# Plug-ins, of which this folder knows the names alone: those of the modules in these packages.
OPENERS_PACKAGE, TEXT_LEARNERS_PACKAGE = "edgetune.backends.openers", "edgetune.learners.texts"
USUAL_LEARNERS = ("ngrams", "probe", "encoder")
TEXT_LEARNERS = tuple(name.replace("_", "-") for name in module_names(TEXT_LEARNERS_PACKAGE))
LEARNERS = USUAL_LEARNERS + TEXT_LEARNERS

if TYPE_CHECKING:
    Backend: TypeAlias = str
    ProfiledBackend: TypeAlias = str
    Learner: TypeAlias = str
else:
    _BACKENDS = module_names(OPENERS_PACKAGE)
    _CHOICES = ("auto", *_BACKENDS)
    Backend = Literal[_CHOICES]
    ProfiledBackend = Literal[_BACKENDS]
    Learner = Literal[LEARNERS]
