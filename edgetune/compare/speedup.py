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
from typing import Literal, TypeAlias

import numpy as np

from edgetune.compare.statistics import N_DRAWS, TAILS, draw_accuracies, mean_accuracy, resampled_shares
from edgetune.utils.types import BoolArray, FloatArray

Bound: TypeAlias = Literal["", "at most", "at least", "about"]
"""What a number is when the curve could not be read: `about` only where sets lie beyond both its ends."""

CurvePoint: TypeAlias = tuple[float, Sequence[BoolArray]]
"""Seconds of the reference, and over its seeds which eval rows (n,) it then got right."""


@dataclass(frozen=True, slots=True)
class TimeNeeded:
    """How long the reference takes to an accuracy.

    Attributes:
        seconds: the shortest time that reaches it; the nearest measured time where there is a bound.
        until_s: how long the curve stays there; above `seconds` on a flat piece alone.
        bound: `at most` (below the shortest time's accuracy), `at least` (above the longest's), or empty.
    """

    seconds: float
    until_s: float
    bound: Bound = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy against time: straight in log time between measured times, and nothing beyond them.

    Attributes:
        times_s: when it was measured, rising.
        accuracies: fitted at those times, never falling.
    """

    times_s: tuple[float, ...]
    accuracies: tuple[float, ...]

    def time_for(self, accuracy: float) -> TimeNeeded:
        """Return the time to an accuracy, or the bound that the measured times put on it."""
        times, fitted = self.times_s, self.accuracies
        after = bisect_left(fitted, accuracy)
        if after == len(fitted):
            return TimeNeeded(times[-1], times[-1], "at least")
        if fitted[after] == accuracy:
            return TimeNeeded(times[after], times[bisect_right(fitted, accuracy) - 1])
        if after == 0:
            return TimeNeeded(times[0], times[0], "at most")
        share = (accuracy - fitted[after - 1]) / (fitted[after] - fitted[after - 1])
        seconds = times[after - 1] * (times[after] / times[after - 1]) ** share
        return TimeNeeded(seconds, seconds)


@dataclass(frozen=True, slots=True)
class SpeedupRatio:
    """A speed-up with its 95 % interval; an open end goes further than its number.

    Attributes:
        ratio: time of the reference over time of the method.
        low: lower end of the interval.
        high: upper end; where draws met a flat piece of the curve, by the flat piece's end.
        bound: whether `ratio` itself is only a bound.
        low_open: 2.5 % of draws or more fell below the curve: the interval goes on below `low`.
        high_open: as many fell above it, or on a flat piece that ends it: it goes on above `high`.
    """

    ratio: float
    low: float
    high: float
    bound: Bound
    low_open: bool
    high_open: bool


@dataclass(frozen=True, slots=True)
class Speedup(SpeedupRatio):
    """The speed-up on one data set.

    Attributes:
        needed: time of the reference for the method's mean accuracy.
        n_points: times the reference was measured at; below five the curve is coarse.
        below_rate: share of draws below the curve.
        above_rate: share of draws above it.
        draws: (D, 2) ratio of each draw, by the shortest time and by the end of the flat piece.
        opens: (D, 2) whether a draw is open below, and above.
    """

    needed: TimeNeeded
    n_points: int
    below_rate: float
    above_rate: float
    draws: FloatArray = field(repr=False, compare=False)
    opens: BoolArray = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Pooled(SpeedupRatio):
    """The geometric mean over data sets.

    Attributes:
        n_sets: how many.
        n_bounds: in how many the ratio is only a bound.
    """

    n_sets: int
    n_bounds: int


def isotonic(values: Sequence[float], weights: Sequence[float]) -> tuple[float, ...]:
    """Return the never-falling values nearest in weighted squares: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for value, weight in zip(values, weights, strict=True):
        mean, total, n = value, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, more = blocks.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total, n = total + heavy, n + more
        blocks.append((mean, total, n))
    return tuple(mean for mean, _, n in blocks for _ in range(n))


def fit_curve(
    times_s: Sequence[float], accuracies: Sequence[float], weights: Sequence[float] | None = None
) -> Curve:
    """Fit a monotone curve to accuracies at two or more different times, in any order.

    Args:
        times_s: seconds, above 0.
        accuracies: measured at each.
        weights: how much each is believed, such as its number of seeds; None: all the same.
    """
    weights = [1.0] * len(times_s) if weights is None else weights
    points = sorted(zip(times_s, accuracies, weights, strict=True))
    times = tuple(float(point[0]) for point in points)
    if len(times) < 2 or len(set(times)) < len(times):
        raise ValueError(f"a curve needs two or more different times; these are {list(times)}")
    if not (times[0] > 0 and math.isfinite(times[-1]) and min(weights) > 0):
        raise ValueError(f"times and weights must be above 0; found {list(times)} s and {list(weights)}")
    return Curve(times, isotonic([float(p[1]) for p in points], [float(p[2]) for p in points]))


def equivalent_speedup(
    right: Sequence[BoolArray],
    method_s: float,
    curve: Sequence[CurvePoint],
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
) -> Speedup:
    """Return the time that the reference needs for the method's accuracy, over the method's own.

    Rows and seeds are drawn for method and curve together, and the curve is fitted anew in each draw.

    Args:
        right: over the method's seeds, which eval rows (n,) it got right.
        method_s: its seconds, above 0.
        curve: the reference at two or more times (five are wanted), on the same eval rows.
        rng: what the draws are taken from.
        n_draws: how many draws.
    """
    if not (method_s > 0 and math.isfinite(method_s)):
        raise ValueError(f"the method's time must be above 0 s; it is {method_s}")
    curve = sorted(curve, key=lambda point: point[0])
    times = [seconds for seconds, _ in curve]
    weights = [float(len(seeds)) for _, seeds in curve]
    fitted = fit_curve(times, [mean_accuracy(seeds) for _, seeds in curve], weights)
    needed = fitted.time_for(mean_accuracy(right))
    accuracies = draw_accuracies([right, *(seeds for _, seeds in curve)], rng, n_draws).tolist()
    found = [Curve(fitted.times_s, isotonic(row[1:], weights)).time_for(row[0]) for row in accuracies]
    draws = np.array([(one.seconds, one.until_s) for one in found]) / method_s
    below = np.array([one.bound == "at most" for one in found])
    above = np.array([one.bound == "at least" for one in found])
    flat_end = np.array([one.seconds < one.until_s == times[-1] for one in found])
    opens = np.stack([below, above | flat_end], axis=1)
    return Speedup(
        *_interval(needed.seconds / method_s, draws, opens, needed.bound),
        needed=needed,
        n_points=len(curve),
        below_rate=float(below.mean()),
        above_rate=float(above.mean()),
        draws=draws,
        opens=opens,
    )


def pooled(speedups: Sequence[Speedup], rng: np.random.Generator, n_draws: int = N_DRAWS) -> Pooled:
    """Return the geometric mean over data sets, each weighing the same.

    A draw takes K - 1 of K sets with replacement and one draw of each set's own; the spread between sets
    holds their own noise already, so this errs on the wide side. One set keeps its own interval. A draw
    is open where any of its sets is.
    """
    if not speedups:
        raise ValueError("pooling needs at least one data set")
    shares = resampled_shares(len(speedups), rng, n_draws)
    picks = [rng.integers(0, len(one.draws), n_draws) for one in speedups]
    logs = np.stack([np.log(one.draws[pick]) for one, pick in zip(speedups, picks, strict=True)], axis=1)
    opens = np.stack([one.opens[pick] for one, pick in zip(speedups, picks, strict=True)], axis=1)
    draws = np.exp(np.einsum("dk,dke->de", shares, logs))
    opened = np.asarray((opens & (shares[:, :, None] > 0)).any(axis=1))
    bounds = {one.bound for one in speedups if one.bound}
    bound: Bound = "about" if len(bounds) > 1 else next(iter(bounds), "")
    ratio = math.exp(sum(math.log(one.ratio) for one in speedups) / len(speedups))
    return Pooled(
        *_interval(ratio, draws, opened, bound),
        n_sets=len(speedups),
        n_bounds=sum(bool(one.bound) for one in speedups),
    )


def _interval(
    ratio: float, draws: FloatArray, opens: BoolArray, bound: Bound
) -> tuple[float, float, float, Bound, bool, bool]:
    """Return the values of a `Ratio`; the interval of draws (D, 2) is widened to hold the ratio itself."""
    low = float(np.quantile(draws[:, 0], TAILS[0]))
    high = float(np.quantile(draws[:, 1], TAILS[1]))
    rates = opens.mean(axis=0)
    low_open = bool(rates[0] >= TAILS[0]) or bound in ("at most", "about")
    high_open = bool(rates[1] >= TAILS[0]) or bound in ("at least", "about")
    return ratio, min(low, ratio), max(high, ratio), bound, low_open, high_open
