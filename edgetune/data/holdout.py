"""Rows set aside for evaluation, and whether evaluation rows are also training rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgetune.types import IntArray


class Hashed(Protocol):
    """Rows whose texts can be compared."""

    @property
    def text_hashes(self) -> IntArray: ...


def overlap(train: Hashed, evaluation: Hashed) -> int:
    """Count evaluation rows whose text, letter case and white space aside, is also a training text."""
    known = np.unique(train.text_hashes)
    asked = evaluation.text_hashes
    if not len(known):
        return 0
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return int(np.count_nonzero(known[places] == asked))


def split_holdout(
    labels: IntArray, share: float, max_rows: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw evaluation rows, each class by its share.

    A class's last row always stays in training, so that no class is evaluated without having been trained.
    At least one row is drawn if any can be and `share` and `max_rows` are above 0.

    Args:
        labels: (n,) class ids.
        share: of the rows to draw, in [0, 1].
        max_rows: to draw at most.
        rng: decides which.

    Returns:
        Row numbers to train on and to evaluate on, both ascending.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = _quotas(counts, share, max_rows)
    drawn = [
        rng.choice(np.flatnonzero(labels == name), size=int(quota), replace=False)
        for name, quota in zip(classes, quotas, strict=True)
    ]
    evaluated = np.zeros(len(labels), dtype=np.bool_)
    if drawn:
        evaluated[np.concatenate(drawn)] = True
    return np.flatnonzero(~evaluated).astype(np.int32), np.flatnonzero(evaluated).astype(np.int32)


def _quotas(counts: IntArray, share: float, max_rows: int) -> IntArray:
    """Return how many rows of each class to draw: the share, by largest remainder.

    Args:
        counts: (C,) rows per class, each at least 1.
        share: of all rows.
        max_rows: the sum at most.
    """
    limits = counts - 1
    n_rows = int(counts.sum())
    wanted = min(round(share * n_rows), max_rows)
    if share > 0 and max_rows > 0:
        wanted = max(wanted, 1)
    wanted = min(wanted, int(limits.sum()))
    if wanted <= 0:
        return np.zeros_like(counts)
    exact = counts * (wanted / n_rows)
    quotas: IntArray = np.minimum(np.floor(exact).astype(counts.dtype), limits)
    while (missing := wanted - int(quotas.sum())) > 0:
        open_classes = np.flatnonzero(quotas < limits)
        by_remainder = open_classes[np.argsort((quotas - exact)[open_classes], kind="stable")]
        quotas[by_remainder[:missing]] += 1
    return quotas
