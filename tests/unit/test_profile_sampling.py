"""Which point is measured when, how sure a median is, and how slow moments of a machine are taken out."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from edgetune.profiling.sampling import (
    FEWEST_VISITS,
    GridPoint,
    Sampler,
    grid_points,
    median_interval,
    slowness,
)
from edgetune.utils.types import FloatArray, IntArray

CHEAP, DEAR = GridPoint("a", "score", 8, 16, 0), GridPoint("a", "train", 32, 128, 0)


def make_sampler(*chosen: GridPoint) -> Sampler:
    sampler = Sampler(6, np.random.default_rng(0))
    sampler.take(chosen or grid_points(["a", "b"], (16, 64), (8, 32), (0, 3)))
    return sampler


def test_a_grid_has_no_prefix_at_depth_0() -> None:
    found = grid_points(["a"], (16,), (8,), (0, 3))
    assert [(spot.op, spot.depth) for spot in found] == [
        *(("score", 0), ("train", 0)),
        *(("prefix", 3), ("score", 3), ("train", 3)),
    ]


@pytest.mark.parametrize("usual_sd", [None, 1.0])
@pytest.mark.parametrize("n", [2, 3, 5, 6, 9, 20])
def test_the_interval_of_a_median_covers_it_19_times_in_20(n: int, usual_sd: float | None) -> None:
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(list(rng.normal(10.0, 1.0, n)), usual_sd)
        hits += low <= 10.0 <= high
    assert hits / 2000 > 0.92


def test_the_interval_holds_the_median_and_stays_positive() -> None:
    for samples in ([1.0], [1.0, 5.0], [0.1, 3.0, 0.2], [1.0] * 7):
        low, high = median_interval(samples)
        assert 0 < low <= statistics.median(samples) <= high


def test_a_round_visits_every_open_spot_once_in_another_order() -> None:
    sampler = make_sampler()
    first = sampler.next_round(1e9)
    assert sorted(first) == sorted(sampler.samples)
    assert first != sorted(first)
    assert sampler.next_round(1e9) != first
    for spot in first[:4]:
        for _ in range(FEWEST_VISITS):
            sampler.add(spot, [0.1])
    for seconds in (0.1, 0.2, 0.1, 0.25):  # visited often enough, but not sure
        sampler.add(first[4], [seconds])
    assert set(sampler.next_round(1e9)) == set(first[4:])


def test_when_time_is_short_the_least_visited_and_cheapest_go_first() -> None:
    sampler = make_sampler(CHEAP, DEAR)
    sampler.add(CHEAP, [0.1])
    assert sampler.next_round(sampler.visit_s(CHEAP) * 1.01) == []  # the unvisited one goes first
    sampler.add(DEAR, [9.0])
    assert sampler.next_round(1.0) == [CHEAP]
    assert sampler.next_round(0.0) == []


def test_short_calls_are_repeated_and_preceded_by_one_that_does_not_count() -> None:
    sampler = make_sampler(CHEAP, DEAR)
    sampler.add(CHEAP, [0.01])
    sampler.add(DEAR, [2.0])
    assert sampler.calls(CHEAP) == (5, True)
    assert sampler.calls(DEAR) == (1, False)


def test_points_hold_what_was_measured() -> None:
    sampler = make_sampler(CHEAP, DEAR)
    assert not sampler.has_whole("a")
    for value in (0.10, 0.11, 0.12):
        sampler.add(CHEAP, [value])
    (point,) = sampler.points("a")
    assert (point.s, point.n) == (0.11, 3)
    assert point.low_s < 0.11 < point.high_s
    sampler.add(DEAR, [0.3])
    assert sampler.has_whole("a")
    once = next(point for point in sampler.points("a") if point.op == "train")
    assert once.high_s > 1.1 * once.s  # a single visit is as unsure as others usually are
    sampler.drop("a")
    assert not sampler.samples


N_SPOTS, N_ROUNDS = 40, 6


def rounds(rng: np.random.Generator) -> IntArray:
    return np.concatenate([rng.permutation(N_SPOTS) for _ in range(N_ROUNDS)])


def moments(n: int) -> FloatArray:
    """A machine that takes a third longer for some ten measurements, now and then."""
    return 1 + 0.35 * (np.arange(n) % 53 < 11)


def test_slow_moments_are_seen_and_leave_nothing_behind() -> None:
    rng = np.random.default_rng(0)
    spots, usual = rounds(rng), rng.uniform(0.01, 1.0, N_SPOTS)
    slow = moments(len(spots))
    found = slowness(spots, usual[spots] * slow)
    for kind in (slow > 1, slow == 1):
        assert np.median(np.abs(found / slow - 1)[kind]) < 0.02
        assert np.mean(np.abs(found / slow - 1)[kind] > 0.02) < 0.3  # the ends of a moment are not sharp


@pytest.mark.parametrize("seed", range(5))
def test_with_noise_on_top_medians_come_nearer_to_the_truth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spots, usual = rounds(rng), rng.uniform(0.01, 1.0, N_SPOTS)
    seconds = usual[spots] * moments(len(spots)) * rng.lognormal(0.0, 0.02, len(spots))
    calm = seconds / slowness(spots, seconds)
    errors = [
        np.mean([abs(np.median(values[spots == spot]) / usual[spot] - 1) for spot in range(N_SPOTS)])
        for values in (seconds, calm)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_where_there_are_no_such_moments_little_or_nothing_is_changed() -> None:
    untouched = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        spots = rounds(rng)
        seconds = rng.lognormal(0.0, 0.05, len(spots))
        found = slowness(spots, seconds)
        untouched += bool((found == 1.0).all())
        assert np.std(np.log(found)) < 0.05
    assert untouched > 10


def test_an_operation_that_is_measured_in_a_row_does_not_judge_itself() -> None:
    spots = np.array([0, 1, 0, 1] + [0] * 20)
    seconds = np.array([1.0, 1.0, 1.0, 1.0] + [1.0] * 10 + [1.3] * 10)
    assert (slowness(spots, seconds)[-10:] == 1.0).all()


def test_what_was_measured_once_tells_nothing() -> None:
    assert (slowness(np.arange(9), np.arange(1.0, 10.0)) == 1.0).all()
    assert len(slowness(np.zeros(0, np.int64), np.zeros(0))) == 0
    spots, seconds = np.array([0, 1, 0, 2]), np.array([1.0, 5.0, 2.0, 9.0])
    assert slowness(spots, seconds).shape == (4,)


def test_points_are_of_the_usual_machine_and_a_backend_that_is_dropped_is_forgotten() -> None:
    spots = [GridPoint(key, "score", 8, 8 * (n + 1), 0) for key in "ab" for n in range(N_SPOTS // 2)]
    sampler = Sampler(6, np.random.default_rng(0))
    sampler.take(spots)
    rng = np.random.default_rng(1)
    order = rounds(rng)
    for number, slow in zip(order, moments(len(order)), strict=True):
        sampler.add(spots[number], [0.01 * (1 + number) * slow * rng.lognormal(0.0, 0.01)])
    usual = {spot: 0.01 * (1 + number) for number, spot in enumerate(spots)}
    found = {GridPoint(key, "score", 8, p.length, 0): p.s for key in "ab" for p in sampler.points(key)}
    errors = [abs(found[spot] / usual[spot] - 1) for spot in spots]
    raw = [abs(np.median(sampler.samples[spot].medians) / usual[spot] - 1) for spot in spots]
    assert np.median(errors) < 0.02
    assert np.mean(errors) < 0.7 * np.mean(raw)
    spread = sampler.spread
    sampler.drop("a")
    assert sampler.points("a") == []
    assert {spot.key for spot in sampler.calm()} == {"b"}
    assert spread < 0.05
