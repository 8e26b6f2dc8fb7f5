"""The backends there are, found by walking `edgetune.backends`, and how each is made for a test."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgetune.backends
from edgetune.data.batches import Batch
from edgetune.models.source import resolve_model
from edgetune.utils.metrics import cross_entropy

LR = 1e-3


def found_backends() -> dict[str, type[Any]]:
    """Return the class of every module named `*_backend`."""
    found = {}
    for module in pkgutil.walk_packages(edgetune.backends.__path__, "edgetune.backends."):
        if module.name.endswith("_backend"):
            home = importlib.import_module(module.name)
            kinds = [
                kind
                for kind in vars(home).values()
                if isinstance(kind, type) and kind.__module__ == home.__name__ and hasattr(kind, "train_step")
            ]
            found.update({kind.name: kind for kind in kinds})
    return found


BACKENDS = found_backends()
Factory = Callable[..., Any]


def build_ort(
    artifacts_of: Any,
    model: Path,
    freeze: str = "embeddings",
    seed: int = 0,
    n_labels: int = 2,
    multi_label: bool = False,
    **settings: Any,
) -> Any:
    return BACKENDS["ort"](artifacts_of(freeze, n_labels, model, multi_label), seed, **settings)


def build_torch(
    artifacts_of: Any,
    model: Path,
    freeze: str = "embeddings",
    seed: int = 0,
    n_labels: int = 2,
    multi_label: bool = False,
    **settings: Any,
) -> Any:
    settings["multi_label"] = multi_label
    return BACKENDS["torch"](resolve_model(str(model)), n_labels, freeze, seed, **settings)


FACTORIES: dict[str, Factory] = {"ort": build_ort, "torch": build_torch}


def losses_of(backend: Any, batches: list[Batch], lr: float = LR) -> np.ndarray:
    """Train on the batches; return each step's mean loss."""
    return np.array([cross_entropy(backend.train_step(b, lr), b.labels).mean() for b in batches])
