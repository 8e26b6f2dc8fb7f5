"""Cross-fitting: folds keep near-duplicates together, and no learner answers rows that it was fitted on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from test_near_duplicates import TOKENIZER, sentence, write_rows

from edgetune.data.examples import DataOptions
from edgetune.data.near_duplicates import N_FOLDS, make_folds, similar_groups
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.token_store import TokenView
from edgetune.data.tokens import open_tokens
from edgetune.learners.linear_probe import cross_fit_linear_probe
from edgetune.runs.cross_fitting import CrossFit, cross_fit
from edgetune.utils.types import FloatArray

WIDTH = 8


def view_of(texts: list[str], folder: Path) -> TokenView:
    """Return rows of two classes in turn."""
    spec = TokenizerSpec(TOKENIZER, 64, 0)
    store = open_tokens(
        str(write_rows(folder / "rows.csv", texts)), DataOptions(), spec, folder / "cache", 0.01
    )
    return store.relabel(store.label_names)


@pytest.fixture
def noise_rows(tmp_path: Path) -> TokenView:
    """Texts that say nothing of their labels."""
    rng = np.random.default_rng(0)
    return view_of([" ".join(sentence(rng)) for _ in range(100)], tmp_path)


def features_of(view: TokenView, signal: float) -> FloatArray:
    found = np.random.default_rng(1).normal(0, 1, (len(view), WIDTH))
    found[:, 0] += signal * (2 * view.labels - 1)
    return found.astype(np.float32)


def test_near_duplicates_are_in_one_fold_and_classes_in_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [sentence(rng) for _ in range(60)]
    texts = [" ".join(one) for one in words] + [" ".join(one[:6]) for one in words[:20]]
    view = view_of(texts, tmp_path)
    folds = make_folds(similar_groups(view), view.labels, np.random.default_rng(0))
    assert folds is not None
    assert (folds[:20] == folds[60:]).all()
    for number in range(N_FOLDS):
        assert set(view.labels[folds == number]) == {0, 1}


def test_rows_that_are_all_alike_get_no_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = sentence(rng)
    texts = [" ".join(words)] * 40 + [" ".join(sentence(rng)) for _ in range(20)]
    view = view_of(texts, tmp_path)
    assert make_folds(similar_groups(view), view.labels, np.random.default_rng(0)) is None
    assert cross_fit(view, features_of(view, 1.0), 0, lambda: math.inf) is None


def test_learners_know_nothing_of_the_rows_they_answer(noise_rows: TokenView) -> None:
    found = cross_fit(noise_rows, features_of(noise_rows, 0.0), 0, lambda: math.inf)
    assert found is not None
    for log_p in (found.probe_log_proba, found.ngrams_log_proba):
        np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-3)
        # Fitted on these rows, both would be right on nearly all.
        assert (log_p.argmax(axis=1) == found.labels).mean() < 0.7
    assert len(found.labels) == 100


def test_a_probe_of_telling_features_answers_unseen_rows(noise_rows: TokenView) -> None:
    features = features_of(noise_rows, 3.0)
    found = cross_fit(noise_rows, features, 0, lambda: math.inf)
    assert found is not None
    assert (found.probe_log_proba.argmax(axis=1) == found.labels).mean() > 0.95
    assert (found.probe.logits(features).argmax(axis=1) == noise_rows.labels).mean() > 0.95
    again = CrossFit.of_state(found.state())
    for mine, theirs in zip(found.state(), again.state(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_it_gives_up_where_the_first_fit_shows_that_time_is_short(noise_rows: TokenView) -> None:
    features, left = features_of(noise_rows, 1.0), iter([10.0, 9.0])  # a second a fit, and there are 20
    folds = np.arange(100) % N_FOLDS
    found = cross_fit_linear_probe(features, noise_rows.labels, 2, folds, time_left_s=lambda: next(left))
    assert found is None
    assert cross_fit(noise_rows, features, 0, lambda: 0.0) is None


def test_a_class_of_one_row_says_nothing(noise_rows: TokenView) -> None:
    labels = noise_rows.labels.copy()
    labels[7] = 2
    view = TokenView(noise_rows.store, noise_rows.rows, labels, (*noise_rows.label_names, "rare"))
    found = cross_fit(view, features_of(noise_rows, 1.0), 0, lambda: math.inf)
    assert found is not None
    assert len(found.labels) == 99
    assert 2 not in found.labels
    assert found.probe.weight.shape == (3, WIDTH)
