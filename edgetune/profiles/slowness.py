"""How slow the machine was from moment to moment while many operations were measured in turn.

On a shared machine everything takes a tenth longer for a second or two, then not. As neighbours in time are
other operations, whose usual costs are known from other rounds, they tell how slow the moment was, and the
measurement can be freed of it.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgetune.types import FloatArray, IntArray

NEAR = 4
TURNS = 5


def slowness(spots: IntArray, seconds: FloatArray) -> FloatArray:
    """Return how many times longer than usual each measurement took because of its moment.

    The logarithm of a measurement is what its operation usually takes, plus how slow the moment was, plus
    noise; both are found by medians in turn (median polish, Tukey 1977). A moment is judged by the four
    measurements before it and the four after it, never by its own operation, and only by operations that were
    measured at other times too. Where that brings the measurements of an operation no nearer together, there
    were no such moments.

    Args:
        spots: (n,) which operation was measured, numbered from 0, in the order of time.
        seconds: (n,) above 0.

    Returns:
        (n,) factors around 1; 1 where nothing can be said.
    """
    logs, slow = np.log(seconds), np.zeros(len(seconds))
    calm: FloatArray = np.ones(len(seconds))
    again = np.bincount(spots)[spots] > 1 if len(spots) else np.zeros(0, dtype=np.bool_)
    if not again.any():
        return calm
    own = _beside(spots, -1) == spots[:, None]
    for _ in range(TURNS):
        left = np.where(again, logs - _usual(spots, logs - slow)[spots], np.nan)
        others = np.where(own, np.nan, _beside(left, np.nan))
        known = ~np.isnan(others).all(axis=1)
        slow[known] = np.nanmedian(others[known], axis=1)
        slow -= np.median(slow)
    spread_before, spread_after = (_spread(spots[again], values[again]) for values in (logs, logs - slow))
    return np.exp(slow) if spread_after < spread_before else calm


def _beside(values: FloatArray | IntArray, none: float) -> FloatArray | IntArray:
    """Return (n, 2 * NEAR) the values before and after each, `none` beyond the ends."""
    around = sliding_window_view(np.pad(values, NEAR, constant_values=none), 2 * NEAR + 1)
    return np.delete(around, NEAR, axis=1)


def _spread(spots: IntArray, logs: FloatArray) -> float:
    """Return how far measurements of one operation lie from its median, in the mean."""
    return float(np.mean(np.abs(logs - _usual(spots, logs)[spots])))


def _usual(spots: IntArray, logs: FloatArray) -> FloatArray:
    """Return the median of each operation's values."""
    order = np.argsort(spots, kind="stable")
    ends = np.cumsum(np.bincount(spots))
    parts = np.split(logs[order], ends[:-1])
    return np.array([np.median(part) if len(part) else 0.0 for part in parts])
