from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import FakeSource, make_batch, random_labels

from edgetune.data.batches import Batch
from edgetune.selection.features import Presence, WordFeatures, hash_ids
from edgetune.selection.linear_model import (
    LinearModel,
    PreparationStopped,
    fit_proxy,
    gradient,
    project,
    read_in_batches,
    sums_by,
)
from edgetune.utils.metrics import cross_entropy, softmax


def texts(rows: list[list[int]], labels: list[int], first_row: int = 0) -> Batch:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Batch(
        rows=np.arange(first_row, first_row + len(rows)),
        labels=np.array(labels),
        tokens=np.array([token for row in rows for token in row], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        first_lengths=lengths,
        scored=np.zeros(len(rows), dtype=np.bool_),
    )


class Ready:
    """A space whose examples have their features already."""

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features

    def __call__(self, x: Presence) -> Presence:
        return x


def proxy_of(n_classes: int) -> LinearModel:
    return LinearModel(WordFeatures(), n_classes)


def random_presence(rng: np.random.Generator, n_rows: int, n_features: int) -> Presence:
    rows, features = np.nonzero(rng.random((n_rows, n_features)) < 0.3)
    return Presence(rows, features, n_rows)


def dense(x: Presence, n_features: int) -> np.ndarray:
    """(B, F) each row's features as ones over the root of their number."""
    table = np.zeros((x.n_rows, n_features))
    table[x.rows, x.features] = 1.0
    return table / np.sqrt(np.maximum(table.sum(axis=1, keepdims=True), 1.0))


def separable(rng: np.random.Generator, n: int, n_classes: int = 3) -> Batch:
    """Texts with one word that tells the class (ids below 3 * 20) among words that tell nothing."""
    labels = rng.integers(0, n_classes, n)
    telling = labels + n_classes * rng.integers(0, 20, n)
    noise = rng.integers(1000, 1200, (n, 6))
    return texts(np.column_stack([noise, telling]).tolist(), labels.tolist())


def test_sums_by_key() -> None:
    keys, sums = sums_by(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0, 0, 7]))
    assert keys.tolist() == [0, 7]
    assert sums.tolist() == [[4.0, 6.0], [5.0, 6.0]]


def test_projection_is_the_scaled_matrix_product_also_for_rows_without_features() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 3))
    x = Presence(np.array([1, 1, 3]), np.array([2, 11, 0]), n_rows=5)
    np.testing.assert_allclose(project(weights, x), dense(x, 12) @ weights, rtol=1e-12)
    assert not project(weights, x)[[0, 2, 4]].any()


@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_finite_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, targets = random_presence(rng, 6, 9), rng.integers(0, 4, 6)
    weights = rng.normal(size=(9, 4))

    def loss(of: np.ndarray) -> float:
        return float(cross_entropy(project(of, x), targets).sum())

    residual = softmax(project(weights, x)) - np.eye(4)[targets]
    features, slopes = gradient(x, residual)
    found = np.zeros_like(weights)
    found[features] = slopes
    expected, h = np.zeros_like(weights), 1e-5
    for at in np.ndindex(*weights.shape):
        up, down = weights.copy(), weights.copy()
        up[at] += h
        down[at] -= h
        expected[at] = (loss(up) - loss(down)) / (2 * h)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert features.tolist() == np.unique(x.features).tolist()


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_step_is_that_of_adagrad(multi_label: bool) -> None:
    """Dense AdaGrad on the same table, three steps; the logits returned are those from before."""
    rng = np.random.default_rng(1)
    model, weights, squares = LinearModel(Ready(10), 3), np.zeros((10, 3)), np.full((10, 3), 0.03)
    for _ in range(3):
        x, targets = random_presence(rng, 8, 10), random_labels(rng, 8, 3, multi_label)
        table = dense(x, 10)
        np.testing.assert_allclose(model.step(x, targets), table @ weights, atol=1e-5)
        logits = table @ weights
        off = 1 / (1 + np.exp(-logits)) - targets if multi_label else softmax(logits) - np.eye(3)[targets]
        slopes = table.T @ off
        squares += slopes**2
        weights -= 0.5 * slopes / np.sqrt(squares)
    np.testing.assert_allclose(model.state()["weights"], weights, atol=1e-5)


def test_no_examples_and_no_words() -> None:
    model, nothing = LinearModel(Ready(5), 2), Presence(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    model.step(Presence(np.array([0]), np.array([3]), 1), np.array([1]))
    before = model.state()
    assert model.logits(nothing).shape == (0, 2)
    assert model.step(nothing, np.zeros(0, np.int64)).shape == (0, 2)
    wordless = Presence(nothing.rows, nothing.features, 2)
    assert model.step(wordless, np.array([0, 1])).tolist() == [[0.0, 0.0]] * 2
    for name, table in model.state().items():
        np.testing.assert_array_equal(table, before[name])


def test_learns_what_words_tell_and_not_where_they_stand() -> None:
    rng = np.random.default_rng(2)
    proxy, unseen = proxy_of(3), separable(rng, 600)
    assert not proxy.logits(unseen).any()
    batches = [separable(rng, 32) for _ in range(60)]
    right = [np.mean(proxy.step(batch, batch.labels).argmax(axis=1) == batch.labels) for batch in batches]
    assert np.mean(right[:3]) < 0.6
    assert np.mean(right[-10:]) > 0.9
    assert np.mean(proxy.logits(unseen).argmax(axis=1) == unseen.labels) > 0.9
    one, other = texts([[5, 9, 9, 700]], [0]), texts([[700, 9, 5]], [1])
    np.testing.assert_array_equal(proxy.logits(one), proxy.logits(other))


def test_learns_the_share_of_a_class_when_words_tell_nothing() -> None:
    """The feature that every text has is the bias; without it unseen words would mean one half."""
    rng = np.random.default_rng(3)
    proxy = proxy_of(2)
    for _ in range(200):
        batch = texts(rng.integers(0, 3000, (32, 5)).tolist(), rng.binomial(1, 0.9, 32).tolist())
        proxy.step(batch, batch.labels)
    p = softmax(proxy.logits(texts([[20_001], [20_002, 20_003], []], [0, 0, 0])))[:, 1]
    assert ((p > 0.75) & (p < 1.0)).all()


def test_word_features_are_the_hashed_tokens_once_and_the_bias() -> None:
    x = WordFeatures()(texts([[7, 7, 8], []], [0, 1]))
    bias = WordFeatures.n_features - 1
    assert x.rows.tolist() == [0, 0, 0, 1]
    assert x.features.tolist() == [*sorted(hash_ids(np.array([7, 8])).tolist()), bias, bias]


def test_continues_exactly_from_its_state_also_through_json() -> None:
    rng = np.random.default_rng(4)
    model = LinearModel(Ready(20), 3)
    lessons = [(random_presence(rng, 8, 20), rng.integers(0, 3, 8)) for _ in range(8)]
    for x, targets in lessons[:4]:
        model.step(x, targets)
    snapshot = model.state()
    text = json.dumps(snapshot, default=lambda array: array.tolist())
    expected = [model.step(x, targets) for x, targets in lessons[4:]]
    for state in (snapshot, json.loads(text)):  # the snapshot did not move with the original
        resumed = LinearModel(Ready(20), 3)
        resumed.load_state(state)
        for (x, targets), logits in zip(lessons[4:], expected, strict=True):
            np.testing.assert_array_equal(resumed.step(x, targets), logits)


def test_read_yields_every_position_once_until_stopped() -> None:
    source, positions = FakeSource(10), np.array([9, 0, 4, 2, 7])
    found = list(read_in_batches(source, positions, lambda: False, n_rows=2))
    assert [at.tolist() for at, _ in found] == [[0, 1], [2, 3], [4]]
    assert [batch.rows.tolist() for _, batch in found] == [[9, 0], [4, 2], [7]]
    answers = iter([False, True])
    with pytest.raises(PreparationStopped):
        list(read_in_batches(source, positions, lambda: next(answers), n_rows=2))


def test_fit_records_what_was_right_before_each_fit() -> None:
    """All logits are 0 at first: in the first pass, one batch of 40 rows, class 0 is predicted."""
    source = FakeSource(200, seed=5)  # its tokens tell the row number modulo 50
    source.labels = (np.arange(200) % 50) // 25
    positions = np.arange(20, 60)
    rows, right = fit_proxy(proxy_of(2), source, positions, 6, np.random.default_rng(0), lambda: False)
    assert right.shape == (6, 40)
    assert rows.tolist() == positions.tolist()
    np.testing.assert_array_equal(right[0], source.labels[positions] == 0)
    assert right[-1].all()


def test_fit_is_seeded_and_can_be_stopped() -> None:
    source = FakeSource(300, seed=6)

    def run(seed: int) -> np.ndarray:
        proxy = proxy_of(2)
        fit_proxy(proxy, source, np.arange(300), 2, np.random.default_rng(seed), lambda: False)
        return proxy.logits(make_batch([4, 9, 2]))

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()
    with pytest.raises(PreparationStopped):
        fit_proxy(proxy_of(2), source, np.arange(300), 2, np.random.default_rng(0), lambda: True)
