"""Counts of n-grams, the vocabulary that is made of them, and TF-IDF."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.learners.ngrams.derived_tokens import is_part
from edgetune.learners.ngrams.reading import (
    BITS,
    LONGEST,
    MAX_NGRAM_CHARS,
    PART_BIT,
    Analyzer,
    Keys,
    NgramReader,
    key_tokens,
    settings_of,
    tokens_of,
)
from edgetune.utils.errors import MissingDependencyError
from edgetune.utils.sanitize import brief
from edgetune.utils.types import BoolArray, FloatArray, IntArray

Matrix = Any  # scipy.sparse.csr_matrix, float32

MISSING = "N-grams need scikit-learn, which is not installed; get it with `pip install scikit-learn`."
WORD_FACTOR = 2.0  # of the idf of words and pairs of words, where there are parts
FEW_ENTRIES, FEW_NGRAMS = 1_000_000, 100  # so few in all, and a row in the mean: those of one row stay
KEYS_AT_ONCE = 2_000_000  # that are sorted together
STRINGS_AT_ONCE = 100_000  # n-grams that are spelled together, as lists of words are large


class Vocabulary:
    """Finds the n-grams of a vocabulary in texts.

    Attributes:
        analyzer: what tokens are.
        ngrams: by feature; the words of a pair are joined by a blank.
        settings: how texts are read (`settings_of`).
    """

    def __init__(
        self,
        analyzer: Analyzer,
        ngrams: list[str],
        numbers: dict[str, int],
        keys: Keys,
        settings: dict[str, Any],
    ) -> None:
        """Take n-grams (F), the numbers of their words, and their keys (F,)."""
        self.analyzer, self.ngrams, self.settings = analyzer, ngrams, settings
        self._numbers = numbers
        self._reader = NgramReader(analyzer, lambda word: numbers.get(word, 0), settings)
        self._features = np.argsort(keys)
        self._keys = keys[self._features]

    @classmethod
    def of(cls, analyzer: Analyzer, ngrams: list[str], settings: dict[str, Any]) -> Vocabulary:
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
        return cls(analyzer, ngrams, dict(numbers), np.array(keys, dtype=np.int64), settings)

    def __len__(self) -> int:
        return len(self.ngrams)

    def counts(self, texts: Sequence[str]) -> Matrix:
        """Return how often each text has each n-gram, (B, F) sparse."""
        keys, rows = self._reader.keys(texts)
        at, known = _look_up(keys, self._keys)
        return count_matrix(rows[known], self._features[at[known]], len(texts), len(self))


@dataclass(frozen=True)
class _Chunk:
    """Rows that were counted together: the keys (K,) that occur, ascending, and which entries are theirs.

    Attributes:
        keys: (K,).
        span: of the entries.
        starts: (B + 1,) of the rows, counted from the beginning of the span.
    """

    keys: Keys
    span: slice
    starts: IntArray


class NgramCounter:
    """Counts n-grams of which nothing is known yet, chunk by chunk.

    The entries of all rows, one for each n-gram of a row, are in two arrays, which grow with each chunk and
    in the end become TF-IDF in place, so that there are never two of all.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        self.analyzer = analyzer
        self.n_rows = self.n_entries = self._n_parts = self._n_kept = 0
        self._numbers: defaultdict[str, int] = defaultdict(itertools.count(1).__next__)
        self._settings = settings_of(analyzer)
        self._reader = NgramReader(analyzer, self._numbers.__getitem__, self._settings)
        self._chunks: list[_Chunk] = []
        self._data = np.empty(0, dtype=np.float32)  # counts
        self._indices = np.empty(0, dtype=np.int32)  # of the keys of the chunk

    def add(self, texts: Sequence[str]) -> None:
        """Count more rows."""
        keys, rows = self._reader.keys(texts)
        distinct, features = np.unique(keys, return_inverse=True)
        counts = count_matrix(rows, features, len(texts), len(distinct))
        span = slice(self.n_entries, self.n_entries + counts.nnz)
        self._resize(span.stop)
        self._data[span], self._indices[span] = counts.data, counts.indices
        self._chunks.append(_Chunk(distinct, span, counts.indptr))
        self.n_rows += len(texts)
        self.n_entries = span.stop
        self._n_parts += int(np.count_nonzero((distinct & PART_BIT)[counts.indices]))

    def _resize(self, n_entries: int) -> None:
        """Make room in place, without a copy where the system can move memory."""
        self._data.resize(n_entries, refcheck=False)
        self._indices.resize(n_entries, refcheck=False)

    def finish(self, most: int, time_allows: bool) -> tuple[Vocabulary, FloatArray, Matrix]:
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
        rows = [
            np.bincount(self._indices[chunk.span], minlength=len(chunk.keys)).astype(np.int32)
            for chunk in self._chunks
        ]
        longest = max((chunk.keys for chunk in self._chunks), key=len)
        n_parts = 1 + sum(len(chunk.keys) for chunk in self._chunks) // KEYS_AT_ONCE
        edges = longest[len(longest) * np.arange(1, n_parts) // n_parts]
        cuts = [[0, *np.searchsorted(chunk.keys, edges), len(chunk.keys)] for chunk in self._chunks]
        found_keys, found = [], []
        for part in range(n_parts):  # by ranges of keys, since sorting takes several times their memory
            spans = [slice(*cut[part : part + 2]) for cut in cuts]
            some = np.concatenate([chunk.keys[span] for chunk, span in zip(self._chunks, spans, strict=True)])
            keys, at = np.unique(some, return_inverse=True)
            counts = np.concatenate([count[span] for count, span in zip(rows, spans, strict=True)])
            found_keys.append(keys)
            found.append(np.bincount(at, counts, minlength=len(keys)).astype(np.int32))
        return np.concatenate(found_keys), np.concatenate(found)

    def _strings(self, keys: Keys) -> list[str]:
        """Return what keys stand for."""
        tokens = key_tokens(keys, self.analyzer)
        if self.analyzer == "char":
            text = tokens[tokens > 0].astype("<u4").tobytes().decode("utf-32-le")
            ends = np.cumsum((tokens > 0).sum(axis=1)).tolist()
            return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        words, found = ["", *self._numbers], []
        for start in range(0, len(tokens), STRINGS_AT_ONCE):
            some = tokens[start : start + STRINGS_AT_ONCE].tolist()
            found += [f"{words[a]} {words[b]}" if b else words[a] for a, b in some]
        return found

    def _vocabulary(self, ngrams: list[str], keys: Keys) -> Vocabulary:
        """Return a vocabulary that knows only the words of these n-grams."""
        if self.analyzer == "char":
            return Vocabulary(self.analyzer, ngrams, {}, keys, self._settings)
        used = np.zeros(len(self._numbers) + 1, dtype=np.bool_)
        used[key_tokens(keys, self.analyzer)] = True
        numbers = dict(itertools.compress(self._numbers.items(), used[1:]))
        return Vocabulary(self.analyzer, ngrams, numbers, keys, self._settings)

    def _rows(self, keys: Keys, idf: FloatArray) -> Matrix:
        """Return TF-IDF (n, F) of the n-grams that stay."""
        lengths = [np.diff(self._keep(chunk, keys, idf)) for chunk in self._chunks]
        self._chunks.clear()
        starts = np.concatenate(([0], np.cumsum(np.concatenate(lengths)))).astype(np.int32)
        self._resize(starts[-1])
        shape = (self.n_rows, len(keys))
        return scipy_sparse().csr_matrix((self._data, self._indices, starts), shape=shape)

    def _keep(self, chunk: _Chunk, keys: Keys, idf: FloatArray) -> IntArray:
        """Move the entries that stay to the end of those before, as TF-IDF; return where their rows start."""
        at, known = _look_up(chunk.keys, keys)
        indices = self._indices[chunk.span]
        kept = known[indices]
        starts = np.concatenate(([0], np.cumsum(kept)))[chunk.starts].astype(np.int32)
        entries = (self._data[chunk.span][kept], at.astype(np.int32)[indices[kept]], starts)
        rows = weigh(scipy_sparse().csr_matrix(entries, shape=(len(starts) - 1, len(keys))), idf)
        place = slice(self._n_kept, self._n_kept + rows.nnz)
        self._data[place], self._indices[place] = rows.data, rows.indices
        self._n_kept = place.stop
        return starts


def _look_up(keys: Keys, ascending: Keys) -> tuple[IntArray, BoolArray]:
    """Return the places of keys (n,) among ascending ones, and which are there; other places mean nothing."""
    at = np.searchsorted(ascending, keys)
    at[at == len(ascending)] = 0
    return at, ascending[at] == keys if len(ascending) else np.zeros(len(keys), dtype=np.bool_)


def count_matrix(rows: IntArray, features: IntArray, n_rows: int, n_features: int) -> Matrix:
    """Return how often each row has each feature, (n_rows, n_features) sparse float32."""
    ones = np.ones(len(rows), dtype=np.float32)
    sparse = scipy_sparse()
    counts = sparse.coo_matrix((ones, (rows, features)), shape=(n_rows, n_features)).tocsr()
    counts.sum_duplicates()
    return counts


def weigh(counts: Matrix, idf: FloatArray) -> Matrix:
    """Make TF-IDF rows of length 1 of counts, in place."""
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    rows, squares = squared_lengths(counts)
    counts.data = (counts.data / np.sqrt(squares)[rows]).astype(np.float32)
    return counts


def squared_lengths(rows: Matrix) -> tuple[IntArray, FloatArray]:
    """Return the row number of each entry, and the squared length (n,) of each row."""
    numbers = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    squares = np.bincount(numbers, rows.data.astype(np.float64) ** 2, minlength=rows.shape[0])
    return numbers, squares.astype(np.float64, copy=False)


def scipy_sparse() -> Any:
    """Import the sparse matrices that come with scikit-learn.

    Raises:
        MissingDependencyError: they are not installed.
    """
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
    return sparse
