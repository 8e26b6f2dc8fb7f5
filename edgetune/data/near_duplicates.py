"""Near-duplicates: rows that repeat phrases of each other, and belong in one fold, or on one side of a split.

Two rows are near-duplicates if they share at least half of the bigrams of the shorter one. Only bigrams that
few rows have count as shared, so that a common phrase does not relate rows. A part of a sentence is a
near-duplicate of the sentence; two parts that do not overlap are not near-duplicates of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from edgetune.data.token_store import TokenView
from edgetune.utils.types import IntArray

SHARED_RATE = 0.5
MOST_ROWS = 25
"""Bigrams that occur in more rows than this are ignored: they are common phrases."""
MOST_TOKENS = 20_000_000
"""Views with more tokens are not searched for near-duplicates, which takes up to a microsecond per token."""
MOST_FAMILY, MOST_CHAINED = 50, 20_000
"""Most rows of a family, and of a view in which families include indirect near-duplicates."""
ROWS_AT_ONCE, FILTER_BITS = 8192, 22
N_FOLDS = 5
MOST_TOGETHER = 1 / 3
"""If near-duplicates of each other are a larger share of the rows than this, no folds are made."""
_WORD = re.compile(r"[\u3040-\u9fff]|\w+")


class Words:
    """Texts as words, for use without a tokenizer.

    Attributes:
        lengths: (n,) words of each text.
        text_hashes: (n,) equal where texts are, letter case and white space aside.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Find the words of texts; each character of a script without spaces counts as one."""
        plain = [" ".join(text.lower().split()) for text in texts]
        words = [_WORD.findall(text) or [text] for text in plain]
        numbers: dict[str, int] = {}
        self._rows = [
            np.array([numbers.setdefault(word, len(numbers)) for word in row], dtype=np.int64)
            for row in words
        ]
        self.lengths: IntArray = np.array([len(row) for row in words], dtype=np.int64)
        self.text_hashes: IntArray = np.unique(plain, return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self._rows)

    def subset(self, rows: IntArray) -> Words:
        """Return some of the rows."""
        part = Words(())
        part._rows = [self._rows[row] for row in rows.tolist()]
        part.lengths, part.text_hashes = self.lengths[rows], self.text_hashes[rows]
        return part

    def batch(self, rows: IntArray) -> SimpleNamespace:
        """Return the words of some rows."""
        found = [self._rows[row] for row in rows.tolist()]
        offsets = np.concatenate(([0], np.cumsum([len(row) for row in found])))
        return SimpleNamespace(tokens=np.concatenate(found), offsets=offsets)

    def release(self) -> None:
        """Do nothing: all is in memory."""


Comparable: TypeAlias = TokenView | Words
"""Rows whose texts can be compared, whole and by their words."""


def near_duplicates(view: Comparable, rows: IntArray) -> list[IntArray]:
    """Return the near-duplicates of each of some rows (m,) of a view, ascending, the row itself included."""
    numbers, related = _links(view, rows)
    order = np.lexsort((related, numbers))
    return np.split(related[order], np.cumsum(np.bincount(numbers, minlength=len(rows)))[:-1])


def _links(view: Comparable, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Return near-duplicates as pairs of an index in `rows` and a row of the view, each row with itself."""
    own = np.arange(len(rows)), np.asarray(rows, dtype=np.int64)
    if int(view.lengths.sum()) > MOST_TOKENS:
        return own
    wanted = np.unique(np.concatenate([found for found, _ in _bigrams(view.subset(rows))]))
    if not len(wanted):
        return own
    may_be_wanted = np.zeros(1 << FILTER_BITS, dtype=np.bool_)
    may_be_wanted[_slot(wanted)] = True
    n_bigrams, n_rows = np.zeros(len(view), dtype=np.int64), np.zeros(len(wanted), dtype=np.int64)
    owners: list[IntArray] = []
    places: list[IntArray] = []
    for number, (found, owner) in enumerate(_bigrams(view)):
        start = number * ROWS_AT_ONCE
        counts = np.bincount(owner)
        n_bigrams[start : start + len(counts)] = counts
        likely = may_be_wanted[_slot(found)]
        found, owner = found[likely], owner[likely]
        at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
        hit = wanted[at] == found
        n_rows += np.bincount(at[hit], minlength=len(wanted))
        hit &= n_rows[at] <= MOST_ROWS  # bigrams that too many rows have are not even kept
        owners.append(owner[hit] + start)
        places.append(at[hit])
    view.release()
    owner, at = np.concatenate(owners), np.concatenate(places)
    rare = n_rows[at] <= MOST_ROWS
    has = _matrix(owner[rare], at[rare], (len(view), len(wanted)))
    shared = (has[rows] @ has.T).tocoo()
    least = np.minimum(n_bigrams[shared.col], n_bigrams[rows[shared.row]])
    related = (shared.data >= SHARED_RATE * least) & (shared.col != rows[shared.row])
    return np.concatenate([shared.row[related], own[0]]), np.concatenate([shared.col[related], own[1]])


def families(view: Comparable, rows: IntArray) -> list[IntArray]:
    """Return the family of each of some rows (m,) of a view: itself, its near-duplicates, theirs, and so on.

    Families belong on the same side of a split. A chain of near-duplicates may end far from where it began;
    in SST-2, shared phrases chain 8,652 of 20,000 rows. Therefore, a family of more than `MOST_FAMILY` rows
    is reduced to the near-duplicates of the row itself, as are all families in a view of more than
    `MOST_CHAINED` rows.
    """
    if len(view) > MOST_CHAINED:
        return near_duplicates(view, rows)
    one, other = _links(view, np.arange(len(view)))
    component = _components(one, other, len(view))
    order = np.argsort(component, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(component))[:-1])
    chained = (members[component[row]] for row in rows.tolist())
    return [
        found if len(found) <= MOST_FAMILY else np.sort(other[one == row])
        for row, found in zip(rows.tolist(), chained, strict=True)
    ]


def similar_groups(view: Comparable) -> IntArray:
    """Number the groups of rows (n,) that are equal or near-duplicates, directly or through other rows."""
    n = len(view)
    one, other = _links(view, np.arange(n))
    _, first, same = np.unique(view.text_hashes, return_index=True, return_inverse=True)
    return _components(np.append(one, np.arange(n)), np.append(other, first[same]), n)


def make_folds(groups: IntArray, labels: IntArray, rng: np.random.Generator) -> IntArray | None:
    """Return a random fold for each row (n,): each group in one fold, classes spread over all.

    None if a group is so large that folds would be of very unequal size.
    """
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if sizes.max() > max(1, MOST_TOGETHER * len(groups)):
        return None
    shuffled = rng.permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[by_class] = np.arange(len(first)) % N_FOLDS
    return np.asarray(fold[group])


def _components(one: IntArray, other: IntArray, n: int) -> IntArray:
    """Return a number for each of n rows, the same for rows that links join, directly or through others."""
    from scipy.sparse.csgraph import connected_components

    return np.asarray(connected_components(_matrix(one, other, (n, n)), directed=False)[1], dtype=np.int64)


def _bigrams(view: Comparable) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the bigrams of `ROWS_AT_ONCE` rows at a time, and each one's row among these.

    A bigram is one number made of two token ids. Special tokens at the ends of all rows are left out.
    """
    for start in range(0, len(view), ROWS_AT_ONCE):
        batch = view.batch(np.arange(start, min(start + ROWS_AT_ONCE, len(view))))
        tokens = batch.tokens.astype(np.int64)
        rows = np.repeat(np.arange(len(batch.offsets) - 1), np.diff(batch.offsets))
        ordinary = np.ones(len(tokens), dtype=np.bool_)
        for ends in (tokens[batch.offsets[:-1]], tokens[batch.offsets[1:] - 1]):
            if (ends == ends[0]).all():
                ordinary &= tokens != ends[0]
        tokens, rows = tokens[ordinary], rows[ordinary]
        whole = rows[1:] == rows[:-1]
        yield (tokens[:-1] << 32 | tokens[1:])[whole], rows[1:][whole]


def _slot(bigrams: IntArray) -> IntArray:
    """Return the slots of bigrams in a table of 2 ** FILTER_BITS slots, which several may share."""
    return (bigrams * 0x9E3779B1 >> 24) & ((1 << FILTER_BITS) - 1)


def _matrix(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_matrix

    found = csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
    found.data[:] = 1  # a bigram that a row has twice counts once
    return found
