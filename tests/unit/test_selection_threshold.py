from __future__ import annotations

import math

import numpy as np
import pytest

from edgetune.data.batches import Batch
from edgetune.selection import SelectionSettings
from edgetune.selection.memory import LossWindow
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.threshold import AutoThreshold, FixedThreshold, above


def batch_of(rows: list[int]) -> Batch:
    n = len(rows)
    one = np.ones(n, dtype=np.int64)
    return Batch(np.array(rows), 0 * one, 0 * one, np.arange(n + 1), one, np.zeros(n, dtype=np.bool_))


def auto(label_entropy: float = math.inf, **settings: object) -> AutoThreshold:
    made = SelectionSettings.model_validate({"warmup_fraction": 0.4, "threshold_window": 3, **settings})
    return AutoThreshold(made, DataShape(10, 2, 50, label_entropy), np.random.default_rng(0))


def test_above_is_strict() -> None:
    assert above(np.array([0.2, 0.3, 0.4]), 0.3).tolist() == [False, False, True]
    assert above(np.array([np.nan]), 0.3).tolist() == [False]


@pytest.mark.parametrize(
    ("fraction", "n", "expected"), [(0.07, 100, 7), (0.1, 67_349, 6735), (0.1, 3, 1), (1.0, 8, 8)]
)
def test_warmup_is_a_share_of_one_epoch(fraction: float, n: int, expected: int) -> None:
    settings = SelectionSettings(warmup_fraction=fraction)
    selector = AutoThreshold(settings, DataShape(n, 2, 50), np.random.default_rng(0))
    assert f"stage 0: 0 of {expected} examples" in selector.report()["why"]


def test_window_keeps_the_last_losses_across_batches() -> None:
    window = LossWindow(3)
    window.add(np.array([9.0, 1.0], dtype=np.float32))
    assert window.mean() == 5.0
    window.add(np.array([2.0, 3.0]))
    assert window.losses.tolist() == [1.0, 2.0, 3.0]
    window.add(np.arange(10.0))
    assert window.losses.tolist() == [7.0, 8.0, 9.0]


def test_fixed_threshold_scores_everything_and_never_goes_straight() -> None:
    settings = SelectionSettings(threshold=0.0)
    selector = FixedThreshold(settings, DataShape(10, 2, 50), np.random.default_rng(0))
    batch = batch_of([0, 1])
    assert not selector.skips_scoring
    assert selector.choose_score(batch).all()
    assert selector.choose_train(batch, np.array([0.0, 0.1])).tolist() == [False, True]
    assert selector.report()["threshold"] == 0.0


def test_auto_threshold_waits_until_enough_is_observed_not_merely_seen() -> None:
    selector = auto()
    first, second = batch_of([0, 1, 2]), batch_of([3, 4, 5])
    for batch in (first, second):
        assert selector.choose_score(batch).all()
    assert selector.skips_scoring
    selector.observe(first, np.array([1.0, 2.0, 3.0]))
    assert selector.skips_scoring
    assert "stage 0: 3 of 4 " in selector.report()["why"]
    selector.observe(second, np.array([4.0, 5.0, 6.0]))
    assert (selector.skips_scoring, selector.stage) == (False, "filter_backward")
    assert selector.report()["threshold"] == 5.0
    assert selector.stages[-1].n_seen == 6


def test_stage_0_waits_for_a_model_that_has_begun_to_learn() -> None:
    selector = auto(label_entropy=math.log(2))  # 0.3466 shows it
    for n, mean_loss in enumerate((0.68, 0.65, 0.36)):
        batch = batch_of([3 * n, 3 * n + 1, 3 * n + 2])
        selector.choose_score(batch)
        selector.observe(batch, np.full(3, mean_loss))
        assert (selector.skips_scoring, selector.report()["threshold"]) == (True, None)
    for figure in ("stage 0", "0.3600", "0.3466"):
        assert figure in selector.report()["why"]
    batch = batch_of([9, 0])
    selector.choose_score(batch)
    selector.observe(batch, np.array([0.2, 0.3]))
    assert (selector.stage, selector.report()["threshold"]) == ("filter_backward", pytest.approx(0.86 / 3))
    assert selector.stages[-1].n_seen == 11


@pytest.mark.parametrize(
    ("gain", "entropy", "mean_loss", "leaves"),
    [
        (0.25, 0.8, 0.59, True),
        (0.25, 0.8, 0.61, False),
        (0.0, 0.8, 9.0, True),
        (0.25, math.inf, 9.0, True),
    ],
)
def test_so_much_below_a_guess_the_last_losses_have_to_be(
    gain: float, entropy: float, mean_loss: float, leaves: bool
) -> None:
    selector = auto(label_entropy=entropy, warmup_gain=gain)
    batch = batch_of([0, 1, 2, 3])
    selector.choose_score(batch)
    selector.observe(batch, np.full(4, mean_loss))
    assert (selector.stage == "filter_backward") == leaves


@pytest.mark.parametrize(("moving", "expected"), [(False, 2.0), (True, 8.0)])
def test_late_rows_of_stage_0_move_nothing(moving: bool, expected: float) -> None:
    selector = auto(moving_threshold=moving)
    for rows in ([0, 1, 2, 3], [4, 5]):
        selector.choose_score(batch_of(rows))
    selector.observe(batch_of([0, 1, 2, 3]), np.full(4, 2.0))
    selector.observe(batch_of([4, 5]), np.full(2, 100.0))  # trained straight, after the switch
    assert selector.report()["threshold"] == 2.0
    selector.choose_score(batch_of([6, 7, 4]))  # 4 again, in the next epoch: an ordinary row now
    selector.observe(batch_of([6, 7, 4]), np.full(3, 8.0))
    assert selector.report()["threshold"] == expected


def test_late_and_scored_rows_in_one_batch() -> None:
    selector = auto(moving_threshold=True)
    selector.choose_score(batch_of([0, 1, 2, 3, 4]))
    selector.observe(batch_of([0, 1, 2, 3]), np.full(4, 2.0))
    selector.choose_score(batch_of([9, 10]))
    selector.observe(batch_of([9, 4, 10]), np.array([5.0, 100.0, 5.0]))
    assert selector.report()["threshold"] == pytest.approx(4.0)
