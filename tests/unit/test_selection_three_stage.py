from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgetune.data.batches import Batch
from edgetune.selection import SelectionSettings
from edgetune.selection.memory import LossCurve, RowSet
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.three_stage import ThreeStage

HARD, EASY = 5, 6  # tokens


def batch_of(rows: list[int], tokens: list[int]) -> Batch:
    n = len(rows)
    one = np.ones(n, dtype=np.int64)
    return Batch(
        np.array(rows), 0 * one, np.array(tokens), np.arange(n + 1), one, np.zeros(n, dtype=np.bool_)
    )


def build(seed: int = 0, **settings: Any) -> ThreeStage:
    quick = {"warmup_fraction": 0.04, "alt_window": 3, "features": "tokens", "explore_rate": 0.5, **settings}
    return ThreeStage(SelectionSettings(**quick), DataShape(100, 2, 8), np.random.default_rng(seed))


def warm_up(selector: ThreeStage) -> None:
    """Stage 0: L_low = 0.5."""
    batch = batch_of([0, 1, 2, 3], [HARD, EASY, HARD, EASY])
    selector.choose_score(batch)
    selector.observe(batch, np.array([0.9, 0.1, 0.9, 0.1]))


def teach(selector: ThreeStage, n_batches: int = 6) -> None:
    """Stage 1 until the predictor knows its two words."""
    for n in range(n_batches):
        batch = batch_of(list(range(4 + 8 * n, 12 + 8 * n)), [HARD, EASY] * 4)
        selector.choose_score(batch)
        selector.observe(batch, np.array([0.9, 0.1] * 4))


def test_explored_rows_are_remembered_through_the_score_queue() -> None:
    selector = build()
    warm_up(selector)
    teach(selector, 3)
    assert selector.stage == "filter_forward"
    rows = list(range(60, 100))
    batch = batch_of(rows, [HARD, EASY] * 20)
    chosen = batch.take(selector.choose_score(batch))
    explored = chosen.rows[chosen.tokens == EASY]
    assert set(range(60, 100, 2)) <= set(chosen.rows.tolist())
    assert 3 < len(explored) < 17

    backwards = chosen.take(np.arange(len(chosen))[::-1])  # queued, regrouped, scored later
    for start in range(0, len(backwards), 7):
        part = backwards.take(np.arange(start, min(start + 7, len(backwards))))
        selector.observe(part, np.where(part.rows < 80, 0.9, 0.1))
    report = selector.report()
    assert report["n_explored"] == len(explored)
    assert report["explored_hard_rate"] == np.mean(explored < 80)

    again = batch_of([int(explored[0])], [HARD])  # next epoch, this time not explored
    selector.choose_score(again)
    selector.observe(again, np.array([0.9]))
    assert selector.report()["n_explored"] == len(explored)


def test_only_stage_2_works_on_many_rows_at_once() -> None:
    selector = build()  # the shape says nothing of batches: 32
    assert (selector.lookahead, selector.decision_size) == (1, 1)
    warm_up(selector)
    assert (selector.lookahead, selector.decision_size) == (1, 1)  # its window is one of scored batches
    teach(selector)
    assert (selector.stage, selector.lookahead, selector.decision_size) == ("filter_forward", 128, 128)


def test_without_exploration_nothing_predicted_easy_is_scored() -> None:
    selector = build(explore_rate=0.0)
    warm_up(selector)
    teach(selector)
    assert selector.choose_score(batch_of([70, 71, 72], [EASY, HARD, EASY])).tolist() == [False, True, False]


def test_late_stage_0_rows_teach_nothing() -> None:
    selector, control = build(), build()
    for one in (selector, control):
        one.choose_score(batch_of([90, 91], [HARD, EASY]))
        warm_up(one)
    teach(selector, 1)
    selector.observe(batch_of([90, 91], [HARD, EASY]), np.array([0.0, 9.0]))
    teach(control, 1)
    assert selector.report() == control.report()


def test_a_predictor_that_only_knows_the_hard_share_stays_in_stage_1() -> None:
    rng = np.random.default_rng(0)
    selector, uncalibrated = (
        build(alt_window=16),
        build(alt_window=16, calibrated=False, alt=1.0, explore_rate=0.0),
    )
    for one in (selector, uncalibrated):
        warm_up(one)
    for n in range(100):
        batch = batch_of(list(range(4 + 32 * n, 36 + 32 * n)), rng.integers(0, 8, 32).tolist())
        losses = np.where(rng.random(32) < 0.25, 0.9, 0.1)
        for one in (selector, uncalibrated):
            one.choose_score(batch)
            one.observe(batch, losses)
    report = selector.report()
    assert report["predictor_loss"] < 0.69
    assert (selector.stage, report["reached_last_stage"]) == ("filter_backward", False)
    assert "the loss of predicting the share of hard rows" in report["why"]
    assert uncalibrated.stage == "filter_forward"  # ALT alone, as in the paper, is satisfied


def test_says_why_stage_2_was_not_reached() -> None:
    selector = build(alt=0.01)
    assert "stage 0: 0 of 4 " in selector.report()["why"]
    warm_up(selector)
    teach(selector, 1)
    assert " 1 of 3 " in selector.report()["why"]
    teach(selector, 3)
    assert "> ALT 0.0100 " in selector.report()["why"]


def test_curve_stays_small() -> None:
    curve = LossCurve(2)
    for n in range(10_000):
        curve.add(float(n))
    assert curve.mean == 9998.5
    assert 32 <= len(curve.points) < 128
    steps = np.diff([n for n, _ in curve.points])
    assert steps.min() == steps.max() == 128
    restored = LossCurve(2)
    restored.load_state(json.loads(json.dumps(curve.state())))
    assert restored.state() == curve.state()


def test_row_set() -> None:
    rows = RowSet()
    assert rows.pop(np.array([7])).tolist() == [False]
    rows.put(np.array([3, 9, 1]), np.array([True, True, False]))
    rows.put(np.array([1000]), False)
    assert rows.state().tolist() == [3, 9]
    assert rows.pop(np.array([9, 50_000, 1])).tolist() == [True, False, False]
    assert rows.state().tolist() == [3]
    assert rows.pop(np.array([], dtype=np.int64)).tolist() == []
    rows.load_state(np.array([], dtype=np.int64))
    assert rows.pop(np.array([3])).tolist() == [False]


@pytest.mark.parametrize("features", ["tokens", "hashed"])
def test_skips_most_easy_examples_end_to_end(features: str) -> None:
    rng = np.random.default_rng(3)
    selector = build(features=features, explore_rate=0.1)
    trained = np.zeros(2)
    for n in range(60):
        hard = rng.random(16) < 0.4
        batch = batch_of(list(range(16 * n, 16 * n + 16)), np.where(hard, HARD, EASY).tolist())
        chosen = selector.choose_score(batch)
        losses = np.where(hard, 0.9, 0.1)[chosen]
        if selector.stage == "filter_forward":
            trained += np.bincount(
                hard[chosen][selector.choose_train(batch.take(chosen), losses)], minlength=2
            )
        selector.observe(batch.take(chosen), losses)
    report = selector.report()
    assert trained[0] == 0
    assert trained[1] > 300
    assert report["overlap_rate"] == 1.0
    assert report["explored_hard_rate"] == 0.0
    assert report["n_explored"] > 20


def test_explored_rows_that_are_hard_lower_the_cutoff() -> None:
    """Some rows with easy words have become hard: one that is explored stands for those that are not."""
    rng = np.random.default_rng(1)
    hopeful, strict = build(explore_rate=0.0), build(explore_rate=0.1)
    for one in (hopeful, strict):
        warm_up(one)
        teach(one)
        for n in range(12):
            batch = batch_of(list(range(100 + 64 * n, 164 + 64 * n)), [HARD] * 16 + [EASY] * 48)
            kept = batch.take(one.choose_score(batch))
            losses = np.where((kept.tokens == HARD) | (rng.random(len(kept)) < 0.3), 0.9, 0.1)
            one.observe(kept, losses)
    batch = batch_of([4000, 4001], [HARD, EASY])
    assert hopeful.choose_score(batch).tolist() == [True, False]
    assert strict.choose_score(batch).tolist() == [True, True]
    assert strict.stage == "filter_forward"


def test_without_exploration_the_sign_decides() -> None:
    """What was called hard alone says nothing of what is missed: a cutoff from it would climb."""
    rng = np.random.default_rng(4)
    one, other = build(explore_rate=0.0, recall=0.8), build(explore_rate=0.0, recall=0.0)
    for selector in (one, other):
        warm_up(selector)
    for n in range(40):
        hard = rng.random(32) < 0.2
        tokens = np.where(hard, rng.integers(0, 6, 32), rng.integers(2, 8, 32))
        batch = batch_of(list(range(4 + 32 * n, 36 + 32 * n)), tokens.tolist())
        chosen = one.choose_score(batch)
        np.testing.assert_array_equal(chosen, other.choose_score(batch))
        for selector in (one, other):
            selector.observe(batch.take(chosen), np.where(hard, 0.9, 0.1)[chosen])
    assert one.stage == "filter_forward"
    assert one.report() == other.report()
