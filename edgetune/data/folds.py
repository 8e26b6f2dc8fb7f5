"""Folds for cross-validation that keep near-duplicates together.

rows ─→ groups of equal texts and near-duplicates ─→ a fold for each group, classes spread over all folds
"""

from __future__ import annotations

import numpy as np

from edgetune.utils.types import IntArray

N_FOLDS = 5
MOST_TOGETHER = 1 / 3
"""If near-duplicates of each other are a larger share of the rows than this, no folds are made."""


def make_folds(groups: IntArray, labels: IntArray, rng: np.random.Generator) -> IntArray | None:
    """Return the fold of each row (n,): groups in one fold, classes spread over all.

    None if a group is so large that folds would be of very unequal size.

    Args:
        groups: (n,) number of each row's group.
        labels: (n,) class ids.
        rng: decides which group gets into which fold.
    """
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if sizes.max() > max(1, MOST_TOGETHER * len(groups)):
        return None
    shuffled = rng.permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[by_class] = np.arange(len(first)) % N_FOLDS
    return np.asarray(fold[group])
