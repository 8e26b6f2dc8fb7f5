"""Every figure equals scikit-learn's, or a value worked by hand."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from edgetune.utils import metrics


def _case(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, n_classes)).astype(np.float32) * 3, rng.integers(0, n_classes, n)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), n_classes=st.integers(2, 7))
def test_every_figure_equals_scikit_learn(seed: int, n: int, n_classes: int) -> None:
    logits, labels = _case(seed, n, n_classes)
    predicted = logits.argmax(axis=1)
    ids = list(range(n_classes))
    found = metrics.evaluate_predictions(logits, labels, [f"c{i}" for i in ids])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
        assert found.macro_f1 == pytest.approx(
            sk.f1_score(labels, predicted, labels=ids, average="macro", zero_division=0)
        )
        assert found.mcc == pytest.approx(sk.matthews_corrcoef(labels, predicted), abs=1e-12)
        probabilities = metrics.softmax(logits)
        assert found.loss == pytest.approx(sk.log_loss(labels, probabilities, labels=ids), rel=1e-9)
        table = sk.precision_recall_fscore_support(labels, predicted, labels=ids, zero_division=0)
    assert found.confusion == tuple(map(tuple, sk.confusion_matrix(labels, predicted, labels=ids).tolist()))
    for i, scores in enumerate(found.per_class):
        mine = (scores.precision, scores.recall, scores.f1, scores.support)
        assert mine == pytest.approx(tuple(column[i] for column in table))


def test_a_class_without_rows_counts_with_f1_zero_and_warns_nobody() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    found = metrics.evaluate_predictions(logits, np.array([0, 1, 1]), ["a", "b", "c"])
    assert found.accuracy == 1.0
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert (found.per_class[2].f1, found.per_class[2].support) == (0.0, 0)


def test_rows_of_classes_that_the_model_does_not_have_are_wrong() -> None:
    """Every figure but the loss is scikit-learn's for labels that are never predicted."""
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 5, 200), rng.normal(size=(200, 3))
    found = metrics.evaluate_predictions(logits, labels, [*"abcde"])
    predicted = logits.argmax(axis=1)
    assert found.n == 200
    assert found.accuracy == pytest.approx(sk.accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert found.mcc == pytest.approx(sk.matthews_corrcoef(labels, predicted))
    known = labels < 3
    expected = sk.log_loss(labels[known], metrics.softmax(logits[known]), labels=[0, 1, 2])
    assert found.loss == pytest.approx(expected)
    assert found.unknown_labels == {"d": (labels == 3).sum(), "e": (labels == 4).sum()}
    assert [one.label for one in found.known] == [*"abc"]
    assert metrics.read_evaluation(json.loads(json.dumps(found.to_dict()))) == found


def test_no_row_of_a_class_that_the_model_has() -> None:
    found = metrics.evaluate_predictions(np.array([[0.0, 1.0]]), np.array([2]), ["a", "b", "c"])
    assert (found.accuracy, found.to_dict()["loss"]) == (0.0, None)


def test_constant_predictions_have_no_correlation() -> None:
    logits = np.tile(np.array([2.0, 0.0]), (6, 1))
    assert metrics.evaluate_predictions(logits, np.array([0, 1, 0, 1, 1, 1]), ["a", "b"]).mcc == 0.0


def test_one_row_is_enough_and_none_is_not() -> None:
    found = metrics.evaluate_predictions(np.array([[0.0, 1.0]]), np.array([1]), ["a", "b"])
    assert (found.n, found.accuracy, found.interval[1]) == (1, 1.0, 1.0)
    with pytest.raises(ValueError, match="row"):
        metrics.evaluate_predictions(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), ["a", "b"])


def test_mcc_of_a_large_confusion_does_not_overflow() -> None:
    confusion = np.array([[4 * 10**8, 10**8], [10**8, 4 * 10**8]])
    assert metrics.mcc(confusion) == pytest.approx(0.6)


def test_losses_are_stable_for_huge_float32_logits() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4], [-1e4, -1e4]], dtype=np.float32)
    losses = metrics.cross_entropy(logits, np.array([0, 0, 1]))
    assert losses.dtype == np.float64
    assert losses == pytest.approx([0.0, 1e4, math.log(2)])
    assert metrics.softmax(logits).sum(axis=1) == pytest.approx([1, 1, 1])


def test_loss_and_answer_of_rows_with_several_labels() -> None:
    logits = np.array([[0.0, 2.0, -3.0], [500.0, -500.0, 1.0], [-1.0, -1.0, -1.0]])
    labels = np.array([[0, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=np.float32)
    p = 1 / (1 + np.exp(-logits[[0, 2]]))
    by_hand = -np.log(np.where(labels[[0, 2]] == 1, p, 1 - p)).mean(axis=1)
    losses = metrics.cross_entropy(logits, labels)
    np.testing.assert_allclose(losses[[0, 2]], by_hand)
    assert losses[1] == pytest.approx((1000 + np.log1p(np.exp(-1))) / 3)
    assert metrics.is_right(logits, labels).tolist() == [True, False, True]
    assert metrics.is_right(logits, np.array([1, 0, 2])).tolist() == [True, True, False]


def test_expected_calibration_error_by_hand() -> None:
    # Two bins: 0.5 and 0.4 with one right of two (0.05 off), 0.8 and 1.0 with one right of two (0.4 off).
    probabilities = np.array([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
    labels = np.array([0, 0, 2, 0])
    found = metrics.expected_calibration_error(probabilities, labels, n_bins=2)
    assert found == pytest.approx((2 * 0.05 + 2 * 0.4) / 4)
    assert metrics.expected_calibration_error(probabilities, labels, n_bins=1) == pytest.approx(2.7 / 4 - 0.5)


def test_expected_calibration_error_is_zero_where_confidence_is_accuracy() -> None:
    probabilities = np.tile(np.array([0.75, 0.25], dtype=np.float32), (8, 1))
    assert metrics.expected_calibration_error(probabilities, np.array([0] * 6 + [1] * 2)) == pytest.approx(0)
    assert metrics.expected_calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1.0


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval_against_published_values(right: int, n: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


@given(right=st.integers(0, 500), extra=st.integers(0, 500))
def test_wilson_interval_holds_the_share(right: int, extra: int) -> None:
    n = right + extra
    if n:
        low, high = metrics.wilson_interval(right, n)
        assert 0 <= low <= right / n <= high <= 1


def test_to_dict_is_json_and_writes_no_nan() -> None:
    found = metrics.evaluate_predictions(np.array([[np.nan, 1.0]]), np.array([0]), ["a", "b"]).to_dict()
    assert found["loss"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["n_eval"] == 1


def test_paper_arithmetic() -> None:
    # SST-2, three stages: 6.01 % skip the backward pass, 81.01 % both; T_b = 2 T_f.
    assert metrics.t_norm_modelled(0.0601, 0.8101, 1.0, 2.0) == pytest.approx(0.0601 / 3 + 0.1298)
    assert metrics.t_norm_modelled(0.0, 0.0, 0.3, 0.5) == 1.0
    assert metrics.agot(0.9, 0.5, base=0.5, full=0.9) == pytest.approx(2**0.05)
    assert metrics.paper_energy_kwh(3600, 50, 10, 100, n_gpu=2) == pytest.approx(1.58 * 0.26)
    assert metrics.paper_co2e_lb(2.0) == pytest.approx(1.908)
