"""Types used everywhere: arrays, whose shapes are given where they are used, and callbacks.

In shapes, B stands for examples, T for tokens and C for classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Labels: TypeAlias = npt.NDArray[np.number[Any]]
"""Class ids (n,), or multi-hot float32 (n, C) where rows may have several labels."""
BoolArray: TypeAlias = npt.NDArray[np.bool_]

StepCost = Callable[[str, int, int], float]
"""(operation `score` or `train`, rows, padded tokens of each) → predicted seconds."""

Say = Callable[[str], None]
"""Shows a sentence to the user while a run is going on."""

Tell = Callable[[str, float], None]
"""Shows what a long measurement is doing, and the share of its time that has passed."""
