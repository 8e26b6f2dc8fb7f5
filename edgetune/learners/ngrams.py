r"""A linear classifier on TF-IDF of the n-grams of the raw text: a usable model within seconds.

    texts ─→ tokens (words or characters) ─→ counts of n-grams, as integer keys ─→ TF-IDF ─→ linear scores

Words, pairs of words, and beginnings and endings of words (not of pairs of texts, nor where time or memory
does not suffice for all rows); or 1 to 3 characters where words are not separated by blanks. Term frequencies
are sublinear, rows have length 1 (Salton and Buckley 1988). The scores are one-against-rest squared-hinge
SVMs, by dual coordinate descent (scikit-learn's `LinearSVC`; Hsieh et al. 2008) where time and memory allow
it, else by averaged stochastic gradient descent (`SGDClassifier`; Polyak and Juditsky 1992), which can be
stopped at any time. A factor and an intercept, the same for all classes, make logits of the margins; their
sigmoids, divided by their sum, are the probabilities.

Tokens get numbers, and an n-gram is the numbers of its tokens in one 64-bit integer, so that counting is
sorting: a third of the time of `CountVectorizer`, and no string for an n-gram that is dropped.

    ngrams.json          schema_version, analyzer, sizes, settings
    vocabulary.txt       one n-gram a line, in the order of the features
    weights.safetensors  idf (F,), coefficients (C, F), intercept (C,), float32

Where rows may have several labels (multi-hot), the scores are logits of each class on its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.derived_tokens import PREFIXES, SUFFIXES, is_part, pair_tokens, word_parts
from edgetune.learners.text_learner import TextLearner
from edgetune.utils.errors import MissingDependencyError, RunError
from edgetune.utils.files import atomic_path, write_atomic
from edgetune.utils.limits import MAX_LABELS
from edgetune.utils.metrics import cross_entropy, log_softmax
from edgetune.utils.multi_label import class_counts, is_multi_hot, log_sigmoid, strata
from edgetune.utils.parsing import read_json_file
from edgetune.utils.sanitize import brief
from edgetune.utils.types import FloatArray, IntArray, Labels

Analyzer = Literal["word", "subword", "char"]
Keys = npt.NDArray[np.int64]
Matrix = Any  # scipy.sparse.csr_matrix, float32

SCHEMA_VERSION = 4
"""Since 4 probabilities are sigmoids divided by their sum; before, they were a softmax of the scores."""
FIRST_OF_SIGMOIDS = 4
MISSING = "N-grams need scikit-learn, which is not installed; get it with `pip install scikit-learn`."
RECEIPT, VOCABULARY, WEIGHTS = "ngrams.json", "vocabulary.txt", "weights.safetensors"

# Tokens. `\w` lacks marks that belong to the words of Indic scripts, vowelled Arabic and decomposed Latin.
WORD = r"[\w\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0dff]+|[!?]"
LONGEST = {"word": 2, "subword": 2, "char": 3}  # tokens of an n-gram
BITS = {"word": 31, "subword": 31, "char": 21}  # of a token's number in a key; a code point has 21
PART_BIT = 1 << 62  # of the key of a part of a word
WORD_FACTOR = 2.0  # of the idf of words and pairs of words, where there are parts
MAX_REMEMBERED = 1 << 17  # words whose parts are kept
MAX_CHARS = 20_000  # of a text that are read, ten times what an encoder reads
MAX_NGRAM_CHARS = 100  # longer ones are no words
_WORD = re.compile(WORD)
# Thai, Lao, Tibetan, Burmese; Khmer; kana; Han with its extensions; half-width kana.
_WITHOUT_SPACES = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff]"
)
SAMPLED_TEXTS, SAMPLED_CHARS = 1_000, 500  # that the analyzer is chosen by
FEWEST_WITHOUT_SPACES = 0.25  # of the characters of words, from where on characters are taken
LONGEST_MEAN_WORD = 20  # characters; the words of Finnish have 7 to 8

# Sizes
MAX_FEATURES = 1_000_000
MAX_WEIGHTS = 30_000_000  # coefficients; SGD holds three copies of four bytes each
MAX_ENTRIES = 60_000_000  # n-grams of all rows before rare ones are dropped, of eight bytes each
MAX_VOCABULARY_BYTES = 1 << 28
MAX_HEADER_BYTES = 10_000  # of the weights
FEW_ENTRIES, FEW_NGRAMS = (
    1_000_000,
    100,
)  # so few n-grams in all, and a row in the mean: those of one row stay
WARM_UP = 10  # texts that are counted before the clock counts
FIRST_CHARS, MOST_CHARS, GROWTH = 100_000, 2_000_000, 4  # of the rows that are counted at once
PREDICTED_ROWS = 4_096  # whose scores (rows, C) are in memory at once

# Fitting by dual coordinate descent
MOST_EXACT_ENTRIES = 10_000_000  # n-grams of all rows; liblinear has a copy with 16 bytes for each
EXACT_PASSES = 8  # at most; 15 are no better on six sets
MOST_TRIED, TRIAL_ROWS, LEAST_TRIED = 0.75, 6_000, 0.25  # of the rows, in a first fit for cost and scale
EXACT_CAUTION = 1.5  # times the cost that the trial predicts
EXACT_SCALE = 0.9  # of the scale of the trial: a fit on all rows has wider margins

# Fitting by stochastic gradient descent
MANY_ROWS = 30_000  # from where on noise costs more than slowness
C_FEW, ETA_FEW = 1.0, 0.5  # weight of the losses against the penalty, and learning rate
C_MANY, ETA_MANY = 0.7, 0.25
FEWEST_PASSES, MOST_PASSES, WANTED_STEPS = 6, 50, 30_000
FIRST_BLOCKS = 4  # of the first pass, at least
UNSEEN_SCORES, FEWEST_UNSEEN = 200_000, 50  # of rows predicted before they are learned, to set the scale
USUAL_SCALE, USUAL_SCALE_OF_TWO = 6.0, 3.0  # that makes logits of margins; of two classes, or single labels
SCALE_SPREAD, OFFSET_SPREAD = 0.5, 1.5  # standard deviations of log scale and offset that are to be expected
LATER_SCALE = 0.85  # of the scale of the first pass: later ones widen margins, more of them even more
NEVER_SEEN = -30.0  # log-probability of a class without a training row

# What steps cost where these were measured (Zen 3), nanoseconds; counting tells how much slower a machine is
COUNT_NS, COUNT_PAIRS_NS = 500.0, 1200.0  # an n-gram of a row; of a pair of texts
COUNT_PARTS_NS = 750.0  # an n-gram of a row with parts of words, most of which are new at first
CALL_NS, ROW_NS, ENTRY_NS = 7e5, 300.0, 12.0  # of SGD, by class: a call, a row in it, an n-gram of the row
BLOCK_NS, CALL_SHARE = 1e8, 0.2  # of a call, and which share of it may be the call's own cost
BUILD_NS = 250.0  # an n-gram of a row, for dropping rare ones and making the matrix

# Fitting under a deadline
PLANNED_SHARE = 0.8  # of the time left that is planned with; the rest is for what takes longer
PLANNED_PASSES = 3  # that rows leave time for
SPARE_SHARE = 0.05  # of the time left to SGD, for what comes after it
CAUTION = 2.0  # times what the last block took
SPARE_COUNTS = 3.0  # times the time of counting is to spare where n-grams of one row may stay


def choose_analyzer(texts: Sequence[str]) -> Analyzer:
    """Return "char" where a word pattern would take whole clauses, by an even sample of the texts.

    That is so where a quarter of the characters of words are of scripts without spaces between words
    (Chinese, Japanese, Thai, …), or where words have more than 20 characters in the mean (sequences, codes).
    """
    step = max(1, len(texts) // SAMPLED_TEXTS)
    n_words = n_chars = n_without = 0
    for at in range(0, len(texts), step):
        words = _WORD.findall(texts[at][:SAMPLED_CHARS])
        joined = "".join(words)
        n_words, n_chars = n_words + len(words), n_chars + len(joined)
        n_without += len(_WITHOUT_SPACES.findall(joined))
    dense = n_without > FEWEST_WITHOUT_SPACES * n_chars
    return "char" if dense or n_chars > LONGEST_MEAN_WORD * n_words else "word"


def stratified_order(labels: IntArray, seed: int) -> IntArray:
    """Return an order (n,) of rows: one of each class first, then every beginning has the classes' shares."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + rng.random(len(labels))) / np.repeat(counts, counts)
    place[rank == 0] -= 1.0
    return by_class[np.argsort(place, kind="stable")]


# Tokens and n-grams


def _read_chars(texts: Sequence[str]) -> tuple[Keys, Keys]:
    """Return the code points of all texts in a row (T,), and how many each has (B,).

    White space is one blank, half a surrogate pair is "?".
    """
    cut = (" ".join(part[:MAX_CHARS] for part in text.split(PAIR_SEPARATOR)) for text in texts)
    plain = [" ".join(text.lower().split()) for text in cut]
    points = np.frombuffer("".join(plain).encode("utf-32-le", "replace"), dtype="<u4")
    return points.astype(np.int64), np.array([len(text) for text in plain], dtype=np.int64)


def _ngram_keys(tokens: Keys, lengths: Keys, analyzer: Analyzer) -> tuple[Keys, IntArray]:
    """Return the key and the row of every n-gram without an unknown token (number 0).

    Args:
        tokens: (T,) numbers of the tokens of all rows.
        lengths: (B,) tokens of each row.
        analyzer: how long n-grams are.
    """
    rows = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    keys, known = tokens, tokens > 0
    all_keys, all_rows = [keys[known]], [rows[known]]
    for n in range(1, LONGEST[analyzer]):
        keys = keys[:-1] | (tokens[n:] << (BITS[analyzer] * n))
        known = known[:-1] & (tokens[n:] > 0)
        whole = known & (rows[: len(keys)] == rows[n:])
        all_keys.append(keys[whole])
        all_rows.append(rows[: len(keys)][whole])
    return np.concatenate(all_keys), np.concatenate(all_rows)


class _Reader:
    """Reads texts as keys of n-grams.

    Its caller numbers the words; a word with the number 0 is unknown, and in no n-gram.
    """

    def __init__(self, analyzer: Analyzer, number: Callable[[str], int]) -> None:
        self._analyzer: Analyzer = analyzer
        self._number = number
        self._known_parts: dict[str, list[int]] = {}

    def keys(self, texts: Sequence[str]) -> tuple[Keys, IntArray]:
        """Return the key and the row of every known n-gram, and of every known part of a word."""
        if self._analyzer == "char":
            return _ngram_keys(*_read_chars(texts), "char")
        tokens, lengths, words = self._read_words(texts)
        keys, rows = _ngram_keys(tokens, lengths, self._analyzer)
        if self._analyzer == "word":
            return keys, rows
        if len(self._known_parts) > MAX_REMEMBERED:
            self._known_parts.clear()
        parts = [[part for word in of_text for part in self._parts_of(word)] for of_text in words]
        part_keys = np.array([*itertools.chain.from_iterable(parts)], dtype=np.int64) | PART_BIT
        part_rows = np.repeat(np.arange(len(texts), dtype=np.int32), [*map(len, parts)])
        return np.concatenate([keys, part_keys]), np.concatenate([rows, part_rows])

    def _read_words(self, texts: Sequence[str]) -> tuple[Keys, Keys, list[list[str]]]:
        """Return the numbers of all words in a row (T,), how many each text has (B,), and the words.

        The two texts of a pair are read apart, and words that say how they relate follow (`pair_tokens`).
        """
        found: list[int] = []
        lengths, every = [], []
        for text in texts:
            before = len(found)
            first, separator, second = text.partition(PAIR_SEPARATOR)
            words = _WORD.findall(first[:MAX_CHARS].lower())
            found.extend(map(self._number, words))
            if separator:
                others = _WORD.findall(second[:MAX_CHARS].lower())
                found.append(0)  # no n-gram reaches over it
                found.extend(map(self._number, others))
                found.append(0)
                found.extend(map(self._number, pair_tokens(words, others)))
            every.append(words)
            lengths.append(len(found) - before)
        return np.array(found, dtype=np.int64), np.array(lengths, dtype=np.int64), every

    def _parts_of(self, word: str) -> list[int]:
        """Return the numbers of the known parts of a word."""
        parts = self._known_parts.get(word)
        if parts is None:
            parts = [number for number in map(self._number, word_parts(word)) if number]
            self._known_parts[word] = parts
        return parts


def _key_tokens(keys: Keys, analyzer: Analyzer) -> Keys:
    """Return the tokens (F, n) of keys (F,), with 0 after the last one."""
    bits = BITS[analyzer]
    parts = [(keys >> (bits * n)) & ((1 << bits) - 1) for n in range(LONGEST[analyzer])]
    return np.stack(parts, axis=1)


def _count_matrix(rows: IntArray, features: IntArray, n_rows: int, n_features: int) -> Matrix:
    """Return how often each row has each feature, (n_rows, n_features) sparse float32."""
    ones = np.ones(len(rows), dtype=np.float32)
    sparse = _scipy_sparse()
    counts = sparse.coo_matrix((ones, (rows, features)), shape=(n_rows, n_features)).tocsr()
    counts.sum_duplicates()
    return counts


def _weigh(counts: Matrix, idf: FloatArray) -> Matrix:
    """Make TF-IDF rows of length 1 of counts, in place."""
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    squares = np.bincount(rows, counts.data.astype(np.float64) ** 2, minlength=counts.shape[0])
    counts.data = (counts.data / np.sqrt(squares)[rows]).astype(np.float32)
    return counts


def tokens_of(ngram: str, analyzer: Analyzer) -> list[str]:
    """Return the tokens that an n-gram of a vocabulary is made of."""
    return list(ngram) if analyzer == "char" else ngram.split(" ")


class _Vocabulary:
    """Finds the n-grams of a vocabulary in texts.

    Attributes:
        analyzer: what tokens are.
        ngrams: by feature; the words of a pair are joined by a blank.
    """

    def __init__(self, analyzer: Analyzer, ngrams: list[str], numbers: dict[str, int], keys: Keys) -> None:
        """Take n-grams (F), the numbers of their words, and their keys (F,)."""
        self.analyzer, self.ngrams = analyzer, ngrams
        self._numbers = numbers
        self._reader = _Reader(analyzer, lambda word: numbers.get(word, 0))
        self._features = np.argsort(keys)
        self._keys = keys[self._features]

    @classmethod
    def of(cls, analyzer: Analyzer, ngrams: list[str]) -> _Vocabulary:
        """Make one of n-grams alone.

        Raises:
            ValueError: one is no n-gram, or is there twice.
        """
        if len(set(ngrams)) < len(ngrams):
            raise ValueError("an n-gram is there twice")
        numbers: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
        bits, most = BITS[analyzer], LONGEST[analyzer]
        keys = []
        for ngram in ngrams:
            parts = tokens_of(ngram, analyzer)
            if not 1 <= len(parts) <= most or "" in parts or len(ngram) > MAX_NGRAM_CHARS:
                raise ValueError(f"{brief(ngram)!r} is no n-gram")
            tokens = map(ord, parts) if analyzer == "char" else [numbers[word] for word in parts]
            key = sum(token << (bits * n) for n, token in enumerate(tokens))
            keys.append(key | PART_BIT if analyzer == "subword" and is_part(ngram) else key)
        return cls(analyzer, ngrams, dict(numbers), np.array(keys, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ngrams)

    def counts(self, texts: Sequence[str]) -> Matrix:
        """Return how often each text has each n-gram, (B, F) sparse."""
        keys, rows = self._reader.keys(texts)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self)] = 0
        known = self._keys[at] == keys if len(self) else np.zeros(len(keys), dtype=np.bool_)
        return _count_matrix(rows[known], self._features[at[known]], len(texts), len(self))


@dataclass
class _Chunk:
    """Counted rows: the keys (K,) that occur, ascending, and the counts (B, K)."""

    keys: Keys
    counts: Matrix


class _Counter:
    """Counts n-grams of which nothing is known yet, chunk by chunk."""

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer
        self.n_rows = self.n_entries = self._n_parts = 0
        self._numbers: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
        self._reader = _Reader(analyzer, self._numbers.__getitem__)
        self._chunks: list[_Chunk] = []

    def add(self, texts: Sequence[str]) -> None:
        """Count more rows."""
        keys, rows = self._reader.keys(texts)
        distinct, features = np.unique(keys, return_inverse=True)
        counts = _count_matrix(rows, features, len(texts), len(distinct))
        self._chunks.append(_Chunk(distinct, counts))
        self.n_rows += len(texts)
        self.n_entries += counts.nnz
        self._n_parts += int(np.count_nonzero((distinct & PART_BIT)[counts.indices]))

    def finish(self, most: int, time_allows: bool) -> tuple[_Vocabulary, FloatArray, Matrix]:
        """Return F n-grams, their idf (F,), and TF-IDF of the rows (n, F); the counts are used up.

        Args:
            most: features at most; the n-grams of most rows stay.
            time_allows: whether n-grams of one row may stay, where rows are few and short.
        """
        keys, frequencies = self._frequencies()
        few = self.n_entries - self._n_parts <= min(FEW_ENTRIES, FEW_NGRAMS * self.n_rows)
        is_part = keys & PART_BIT > 0
        kept = frequencies >= np.where(is_part, 2, 1 if few and time_allows else 2)
        keys, frequencies = (keys[kept], frequencies[kept]) if kept.any() else (keys, frequencies)
        if len(keys) > most:
            kept = np.sort(np.argsort(-frequencies, kind="stable")[:most])
            keys, frequencies = keys[kept], frequencies[kept]
        ngrams = self._strings(keys)
        short = np.array([len(ngram) <= MAX_NGRAM_CHARS for ngram in ngrams], dtype=np.bool_)
        if not short.all():
            ngrams = list(itertools.compress(ngrams, short))
            keys, frequencies = keys[short], frequencies[short]
        idf = (np.log((1 + self.n_rows) / (1 + frequencies)) + 1).astype(np.float32)
        if self.analyzer == "subword":
            idf[keys & PART_BIT == 0] *= WORD_FACTOR
        return self._vocabulary(ngrams, keys), idf, self._rows(keys, idf)

    def _frequencies(self) -> tuple[Keys, IntArray]:
        """Return all keys, ascending, and how many rows have each."""
        all_keys = np.concatenate([chunk.keys for chunk in self._chunks])
        rows = [np.bincount(chunk.counts.indices, minlength=len(chunk.keys)) for chunk in self._chunks]
        keys, at = np.unique(all_keys, return_inverse=True)
        return keys, np.bincount(at, np.concatenate(rows), minlength=len(keys)).astype(np.int64)

    def _strings(self, keys: Keys) -> list[str]:
        """Return what keys stand for."""
        tokens = _key_tokens(keys, self.analyzer)
        if self.analyzer == "char":
            text = tokens[tokens > 0].astype("<u4").tobytes().decode("utf-32-le")
            ends = np.cumsum((tokens > 0).sum(axis=1)).tolist()
            return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        words = ["", *self._numbers]
        return [f"{words[a]} {words[b]}" if b else words[a] for a, b in tokens.tolist()]

    def _vocabulary(self, ngrams: list[str], keys: Keys) -> _Vocabulary:
        """Return a vocabulary that knows only the words of these n-grams."""
        if self.analyzer == "char":
            return _Vocabulary(self.analyzer, ngrams, {}, keys)
        used = np.zeros(len(self._numbers) + 1, dtype=np.bool_)
        used[_key_tokens(keys, self.analyzer)] = True
        numbers = dict(itertools.compress(self._numbers.items(), used[1:]))
        return _Vocabulary(self.analyzer, ngrams, numbers, keys)

    def _rows(self, keys: Keys, idf: FloatArray) -> Matrix:
        """Return TF-IDF (n, F) of the n-grams that stay."""
        sparse = _scipy_sparse()
        parts = []
        self._chunks.reverse()
        while self._chunks:  # one after the other, so that there are not two of all
            chunk = self._chunks.pop()
            at = np.searchsorted(keys, chunk.keys)
            at[at == len(keys)] = 0
            known = keys[at] == chunk.keys if len(keys) else np.zeros(len(chunk.keys), dtype=np.bool_)
            kept = known[chunk.counts.indices]
            starts = np.concatenate(([0], np.cumsum(kept)))[chunk.counts.indptr].astype(np.int32)
            features = at.astype(np.int32)[chunk.counts.indices[kept]]
            shape = (chunk.counts.shape[0], len(keys))
            part = sparse.csr_matrix((chunk.counts.data[kept], features, starts), shape=shape)
            parts.append(_weigh(part, idf))
        return sparse.vstack(parts, format="csr")


# Fitting


def _take_rows(
    texts: Sequence[str], labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float]
) -> tuple[_Counter, IntArray, bool]:
    """Count n-grams of as many rows as leave time to fit on them.

    The first chunk is small; what it took tells how many more rows fit. Returned are the counts, the numbers
    of the rows, and whether there is more time than they need.

    Args:
        texts: of all rows.
        labels: (n,) of 0 … n_seen - 1, or multi-hot (n, n_seen).
        n_seen: classes.
        seed: of the order in which rows are taken.
        time_left_s: for counting and fitting; infinite without a deadline.
    """
    order, analyzer = stratified_order(strata(labels), seed), choose_analyzer(texts)
    if analyzer == "word" and PAIR_SEPARATOR not in texts[0]:
        found = _take_rows_of("subword", texts, order, n_seen, time_left_s)
        if found is not None:
            return found
    found = _take_rows_of(analyzer, texts, order, n_seen, time_left_s)
    assert found is not None
    return found


def _take_rows_of(
    analyzer: Analyzer, texts: Sequence[str], order: IntArray, n_seen: int, time_left_s: Callable[[], float]
) -> tuple[_Counter, IntArray, bool] | None:
    """Count the n-grams of one analyzer, with arguments and result as of `_take_rows`.

    Rows are taken in the given order (n,). With "subword" the result is None once it is clear that there is
    no time or memory for all rows.
    """
    given_s = time_left_s()
    counter = _Counter(analyzer)
    usual_ns = COUNT_PAIRS_NS if PAIR_SEPARATOR in texts[0] else COUNT_NS
    if analyzer == "subword":
        usual_ns = COUNT_PARTS_NS
        _Counter(analyzer).add(texts[:WARM_UP])  # the first call takes several times as long
    n, wanted, n_chars = 0, len(order), FIRST_CHARS
    counted_s, spare_s = 0.0, math.inf
    while n < wanted and (counter.n_entries < MAX_ENTRIES or n < n_seen):
        started_s = time.monotonic()
        chunk = _next_chunk(texts, order[n:wanted], n_chars)
        counter.add(chunk)
        counted_s += time.monotonic() - started_s
        n, n_chars = n + len(chunk), min(GROWTH * n_chars, MOST_CHARS)
        if math.isfinite(given_s):
            ns = counted_s / (usual_ns * (counter.n_entries + 1))  # seconds here that are one there
            calls_s = ns * FIRST_BLOCKS * _n_scores(n_seen) * CALL_NS
            pass_s = ns * _row_ns(counter.n_entries / n, n_seen)
            build_s = ns * BUILD_NS * counter.n_entries / n
            row_s = counted_s / n + build_s + PLANNED_PASSES * pass_s
            spent_s = given_s - time_left_s()
            spare_s = PLANNED_SHARE * given_s - spent_s - (row_s * n - counted_s) - calls_s
            wanted = max(n_seen, min(len(order), n + int(spare_s / row_s)))
        few = wanted < len(order) or counter.n_entries / n * len(order) > MAX_ENTRIES
        if few and analyzer == "subword":  # all rows without parts are worth more than some with them
            return None
    return counter, order[:n], n == len(order) and spare_s > SPARE_COUNTS * counted_s


def _next_chunk(texts: Sequence[str], rows: IntArray, most_chars: int) -> list[str]:
    """Return the next texts, at least one, until they have so many characters."""
    chunk: list[str] = []
    n_chars = 0
    for row in rows.tolist():
        chunk.append(texts[row])
        n_chars += min(len(chunk[-1]), MAX_CHARS) + 1
        if n_chars >= most_chars:
            break
    return chunk


def _row_ns(n_entries: float, n_seen: int) -> float:
    """Return what a row of a pass of SGD costs, without the calls."""
    return _n_scores(n_seen) * (ROW_NS + ENTRY_NS * n_entries)


def _n_scores(n_seen: int) -> int:
    return 1 if n_seen <= 2 else n_seen


def _sgd(n_rows: int, seed: int) -> Any:
    from sklearn.linear_model import SGDClassifier

    c, eta = (C_FEW, ETA_FEW) if n_rows < MANY_ROWS else (C_MANY, ETA_MANY)
    return SGDClassifier(
        loss="squared_hinge",
        alpha=1 / (c * max(n_rows, 10)),
        learning_rate="constant",
        eta0=eta,
        average=True,
        random_state=seed,
    )


def _svm(n_rows: int, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C_FEW if n_rows < MANY_ROWS else C_MANY, max_iter=EXACT_PASSES, random_state=seed)


class _OneVersusRest:
    """A solver for each class, fitted and read as one solver for all."""

    def __init__(self, solvers: Sequence[Any]) -> None:
        self._solvers = solvers

    def fit(self, rows: Matrix, labels: Labels) -> _OneVersusRest:
        """Fit on multi-hot labels (n, K)."""
        for solver, own in zip(self._solvers, labels.T, strict=True):
            solver.fit(rows, own.astype(np.int64))
        return self

    def partial_fit(self, rows: Matrix, labels: Labels, classes: IntArray) -> None:
        """Fit on more rows with multi-hot labels (n, K)."""
        for solver, own in zip(self._solvers, labels.T, strict=True):
            solver.partial_fit(rows, own.astype(np.int64), classes=(0, 1))

    @property
    def coef_(self) -> FloatArray:
        """(K, F)."""
        return np.concatenate([solver.coef_ for solver in self._solvers])

    @property
    def intercept_(self) -> FloatArray:
        """(K,)."""
        return np.concatenate([solver.intercept_ for solver in self._solvers])


@dataclass(frozen=True)
class _Scorer:
    """What SGD found.

    Attributes:
        weights: (F, K) float32, of the K classes that have rows.
        intercept: (K,) float32.
        n_rows: that it was fitted on.
    """

    weights: FloatArray
    intercept: FloatArray
    n_rows: int


def _fit_scorer(
    rows: Matrix, labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float]
) -> _Scorer:
    """Fit scores that are logits: exactly where there is time, else by as many passes as there is time for.

    Args:
        rows: (n, F) TF-IDF, in a stratified order.
        labels: (n,) of 0 … n_seen - 1, or multi-hot (n, n_seen).
        n_seen: K.
        seed: of the order within a block.
        time_left_s: asked before every block.
    """
    n, n_features = rows.shape
    several = is_multi_hot(labels)
    if (n_seen < 2 and not several) or not n_features:
        shares = class_counts(labels, n_seen) / n
        weights = np.zeros((n_features, n_seen), dtype=np.float32)
        odds = shares / np.maximum(1 - shares, 1 / (n + 1))
        return _Scorer(weights, np.log(odds).astype(np.float32), n)
    spare_s = SPARE_SHARE * time_left_s()
    found = _fit_exactly(rows, labels, n_seen, seed, lambda: time_left_s() - spare_s)
    solver, to_logits, n_rows = found or _fit_by_passes(rows, labels, n_seen, seed, time_left_s, spare_s)
    weights, intercept = solver.coef_.T, solver.intercept_
    if not several:
        weights, intercept = _margins(weights), _margins(intercept)
    weights, intercept = to_logits.scale * weights, to_logits.scale * intercept + to_logits.offset
    return _Scorer(weights.astype(np.float32), intercept.astype(np.float32), n_rows)


def _fit_exactly(
    rows: Matrix, labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float]
) -> tuple[Any, _ToLogits, int] | None:
    """Fit SVMs by coordinate descent, which cannot be stopped once it runs; arguments as of `_fit_scorer`.

    A trial on some of the rows tells what a fit on all costs. What makes its margins logits is fitted
    on rows that it has not seen.

    Returns:
        The solver, what makes its margins logits, and the number of rows. None where time or memory may not
        suffice, or where all rows, or none, have one of the labels.
    """
    n, several = len(labels), is_multi_hot(labels)
    n_trial = max(int(min(MOST_TRIED * n, max(LEAST_TRIED * n, TRIAL_ROWS))), n_seen)
    trial_s = PLANNED_PASSES * _row_ns(rows.nnz / n, n_seen) * n_trial / 1e9
    if rows.nnz > MOST_EXACT_ENTRIES or time_left_s() < CAUTION * trial_s or not _can_be_told_apart(labels):
        return None

    def fitted(some_rows: Matrix, some_labels: Labels) -> Any:
        solver = _OneVersusRest([_svm(n, seed) for _ in range(n_seen)]) if several else _svm(n, seed)
        return solver.fit(some_rows, some_labels)

    to_logits, unseen = _fit_logits([], 1.0, n_seen), slice(n_trial, n_trial + UNSEEN_SCORES // n_seen + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # liblinear's, that more passes would change something yet
        if len(labels[unseen]) >= FEWEST_UNSEEN and _can_be_told_apart(labels[:n_trial]):
            started_s = time.monotonic()
            trial = fitted(rows[:n_trial], labels[:n_trial])
            took_s = (time.monotonic() - started_s) * n / n_trial
            if time_left_s() < EXACT_CAUTION * took_s:
                return None
            margins = rows[unseen] @ trial.coef_.T + trial.intercept_
            margins = margins if several else _margins(margins)
            to_logits = _fit_logits([(margins, labels[unseen])], EXACT_SCALE, n_seen)
        return fitted(rows, labels), to_logits, n


def _can_be_told_apart(labels: Labels) -> bool:
    """Return whether each label of multi-hot ones (n, K) is in some rows and not in others.

    Class ids (n,) of a stratified order always can.
    """
    return labels.ndim == 1 or bool((labels.any(axis=0) & ~labels.all(axis=0)).all())


def _fit_by_passes(
    rows: Matrix, labels: Labels, n_seen: int, seed: int, time_left_s: Callable[[], float], spare_s: float
) -> tuple[Any, _ToLogits, int]:
    """Fit SVMs by SGD until only `spare_s` of the time is left; other arguments as of `_fit_scorer`.

    The result is that of `_fit_exactly`. What makes margins logits is fitted on the last rows of the first
    pass, which are predicted before they are learned.
    """
    n, several = len(labels), is_multi_hot(labels)
    solver = _OneVersusRest([_sgd(n, seed) for _ in range(n_seen)]) if several else _sgd(n, seed)
    classes = np.arange(n_seen)
    row_s, n_rows, n_steps = 0.0, 0, 0
    n_unseen, unseen = UNSEEN_SCORES // n_seen + 1, []
    for start, stop, first in _blocks(n, rows.nnz / n, n_seen):
        if n_rows and time_left_s() < spare_s + CAUTION * row_s * (stop - start):
            break
        started_s = time.monotonic()
        block = rows[start:stop]
        if first and start:
            last = block[-n_unseen:] @ solver.coef_.T + solver.intercept_
            unseen.append((start, last if several else _margins(last), labels[start:stop][-n_unseen:]))
        solver.partial_fit(block, labels[start:stop], classes=classes)
        n_rows, n_steps = max(n_rows, stop), n_steps + stop - start
        row_s = (time.monotonic() - started_s) / (stop - start)
    widened = math.pow(min(1.0, FEWEST_PASSES * n_rows / n_steps), 1 / 3)
    late = [(margins, wanted) for start, margins, wanted in unseen if start >= n_rows // 2]
    return solver, _fit_logits(late, LATER_SCALE * widened, n_seen), n_rows


def _blocks(n: int, n_entries: float, n_seen: int) -> list[tuple[int, int, bool]]:
    """Return start and stop of the blocks of all passes, and whether it is the first pass.

    Args:
        n: rows.
        n_entries: n-grams of a row in the mean.
        n_seen: classes.
    """
    call_rows = CALL_NS / (ROW_NS + ENTRY_NS * n_entries)  # that cost as much as a call
    size = int(max(BLOCK_NS / _row_ns(n_entries, n_seen), call_rows / CALL_SHARE, n_seen)) + 1
    first_size = min(size, max(n // FIRST_BLOCKS, n_seen, FEWEST_UNSEEN))
    n_passes = min(MOST_PASSES, max(FEWEST_PASSES, -(-WANTED_STEPS // n)))
    blocks = []
    for at in range(n_passes):
        n_parts = max(1, n // (size if at else first_size))
        edges = [n * part // n_parts for part in range(n_parts + 1)]  # equal, as each has the cost of a call
        blocks += [(start, stop, at == 0) for start, stop in itertools.pairwise(edges)]
    return blocks


def _margins(found: FloatArray) -> FloatArray:
    """Return the columns of both classes where SGD has one, that of the second."""
    return np.concatenate([-found, found], axis=-1) if found.shape[-1] == 1 else found


@dataclass(frozen=True)
class _ToLogits:
    """Makes logits of margins: scale x margin + offset."""

    scale: float
    offset: float


def _fit_logits(unseen: list[tuple[FloatArray, Labels]], factor: float, n_classes: int) -> _ToLogits:
    """Fit what makes logits of margins, by the log loss and a normal prior.

    Two classes have the offset 0, as their margins are the same but for the sign.

    Args:
        unseen: margins (n, K) and labels of rows before they were learned, by block.
        factor: by how much the margins of rows to predict will be wider.
        n_classes: K.
    """
    from scipy.optimize import minimize

    several = bool(unseen) and is_multi_hot(unseen[0][1])
    alone = several or n_classes == 2
    usual = math.log(USUAL_SCALE_OF_TWO if alone else USUAL_SCALE)
    if sum(len(labels) for _, labels in unseen) < FEWEST_UNSEEN:
        return _ToLogits(factor * math.exp(usual), 0.0)
    margins, labels = (np.concatenate(parts) for parts in zip(*unseen, strict=True))
    wide = margins.astype(np.float64)
    wanted = labels > 0 if several else np.arange(n_classes) == labels[:, None]

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        logits = math.exp(parameters[0]) * wide + parameters[1]
        log_p, share = _log_probabilities(logits, several), np.exp(log_sigmoid(logits))
        slopes = share - wanted if several else (np.exp(log_p) - wanted) * (1 - share)
        total = cross_entropy(logits, labels).sum() * n_classes if several else -log_p[wanted].sum()
        off = (parameters[0] - usual) / SCALE_SPREAD, parameters[1] / OFFSET_SPREAD
        by_scale = math.exp(parameters[0]) * float((slopes * wide).sum()) + off[0] / SCALE_SPREAD
        by_offset = float(slopes.sum()) + off[1] / OFFSET_SPREAD
        total += (off[0] ** 2 + off[1] ** 2) / 2
        return total / len(wide), np.array([by_scale, by_offset]) / len(wide)

    offsets = (0.0, 0.0) if n_classes == 2 and not several else (None, None)
    found = minimize(loss, [usual, 0.0], jac=True, method="L-BFGS-B", bounds=[(None, None), offsets]).x
    return _ToLogits(factor * math.exp(found[0]), float(found[1]))


def _log_probabilities(scores: FloatArray, several: bool, by_softmax: bool = False) -> FloatArray:
    """Return log-probabilities (N, C) of logits: sigmoids, which have the sum 1 where a row has one label."""
    if by_softmax:
        return log_softmax(scores)
    log_p = log_sigmoid(scores)
    return log_p if several else log_softmax(log_p)


@dataclass(frozen=True)
class NgramParameters:
    """What the log-probabilities are computed from, for a program that does so without this class.

    Attributes:
        ngrams: (F,) in the order of the features; see `tokens_of`.
        idf: (F,).
        weights: (F, K), of the classes that had training rows.
        intercept: (K,).
        seen: (K,) ids of these classes; the others get `NEVER_SEEN`.
    """

    ngrams: Sequence[str]
    idf: FloatArray
    weights: FloatArray
    intercept: FloatArray
    seen: IntArray


class Ngrams(TextLearner):
    """A linear classifier on TF-IDF of n-grams.

    Attributes:
        analyzer: what n-grams are made of: "word", "subword" (words, and parts of words) or "char".
        n_classes: C.
        n_rows: that it was fitted on.
        multi_label: whether a text may have several classes, or none.
        by_softmax: whether the probabilities are a softmax of the scores, as edgetune's were before schema
            version 4; else sigmoids, which are divided by their sum where a text has one class.
    """

    def __init__(
        self,
        vocabulary: _Vocabulary,
        idf: FloatArray,
        scorer: _Scorer,
        seen: IntArray,
        n_classes: int,
        multi_label: bool = False,
        by_softmax: bool = False,
    ) -> None:
        """Use `fit` or `load` instead; `seen` (K,) are the classes that have weights."""
        self.multi_label, self.by_softmax = multi_label, by_softmax and not multi_label
        self.analyzer, self.n_classes, self.n_rows = vocabulary.analyzer, n_classes, scorer.n_rows
        self._vocabulary, self._idf, self._scorer, self._seen = vocabulary, idf, scorer, seen

    @property
    def n_features(self) -> int:
        """Size of the vocabulary."""
        return len(self._vocabulary)

    @property
    def parameters(self) -> NgramParameters:
        """Vocabulary and weights."""
        scorer = self._scorer
        return NgramParameters(
            self._vocabulary.ngrams, self._idf, scorer.weights, scorer.intercept, self._seen
        )

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Labels,
        n_classes: int,
        *,
        seed: int = 0,
        time_left_s: Callable[[], float] = lambda: math.inf,
    ) -> Ngrams:
        """Fit on all rows, or on as many as there are time and memory for.

        Without a deadline, the same rows and seed give the same model. A deadline leaves out rows first
        (the rest has the classes' shares, and a row of each class), then passes. It is met unless one row
        of each class takes longer.

        Args:
            texts: (n,) as they are; the two of a pair with `PAIR_SEPARATOR` between them.
            labels: (n,) class ids, or multi-hot (n, C).
            n_classes: C; classes without a row get `NEVER_SEEN`.
            seed: of the order of rows.
            time_left_s: seconds until it has to be done; asked before and while it works.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
            ValueError: there is no row, or labels do not fit.
        """
        several = is_multi_hot(labels)
        if not len(texts) or labels.shape != ((len(texts), n_classes) if several else (len(texts),)):
            raise ValueError(f"{len(texts)} texts and labels {labels.shape} do not fit")
        if not several and (labels.min() < 0 or labels.max() >= n_classes):
            raise ValueError(
                f"labels are {labels.min()} to {labels.max()}, and there are {n_classes} classes"
            )
        _import_solvers()  # which takes a second, so before the time is asked for
        seen = np.flatnonzero(class_counts(labels, n_classes))
        local = labels[:, seen] if several else np.searchsorted(seen, labels)
        counter, taken, time_allows = _take_rows(texts, local, len(seen), seed, time_left_s)
        vocabulary, idf, rows = counter.finish(most_features(n_classes), time_allows)
        scorer = _fit_scorer(rows, local[taken], len(seen), seed, time_left_s)
        return cls(vocabulary, idf, scorer, seen, n_classes, several)

    def log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return log-probabilities (B, C) float32; `NEVER_SEEN` for classes without a training row."""
        result = np.full((len(texts), self.n_classes), NEVER_SEEN, dtype=np.float32)
        for start in range(0, len(texts), PREDICTED_ROWS):
            part = slice(start, start + PREDICTED_ROWS)
            rows = _weigh(self._vocabulary.counts(texts[part]), self._idf)
            scores = rows @ self._scorer.weights + self._scorer.intercept
            result[part, self._seen] = _log_probabilities(scores, self.multi_label, self.by_softmax)
        return result

    def save(self, folder: Path) -> None:
        """Write the three files into a folder, which is made as needed."""
        from safetensors.numpy import save_file

        coefficients = np.zeros((self.n_classes, self.n_features), dtype=np.float32)
        coefficients[self._seen] = self._scorer.weights.T
        intercept = np.zeros(self.n_classes, dtype=np.float32)
        intercept[self._seen] = self._scorer.intercept
        tensors = {"idf": self._idf, "coefficients": coefficients, "intercept": intercept}
        receipt = {
            "schema_version": FIRST_OF_SIGMOIDS - 1 if self.by_softmax else SCHEMA_VERSION,
            "multi_label": self.multi_label,
            "analyzer": self.analyzer,
            "n_classes": self.n_classes,
            "n_features": self.n_features,
            "n_rows": self.n_rows,
            "seen_classes": self._seen.tolist(),
            "settings": settings_of(self.analyzer),
        }
        write_atomic(folder / VOCABULARY, "".join(f"{ngram}\n" for ngram in self._vocabulary.ngrams))
        with atomic_path(folder / WEIGHTS) as scratch:
            save_file(tensors, scratch)
        write_atomic(folder / RECEIPT, json.dumps(receipt, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Ngrams:
        """Read what `save` wrote.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
            RunError: a file is missing or damaged, or another version of edgetune wrote it.
        """
        _scipy_sparse()
        receipt = _read_receipt(folder / RECEIPT)
        vocabulary = _read_vocabulary(folder / VOCABULARY, receipt)
        idf, scorer = _read_weights(folder / WEIGHTS, receipt)
        seen = np.array(receipt.seen_classes, dtype=np.int64)
        by_softmax = receipt.schema_version < FIRST_OF_SIGMOIDS
        return cls(vocabulary, idf, scorer, seen, receipt.n_classes, receipt.multi_label, by_softmax)


def cross_fit_ngrams(
    texts: Sequence[str],
    labels: Labels,
    n_classes: int,
    folds: IntArray,
    seed: int = 0,
    time_left_s: Callable[[], float] = lambda: math.inf,
    limit_s: float = math.inf,
) -> FloatArray:
    """Return log-probabilities (n, C) of every row by n-grams fitted on the other folds.

    Args:
        texts: as of `Ngrams.fit`, like all others but the folds.
        labels: (n,) class ids, or multi-hot (n, C).
        n_classes: C.
        folds: (n,) the fold of each row.
        seed: of the order of rows.
        time_left_s: seconds until all have to be fitted.
        limit_s: seconds for all folds, of which each gets an equal share of what is left.
    """
    found = np.zeros((len(texts), n_classes), dtype=np.float32)
    numbers, end_s = np.unique(folds), time.monotonic() + limit_s
    for at, fold in enumerate(numbers.tolist()):
        fold_end_s = time.monotonic() + (end_s - time.monotonic()) / (len(numbers) - at)

        def left_s(fold_end_s: float = fold_end_s) -> float:
            return min(time_left_s(), fold_end_s - time.monotonic())

        others, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        ngrams = Ngrams.fit(
            [texts[i] for i in others.tolist()], labels[others], n_classes, seed=seed, time_left_s=left_s
        )
        found[own] = ngrams.log_proba([texts[i] for i in own.tolist()])
    return found


def most_features(n_classes: int) -> int:
    """Return how large a vocabulary may be."""
    return max(1, min(MAX_FEATURES, MAX_WEIGHTS // n_classes))


def settings_of(analyzer: Analyzer) -> dict[str, Any]:
    """Return what a vocabulary means, as the receipt says it; a change of it needs another schema version."""
    pattern = "." if analyzer == "char" else WORD
    found = {"token_pattern": pattern, "ngram_range": [1, LONGEST[analyzer]], "most_chars": MAX_CHARS}
    return found | {"prefixes": [*PREFIXES], "suffixes": [*SUFFIXES]} if analyzer == "subword" else found


# Reading


class _Receipt(BaseModel):
    """`ngrams.json`."""

    model_config = ConfigDict(strict=True)

    schema_version: int
    analyzer: Analyzer
    n_classes: Annotated[int, Field(ge=1, le=MAX_LABELS)]
    n_features: Annotated[int, Field(ge=0, le=MAX_FEATURES)]
    n_rows: Annotated[int, Field(ge=1)]
    seen_classes: list[int]
    multi_label: bool = False
    settings: dict[str, Any]

    @model_validator(mode="after")
    def _fits(self) -> _Receipt:
        seen = self.seen_classes
        if not seen or sorted(set(seen)) != seen or seen[0] < 0 or seen[-1] >= self.n_classes:
            raise ValueError("its seen_classes are no ascending class ids")
        if self.n_features > most_features(self.n_classes):
            raise ValueError("it claims more weights than any model has")
        if self.settings != settings_of(self.analyzer):
            raise ValueError("its settings are none that edgetune uses")
        return self


@contextlib.contextmanager
def _damage_errors(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing, so the n-gram model cannot be used; train again.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = brief(f"{where}: {first['msg']}" if where else first["msg"], 200)
        raise RunError(f"{path} is damaged ({what}); train again.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({brief(error, 200)}); train again.") from error


def _read_receipt(path: Path) -> _Receipt:
    with _damage_errors(path):
        found = read_json_file(path)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if type(version) is not int or version < 1:
            raise ValueError("it has no schema_version")
        if version > SCHEMA_VERSION:
            raise RunError(f"{path} was written by a newer edgetune (schema {version}); update edgetune.")
        return _Receipt.model_validate(found)


def _read_vocabulary(path: Path, receipt: _Receipt) -> _Vocabulary:
    with _damage_errors(path):
        if path.stat().st_size > MAX_VOCABULARY_BYTES:
            raise ValueError(f"it has more than {MAX_VOCABULARY_BYTES:,} bytes")
        lines = path.read_bytes().decode("utf-8").split("\n")
        if lines.pop() or len(lines) != receipt.n_features:
            raise ValueError(f"it has not {receipt.n_features:,} lines, as {RECEIPT} says")
        return _Vocabulary.of(receipt.analyzer, lines)


def _read_weights(path: Path, receipt: _Receipt) -> tuple[FloatArray, _Scorer]:
    from safetensors.numpy import load_file

    n_classes, n_features = receipt.n_classes, receipt.n_features
    shapes = {
        "idf": (n_features,),
        "coefficients": (n_classes, n_features),
        "intercept": (n_classes,),
    }
    most_bytes = 4 * sum(math.prod(shape) for shape in shapes.values()) + MAX_HEADER_BYTES
    with _damage_errors(path):
        if path.stat().st_size > most_bytes:
            raise ValueError(f"it has more than {most_bytes:,} bytes")
        found = load_file(path)
        if {name: array.shape for name, array in found.items()} != shapes:
            raise ValueError(f"its sizes are not those of {RECEIPT}")
        if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in found.values()):
            raise ValueError("it holds what are no finite 32-bit numbers")
    seen = receipt.seen_classes
    weights = np.ascontiguousarray(found["coefficients"][seen].T)
    return found["idf"], _Scorer(weights, found["intercept"][seen], receipt.n_rows)


def _scipy_sparse() -> Any:
    """Import the sparse matrices that come with scikit-learn.

    Raises:
        MissingDependencyError: they are not installed.
    """
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
    return sparse


def _import_solvers() -> None:
    """Import scikit-learn's solvers.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        import sklearn.linear_model
        import sklearn.svm  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
