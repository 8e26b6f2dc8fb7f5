"""The n-gram classifier: what it learns, how it keeps a deadline, what its files are, and odd rows."""

from __future__ import annotations

import builtins
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.ngrams import counting, solving
from edgetune.learners.ngrams.counting import MISSING, NgramCounter
from edgetune.learners.ngrams.learner import NEVER_SEEN, Ngrams, stratified_order
from edgetune.learners.ngrams.ngram_files import METADATA, VOCABULARY, WEIGHTS
from edgetune.learners.ngrams.reading import EARLIER_WORD, MAX_CHARS, choose_analyzer, settings_of
from edgetune.learners.ngrams.solving import FeatureWeights, LinearScores
from edgetune.utils.errors import MissingDependencyError, RunError

TOPICS = [["goal", "match", "team", "cup"], ["stock", "bank", "profit", "share"], ["cell", "gene", "virus"]]
NOISE = [f"w{at}" for at in range(60)]
CHINESE = [["酒店", "房间", "早餐"], ["电池", "屏幕", "键盘"]]


def topic_rows(n: int, seed: int = 0, n_classes: int = 3) -> tuple[list[str], np.ndarray]:
    """Make texts of noise with two words that tell the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    texts = [
        " ".join(rng.permutation([*rng.choice(NOISE, 6), *rng.choice(TOPICS[label % 3], 2), f"c{label}"]))
        for label in labels
    ]
    return texts, labels


def chinese_rows(n: int) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    return [f"这个{rng.choice(CHINESE[label])}很好,我们都喜欢。" for label in labels], labels


@pytest.fixture(scope="module")
def fitted() -> Ngrams:
    return Ngrams.fit(*topic_rows(300), 3)


def right(model: Ngrams, texts: list[str], labels: np.ndarray) -> float:
    return float((model.log_proba(texts).argmax(axis=1) == labels).mean())


# Which tokens


@pytest.mark.parametrize(
    "text",
    [
        "The weather is fine today, and we went for a walk!",
        "Donaudampfschifffahrtsgesellschaftskapitän und Rechtsschutzversicherungsgesellschaften sind lang",
        "Epäjärjestelmällistyttämättömyydellänsäkään hän ei onnistunut tekemään vaikutusta",
        "الطقس جميل اليوم وذهبنا في نزهة على الأقدام",
        "Сегодня хорошая погода, и мы пошли гулять",
        "오늘은 날씨가 좋아서 우리는 산책을 갔습니다",
        "आज मौसम अच्छा है और हम टहलने गए",
        "His name 毛 means hair in Chinese writing, which few of our readers knew before today",
        "",
        "?!",
    ],
)
def test_words_where_blanks_separate_them(text: str) -> None:
    assert choose_analyzer([text]) == "word"


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好,我们去公园散步了。",
        "今日は天気がいいので、公園を散歩しました。",
        "วันนี้อากาศดีเราจึงไปเดินเล่นที่สวนสาธารณะ",
        "ថ្ងៃនេះអាកាសធាតុល្អ",
        "我的 iPhone 屏幕坏了,客服 support 不理人",
        "ACGTTGCAACGTTGCATTGCAACGTACGGTCA",
    ],
)
def test_characters_where_none_do(text: str) -> None:
    assert choose_analyzer([text]) == "char"


def test_characters_where_most_words_are_new() -> None:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice([*"abcdefghijklmnop"], 6)) for _ in range(300)]
    assert choose_analyzer(names) == "char"
    assert choose_analyzer([f"this is {name}" for name in names]) == "word"


def test_no_text_at_all_gives_words() -> None:
    assert choose_analyzer([]) == "word"


def words_and_parts(text: str) -> list[str]:
    tokens = re.findall(r"\w+|[^\w\s]+", text.lower())
    words = [token for token in tokens if token.isalnum()]
    beginnings = ["<" + word[:n] for word in words for n in (3, 4, 5) if len(word) >= n]
    endings = [word[-n:] + ">" for word in words for n in (2, 3, 4) if len(word) >= n]
    return tokens + [f"{one} {two}" for one, two in pairwise(tokens)] + beginnings + endings


@pytest.mark.parametrize(
    ("rows", "analyzer"), [(topic_rows(400, n_classes=2), "subword"), (chinese_rows(400), "char")]
)
def test_the_same_ngrams_and_weights_as_scikit_learn(
    rows: tuple[list[str], np.ndarray], analyzer: str, tmp_path: Path
) -> None:
    texts, labels = rows
    model = Ngrams.fit(texts, labels, 2)
    assert model.analyzer == analyzer
    kind = {"analyzer": words_and_parts}
    if analyzer == "char":
        kind = {"analyzer": "char", "ngram_range": (1, 3), "preprocessor": " {} ".format}
    theirs = TfidfVectorizer(sublinear_tf=True, norm=None, **kind).fit(texts)
    rows_with = np.diff(theirs.transform(texts).tocsc().indptr)
    is_part = np.array([name[0] == "<" or name[-1] == ">" for name in theirs.get_feature_names_out()])
    is_part &= analyzer == "subword"
    model.save(tmp_path)
    lines = (tmp_path / VOCABULARY).read_text(encoding="utf-8").splitlines()
    kept = ~is_part | (rows_with > 1)  # the texts are short, so rare n-grams stay
    assert sorted(lines) == sorted(theirs.get_feature_names_out()[kept])
    tensors = load_file(tmp_path / WEIGHTS)
    where = [theirs.vocabulary_[line] for line in lines]
    factor = np.where(is_part | (analyzer == "char"), 1, 2)[where]
    np.testing.assert_allclose(tensors["idf"], factor * theirs.idf_[where], rtol=1e-6)
    features = normalize(theirs.transform(texts[:50])[:, where].multiply(factor))
    scores = features @ tensors["coefficients"].T + tensors["intercept"]
    sigmoids = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(
        np.exp(model.log_proba(texts[:50])), sigmoids / sigmoids.sum(axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize("analyzer", ["word", "subword", "char"])
def test_counts_do_not_depend_on_chunks_and_ranges(
    analyzer: Literal["word", "subword", "char"], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = topic_rows(500)

    def counted(rows_at_once: int) -> tuple[list[str], np.ndarray, Any]:
        counter = NgramCounter(analyzer)
        for start in range(0, len(texts), rows_at_once):
            counter.add(texts[start : start + rows_at_once])
        vocabulary, idf, rows = counter.finish(900, time_allows=False)
        order = np.argsort(vocabulary.ngrams)  # words are numbered as they come
        return [vocabulary.ngrams[at] for at in order], idf[order], rows[:, order]

    whole = counted(500)
    monkeypatch.setattr(counting, "KEYS_AT_ONCE", 100)
    parts = counted(7)
    assert parts[0] == whole[0]
    np.testing.assert_array_equal(parts[1], whole[1])
    np.testing.assert_allclose(parts[2].toarray(), whole[2].toarray(), rtol=1e-6)


def test_parts_are_left_out_where_not_all_rows_fit_into_the_time() -> None:
    texts, labels = topic_rows(20_000, n_classes=2)
    model = Ngrams.fit(texts, labels, 2, time_left_s=lambda: 0.01)
    assert model.n_rows < 20_000
    assert model.analyzer == "word"
    before = Ngrams.fit(texts[:19_000], labels[:19_000], 2)
    assert Ngrams.fit(texts, labels, 2, time_left_s=lambda: 0.01, before=before).analyzer == "subword"


def test_an_exact_fit_that_turns_out_too_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour that takes the processor makes it many times slower than the trial was."""
    texts, labels = topic_rows(1_000)
    now_s, fitted, n_rows = 0.0, LinearSVC.fit, []

    def slow(svm: LinearSVC, rows: Any, y: Any) -> LinearSVC:
        nonlocal now_s
        n_rows.append(rows.shape[0])
        now_s += 0.01 if rows.shape[0] < 1_000 else 60.0
        return fitted(svm, rows, y)

    monkeypatch.setattr(LinearSVC, "fit", slow)
    model = Ngrams.fit(texts, labels, 3, time_left_s=lambda: 100.0 - now_s)
    assert n_rows.count(1_000) == 1  # of three classes
    assert right(model, texts, labels) > 0.9


def test_a_fit_on_some_more_rows_takes_the_scale_of_the_one_before() -> None:
    texts, labels = topic_rows(600)
    first = Ngrams.fit(texts[:500], labels[:500], 3)
    assert first.exact is not None
    again, anew = (Ngrams.fit(texts, labels, 3, before=before) for before in (first, None))
    assert again.exact is not None
    assert again.exact.to_logits == first.exact.to_logits
    new_texts, new_labels = topic_rows(200, seed=5)
    assert right(again, new_texts, new_labels) == right(anew, new_texts, new_labels)
    np.testing.assert_allclose(again.log_proba(new_texts), anew.log_proba(new_texts), atol=0.5)


def long_rows(n: int, n_classes: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Make texts of 100 words of noise, among which one in twenty is a little more frequent in its class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    words = np.array([f"v{at}" for at in range(3_000)])
    hints = np.arange(3_000) % (20 * n_classes)
    texts = [" ".join(rng.choice(words, 100, p=_shares(hints == label))) for label in labels]
    return texts, labels


def _shares(is_hint: np.ndarray) -> np.ndarray:
    weights = 1 + 3.0 * is_hint
    return weights / weights.sum()


def test_features_of_long_texts_are_weighted_by_their_log_count_ratios() -> None:
    texts, labels = long_rows(1_500, 6)
    new_texts, new_labels = long_rows(400, 6, seed=1)
    model = Ngrams.fit(texts, labels, 6)
    assert model.exact is not None
    assert model.exact.weighted
    plain = Ngrams.fit(texts, labels, 6, before=replace(model, scores=_unweighted(model)))
    assert plain.exact is not None
    assert not plain.exact.weighted
    assert right(model, new_texts, new_labels) > right(plain, new_texts, new_labels) + 0.03
    again = Ngrams.fit(texts, labels, 6)
    assert (again.scores.weights == model.scores.weights).all()


def _unweighted(model: Ngrams) -> LinearScores:
    assert model.exact is not None
    return replace(model.scores, exact=replace(model.exact, weighted=False))


def test_features_are_not_weighted_where_only_pairs_of_words_tell_the_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 600)
    pairs = [rng.choice(14, 2, replace=False) for _ in range(30)]
    texts = [
        " ".join(rng.permutation([*(f"a{word}" for word in pairs[label]), *rng.choice(NOISE[:20], 2)]))
        for label in labels
    ]
    model = Ngrams.fit(texts, labels, 30)
    assert model.exact is not None
    assert not model.exact.weighted


@pytest.mark.parametrize(("most_entries", "n_fits"), [(10_000_000, 8 + 8 + 12 + 12), (0, 8 + 8)])
def test_all_classes_are_tried_only_where_an_exact_fit_may_follow(
    most_entries: int, n_fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[LinearSVC] = []
    fit = LinearSVC.fit

    def counted(self: LinearSVC, *arguments: Any) -> Any:
        fits.append(self)
        return fit(self, *arguments)

    monkeypatch.setattr(LinearSVC, "fit", counted)
    monkeypatch.setattr(solving, "MOST_EXACT_ENTRIES", most_entries)
    model = Ngrams.fit(*topic_rows(600, n_classes=12), 12)
    assert len(fits) == n_fits
    assert (model.exact is None) == (most_entries == 0)


def test_passes_over_short_texts_that_contradict_each_other_do_not_diverge() -> None:
    texts, labels = long_rows(1_000, 12)
    rng = np.random.default_rng(0)
    for row in range(0, 1_000, 10):
        texts[row] = f"key{labels[row]} word{labels[row]}"
        labels[row] = rng.integers(0, 12) if row % 50 == 0 else labels[row]
    counter = NgramCounter("word")
    counter.add(texts)
    _, _, rows = counter.finish(100_000, time_allows=True)
    svms, _, _ = solving._fit_by_passes(rows, labels, 12, 0, True, lambda: np.inf)
    assert np.abs(svms.as_logits(solving.ToLogits(1.0, 0.0))[0]).max() < 100


def test_weights_of_features_are_what_wang_and_manning_say() -> None:
    """Half of a weight is 1, half |log(p / q)| over its mean; the mean squared length of rows is 1."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((12, 7)) < 0.5, rng.random((12, 7)), 0).astype(np.float32)
    labels = rng.permutation(np.arange(12) % 3)
    present = dense > 0
    for number in range(3):
        p, q = present[labels == number].sum(axis=0) + 1.0, present[labels != number].sum(axis=0) + 1.0
        ratios = np.abs(np.log((p / p.sum()) / (q / q.sum())))
        wanted = 0.5 + 0.5 * ratios / ratios.mean()
        wanted *= np.sqrt(len(dense) / ((dense * wanted) ** 2).sum())
        rows = counting.scipy_sparse().csr_matrix(dense)
        for given in (labels, np.eye(3, dtype=np.int64)[labels]):
            np.testing.assert_allclose(FeatureWeights(rows, given, 3).of(number), wanted, rtol=1e-5)


@pytest.mark.parametrize("without", [[], [0], [1], [2], [3], [4]])
def test_a_label_that_nearly_all_rows_have(without: list[int]) -> None:
    texts, topics = topic_rows(400, n_classes=2)
    labels = np.stack([np.ones(400), topics], axis=1).astype(np.int64)
    labels[np.flatnonzero(topics)[without], 0] = 0
    found = np.exp(Ngrams.fit(texts, labels, 2).log_proba(texts))
    assert (found[:, 0] > 0.5).mean() > 0.97
    assert ((found[:, 1] > 0.5) == topics).mean() > 0.97


# What it learns


def test_it_learns_topics(fitted: Ngrams) -> None:
    found = fitted.log_proba(topic_rows(200, seed=1)[0])
    assert found.shape == (200, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, atol=1e-5)
    assert right(fitted, *topic_rows(200, seed=1)) > 0.97
    assert (fitted.n_rows, fitted.n_classes) == (300, 3)
    assert len(fitted.vocabulary) > 100


def test_characters_learn_what_words_cannot() -> None:
    texts, labels = chinese_rows(200)
    assert right(Ngrams.fit(texts, labels, 2), texts, labels) == 1.0


def test_word_pairs_count() -> None:
    texts = ["not good but bad", "not bad but good"] * 100
    labels = np.arange(200) % 2
    assert right(Ngrams.fit(texts, labels, 2), texts, labels) == 1.0


def test_the_same_seed_gives_the_same_model() -> None:
    texts, labels = topic_rows(300)
    first, second = (Ngrams.fit(texts, labels, 3, seed=7).log_proba(texts[:20]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_probabilities_are_honest_where_labels_are_noise() -> None:
    texts, labels = topic_rows(2000, n_classes=2)
    flipped = np.where(np.random.default_rng(3).random(2000) < 0.3, 1 - labels, labels)
    model = Ngrams.fit(texts[:1500], flipped[:1500], 2)
    found = model.log_proba(texts[1500:])
    assert -found[np.arange(500), flipped[1500:]].mean() < np.log(2)


# Odd rows


def test_classes_without_a_row_are_unlikely_but_finite() -> None:
    texts, labels = topic_rows(200)
    found = Ngrams.fit(texts, labels + 2, 7).log_proba(texts)
    assert (found[:, [0, 1, 5, 6]] == NEVER_SEEN).all()
    assert set(found.argmax(axis=1)) == {2, 3, 4}


def test_one_class_alone_is_certain() -> None:
    found = Ngrams.fit(["a b", "c"], np.array([1, 1]), 3).log_proba(["a", "new", ""])
    assert found[:, 1].tolist() == [0.0, 0.0, 0.0]


def test_a_single_row() -> None:
    model = Ngrams.fit(["one row"], np.array([0]), 2)
    assert model.log_proba(["one", "two"]).argmax(axis=1).tolist() == [0, 0]


def test_texts_without_a_token_give_the_shares_of_the_classes(tmp_path: Path) -> None:
    model = Ngrams.fit(["", " ", "\t\n", ""], np.array([0, 1, 1, 1]), 2)
    assert len(model.vocabulary) == 0
    np.testing.assert_allclose(np.exp(model.log_proba(["", "word"])), [[0.25, 0.75]] * 2, rtol=1e-5)
    model.save(tmp_path)
    np.testing.assert_array_equal(Ngrams.load(tmp_path).log_proba([""]), model.log_proba([""]))


def test_texts_without_a_known_ngram(fitted: Ngrams) -> None:
    found = fitted.log_proba(["", "unheard of", "\x00", "\ud800"])
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.repeat(found[:1], 4, axis=0))
    assert fitted.log_proba([]).shape == (0, 3)


def test_strange_characters_survive_the_file(tmp_path: Path) -> None:
    texts = ["中文\ud800文\x00字\u2028行\x85", "日本\r語\x1c文\x0b", "İstanbul中文中文", "𠀀中文字\ufeff"]
    model = Ngrams.fit(texts, np.array([0, 1, 0, 1]), 2)
    assert model.analyzer == "char"
    model.save(tmp_path)
    np.testing.assert_allclose(Ngrams.load(tmp_path).log_proba(texts), model.log_proba(texts), atol=1e-6)


SIGNS = [["->", "<", ">"], ["!=", ":-)", "<-"], ["<b>", "…", "👍"]]


def signed_rows(n: int) -> tuple[list[str], np.ndarray]:
    """Make texts whose class only symbols tell."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    texts = [
        " ".join(rng.permutation([*rng.choice(NOISE, 5), *rng.choice(SIGNS[label], 2)])) for label in labels
    ]
    return texts, labels


def test_symbols_are_tokens_and_no_parts_of_words(tmp_path: Path) -> None:
    texts, labels = signed_rows(400)
    model = Ngrams.fit(texts[:300], labels[:300], 3)
    assert right(model, texts[300:], labels[300:]) > 0.95
    model.save(tmp_path)
    assert {"->", "<", ":-)", "👍", "w10>"} <= {*(tmp_path / VOCABULARY).read_text("utf-8").splitlines()}
    np.testing.assert_allclose(Ngrams.load(tmp_path).log_proba(texts), model.log_proba(texts), atol=1e-5)


def test_a_model_of_an_earlier_version_knows_no_symbols(tmp_path: Path) -> None:
    texts, labels = signed_rows(300)
    plain = [" ".join(re.findall(EARLIER_WORD, text)) for text in texts]
    Ngrams.fit(plain, labels, 3).save(tmp_path)
    edit(tmp_path / METADATA, schema_version=4, settings=settings_of("subword", earlier=True))
    earlier = Ngrams.load(tmp_path)
    np.testing.assert_array_equal(earlier.log_proba(texts), earlier.log_proba(plain))


def test_words_of_a_thousand_letters_are_left_out() -> None:
    texts, labels = topic_rows(100)
    model = Ngrams.fit([f"{text} {'x' * 1000}" for text in texts], labels, 3)
    assert right(model, texts, labels) > 0.9


@pytest.mark.parametrize(("texts", "labels"), [([], []), (["a"], [0, 1]), (["a"], [2]), (["a"], [-1])])
def test_rows_that_do_not_fit_are_refused(texts: list[str], labels: list[int]) -> None:
    with pytest.raises(ValueError):
        Ngrams.fit(texts, np.array(labels), 2)


# Deadlines


def until(seconds: float) -> Callable[[], float]:
    end_s = time.monotonic() + seconds
    return lambda: end_s - time.monotonic()


def test_every_beginning_of_the_order_has_the_shares_of_the_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5000, 900, 1]))
    order = stratified_order(labels, seed=1)
    assert sorted(order) == list(range(5901))
    assert set(labels[order[:3]]) == {0, 1, 2}
    assert (labels[order[:590]] == 1).sum() == pytest.approx(90, abs=3)
    assert stratified_order(labels, seed=2).tolist() != order.tolist()


def test_little_time_takes_fewer_rows_and_ends_in_time() -> None:
    texts, labels = topic_rows(500)
    texts, labels = texts * 200, np.tile(labels, 200)
    Ngrams.fit(texts[:20], labels[:20], 3)  # imports are paid for
    started_s = time.monotonic()
    model = Ngrams.fit(texts, labels, 3, time_left_s=until(0.5))
    assert time.monotonic() - started_s < 2.0  # half of it on a machine that does nothing else
    assert 3 <= model.n_rows < 100_000
    assert right(model, *topic_rows(200, seed=1)) > 0.9


def test_no_time_at_all_still_gives_a_model_of_every_class() -> None:
    texts, labels = topic_rows(3000, n_classes=6)
    model = Ngrams.fit(texts, labels, 6, time_left_s=lambda: 0.0)
    assert 6 <= model.n_rows < 3000
    assert (model.log_proba(texts[:5]) > NEVER_SEEN).all()


def test_passes_stop_when_the_time_is_over() -> None:
    texts, labels = topic_rows(400)
    asked = iter([1e9, 1e9, *[1e9] * 3])  # plenty while rows are counted, then nothing
    short = Ngrams.fit(texts, labels, 3, time_left_s=lambda: next(asked, -1.0))
    assert 0 < short.n_rows <= 400
    assert np.isfinite(short.log_proba(texts)).all()


# Files


@pytest.fixture
def saved(fitted: Ngrams, tmp_path: Path) -> Path:
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def test_loading_gives_the_same_answers(fitted: Ngrams, saved: Path) -> None:
    texts, _ = topic_rows(100, seed=5)
    loaded = Ngrams.load(saved)
    np.testing.assert_allclose(loaded.log_proba(texts), fitted.log_proba(texts), atol=1e-5)
    assert (loaded.analyzer, loaded.n_rows, loaded.n_classes, len(loaded.vocabulary)) == (
        *("subword", 300, 3),
        len(fitted.vocabulary),
    )
    assert sorted(path.name for path in saved.iterdir()) == sorted([METADATA, VOCABULARY, WEIGHTS])


def test_a_loaded_model_saves_the_same_files(saved: Path, tmp_path: Path) -> None:
    Ngrams.load(saved).save(tmp_path / "again")
    for name in (METADATA, VOCABULARY, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_newer_schema_is_told_from_damage(saved: Path) -> None:
    edit(saved / METADATA, schema_version=6)
    with pytest.raises(RunError, match=r"schema 6"):
        Ngrams.load(saved)


def test_a_model_of_an_earlier_version_keeps_its_probabilities(
    fitted: Ngrams, saved: Path, tmp_path: Path
) -> None:
    texts, _ = topic_rows(100, seed=5)
    edit(saved / METADATA, schema_version=3, settings=settings_of("subword", earlier=True))
    earlier = Ngrams.load(saved)
    found, now = earlier.log_proba(texts), fitted.log_proba(texts)
    np.testing.assert_array_equal(found.argmax(axis=1), now.argmax(axis=1))
    assert abs(found - now).max() > 0.01
    earlier.save(tmp_path)
    np.testing.assert_array_equal(Ngrams.load(tmp_path).log_proba(texts), found)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 0},
        {"schema_version": "1"},
        {"analyzer": "syllable"},
        {"n_classes": 4},
        {"n_classes": 10**9},
        {"n_features": 5},
        {"n_features": 10**12},
        {"n_rows": -1},
        {"seen_classes": []},
        {"seen_classes": [0, 3]},
        {"seen_classes": [1, 0]},
        {"settings": {}},
    ],
)
def test_metadata_that_do_not_fit_is_damage(saved: Path, changes: dict[str, Any]) -> None:
    edit(saved / METADATA, **changes)
    with pytest.raises(RunError, match="is damaged"):
        Ngrams.load(saved)


@pytest.mark.parametrize("name", [METADATA, VOCABULARY, WEIGHTS])
def test_cut_strange_and_missing_files(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04\x95pickle", whole + b"\xff" * 20_000):
        (saved / name).write_bytes(content)
        with pytest.raises(RunError, match=rf"{name} is damaged"):
            Ngrams.load(saved)
    (saved / name).unlink()
    with pytest.raises(RunError, match=rf"{name} is missing"):
        Ngrams.load(saved)


@pytest.mark.parametrize("line", ["", "a b c", "a  b", " ", "x" * 200])
def test_a_vocabulary_with_a_line_that_is_no_ngram(saved: Path, line: str) -> None:
    lines = (saved / VOCABULARY).read_text().splitlines()
    (saved / VOCABULARY).write_text("\n".join([line, *lines[1:]]) + "\n")
    with pytest.raises(RunError, match="is damaged"):
        Ngrams.load(saved)
    (saved / VOCABULARY).write_text("\n".join([lines[1], *lines[1:]]) + "\n")
    with pytest.raises(RunError, match="is damaged"):
        Ngrams.load(saved)


def test_weights_that_are_no_finite_numbers(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    for wrong in (
        np.full_like(tensors["idf"], np.nan),
        tensors["idf"].astype(np.float64),
        tensors["idf"][1:],
    ):
        save_file({**tensors, "idf": wrong}, saved / WEIGHTS)
        with pytest.raises(RunError, match="is damaged"):
            Ngrams.load(saved)


def test_without_scikit_learn_the_error_names_the_command(
    monkeypatch: pytest.MonkeyPatch, saved: Path
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("sklearn", "scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for step in (lambda: Ngrams.fit(["a"], np.array([0]), 1), lambda: Ngrams.load(saved)):
        with pytest.raises(MissingDependencyError, match="scikit-learn") as caught:
            step()
        assert str(caught.value) == MISSING


@pytest.mark.parametrize("word", ["far ", "遠い"])
def test_a_long_first_text_does_not_hide_the_second_of_a_pair(word: str) -> None:
    texts = [PAIR_SEPARATOR.join((word * MAX_CHARS, second)) for second in ("yes", "no")] * 20
    model = Ngrams.fit(texts, np.array([0, 1] * 20), 2)
    assert model.log_proba(texts[:2]).argmax(axis=1).tolist() == [0, 1]
