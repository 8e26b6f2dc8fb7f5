"""Pairs of texts: what they share is told apart from what they do not, and learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.ngrams.derived_tokens import pair_tokens
from edgetune.learners.ngrams.learner import Ngrams

WORDS = st.lists(st.sampled_from(["how", "do", "i", "learn", "python", "é", "学"]), max_size=8)


def test_shared_words_are_told_from_others() -> None:
    found = pair_tokens(["how", "old", "is", "he"], ["how", "tall", "is", "he"])
    assert [token for token in found if token[0] in "=<>"] == ["=he", "=how", "=is", "<old", ">tall"]
    assert "#words:6" in found  # 3 of 5
    assert "#alone:1,1" in found
    assert "#ends:True,True" in found


@given(WORDS, WORDS)
def test_any_two_texts_have_tokens_without_blanks(first: list[str], second: list[str]) -> None:
    found = pair_tokens(first, second)
    assert len(found) == len(set(found))
    assert not any(" " in token or "\n" in token for token in found)
    mirrored = {token.translate(str.maketrans("<>", "><")) for token in found if token[0] in "=<>"}
    assert mirrored == {token for token in pair_tokens(second, first) if token[0] in "=<>"}


@given(WORDS)
def test_equal_texts_share_everything(words: list[str]) -> None:
    found = pair_tokens(words, words)
    assert not any(token[0] in "<>" for token in found)
    if words:
        assert {"#words:10", "#first:10", "#second:10"} <= set(found)


def test_ngrams_learn_whether_two_texts_say_the_same() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(400)])
    texts, labels = [], []
    for number in range(600):
        first, other = rng.choice(words, 6), rng.choice(words, 6)
        second = rng.permutation(first) if number % 2 else other
        texts.append(PAIR_SEPARATOR.join([" ".join(first), " ".join(second)]))
        labels.append(number % 2)
    model = Ngrams.fit(texts[:400], np.array(labels[:400]), 2)
    right = model.log_proba(texts[400:]).argmax(axis=1) == np.array(labels[400:])
    assert right.mean() > 0.95  # no single word tells


def test_they_are_saved_and_read(tmp_path: Path) -> None:
    texts = [f"a {i}{PAIR_SEPARATOR}a {i % 3}" for i in range(60)]
    model = Ngrams.fit(texts, np.arange(60) % 2, 2)
    model.save(tmp_path)
    np.testing.assert_allclose(Ngrams.load(tmp_path).log_proba(texts), model.log_proba(texts))
