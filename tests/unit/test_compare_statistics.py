"""Differences, intervals, ranks and speed-ups against values worked by hand."""

from __future__ import annotations

import math
import time
import tracemalloc

import numpy as np
import pytest

from edgetune.compare import statistics
from edgetune.compare.statistics import TimeNeeded, time_for
from edgetune.utils.metrics import wilson_interval
from edgetune.utils.types import BoolArray


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def runs(*shares: float, n: int = 100) -> list[BoolArray]:
    """Seeds that get the first rows right, up to each share."""
    return [np.arange(n) < round(share * n) for share in shares]


def gap(
    a: list[BoolArray], b: list[BoolArray], generator: np.random.Generator, n_draws: int = statistics.N_DRAWS
) -> tuple[float, float]:
    """The 95 % interval of how far `a` is above `b`, in draws that they share."""
    draws = statistics.draw_accuracies([a, b], generator, n_draws)
    return statistics.percentile_interval(draws[:, 0] - draws[:, 1])


# Accuracies and differences


def test_differences_of_what_is_known() -> None:
    assert statistics.mean_accuracy([np.array([1, 1, 0, 0]) > 0, np.array([1, 1, 1, 0]) > 0]) == 0.625
    assert gap(runs(0.8, 0.9, 0.7), runs(0.8, 0.9, 0.7), rng()) == (0.0, 0.0)
    assert gap(runs(1.0), runs(0.0), rng(), n_draws=999) == (1.0, 1.0)


def test_one_seed_has_the_spread_of_paired_rows() -> None:
    # 1,000 rows of which 60 are won and 30 lost: mean 0.03, variance of a row 0.09 - 0.03 ** 2.
    n, a = 1000, np.arange(1000) < 60
    b = (np.arange(1000) >= 60) & (np.arange(1000) < 90)
    sd = math.sqrt((0.09 - 0.0009) / n)
    found = gap([a], [b], rng(), n_draws=20_000)
    assert found == pytest.approx((0.03 - 1.96 * sd, 0.03 + 1.96 * sd), abs=0.0015)
    low, high = gap([a], [b & (np.arange(1000) >= 40)], rng())
    assert low < 0.03 < high


def test_seeds_vary_as_much_as_the_variance_of_their_mean() -> None:
    # Every row agrees, so that only seeds vary: accuracies 1, 0, 0 have s² = 1/3, and s² / 3 is 1/9.
    draws = statistics.draw_accuracies([runs(1.0, 0.0, 0.0)], rng(), n_draws=40_000)[:, 0]
    assert draws.mean() == pytest.approx(1 / 3, abs=0.01)
    assert draws.var() == pytest.approx(1 / 9, abs=0.003)
    (found,) = statistics.rank({"two seeds": runs(1.0, 0.0)}, rng())
    assert (found.low, found.high) == (0.0, 1.0)


def test_equally_many_seeds_are_drawn_together_and_others_apart() -> None:
    a, b = runs(0.9, 0.5, 0.7), runs(0.8, 0.4, 0.6)
    draws = statistics.draw_accuracies([a, b, runs(0.9, 0.5)], rng(), n_draws=4000)
    assert np.corrcoef(draws[:, 0], draws[:, 1])[0, 1] > 0.95
    assert abs(np.corrcoef(draws[:, 0], draws[:, 2])[0, 1]) < 0.3


def test_both_ways_of_drawing_rows_have_the_same_spread() -> None:
    # 64 rows of 2 patterns are drawn by pattern, 6 of 6 patterns row by row.
    seeds = [row > 0 for row in np.array([[1, 0, 0, 1, 1, 0], [1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 1, 0]])]
    for groups in ([seeds], [runs(0.25, n=64)]):
        columns = np.array(groups[0])
        draws = statistics._draw_rows(columns, rng(), 40_000)
        assert draws.mean(axis=0) == pytest.approx(columns.mean(axis=1), abs=0.01)
        expected = np.cov(columns.astype(float), bias=True) / columns.shape[1]
        assert np.cov(draws.T) == pytest.approx(expected, abs=0.002)


def test_the_largest_eval_set_is_quick_and_small() -> None:
    n, generator = 40_430, rng()
    # 16 independent runs: nearly every row is of its own kind, the dearest case there is.
    a, b = ([generator.random(n) < 0.6 for _ in range(8)] for _ in range(2))
    tracemalloc.start()
    start = time.process_time()
    low, high = gap(a, b, generator)
    elapsed_s, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert elapsed_s < 20  # 1 s where nothing else runs
    assert low < 0 < high


@pytest.mark.parametrize(
    "groups",
    [[[]], [runs(0.5), runs(0.5, n=50)], [[np.zeros(0, dtype=np.bool_)] * 2], [runs(0.5), []]],
)
def test_what_cannot_be_compared_is_refused(groups: list[list[BoolArray]]) -> None:
    with pytest.raises((ValueError, IndexError)):
        statistics.draw_accuracies(groups, rng())


# Ranks


def test_ranks_count_who_is_significantly_better() -> None:
    methods = {
        "worst": runs(0.50, 0.51, 0.49, n=1000),
        "second": runs(0.895, 0.905, 0.895, n=1000),
        "best": runs(0.90, 0.90, 0.90, n=1000),
        "middle": runs(0.70, 0.70, 0.71, n=1000),
    }
    found = statistics.rank(methods, rng())
    assert [(one.method, one.rank, one.tied_with_best) for one in found] == [
        ("best", 1, True),
        ("second", 1, True),
        ("middle", 3, False),
        ("worst", 4, False),
    ]
    assert [one.accuracy for one in found] == sorted((one.accuracy for one in found), reverse=True)
    assert all(one.low <= one.accuracy <= one.high and one.n_seeds == 3 for one in found)


def test_one_method_is_the_best_and_equal_ones_share_the_rank_by_name() -> None:
    (only,) = statistics.rank({"alone": runs(0.9)}, rng())
    assert (only.rank, only.tied_with_best, (only.low, only.high)) == (1, True, wilson_interval(90, 100))
    assert statistics.rank({}, rng()) == []
    found = statistics.rank({name: runs(0.8, 0.9) for name in ("c", "a", "b")}, rng())
    assert [(one.method, one.rank, one.tied_with_best) for one in found] == [(n, 1, True) for n in "abc"]


# The curve


@pytest.mark.parametrize(
    ("accuracy", "needed"),
    [
        (0.49, (1.0, 1.0, "at most")),
        (0.5, (1.0, 1.0, "")),
        (0.6, (math.sqrt(10), math.sqrt(10), "")),
        (0.7, (10.0, 20.0, "")),  # a flat piece has a start and an end
        (0.7 + 1e-12, (20.0, 20.0, "")),
        (0.9, (100.0, 100.0, "")),
        (0.91, (100.0, 100.0, "at least")),
    ],
)
def test_the_curve_is_straight_in_log_time_and_ends(accuracy: float, needed: TimeNeeded) -> None:
    found = time_for(accuracy, [1.0, 10.0, 20.0, 100.0], [0.5, 0.7, 0.7, 0.9])
    assert found == (pytest.approx(needed[0]), pytest.approx(needed[1]), needed[2])


# Speed-ups

TIMES = (30.0, 60.0, 120.0, 240.0, 480.0)


def reference(n: int = 2000) -> list[statistics.CurvePoint]:
    """Two points more for each doubling of the time, 80 % at 30 s."""
    return [(seconds, runs(*[0.80 + 0.02 * i] * 3, n=n)) for i, seconds in enumerate(TIMES)]


def test_two_points_more_are_worth_a_factor_of_two() -> None:
    found = statistics.equivalent_speedup(runs(*[0.86] * 3, n=2000), 120.0, reference(), rng())
    assert found.ratio == pytest.approx(2.0)
    assert (found.bound, found.low_open, found.high_open) == ("", False, False)
    # The rows are nested, so all accuracies rise and fall together, in every draw.
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))
    half = statistics.equivalent_speedup(runs(*[0.83] * 3, n=2000), 120.0, reference(), rng())
    assert half.ratio == pytest.approx(60 * math.sqrt(2) / 120)


def test_a_difference_on_other_rows_has_a_wide_interval() -> None:
    right = [np.roll(seed, 37) for seed in runs(*[0.85] * 3, n=2000)]
    found = statistics.equivalent_speedup(right, 120.0, reference(), rng())
    assert found.low < 0.95 * found.ratio
    assert found.high > 1.05 * found.ratio
    assert (found.low_open, found.high_open) == (False, False)


def test_beyond_the_curve_there_is_only_a_bound() -> None:
    above = statistics.equivalent_speedup(runs(*[0.95] * 3, n=2000), 120.0, reference(), rng())
    assert (above.ratio, above.bound, above.low, above.high) == (4.0, "at least", 4.0, 4.0)
    assert (above.high_open, above.low_open) == (True, False)
    below = statistics.equivalent_speedup(runs(*[0.5] * 3, n=2000), 120.0, reference(), rng())
    assert (below.ratio, below.bound, below.low_open, below.high_open) == (0.25, "at most", True, False)


def test_an_interval_that_reaches_the_end_of_the_curve_is_open() -> None:
    right = [np.roll(seed, 100) for seed in runs(*[0.879] * 3, n=2000)]
    found = statistics.equivalent_speedup(right, 120.0, reference(), rng())
    assert (found.bound, found.high_open, found.low_open) == ("", True, False)


def test_a_saturated_curve_says_that_its_end_is_open() -> None:
    flat = [(seconds, runs(0.9, n=500)) for seconds in (1.0, 2.0, 4.0)]
    found = statistics.equivalent_speedup(runs(0.9, n=500), 2.0, flat, rng())
    assert (found.ratio, found.low, found.high, found.high_open) == (0.5, 0.5, 2.0, True)


# Pooling


def one_set(ratio: float, bound: statistics.Bound = "", n_draws: int = 50) -> statistics.Speedup:
    opens = np.tile([bound == "at most", bound == "at least"], (n_draws, 1))
    low_open, high_open = (bool(one) for one in opens[0])
    return statistics.Speedup(
        ratio, ratio, ratio, bound, low_open, high_open, draws=np.full((n_draws, 2), ratio), opens=opens
    )


def test_pooling_takes_the_geometric_mean() -> None:
    found = statistics.pooled([one_set(0.5), one_set(2.0), one_set(8.0)], rng())
    assert found.ratio == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((0.5, 8.0))
    assert found.bound == ""
    alone = statistics.pooled([one_set(1.5)], rng())
    assert (alone.ratio, alone.low, alone.high) == pytest.approx((1.5, 1.5, 1.5))


def test_a_bound_in_one_set_bounds_the_whole() -> None:
    found = statistics.pooled([one_set(1.0), one_set(4.0, "at least")], rng())
    assert (found.bound, found.high_open, found.low_open) == ("at least", True, False)
    mixed = statistics.pooled([one_set(0.2, "at most"), one_set(4.0, "at least")], rng())
    assert (mixed.bound, mixed.high_open, mixed.low_open) == ("about", True, True)


def test_pooling_holds_the_sets_own_noise() -> None:
    right = [np.roll(seed, 37) for seed in runs(*[0.84] * 3, n=2000)]
    single = statistics.equivalent_speedup(right, 120.0, reference(), rng())
    found = statistics.pooled([single], rng(1))
    assert (found.low, found.high) == pytest.approx((single.low, single.high), rel=0.03)
