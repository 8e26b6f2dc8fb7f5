"""How sure an accuracy, a difference or a rank is: one two-level bootstrap over eval rows and seeds.

Every method is known by what it got right: a list over seeds of boolean arrays (n,) on the SAME n eval
rows. A draw takes n rows with replacement, the same for every method, and S - 1 of S seeds with
replacement, since the variance of a mean of S - 1 draws is the unbiased s² / S (Rao and Wu, JASA 1988);
with one seed there is nothing to draw and only rows vary. Methods with equally many seeds draw them
together: the position in the list is the seed. Drawing rows and seeds at once errs on the wide side
(Owen, "The pigeonhole bootstrap", 2007), but a few seeds say little of how seeds vary. Of simulated equal
methods with three seeds or more, 5 % or fewer were called different where rows mattered as much as seeds
did; where seeds alone mattered, a fifth with three seeds and a tenth with five. One seed knows nothing of
seeds.

Rows that all methods and seeds treat alike are interchangeable, so what is drawn is how often each
pattern of right and wrong occurs. It is quick, exact, and blind to the order of the rows.

The equivalent speed-up is what a method's accuracy is worth in time of the reference.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import isotonic_regression

from edgetune.utils.metrics import wilson_interval
from edgetune.utils.types import BoolArray, FloatArray, IntArray

N_DRAWS = 2000
TAILS = (0.025, 0.975)
"""Quantiles that bound a 95 % interval."""
CELLS = 2**20
"""Counts held in memory at a time: 8 MB of them, and as much again for each copy."""
BINOMIAL_COST = 6
"""Drawing how often a pattern occurs costs about as much as drawing so many single rows."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One line of the ranking: mean accuracy over seeds, and the ends of its 95 % interval.

    Attributes:
        rank: 1 + how many methods are significantly better (5 %, paired); so ties share a rank.
        tied_with_best: whether its difference to the highest accuracy is not significant.
    """

    method: str
    accuracy: float
    low: float
    high: float
    n_seeds: int
    rank: int
    tied_with_best: bool


def mean_accuracy(right: Sequence[BoolArray]) -> float:
    """Return the mean over seeds of the share of rows (n,) that are right."""
    return float(_columns([right]).mean())


def rank(
    methods: Mapping[str, Sequence[BoolArray]], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> list[Ranked]:
    """Return the methods by accuracy, highest first; of equal ones the first by name.

    An interval is that of the draws, or Wilson's where there is but one seed.

    All are compared in the same draws, pair by pair and without a correction for how many pairs there
    are: of 17 equal methods some will not be called tied with the luckiest. A method of few seeds and a
    wide interval can share a rank with one far above it.
    """
    if not methods:
        return []
    names = sorted(methods, key=lambda name: (-mean_accuracy(methods[name]), name))
    draws = draw_accuracies([methods[name] for name in names], rng, n_draws)
    ranked = []
    for i, name in enumerate(names):
        right = methods[name]
        low, high = percentile_interval(draws[:, i])
        if len(right) == 1:
            low, high = wilson_interval(int(np.sum(right)), np.size(right))
        is_better = np.quantile(draws - draws[:, [i]], TAILS[0], axis=0) > 0
        place = 1 + int(np.count_nonzero(is_better))
        ranked.append(
            Ranked(name, mean_accuracy(right), low, high, len(right), place, tied_with_best=not is_better[0])
        )
    return ranked


def draw_accuracies(
    groups: Sequence[Sequence[BoolArray]], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> FloatArray:
    """Return mean accuracies (D, G) of G methods in D draws that they share; see the module's text."""
    by_seed = _draw_rows(_columns(groups), rng, n_draws)
    sizes = [len(right) for right in groups]
    shares = {size: resampled_shares(size, rng, n_draws) for size in sorted(set(sizes))}
    ends = np.cumsum(sizes)
    means = [
        np.einsum("ds,ds->d", by_seed[:, end - size : end], shares[size])
        for size, end in zip(sizes, ends, strict=True)
    ]
    return np.stack(means, axis=1)


def resampled_shares(n: int, rng: np.random.Generator, n_draws: int) -> FloatArray:
    """Return the share (D, n) of each of n things in draws of n - 1 of them; 1 where there is but one."""
    if n == 1:
        return np.ones((n_draws, 1))
    return np.asarray(rng.multinomial(n - 1, np.full(n, 1 / n), size=n_draws) / (n - 1))


def percentile_interval(draws: FloatArray) -> tuple[float, float]:
    """Return the 95 % percentile interval of draws (D,)."""
    low, high = np.quantile(draws, TAILS)
    return float(low), float(high)


def _columns(groups: Sequence[Sequence[BoolArray]]) -> BoolArray:
    """Stack what every seed of every method got right, (S, n), after checking that it can be compared."""
    seeds = [np.asarray(seed, dtype=np.bool_) for right in groups for seed in right]
    if len({seed.shape for seed in seeds}) != 1 or not seeds[0].size or not all(map(len, groups)):
        raise ValueError("every method needs a seed or more, all evaluated on the same rows, one or more")
    return np.stack(seeds)


def _draw_rows(right: BoolArray, rng: np.random.Generator, n_draws: int) -> FloatArray:
    """Return the accuracy (D, S) of each of S runs (S, n) in draws of n rows, the same rows for all."""
    n = right.shape[1]
    packed, n_alike = np.unique(np.packbits(right, axis=0).T, axis=0, return_counts=True)
    patterns = np.unpackbits(packed, axis=1, count=len(right)).astype(np.float64)
    few = BINOMIAL_COST * len(patterns) < n
    if not few:
        patterns = np.repeat(patterns, n_alike, axis=0)
    accuracies = np.empty((n_draws, len(right)))
    step = max(1, CELLS // len(patterns))
    for first in range(0, n_draws, step):
        size = min(step, n_draws - first)
        counts = rng.multinomial(n, n_alike / n, size=size) if few else _draw_counts(n, size, rng)
        accuracies[first : first + size] = counts @ patterns / n  # whole numbers: exact in any order
    return accuracies


def _draw_counts(n: int, size: int, rng: np.random.Generator) -> IntArray:
    """Return how often each of n rows was taken, (size, n), in draws of n rows."""
    taken = rng.integers(0, n, size=(size, n))
    taken += n * np.arange(size)[:, None]
    return np.bincount(taken.ravel(), minlength=size * n).reshape(size, n)


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

    The times of the reference rise, and the accuracies fitted to them never fall.
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
        rng: decides the draws.
        n_draws: how many.
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
