from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.data.batches import Batch, join
from edgetune.selection import DataShape, SelectionSettings, Selector, make_selector
from edgetune.selection.features import TokenFeatures
from edgetune.selection.naive_bayes import BernoulliNaiveBayes, PooledNaiveBayes
from edgetune.selection.threshold import above

losses_of = st.lists(st.floats(0, 20, width=32), min_size=1, max_size=40).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def make(method: str, seed: int, **changed: Any) -> Selector:
    return make_selector(
        SelectionSettings.model_validate({"method": method, **changed}),
        DataShape(200, 2, 20),
        np.random.default_rng(seed),
    )


def random_batch(rng: np.random.Generator, first_row: int, n: int) -> Batch:
    lengths = rng.integers(0, 9, n)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    tokens = rng.integers(0, 20, offsets[-1])
    rows = np.arange(first_row, first_row + n) % 200
    return Batch(rows, rng.integers(0, 2, n), tokens, offsets, lengths, np.zeros(n, dtype=np.bool_))


@given(losses_of, st.floats(0, 20), st.floats(0, 20))
def test_a_higher_threshold_trains_a_subset(losses: np.ndarray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert not (above(losses, high) & ~above(losses, low)).any()


@given(seeds, st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_random_keeps_its_rate(seed: int, keep_rate: float) -> None:
    selector = make("random", seed, keep_rate=keep_rate)
    batch = random_batch(np.random.default_rng(0), 0, 500)
    kept = np.mean([selector.choose_score(batch).mean() for _ in range(8)])
    assert abs(kept - keep_rate) < 6 * np.sqrt(keep_rate * (1 - keep_rate) / 4000) + 1e-12


@given(
    seeds,
    st.lists(st.integers(0, 12), min_size=5, max_size=60),
    st.sampled_from(["tokens", "hashed"]),
    st.booleans(),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0.3, 5.0),
)
@settings(max_examples=60, deadline=None)
def test_three_stage_trains_only_above_its_threshold(
    seed: int,
    sizes: list[int],
    features: str,
    calibrated: bool,
    moving: bool,
    explore_rate: float,
    alt: float,
) -> None:
    """Whatever the stream, also when rows wait in a queue before they are scored or trained."""
    rng = np.random.default_rng(seed)
    selector = make(
        "three-stage",
        seed,
        features=features,
        calibrated=calibrated,
        moving_threshold=moving,
        explore_rate=explore_rate,
        alt=alt,
        alt_window=2,
        threshold_window=8,
    )
    to_train: list[Batch] = []
    n_seen = n_explored = 0
    for size in sizes:
        batch = random_batch(rng, n_seen, size)
        n_seen += size
        straight, threshold = selector.skips_scoring, selector.report()["threshold"]
        kept = batch.take(selector.choose_score(batch))
        losses = rng.exponential(0.5, len(kept))
        if straight:
            to_train.append(kept)
        else:
            trained = selector.choose_train(kept, losses)
            np.testing.assert_array_equal(trained, losses > threshold)
            selector.observe(kept, losses)
        if to_train and (rng.random() < 0.5 or not straight):
            waited = join(to_train)
            to_train = []
            selector.observe(waited, rng.exponential(0.5, len(waited)))
        report = selector.report()
        assert report["n_explored"] >= n_explored
        n_explored = report["n_explored"]
        assert selector.skips_scoring == (report["threshold"] is None) == (selector.stage == "warmup")
    assert n_explored <= n_seen
    for rate in ("explored_hard_rate", "overlap_rate", "predictor_precision", "predictor_recall"):
        assert report[rate] is None or 0 <= report[rate] <= 1


@given(seeds, st.integers(1, 30), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_counting_in_steps_equals_counting_at_once(seed: int, n: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    batch, hard = random_batch(rng, 0, n), rng.random(n) < 0.5
    unseen, space = random_batch(rng, 0, 7), TokenFeatures(20)
    for kind in (BernoulliNaiveBayes, PooledNaiveBayes):
        once, steps = kind(20), kind(20)
        once.partial_fit(space(batch), hard)
        for start in range(0, n, step):
            part = np.arange(start, min(start + step, n))
            steps.partial_fit(space(batch.take(part)), hard[part])
        np.testing.assert_array_equal(once.log_odds(space(unseen)), steps.log_odds(space(unseen)))
