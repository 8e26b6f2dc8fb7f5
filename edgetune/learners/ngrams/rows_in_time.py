"""Which rows n-grams are fitted on: all, or as many as there are time and memory for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from edgetune.data.token_format import PAIR_SEPARATOR
from edgetune.learners.ngrams.counting import NgramCounter
from edgetune.learners.ngrams.reading import MAX_CHARS, Analyzer, choose_analyzer
from edgetune.learners.ngrams.solving import CALL_NS, FIRST_BLOCKS, PLANNED_PASSES, n_scores, row_ns
from edgetune.utils.multi_label import strata
from edgetune.utils.types import IntArray, Labels

MAX_ENTRIES = 60_000_000  # n-grams of all rows before rare ones are dropped, of eight bytes each
WARM_UP = 10  # texts that are counted before the clock counts
FIRST_CHARS, MOST_CHARS, GROWTH = 100_000, 2_000_000, 4  # of the rows that are counted at once

# What steps cost where these were measured (Zen 3), nanoseconds; counting tells how much slower a machine is
COUNT_NS, COUNT_PAIRS_NS = 500.0, 1200.0  # an n-gram of a row; of a pair of texts
COUNT_PARTS_NS = 750.0  # an n-gram of a row with parts of words, most of which are new at first
BUILD_NS = 250.0  # an n-gram of a row, for dropping rare ones and making the matrix

PLANNED_SHARE = 0.8  # of the time left that is planned with; the rest is for what takes longer
SPARE_COUNTS = 3.0  # times the time of counting is to spare where n-grams of one row may stay


def take_rows(
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
    """Count the n-grams of one analyzer, with arguments and result as of `take_rows`.

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
            ns = counted_s / (usual_ns * (counter.n_entries + 1))  # seconds here that are one there
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
    """Return an order (n,) of rows: one of each class first, then every beginning has the classes' shares."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = (rank + rng.random(len(labels))) / np.repeat(counts, counts)
    place[rank == 0] -= 1.0
    return by_class[np.argsort(place, kind="stable")]
