"""The contract of a backend: two operations on batches, and its state.

`score` is a forward pass that changes nothing; `train_step` is one optimizer update. Both return the
logits that the weights gave *before* any update, so a train step's losses cost nothing extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.microbatch import Microbatches
from edgetune.data.batches import Batch
from edgetune.utils.errors import ModelError
from edgetune.utils.types import FloatArray

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
WEIGHT_DECAY = 0.01


class NoLinearHead(ModelError):
    """The model's logits do not come straight from one linear layer with a bias."""


class Backend(Protocol):
    """Runs a model; never sees how examples are chosen."""

    name: ClassVar[str]
    depth: int
    """Lowest layers that are frozen and cut off as a prefix; 0 where the whole model runs every time."""
    cache: HiddenCache | None
    """Keeps the prefix's output per row; None where it is computed every time."""
    microbatches: Microbatches
    """How many rows go through the model at once: halved when memory runs out, the step stays the same."""

    @property
    def n_parameters(self) -> int:
        """Trainable parameters."""
        ...

    def prefix(self, batch: Batch) -> FloatArray:
        """Run the frozen prefix afresh: hidden states (B, T, D) that enter the first layer above it.

        `score` and `train_step` do this themselves, for rows that the prefix cache does not hold.
        """
        ...

    def features(self, batch: Batch) -> FloatArray:
        """Return what the head's last linear layer sees (B, F); updates nothing.

        Raises:
            NoLinearHead: the logits come from something else.
        """
        ...

    def head(self) -> tuple[FloatArray, FloatArray]:
        """Return the last linear layer's weight (C, F) and bias (C,), as copies.

        Raises:
            NoLinearHead: as `features`.
        """
        ...

    def set_head(self, weight: FloatArray, bias: FloatArray) -> None:
        """Replace the last linear layer's weight (C, F) and bias (C,).

        Raises:
            NoLinearHead: as `features`.
        """
        ...

    def score(self, batch: Batch, keep: bool = True) -> FloatArray:
        """Return logits (B, C); updates nothing, no dropout.

        Args:
            batch: B rows.
            keep: whether the prefix cache may keep rows that are new to it.
        """
        ...

    def train_step(self, batch: Batch, lr: float, weights: FloatArray | None = None) -> FloatArray:
        """Update once on the mean loss of the whole batch; return logits (B, C) from before it.

        The losses are those of `metrics.cross_entropy`, of class ids or of multi-hot labels.

        Args:
            batch: B rows.
            lr: learning rate of this step.
            weights: (B,) factors of the rows' losses, whose mean is still over B; None: all are 1.
        """
        ...

    def state(self) -> bytes:
        """Return parameters and optimizer, for a bit-exact `load_state`."""
        ...

    def load_state(self, state: bytes) -> None: ...

    def save(self, folder: Path, label_names: tuple[str, ...], skip_onnx: bool = False) -> None:
        """Write `model/` (Hugging Face layout) and `onnx/` into an existing folder.

        Args:
            folder: existing and empty.
            label_names: by class id.
            skip_onnx: leave out `onnx/` where it takes long to write.
        """
        ...
