"""What selectors keep from batch to batch, with states that checkpoints hold; and shares of rows.

Tables have one value per training row, read and written by row number: no Python loop over rows.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from edgetune.utils.types import BoolArray, FloatArray, IntArray

Scalar = TypeVar("Scalar", bound=np.generic)


def count_of(share: float, n: int) -> int:
    """Return how many of n things a share is, rounded up; what floats make of a whole number stays whole."""
    return math.ceil(share * n - 1e-9)


def top(scores: FloatArray, share: float) -> IntArray:
    """Return the places of the highest `share` of the scores (n,), ascending; of equal scores the first win.

    The number is rounded up: of any scores at all, at least one is taken.
    """
    return np.sort(np.argsort(-scores, kind="stable")[: count_of(share, len(scores))])


class Stateful:
    """Something that can be saved and restored.

    Attributes:
        saved: the attributes that are its state: plain values, arrays, generators, or `Stateful` in turn.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state(self) -> Any:
        """Return a copy of all that decides what comes later, random state included."""
        return {name.lstrip("_"): _state_of(getattr(self, name)) for name in self.saved}

    def load_state(self, state: Any) -> None:
        """Continue exactly where `state()` was taken; arrays may have become lists."""
        for name in self.saved:
            setattr(self, name, _restored(getattr(self, name), state[name.lstrip("_")]))


def _state_of(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return list(value) if isinstance(value, deque) else copy.deepcopy(value)


def _restored(value: Any, state: Any) -> Any:
    """Return the value that had this state, of the type that the present value has."""
    if isinstance(value, Stateful):
        value.load_state(state)
        return value
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = state
        return value
    if isinstance(value, np.ndarray):
        return np.array(state, dtype=value.dtype)
    return deque(state, value.maxlen) if isinstance(value, deque) else copy.deepcopy(state)


class RowTable(Stateful, Generic[Scalar]):
    """One value for every row number (not negative); a row that was never put has the default.

    It grows when a row number is new to it.
    """

    def __init__(self, default: float, dtype: type[Scalar]) -> None:
        self._default = default
        self._values: npt.NDArray[Scalar] = np.zeros(0, dtype=dtype)

    def get(self, rows: IntArray) -> npt.NDArray[Scalar]:
        """Return the values (B,) of rows (B,)."""
        inside = rows < len(self._values)
        found = np.full(len(rows), self._default, dtype=self._values.dtype)
        found[inside] = self._values[rows[inside]]
        return found

    def put(self, rows: IntArray, values: npt.NDArray[Any] | float) -> None:
        """Replace the values of rows (B,); of a row that is there twice, the last counts."""
        self._reach(rows)
        self._values[rows] = values

    def add(self, rows: IntArray, amounts: npt.NDArray[Any] | float) -> None:
        """Add to the values of rows (B,); a row that is there twice is added to twice."""
        self._reach(rows)
        np.add.at(self._values, rows, amounts)

    def state(self) -> Any:
        """Return the values of rows 0, 1, … up to some row after which all have the default."""
        return np.array(self._values)

    def load_state(self, state: Any) -> None:
        self._values = np.array(state, dtype=self._values.dtype)

    def _reach(self, rows: IntArray) -> None:
        """Grow until every one of the rows has a place; at least twofold, so that growth stays cheap."""
        n_held, n_needed = len(self._values), int(rows.max(initial=-1)) + 1
        if n_needed > n_held:
            grown = np.full(max(n_needed, 2 * n_held), self._default, dtype=self._values.dtype)
            grown[:n_held] = self._values
            self._values = grown


class RowSet(RowTable[np.bool_]):
    """A set of row numbers; `put` adds those whose value is true, and drops the others."""

    def __init__(self) -> None:
        super().__init__(False, np.bool_)

    def pop(self, rows: IntArray) -> BoolArray:
        """Return which rows (B,) were in the set, and drop them."""
        found = self.get(rows)
        self.put(rows[found], False)
        return found

    def state(self) -> Any:
        """Return the rows in the set, ascending."""
        return np.flatnonzero(self._values)

    def load_state(self, state: Any) -> None:
        super().load_state([])
        self.put(np.asarray(state, dtype=np.int64), True)


class RowLosses(RowTable[np.float32]):
    """The last measured loss (nats) of every row; not a number where there is none."""

    def __init__(self) -> None:
        super().__init__(np.nan, np.float32)

    def measure(self, rows: IntArray, losses: FloatArray) -> None:
        """Take in the losses (B,) of rows (B,); one that is not finite measures nothing."""
        finite = np.isfinite(losses)
        self.put(rows[finite], losses[finite])

    def known(self, rows: IntArray) -> BoolArray:
        """Return which of the rows (B,) were measured."""
        return ~np.isnan(self.get(rows))

    def measured(self) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return all measured rows, ascending, and their last losses."""
        rows = np.flatnonzero(~np.isnan(self._values))
        return rows, self._values[rows]

    def state(self) -> Any:
        rows, losses = self.measured()
        return {"rows": rows, "losses": losses}

    def load_state(self, state: Any) -> None:
        super().load_state([])
        self.put(np.asarray(state["rows"], np.int64), np.asarray(state["losses"], np.float32))


class LossWindow(Stateful):
    """The last K example losses (nats), oldest first; their mean is L_low, eq. 2."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.losses: FloatArray = np.zeros(0, dtype=np.float64)

    def add(self, losses: FloatArray) -> None:
        """Take in losses (B,), newest last."""
        self.losses = np.concatenate([self.losses, np.asarray(losses, np.float64)])[-self._size :]

    def mean(self) -> float:
        """Return L_low; of fewer than K losses while there are fewer."""
        return float(self.losses.mean())

    def state(self) -> Any:
        return np.array(self.losses)

    def load_state(self, state: Any) -> None:
        self.losses = np.array(state, dtype=np.float64)


class LossCurve(Stateful):
    """A predictor's loss per batch: the last W for the comparison, a thinned past to plot.

    Attributes:
        window: W.
        n_batches: so far.
        points: at most 128 pairs of batch number and window mean.
    """

    saved = ("_last", "points", "_every", "n_batches")
    _MOST_POINTS = 128

    def __init__(self, window: int) -> None:
        self.window = window
        self.n_batches = 0
        self.points: list[list[float]] = []
        self._last: deque[float] = deque(maxlen=window)
        self._every = 1

    @property
    def full(self) -> bool:
        """Whether there were W batches."""
        return len(self._last) == self.window

    @property
    def mean(self) -> float | None:
        """Mean log loss (nats) over the last W batches, or over fewer while there are fewer."""
        return float(np.mean(self._last)) if self._last else None

    def add(self, loss: float) -> None:
        self._last.append(loss)
        self.n_batches += 1
        if self.n_batches % self._every == 0:
            self.points.append([self.n_batches, float(np.mean(self._last))])
        if len(self.points) == self._MOST_POINTS:
            self.points = self.points[1::2]
            self._every *= 2
