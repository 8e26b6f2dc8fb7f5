"""The stream of training rows: pass after pass, shuffled, in batches of nearly one length."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from edgetune.batching import Batch, TokenSource, epoch_order
from edgetune.types import IntArray

RELEASE_EVERY = 8  # batches between two calls that let the system drop token pages


class Source(TokenSource, Protocol):
    """Training rows."""

    def __len__(self) -> int: ...

    def release(self) -> None: ...

    def numbered(self, rows: IntArray) -> Batch:
        """Copy rows, (B,) given by the numbers that batches have them under."""
        ...


class Stream:
    """What is left of a pass over the rows, and the generator that draws the next."""

    def __init__(self, source: Source, batch_size: int, rng: np.random.Generator) -> None:
        """Stand before the first pass."""
        self._source, self._batch_size, self._rng = source, batch_size, rng
        self._left: deque[IntArray] = deque()

    def __len__(self) -> int:
        """Batches left of the pass."""
        return len(self._left)

    def begin(self) -> None:
        """Draw the order of a pass."""
        self._left = deque(self._drawn())

    def next(self) -> Batch:
        """Copy the next batch of the pass."""
        if len(self._left) % RELEASE_EVERY == 0:
            self._source.release()
        return self._source.batch(self._left.popleft())

    def draw_rest_anew(self) -> None:
        """Draw as many rows as are left of the pass from all of them."""
        n_left = sum(map(len, self._left))
        self._left = deque(_first_rows(self._drawn(), n_left))

    def _drawn(self) -> list[IntArray]:
        return epoch_order(self._source.lengths, self._batch_size, self._rng)

    def state(self) -> dict[str, Any]:
        """Return what is left, and the generator."""
        return {
            "left": np.concatenate([*self._left, np.zeros(0, np.int32)]).astype(np.int32),
            "sizes": np.array([len(rows) for rows in self._left], dtype=np.int32),
            "rng": self._rng.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state()` was taken."""
        self._left = deque(np.split(state["left"], np.cumsum(state["sizes"]))[:-1])
        self._rng.bit_generator.state = state["rng"]


def _first_rows(order: Sequence[IntArray], n_rows: int) -> list[IntArray]:
    """Return the batches that hold the first rows of an order, the last one cut where it has more."""
    ends = np.cumsum([len(rows) for rows in order])
    last = int(np.searchsorted(ends, n_rows))
    whole = [rows for rows in order[:last] if len(rows)]
    rest = n_rows - int(ends[last - 1]) if last else n_rows
    return [*whole, order[last][:rest]] if rest and last < len(order) else whole
