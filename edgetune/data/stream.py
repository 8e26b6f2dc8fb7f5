"""The stream of training rows: pass after pass, shuffled, in batches of nearly one length."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edgetune.data.batches import Batch, Order, TokenSource, epoch_order
from edgetune.utils.types import IntArray

RELEASE_EVERY = 8  # batches between two calls that let the system drop token pages


class RowSource(TokenSource, Protocol):
    """Training rows."""

    def __len__(self) -> int: ...

    def release(self) -> None: ...

    def numbered(self, rows: IntArray) -> Batch:
        """Copy rows (B,), given by their numbers in `Batch.rows`."""
        ...


class RowStream:
    """The rest of a pass over the rows, and the generator that draws the next pass."""

    def __init__(self, source: RowSource, batch_size: int, rng: np.random.Generator) -> None:
        """Start before the first pass."""
        self._source, self._batch_size, self._rng = source, batch_size, rng
        self._order, self._at = _nothing(), 0

    def __len__(self) -> int:
        """Batches left of the pass."""
        return len(self._order) - self._at

    def begin(self) -> None:
        """Draw the order of a pass."""
        self._order, self._at = _nothing(), 0  # the old order makes room for the new
        self._order = epoch_order(self._source.lengths, self._batch_size, self._rng)

    def next(self, at_least: int = 1) -> Batch:
        """Copy the next whole batches of the pass as one batch of at least `at_least` rows, or all."""
        order, n_before = self._order, len(self)
        begin = order.begin(self._at)
        last = min(int(order.ends.searchsorted(begin + at_least)), len(order) - 1)
        self._at = last + 1
        if n_before // RELEASE_EVERY != len(self) // RELEASE_EVERY:
            self._source.release()
        return self._source.batch(order.rows[begin : order.ends[last]])

    def draw_rest_anew(self) -> None:
        """Draw as many rows as are left of the pass from all of them."""
        n_left = len(self._left)
        self.begin()
        self._order = self._order.cut(n_left)

    @property
    def _left(self) -> IntArray:
        return self._order.rows[self._order.begin(self._at) :]

    def state(self) -> dict[str, Any]:
        """Return the rest of the pass, and the state of the generator."""
        return {
            "left": self._left,
            "sizes": np.diff(self._order.ends, prepend=np.int32(0))[self._at :],
            "rng": self._rng.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state()` was taken."""
        self._order, self._at = Order(state["left"], np.cumsum(state["sizes"], dtype=np.int32)), 0
        self._rng.bit_generator.state = state["rng"]


def _nothing() -> Order:
    return Order(np.zeros(0, np.int32), np.zeros(0, np.int32))
