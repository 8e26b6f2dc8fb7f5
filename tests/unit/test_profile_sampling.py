"""Which point is measured when, and how sure a median is."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from edgetune.profiling.sampling import (
    FEWEST_VISITS,
    GridPoint,
    Sampler,
    Samples,
    grid_points,
    median_interval,
)


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


def test_a_spot_is_done_when_it_is_sure_and_was_visited_often_enough() -> None:
    samples = Samples()
    for number in range(FEWEST_VISITS):
        assert not samples.done
        samples.add([0.1, 0.1 + 1e-4 * number])
    assert samples.done
    assert samples.n_calls == 2 * FEWEST_VISITS
    shaky = Samples()
    for value in (0.1, 0.2, 0.1, 0.25):
        shaky.add([value])
    assert not shaky.done


def test_a_round_visits_every_open_spot_once_in_another_order() -> None:
    sampler = make_sampler()
    first = sampler.next_round(1e9)
    assert sorted(first) == sorted(sampler.samples)
    assert first != sorted(first)
    assert sampler.next_round(1e9) != first
    for spot in first[:4]:
        for _ in range(FEWEST_VISITS):
            sampler.add(spot, [0.1])
    assert set(sampler.next_round(1e9)) == set(first[4:])


def test_when_time_is_short_the_least_visited_and_cheapest_go_first() -> None:
    cheap, dear = GridPoint("a", "score", 8, 16, 0), GridPoint("a", "train", 32, 128, 0)
    sampler = make_sampler(cheap, dear)
    sampler.add(cheap, [0.1])
    assert sampler.next_round(sampler.visit_s(cheap) * 1.01) == []  # the unvisited one goes first
    sampler.add(dear, [9.0])
    assert sampler.next_round(1.0) == [cheap]
    assert sampler.next_round(0.0) == []


def test_short_calls_are_repeated_and_preceded_by_one_that_does_not_count() -> None:
    cheap, dear = GridPoint("a", "score", 8, 16, 0), GridPoint("a", "train", 32, 128, 0)
    sampler = make_sampler(cheap, dear)
    sampler.add(cheap, [0.01])
    sampler.add(dear, [2.0])
    assert sampler.calls(cheap) == (5, True)
    assert sampler.calls(dear) == (1, False)


def test_points_hold_what_was_measured() -> None:
    spot, other = GridPoint("a", "score", 8, 16, 0), GridPoint("a", "train", 8, 16, 0)
    sampler = make_sampler(spot, other)
    assert not sampler.has_whole("a")
    for value in (0.10, 0.11, 0.12):
        sampler.add(spot, [value])
    (point,) = sampler.points("a")
    assert (point.s, point.n) == (0.11, 3)
    assert point.low_s < 0.11 < point.high_s
    sampler.add(other, [0.3])
    assert sampler.has_whole("a")
    once = next(point for point in sampler.points("a") if point.op == "train")
    assert once.high_s > 1.1 * once.s  # a single visit is as unsure as others usually are
    sampler.drop("a")
    assert not sampler.samples
