"""What selectors share: the record of their stages, and a set of row numbers with fast lookup.

`Staged` is not a method. It has the default behaviour (score all, train all, learn nothing) and the
book-keeping; each method overrides what it decides differently, and calls `super().choose_score`, which
counts the examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np

from edgetune.config.settings import MethodSettings
from edgetune.data.batches import Batch, TokenSource
from edgetune.selection.selector_contract import StageChange
from edgetune.utils.types import BoolArray, FloatArray, IntArray

ALL, WARMUP, FILTER_BACKWARD, FILTER_FORWARD = "all", "warmup", "filter_backward", "filter_forward"
REFERENCE, SUBSET = "reference", "subset"


class Staged:
    """A selector that scores and trains everything; subclasses override their decisions.

    Attributes:
        n_seen: examples that `choose_score` was asked about.
        progress: share of the run that is done, in [0, 1].
        epoch: the pass, from 1; 0 before the first batch.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    is_filter: ClassVar[bool] = False

    @classmethod
    def share_trained(cls, settings: Any) -> float:
        return 1.0

    def __init__(self, first_stage: str = ALL) -> None:
        self.n_seen = 0
        self.progress = 0.0
        self.epoch = 0
        self._stages = [StageChange(first_stage, 0, "start")]

    @property
    def stage(self) -> str:
        """The stage the selector is in now."""
        return self._stages[-1].stage

    @property
    def stages(self) -> list[StageChange]:
        """Every stage entered so far, in order."""
        return list(self._stages)

    @property
    def skips_scoring(self) -> bool:
        """Whether chosen examples go to the train step unscored."""
        return False

    @property
    def lookahead(self) -> int:
        """Rows of the stream that `choose_score` is asked about at once."""
        return 1

    @property
    def decision_size(self) -> int:
        """Scored rows that one decision is made over."""
        return 1

    @property
    def restarts(self) -> bool:
        """Whether a later stage may start afresh."""
        return False

    @property
    def span(self) -> tuple[float, float]:
        """The share of progress over which the learning rate now falls."""
        return 0.0, 1.0

    def prepare(self, source: TokenSource, should_stop: Callable[[], bool]) -> None:
        """Need nothing beforehand."""

    def on_batch_start(self, progress: float, epoch: int) -> None:
        self.progress, self.epoch = progress, epoch

    def choose_score(self, batch: Batch) -> BoolArray:
        self.n_seen += len(batch)
        return np.ones(len(batch), dtype=np.bool_)

    def choose_train(self, batch: Batch, losses: FloatArray) -> BoolArray:
        return np.ones(len(batch), dtype=np.bool_)

    def loss_weights(self, batch: Batch) -> FloatArray | None:
        return None

    def observe(self, batch: Batch, losses: FloatArray) -> None:
        """Learn nothing."""

    def report(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "stage": self.stage,
            "threshold": None,
            "stages": [asdict(change) for change in self._stages],
            "reached_last_stage": None,
            "why": None,
        }

    def state(self) -> dict[str, Any]:
        return {
            "n_seen": self.n_seen,
            "progress": self.progress,
            "epoch": self.epoch,
            "stages": [asdict(change) for change in self._stages],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.n_seen = int(state["n_seen"])
        self.progress, self.epoch = float(state["progress"]), int(state["epoch"])
        self._stages = [StageChange(**change) for change in state["stages"]]

    def _enter(self, stage: str, reason: str, *, reset_model: bool = False) -> None:
        self._stages.append(StageChange(stage, self.n_seen, reason, reset_model))


class RowSet:
    """A set of row numbers (not negative) as a boolean table: no Python loop over rows."""

    def __init__(self) -> None:
        self._inside = np.zeros(0, dtype=np.bool_)

    def put(self, rows: IntArray, inside: BoolArray | bool) -> None:
        """Add the rows whose `inside` is true, drop those whose `inside` is false."""
        top = int(rows.max(initial=-1)) + 1
        if top > len(self._inside):
            grown = np.zeros(max(top, 2 * len(self._inside)), dtype=np.bool_)
            grown[: len(self._inside)] = self._inside
            self._inside = grown
        self._inside[rows] = inside

    def pop(self, rows: IntArray) -> BoolArray:
        """Return which rows (B,) were in the set, and drop them."""
        if not len(self._inside):
            return np.zeros(len(rows), dtype=np.bool_)
        known = rows < len(self._inside)
        at = np.where(known, rows, 0)
        found: BoolArray = self._inside[at] & known
        self._inside[at[known]] = False
        return found

    def to_array(self) -> IntArray:
        """Return the rows in the set, ascending."""
        return np.flatnonzero(self._inside)

    def fill(self, rows: IntArray) -> None:
        """Make the set hold exactly these rows."""
        self._inside = np.zeros(0, dtype=np.bool_)
        self.put(np.asarray(rows, dtype=np.int64), True)
