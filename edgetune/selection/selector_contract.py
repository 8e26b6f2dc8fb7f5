"""The contract of a selector, which chooses the examples to train on; the loop knows nothing else of it.

Before the first batch: `prepare`, which may read the words of every row. Then, for the rows of a batch:

    on_batch_start ─→ choose_score ─┬→ score ─→ choose_train, observe ─→ loss_weights ─→ train step
                                    └→ (while `skips_scoring`) loss_weights ─→ train step ─→ observe

Rows wait in queues between these calls, so a later call may get them with others, and in a later stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch, TokenSource
from edgetune.utils.types import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class StageChange:
    """When a selector entered a stage, and why.

    Attributes:
        stage: `warmup`, `filter_backward`, `filter_forward`, `reference`, `subset`; `all` for selectors
            without stages.
        n_seen: examples that `choose_score` had been asked about by then.
        reason: one clause in words and numbers.
        reset_model: whether the model starts from its first weights again, with a new optimizer.
    """

    stage: str
    n_seen: int
    reason: str
    reset_model: bool = False


@dataclass(frozen=True, slots=True)
class DataShape:
    """What a selector may know of the data beforehand.

    Attributes:
        n_examples: examples in one epoch.
        n_classes: labels are below this.
        vocab_size: token ids are below this.
        label_entropy: nats; what guessing by the shares of the labels costs, with several labels a row in the
            mean over them; infinite where it is not known.
        batch_size: rows per batch of the stream.
    """

    n_examples: int
    n_classes: int
    vocab_size: int
    label_entropy: float = math.inf
    batch_size: int = 32


@runtime_checkable
class Selector(Protocol):
    """Decides which examples are scored and which are trained; never sees a model."""

    name: ClassVar[str]

    @property
    def stage(self) -> str: ...

    @property
    def skips_scoring(self) -> bool:
        """Whether chosen examples go to the train step unscored (its own logits are observed)."""
        ...

    @property
    def stages(self) -> list[StageChange]: ...

    @property
    def lookahead(self) -> int:
        """Rows of the stream that `choose_score` is asked about at once, at least; 1: a batch at a time."""
        ...

    @property
    def decision_size(self) -> int:
        """Scored rows that one decision is made over, at least; 1: every scored batch on its own."""
        ...

    @property
    def restarts(self) -> bool:
        """Whether a later stage may start `reset_model`, so that the first weights have to be kept."""
        ...

    @property
    def span(self) -> tuple[float, float]:
        """(begin, end) of progress over which the learning rate now falls from its peak to zero."""
        ...

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        """Once, before the first batch: read what is needed of all training rows; charged to the run.

        Args:
            source: every training row; row numbers are those of the batches to come.
            should_stop: asked now and then; preparation ends early when it says so.
        """
        ...

    def on_batch_start(self, progress: float, epoch: int) -> None:
        """Hear, before every batch, the share of the run that is done, in [0, 1], and the pass, from 1."""
        ...

    def choose_score(self, batch: Batch) -> BoolArray:
        """(B,) before any compute: which examples are looked at at all."""
        ...

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        """(B,) after the forward pass: which examples are trained; unused while `skips_scoring`."""
        ...

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        """(B,) factors of the losses of a batch that is about to be trained; None: all are 1."""
        ...

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Learn from losses (nats, per example) that were paid for."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what the summary tells of the selection (threshold, predictor loss, audit…)."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that decides later choices, random state included."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state()` was taken."""
        ...


class Method(Selector, Protocol):
    """A selector that the settings can name.

    Attributes:
        Settings: that it reads; their defaults and descriptions are in its card.
        is_filter: whether the losses of scored rows decide which are trained; under a deadline such a method
            is switched off when it loses time.
    """

    Settings: ClassVar[type[MethodSettings]]
    is_filter: ClassVar[bool]

    @classmethod
    def build(cls, settings: Any, shape: DataShape, rng: np.random.Generator) -> Selector:
        """Make one from its `Settings`; `rng` is its own, drawn from and saved with the state."""
        ...

    @classmethod
    def share_trained(cls, settings: Any) -> float:
        """Return the share of the rows seen that is trained, where that is known beforehand; else 1."""
        ...
