"""LinearModel: multinomial logistic regression over present features, learned online from ragged batches.

What: one row of weights per feature; an example's logits are the sum of the rows it has, divided by the root
    of their number, so that long texts are not surer than short ones. One AdaGrad step per batch, on the
    weights that occur in it: frequent words settle, rare ones still move. Over `WordFeatures` it is a text
    classifier in the spirit of fastText, the proxy of the methods that need a small model.
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

import numpy as np

from edgetune.data.batches import Batch, TokenSource
from edgetune.selection.features import FeatureSpace, Presence
from edgetune.selection.memory import Stateful
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


class LinearModel(Stateful):
    """Logistic regression of C outputs on the features of a space; all logits are 0 before the first step."""

    saved = ("_weights", "_squares")

    def __init__(self, space: FeatureSpace, n_outputs: int) -> None:
        self._space = space
        shape = (space.n_features, n_outputs)
        self._weights: FloatArray = np.zeros(shape, dtype=np.float32)
        self._squares: FloatArray = np.full(shape, _FIRST_SQUARES, dtype=np.float32)

    def logits(self, batch: Batch) -> FloatArray:
        """(B, C) of B examples."""
        return project(self._weights, self._space(batch))

    def step(self, batch: Batch, targets: Labels) -> FloatArray:
        """Learn from B examples; return their logits (B, C) from before.

        Args:
            batch: the examples.
            targets: (B,) their classes, or (B, C) multi-hot for C independent logistic regressions.
        """
        x = self._space(batch)
        logits = project(self._weights, x)
        if targets.ndim == 2:
            residual = sigmoid(logits) - targets.astype(np.float64)
        else:
            residual = softmax(logits)
            residual[np.arange(x.n_rows), targets.astype(np.int64)] -= 1.0
        features, slopes = gradient(x, residual)
        self._squares[features] += slopes**2
        self._weights[features] -= _RATE * slopes / np.sqrt(self._squares[features])
        return logits


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
    proxy: LinearModel,
    source: TokenSource,
    positions: IntArray,
    n_passes: int,
    rng: np.random.Generator,
    should_stop: Callable[[], bool],
) -> tuple[IntArray, BoolArray]:
    """Train the proxy on the rows at `positions` (n,) of the source, shuffled anew for every pass.

    Returns:
        Row numbers (n,), as batches have them, and whether each row was classified right at each pass,
        (passes, n), before it was fitted.

    Raises:
        PreparationStopped: `should_stop` said so.
    """
    rows = np.zeros(len(positions), dtype=np.int64)
    right = np.zeros((n_passes, len(positions)), dtype=np.bool_)
    for visit in right:
        order = rng.permutation(len(positions))
        for at, batch in read_in_batches(source, positions[order], should_stop):
            rows[order[at]] = batch.rows
            visit[order[at]] = is_right(proxy.step(batch, batch.labels), batch.labels)
    return rows, right
