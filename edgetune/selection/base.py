"""The contract every way of choosing examples keeps; the loop knows nothing else of them.

Per batch, in this order:

    choose_score ─→ (scored) ─→ choose_train ─→ observe        a filter
    straight: ─→ train step ─→ observe                         no forward pass is paid for beforehand
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from edgetune.batching import Batch
from edgetune.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class StageChange:
    """When a selector entered a stage, and why.

    Attributes:
        stage: `warmup`, `filter_backward`, `filter_forward`; `all` for selectors without stages.
        n_seen: examples that `choose_score` had been asked about by then.
        reason: one clause in words and numbers.
    """

    stage: str
    n_seen: int
    reason: str


@runtime_checkable
class Selector(Protocol):
    """Decides which examples are scored and which are trained; never sees a model."""

    name: ClassVar[str]

    @property
    def stage(self) -> str: ...

    @property
    def straight(self) -> bool:
        """Whether chosen examples go to the train step unscored (its own logits are observed)."""
        ...

    @property
    def stages(self) -> list[StageChange]: ...

    def choose_score(self, batch: Batch) -> BoolArray:
        """(B,) before any compute: which examples are looked at at all."""
        ...

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        """(B,) after the forward pass: which examples are trained; unused while `straight`."""
        ...

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Learn from losses (nats, per example) that were paid for."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what the receipt tells of the selection (threshold, predictor loss, audit…)."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that decides later choices, random state included."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state()` was taken."""
        ...
