from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.compare import statistics
from edgetune.compare.statistics import CurvePoint, equivalent_speedup, pooled, time_for
from edgetune.report.charts import undominated
from edgetune.utils.types import BoolArray

seeds = st.integers(0, 2**32 - 1)
values_of = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12)
FEW = 300
"""Draws: enough for a property, quick enough for many examples."""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def noisy_runs(generator: np.random.Generator, accuracy: float, n: int, n_seeds: int) -> list[BoolArray]:
    """Runs that agree on what is easy: a row's difficulty is its place, and one in twenty is a surprise."""
    right = np.arange(n) < accuracy * n
    return [right ^ (generator.random(n) < 0.05) for _ in range(n_seeds)]


def noisy_curve(generator: np.random.Generator, n: int, n_seeds: int) -> list[CurvePoint]:
    return [(30.0 * 2**i, noisy_runs(generator, 0.6 + 0.08 * i, n, n_seeds)) for i in range(5)]


@given(seeds, st.integers(2, 300), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_order_of_rows_changes_nothing(seed: int, n: int, n_a: int, n_b: int) -> None:
    generator = rng(seed)
    a, b = noisy_runs(generator, 0.7, n, n_a), noisy_runs(generator, 0.6, n, n_b)
    order = generator.permutation(n)
    in_order = statistics.draw_accuracies([a, b], rng(seed), FEW)
    shuffled = statistics.draw_accuracies([[x[order] for x in a], [x[order] for x in b]], rng(seed), FEW)
    assert statistics.rank({"a": a, "b": b}, rng(seed), FEW) == statistics.rank(
        {"a": [x[order] for x in a], "b": [x[order] for x in b]}, rng(seed), FEW
    )
    np.testing.assert_array_equal(shuffled, in_order)


@given(seeds, st.integers(2, 300), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_difference_changes_sides_with_its_methods(seed: int, n: int, n_seeds: int) -> None:
    generator = rng(seed)
    a, b = noisy_runs(generator, 0.7, n, n_seeds), noisy_runs(generator, 0.6, n, n_seeds)
    first, second = statistics.draw_accuracies([a, b], rng(0), FEW).T
    low, high = statistics.percentile_interval(first - second)
    second, first = statistics.draw_accuracies([b, a], rng(1), FEW).T
    other_low, other_high = statistics.percentile_interval(second - first)
    noise = 0.5 * (high - low) + 2 / n
    assert (low, high) == pytest.approx((-other_high, -other_low), abs=noise)


@given(seeds, st.integers(1, 300), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_an_interval_lies_in_0_to_1_and_around_the_accuracy(seed: int, n: int, n_seeds: int) -> None:
    right = noisy_runs(rng(seed), 0.7, n, n_seeds)
    (found,) = statistics.rank({"a": right}, rng(seed), FEW)
    assert 0 <= found.low <= found.high <= 1
    assert found.low - 1e-9 <= statistics.mean_accuracy(right) <= found.high + 1e-9


@given(seeds, st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_ranks_are_of_all_methods_and_the_best_is_first(seed: int, n_methods: int, n_seeds: int) -> None:
    generator = rng(seed)
    shares = generator.uniform(0.5, 0.9, n_methods)
    methods = {f"m{i}": noisy_runs(generator, share, 200, n_seeds) for i, share in enumerate(shares)}
    found = statistics.rank(methods, rng(seed), FEW)
    assert {one.method for one in found} == set(methods)
    assert (found[0].rank, found[0].tied_with_best) == (1, True)
    assert all(1 <= one.rank <= place for place, one in enumerate(found, start=1))
    assert all(one.tied_with_best for one in found if one.rank == 1)


@given(values_of.filter(lambda values: len(values) > 1), st.floats(0, 1))
def test_time_and_accuracy_are_inverse_inside_the_curve(values: list[float], share: float) -> None:
    times, accuracies = [2.0**i for i in range(len(values))], sorted(values)
    low, high = accuracies[0], accuracies[-1]
    needed = time_for(low + share * (high - low), times, accuracies)
    if not needed.bound:
        inside = min(max(needed.seconds, times[0]), times[-1])
        found = np.interp(np.log(inside), np.log(times), accuracies)
        assert found == pytest.approx(low + share * (high - low), abs=1e-6)
        assert needed.seconds <= needed.until_s
    assert times[0] <= needed.seconds * (1 + 1e-9)
    assert needed.seconds <= times[-1] * (1 + 1e-9)


@given(seeds, st.integers(0, 4), st.sampled_from([1, 3]))
@settings(max_examples=25, deadline=None)
def test_the_reference_against_itself_is_worth_1(seed: int, which: int, n_seeds: int) -> None:
    curve = noisy_curve(rng(seed), 400, n_seeds)
    seconds, right = curve[which]
    found = equivalent_speedup(right, seconds, curve, rng(seed), FEW)
    assert found.low <= 1 <= found.high
    assert found.ratio == pytest.approx(1)


@given(seeds, st.integers(0, 4), st.floats(0.02, 0.3))
@settings(max_examples=25, deadline=None)
def test_more_right_at_the_same_time_is_worth_more_than_1(seed: int, which: int, gain: float) -> None:
    generator = rng(seed)
    curve = noisy_curve(generator, 400, 3)
    seconds, right = curve[which]
    better = [one | (generator.random(400) < gain) for one in right]
    found = equivalent_speedup(better, seconds, curve, rng(seed), FEW)
    assert found.ratio >= 1
    assert found.high >= 1
    assert found.low <= found.ratio <= found.high
    slower = equivalent_speedup(better, 2 * seconds, curve, rng(seed), FEW)
    assert (slower.ratio, slower.low) == pytest.approx((found.ratio / 2, found.low / 2))


@given(seeds, st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_a_pooled_ratio_lies_among_its_sets(seed: int, n_sets: int) -> None:
    generator = rng(seed)
    found = []
    for _ in range(n_sets):
        right = noisy_runs(generator, generator.uniform(0.65, 0.85), 300, 2)
        found.append(equivalent_speedup(right, 120.0, noisy_curve(generator, 300, 2), generator, 100))
    together = pooled(found, rng(seed), FEW)
    ratios = [one.ratio for one in found]
    assert min(ratios) * (1 - 1e-9) <= together.ratio <= max(ratios) * (1 + 1e-9)
    assert together.low <= together.ratio <= together.high
    assert math.log(together.ratio) == pytest.approx(np.mean(np.log(ratios)))
    assert pooled(found, rng(seed), FEW) == together


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=12))
def test_no_point_beats_the_front(pairs: list[tuple[float, float]]) -> None:
    front = [pairs[i] for i in undominated(*np.array(pairs).T)]
    for seconds, accuracy in pairs:
        beaten = any(t <= seconds and a > accuracy for t, a in pairs)
        assert not (beaten and (seconds, accuracy) in front)
        assert any(t <= seconds and a >= accuracy for t, a in front)
    assert front == sorted(front)
