"""Every learner of texts keeps the contract of `learners/text_learner.py`; each one is found by itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import random_labels

from edgetune.config.choices import TEXT_LEARNERS
from edgetune.learners.ngrams.learner import Ngrams
from edgetune.learners.text_learner import TextLearner, find_text_learner

N_ROWS, CLASSES = 120, 4
KINDS: dict[str, type[TextLearner]] = {"ngrams": Ngrams} | {
    name: find_text_learner(name) for name in TEXT_LEARNERS
}
pytestmark = [
    pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS)),
    pytest.mark.parametrize("multi_label", [False, True], ids=["one-label", "several-labels"]),
]


def rows(multi_label: bool) -> tuple[list[str], Any]:
    """Texts whose first word is the name of a class; the last class has no row."""
    rng = np.random.default_rng(3)
    labels = random_labels(rng, N_ROWS, CLASSES - 1, multi_label)
    if multi_label:
        labels = np.pad(labels, ((0, 0), (0, 1)))
    first = labels[:, :-1].argmax(axis=1) if multi_label else labels
    words = rng.integers(0, 30, (N_ROWS, 6))
    texts = [f"class{one} " + " ".join(f"w{i}" for i in more) for one, more in zip(first, words, strict=True)]
    return texts, labels


def fit(kind: type[TextLearner], multi_label: bool, left_s: float = math.inf, seed: int = 1) -> TextLearner:
    texts, labels = rows(multi_label)
    return kind.fit(texts, labels, CLASSES, seed=seed, time_left_s=lambda: left_s)


def test_answers_are_log_probabilities(kind: type[TextLearner], multi_label: bool) -> None:
    texts, labels = rows(multi_label)
    found = fit(kind, multi_label).log_proba([*texts, "", "quite unknown words"])
    assert found.shape == (N_ROWS + 2, CLASSES)
    assert np.isfinite(found).all()
    assert (found <= 1e-3).all()
    if not multi_label:
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)
        assert (found[:N_ROWS].argmax(axis=1) == labels).mean() > 1 / CLASSES


def test_the_same_seed_gives_the_same_answers_and_saving_keeps_them(
    kind: type[TextLearner], multi_label: bool, tmp_path: Path
) -> None:
    texts, _ = rows(multi_label)
    learner = fit(kind, multi_label)
    expected = learner.log_proba(texts)
    np.testing.assert_array_equal(fit(kind, multi_label).log_proba(texts), expected)
    learner.save(tmp_path)
    np.testing.assert_array_equal(kind.load(tmp_path).log_proba(texts), expected)


@pytest.mark.parametrize("left_s", [0.0, -5.0])
def test_without_time_there_is_a_learner_all_the_same(
    kind: type[TextLearner], multi_label: bool, left_s: float
) -> None:
    found = fit(kind, multi_label, left_s).log_proba(["class1 w2"])
    assert found.shape == (1, CLASSES)
    assert np.isfinite(found).all()
