"""Whether the linear probe or the trained encoder is kept, by their losses on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetune.runs.scoring import Scored, is_better


@dataclass
class Rows:
    """Held-out rows, as far as they are asked for here."""

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def scored(labels: np.ndarray, n_right: int, seed: int) -> Scored:
    """Logits that are right on the first `n_right` rows, and noisy."""
    answers = np.where(np.arange(len(labels)) < n_right, labels, 1 - labels)
    logits = 2.0 * np.eye(2)[answers] + np.random.default_rng(seed).normal(0, 0.3, (len(labels), 2))
    view: Any = Rows(labels)
    return Scored(view, np.arange(len(labels)), logits.astype(np.float32))


def test_the_better_one_on_the_same_rows_is_kept() -> None:
    labels = np.arange(200) % 2
    worse, better = scored(labels, 140, 1), scored(labels, 180, 2)
    assert not is_better(worse, better)
    assert is_better(better, worse)
    assert is_better(better, worse, errors=1.0)
    assert not is_better(None, worse)
    assert is_better(worse, None)


def test_in_doubt_the_trained_encoder_is_kept_if_that_is_asked() -> None:
    labels = np.arange(24) % 2
    probe, trained = scored(labels, 20, 1), scored(labels, 19, 2)
    assert is_better(probe, trained)
    assert not is_better(probe, trained, errors=1.0)
