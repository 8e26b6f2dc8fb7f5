"""Tables with one value per training row, read and written by row number: no Python loop over rows.

Not a method of its own: the selectors that remember losses or decisions from pass to pass keep them here.
A table grows when a row number is new to it. Losses are kept as float32, 4 bytes per row.
"""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

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


class RowTable(Generic[Scalar]):
    """One value for every row number (not negative); a row that was never put has the default."""

    def __init__(self, default: float, dtype: type[Scalar]) -> None:
        self._default = default
        self._dtype = dtype
        self._values: npt.NDArray[Scalar] = np.zeros(0, dtype=dtype)

    def get(self, rows: IntArray) -> npt.NDArray[Scalar]:
        """Return the values (B,) of rows (B,)."""
        inside = rows < len(self._values)
        found = np.full(len(rows), self._default, dtype=self._dtype)
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

    def to_array(self) -> npt.NDArray[Scalar]:
        """Return the values of rows 0, 1, … up to some row after which all have the default."""
        return np.array(self._values)

    def fill(self, values: npt.NDArray[Any] | list[Any]) -> None:
        """Make the table hold exactly what `to_array` returned."""
        self._values = np.array(values, dtype=self._dtype)

    def _reach(self, rows: IntArray) -> None:
        """Grow until every one of the rows has a place; at least twofold, so that growth stays cheap."""
        n_held, n_needed = len(self._values), int(rows.max(initial=-1)) + 1
        if n_needed > n_held:
            grown = np.full(max(n_needed, 2 * n_held), self._default, dtype=self._dtype)
            grown[:n_held] = self._values
            self._values = grown


class RowLosses:
    """The last measured loss (nats) of every row, as float32; a loss that is not finite measures nothing."""

    def __init__(self) -> None:
        self._losses = RowTable(np.nan, np.float32)

    def put(self, rows: IntArray, losses: FloatArray) -> None:
        """Take in the losses (B,) of rows (B,)."""
        finite = np.isfinite(losses)
        self._losses.put(rows[finite], losses[finite])

    def known(self, rows: IntArray) -> BoolArray:
        """Return which of the rows (B,) were measured."""
        return ~np.isnan(self._losses.get(rows))

    def get(self, rows: IntArray) -> npt.NDArray[np.float32]:
        """Return the last losses (B,) of rows (B,); not a number where there is none."""
        return self._losses.get(rows)

    def measured(self) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return all measured rows, ascending, and their last losses."""
        losses = self._losses.to_array()
        rows = np.flatnonzero(~np.isnan(losses))
        return rows, losses[rows]

    def state(self) -> dict[str, Any]:
        rows, losses = self.measured()
        return {"rows": rows, "losses": losses}

    def load_state(self, state: dict[str, Any]) -> None:
        self._losses = RowTable(np.nan, np.float32)
        self.put(np.asarray(state["rows"], dtype=np.int64), np.asarray(state["losses"], dtype=np.float32))
