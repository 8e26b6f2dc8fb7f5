"""Learning rate: how high it starts, and how it falls to zero as the run progresses."""

from __future__ import annotations

BASE_LR = 1e-4
BASE_WIDTH = 384
SHORT_RUN_STEPS = 500


def automatic_lr(hidden_size: int, n_steps: int) -> float:
    """Choose a peak learning rate for AdamW with batches of about 32.

    Measured on a 6-layer encoder of width 384: 1e-4 over a whole SST-2 epoch (2,105 steps), twice that
    when only about a hundred steps fit. Wider encoders want proportionally less.

    Args:
        hidden_size: of the encoder.
        n_steps: optimizer steps the run will make at most.
    """
    narrow = min(1.0, BASE_WIDTH / hidden_size)
    return BASE_LR * narrow * (2.0 if n_steps < SHORT_RUN_STEPS else 1.0)


def decayed(peak: float, progress: float) -> float:
    """Return the rate at a share of the run in [0, 1]: linear from `peak` to 0."""
    return peak * max(0.0, 1.0 - progress)
