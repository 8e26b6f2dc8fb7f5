"""Measured points of one operation as a full, monotone array, and the value between its nodes.

    points ─→ holes filled by operation count ─→ made monotone ─→ continued to zero ─→ `at`

The axes are batch, length and *active layers*: the layers that an operation runs. A cost never falls along
any of them, which is all that has to be held.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from edgetune.utils.types import FloatArray

Cell = tuple[int, int, int]
"""Batch, length, active layers."""
Fit = Callable[[float, float, float], float]
"""Seconds by operation count at (batch, length, active layers)."""

_LAYERS = 2  # the axis of active layers
_LEAST_LAYER = 0.15  # of its share in the lowest measured layers is the least that one layer costs


def monotone_envelope(values: FloatArray) -> FloatArray:
    """Return the nearest array (largest difference) that falls along no axis; monotone input is unchanged.

    Halfway between the largest value before each cell and the smallest after it: the isotonic regression in
    the maximum norm (Ubhaya 1974).
    """
    highest, lowest = values, values
    for axis in range(values.ndim):
        highest = np.maximum.accumulate(highest, axis=axis)
        lowest = np.flip(np.minimum.accumulate(np.flip(lowest, axis), axis=axis), axis)
    middle: FloatArray = lowest + (highest - lowest) / 2
    return middle


def _rising(values: FloatArray) -> FloatArray:
    """Raise cells to the largest value before them, along every axis."""
    for axis in range(values.ndim):
        values = np.maximum.accumulate(values, axis=axis)
    return values


class CostGrid:
    """The cost of one operation over (batch, length, active layers), by multilinear interpolation.

    An encoder's step is nearly affine in each of the three, so that straight lines between nodes are near.
    """

    def __init__(
        self, seconds: dict[Cell, float], halves: dict[Cell, float], n_layers: int, fit: Fit
    ) -> None:
        """Lay the points out.

        Args:
            seconds: median of each measured cell.
            halves: half of its 95 % interval, relative to the median.
            n_layers: of the model.
            fit: fills cells that were not measured.
        """
        self._measured = frozenset(seconds)
        axes: list[list[int]] = [sorted({cell[axis] for cell in seconds}) for axis in range(3)]
        self.limits = tuple((axis[0], axis[-1]) for axis in axes)
        shape = tuple(len(axis) for axis in axes)
        values: FloatArray = np.empty(shape)
        noise: FloatArray = np.full(shape, max(halves.values()))
        for place in np.ndindex(*shape):
            cell = (axes[0][place[0]], axes[1][place[1]], axes[2][place[2]])
            values[place] = seconds[cell] if cell in seconds else fit(*cell)
            noise[place] = halves.get(cell, noise[place])
        values = monotone_envelope(values)
        for axis in range(3):
            if axis == _LAYERS and axes[axis][0] > 1:
                values = _add_first(values, axes, fit)
                noise = np.concatenate([np.take(noise, [0], axis), noise], axis)
            if axes[axis][0] > 0:
                values = _add_zero(values, axes, axis, fit)
                noise = np.concatenate([np.take(noise, [0], axis), noise], axis)
        if axes[_LAYERS][-1] < n_layers:
            values = _add_last(values, axes, n_layers, fit)
            noise = np.concatenate([noise, np.take(noise, [-1], _LAYERS)], _LAYERS)
        self._axes, self._values, self._noise = axes, values, noise

    def measured(self, cell: Cell) -> bool:
        """Return whether a cell was measured itself."""
        return cell in self._measured

    def inside(self, cell: Cell) -> bool:
        """Return whether a cell lies among measured ones."""
        return all(low <= at <= high for at, (low, high) in zip(cell, self.limits, strict=True))

    def at(self, batch: float, length: float, layers: float) -> tuple[float, float]:
        """Return seconds and the relative half interval; beyond the last node, those of the last node."""
        sides = [_between(axis, at) for axis, at in zip(self._axes, (batch, length, layers), strict=True)]
        value, noise = 0.0, 0.0
        for (i, u), (j, v), (k, w) in product(*sides):
            share = u * v * w
            if share > 0.0:
                value += share * float(self._values[i, j, k])
                noise = max(noise, float(self._noise[i, j, k]))
        return value, noise


def _between(nodes: Sequence[int], at: float) -> list[tuple[int, float]]:
    """Return the nodes on both sides of a value, each with its share."""
    right = bisect_right(nodes, at)
    if right == 0 or right == len(nodes):
        return [(max(0, right - 1), 1.0)]
    share = (at - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return [(right - 1, 1.0 - share), (right, share)]


def _slope(values: FloatArray, axes: list[list[int]], axis: int, end: int, to: int, fit: Fit) -> FloatArray:
    """Return the change from the last node at one end of an axis on to `to`.

    A straight line through the two nodes at that end; with one node alone, by operation count.
    """
    nodes = axes[axis]
    edge, inner = (0, 1) if end == 0 else (-1, -2)
    if len(nodes) > 1:
        rate = (np.take(values, edge, axis) - np.take(values, inner, axis)) / (nodes[edge] - nodes[inner])
        change: FloatArray = rate * (to - nodes[edge])
        return change
    others = [nodes if i != axis else [nodes[0]] for i, nodes in enumerate(axes)]
    change = np.empty(tuple(len(other) for other in others))
    for place in np.ndindex(*change.shape):
        here = [float(others[i][at]) for i, at in enumerate(place)]
        there = [float(to) if i == axis else value for i, value in enumerate(here)]
        change[place] = fit(*there) - fit(*here)
    first: FloatArray = np.take(change, 0, axis)
    return first


def _add_first(values: FloatArray, axes: list[list[int]], fit: Fit) -> FloatArray:
    """Put a node at one layer before the axis of layers.

    The line through the lowest two nodes may well reach zero above no layer at all: where a classifier reads
    the first token only, its last layer costs far less than the others.
    """
    first = np.take(values, 0, _LAYERS)
    one = first + _slope(values, axes, _LAYERS, 0, 1, fit)
    one = np.clip(one, _LEAST_LAYER * first / axes[_LAYERS][0], first)
    axes[_LAYERS].insert(0, 1)
    return np.concatenate([np.expand_dims(_rising(one), _LAYERS), values], _LAYERS)


def _add_zero(values: FloatArray, axes: list[list[int]], axis: int, fit: Fit) -> FloatArray:
    """Put a node at 0 before an axis, its values between 0 and those of the first node.

    What no layer costs the operation count says; what no row or token costs, a line through two nodes.
    """
    first = np.take(values, 0, axis)
    if axis == _LAYERS:
        zero = np.array([[fit(batch, length, 0) for length in axes[1]] for batch in axes[0]])
    else:
        zero = first + _slope(values, axes, axis, 0, 0, fit)
    zero = np.clip(zero, 0.0, first)
    axes[axis].insert(0, 0)
    # Not above `first` even after this, as `first` does not fall either.
    return np.concatenate([np.expand_dims(_rising(zero), axis), values], axis)


def _add_last(values: FloatArray, axes: list[list[int]], n_layers: int, fit: Fit) -> FloatArray:
    """Put a node at all layers behind the axis of layers, its values not below those of the last node."""
    last = np.take(values, -1, _LAYERS)
    end = last + np.maximum(0.0, _slope(values, axes, _LAYERS, -1, n_layers, fit))
    axes[_LAYERS].append(n_layers)
    return np.concatenate([values, np.expand_dims(_rising(end), _LAYERS)], _LAYERS)
