"""Learning rate: how high it starts, and how it falls to zero as the run progresses."""

from __future__ import annotations

import math

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


def decayed(peak: float, progress: float) -> float:
    """Return the rate at a share of the run in [0, 1]: linear from `peak` to 0."""
    return peak * max(0.0, 1.0 - progress)


def within(progress: float, span: tuple[float, float]) -> float:
    """Return how far a part of the run is, in [0, 1], given the progress of the whole.

    Args:
        progress: of the run, in [0, 1].
        span: where in it the part begins and ends.
    """
    begin, end = span
    return min(max((progress - begin) / max(end - begin, 1e-9), 0.0), 1.0)
