"""Near-duplicates: parts of a sentence belong to it, others do not, and a split keeps them together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from edgetune.config.toml_config import make_config
from edgetune.data.examples import DataOptions
from edgetune.data.near_duplicates import Words, families, near_duplicates
from edgetune.data.splits import Splits, hold_out, open_splits, split_holdout
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens
from edgetune.models.source import resolve_model

TOKENIZER = resolve_model(None).folder / "tokenizer.json"
WORDS = [
    word for word in json.loads(TOKENIZER.read_text())["model"]["vocab"] if len(word) > 3 and word.isalpha()
]


def write_rows(path: Path, texts: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([text, "ab"[number % 2]] for number, text in enumerate(texts))
    return path


def sentence(rng: np.random.Generator, n_words: int = 12) -> list[str]:
    return [WORDS[number] for number in rng.integers(len(WORDS), size=n_words)]


@pytest.fixture
def spec() -> TokenizerSpec:
    return TokenizerSpec(TOKENIZER, 64, 0)


def test_a_part_of_a_sentence_is_related_to_it_alone(tmp_path: Path, spec: TokenizerSpec) -> None:
    rng = np.random.default_rng(0)
    words, others = sentence(rng), [" ".join(sentence(rng)) for _ in range(30)]
    texts = [" ".join(words), " ".join(words[:5]), " ".join(words[7:]), *others]
    path = write_rows(tmp_path / "rows.csv", texts)
    store = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.01)
    view = store.relabel(store.label_names)
    found = [rows.tolist() for rows in near_duplicates(view, np.array([0, 1, 2, 10]))]
    assert found == [[0, 1, 2], [0, 1], [0, 2], [10]]


def test_a_phrase_of_many_rows_relates_none_of_them(tmp_path: Path, spec: TokenizerSpec) -> None:
    rng = np.random.default_rng(1)
    opening = " ".join(sentence(rng, 14))
    texts = [f"{opening} {' '.join(sentence(rng, 3))}" for _ in range(60)]
    path = write_rows(tmp_path / "rows.csv", texts)
    store = open_tokens(str(path), DataOptions(), spec, tmp_path / "cache", 0.01)
    view = store.relabel(store.label_names)
    assert [rows.tolist() for rows in near_duplicates(view, np.arange(60))] == [[row] for row in range(60)]


def test_half_of_the_rows_held_out_for_the_weights_are_set_aside_with_their_families(
    tmp_path: Path, spec: TokenizerSpec
) -> None:
    rng = np.random.default_rng(2)
    texts, family_of = [], {}
    for family in range(120):
        words = sentence(rng)
        for part in (words, words[:9], words[2:11], words[1:10]):  # each shares half of every other one
            texts.append(" ".join(part))
            family_of[texts[-1]] = family
    splits = read_splits(write_rows(tmp_path / "rows.csv", texts), tmp_path, spec)
    assert splits.held_out is not None
    trained = {family_of[text] for text in splits.train.texts()}
    n_apart = sum(family_of[text] not in trained for text in splits.held_out.texts())
    assert 0.35 <= n_apart / len(splits.held_out) <= 0.65
    # As many as of rows that nothing relates, or a few more.
    assert 110 <= len(splits.held_out) <= 125
    assert len(splits.train) + len(splits.held_out) == len(texts)


@pytest.mark.parametrize(
    "texts", [["one"] * 40 + ["two"] * 40, ["good", "bad", "fine"] * 30, ["?", "!"] * 50]
)
def test_few_different_texts_are_split_or_not_at_all(
    texts: list[str], tmp_path: Path, spec: TokenizerSpec
) -> None:
    splits = read_splits(write_rows(tmp_path / "rows.csv", texts), tmp_path, spec)
    n_held_out = 0 if splits.held_out is None else len(splits.held_out)
    assert len(splits.train) + n_held_out == len(texts)


def test_one_text_a_class_leaves_nothing_to_hold_out(tmp_path: Path, spec: TokenizerSpec) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{WORDS[i]} {WORDS[-i - 1]},class {i}\n" * 2 for i in range(50)]
    path.write_text("text,label\n" + "".join(lines))
    other = tmp_path / "eval.csv"
    other.write_text("text,label\nsome text,class 1\n")
    config = make_config({"data": {"train": str(path), "eval": str(other)}})
    splits = open_splits(config, spec, tmp_path / "cache", (), lambda text: None)
    assert splits.held_out is None
    assert len(splits.train) == 100


def families_of_parts(n_families: int) -> tuple[list[str], dict[str, int]]:
    """Return texts of which four each are parts of one sentence, and which sentence that is."""
    rng = np.random.default_rng(3)
    texts, family_of = [], {}
    for family in range(n_families):
        words = sentence(rng)
        for part in (words, words[:9], words[2:11], words[1:10]):
            texts.append(" ".join(part))
            family_of[texts[-1]] = family
    return texts, family_of


def test_evaluation_rows_and_their_near_duplicates_are_not_trained_on(
    tmp_path: Path, spec: TokenizerSpec
) -> None:
    texts, family_of = families_of_parts(100)
    path = write_rows(tmp_path / "rows.csv", texts + texts[:50])  # some of them twice
    config = make_config({"data": {"train": str(path)}})
    splits = open_splits(config, spec, tmp_path / "cache", (), lambda text: None)
    sides = [splits.train, splits.evaluation, splits.held_out]
    found = [{family_of[text] for text in side.texts()} for side in sides if side is not None]
    assert len(found) == 3
    assert not found[0] & found[1]
    assert found[2] - found[0]  # some of the rows held out for the weights
    assert found[2] & found[0]  # and others are near what is trained on
    assert not found[1] & found[2]
    assert 35 <= len(splits.evaluation) <= 50  # a tenth of 450, or a few more or less
    assert not any("also training texts" in warning for warning in splits.warnings)


def test_rows_that_nothing_relates_are_split_as_before() -> None:
    rng = np.random.default_rng(4)
    texts, labels = [" ".join(sentence(rng)) for _ in range(200)], np.arange(200) % 3
    plain = split_holdout(labels, 0.1, 1000, np.random.default_rng(5))
    apart = hold_out(Words(texts), labels, 0.1, 1000, np.random.default_rng(5))
    for one, other in zip(plain, apart, strict=True):
        np.testing.assert_array_equal(one, other)


def test_words_of_a_comparison_are_kept_apart_too() -> None:
    texts, family_of = families_of_parts(60)
    labels = np.arange(len(texts)) % 2
    train, evaluation = hold_out(Words(texts), labels, 0.1, 20, np.random.default_rng(6))
    assert len(train) + len(evaluation) == len(texts)
    assert 0 < len(evaluation) <= 20
    assert not {family_of[texts[i]] for i in train} & {family_of[texts[i]] for i in evaluation}


@pytest.mark.parametrize("texts", [["one"] * 40 + ["two"] * 40, ["good", "bad", "fine"] * 30])
def test_few_different_texts_are_evaluated_all_the_same(
    texts: list[str], tmp_path: Path, spec: TokenizerSpec
) -> None:
    config = make_config({"data": {"train": str(write_rows(tmp_path / "rows.csv", texts))}})
    splits = open_splits(config, spec, tmp_path / "cache", (), lambda text: None)
    assert len(splits.evaluation)


def read_splits(path: Path, home: Path, spec: TokenizerSpec) -> Splits:
    # Evaluation rows come from another file.
    other = write_rows(home / "eval.csv", ["first text", "second text"])
    config = make_config({"data": {"train": str(path), "eval": str(other)}})
    return open_splits(config, spec, home / "cache", (), lambda text: None)


def test_a_family_holds_the_near_duplicates_of_near_duplicates() -> None:
    chain = ["one two three four", "two three four five six", "four five six seven"]
    texts = [*chain, "something else is said here", "and nothing of the kind there"]
    assert [found.tolist() for found in near_duplicates(Words(texts), np.array([0, 3]))] == [[0, 1], [3]]
    assert [found.tolist() for found in families(Words(texts), np.array([0, 3]))] == [[0, 1, 2], [3]]


def test_every_class_is_evaluated_where_families_do_not_all_fit() -> None:
    texts, family_of = families_of_parts(25)
    labels = np.array([family_of[text] % 2 for text in texts])
    for seed in range(8):
        train, evaluation = hold_out(Words(texts), labels, 0.1, 1000, np.random.default_rng(seed))
        assert set(labels[evaluation]) == {0, 1}
        assert not {family_of[texts[i]] for i in train} & {family_of[texts[i]] for i in evaluation}
