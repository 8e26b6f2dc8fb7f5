"""A filter that loses is switched off, one that wins stays on, and the summary says which."""

from __future__ import annotations

import numpy as np

from edgetune.learners.filter_guard import FEWEST_SCORED, GuardedSelector, filter_balance
from edgetune.run_files.counters import Counters
from edgetune.selection import DataShape, SelectionSettings, make_selector
from tests.fakes import make_batch

ROW_S = 0.01  # what a row costs unfiltered


def counts(n_scored: int, n_skipped: int) -> Counters:
    """Rows scored and skipped."""
    return Counters(
        n_seen=n_scored,
        n_scored=n_scored,
        n_trained=max(1, n_scored - n_skipped),
        n_skipped_backward=n_skipped,
    )


def split(score_s: float, select_s: float = 0.0) -> dict[str, float]:
    return {"score": score_s, "select": select_s, "train": 1.0}


def guarded() -> GuardedSelector:
    settings = SelectionSettings(method="fixed-threshold", threshold=0.3)
    return GuardedSelector(make_selector(settings, DataShape(3, 2, 50), np.random.default_rng(0)))


def test_the_balance_is_worked_by_hand() -> None:
    found = filter_balance(counts(1000, 300), ROW_S, split(4.0, 0.5))
    assert found == (4.5, 3.0)
    assert filter_balance(Counters(), None, split(1.0)) is None


def test_without_unfiltered_steps_the_mean_step_is_the_price() -> None:
    found = filter_balance(Counters(n_trained=50, n_skipped_backward=10), None, split(1.0))
    assert found is not None
    assert found[1] == 10 * 1.0 / 50


def test_it_waits_then_switches_off_what_loses() -> None:
    watched = guarded()
    assert watched.name == "fixed-threshold"
    assert not watched.check_balance(counts(FEWEST_SCORED - 1, 0), ROW_S, split(9.0))
    assert not watched.check_balance(counts(FEWEST_SCORED, 300), ROW_S, split(2.9))
    batch = make_batch([5, 6, 7])
    losses = np.array([0.1, 0.2, 0.9])
    assert watched.choose_train(batch, losses).tolist() == [False, False, True]
    why = watched.check_balance(counts(FEWEST_SCORED, 300), ROW_S, split(3.1))
    assert "cost 3.1 s" in why
    assert "300 rows saved only 3.0 s" in why
    assert watched.skips_scoring
    assert watched.choose_train(batch, losses).all()
    assert watched.choose_score(batch).all()
    assert watched.stage == watched.stages[-1].stage == "filter_off"
    assert watched.report()["switched_off"] == why
    assert not watched.check_balance(counts(9999, 0), ROW_S, split(99.0))


def test_its_state_can_be_restored() -> None:
    watched, other = guarded(), guarded()
    watched.choose_score(make_batch([5, 6]))
    watched.check_balance(counts(1000, 0), ROW_S, split(5.0))
    other.load_state(watched.state())
    assert other.stages == watched.stages
    assert other.skips_scoring
