"""The rivals that live on recorded losses, in runs small enough to be worked out by hand.

Draws come from a list where a decision is drawn, so that "probability 0.25" is seen as: 0.24 is in, 0.25 out.
Losses are multiples of a power of two where a comparison could be decided by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetune.data.batches import Batch
from edgetune.selection import SelectionSettings
from edgetune.selection.cartography import (
    CartographyAmbiguous,
    CartographyHard,
    Ftft,
    RowVisits,
    VisitRecord,
    confidence,
    gold_probability,
    standing,
    variability,
)
from edgetune.selection.info_batch import InfoBatch, below_mean
from edgetune.selection.selective_backprop import SelectiveBackprop, StaleSelectiveBackprop, percentiles
from edgetune.selection.selector_contract import DataShape, Selector
from edgetune.selection.swift_learn import SwiftLearn

SHAPE = DataShape(n_examples=10, n_classes=2, vocab_size=5)
RIVALS = [
    SelectiveBackprop,
    StaleSelectiveBackprop,
    InfoBatch,
    CartographyAmbiguous,
    CartographyHard,
    Ftft,
    SwiftLearn,
]


class Draws:
    """Stands in for a generator: hands out the given numbers, in order, and no more."""

    def __init__(self, *numbers: float) -> None:
        self.left = list(numbers)

    def random(self, n: int) -> np.ndarray:
        drawn, self.left = self.left[:n], self.left[n:]
        assert len(drawn) == n, "more was drawn than expected"
        return np.array(drawn)


def batch_of(rows: Iterable[int]) -> Batch:
    index = np.array(list(rows), dtype=np.int64)
    one = np.ones(len(index), dtype=np.int64)
    return Batch(
        index, 0 * one, 0 * one, np.arange(len(index) + 1), one, np.zeros(len(index), dtype=np.bool_)
    )


def make(kind: type[Any], rng: Any = None, **settings: Any) -> Any:
    return kind(SelectionSettings(**settings), SHAPE, rng or np.random.default_rng(0))


def looked_at(selector: Selector, rows: Iterable[int]) -> list[int]:
    """Return those of the rows that the selector looks at."""
    batch = batch_of(rows)
    return batch.rows[selector.choose_score(batch)].tolist()


def trained(selector: Selector, losses: dict[int, float]) -> list[int]:
    """Score rows as the loop does; return those chosen for training."""
    batch, found = batch_of(losses), np.array(list(losses.values()))
    chosen = batch.rows[selector.choose_train(batch, found)].tolist()
    selector.observe(batch, found)
    return chosen


def observe(selector: Selector, losses: dict[int, float]) -> None:
    selector.observe(batch_of(losses), np.array(list(losses.values())))


# Selective-Backprop


def test_percentile_to_the_power_beta() -> None:
    selector = make(
        SelectiveBackprop, Draws(0.06, 0.25, 0.56, 0.999, 0.0625, 0.5624), beta=2.0, loss_window=4
    )
    assert looked_at(selector, range(4)) == [0, 1, 2, 3]
    assert not selector.skips_scoring
    # Percentiles 1/4, 2/4, 3/4, 1: the batch itself is the window. Squared: .0625, .25, .5625, 1.
    assert trained(selector, {0: 1, 1: 2, 2: 3, 3: 4}) == [0, 2, 3]
    # The window is now 3, 4, 0.5, 3: percentiles 1/4 and 3/4.
    assert trained(selector, {4: 0.5, 5: 3}) == [5]


def test_a_loss_out_of_the_window_of_its_own_batch_is_still_looked_up() -> None:
    selector = make(SelectiveBackprop, Draws(0.0, 0.0, 0.0), beta=3.0, loss_window=1)
    assert trained(selector, {0: 1, 1: 3, 2: 2}) == [1, 2]  # the window is 2 alone


def test_beta_0_trains_everything_and_the_highest_loss_is_always_trained() -> None:
    certain = make(SelectiveBackprop, Draws(0.999999, 0.999999), beta=0.0)
    assert trained(certain, {0: 0.1, 1: 0.2}) == [0, 1]
    steep = make(SelectiveBackprop, Draws(0.999999, 0.5), beta=100.0)
    assert trained(steep, {0: 0.2, 1: 0.1}) == [0]


def test_with_beta_3_about_a_quarter_of_distinct_losses_is_drawn() -> None:
    selector = make(SelectiveBackprop, np.random.default_rng(3), beta=3.0)
    losses = np.random.default_rng(4).permutation(20_000) / 1000
    n_trained = sum(len(trained(selector, dict(enumerate(part)))) for part in np.split(losses, 200))
    assert n_trained / len(losses) == pytest.approx(0.25, abs=0.015)  # five standard errors


@given(st.lists(st.floats(0, 20), min_size=1, max_size=20), st.lists(st.floats(0, 20), max_size=20))
def test_percentiles_count_the_losses_that_are_at_most_as_high(
    window: list[float], losses: list[float]
) -> None:
    found = percentiles(np.array(losses), np.array(window))
    assert found.tolist() == [sum(other <= loss for other in window) / len(window) for loss in losses]


# Selective-Backprop, stale


def test_stale_losses_decide_until_the_next_scoring_pass() -> None:
    draws = Draws(0.99, 0.99, 0.99, 0.99, *(0.99, 0.25), *(0.3, 0.4, 0.9, 0.7), *(0.0, 0.0))
    selector = make(StaleSelectiveBackprop, draws, beta=1.0, loss_window=4, stale_epochs=3)
    assert not selector.skips_scoring  # before the first pass, as in it
    selector.on_batch_start(0.0, 1)
    assert not selector.skips_scoring
    assert looked_at(selector, range(4)) == [0, 1, 2, 3]
    assert trained(selector, {0: 1, 1: 2, 2: 3, 3: 4}) == [3]  # .25, .5, .75, 1

    selector.on_batch_start(0.25, 2)
    assert selector.skips_scoring
    # 4 and 1 are looked up and the window becomes 3, 4, 4, 1: shares 1 and 1/4. Row 9 has no loss yet.
    assert looked_at(selector, [3, 0, 9]) == [3, 9]
    observe(selector, {3: 0.5, 9: 5.0})  # their train step

    selector.on_batch_start(0.5, 3)
    assert selector.skips_scoring
    # Stored: 0.5 (refreshed), 1 (still of pass 1), 5, 2; they fill the window: .25, .5, 1, .75.
    assert looked_at(selector, [3, 0, 9, 1]) == [0, 9, 1]
    assert selector.report()["n_drawn_stale"] == 6

    selector.on_batch_start(0.75, 4)
    assert not selector.skips_scoring
    assert looked_at(selector, range(4)) == [0, 1, 2, 3]
    assert trained(selector, {2: 0.1, 3: 9}) == [2, 3]  # draws of 0 are in whatever the share
    assert not draws.left


def test_a_stored_loss_equals_itself_in_the_window() -> None:
    assert float(np.float32(0.7)) < 0.7
    selector = make(StaleSelectiveBackprop, Draws(0.5, 0.5, 0.6), beta=1.0, loss_window=2)
    selector.on_batch_start(0.0, 1)
    trained(selector, {0: 0.7, 1: 0.7})
    selector.on_batch_start(0.5, 2)
    assert looked_at(selector, [0]) == [0]  # both losses of the window are 0.7: a share of 1, not of a half


def test_a_pass_of_stale_epochs_1_always_scores() -> None:
    selector = make(StaleSelectiveBackprop, stale_epochs=1)
    for epoch in range(1, 5):
        selector.on_batch_start(0.0, epoch)
        assert not selector.skips_scoring


# InfoBatch


def test_half_of_the_rows_below_the_mean_stay_with_weight_2() -> None:
    draws = Draws(0.49, 0.5, 0.9, 0.1, 0.5)
    selector = make(InfoBatch, draws)
    assert selector.skips_scoring
    selector.on_batch_start(0.0, 1)
    assert looked_at(selector, range(5)) == [0, 1, 2, 3, 4]
    assert selector.loss_weights(batch_of(range(5))) is None
    observe(selector, {3: 6, 0: 1, 1: 2, 2: 3})  # mean 3; row 4 is still in a queue

    selector.on_batch_start(0.25, 2)  # below 3: rows 0 (drawn 0.49: out) and 1 (0.5: stays)
    assert looked_at(selector, [4, 1, 0, 3]) == [4, 1, 3]
    assert looked_at(selector, [0, 1]) == [1]  # asked again, decided as before
    assert selector.loss_weights(batch_of([4, 1, 3])).tolist() == [1, 2, 1]
    assert selector.loss_weights(batch_of([4, 3])) is None
    observe(selector, {4: 2, 3: 4, 1: 10})

    # Scores 1 (row 0, of pass 1), 10, 3, 4, 2: mean 4; below it rows 0, 2 and 4.
    selector.on_batch_start(0.5, 3)
    assert selector.loss_weights(batch_of([4, 1, 3])).tolist() == [1, 2, 1]  # chosen in pass 2, trained late
    assert looked_at(selector, range(5)) == [0, 1, 3, 4]
    assert selector.loss_weights(batch_of([0, 1, 3, 4])).tolist() == [2, 1, 1, 2]
    assert selector.report()["n_pruned"] == 3
    assert not draws.left


def test_a_row_left_out_while_it_waits_keeps_the_weight_it_was_chosen_with() -> None:
    selector = make(InfoBatch, Draws(0.9, 0.1))
    selector.on_batch_start(0.0, 1)
    observe(selector, {0: 1, 1: 3})
    selector.on_batch_start(0.1, 2)
    assert looked_at(selector, [0, 1]) == [0, 1]
    selector.on_batch_start(0.2, 3)
    assert looked_at(selector, [0, 1]) == [1]
    assert selector.loss_weights(batch_of([0])).tolist() == [2]


def test_the_last_share_of_the_run_trains_on_everything_unweighted() -> None:
    selector = make(InfoBatch, Draws(0.0, 0.9), full_rate=0.25)
    selector.on_batch_start(0.0, 1)
    observe(selector, {0: 1, 1: 2, 2: 6})
    selector.on_batch_start(0.7, 2)
    assert looked_at(selector, range(3)) == [1, 2]
    selector.on_batch_start(0.75, 2)  # in the middle of a pass
    assert looked_at(selector, range(3)) == [0, 1, 2]
    assert selector.loss_weights(batch_of(range(3))) is None


@pytest.mark.parametrize(("prune_rate", "weight"), [(0.75, 4.0), (0.2, 1.25)])
def test_kept_rows_stand_for_those_left_out(prune_rate: float, weight: float) -> None:
    selector = make(InfoBatch, np.random.default_rng(5), prune_rate=prune_rate)
    selector.on_batch_start(0.0, 1)
    n = 20_000
    observe(selector, dict(enumerate(np.repeat([1.0, 3.0], n // 2))))
    selector.on_batch_start(0.1, 2)
    kept = looked_at(selector, range(n))
    weights = selector.loss_weights(batch_of(kept))
    easy = np.array(kept) < n // 2
    assert weights[~easy].tolist() == [1.0] * (n // 2)
    assert weights[easy] == pytest.approx(weight)
    assert easy.sum() / (n // 2) == pytest.approx(1 - prune_rate, abs=0.02)
    assert weights.sum() == pytest.approx(n, rel=0.06)


def test_of_equal_losses_none_is_below_the_mean() -> None:
    assert not below_mean(np.full(1000, 0.1, dtype=np.float32)).any()
    assert below_mean(np.array([1, 2, 3, 6], dtype=np.float32)).tolist() == [True, True, False, False]
    assert below_mean(np.zeros(0, dtype=np.float32)).tolist() == []


# Cartography

P_GOLD = {  # two visits; mean, standard deviation
    0: (0.9, 0.9),  # .9  .0
    1: (0.2, 0.8),  # .5  .3
    2: (0.1, 0.3),  # .2  .1
    3: (0.5, 0.9),  # .7  .2
    4: (0.6, 0.6),  # .6  .0
    5: (0.3, 0.5),  # .4  .1
}


def losses_of(visit: int) -> dict[int, float]:
    return {row: -float(np.log(p[visit])) for row, p in P_GOLD.items()}


def after_reference(kind: type[Any], **settings: Any) -> Any:
    selector = make(kind, **settings)
    for visit in (0, 1):
        selector.on_batch_start(visit / 100, visit + 1)
        assert looked_at(selector, P_GOLD) == list(P_GOLD)
        observe(selector, losses_of(visit))
    return selector


def test_mean_and_deviation_of_p_gold() -> None:
    record = VisitRecord()
    for visit in (0, 1):
        losses = losses_of(visit)
        record.add(np.array(list(losses)), np.array(list(losses.values())))
    record.add(np.array([7, 8, 8, 8]), -np.log([0.8, 0.1, 0.4, 0.7]))  # 7: once; 8: three times in one batch
    record.add(np.array([9]), np.array([np.nan]))
    visits = record.visits()
    assert visits.rows.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert visits.counts.tolist() == [2, 2, 2, 2, 2, 2, 1, 3]
    assert confidence(visits) == pytest.approx([0.9, 0.5, 0.2, 0.7, 0.6, 0.4, 0.8, 0.4])
    # Of one visit sqrt(.8 * .2) = .4; of .1, .4, .7: sqrt((.09 + 0 + .09) / 3).
    assert variability(visits) == pytest.approx([0, 0.3, 0.1, 0.2, 0, 0.1, 0.4, 0.06**0.5], abs=1e-7)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_variability_is_the_standard_deviation(gold: list[float]) -> None:
    p = np.array(gold)
    visits = RowVisits(np.array([0]), np.array([len(p)]), np.array([p.sum()]), np.array([(p**2).sum()]))
    assert variability(visits)[0] == pytest.approx(p.std(), abs=1e-7)
    assert confidence(visits)[0] == pytest.approx(p.mean())


def test_p_gold_stays_a_probability() -> None:
    assert gold_probability(np.array([0.0, -1e-9, np.inf, np.log(4)])) == pytest.approx([1, 1, 0, 0.25])
    assert gold_probability(np.array([-1e-9])).max() <= 1.0


def test_rows_are_ranked_among_those_visited_as_often() -> None:
    scores = np.array([0.5, 0.4, 0.1, 0.3, 0.2, 0.25])
    counts = np.array([1, 1, 2, 2, 2, 2])
    assert standing(scores, counts).tolist() == [0.75, 0.25, 0.125, 0.875, 0.375, 0.625]
    assert standing(np.array([2.0, 3.0, 3.0]), np.ones(3, int)) == pytest.approx([1 / 6, 5 / 6, 1 / 2])
    assert standing(np.zeros(0), np.zeros(0, int)).tolist() == []


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.integers(1, 5))
def test_with_equal_visits_the_ranking_is_that_of_the_scores(scores: list[float], count: int) -> None:
    values = np.array(scores)
    found = standing(values, np.full(len(values), count))
    assert np.argsort(-found).tolist() == np.argsort(-values, kind="stable").tolist()


@pytest.mark.parametrize(
    ("kind", "kept"), [(CartographyAmbiguous, [1, 3]), (CartographyHard, [2, 5]), (Ftft, [1, 3])]
)
def test_a_third_is_trained_afresh(kind: type[Any], kept: list[int]) -> None:
    selector = after_reference(kind, reference_rate=0.5)
    assert selector.restarts
    selector.on_batch_start(0.49, 2)
    assert (selector.stage, selector.span, selector.skips_scoring) == ("reference", (0.0, 0.5), True)
    found = selector.report()
    assert (found["reached_last_stage"], found["n_measured"], found["n_kept"]) == (False, 6, None)
    assert "reference" in found["why"]

    selector.on_batch_start(0.55, 3)
    assert (selector.stage, selector.span, selector.skips_scoring) == ("subset", (0.55, 1.0), True)
    assert [(change.stage, change.reset_model) for change in selector.stages] == [
        ("reference", False),
        ("subset", True),
    ]
    assert selector.stages[-1].n_seen == 12
    assert looked_at(selector, [5, 4, 3, 2, 1, 0, 77]) == [row for row in (5, 4, 3, 2, 1, 0) if row in kept]
    found = selector.report()
    assert (found["reached_last_stage"], found["why"]) == (True, None)
    assert (found["n_measured"], found["n_kept"], found["mean_visits"]) == (6, 2, 2.0)

    observe(selector, {0: 0.0, 4: 9.0, 1: 0.0})  # of steps that were under way
    selector.on_batch_start(0.7, 4)
    assert looked_at(selector, P_GOLD) == kept
    assert (len(selector.stages), selector.span) == (2, (0.55, 1.0))
    assert selector.report() == found
    assert len(selector.state()["record"]["counts"]) == 0  # nothing more is recorded, nothing is held


@pytest.mark.parametrize(
    ("kind", "given_rate", "rate"),
    [(CartographyAmbiguous, None, 0.5), (CartographyHard, None, 0.5), (Ftft, None, 0.25), (Ftft, 0.6, 0.6)],
)
def test_how_long_the_reference_is(kind: type[Any], given_rate: float | None, rate: float) -> None:
    selector = make(kind, reference_rate=given_rate)
    assert selector.span == (0.0, rate)
    observe(selector, {0: 1.0})
    selector.on_batch_start(rate - 1e-6, 1)
    assert selector.stage == "reference"
    selector.on_batch_start(rate, 1)
    assert (selector.stage, selector.span) == ("subset", (rate, 1.0))


def test_rows_visited_once_do_not_crowd_out_those_visited_twice() -> None:
    selector = make(CartographyAmbiguous, subset_rate=0.5)
    observe(selector, {0: np.log(4), 1: np.log(8), 2: np.log(2), 3: np.log(4)})
    observe(selector, {2: np.log(4), 3: np.log(4)})
    # Once: sqrt(3/16), sqrt(7/64). Twice: 1/8, 0; all below what one visit is given.
    selector.on_batch_start(0.5, 2)
    assert looked_at(selector, range(4)) == [0, 2]
    assert selector.report()["mean_visits"] == 1.5


def test_no_subset_of_nothing_nor_after_the_end() -> None:
    selector = make(CartographyHard)
    selector.on_batch_start(0.6, 1)
    assert selector.stage == "reference"
    assert "measured" in selector.report()["why"]
    assert selector.report()["mean_visits"] is None
    assert looked_at(selector, [0, 1]) == [0, 1]
    observe(selector, {0: 1.0, 1: 2.0})
    selector.on_batch_start(1.0, 2)
    assert selector.stage == "reference"
    selector.on_batch_start(0.8, 2)
    assert looked_at(selector, [0, 1]) == [1]
    assert selector.span == (0.8, 1.0)


# SwiftLearn


def warmed_up(losses: dict[int, float], **settings: Any) -> SwiftLearn:
    selector = make(SwiftLearn, **settings)
    selector.on_batch_start(0.0, 1)
    assert looked_at(selector, losses) == list(losses)
    assert (selector.stage, selector.skips_scoring) == ("warmup", True)
    observe(selector, losses)
    return selector


def test_a_row_returns_after_a_refresh() -> None:
    first = {0: 5.0, 1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 0.5, 6: 6.0, 7: 0.25}
    selector = warmed_up(first, top_rate=0.2, refresh_epochs=3)
    assert selector.report()["reached_last_stage"] is False
    assert "once" in selector.report()["why"]

    selector.on_batch_start(0.2, 2)  # a fifth of 8 is 2: losses 6 and 5
    assert (selector.stage, selector.skips_scoring) == ("subset", True)
    assert [change.reset_model for change in selector.stages] == [False, False]
    assert looked_at(selector, range(10)) == [0, 6, 8, 9]  # 8 and 9 were never measured
    found = selector.report()
    assert (found["threshold"], found["n_measured"], found["n_kept"]) == (5.0, 8, 2)
    assert (found["reached_last_stage"], found["why"]) == (True, None)
    observe(selector, {0: 0.2, 6: 0.1, 8: 5.5, 9: 4.5})

    selector.on_batch_start(0.4, 3)  # 0 and 6 stay though they were learnt; 8 is in by the cut, 9 is not
    assert looked_at(selector, range(10)) == [0, 6, 8]

    selector.on_batch_start(0.6, 4)  # refresh; the two highest stored losses are 5.5 and 4.5
    assert not selector.skips_scoring
    assert looked_at(selector, range(10)) == list(range(10))
    assert selector.report()["threshold"] == 4.5
    assert trained(selector, {1: 5.0, 2: 4.4}) == [1]
    assert selector.report()["threshold"] == 5.0  # 5.5 and the fresh 5
    assert trained(selector, {9: 4.9, 0: 5.0}) == [0]
    assert trained(selector, {0: 4.95}) == []

    selector.on_batch_start(0.8, 5)
    assert selector.skips_scoring
    assert looked_at(selector, range(10)) == [1, 8]  # 1, dropped after the warm-up, has returned
    assert [change.stage for change in selector.stages] == ["warmup", "subset"]


def test_the_cut_follows_a_refresh_in_steps_of_a_32nd_of_the_rows() -> None:
    selector = warmed_up({row: float(row) for row in range(100)}, top_rate=0.02, refresh_epochs=1)
    selector.on_batch_start(0.5, 2)
    assert not selector.skips_scoring
    assert selector.report()["threshold"] == 98.0
    assert trained(selector, {0: 200.0, 1: 201.0, 2: 97.0}) == [0, 1]
    resumed = make(SwiftLearn, top_rate=0.02, refresh_epochs=1)
    resumed.load_state(selector.state())
    for one in (selector, resumed):
        assert one.report()["threshold"] == 98.0  # 3 of 100 rows
        assert trained(one, {3: 98.0}) == [3]
        assert one.report()["threshold"] == 200.0


def test_the_pass_after_a_refresh_counts_every_fresh_loss() -> None:
    selector = warmed_up({row: float(row) for row in range(100)}, top_rate=0.02, refresh_epochs=2)
    selector.on_batch_start(0.3, 2)
    assert looked_at(selector, range(100)) == [98, 99]
    selector.on_batch_start(0.6, 3)
    assert trained(selector, {0: 200.0, 1: 201.0, 2: 97.0}) == [0, 1]  # too few for a new cut
    selector.on_batch_start(0.9, 4)
    assert looked_at(selector, range(100)) == [0, 1]


def test_a_loss_at_the_cut_is_in_also_where_float32_rounds_it_up() -> None:
    assert float(np.float32(0.1)) > 0.1
    selector = warmed_up({0: 0.1, 1: 0.0}, top_rate=0.5, refresh_epochs=1)
    selector.on_batch_start(0.5, 2)
    assert trained(selector, {0: 0.1, 1: 0.09}) == [0]


def test_rows_that_all_waited_through_the_first_pass_are_ranked_at_the_next() -> None:
    selector = make(SwiftLearn, top_rate=0.5, refresh_epochs=9)
    selector.on_batch_start(0.0, 1)
    looked_at(selector, range(4))
    selector.on_batch_start(0.2, 2)
    assert selector.stage == "subset"
    assert looked_at(selector, range(4)) == [0, 1, 2, 3]
    observe(selector, {0: 1.0, 1: 4.0, 2: 3.0, 3: 2.0})
    selector.on_batch_start(0.4, 3)
    assert looked_at(selector, range(4)) == [1, 2]


# What holds for all of them

N_ROWS, BATCH_SIZE, N_PASSES = 40, 8, 9
N_BATCHES = N_PASSES * N_ROWS // BATCH_SIZE


def play(selector: Any, batches: range) -> list[tuple[Any, ...]]:
    """Run batches of 9 passes as the loop does, every decision observed at once; return what was decided."""
    decided: list[tuple[Any, ...]] = []
    for number in batches:
        before, start = divmod(number * BATCH_SIZE, N_ROWS)
        rng = np.random.default_rng(before)
        order, all_losses = rng.permutation(N_ROWS), rng.exponential(1.0, N_ROWS)
        selector.on_batch_start(number / N_BATCHES, before + 1)
        batch = batch_of(order[start : start + BATCH_SIZE])
        kept = batch.take(selector.choose_score(batch))
        losses = all_losses[kept.rows]
        chosen = np.ones(len(kept), dtype=np.bool_)
        if not selector.skips_scoring:
            chosen = selector.choose_train(kept, losses)
        weights = selector.loss_weights(batch)  # of all: rows chosen before may still wait for their step
        selector.observe(kept, losses)
        decided.append(
            (
                selector.stage,
                selector.skips_scoring,
                selector.span,
                None if weights is None else weights.tolist(),
                kept.rows.tolist(),
                chosen.tolist(),
            )
        )
    return decided


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("n_before", [0, 1, 5, 13, 18, 31])  # in a pass and between two, in every stage
def test_continues_from_a_state_that_passed_through_json(kind: type[Any], n_before: int) -> None:
    original = make(kind, np.random.default_rng(1), stale_epochs=2)
    play(original, range(n_before))
    text = json.dumps(original.state(), default=np.ndarray.tolist, allow_nan=False)
    expected = play(original, range(n_before, N_BATCHES))
    resumed = make(kind, np.random.default_rng(2), stale_epochs=2)
    resumed.load_state(json.loads(text))
    assert play(resumed, range(n_before, N_BATCHES)) == expected
    assert resumed.report() == original.report()
    json.dumps(resumed.report(), allow_nan=False)


@pytest.mark.parametrize("kind", RIVALS)
def test_skips_something_and_trains_something_in_a_run_of_many_passes(kind: type[Any]) -> None:
    decided = play(make(kind, np.random.default_rng(1)), range(N_BATCHES))
    n_trained = sum(sum(chosen) for *_, chosen in decided)
    assert N_ROWS < n_trained < (N_PASSES - 1) * N_ROWS


@pytest.mark.parametrize("kind", RIVALS)
def test_empty_batches_and_rows_beyond_the_data(kind: type[Any]) -> None:
    selector = make(kind)
    for epoch in range(8):  # 0: nobody has called `on_batch_start`
        if epoch:
            selector.on_batch_start(epoch / 8, epoch)
        assert looked_at(selector, []) == []
        assert trained(selector, {}) == []
        assert selector.loss_weights(batch_of([])) is None
        batch = batch_of([10**5])
        selector.choose_score(batch)
        trained(selector, {10**5: 1.0})
        assert selector.stage in ("all", "warmup", "reference", "subset")
