"""Equivalent speed-up: what a method's accuracy is worth in time of the reference.

Accuracy grows about linearly in log time, so half a point hides a factor in time. The reference (random,
learning rate decayed to zero) is measured at five or more times; a monotone curve through its accuracies
says how long it needs for the accuracy of a method, and that over the method's own time is the ratio.
Above 1 the method is worth its while.

    accuracy │            ┌── the curve ends: "at least"
             │        ┌───·
      method ├ ─ ─ ─ ·│        ratio = needed_s / method_s
             │   ·────┘│
             └─────────┴────── log time
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

from edgetune.compare.statistics import N_DRAWS, TAILS, draw_accuracies, mean_accuracy, resampled_shares
from edgetune.utils.types import BoolArray, FloatArray

Bound: TypeAlias = Literal["", "at most", "at least", "about"]
"""What a number is when the curve could not be read: `about` only where sets lie beyond both its ends."""

CurvePoint: TypeAlias = tuple[float, Sequence[BoolArray]]
"""Seconds of the reference, and over its seeds which eval rows (n,) it then got right."""


class TimeNeeded(NamedTuple):
    """How long the reference takes to an accuracy.

    Attributes:
        seconds: the shortest time that reaches it; the nearest measured time where there is a bound.
        until_s: how long the curve stays there; above `seconds` on a flat piece alone.
        bound: `at most` (below the shortest time's accuracy), `at least` (above the longest's), or empty.
    """

    seconds: float
    until_s: float
    bound: Bound = ""


def time_for(accuracy: float, times_s: Sequence[float], fitted: Sequence[float]) -> TimeNeeded:
    """Read the time to an accuracy off a curve: straight in log time, and nothing beyond its ends.

    Args:
        accuracy: that is wanted.
        times_s: when the reference was measured, rising.
        fitted: accuracies at those times, never falling.
    """
    after = bisect_left(fitted, accuracy)
    if after == len(fitted):
        return TimeNeeded(times_s[-1], times_s[-1], "at least")
    if fitted[after] == accuracy:
        return TimeNeeded(times_s[after], times_s[bisect_right(fitted, accuracy) - 1])
    if after == 0:
        return TimeNeeded(times_s[0], times_s[0], "at most")
    share = (accuracy - fitted[after - 1]) / (fitted[after] - fitted[after - 1])
    seconds = times_s[after - 1] * (times_s[after] / times_s[after - 1]) ** share
    return TimeNeeded(seconds, seconds)


@dataclass(frozen=True, slots=True)
class Speedup:
    """A speed-up with its 95 % interval; an open end goes further than its number.

    Attributes:
        ratio: time of the reference over time of the method.
        low: lower end of the interval.
        high: upper end; where draws met a flat piece of the curve, by the flat piece's end.
        bound: whether `ratio` itself is only a bound.
        low_open: 2.5 % of draws or more fell below the curve: the interval goes on below `low`.
        high_open: as many fell above it, or on a flat piece that ends it: it goes on above `high`.
        draws: (D, 2) ratio of each draw, by the shortest time and by the end of the flat piece.
        opens: (D, 2) whether a draw is open below, and above.
    """

    ratio: float
    low: float
    high: float
    bound: Bound
    low_open: bool
    high_open: bool
    draws: FloatArray = field(repr=False, compare=False)
    opens: BoolArray = field(repr=False, compare=False)


def equivalent_speedup(
    right: Sequence[BoolArray],
    method_s: float,
    curve: Sequence[CurvePoint],
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
) -> Speedup:
    """Return the time that the reference needs for the method's accuracy, over the method's own.

    Rows and seeds are drawn for method and curve together, and a curve that never falls is fitted anew in
    each draw, each point weighing as much as it has seeds.

    Args:
        right: over the method's seeds, which eval rows (n,) it got right.
        method_s: its seconds, above 0.
        curve: the reference at two or more times (five are wanted), on the same eval rows.
        rng: what the draws are taken from.
        n_draws: how many draws.
    """
    curve = sorted(curve, key=lambda point: point[0])
    times_s, weights = zip(*((seconds, len(seeds)) for seconds, seeds in curve), strict=True)

    def needed(row: Sequence[float]) -> TimeNeeded:
        return time_for(row[0], times_s, isotonic_regression(row[1:], weights=weights).x.tolist())

    groups = [right, *(seeds for _, seeds in curve)]
    measured = needed([mean_accuracy(seeds) for seeds in groups])
    found = [needed(row) for row in draw_accuracies(groups, rng, n_draws).tolist()]
    draws = np.array([(one.seconds, one.until_s) for one in found]) / method_s
    opens = [
        (one.bound == "at most", one.bound == "at least" or one.seconds < one.until_s == times_s[-1])
        for one in found
    ]
    return _with_interval(measured.seconds / method_s, measured.bound, draws, np.array(opens))


def pooled(speedups: Sequence[Speedup], rng: np.random.Generator, n_draws: int = N_DRAWS) -> Speedup:
    """Return the geometric mean over data sets, each weighing the same.

    A draw takes K - 1 of K sets with replacement and one draw of each set's own; the spread between sets
    holds their own noise already, so this errs on the wide side. One set keeps its own interval. A draw
    is open where any of its sets is.
    """
    shares = resampled_shares(len(speedups), rng, n_draws)
    picks = [rng.integers(0, len(one.draws), n_draws) for one in speedups]
    logs = np.stack([np.log(one.draws[pick]) for one, pick in zip(speedups, picks, strict=True)], axis=1)
    opens = np.stack([one.opens[pick] for one, pick in zip(speedups, picks, strict=True)], axis=1)
    draws = np.exp(np.einsum("dk,dke->de", shares, logs))
    opened = np.asarray((opens & (shares[:, :, None] > 0)).any(axis=1))
    bounds = {one.bound for one in speedups if one.bound}
    bound: Bound = "about" if len(bounds) > 1 else next(iter(bounds), "")
    ratio = math.exp(sum(math.log(one.ratio) for one in speedups) / len(speedups))
    return _with_interval(ratio, bound, draws, opened)


def _with_interval(ratio: float, bound: Bound, draws: FloatArray, opens: BoolArray) -> Speedup:
    """Return the interval of draws (D, 2), widened to hold the ratio itself."""
    low, high = (float(np.quantile(draws[:, end], TAILS[end])) for end in (0, 1))
    low_open, high_open = (bool(rate >= TAILS[0]) for rate in opens.mean(axis=0))
    low_open |= bound in ("at most", "about")
    high_open |= bound in ("at least", "about")
    return Speedup(ratio, min(low, ratio), max(high, ratio), bound, low_open, high_open, draws, opens)
