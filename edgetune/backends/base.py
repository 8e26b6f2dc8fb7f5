"""The contract of a backend: two operations on batches, and its state.

`score` is a forward pass that changes nothing; `train_step` is one optimizer update. Both return the
logits that the weights gave *before* any update, so a train step's losses cost nothing extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from edgetune.batching import Batch
from edgetune.types import FloatArray

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
WEIGHT_DECAY = 0.01


class Backend(Protocol):
    """Runs a model; never sees how examples are chosen."""

    name: ClassVar[str]

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        ...

    def score(self, batch: Batch) -> FloatArray:
        """Return logits (B, C); updates nothing, no dropout."""
        ...

    def train_step(self, batch: Batch, lr: float) -> FloatArray:
        """Update once on the mean loss of the whole batch; return logits (B, C) from before it."""
        ...

    def state(self) -> bytes:
        """Return parameters and optimizer, for a bit-exact `load_state`."""
        ...

    def load_state(self, state: bytes) -> None: ...

    def save(self, folder: Path, label_names: tuple[str, ...]) -> None:
        """Write `model/` (Hugging Face layout) and `onnx/` into an existing folder."""
        ...
