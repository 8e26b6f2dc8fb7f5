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

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from edgetune.devices.cost_grid import Cell, CostGrid
from edgetune.devices.device_profile import BackendProfile, MeasuredPoint, ModelShape, Operation
from edgetune.utils.errors import ProfileError
from edgetune.utils.types import FloatArray

Kind = Literal["measured", "interpolated", "by operation count"]

# Relative half-widths that go on top of the noise of the points themselves.
INTERPOLATED = 0.06
OUTSIDE = 0.15
OTHER_MODEL = 0.35
_LEAST_SHARE = 0.2  # of a prediction that an interval leaves at its lower end


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one call, and how sure they are.

    Attributes:
        s: predicted seconds.
        low_s, high_s: where the real figure should be, 9 times in 10.
        kind: how it was found.
    """

    s: float
    low_s: float
    high_s: float
    kind: Kind


def nnls(features: FloatArray, target: FloatArray) -> FloatArray:
    """Solve least squares with no coefficient below zero, by trying every subset of few features.

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
            if found.min() < 0.0:
                continue
            error = float(np.sum((scaled[:, chosen] @ found - target) ** 2))
            if error < best_error * (1.0 - 1e-9):
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

    Args:
        shape: of the model.
        batch: rows.
        length: tokens of each.
        layers: that are run.
        trimmed: whether the last of them is computed for each row's first token only.
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


class CountFit:
    """Seconds as a non-negative combination of the operation count's parts, by smallest relative error."""

    def __init__(self, op: Operation, seconds: dict[Cell, float], shape: ModelShape) -> None:
        """Fit to measured cells; updating weights is a part of `train` alone.

        Whether the last layer is computed for one token only is for the points to say.
        """
        best = np.inf
        for trimmed in (False, True) if op != "prefix" else (False,):
            rows = np.array([operation_count(shape, *cell, trimmed) for cell in seconds])
            if op != "train":
                rows[:, -1] = 0.0
            rows /= np.array(list(seconds.values()))[:, None]
            coefficients = nnls(rows, np.ones(len(rows)))
            residuals = np.abs(rows @ coefficients - 1.0)
            if np.sum(residuals**2) < best:
                best = np.sum(residuals**2)
                self._coefficients, self._trimmed = coefficients, trimmed
                self.error = float(np.quantile(residuals, 0.9))
                """Relative error of the fit that 9 points in 10 stay under."""

    def seconds(self, shape: ModelShape, batch: float, length: float, layers: float) -> float:
        """Return seconds for any model's shape."""
        counts = operation_count(shape, batch, length, layers, self._trimmed)
        return float(np.dot(self._coefficients, counts))


class CostFunction:
    """Seconds of a backend's operations; never negative, never falling with batch or length.

    `score` and `train` do not get dearer with depth, `prefix` does not get cheaper.
    """

    def __init__(
        self,
        profile: BackendProfile,
        shape: ModelShape,
        target: ModelShape | None = None,
        scale: float = 1.0,
        *,
        widen: float = 0.0,
    ) -> None:
        """Fit to a backend's points.

        Args:
            profile: measured costs.
            shape: of the model that was measured.
            target: model to predict for (None: the same).
            scale: factor on every prediction, as a run's first steps have shown it.
            widen: relative half-width on top of every interval, as the profile of another machine needs it.

        Raises:
            ProfileError: `score` or `train` was not measured at all.
        """
        self._shape = shape
        self._target = None if target is None or same_shape(shape, target) else target
        self._scale = scale
        self._widen = widen
        self._fits: dict[Operation, CountFit] = {}
        self._grids: dict[Operation, CostGrid] = {}
        for op in ("score", "train", "prefix"):
            self._add(profile, op)

    def _add(self, profile: BackendProfile, op: Operation) -> None:
        n_layers = self._shape.n_layers
        points = [point for point in profile.points if point.op == op]
        self._has_prefix = bool(points)
        if not points and op == "prefix":  # the layers below cost what they cost in a whole forward pass
            points = [point for point in profile.points if point.op == "score" and point.depth == 0]
            points = [point.model_copy(update={"op": op, "depth": n_layers}) for point in points]
        if not points:
            raise ProfileError(
                f"The profile of {profile.key} has no `{op}` measurement; measure again with "
                "`edgetune profile`."
            )
        seconds, halves = _cells(op, points, n_layers)
        fit = CountFit(op, seconds, self._shape)
        self._fits[op] = fit
        self._grids[op] = CostGrid(
            seconds, halves, n_layers, lambda b, n, k: fit.seconds(self._shape, b, n, k)
        )

    def estimate(self, op: Operation, batch: int, length: int, depth: int) -> Estimate:
        """Predict one call.

        Args:
            op: `prefix`, `score` or `train`.
            batch: examples.
            length: tokens of each, padding included.
            depth: lowest layers that are frozen and cut off (of the target's own layers).
        """
        if op == "prefix" and depth <= 0:
            return Estimate(0.0, 0.0, 0.0, "measured")
        shape = self._target or self._shape
        layers = active_layers(op, depth, shape.n_layers)
        fit, grid = self._fits[op], self._grids[op]
        if self._target is not None:
            seconds = fit.seconds(shape, batch, length, layers)
            return self._finish(seconds, OTHER_MODEL + fit.error, "by operation count")
        (_, top_batch), (_, top_length), _ = grid.limits
        nearest = (min(batch, top_batch), min(length, top_length))
        seconds, noise = grid.at(*nearest, layers)
        if nearest != (batch, length):
            seconds += fit.seconds(shape, batch, length, layers) - fit.seconds(shape, *nearest, layers)
        cell = (batch, length, int(layers))
        if not grid.inside(cell) or (op == "prefix" and not self._has_prefix):
            return self._finish(seconds, noise + OUTSIDE, "by operation count")
        if grid.measured(cell):
            return self._finish(seconds, noise, "measured")
        return self._finish(seconds, noise + INTERPOLATED, "interpolated")

    def _finish(self, seconds: float, half: float, kind: Kind) -> Estimate:
        seconds, half = seconds * self._scale, half + self._widen
        low = seconds * max(_LEAST_SHARE, 1.0 - half)
        return Estimate(seconds, min(low, seconds), seconds * (1.0 + half), kind)

    def seconds(self, op: Operation, batch: int, length: int, depth: int) -> float:
        """Predict seconds of one call."""
        return self.estimate(op, batch, length, depth).s


def same_shape(one: ModelShape, other: ModelShape) -> bool:
    """Return whether two models run the same operations, whatever they are called and know for words."""
    sizes = [(shape.n_layers, shape.hidden_size, shape.intermediate_size) for shape in (one, other)]
    return sizes[0] == sizes[1]


def multiply_adds_per_token(shape: ModelShape) -> float:
    """Return multiply-adds per token of a forward pass, attention left out."""
    return operation_count(shape, 1.0, 1.0, shape.n_layers)[2]


def _cells(
    op: Operation, points: Iterable[MeasuredPoint], n_layers: int
) -> tuple[dict[Cell, float], dict[Cell, float]]:
    """Return seconds and relative half intervals by (batch, length, active layers)."""
    seconds: dict[Cell, float] = {}
    halves: dict[Cell, float] = {}
    for point in points:
        cell = (point.batch, point.length, int(active_layers(op, point.depth, n_layers)))
        seconds[cell] = point.s
        halves[cell] = max(0.0, (point.high_s - point.low_s) / 2.0 / point.s)
    return seconds, halves
