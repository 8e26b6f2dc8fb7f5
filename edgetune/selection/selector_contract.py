"""The contract of a selector, which chooses the examples to train on; the loop knows nothing else of it.

Before the first batch: `prepare`, which may read the words of every row. Then, for the rows of a batch:

    on_batch_start ─→ choose_score ─┬→ score ─→ choose_train, observe ─→ loss_weights ─→ train step
                                    └→ (while `skips_scoring`) loss_weights ─→ train step ─→ observe

Rows wait in queues between these calls, so a later call may get them with others, and in a later stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch, TokenSource
from edgetune.selection.memory import Stateful
from edgetune.utils.types import BoolArray, FloatArray

ALL, WARMUP, FILTER_BACKWARD, FILTER_FORWARD = "all", "warmup", "filter_backward", "filter_forward"
REFERENCE, SUBSET = "reference", "subset"


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
        label_entropy: log loss (nats) of always predicting the shares of the labels; if a row may have
            several labels, the mean over the labels; infinite if unknown.
        batch_size: rows per batch of the stream.
    """

    n_examples: int
    n_classes: int
    vocab_size: int
    label_entropy: float = math.inf
    batch_size: int = 32


class Selector(Stateful):
    """Decides which examples are scored and which are trained; never sees a model.

    This one takes all examples. A method overrides what it decides differently, and calls
    `super().choose_score`, which counts them.

    Attributes:
        name: what `--method` calls it.
        Settings: the class of its settings; their defaults and descriptions appear in the method's card.
        is_filter: whether the losses of scored rows decide which are trained; under a deadline such a method
            is switched off when it loses time.
        first_stage: the stage that it begins in.
        restarts: whether a later stage may reset the model, so that the initial weights have to be kept; such
            a stage must be entered in `on_batch_start`.
        saved: names of the attributes that a checkpoint holds; a method adds its own, `_rng` if it draws.
        n_seen: examples that `choose_score` was asked about.
        progress: share of the run that is done, in [0, 1].
        epoch: the pass, from 1; 0 before the first batch.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    is_filter: ClassVar[bool] = False
    first_stage: ClassVar[str] = ALL
    restarts: ClassVar[bool] = False
    saved: ClassVar[tuple[str, ...]] = ("n_seen", "progress", "epoch")

    @classmethod
    def share_trained(cls, settings: Any) -> float:
        """Return the share of the rows seen that is trained, where that is known beforehand; else 1."""
        return 1.0

    def __init__(self, settings: Any, shape: DataShape, rng: np.random.Generator) -> None:
        """Make one from its `Settings`; `rng` is its own, drawn from and saved with the state."""
        self._settings, self._shape, self._rng = settings, shape, rng
        self.n_seen = 0
        self.progress = 0.0
        self.epoch = 0
        self._stages = [StageChange(self.first_stage, 0, "start")]

    @property
    def stage(self) -> str:
        """The stage the selector is in now."""
        return self.stages[-1].stage

    @property
    def stages(self) -> list[StageChange]:
        """Every stage entered so far, in order."""
        return list(self._stages)

    @property
    def skips_scoring(self) -> bool:
        """Whether chosen examples go to the train step unscored (its own logits are observed)."""
        return not self.is_filter

    @property
    def lookahead(self) -> int:
        """Rows of the stream that `choose_score` is asked about at once, at least; 1: a batch at a time."""
        return 1

    @property
    def decision_size(self) -> int:
        """Scored rows that one decision is made over, at least; 1: every scored batch on its own."""
        return self.lookahead

    @property
    def span(self) -> tuple[float, float]:
        """(begin, end) of progress over which the learning rate now falls from its peak to zero."""
        return 0.0, 1.0

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        """Once, before the first batch: read what is needed of all training rows; charged to the run.

        Args:
            source: every training row; row numbers are those of the batches to come.
            should_stop: asked now and then; preparation ends early when it says so.
        """

    def on_batch_start(self, progress: float, epoch: int) -> None:
        """Hear, before every batch, the share of the run that is done, in [0, 1], and the pass, from 1."""
        self.progress, self.epoch = progress, epoch

    def choose_score(self, batch: Batch) -> BoolArray:
        """(B,) before any compute: which examples are scored, or trained while `skips_scoring`."""
        self.n_seen += len(batch)
        return np.ones(len(batch), dtype=np.bool_)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        """(B,) after the forward pass: which examples are trained; unused while `skips_scoring`."""
        return np.ones(len(batch), dtype=np.bool_)

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        """(B,) factors of the losses of a batch that is about to be trained; None: all are 1."""
        return None

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Learn from losses (nats, per example) that were paid for."""

    def report(self) -> dict[str, Any]:
        """Return what the summary tells of the selection (threshold, predictor loss, audit…)."""
        why, reached = self._why_not(), len(self._stages) > 1 or None
        return {
            "method": self.name,
            "stage": self.stage,
            "threshold": None,
            "stages": [asdict(change) for change in self._stages],
            "reached_last_stage": reached if why is None else False,
            "why": why,
        }

    def _why_not(self) -> str | None:
        """Say why the last stage was not reached; None if it was, or if there is but one."""
        return None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "stages": [asdict(change) for change in self._stages]}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self._stages = [StageChange(**change) for change in state["stages"]]

    def _enter(self, stage: str, reason: str, *, reset_model: bool = False) -> None:
        self._stages.append(StageChange(stage, self.n_seen, reason, reset_model))
