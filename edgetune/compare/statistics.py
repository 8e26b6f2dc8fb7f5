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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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


def accuracy_interval(
    right: Sequence[BoolArray], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> tuple[float, float]:
    """Return the 95 % interval of a mean accuracy: by draws, or Wilson's where there is but one seed."""
    if len(right) == 1:
        return wilson_interval(int(_columns([right]).sum()), len(right[0]))
    return percentile_interval(draw_accuracies([right], rng, n_draws)[:, 0])


def rank(
    methods: Mapping[str, Sequence[BoolArray]], rng: np.random.Generator, n_draws: int = N_DRAWS
) -> list[Ranked]:
    """Return the methods by accuracy, highest first; of equal ones the first by name.

    All are compared in the same draws, pair by pair and without a correction for how many pairs there
    are: of 17 equal methods some will not be called tied with the luckiest. A method of few seeds and a
    wide interval can share a rank with one far above it.
    """
    if not methods:
        return []
    names = sorted(methods, key=lambda name: (-mean_accuracy(methods[name]), name))
    draws = draw_accuracies([methods[name] for name in names], rng, n_draws)
    n_better = [
        int(np.count_nonzero(np.quantile(draws - draws[:, [i]], TAILS[0], axis=0) > 0))
        for i in range(len(names))
    ]
    behind_best = np.quantile(draws[:, [0]] - draws, TAILS[0], axis=0) > 0
    ranked = []
    for i, name in enumerate(names):
        right = methods[name]
        low, high = accuracy_interval(right, rng) if len(right) == 1 else percentile_interval(draws[:, i])
        tied = not bool(behind_best[i])
        ranked.append(Ranked(name, mean_accuracy(right), low, high, len(right), 1 + n_better[i], tied))
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
