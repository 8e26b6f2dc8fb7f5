"""The predictor's precision and recall, estimated from a few explored rows, against the truth."""

import numpy as np
import pytest

from edgetune.selection.meta_predictor import Audit


def test_nothing_is_known_at_first() -> None:
    assert set(Audit().report(0.02).values()) == {0, None}


def test_by_hand() -> None:
    audit = Audit()
    audit.count(np.array([False, True, True]), np.array([True, True, False]), in_stage_two=False)
    assert audit.report(0.5)["overlap_rate"] == 0.5
    assert audit.report(0.5)["predictor_precision"] is None
    # four called hard, three of them hard; two explored for the four that were called easy, one of them hard
    explored = np.array([False] * 4 + [True] * 2)
    audit.count(explored, np.array([True, True, True, False, True, False]), in_stage_two=True)
    found = audit.report(0.5)
    assert (found["n_explored"], found["explored_hard_rate"], found["overlap_rate"]) == (2, 0.5, 0.5)
    assert found["predictor_precision"] == 0.75
    assert found["predictor_recall"] == pytest.approx(3 / (3 + 1 / 0.5))


def test_without_exploration_recall_is_not_known() -> None:
    audit = Audit()
    audit.count(np.array([False]), np.array([True]), in_stage_two=True)
    assert audit.report(0.0)["predictor_precision"] == 1.0
    assert audit.report(0.0)["predictor_recall"] is None


def test_it_estimates_the_truth() -> None:
    rng, audit, rate = np.random.default_rng(0), Audit(), 0.1
    hard = rng.random(200_000) < 0.3
    called = np.where(hard, rng.random(len(hard)) < 0.8, rng.random(len(hard)) < 0.25)
    explored = ~called & (rng.random(len(hard)) < rate)
    scored = called | explored
    audit.count(explored[scored], hard[scored], in_stage_two=True)
    found = audit.report(rate)
    assert found["predictor_precision"] == pytest.approx(hard[called].mean(), abs=1e-9)
    assert found["predictor_recall"] == pytest.approx(called[hard].mean(), abs=0.01)
    assert Audit(**audit.state()).report(rate) == found
