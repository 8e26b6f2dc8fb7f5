"""LinearModel: multinomial logistic regression over present features, learned online from ragged batches.

What: one row of weights per feature; an example's logits are the sum of the rows it has, divided by the root
    of their number, so that long texts are not surer than short ones. One AdaGrad step per batch, on the
    weights that occur in it: frequent words settle, rare ones still move. `WordProxy` makes it a text
    classifier over hashed words, in the spirit of fastText, for the methods that need a small model.
Use when: a method needs a model that costs next to nothing beside the encoder.
Costs: a sort of the batch's pairs and a gather of their weights: the proxy's visit to a row takes about 6 us
    on one core (SST-2, QQP). 8 bytes per feature and output.
Loses when: what matters is in the order of the words; it sees which ones there are, nothing more. On unseen
    rows after 3 passes over 6,000 to 6,700: SST-2 82 % right, 0.41 nats; AG News 88 %, 0.38; QNLI, whose two
    texts have to be compared, 54 %, 0.79, worse than ln 2.
Source: Joulin et al., Bag of Tricks for Efficient Text Classification, 2017 (the linear model over words;
    no n-grams here); Duchi et al., Adaptive Subgradient Methods, 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from edgetune.data.batches import Batch, TokenSource
from edgetune.selection.features import HASH_BITS, Presence, hash_ids, token_rows, unique_pairs
from edgetune.utils.metrics import is_right, sigmoid, softmax
from edgetune.utils.types import BoolArray, FloatArray, IntArray, Labels

STEP_ROWS = 64
"""Rows of one step of a proxy."""

_RATE = 0.5
_FIRST_SQUARES = 0.03  # squared slopes that every weight starts with: a word seen once moves little


class PreparationStopped(Exception):
    """Somebody asked for the end while rows were being read."""


def sums_by(values: FloatArray, keys: IntArray) -> tuple[IntArray, FloatArray]:
    """Sum neighbours of equal key.

    Args:
        values: (P, C).
        keys: (P,) ascending, not negative.

    Returns:
        The U keys that occur, and their sums (U, C).
    """
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    sums: FloatArray = np.add.reduceat(values, starts, axis=0)
    return keys[starts], sums


def row_scales(x: Presence) -> FloatArray:
    """(B,) one over the root of the number of features; 1 for an example that has none."""
    counts = np.bincount(x.rows, minlength=x.n_rows)
    scales: FloatArray = 1.0 / np.sqrt(np.maximum(counts, 1))
    return scales


def project(weights: FloatArray, x: Presence) -> FloatArray:
    """(B, C) the scaled sum of the weights (F, C) of the features that each example has."""
    rows, sums = sums_by(weights[x.features], x.rows)
    projected = np.zeros((x.n_rows, weights.shape[1]), dtype=weights.dtype)
    projected[rows] = sums * row_scales(x)[rows, None].astype(weights.dtype)
    return projected


def gradient(x: Presence, residual: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the slope of the batch's summed cross-entropy in the weights that occur in it.

    Args:
        x: B examples.
        residual: (B, C) predicted probabilities less the one-hot or multi-hot targets.

    Returns:
        The U features that occur, ascending, and the slopes of their weights (U, C).
    """
    order = np.argsort(x.features, kind="stable")
    scaled = residual * row_scales(x)[:, None]
    return sums_by(scaled[x.rows[order]], x.features[order])


class LinearModel:
    """Logistic regression of C outputs on present features; all logits are 0 before the first step."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        self._weights: FloatArray = np.zeros((n_features, n_outputs), dtype=np.float32)
        self._squares: FloatArray = np.full((n_features, n_outputs), _FIRST_SQUARES, dtype=np.float32)

    def logits(self, x: Presence) -> FloatArray:
        """(B, C) of B examples."""
        return project(self._weights, x)

    def step(self, x: Presence, targets: Labels) -> FloatArray:
        """Learn from B examples; return their logits (B, C) from before.

        Args:
            x: the examples.
            targets: (B,) their classes, or (B, C) multi-hot for C independent logistic regressions.
        """
        logits = self.logits(x)
        if targets.ndim == 2:
            residual = sigmoid(logits) - targets.astype(np.float64)
        else:
            residual = softmax(logits)
            residual[np.arange(x.n_rows), targets.astype(np.int64)] -= 1.0
        features, slopes = gradient(x, residual)
        self._squares[features] += slopes**2
        self._weights[features] -= _RATE * slopes / np.sqrt(self._squares[features])
        return logits

    def state(self) -> dict[str, Any]:
        return {"weights": self._weights.copy(), "squares": self._squares.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._weights = np.array(state["weights"], dtype=np.float32)
        self._squares = np.array(state["squares"], dtype=np.float32)


class WordFeatures:
    """Hashed tokens, and one feature that every example has: its weights are the bias."""

    n_features = 2**HASH_BITS + 1

    def __call__(self, batch: Batch) -> Presence:
        rows = np.concatenate([token_rows(batch), np.arange(len(batch))])
        always = np.full(len(batch), self.n_features - 1)
        features = np.concatenate([hash_ids(batch.tokens), always])
        return unique_pairs(rows, features, len(batch), self.n_features)


class WordProxy:
    """A classifier of texts by their words: the small model that stands in for the encoder."""

    def __init__(self, n_classes: int) -> None:
        self._space = WordFeatures()
        self._model = LinearModel(self._space.n_features, n_classes)

    def logits(self, batch: Batch) -> FloatArray:
        """(B, C) of B texts."""
        return self._model.logits(self._space(batch))

    def learn(self, batch: Batch) -> FloatArray:
        """Learn the batch's labels; return the logits (B, C) from before."""
        return self._model.step(self._space(batch), batch.labels)


class ProxyVisits(NamedTuple):
    """What the passes of a proxy over n rows showed.

    Attributes:
        rows: (n,) row numbers, as batches have them.
        right: (passes, n) whether the row was classified right, each time before it was fitted.
    """

    rows: IntArray
    right: BoolArray


def read_in_batches(
    source: TokenSource, positions: IntArray, should_stop: Callable[[], bool], n_rows: int = STEP_ROWS
) -> Iterator[tuple[IntArray, Batch]]:
    """Yield every position once, `n_rows` at a time: where they stand in `positions`, and their batch.

    Raises:
        PreparationStopped: `should_stop` said so.
    """
    for start in range(0, len(positions), n_rows):
        if should_stop():
            raise PreparationStopped
        at = np.arange(start, min(start + n_rows, len(positions)))
        yield at, source.batch(positions[at])


def fit_proxy(
    proxy: WordProxy,
    source: TokenSource,
    positions: IntArray,
    n_passes: int,
    rng: np.random.Generator,
    should_stop: Callable[[], bool],
) -> ProxyVisits:
    """Train the proxy on the rows at `positions` (n,) of the source, shuffled anew for every pass.

    Raises:
        PreparationStopped: `should_stop` said so.
    """
    rows = np.zeros(len(positions), dtype=np.int64)
    right = np.zeros((n_passes, len(positions)), dtype=np.bool_)
    for visit in right:
        order = rng.permutation(len(positions))
        for at, batch in read_in_batches(source, positions[order], should_stop):
            rows[order[at]] = batch.rows
            visit[order[at]] = is_right(proxy.learn(batch), batch.labels)
    return ProxyVisits(rows, right)
