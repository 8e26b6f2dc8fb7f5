"""Pools of learners: values worked by hand, and what each rule of the fit is there for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edgetune.learners import ensemble as ensemble_module
from edgetune.learners.ensemble import Ensemble, fit_ensemble
from edgetune.utils.errors import RunError
from edgetune.utils.metrics import expected_calibration_error
from edgetune.utils.types import FloatArray, IntArray

N_CLASSES = 5


def constant(share: float, labels: IntArray, n_right: int) -> FloatArray:
    """Logarithms (N, 2) of `share` for the label in the first rows, for the other class in the rest."""
    top = np.where(np.arange(len(labels)) < n_right, labels, 1 - labels)
    return np.log(np.where(np.eye(2)[top] == 1, share, 1 - share))


def learner(
    labels: IntArray, quality: float, rng: np.random.Generator, confidence: float = 1.0
) -> FloatArray:
    """Log-probabilities (N, C): calibrated where the confidence is 1, chance where the quality is 0."""
    evidence = quality * np.eye(N_CLASSES)[labels] + rng.normal(size=(len(labels), N_CLASSES))
    logits = confidence * max(quality, 1.0) * evidence
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def share_right(log_p: FloatArray, labels: IntArray) -> float:
    return float((log_p.argmax(axis=1) == labels).mean())


def test_a_pool_multiplies_probabilities_raised_to_their_weights() -> None:
    found = {"a": np.log([[0.8, 0.2]]), "b": np.log([[0.6, 0.4]]), "other": np.log([[0.1, 0.9]])}
    equal = Ensemble(("a", "b"), (1.0, 1.0), 10).combine(found)
    assert np.exp(equal) == pytest.approx(np.array([[6 / 7, 1 / 7]]))  # 0.8 x 0.6 : 0.2 x 0.4
    halved = Ensemble(("a",), (0.5,), 10).combine(found)
    assert np.exp(halved) == pytest.approx(np.array([[2 / 3, 1 / 3]]))  # sqrt(0.8) : sqrt(0.2)


def test_a_class_that_one_learner_rules_out_can_still_win() -> None:
    ruled_out = np.array([[0.0, -np.inf], [-np.inf, -np.inf]])
    sure = np.log([[1e-9, 1 - 1e-9]] * 2)
    pooled = np.exp(Ensemble(("a", "b"), (1.0, 2.0), 1).combine({"a": ruled_out, "b": sure}))
    assert pooled[0] == pytest.approx([1e-6, 1.0], rel=1e-5)  # 1 x 1e-12 : 1e-6 x 1
    assert pooled[1] == pytest.approx([1e-12, 1.0], rel=1e-5)  # the first has no opinion on this row


def test_a_learner_alone_gets_the_temperature_that_calibrates_it() -> None:
    labels = np.arange(20_000) % 2
    log_p = constant(0.9, labels, n_right=15_000)
    ensemble, (score,) = fit_ensemble({"a": log_p}, labels)
    assert ensemble.weights[0] == pytest.approx(0.5, abs=1e-3)  # 0.9^w / 0.1^w = 0.75 / 0.25
    assert np.exp(ensemble.combine({"a": log_p})).max(axis=1) == pytest.approx(
        np.full(20_000, 0.75), abs=1e-3
    )
    assert (ensemble.names, ensemble.n_rows) == (("a",), 20_000)
    assert (score.name, score.accuracy, score.weight) == ("a", 0.75, ensemble.weights[0])
    assert score.log_loss == pytest.approx(-0.75 * math.log(0.9) - 0.25 * math.log(0.1))


def test_an_overconfident_learner_comes_out_calibrated_on_fresh_rows() -> None:
    rng = np.random.default_rng(1)
    labels, fresh = rng.integers(0, N_CLASSES, 500), rng.integers(0, N_CLASSES, 4000)
    ensemble, _ = fit_ensemble({"a": learner(labels, 2.0, rng, confidence=2.0)}, labels)
    assert ensemble.weights[0] == pytest.approx(0.5, abs=0.05)
    log_p = learner(fresh, 2.0, rng, confidence=2.0)
    after = expected_calibration_error(np.exp(ensemble.combine({"a": log_p})), fresh)
    assert after < 0.03 < expected_calibration_error(np.exp(log_p), fresh)


@pytest.mark.parametrize("n", [100, 1000])
def test_noise_is_dropped(n: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, N_CLASSES, n)
    found = {"noise": learner(labels, 0.0, rng, confidence=5.0), "good": learner(labels, 2.0, rng)}
    ensemble, scores = fit_ensemble(found, labels)
    assert ensemble.names == ("good",)
    assert [score.name for score in scores] == ["noise", "good"]
    assert scores[0].weight == 0
    assert ensemble.weights[0] == pytest.approx(1.0, abs=6 / math.sqrt(n))


def test_independent_learners_of_equal_quality_share_the_weight_and_gain() -> None:
    rng = np.random.default_rng(4)
    labels, fresh = rng.integers(0, N_CLASSES, 1000), rng.integers(0, N_CLASSES, 4000)
    ensemble, _ = fit_ensemble({"a": learner(labels, 1.5, rng), "b": learner(labels, 1.5, rng)}, labels)
    assert ensemble.names == ("a", "b")
    assert ensemble.weights == pytest.approx((1.0, 1.0), abs=0.15)  # independent evidence adds up
    new = {"a": learner(fresh, 1.5, rng), "b": learner(fresh, 1.5, rng)}
    alone = max(share_right(new["a"], fresh), share_right(new["b"], fresh))
    assert share_right(ensemble.combine(new), fresh) > alone + 0.05


def test_a_pool_that_scores_below_its_best_learner_gives_way_to_it() -> None:
    """Nearly sure and right beats barely right by log loss, and still loses rows."""
    for n, n_right, names in ((40, 30, ("barely",)), (40, 39, ("sharp",))):  # one row of 40 is chance
        labels = np.zeros(n, dtype=np.int64)
        barely = np.log(np.tile([0.51, 0.49], (n, 1)))
        sharp = constant(0.99, labels, n_right=n_right)
        ensemble, scores = fit_ensemble({"barely": barely, "sharp": sharp}, labels)
        assert ensemble.names == names
        assert [score.accuracy for score in scores] == [1.0, n_right / n]


def test_the_metric_decides_which_learner_is_best() -> None:
    labels = np.array([0] * 9 + [1])
    majority = np.log(np.tile([0.9, 0.1], (10, 1)))  # accuracy 0.9, macro-F1 0.47
    balanced = constant(0.9, labels, n_right=10)
    balanced[:2] = balanced[:2, ::-1]  # accuracy 0.8, macro-F1 0.69
    found = {"majority": majority, "balanced": balanced}
    assert fit_ensemble(found, labels, keep="best")[0].names == ("majority",)
    ensemble, scores = fit_ensemble(found, labels, metric="macro-f1", keep="best")
    assert ensemble.names == ("balanced",)
    assert [score.macro_f1 for score in scores] == pytest.approx([9 / 19, (14 / 16 + 0.5) / 2])


def test_keeping_the_best_gives_it_the_temperature_it_has_alone() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(0, N_CLASSES, 300)
    found = {"good": learner(labels, 2.0, rng, confidence=2.0), "weak": learner(labels, 1.0, rng)}
    best, _ = fit_ensemble(found, labels, keep="best")
    assert best == fit_ensemble({"good": found["good"]}, labels)[0]
    assert len(fit_ensemble(found, labels)[0].names) == 2


@pytest.mark.parametrize("label", [0, 1])
def test_one_row_gives_moderate_weights_whether_it_is_right_or_wrong(label: int) -> None:
    found = {"a": np.array([[-1e-9, -np.inf]]), "b": np.log([[0.999, 0.001]], dtype=np.float32)}
    ensemble, _ = fit_ensemble(found, np.array([label]))
    assert 0.05 < sum(ensemble.weights) < 1.5
    assert np.isfinite(ensemble.combine(found)).all()


def test_damping_draws_the_weights_toward_equal_shares_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, N_CLASSES, 200)
    found = {"a": learner(labels, 1.5, rng), "b": learner(labels, 1.5, rng)}
    monkeypatch.setattr(ensemble_module, "DAMPING", 1e7)
    assert fit_ensemble(found, labels)[0].weights == pytest.approx((0.5, 0.5), abs=0.01)
    monkeypatch.setattr(ensemble_module, "DAMPING", 1e-3)
    assert sum(fit_ensemble(found, labels)[0].weights) > 1.5  # independent evidence adds up


def test_classes_without_a_held_out_row_and_learners_worse_than_guessing_are_no_trouble() -> None:
    labels = np.array([0, 1] * 20)
    wrong = np.log(np.tile([0.01, 0.01, 0.98], (40, 1)))
    ensemble, _ = fit_ensemble({"a": wrong, "b": wrong[:, ::-1]}, labels, metric="macro-f1")
    assert np.isfinite(ensemble.weights).all()
    assert np.exp(ensemble.combine({"a": wrong, "b": wrong[:, ::-1]})).sum(axis=1) == pytest.approx(1)


ROW = np.log([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("found", "labels", "says"),
    [
        ({}, [0], "at least one learner"),
        ({"a": ROW}, [0, 1], "do not fit"),
        ({"a": np.zeros((0, 2))}, [], "do not fit"),
        ({"a": ROW, "b": np.log([[0.2, 0.3, 0.5]])}, [0], "b has log-probabilities"),
        ({"a": ROW[0]}, [0], "a has log-probabilities"),
        ({"a": ROW}, [2], "labels 2 to 2 in 2 classes"),
        ({"a": ROW}, [-1], "labels -1 to -1"),
        ({"a": np.array([[np.nan, 0.0]])}, [0], "a has values"),
        ({"a": np.array([[3.0, -2.0]])}, [0], "a has values"),
    ],
)
def test_arrays_that_cannot_be_fitted_are_refused(
    found: dict[str, Any], labels: list[int], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        fit_ensemble(found, np.array(labels, dtype=np.int64))


def test_a_missing_or_unlike_learner_cannot_be_combined() -> None:
    ensemble = Ensemble(("a", "b"), (1.0, 1.0), 5)
    with pytest.raises(ValueError, match="of b"):
        ensemble.combine({"a": ROW})
    with pytest.raises(ValueError, match="b has"):
        ensemble.combine({"a": ROW, "b": np.tile(ROW, (2, 1))})


def test_it_comes_back_from_json() -> None:
    ensemble = Ensemble(("encoder", "n-grams"), (0.3, 0.1 + 0.2), 512)
    assert Ensemble.from_dict(json.loads(json.dumps(ensemble.to_dict()))) == ensemble


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 1}, "schema_version is 1"),
        ({"schema_version": True}, "schema_version is True"),
        ({"schema_version": None}, "schema_version is None"),
        ({"names": [], "weights": []}, "0 learners"),
        ({"names": ["a", "a"]}, "names a learner twice"),
        ({"names": ["a"]}, "1 learners and 2 weights"),
        ({"names": "ab"}, "no list of words"),
        ({"names": ["a", 1]}, "no list of words"),
        ({"weights": [1.0, -0.5]}, 'weight of "b" is -0.5'),
        ({"weights": [1.0, 0]}, 'weight of "b" is 0'),
        ({"weights": [1.0, math.nan]}, 'weight of "b" is nan'),
        ({"weights": [math.inf, 1.0]}, 'weight of "a" is inf'),
        ({"weights": [10**400, 1.0]}, "too large"),
        ({"weights": [True, 1.0]}, "no list of numbers"),
        ({"weights": {"a": 1.0}}, "no list of numbers"),
        ({"n_rows": 0}, "on 0 rows"),
        ({"n_rows": 1.5}, "not a whole number"),
        ({"n_rows": True}, "not a whole number"),
    ],
)
def test_nonsense_in_a_file_is_refused_in_a_sentence(change: dict[str, Any], says: str) -> None:
    found = {**Ensemble(("a", "b"), (1.0, 0.5), 9).to_dict(), **change}
    with pytest.raises(RunError, match=says) as refused:
        Ensemble.from_dict(found)
    assert str(refused.value).startswith("The ensemble of this run cannot be used: ")


def test_what_is_no_object_is_refused() -> None:
    for found in (None, [], "ensemble", 3):
        with pytest.raises(RunError, match="JSON"):
            Ensemble.from_dict(found)


def test_scipy_is_only_imported_to_fit() -> None:
    code = "import sys, edgetune.learners.ensemble; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_balanced_answers_as_if_classes_were_equally_frequent() -> None:
    # What the text says is evenly split; the share of the class decides, until it is corrected.
    labels = np.array([0] * 90 + [1] * 10)
    log_p = np.log(np.tile([0.9, 0.1], (100, 1)))
    log_p[-10:] = np.log([0.7, 0.3])
    found, shares = {"a": log_p}, np.array([0.9, 0.1])
    plain = Ensemble(("a",), (1.0,), 100)
    even = plain.balanced(found, labels, shares, None)
    assert np.exp(even.combine(found))[0] == pytest.approx([0.5, 0.5])
    assert np.exp(even.combine(found))[-1] == pytest.approx([0.07 / 0.34, 0.27 / 0.34])
    chosen = plain.balanced(found, labels, shares, "macro-f1")
    assert (chosen.combine(found).argmax(axis=1) == labels).all()
    assert plain.balanced(found, labels, shares, "accuracy").bias == chosen.bias  # the least that is best
    assert Ensemble.from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen


@pytest.mark.parametrize("bias", [None, [0.1, "x"], [math.nan, 0.0]])
def test_a_bias_that_is_no_list_of_numbers_is_refused(bias: Any) -> None:
    found = Ensemble(("a",), (1.0,), 10).to_dict() | {"bias": bias}
    with pytest.raises(RunError, match="used"):
        Ensemble.from_dict(found)
