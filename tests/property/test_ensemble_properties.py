"""Ensembles: normalised, never below their best learner beyond chance, the same in any order of learners."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.learners.ensemble import Ensemble, Metric, fit_ensemble
from edgetune.utils.metrics import accuracy, confusion_matrix, macro_f1
from edgetune.utils.types import FloatArray, IntArray

Case = tuple[dict[str, FloatArray], IntArray]
METRICS: st.SearchStrategy[Metric] = st.sampled_from(["accuracy", "macro-f1"])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Learners of any quality and confidence, some with impossible classes, and labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    labels = rng.integers(0, n_classes, n)
    found: dict[str, FloatArray] = {}
    for i in range(draw(st.integers(1, 4))):
        logits = draw(st.floats(-1, 4)) * np.eye(n_classes)[labels] + rng.normal(size=(n, n_classes))
        logits *= draw(st.sampled_from([0.1, 1.0, 10.0, 1000.0]))
        top = logits.max(axis=1, keepdims=True)
        log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        if draw(st.booleans()):
            log_p = np.where((log_p < -1) & (rng.random(log_p.shape) < 0.2), -np.inf, log_p)
        found[f"learner {i}"] = log_p.astype(draw(st.sampled_from([np.float32, np.float64])))
    return found, labels


def score(log_p: FloatArray, labels: IntArray, metric: Metric) -> float:
    confusion = confusion_matrix(labels, log_p.argmax(axis=1), log_p.shape[1])
    return accuracy(confusion) if metric == "accuracy" else macro_f1(confusion)


def log_loss(log_p: FloatArray, labels: IntArray) -> float:
    return float(-log_p[np.arange(len(labels)), labels].mean())


@settings(max_examples=40, deadline=None)
@given(case=cases(), metric=METRICS)
def test_the_ensemble_is_sound_and_never_scores_below_its_best_learner(case: Case, metric: Metric) -> None:
    found, labels = case
    ensemble, scores = fit_ensemble(found, labels, metric=metric)
    log_p = ensemble.combine(found)
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum(axis=1) == pytest.approx(np.ones(len(labels)))
    assert [member.name for member in scores] == list(found)
    assert {m.name: m.weight for m in scores if m.weight} == dict(
        zip(ensemble.names, ensemble.weights, strict=True)
    )
    assert all(member.weight >= 0 for member in scores)
    best = max(score(one, labels, metric) for one in found.values())
    assert score(log_p, labels, metric) >= best - 2 * len(labels) ** -0.5  # not beyond chance
    alone, _ = fit_ensemble(found, labels, metric=metric, keep="best")
    assert score(alone.combine(found), labels, metric) == best


@settings(max_examples=20, deadline=None)
@given(case=cases(), data=st.data())
def test_the_order_of_the_learners_makes_no_difference(case: Case, data: st.DataObject) -> None:
    found, labels = case
    order = data.draw(st.permutations(list(found)))
    ensemble, scores = fit_ensemble(found, labels)
    again, permuted = fit_ensemble({name: found[name] for name in order}, labels)
    assert again == ensemble
    assert {one.name: one for one in permuted} == {one.name: one for one in scores}


@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_a_learner_given_twice_is_used_once_and_does_not_hurt(case: Case) -> None:
    found, labels = case
    ensemble, _ = fit_ensemble({"a": found["learner 0"]}, labels)
    twice, _ = fit_ensemble({"a": found["learner 0"], "b": found["learner 0"]}, labels)
    assert len(twice.names) == 1
    assert twice.weights == ensemble.weights


@settings(max_examples=20, deadline=None)
@given(case=cases())
def test_a_pool_loses_little_to_one_with_a_copy_of_a_learner_in_it(case: Case) -> None:
    found, labels = case
    before = log_loss(fit_ensemble(found, labels)[0].combine(found), labels)
    more = {**found, "copy": found["learner 0"]}
    ensemble, _ = fit_ensemble(more, labels)
    best = max(score(one, labels, "accuracy") for one in found.values())
    assert score(ensemble.combine(more), labels, "accuracy") >= best - 2 * len(labels) ** -0.5
    if len(labels) >= 20 and len(ensemble.names) > 1:
        assert log_loss(ensemble.combine(more), labels) <= before * 1.05 + 0.05


@settings(max_examples=50, deadline=None)
@given(
    weights=st.dictionaries(st.text("ab-é 1", max_size=8), st.floats(1e-9, 1e6), min_size=1, max_size=5),
    n_rows=st.integers(1, 10**9),
)
def test_an_ensemble_comes_back_from_json(weights: dict[str, float], n_rows: int) -> None:
    ensemble = Ensemble(tuple(weights), tuple(weights.values()), n_rows)
    assert Ensemble.from_dict(json.loads(json.dumps(ensemble.to_dict()))) == ensemble
