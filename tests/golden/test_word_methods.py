"""AutoAssist, SVP and RHO-LOSS on examples small enough to be worked out by hand, and their preparation.

Numbers in the first half were computed by hand from the formulas in the modules' headings; the second half
prepares whole selectors on rows whose right treatment is known: which are ambiguous, which mislabelled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest

from edgetune.data.batches import Batch
from edgetune.selection import SelectionSettings
from edgetune.selection.auto_assist import AutoAssist, RunningMean, acceptance
from edgetune.selection.memory import count_of, top
from edgetune.selection.rho_loss import RhoLoss, most_reducible
from edgetune.selection.selector_contract import DataShape
from edgetune.selection.svp import Svp, forgetting_events, k_center, least_confidence
from edgetune.utils.metrics import entropy


class WordRows:
    """A source whose row numbers start at 1,000, as those of a view of a larger store may."""

    def __init__(self, texts: list[list[int]], labels: list[int]) -> None:
        self.texts = texts
        self.labels = np.array(labels, dtype=np.int64)
        self.lengths = np.array([len(text) for text in texts], dtype=np.int64)
        self.n_batches = 0

    def batch(self, rows: np.ndarray) -> Batch:
        self.n_batches += 1
        lengths = self.lengths[rows]
        return Batch(
            rows=rows + 1000,
            labels=self.labels[rows],
            tokens=np.array([token for row in rows for token in self.texts[row]], dtype=np.int32),
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            first_lengths=lengths,
            scored=np.zeros(len(rows), dtype=np.bool_),
        )

    def everything(self) -> Batch:
        return self.batch(np.arange(len(self.texts)))


def never() -> bool:
    return False


def after(n_looks: int) -> Callable[[], bool]:
    """Say stop from the given look on."""
    looks = iter(range(10**9))
    return lambda: next(looks) >= n_looks


def shape_of(source: WordRows, n_classes: int = 2) -> DataShape:
    return DataShape(n_examples=len(source.texts), n_classes=n_classes, vocab_size=2000)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- AutoAssist


def assist(source: WordRows, base_rate: float, seed: int) -> AutoAssist:
    settings = SelectionSettings.model_validate({"method": "auto-assist", "base_rate": base_rate})
    return AutoAssist(settings, shape_of(source), generator(seed))


def test_acceptance_is_base_plus_the_rest_times_p() -> None:
    assert acceptance(0.3, np.array([0.0, 0.5, 1.0])) == pytest.approx([0.3, 0.65, 1.0])
    assert acceptance(1.0, np.array([0.0, 0.7])).tolist() == [1.0, 1.0]


def test_running_mean_by_hand() -> None:
    """With d = 1/2: [1 3] weighs 3/4; [4] halves that and weighs 1/2; [0 0] leaves a quarter.

    (3/4 * 2) / (3/4) = 2;  (3/4 + 2) / (3/8 + 1/2) = 22/7;  (11/16) / (7/32 + 3/4) = 22/31.
    """
    mean = RunningMean(time_constant=2)
    assert mean.value is None
    found = [mean.add(np.array(losses)) for losses in ([1.0, 3.0], [4.0], [0.0, 0.0])]
    assert found == pytest.approx([2.0, 22 / 7, 22 / 31])
    assert mean.value == found[-1]


def test_assistant_by_hand() -> None:
    """One lesson: the single loss is its own mean, so the example is not hard.

    It has 4 features (word, word with label, length, label), each worth 1/2. Before: log loss ln 2. The
    residual of "hard" is 1/2 - 0, the slope 1/4, the step 0.5 * (1/4) / sqrt(0.03 + 1/16) =: w. After: the
    logits are +-2w, so p(hard) = 1 / (1 + exp(4w)) for the same text and label. An example that shares
    the length alone has the logits +-w/2: p(hard) = 1 / (1 + exp(w)).
    """
    source = WordRows([[7], [8]], [0, 1])
    lesson, other = source.batch(np.array([0])), source.batch(np.array([1]))
    selector = assist(source, 0.3, seed=4)
    draws = generator(4)
    many = np.zeros(400, dtype=np.int64)
    selector_says = selector.choose_score(lesson.take(many))
    np.testing.assert_array_equal(selector_says, draws.random(400) < 0.65)

    selector.observe(lesson, np.array([1.5]))
    report = selector.report()
    assert report["running_mean_loss"] == pytest.approx(1.5)
    assert report["predictor_loss"] == pytest.approx(log(2))
    assert report["accepted_rate"] == selector_says.mean()
    w = 0.5 * 0.25 / sqrt(0.03 + 1 / 16)
    for batch, odds in ((lesson, 4 * w), (other, w)):
        p = 1 / (1 + exp(odds))
        expected = draws.random(400) < 0.3 + 0.7 * p
        np.testing.assert_array_equal(selector.choose_score(batch.take(many)), expected)

    # The mean of 1.5 once and of (0, 3) twice, with d = 1023/1024, is 1.5 again: only the 3 is above.
    selector.observe(source.everything(), np.array([0.0, 3.0]))
    report = selector.report()
    assert report["running_mean_loss"] == pytest.approx(1.5)
    assert report["hard_rate"] == pytest.approx(1 / 3)
    before = (log(1 + exp(-4 * w)) + log(1 + exp(w))) / 2  # "easy" was right, "hard" was not expected
    assert report["predictor_loss"] == pytest.approx((log(2) + before) / 2, rel=1e-5)


def test_assistant_tells_the_label_in_context() -> None:
    """Word 5 makes class 0 hard, word 6 class 1: neither word nor label tells alone."""
    rng = generator(1)
    words, labels = rng.integers(5, 7, 3200), rng.integers(0, 2, 3200)
    source = WordRows([[int(word), 9] for word in words], labels.tolist())
    selector = assist(source, 0.1, seed=2)
    hard = (words == 5) == (labels == 0)
    for start in range(0, 3200, 32):
        rows = np.arange(start, start + 32)
        selector.observe(source.batch(rows), np.where(hard[rows], 2.0, 0.1))
    accepted = selector.choose_score(source.everything())
    assert accepted[hard].mean() > 0.8
    assert 0.1 <= accepted[~hard].mean() < 0.3
    assert selector.report()["predictor_loss"] < 0.3
    assert (selector.skips_scoring, selector.decision_size) == (True, 1)


# --- SVP


def test_forgetting_events_by_hand() -> None:
    right = np.array(
        [
            [1, 1, 1, 1, 1],  # always right
            [0, 0, 0, 0, 0],  # never right
            [1, 0, 1, 0, 1],  # forgotten twice
            [0, 1, 1, 0, 0],  # learnt, then forgotten once
            [0, 0, 0, 0, 1],  # learnt late, not forgotten
        ],
        dtype=np.bool_,
    ).T
    events = forgetting_events(right)
    assert events.tolist() == [0.0, np.inf, 2.0, 1.0, 0.0]
    assert [top(events, share).tolist() for share in (0.2, 0.4, 0.6)] == [[1], [1, 2], [1, 2, 3]]


def test_confidence_and_entropy_rank_differently() -> None:
    """Least confidence: .5 .5 .4 0. Entropy: ln 2 = .693; 1.5 ln 2 = 1.040; .950; 0."""
    p = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.6, 0.2, 0.2], [1.0, 0.0, 0.0]])
    assert least_confidence(p) == pytest.approx([0.5, 0.5, 0.4, 0.0])
    third = -(0.6 * log(0.6) + 0.4 * log(0.2))
    assert entropy(p) == pytest.approx([log(2), 1.5 * log(2), third, 0.0])
    assert top(least_confidence(p), 0.5).tolist() == [0, 1]
    assert top(entropy(p), 0.5).tolist() == [1, 2]


def test_k_center_by_hand() -> None:
    """Squared distances to the nearest centre, by position (x: chosen):

    centre 0   x   1 100 101  36   0     → 3
    centre 3   x   1   1   x  36   0     → 4
    centre 4   x   1   1   x   x   0     → 1, the lower of two equal ones
    centre 1   x   x   1   x   x   0     → 2, then the copy of the first point
    """
    points = np.array([[0, 0], [1, 0], [10, 0], [10, 1], [0, 6], [0, 0]], dtype=np.float32)
    assert k_center(points, 6).tolist() == [0, 3, 4, 1, 2, 5]
    assert k_center(points, 3).tolist() == [0, 3, 4]
    assert k_center(points, 0).tolist() == []
    assert sorted(k_center(np.ones((4, 2)), 4).tolist()) == [0, 1, 2, 3]  # all alike, yet each once


def test_share_of_rows() -> None:
    assert [count_of(0.33, n) for n in (0, 1, 4, 100, 1000)] == [0, 1, 2, 33, 330]
    assert count_of(1.0, 7) == 7


def two_class_rows(n: int, ambiguous_every: int) -> tuple[WordRows, np.ndarray]:
    """Words 10-19 tell class 0, 20-29 class 1; every so-manieth row has one of each and a label by lot."""
    rng = generator(7)
    labels = rng.integers(0, 2, n)
    first, second = rng.integers(0, 10, (2, n))
    ambiguous = np.arange(n) % ambiguous_every == 0
    other_class = np.where(ambiguous, 1 - labels, labels)
    words = np.column_stack([10 + 10 * labels + first, 10 + 10 * other_class + second])
    return WordRows(words.tolist(), labels.tolist()), ambiguous


def svp(source: WordRows, rank_by: str, subset_rate: float, seed: int = 3) -> Svp:
    settings = SelectionSettings.model_validate(
        {"method": "svp", "rank_by": rank_by, "subset_rate": subset_rate}
    )
    return Svp(settings, shape_of(source), generator(seed))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("rank_by", "least"), [("confidence", 0.9), ("entropy", 0.9), ("forgetting", 0.4)])
def test_svp_keeps_the_rows_its_proxy_is_unsure_of(rank_by: str, least: float, multi_label: bool) -> None:
    """By lot it would be a quarter of the ambiguous rows; about half of them are right at every visit."""
    source, ambiguous = two_class_rows(600, ambiguous_every=4)
    if multi_label:
        source.labels = np.eye(2, dtype=np.float32)[source.labels]
    selector = svp(source, rank_by, 0.25)
    selector.prepare(source, never)
    kept = selector.choose_score(source.everything())
    assert kept.sum() == 150
    assert kept[ambiguous].mean() > least
    np.testing.assert_array_equal(selector.choose_score(source.everything()), kept)  # in every epoch
    report = selector.report()
    assert (report["n_kept"], report["rank_by"]) == (150, rank_by)
    assert (report["reached_last_stage"], report["why"]) == (True, None)
    assert 0.75 < report["proxy_accuracy"] < 0.95  # the ambiguous quarter is a coin
    assert selector.skips_scoring
    assert selector.stages[-1].stage == "subset"
    assert selector.stages[-1].reason.startswith("150 of 600 ")


def test_svp_breaks_ties_by_lot_and_not_by_row() -> None:
    """All rows alike but for the label, sorted by it: the first half must not fill the subset."""
    source = WordRows([[10]] * 100 + [[20]] * 100, [0] * 100 + [1] * 100)
    selector = svp(source, "forgetting", 0.5)
    selector.prepare(source, never)
    kept = selector.choose_score(source.everything())
    assert 25 < kept[:100].sum() < 75


def test_svp_k_center_keeps_one_of_each_kind() -> None:
    """2,100 rows of five kinds, four of them 1 % each: two rows in a hundred cover them all."""
    kinds = np.arange(2100) % 100
    texts = [[50 + 10 * min(int(kind), 4)] * 3 for kind in kinds]
    source = WordRows(texts, [0] * 2100)
    selector = svp(source, "k-center", 0.02)
    selector.prepare(source, never)
    kept = selector.choose_score(source.everything())
    assert kept.sum() == selector.report()["n_kept"] == 42
    for kind in range(4):
        assert kept[kinds == kind].any()
    assert selector.report()["proxy_accuracy"] is None
    assert source.n_batches == 3 + 1  # groups of 1,024, and the one above


@pytest.mark.parametrize("rank_by", ["entropy", "k-center"])
def test_svp_stopped_early_trains_everything_and_says_so(rank_by: str) -> None:
    source, _ = two_class_rows(1500, ambiguous_every=4)
    selector = svp(source, rank_by, 0.25)
    assert selector.report()["why"]
    selector.prepare(source, after(1))
    assert selector.choose_score(source.everything()).all()
    report = selector.report()
    assert (report["reached_last_stage"], report["n_kept"], report["stage"]) == (False, None, "all")
    assert "stopped" in report["why"]


# --- RHO-LOSS


def test_most_reducible_by_hand() -> None:
    """Reducible: .25 .125 1.25 .25 .5. By loss alone it would be rows 3 and 0."""
    losses = np.array([2.0, 0.25, 1.5, 3.0, 0.5])
    irreducible = np.array([1.75, 0.125, 0.25, 2.75, 0.0], dtype=np.float32)
    chosen = [np.flatnonzero(most_reducible(losses, irreducible, rate)).tolist() for rate in (0.01, 0.4, 0.6)]
    assert chosen == [[2], [2, 4], [0, 2, 4]]  # of the equal rows 0 and 3 the first
    assert most_reducible(losses, irreducible, 1.0).all()
    assert most_reducible(losses[:0], irreducible[:0], 0.5).shape == (0,)
    assert most_reducible(losses[:1], irreducible[:1], 0.1).tolist() == [True]


def rho(source: WordRows, seed: int = 3, **changed: Any) -> RhoLoss:
    values = {"method": "rho-loss", "proxy_holdout": 0.25, "top_rate": 0.1, "pool_rows": 64, **changed}
    return RhoLoss(SelectionSettings.model_validate(values), shape_of(source), generator(seed))


def mislabelled_rows(n: int) -> tuple[WordRows, np.ndarray]:
    """Both words tell the class; every tenth row bears the wrong label."""
    source, _ = two_class_rows(n, ambiguous_every=10**6)
    wrong = np.arange(n) % 10 == 5
    source.labels = np.where(wrong, 1 - source.labels, source.labels)
    return source, wrong


def test_rho_loss_leaves_wrong_labels_to_the_end() -> None:
    source, wrong = mislabelled_rows(800)
    selector = rho(source)
    assert (selector.decision_size, selector.skips_scoring) == (64, False)
    selector.prepare(source, never)
    looked_at = selector.choose_score(source.everything())
    assert looked_at.sum() == 600  # a quarter of the rows is the small model's
    report = selector.report()
    assert (report["n_proxy_holdout"], report["why"], report["stage"]) == (200, None, "all")
    assert report["proxy_accuracy"] == pytest.approx(0.9, abs=0.04)
    assert 0.2 < report["mean_irreducible_loss"] < 0.6

    # A model that gets every row equally wrong, and the mislabelled ones a little more.
    pool, wrong = source.everything().take(looked_at), wrong[looked_at]
    chosen = selector.choose_train(pool, np.where(wrong, 1.1, 1.0))
    assert chosen.sum() == 60
    assert not chosen[wrong].any()


def test_rho_loss_is_the_irreducible_loss_of_the_row_asked_about() -> None:
    source, _ = mislabelled_rows(400)
    selector = rho(source, top_rate=0.5)
    selector.prepare(source, never)
    pool = source.everything().take(selector.choose_score(source.everything()))
    order = generator(1).permutation(len(pool))
    losses = generator(2).random(len(pool))
    chosen = selector.choose_train(pool, losses)
    np.testing.assert_array_equal(selector.choose_train(pool.take(order), losses[order]), chosen[order])


@pytest.mark.parametrize("n_looks", [0, 5, 17])
def test_rho_loss_stopped_early_holds_no_row_back(n_looks: int) -> None:
    """800 rows: 3 passes over 200 are 12 looks, the other rows 10 more."""
    source, _ = mislabelled_rows(800)
    selector = rho(source)
    selector.prepare(source, after(n_looks))
    assert selector.choose_score(source.everything()).all()
    losses = generator(0).random(800)
    expected = np.zeros(800, dtype=bool)
    expected[np.argsort(-losses)[:80]] = True
    np.testing.assert_array_equal(selector.choose_train(source.everything(), losses), expected)
    report = selector.report()
    assert report["reached_last_stage"] is False
    assert "stopped" in report["why"]


@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_hardly_any_rows(n_rows: int) -> None:
    source = WordRows([[11], [21]][:n_rows], [0, 1][:n_rows])
    for selector in (rho(source), svp(source, "entropy", 0.33), svp(source, "k-center", 0.33)):
        selector.prepare(source, never)
        chosen = selector.choose_score(source.everything())
        assert chosen.sum() == min(n_rows, 1)  # something is left to train on
        json.dumps(selector.report(), allow_nan=False)


# --- both


@pytest.mark.parametrize("method", ["svp", "rho-loss", "auto-assist"])
def test_continues_on_a_selector_that_was_never_prepared(method: str) -> None:
    source, _ = mislabelled_rows(400)
    settings = SelectionSettings.model_validate({"method": method})
    kind = {"svp": Svp, "rho-loss": RhoLoss, "auto-assist": AutoAssist}[method]
    original = kind(settings, shape_of(source), generator(1))
    original.prepare(source, never)
    original.observe(source.everything(), generator(3).random(400))
    text = json.dumps(original.state(), default=lambda array: array.tolist(), allow_nan=False)
    resumed = kind(settings, shape_of(source), generator(2))
    resumed.load_state(json.loads(text))
    assert resumed.report() == original.report()
    losses = generator(4).random(400)
    for part in (np.arange(0, 400, 2), np.arange(400)):
        batch = source.batch(part)
        np.testing.assert_array_equal(resumed.choose_score(batch), original.choose_score(batch))
        np.testing.assert_array_equal(
            resumed.choose_train(batch, losses[part]), original.choose_train(batch, losses[part])
        )
    json.dumps(resumed.report(), allow_nan=False)
