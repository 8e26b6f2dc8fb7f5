"""The linear probe: it fits what can be fitted, and stays finite where nothing can."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from edgetune.learners.linear_probe import (
    best_strength,
    cross_fit_linear_probe,
    fit_linear_probe,
    known_elsewhere,
    probe_accuracy,
    quick_cross_fit_linear_probe,
)
from edgetune.utils.metrics import cross_entropy


def blobs(n: int, n_classes: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    centres = np.random.default_rng(99).normal(0, apart, (n_classes, 12))
    return (centres[labels] + rng.normal(0, 1, (n, 12))).astype(np.float32), labels


@pytest.mark.parametrize("n_classes", [2, 5])
def test_it_separates_what_is_apart(n_classes: int) -> None:
    features, labels = blobs(300, n_classes, 2.0)
    head = fit_linear_probe(features, labels, n_classes)
    assert head.weight.shape == (n_classes, 12)
    assert head.weight.dtype == head.bias.dtype == np.float32
    other, wanted = blobs(300, n_classes, 2.0, seed=1)
    assert ((other @ head.weight.T + head.bias).argmax(1) == wanted).mean() > 0.95


def test_it_finds_what_scikit_learn_finds() -> None:
    features, labels = blobs(400, 3, 0.5)
    head = fit_linear_probe(features, labels, 3, 0.05)
    scaled = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=0.05, max_iter=5000, tol=1e-8).fit(scaled, labels)
    ours = features @ head.weight.T + head.bias
    expected = theirs.decision_function(scaled)
    assert cross_entropy(ours, labels).mean() == pytest.approx(
        cross_entropy(expected, labels).mean(), abs=2e-3
    )
    assert (ours.argmax(1) == expected.argmax(1)).mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(2, 4), st.floats(1e-6, 1e6), st.integers(0, 100))
def test_any_features_give_a_finite_head(n: int, n_classes: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = (rng.normal(0, scale, (n, 6)) + scale).astype(np.float32)
    head = fit_linear_probe(features, rng.integers(0, n_classes, n), n_classes)
    assert np.isfinite(head.weight).all()
    assert np.isfinite(head.bias).all()


def test_a_class_without_rows_is_not_predicted() -> None:
    features, labels = blobs(200, 2, 2.0)
    head = fit_linear_probe(features, labels, 3)
    assert 2 not in (features @ head.weight.T + head.bias).argmax(1)


def test_constant_features_are_no_trouble() -> None:
    head = fit_linear_probe(np.ones((50, 4), np.float32), np.arange(50) % 5 // 4, 2)
    logits = np.ones((1, 4)) @ head.weight.T + head.bias
    assert logits.argmax() == 0


def test_the_strength_is_the_one_that_held_out_rows_want() -> None:
    rng = np.random.default_rng(0)
    features, labels = (
        rng.normal(0, 1, (60, 40)).astype(np.float32),
        rng.integers(0, 2, 60),
    )  # nothing to learn
    other, wanted = rng.normal(0, 1, (200, 40)).astype(np.float32), rng.integers(0, 2, 200)
    strength, probe = best_strength(features, labels, 2, other, wanted, (1e-4, 1.0))
    assert strength == 1e-4
    features, labels = blobs(400, 3, 1.0)
    strength, probe = best_strength(features, labels, 3, *blobs(400, 3, 1.0, seed=1), (1e-4, 0.1))
    assert strength == 0.1
    assert probe_accuracy(probe, *blobs(400, 3, 1.0, seed=2)) > 0.8


def test_a_fit_that_is_stopped_gives_what_was_reached() -> None:
    features, labels = blobs(400, 3, 1.0)
    asked = iter([False, False, True])
    head = fit_linear_probe(features, labels, 3, stop=lambda: next(asked))
    whole = fit_linear_probe(features, labels, 3)
    assert next(asked, None) is None
    stopped, done = (cross_entropy(each.logits(features), labels).mean() for each in (head, whole))
    assert done < stopped < np.log(3)


def test_a_class_of_one_fold_has_no_say_in_the_penalty() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    folds = np.arange(60) % 3
    without = cross_fit_linear_probe(features, labels, 3, folds)
    far = np.full((1, 5), 30.0, dtype=np.float32)  # a row that every fold gets wrong, whatever the penalty
    more = cross_fit_linear_probe(
        np.concatenate([features, far]), np.append(labels, 2), 3, np.append(folds, 0)
    )
    assert without is not None
    assert more is not None
    assert more[0] == without[0]
    np.testing.assert_array_equal(
        known_elsewhere(np.append(labels, 2), np.append(folds, 0)), [True] * 60 + [False]
    )


def test_rows_of_no_fold_are_in_every_fit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    folds = np.where(np.arange(200) < 40, np.arange(200) % 2, -1)
    found = cross_fit_linear_probe(features, labels, 2, folds, (0.05,))
    assert found is not None
    fitted = fit_linear_probe(features[folds != 0], labels[folds != 0], 2, 0.05)
    np.testing.assert_allclose(found[1][folds == 0], fitted.logits(features[folds == 0]), atol=1e-4)
    assert not found[1][folds < 0].any()
    assert not known_elsewhere(labels, folds)[folds < 0].any()


def test_a_quick_cross_fit_tries_usual_penalties_first_and_answers_the_folds_that_it_has_time_for() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 5)).astype(np.float32)
    labels = (features[:, 0] > 0).astype(np.int64)
    folds = np.arange(300) % 5
    strength, logits, answered = quick_cross_fit_linear_probe(features, labels, 2, folds)
    assert answered.all()
    whole = cross_fit_linear_probe(features, labels, 2, folds, (strength,))
    assert whole is not None
    np.testing.assert_allclose(logits, whole[1], atol=1e-4)
    left_s = iter([4.0, 1.0, 1.0, 0.4, 0.4])  # at the start, after one strength, around one more fold
    strength, logits, answered = quick_cross_fit_linear_probe(
        features, labels, 2, folds, lambda: next(left_s, 0.0)
    )
    assert strength == 0.05
    assert set(folds[answered]) == {0, 1}
    assert not logits[~answered].any()
