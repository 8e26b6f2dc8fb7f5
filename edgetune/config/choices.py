"""Values that settings and command-line options choose from. Without pydantic, which would slow `--help`."""

from __future__ import annotations

from typing import Literal

Preset = Literal["default", "paper"]
Backend = Literal["auto", "ort", "torch", "onnx"]
Device = Literal["cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Pooling = Literal["auto", "mean", "cls"]
Metric = Literal["accuracy", "macro-f1"]
ClassWeight = Literal["auto", "balanced", "none"]
Learner = Literal["ngrams", "probe", "encoder"]
LogTo = Literal["tensorboard", "mlflow", "wandb-offline"]
