"""How far a run is, and whether it may go on: by the data, or by the clock.

The loop asks before every batch and every step; the learning rate follows `decay_progress`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgetune.clock import Clock

FEWEST_ROWS = 4

StepCost = Callable[[str, int, int], float]
"""(operation `score` or `train`, rows, padded tokens of each) → predicted seconds."""


@dataclass(frozen=True)
class Position:
    """Where the loop stands.

    Attributes:
        n_done: examples that are decided and, if kept, trained.
        n_steps: optimizer steps made.
    """

    n_done: int
    n_steps: int


class Pace(Protocol):
    """Says how far a run is and when it ends."""

    def progress(self, at: Position) -> float:
        """The share of the run that is done, in [0, 1]."""
        ...

    def decay_progress(self, at: Position) -> float:
        """How far the learning rate has fallen, in [0, 1]."""
        ...

    def finished(self, at: Position) -> bool: ...

    def rows_that_fit(self, operation: str, n_rows: int, width: int) -> int:
        """How many of these rows may still be scored or trained; 0: none, the run is over."""
        ...

    def took(self, operation: str, n_rows: int, width: int, seconds: float) -> None:
        """Learn how long an operation really took."""
        ...


@dataclass(frozen=True)
class DataPace:
    """The run ends with its data, or after a number of steps.

    Attributes:
        n_examples: of one pass.
        epochs: passes.
        batch_size: examples per step.
        decay: `examples` seen, or `steps` of an unfiltered run.
        max_steps: at most, or None.
    """

    n_examples: int
    epochs: int
    batch_size: int
    decay: str = "examples"
    max_steps: int | None = None

    def progress(self, at: Position) -> float:
        by_limit = at.n_steps / self.max_steps if self.max_steps else 0.0
        return max(by_limit, at.n_done / max(1, self.epochs * self.n_examples))

    def decay_progress(self, at: Position) -> float:
        if self.decay == "examples":
            return self.progress(at)
        n_unfiltered = self.epochs * -(-self.n_examples // self.batch_size)
        return at.n_steps / max(1, min(n_unfiltered, self.max_steps or n_unfiltered))

    def finished(self, at: Position) -> bool:
        return self.max_steps is not None and at.n_steps >= self.max_steps

    def rows_that_fit(self, operation: str, n_rows: int, width: int) -> int:
        return n_rows

    def took(self, operation: str, n_rows: int, width: int, seconds: float) -> None:
        pass


class ClockPace:
    """The run ends when its time is up, or with its data if that comes first."""

    def __init__(self, clock: Clock, cost: StepCost, data: DataPace) -> None:
        """Pace a run by a clock.

        Args:
            clock: what is left.
            cost: predicted seconds of an operation, corrected here by what is measured.
            data: passes that are made at most.
        """
        self._clock, self._cost, self._data = clock, cost, data
        self._over = False

    def progress(self, at: Position) -> float:
        return max(self._clock.progress(), self._data.progress(at))

    def decay_progress(self, at: Position) -> float:
        return self.progress(at)

    def finished(self, at: Position) -> bool:
        self._over = self._over or self._clock.left_s() <= 0 or self._data.finished(at)
        return self._over

    def rows_that_fit(self, operation: str, n_rows: int, width: int) -> int:
        """Return all rows, as many as still fit, or 0; anything but all ends the run."""
        n_fit = n_rows
        while n_fit and not self._clock.fits(operation, self._cost(operation, n_fit, width)):
            n_fit = n_fit // 2 if n_fit // 2 >= FEWEST_ROWS else 0
        self._over = self._over or n_fit < n_rows
        return n_fit

    def took(self, operation: str, n_rows: int, width: int, seconds: float) -> None:
        self._clock.speed(operation).observe(self._cost(operation, n_rows, width), seconds)
