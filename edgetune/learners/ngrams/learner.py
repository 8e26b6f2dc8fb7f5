r"""A linear classifier on TF-IDF of the n-grams of the raw text: a usable model within seconds.

    texts ─→ tokens (words or characters) ─→ counts of n-grams, as integer keys ─→ TF-IDF ─→ linear scores

N-grams are words (or runs of symbols), pairs of adjacent words, and beginnings and endings of words; these
parts are left out for pairs of texts, and if time or memory does not suffice for all rows with them. If
words tell little, n-grams are 1 to 3 characters instead (`choose_analyzer`). Term frequencies are sublinear,
rows have length 1 (Salton and Buckley 1988). The scores are one-against-rest squared-hinge SVMs, by dual
coordinate descent (scikit-learn's `LinearSVC`; Hsieh et al. 2008) where time and memory allow it, else by
averaged stochastic gradient descent (`SGDClassifier`; Polyak and Juditsky 1992), which can be stopped at any
time; `log_shares` makes probabilities of them.
Features are weighted by their log-count ratios, class by class, if a trial says that it helps
(`FeatureWeights`).

    ngrams.json          schema_version, analyzer, sizes, settings
    vocabulary.txt       one n-gram a line, in the order of the features
    weights.safetensors  idf (F,), coefficients (C, F), intercept (C,), float32

Where rows may have several labels (multi-hot), the scores are logits of each class on its own.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.ngrams.counting import NgramCounter, Vocabulary, scipy_sparse, weigh
from edgetune.learners.ngrams.ngram_files import (
    FIRST_OF_SIGMOIDS,
    METADATA,
    SCHEMA_VERSION,
    VOCABULARY,
    WEIGHTS,
    most_features,
    read_metadata,
    read_vocabulary,
    read_weights,
)
from edgetune.learners.ngrams.reading import MAX_CHARS, Analyzer, choose_analyzer
from edgetune.learners.ngrams.solving import (
    CALL_NS,
    FIRST_BLOCKS,
    PLANNED_PASSES,
    ExactFit,
    LinearScores,
    fit_scores,
    import_solvers,
    log_shares,
    n_scores,
    row_ns,
)
from edgetune.learners.text_learner import TextLearner
from edgetune.utils.files import atomic_path, write_atomic
from edgetune.utils.metrics import log_softmax
from edgetune.utils.multi_label import class_counts, is_multi_hot, strata
from edgetune.utils.types import FloatArray, IntArray, Labels

PREDICTED_ROWS = 4_096  # whose scores (rows, C) are in memory at once
NEVER_SEEN = -30.0
"""Log-probability of a class without a training row."""

MAX_ENTRIES = 60_000_000  # n-grams of all rows before rare ones are dropped, of eight bytes each
WARM_UP = 10  # texts that are counted before the clock counts
FIRST_CHARS, MOST_CHARS, GROWTH = 100_000, 1_000_000, 4  # of the rows that are counted at once

# What steps cost where these were measured (Zen 3), nanoseconds; counting tells how much slower a machine is
COUNT_NS, COUNT_PAIRS_NS = 500.0, 1200.0  # an n-gram of a row; of a pair of texts
COUNT_PARTS_NS = 750.0  # an n-gram of a row with parts of words, most of which are new at first
BUILD_NS = 250.0  # an n-gram of a row, for dropping rare ones and making the matrix

PLANNED_SHARE = 0.8  # of the time left that is planned with; the rest is for what takes longer
SPARE_COUNTS = 3.0  # times the time of counting is to spare where n-grams of one row may stay


@dataclass(eq=False)
class Ngrams(TextLearner):
    """A linear classifier on TF-IDF of n-grams, made by `fit` or `load`.

    Attributes:
        vocabulary: the n-grams (F), and how texts are read.
        idf: (F,).
        scores: weights (F, K) and intercept (K,) of the classes that had training rows.
        seen: (K,) ids of these classes; the others get `NEVER_SEEN`.
        n_classes: C.
        multi_label: whether a text may have several classes, or none.
        schema_version: of its files; `ngram_files` says what models of earlier versions do differently.
        counted_s: seconds of counting the n-grams of these rows; 0 if it was loaded.
    """

    vocabulary: Vocabulary
    idf: FloatArray
    scores: LinearScores
    seen: IntArray
    n_classes: int
    multi_label: bool = False
    schema_version: int = SCHEMA_VERSION
    counted_s: float = 0.0

    @property
    def analyzer(self) -> Analyzer:
        """What n-grams are made of: "word", "subword" (words, and parts of words) or "char"."""
        return self.vocabulary.analyzer

    @property
    def n_rows(self) -> int:
        """Rows that it was fitted on."""
        return self.scores.n_rows

    @property
    def exact(self) -> ExactFit | None:
        """How an exact fit was made; None if there was no time for one, or if it was loaded."""
        return self.scores.exact

    @property
    def by_softmax(self) -> bool:
        """Whether the probabilities are a softmax of the scores; else they are `log_shares`."""
        return self.schema_version < FIRST_OF_SIGMOIDS and not self.multi_label

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Labels,
        n_classes: int,
        *,
        seed: int = 0,
        time_left_s: Callable[[], float] = lambda: math.inf,
        before: Ngrams | None = None,
    ) -> Ngrams:
        """Fit on all rows, or on as many as there are time and memory for.

        Without a deadline, the same rows and seed give the same model. If time is short, rows are left out
        first (each class keeps its share, and one row at least), then passes of the solver. The time is kept
        unless one row of each class takes longer, or counting all rows does after an exact `before`.

        Args:
            texts: (n,) as they are; the two of a pair with `PAIR_SEPARATOR` between them.
            labels: (n,) class ids, or multi-hot (n, C).
            n_classes: C; classes without a row get `NEVER_SEEN`.
            seed: of the order of rows.
            time_left_s: seconds until it has to be done; asked before and while it works.
            before: fitted on most of the rows; if that was exact, this fit takes all rows, the same kind of
                n-grams, weighted or not as they were, and the same scale of the logits; it takes less time.

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
        import_solvers()  # which takes a second, so before the time is asked for
        seen = np.flatnonzero(class_counts(labels, n_classes))
        local = labels[:, seen] if several else np.searchsorted(seen, labels)
        exact = None if before is None else before.exact
        same = before.analyzer if before is not None and exact is not None else None
        started_s = time.monotonic()
        counter, taken, time_allows = _take_rows(texts, local, len(seen), seed, time_left_s, same)
        vocabulary, idf, rows = counter.finish(most_features(n_classes), time_allows)
        del counter  # and the words that are in no n-gram
        counted_s = time.monotonic() - started_s
        if before is not None and exact is not None:
            exact = replace(exact, fit_s=exact.fit_s * max(1.0, counted_s / before.counted_s))
        scores = fit_scores(rows, local[taken], len(seen), seed, time_left_s, exact)
        return cls(vocabulary, idf, scores, seen, n_classes, several, counted_s=counted_s)

    def log_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return log-probabilities (B, C) float32; `NEVER_SEEN` for classes without a training row."""
        result = np.full((len(texts), self.n_classes), NEVER_SEEN, dtype=np.float32)
        for start in range(0, len(texts), PREDICTED_ROWS):
            part = slice(start, start + PREDICTED_ROWS)
            rows = weigh(self.vocabulary.counts(texts[part]), self.idf)
            scores = rows @ self.scores.weights + self.scores.intercept
            log_p = log_softmax(scores) if self.by_softmax else log_shares(scores, self.multi_label)
            result[part, self.seen] = log_p
        return result

    def save(self, folder: Path) -> None:
        """Write the three files into a folder, which is made as needed."""
        from safetensors.numpy import save_file

        coefficients = np.zeros((self.n_classes, len(self.vocabulary)), dtype=np.float32)
        coefficients[self.seen] = self.scores.weights.T
        intercept = np.zeros(self.n_classes, dtype=np.float32)
        intercept[self.seen] = self.scores.intercept
        tensors = {"idf": self.idf, "coefficients": coefficients, "intercept": intercept}
        metadata = {
            "schema_version": self.schema_version,
            "multi_label": self.multi_label,
            "analyzer": self.analyzer,
            "n_classes": self.n_classes,
            "n_features": len(self.vocabulary),
            "n_rows": self.n_rows,
            "seen_classes": self.seen.tolist(),
            "settings": self.vocabulary.settings,
        }
        write_atomic(folder / VOCABULARY, "".join(f"{ngram}\n" for ngram in self.vocabulary.ngrams))
        with atomic_path(folder / WEIGHTS) as scratch:
            save_file(tensors, scratch)
        write_atomic(folder / METADATA, json.dumps(metadata, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Ngrams:
        """Read what `save` wrote.

        Raises:
            MissingDependencyError: scikit-learn is not installed.
            RunError: a file is missing or damaged, or another version of edgetune wrote it.
        """
        scipy_sparse()
        metadata = read_metadata(folder / METADATA)
        vocabulary = read_vocabulary(folder / VOCABULARY, metadata)
        idf, scores = read_weights(folder / WEIGHTS, metadata)
        seen = np.array(metadata.seen_classes, dtype=np.int64)
        n_classes, multi_label = metadata.n_classes, metadata.multi_label
        return cls(vocabulary, idf, scores, seen, n_classes, multi_label, metadata.schema_version)


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
        texts: (n,) as of `Ngrams.fit`.
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


def _take_rows(
    texts: Sequence[str],
    labels: Labels,
    n_seen: int,
    seed: int,
    time_left_s: Callable[[], float],
    before: Analyzer | None = None,
) -> tuple[NgramCounter, IntArray, bool]:
    """Count n-grams of as many rows as leave time to fit on them.

    The first chunk is small; what it took tells how many more rows fit. Returned are the counts, the numbers
    of the rows, and whether there is more time than they need.

    Args:
        texts: of all rows.
        labels: (n,) of 0 … n_seen - 1, or multi-hot (n, n_seen).
        n_seen: classes.
        seed: of the order in which rows are taken.
        time_left_s: for counting and fitting; infinite without a deadline.
        before: the analyzer of an exact fit on most of the rows; all are then taken with the same one.
    """
    order = stratified_order(strata(labels), seed)
    if before is not None:
        found = _take_rows_of(before, texts, order, n_seen, lambda: math.inf)
        if found is not None:
            return found
    analyzer = choose_analyzer(texts)
    if analyzer == "word" and PAIR_SEPARATOR not in texts[0]:
        found = _take_rows_of("subword", texts, order, n_seen, time_left_s)
        if found is not None:
            return found
    found = _take_rows_of(analyzer, texts, order, n_seen, time_left_s)
    assert found is not None
    return found


def _take_rows_of(
    analyzer: Analyzer, texts: Sequence[str], order: IntArray, n_seen: int, time_left_s: Callable[[], float]
) -> tuple[NgramCounter, IntArray, bool] | None:
    """Count the n-grams of one analyzer, with arguments and result as of `_take_rows`.

    Rows are taken in the given order (n,). With "subword" the result is None once it is clear that there is
    no time or memory for all rows.
    """
    given_s = time_left_s()
    counter = NgramCounter(analyzer)
    usual_ns = COUNT_PAIRS_NS if PAIR_SEPARATOR in texts[0] else COUNT_NS
    if analyzer == "subword":
        usual_ns = COUNT_PARTS_NS
        NgramCounter(analyzer).add(texts[:WARM_UP])  # the first call takes several times as long
    n, wanted, n_chars = 0, len(order), FIRST_CHARS
    counted_s, spare_s = 0.0, math.inf
    while n < wanted and (counter.n_entries < MAX_ENTRIES or n < n_seen):
        started_s = time.monotonic()
        chunk = _next_chunk(texts, order[n:wanted], n_chars)
        counter.add(chunk)
        counted_s += time.monotonic() - started_s
        n, n_chars = n + len(chunk), min(GROWTH * n_chars, MOST_CHARS)
        if math.isfinite(given_s):
            ns = counted_s / (usual_ns * (counter.n_entries + 1))  # seconds here per nanosecond there
            calls_s = ns * FIRST_BLOCKS * n_scores(n_seen) * CALL_NS
            pass_s = ns * row_ns(counter.n_entries / n, n_seen)
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


def stratified_order(labels: IntArray, seed: int) -> IntArray:
    """Return an order (n,) of rows: one of each class, then the others so that any cut keeps the shares."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + rng.random(len(labels))) / np.repeat(counts, counts)
    place[rank == 0] -= 1.0
    return by_class[np.argsort(place, kind="stable")]
