"""A three-stage run small enough to be worked out by hand; every number below was.

Two token ids: 0 ("hard word") and 1 ("easy word"); batches of 4 rows; one epoch is 16 rows, a quarter of
it warm-up; K = 4, ALT = 0.5, W = 2. Naive Bayes with alpha 1: p(token|class) = (n + 1) / (N + 2).

    call  rows   tokens   losses           hard (> 0.5)
    0     0-3    0 0 1 1  .2 .4 .6 .8      stage 0: all trained; L_low = mean = 0.5
    1     4-7    0 0 1 1  .9 .7 .3 .5      1 1 0 0   (0.5 is not above 0.5)
    2     8-11   0 1 0 1  .9 .3 .3 .9      1 0 0 1
    3     12-15  0 0 1 1  .6 .7 .1 .2      1 1 0 0
    4     0-3    0 0 1 1  .6 .7 .1 .2      1 1 0 0   → stage 2
    5     4-7    0 1 0 1  .9 .9 .4 .4      1 1 0 0   stage 2: token 1 is predicted easy

Predictor, counts (hard | easy) after the fit of each call; by symmetry p(0|hard) = p(1|easy) =: q in calls
1-4, p(1|hard) = p(0|easy) = 1 - q, so a row's right answer has p = q^2 / (q^2 + (1-q)^2) if it goes with
its word and the complement if it goes against it:

    1     N = 2|2, n(0) = 2|0, n(1) = 0|2   q = 3/4   p = 9/10
    2     N = 4|4, n(0) = 3|1, n(1) = 1|3   q = 4/6   p = 4/5
    3     N = 6|6, n(0) = 5|1, n(1) = 1|5   q = 6/8   p = 9/10
    4     N = 8|8, n(0) = 7|1, n(1) = 1|7   q = 8/10  p = 16/17

Log loss after fitting (the paper): call 1: -ln .9; call 2: rows 8, 9 go with their word, 10, 11 against
it: -(ln .8 + ln .2) / 2; call 3: -ln .9; call 4: -ln 16/17. Means of two: -, .5108, .5108, .0830.
Before fitting (test, then train): -ln .5; -(ln .9 + ln .1) / 2; -ln .8; -ln .9. Means: -, .9486,
.7136, .1643. Either way the first mean at most 0.5 is that of call 4.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import pytest

from edgetune.data.batches import Batch
from edgetune.selection import DataShape, SelectionSettings, Selector, make_selector

ROWS = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [0, 1, 2, 3], [4, 5, 6, 7]]
TOKENS = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]]
LOSSES = [
    [0.2, 0.4, 0.6, 0.8],
    [0.9, 0.7, 0.3, 0.5],
    [0.9, 0.3, 0.3, 0.9],
    [0.6, 0.7, 0.1, 0.2],
    [0.6, 0.7, 0.1, 0.2],
    [0.9, 0.9, 0.4, 0.4],
]


def batch_of(call: int) -> Batch:
    one = np.ones(4, dtype=np.int64)
    return Batch(
        np.array(ROWS[call]), 0 * one, np.array(TOKENS[call]), np.arange(5), one, np.zeros(4, dtype=np.bool_)
    )


def build(**changed: Any) -> Selector:
    settings = SelectionSettings(
        method="three-stage",
        **{
            "warmup_fraction": 0.25,
            "threshold_window": 4,
            "alt": 0.5,
            "alt_window": 2,
            "features": "tokens",
            "calibrated": False,
            "recall": 0.0,
            **changed,
        },
    )
    return make_selector(settings, DataShape(16, 2, 2), np.random.default_rng(0))


def play(selector: Selector, calls: range) -> list[tuple[list[int], list[int]]]:
    """Run the calls as the loop does; return per call the rows looked at and the rows trained."""
    trace = []
    for call in calls:
        batch = batch_of(call)
        looked_at = selector.choose_score(batch)
        kept, losses = batch.take(looked_at), np.array(LOSSES[call])[looked_at]
        trained = (
            np.ones(len(kept), dtype=np.bool_)
            if selector.skips_scoring
            else selector.choose_train(kept, losses)
        )
        selector.observe(kept, losses)
        trace.append((kept.rows.tolist(), kept.rows[trained].tolist()))
    return trace


def test_preset_paper() -> None:
    selector = build(preset="paper", alt_after_fit=True, explore_rate=0.0)
    assert (selector.stage, selector.skips_scoring) == ("warmup", True)
    assert play(selector, range(1)) == [([0, 1, 2, 3], [0, 1, 2, 3])]
    assert (selector.stage, selector.skips_scoring) == ("filter_backward", False)
    assert selector.report()["threshold"] == pytest.approx(0.5, abs=1e-15)

    assert play(selector, range(1, 4)) == [
        ([4, 5, 6, 7], [4, 5]),
        ([8, 9, 10, 11], [8, 11]),
        ([12, 13, 14, 15], [12, 13]),
    ]
    means = [-log(0.9), -(log(0.9) + log(0.16) / 2) / 2, -(log(0.16) / 2 + log(0.9)) / 2]
    report = selector.report()
    assert report["predictor_losses"] == [[n + 1, pytest.approx(mean)] for n, mean in enumerate(means)]
    assert selector.stage == "filter_backward"
    assert "0.5108 > ALT 0.5000 " in report["why"]

    assert play(selector, range(4, 5)) == [([0, 1, 2, 3], [0, 1])]
    assert selector.report()["predictor_loss"] == pytest.approx(-(log(0.9) + log(16 / 17)) / 2)
    assert [(change.stage, change.n_seen) for change in selector.stages] == [
        ("warmup", 0),
        ("filter_backward", 4),
        ("filter_forward", 20),
    ]
    assert "0.0830 <= ALT 0.5000 " in selector.stages[-1].reason

    # Rows 5 and 7 hold the easy word: never looked at, though row 5 is hard. Of rows 4 and 6, 4 is hard.
    assert play(selector, range(5, 6)) == [([4, 6], [4])]
    # N = 9|9, n(0) = 8|2, n(1) = 1|7: class scores of word 0 are (9 * 9) : (3 * 3), so p(hard) = .9; row 4 is
    # hard, row 6 is not: -(ln .9 + ln .1) / 2. The mean is above ALT again, but stage 2 is never left.
    report = selector.report()
    assert report["predictor_loss"] == pytest.approx(-(log(16 / 17) + (log(0.9) + log(0.1)) / 2) / 2)
    assert (selector.stage, report["reached_last_stage"], report["why"]) == ("filter_forward", True, None)
    assert (report["n_explored"], report["explored_hard_rate"]) == (0, None)
    # Predicted easy in stage 1: call 1 none (nothing learned yet), call 2 rows 9 and 11 (11 is hard),
    # calls 3 and 4 the two rows with word 1, none of them hard: 5 of 6 below L_low.
    assert report["overlap_rate"] == pytest.approx(5 / 6)


def test_test_then_train_and_full_exploration() -> None:
    selector = build(alt_after_fit=False, explore_rate=1.0)
    play(selector, range(4))
    losses = [log(2), -(log(0.9) + log(0.1)) / 2, -log(0.8)]
    means = [losses[0], (losses[0] + losses[1]) / 2, (losses[1] + losses[2]) / 2]
    report = selector.report()
    assert report["predictor_losses"] == [[n + 1, pytest.approx(mean)] for n, mean in enumerate(means)]
    play(selector, range(4, 5))
    assert selector.report()["predictor_loss"] == pytest.approx(-(log(0.8) + log(0.9)) / 2)
    assert selector.stage == "filter_forward"

    # Everything predicted easy is explored: all four rows are looked at, 5 (explored) trains as well.
    assert play(selector, range(5, 6)) == [([4, 5, 6, 7], [4, 5])]
    report = selector.report()
    assert (report["n_explored"], report["explored_hard_rate"]) == (2, 0.5)
    # The explored rows join the overlap: 5 of 6 from stage 1, and row 7 but not row 5.
    assert report["overlap_rate"] == pytest.approx(6 / 8)


def test_moving_threshold_follows_the_scored_losses() -> None:
    selector = build(moving_threshold=True)
    play(selector, range(2))
    assert selector.report()["threshold"] == pytest.approx((0.9 + 0.7 + 0.3 + 0.5) / 4)
