"""What an operation costs on one backend: seconds at any (batch, length, depth), from measured points.

    at a measured point       the median itself (made monotone with its neighbours)
    between measured points   multilinear in batch, length and layers
    above the grid            the edge, and what the operation count adds beyond it
    another model             by operation count alone, from the model that was profiled

The operation count of an encoder with `n` active layers of width h and feed-forward width f, for B rows of T
tokens, is B·T·n·(4h² + 2hf) + 2·B·T²·h·n multiply-adds; where the classifier reads the first token alone, the
last layer needs no more than keys and values of the others. Coefficients are fitted to the measured points,
none below zero, so that cost grows with batch and length and falls with depth.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, product

import numpy as np

from edgetune.devices.device_profile import BackendProfile, ModelShape, Operation
from edgetune.utils.errors import ProfileError
from edgetune.utils.types import FloatArray

CountFit = Callable[[ModelShape, float, float, float], float]
"""Seconds of a shape at (batch, length, active layers): a non-negative combination of the count's parts."""
Cell = tuple[int, int, int]
"""Batch, length, active layers."""
LAYERS = 2
"""The axis of active layers."""
LEAST_LAYER = 0.15
"""Of its share in the lowest measured layers is the least that one layer costs."""


def nnls(features: FloatArray, target: FloatArray) -> FloatArray:
    """Solve least squares with no coefficient below zero, by trying every subset of few features.

    scipy's does the same, but importing it takes a second at the start of a run.

    Args:
        features: (n, k), k small: 2^k systems are solved.
        target: (n,).

    Returns:
        (k,) coefficients, each ≥ 0.
    """
    n_features = features.shape[1]
    scales = np.abs(features).max(axis=0)
    scales[scales == 0.0] = 1.0
    scaled = features / scales
    best, best_error = np.zeros(n_features), float(np.sum(target**2))
    for size in range(1, n_features + 1):
        for chosen in map(list, combinations(range(n_features), size)):
            found, *_ = np.linalg.lstsq(scaled[:, chosen], target, rcond=None)
            error = float(np.sum((scaled[:, chosen] @ found - target) ** 2))
            if found.min() >= 0.0 and error < best_error * (1.0 - 1e-9):
                best, best_error = np.zeros(n_features), error
                best[chosen] = found
    coefficients: FloatArray = best / scales
    return coefficients


def active_layers(op: Operation, depth: float, n_layers: int) -> float:
    """Return how many layers an operation runs when `depth` of them are cut off as a prefix."""
    return min(depth, n_layers) if op == "prefix" else max(0.0, n_layers - depth)


def operation_count(
    shape: ModelShape, batch: float, length: float, layers: float, trimmed: bool = False
) -> list[float]:
    """Return what the seconds of a call are made of: 1, rows, matrix products, attention, updated weights.

    With `trimmed`, the last layer is computed for each row's first token only.
    """
    weights = 4.0 * shape.hidden_size**2 + 2.0 * shape.hidden_size * shape.intermediate_size
    last = min(layers, 1.0) if trimmed else 0.0
    whole, seen_by_all = layers - last, 2.0 * shape.hidden_size**2  # keys and values
    return [
        1.0,
        batch,
        batch * (length * (whole * weights + last * seen_by_all) + last * (weights - seen_by_all)),
        batch * length * (whole * length + last) * shape.hidden_size,
        layers * weights,
    ]


def same_shape(one: ModelShape, other: ModelShape) -> bool:
    """Return whether two models run the same operations, whatever they are called and know for words."""
    sizes = {(shape.n_layers, shape.hidden_size, shape.intermediate_size) for shape in (one, other)}
    return len(sizes) == 1


def count_fit(op: Operation, seconds: dict[Cell, float], shape: ModelShape) -> CountFit:
    """Fit seconds by smallest relative error; updating weights is a part of `train` alone.

    Whether the last layer is computed for one token only is for the points to say.
    """
    fits = []
    for trimmed in (False, True) if op != "prefix" else (False,):
        rows = np.array([operation_count(shape, *cell, trimmed) for cell in seconds])
        if op != "train":
            rows[:, -1] = 0.0
        rows /= np.array(list(seconds.values()))[:, None]
        coefficients = nnls(rows, np.ones(len(rows)))
        fits.append((float(np.sum((rows @ coefficients - 1.0) ** 2)), coefficients, trimmed))
    _, best, trims = min(fits, key=lambda fit: fit[0])
    return lambda of, b, t, n: float(np.dot(best, operation_count(of, b, t, n, trims)))


class CostFunction:
    """Seconds of a backend's operations; never negative, never falling with batch or length.

    `score` and `train` do not get dearer with depth, `prefix` does not get cheaper.
    """

    def __init__(
        self, profile: BackendProfile, shape: ModelShape, target: ModelShape | None = None, scale: float = 1.0
    ) -> None:
        """Fit to points measured with a model of one shape, to predict for another (None: the same).

        Raises:
            ProfileError: `score` or `train` was not measured at all.
        """
        self._shape, self._scale = shape, scale
        self._target = None if target is None or same_shape(shape, target) else target
        self._fits: dict[Operation, CountFit] = {}
        self._grids: dict[Operation, CostGrid] = {}
        ops: tuple[Operation, ...] = ("score", "train", "prefix")
        for op in ops:
            points = {(p.batch, p.length, p.depth): p.s for p in profile.points if p.op == op}
            if not points and op == "prefix":  # the layers below cost what they cost in a whole forward pass
                whole = [point for point in profile.points if point.op == "score" and point.depth == 0]
                points = {(p.batch, p.length, shape.n_layers): p.s for p in whole}
            if not points:
                raise ProfileError(
                    f"The profile of {profile.key} has no `{op}` measurement; measure again with "
                    "`edgetune profile`."
                )
            cells = {(b, t, int(active_layers(op, d, shape.n_layers))): s for (b, t, d), s in points.items()}
            fit = self._fits[op] = count_fit(op, cells, shape)
            self._grids[op] = CostGrid(cells, shape.n_layers, partial(fit, shape))

    def seconds(self, op: Operation, batch: int, length: int, depth: int) -> float:
        """Predict seconds of one call; `depth` lowest of the target's own layers are frozen and cut off."""
        if op == "prefix" and depth <= 0:
            return 0.0
        shape = self._target or self._shape
        layers = active_layers(op, depth, shape.n_layers)
        fit, grid = self._fits[op], self._grids[op]
        if self._target is not None:
            return self._scale * fit(shape, batch, length, layers)
        nearest = (min(batch, grid.axes[0][-1]), min(length, grid.axes[1][-1]))
        seconds = grid.at(*nearest, layers)
        if nearest != (batch, length):
            seconds += fit(shape, batch, length, layers) - fit(shape, *nearest, layers)
        return self._scale * seconds


def monotone_envelope(values: FloatArray) -> FloatArray:
    """Return the nearest array (largest difference) that falls along no axis; monotone input is unchanged.

    Halfway between the largest value before each cell and the smallest after it: the isotonic regression in
    the maximum norm (Ubhaya 1974).
    """
    lowest = np.flip(-_rising(-np.flip(values)))
    middle: FloatArray = lowest + (_rising(values) - lowest) / 2
    return middle


def _rising(values: FloatArray) -> FloatArray:
    """Raise cells to the largest value before them, along every axis."""
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis=axis)
    return values


class CostGrid:
    """Measured points of one operation as a full, monotone array, and the value between its nodes.

        points ─→ holes filled by operation count ─→ made monotone ─→ continued to zero ─→ `at`

    An encoder's step is nearly affine in batch, length and active layers, so that straight lines between
    nodes are near; and a cost never falls along any of them.
    """

    def __init__(
        self, seconds: dict[Cell, float], n_layers: int, fit: Callable[[float, float, float], float]
    ) -> None:
        """Lay the medians of measured cells out; `fit` gives the seconds of those that were not measured."""
        self.axes: list[list[int]] = [sorted({cell[axis] for cell in seconds}) for axis in range(3)]
        self._fit = fit
        filled = [seconds[cell] if cell in seconds else fit(*cell) for cell in product(*self.axes)]
        self._values = monotone_envelope(np.reshape(filled, [len(axis) for axis in self.axes]))
        for axis in range(3):
            if axis == LAYERS and self.axes[axis][0] > 1:
                self._add_first()
            if self.axes[axis][0] > 0:
                self._add_zero(axis)
        if self.axes[LAYERS][-1] < n_layers:
            last = np.take(self._values, -1, LAYERS)
            self._insert(
                LAYERS, n_layers, last + np.maximum(0.0, self._slope(LAYERS, -1, n_layers)), at_end=True
            )

    def at(self, batch: float, length: float, layers: float) -> float:
        """Return seconds; beyond the last node, those of the last node."""
        sides = [_between(axis, at) for axis, at in zip(self.axes, (batch, length, layers), strict=True)]
        return sum(
            u * v * w * float(self._values[i, j, k])
            for (i, u), (j, v), (k, w) in product(*sides)
            if u * v * w
        )

    def _insert(self, axis: int, node: int, values: FloatArray, at_end: bool = False) -> None:
        """Put a node at one end of an axis; its values are made to rise, which leaves their bounds alone."""
        parts = [np.expand_dims(_rising(values), axis), self._values]
        self._values = np.concatenate(parts[::-1] if at_end else parts, axis)
        self.axes[axis].insert(len(self.axes[axis]) if at_end else 0, node)

    def _slope(self, axis: int, end: int, to: int) -> FloatArray:
        """Return the change from the last node at one end of an axis on to `to`.

        A straight line through the two nodes at that end; with one node alone, by operation count.
        """
        nodes, edge, inner = self.axes[axis], *((0, 1) if end == 0 else (-1, -2))
        if len(nodes) > 1:
            step = np.take(self._values, edge, axis) - np.take(self._values, inner, axis)
            change: FloatArray = step / (nodes[edge] - nodes[inner]) * (to - nodes[edge])
            return change
        there, here = (self._counted(axis, node) for node in (to, nodes[0]))
        return there - here

    def _counted(self, axis: int, node: int) -> FloatArray:
        """Return seconds by operation count along the two other axes."""
        others = [[node] if i == axis else nodes for i, nodes in enumerate(self.axes)]
        shape = [len(nodes) for nodes in others if nodes is not others[axis]]
        return np.reshape([self._fit(*cell) for cell in product(*others)], shape)

    def _add_first(self) -> None:
        """Put a node at one layer before the axis of layers.

        The line through the lowest two nodes may well reach zero above no layer at all: where a classifier
        reads the first token only, its last layer costs far less than the others.
        """
        first = np.take(self._values, 0, LAYERS)
        least = LEAST_LAYER * first / self.axes[LAYERS][0]
        self._insert(LAYERS, 1, np.clip(first + self._slope(LAYERS, 0, 1), least, first))

    def _add_zero(self, axis: int) -> None:
        """Put a node at 0 before an axis, its values between 0 and those of the first node.

        What no layer costs the operation count says; what no row or token costs, a line through two nodes.
        """
        first = np.take(self._values, 0, axis)
        zero = self._counted(axis, 0) if axis == LAYERS else first + self._slope(axis, 0, 0)
        self._insert(axis, 0, np.clip(zero, 0.0, first))


def _between(nodes: Sequence[int], at: float) -> list[tuple[int, float]]:
    """Return the nodes on both sides of a value, each with its share."""
    right = bisect_right(nodes, at)
    if right == 0 or right == len(nodes):
        return [(max(0, right - 1), 1.0)]
    share = (at - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return [(right - 1, 1.0 - share), (right, share)]
