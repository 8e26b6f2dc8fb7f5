from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest
from sklearn.naive_bayes import BernoulliNB

from edgetune.data.batches import Batch
from edgetune.selection.features import HASH_BITS, HashedFeatures, Presence, TokenFeatures, hash_ids
from edgetune.selection.meta_predictor import Cutoff, MetaPredictor, PlattScaling
from edgetune.selection.naive_bayes import (
    LOWEST_LOG_PROBA,
    STRENGTH,
    BernoulliNaiveBayes,
    PooledNaiveBayes,
    log_loss,
)


def ragged(rows: list[list[int]], labels: list[int] | None = None) -> Batch:
    return fakes.ragged(rows, labels=labels or [0] * len(rows))


def random_batch(rng: np.random.Generator, n_rows: int, vocab: int) -> Batch:
    return ragged([rng.integers(0, vocab, rng.integers(1, 15)).tolist() for _ in range(n_rows)])


def dense(x: Presence, n_features: int) -> np.ndarray:
    table = np.zeros((x.n_rows, n_features))
    table[x.rows, x.features] = 1
    return table


def over_tokens(vocab: int, *, calibrated: bool = True, recall: float = 0.0) -> MetaPredictor:
    return MetaPredictor(
        TokenFeatures(vocab), BernoulliNaiveBayes(vocab), calibrated=calibrated, recall=recall
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("vocab", [2, 40, 3000])
def test_equals_scikit_learn(seed: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    space, ours = TokenFeatures(vocab), BernoulliNaiveBayes(vocab)
    theirs = BernoulliNB(alpha=1.0, fit_prior=True)
    for _ in range(6):
        x, y = space(random_batch(rng, 32, vocab)), rng.random(32) < 0.3
        ours.partial_fit(x, y)
        theirs.partial_fit(dense(x, vocab), y.astype(int), classes=[0, 1])
        unseen = space(random_batch(rng, 50, vocab))
        table = dense(unseen, vocab)
        kwargs = {"rtol": 0, "atol": 1e-9}
        np.testing.assert_allclose(
            ours.joint_log_likelihood(unseen), theirs.predict_joint_log_proba(table), **kwargs
        )
        odds, log_p = ours.log_odds(unseen), theirs.predict_log_proba(table)
        np.testing.assert_allclose(odds, log_p[:, 1] - log_p[:, 0], **kwargs)
        np.testing.assert_array_equal(odds > 0, theirs.predict(table) == 1)


def test_many_small_fits_equal_one_large_fit() -> None:
    rng = np.random.default_rng(0)
    space, steps, once = TokenFeatures(30), BernoulliNaiveBayes(30), BernoulliNaiveBayes(30)
    batch, y = random_batch(rng, 40, 30), rng.random(40) < 0.5
    for start in range(0, 40, 8):
        part = np.arange(start, start + 8)
        steps.partial_fit(space(batch.take(part)), y[part])
    once.partial_fit(space(batch), y)
    x = space(random_batch(rng, 20, 30))
    np.testing.assert_array_equal(steps.log_odds(x), once.log_odds(x))


def test_one_class_seen_is_certain_without_warning() -> None:
    x = TokenFeatures(3)(ragged([[0, 1], [2]]))
    bayes = BernoulliNaiveBayes(3)
    assert bayes.log_odds(x).tolist() == [0.0, 0.0]
    bayes.partial_fit(x, np.array([True, True]))
    assert (bayes.log_odds(x) > 0).all()
    certain = bayes.log_odds(x)
    assert certain.tolist() == [np.inf, np.inf]
    assert log_loss(certain, np.array([True, False])) == -LOWEST_LOG_PROBA / 2


def test_a_word_counts_once_per_example_and_empty_examples_count_too() -> None:
    x = TokenFeatures(5)(ragged([[4, 1, 4, 4], [], [1]]))
    assert (x.rows.tolist(), x.features.tolist(), x.n_rows) == ([0, 0, 2], [1, 4, 1], 3)


def test_unknown_token_ids_grow_the_table() -> None:
    small, large = BernoulliNaiveBayes(2), BernoulliNaiveBayes(9)
    batch, y = ragged([[0, 8], [1]]), np.array([True, False])
    small.partial_fit(TokenFeatures(2)(batch), y)
    large.partial_fit(TokenFeatures(9)(batch), y)
    unseen = ragged([[0, 3], [8], [1, 1]])
    np.testing.assert_array_equal(
        small.log_odds(TokenFeatures(2)(unseen)), large.log_odds(TokenFeatures(9)(unseen))
    )


def test_hashed_features_tell_tokens_pairs_lengths_and_labels() -> None:
    space = HashedFeatures(n_classes=3)
    x = space(ragged([[7], [7] * 9, [7, 7], [30521] * 10_000], labels=[0, 2, 2, 1]))
    table = dense(x, space.n_features)
    tokens, pairs, lengths, labels = np.split(table, np.cumsum([2**HASH_BITS, 2**HASH_BITS, 64]), axis=1)
    assert table.sum(axis=1).tolist() == [4.0] * 4
    assert tokens.argmax(axis=1).tolist() == hash_ids(np.array([7, 7, 7, 30521])).tolist()
    assert pairs.argmax(axis=1).tolist() == hash_ids(np.array([21, 23, 23, 91564])).tolist()
    assert lengths.argmax(axis=1).tolist() == [0, 1, 0, 63]
    assert labels.argmax(axis=1).tolist() == [0, 2, 2, 1]


def test_hashed_features_of_several_labels_are_those_of_each() -> None:
    space = HashedFeatures(n_classes=3)
    words = [[7, 8, 7], [7], [9, 8]]
    batch = replace(ragged(words), labels=np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=np.float32))
    x = space(batch)
    each = [space(ragged(words, labels=[label] * 3)) for label in range(3)]
    tables = [dense(one, space.n_features) for one in each]
    expected = np.stack([np.maximum(tables[0][0], tables[2][0]), tables[0][1], tables[1][2]])
    pairs_and_label = slice(2**HASH_BITS, None)
    expected[1, pairs_and_label] = 0
    lengths = slice(2**HASH_BITS * 2, 2**HASH_BITS * 2 + 64)
    expected[1, lengths] = tables[0][1, lengths]
    np.testing.assert_array_equal(dense(x, space.n_features), expected)
    assert np.bincount(x.under[x.under >= 0], minlength=3).tolist() == [2, 2, 2]


def test_hash_spreads_a_vocabulary() -> None:
    buckets = hash_ids(np.arange(30_522, dtype=np.int32))
    assert (buckets.min() >= 0, buckets.max() < 2**HASH_BITS) == (True, True)
    assert len(np.unique(buckets)) > 0.65 * 2**HASH_BITS  # better than a random hash


def test_pooled_is_its_formula() -> None:
    rng = np.random.default_rng(4)
    space, ours = TokenFeatures(12), PooledNaiveBayes(12)
    table, y = np.zeros((0, 12)), np.zeros(0, dtype=bool)
    for _ in range(4):
        x, more = space(random_batch(rng, 8, 12)), rng.random(8) < 0.4
        ours.partial_fit(x, more)
        table, y = np.concatenate([table, dense(x, 12)]), np.concatenate([y, more])
    total = np.array([sum(~y), sum(y)]) + 1
    easy, hard = (table[y == c].sum(axis=0) + STRENGTH * total[c] / total.sum() for c in (0, 1))
    prior = np.log(total[1] / total[0])
    unseen = space(random_batch(rng, 8, 12))
    expected = dense(unseen, 12) @ (np.log(hard / easy) - prior) + prior
    np.testing.assert_allclose(ours.log_odds(unseen), expected, rtol=1e-12)


def test_a_label_counts_once_however_many_words_there_are() -> None:
    """Rows of label 1 are hard, whatever their words: long ones are no harder than short ones."""
    rng = np.random.default_rng(2)
    space, bayes = HashedFeatures(2), PooledNaiveBayes(HashedFeatures(2).n_features)
    for _ in range(200):
        labels = rng.integers(0, 2, 32)
        batch = ragged([rng.integers(0, 50, 20).tolist() for _ in labels], labels.tolist())
        bayes.partial_fit(space(batch), rng.random(32) < np.where(labels == 1, 0.6, 0.4))
    words = rng.integers(0, 50, 20).tolist()
    odds = bayes.log_odds(space(ragged([words, words], [0, 1])))
    assert odds[1] - odds[0] == pytest.approx(2 * np.log(0.6 / 0.4), abs=0.6)  # 20 times that with every pair


def test_a_pair_tells_more_than_its_label_where_the_word_does() -> None:
    space, bayes = HashedFeatures(2), PooledNaiveBayes(HashedFeatures(2).n_features)
    batch = ragged([[7], [7], [8], [8]] * 50, [0, 1, 0, 1] * 50)
    bayes.partial_fit(space(batch), np.array([True, False, False, True] * 50))
    assert (bayes.log_odds(space(ragged([[7], [7], [8], [8]], [0, 1, 0, 1]))) > 3).tolist() == [
        *(True, False, False, True)
    ]


def test_unseen_words_say_nothing_to_pooled_and_something_to_bernoulli() -> None:
    rng = np.random.default_rng(0)
    space, pooled, bernoulli = TokenFeatures(5000), PooledNaiveBayes(5000), BernoulliNaiveBayes(5000)
    x, y = space(random_batch(rng, 40, 10)), np.arange(40) < 10
    for bayes in (pooled, bernoulli):
        bayes.partial_fit(x, y)
    assert pooled.log_odds(space(ragged([[4000, 4001]])))[0] == pytest.approx(np.log(11 / 31))
    assert bernoulli.log_odds(space(ragged([[4000, 4001]])))[0] < -100


def test_log_loss_is_equation_4() -> None:
    p = np.array([0.9, 0.2, 0.6])
    odds = np.log(p / (1 - p))
    expected = -(np.log(0.9) + np.log(0.8) + np.log(0.4)) / 3
    assert log_loss(odds, np.array([True, False, False])) == pytest.approx(expected)


@pytest.mark.parametrize(("scale", "shift"), [(8.0, 0.0), (1.0, 2.0), (0.3, -1.0)])
def test_scaling_undoes_wrong_confidence(scale: float, shift: float) -> None:
    rng = np.random.default_rng(0)
    platt = PlattScaling()
    before, after = [], []
    for _ in range(150):
        truth = rng.normal(0, 1.5, 32)
        y = rng.random(32) < 1 / (1 + np.exp(-truth))
        odds = truth * scale + shift
        before.append(log_loss(odds, y))
        after.append(log_loss(platt(odds), y))
        platt.update(odds, y)
    assert np.mean(after[50:]) < np.mean(before[50:]) - 0.005
    assert np.mean(after[50:]) == pytest.approx(0.50, abs=0.03)  # entropy of y given the truth


def test_scaling_survives_useless_and_infinite_odds() -> None:
    rng = np.random.default_rng(0)
    platt = PlattScaling()
    for _ in range(200):
        odds = rng.choice([-np.inf, np.inf, 0.0, 500.0], 32)
        platt.update(odds, rng.random(32) < 0.3)
    odds = rng.choice([-np.inf, np.inf], 5000)
    loss = log_loss(platt(odds), rng.random(5000) < 0.3)
    assert loss == pytest.approx(0.611, abs=0.03)  # entropy of a 30 % coin


def test_calibration_never_changes_who_is_predicted_hard() -> None:
    rng = np.random.default_rng(1)
    plain, scaled = (over_tokens(20, calibrated=c) for c in (False, True))
    for _ in range(10):
        batch = random_batch(rng, 16, 20)
        hard = rng.random(16) < 0.4
        lessons = [one.learn(batch, hard, np.ones(16), after_fit=False) for one in (plain, scaled)]
        np.testing.assert_array_equal(lessons[0].called_hard, lessons[1].called_hard)
        assert lessons[0].base_loss == lessons[1].base_loss
    assert lessons[0].loss != lessons[1].loss


def test_base_loss_knows_the_share_of_earlier_hard_examples() -> None:
    predictor = over_tokens(4)
    batch, hard, ones = ragged([[0], [1], [2], [3]]), np.array([True, False, False, False]), np.ones(4)
    assert predictor.learn(batch, hard, ones, after_fit=False).base_loss == pytest.approx(np.log(2))
    expected = -(np.log(2 / 6) + 3 * np.log(4 / 6)) / 4
    assert predictor.learn(batch, hard, ones, after_fit=False).base_loss == pytest.approx(expected)


def test_everything_is_hard_before_the_first_lesson() -> None:
    predictor = over_tokens(4)
    assert predictor.predict(ragged([[1], [2, 3]])).all()


def test_cutoff_is_what_the_asked_share_of_the_last_hard_rows_reach() -> None:
    cutoff = Cutoff(0.75)
    cutoff.add(np.arange(7.0), np.ones(7))
    assert cutoff.odds == -np.inf  # too few are known
    cutoff.add(np.arange(7.0, 12.0), np.ones(5))
    assert cutoff.odds == 3.0  # 3 to 11: nine of twelve
    cutoff.add(np.array([-4.0]), np.array([20.0]))  # one that was explored, for twenty: 24 of 32 are needed
    assert cutoff.odds == -4.0
    cutoff.add(np.arange(128.0), np.ones(128))  # what lies further back is forgotten
    assert np.mean(np.arange(128) >= cutoff.odds) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("recall", [1e-18, 0.01, 0.5, 0.99, 1.0])
def test_cutoff_keeps_at_least_the_asked_share(recall: float) -> None:
    rng = np.random.default_rng(5)
    cutoff, odds = Cutoff(recall), rng.normal(size=60).round(1)
    cutoff.add(odds, np.ones(60))
    assert np.mean(odds >= cutoff.odds) >= recall
    assert np.mean(odds > cutoff.odds) <= recall


@pytest.mark.parametrize("recall", [0.0, 0.8, 0.95])
def test_predictor_calls_the_asked_share_of_hard_rows_hard(recall: float) -> None:
    """A tenth is hard and the words say little: by the sign of its odds the predictor finds few of them."""
    rng = np.random.default_rng(2)
    predictor = over_tokens(40, recall=recall)
    found, called = [], []
    for n in range(400):
        hard = rng.random(32) < 0.1
        words = np.where(hard, rng.integers(0, 30, 32), rng.integers(10, 40, 32))
        lesson = predictor.learn(ragged([[word] for word in words]), hard, np.ones(32), after_fit=False)
        if n >= 100:
            found.extend(lesson.called_hard[hard])
            called.extend(lesson.called_hard)
    if recall:
        assert np.mean(found) == pytest.approx(recall, abs=0.05)
        assert np.mean(called) < 0.9
    else:
        assert np.mean(found) < 0.5


def test_the_cutoff_is_part_of_the_state() -> None:
    rng = np.random.default_rng(3)
    predictor, restored = (over_tokens(20, recall=0.8) for _ in range(2))
    for _ in range(8):
        predictor.learn(random_batch(rng, 32, 20), rng.random(32) < 0.2, np.ones(32), after_fit=False)
    restored.load_state(predictor.state())
    batch = random_batch(rng, 200, 20)
    np.testing.assert_array_equal(restored.predict(batch), predictor.predict(batch))
    assert 0 < predictor.predict(batch).mean() < 1
