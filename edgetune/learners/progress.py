"""How far a run is, whether it may go on, and the learning rate that follows from it.

The loop asks before every batch and every step. The learning rate falls to zero with `decay_progress`, or
with `progress` if the selector restarts the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgetune.config.settings import TrainSettings


@dataclass(frozen=True)
class Position:
    """Where the loop stands.

    Attributes:
        n_done: examples that are decided and, if kept, trained.
        n_steps: optimizer steps made.
    """

    n_done: int
    n_steps: int


@dataclass
class Progress:
    """Says how far a run is and when it ends: with its data, or after a number of steps.

    Attributes:
        n_examples: of one pass.
        settings: passes, batch size, `decay` and `max_steps` of the run.
    """

    n_examples: int
    settings: TrainSettings

    def progress(self, at: Position) -> float:
        """The share of the run that is done, in [0, 1]."""
        by_limit = at.n_steps / self.settings.max_steps if self.settings.max_steps else 0.0
        return max(by_limit, at.n_done / max(1, self.settings.epochs * self.n_examples))

    def decay_progress(self, at: Position) -> float:
        """How far the learning rate has fallen, in [0, 1], for a selector that does not restart the model."""
        if self.settings.decay == "examples":
            return self.progress(at)
        n_unfiltered = self.settings.epochs * -(-self.n_examples // self.settings.batch_size)
        return at.n_steps / max(1, min(n_unfiltered, self.settings.max_steps or n_unfiltered))

    def finished(self, at: Position) -> bool:
        """Whether the limit of steps or of time was reached; the end of the data does not count."""
        return self.settings.max_steps is not None and at.n_steps >= self.settings.max_steps

    def rows_that_fit(self, operation: str, n_rows: int, width: int) -> int:
        """How many of these rows may still be scored or trained; 0: none, the run is over."""
        return n_rows

    def record_duration(self, operation: str, n_rows: int, width: int, seconds: float) -> None:
        """Learn how long an operation really took."""


BASE_LR = 1e-4
BASE_WIDTH = 384
BASE_STEPS = 500
FEWEST, MOST = 125, 2000


def automatic_lr(hidden_size: int, n_steps: int) -> float:
    """Choose a peak learning rate for AdamW with batches of about 32.

    It falls with the square root of the number of steps, from 2e-4 (125 steps and fewer) over 1e-4 (500) to
    5e-5 (2,000 and more). Measured at both ends on a 6-layer encoder of width 384 and SST-2: 2e-4 is best
    where about a hundred steps fit, and of 3e-4, 2e-4, 1e-4 and 5e-5 the last is best over a whole epoch
    (docs/log.md). Wider encoders want proportionally less.

    Args:
        hidden_size: of the encoder.
        n_steps: optimizer steps the run will make at most.
    """
    narrow = min(1.0, BASE_WIDTH / hidden_size)
    return BASE_LR * narrow * math.sqrt(BASE_STEPS / min(max(n_steps, FEWEST), MOST))


def decayed_rate(peak: float, progress: float) -> float:
    """Return the rate at a share of the run in [0, 1]: linear from `peak` to 0."""
    return peak * max(0.0, 1.0 - progress)


def progress_within(progress: float, span: tuple[float, float]) -> float:
    """Return how far a part of the run is, in [0, 1], given the progress of the whole.

    Args:
        progress: of the run, in [0, 1].
        span: where in it the part begins and ends.
    """
    begin, end = span
    return min(max((progress - begin) / max(end - begin, 1e-9), 0.0), 1.0)
