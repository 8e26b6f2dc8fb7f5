"""Folds for cross-fitting: near-duplicates in one, classes spread over all."""

from __future__ import annotations

import numpy as np

from edgetune.data.near_duplicates import near_duplicates
from edgetune.data.splits import Comparable
from edgetune.utils.types import IntArray

N_FOLDS = 5
MOST_TOGETHER = 1 / 3
"""Where near-duplicates of each other are a larger share of the rows than this, no folds are made."""


def make_folds(view: Comparable, labels: IntArray, rng: np.random.Generator) -> IntArray | None:
    """Return the fold of each row (n,): near-duplicates in one fold, classes spread over all.

    None if so many rows are near-duplicates of each other that folds would be of very unequal size.

    Args:
        view: tokenized rows.
        labels: (n,) class ids.
        rng: decides which fold.
    """
    groups = _groups(view)
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if sizes.max() > max(1, MOST_TOGETHER * len(view)):
        return None
    shuffled = rng.permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[by_class] = np.arange(len(first)) % N_FOLDS
    return np.asarray(fold[group])


def _groups(view: Comparable) -> IntArray:
    """Return a number for each row (n,), the same for equal texts and for near-duplicates."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(view)
    families = near_duplicates(view, np.arange(n))
    _, first, same = np.unique(view.text_hashes, return_index=True, return_inverse=True)
    ends = np.concatenate([*families, first[same]])
    starts = np.concatenate([np.repeat(np.arange(n), [len(family) for family in families]), np.arange(n)])
    links = csr_matrix((np.ones(len(ends), dtype=np.int8), (starts, ends)), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
