"""Queues of rows that wait for a full batch of one length bucket, or for a decision.

A row's way:
    stream ─→ to_score ─→ (loss) ─→ undecided ─→ to_train ─→ step
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgetune.data.batches import Batch, bucket_of, join
from edgetune.utils.types import FloatArray, IntArray

_MIXED = 0  # the key of rows of several buckets; no row is so short


class BucketQueue:
    """Collects examples by length bucket until a full batch of one bucket can be handed out.

    First in, first out within a bucket. An iteration may stop early: rows that were not handed out stay.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._waiting: dict[int, deque[Batch]] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, batch: Batch) -> None:
        """Take in examples of any mix of lengths."""
        if not len(batch):
            return
        buckets = bucket_of(batch.lengths)
        if (buckets != buckets[0]).any():
            order = buckets.argsort(kind="stable")
            batch, buckets = batch.take(order), buckets[order]
        starts = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(batch)]
        for start, stop in pairwise(starts):
            bucket = int(buckets[start])
            self._waiting.setdefault(bucket, deque()).append(batch.cut(start, stop))
            self._counts[bucket] = self._counts.get(bucket, 0) + stop - start

    def full(self) -> Iterator[Batch]:
        """Hand out full batches of one bucket for as long as there are any."""
        for bucket in sorted(self._counts):
            while self._counts[bucket] >= self._batch_size:
                if len(self._waiting[bucket][0]) != self._batch_size:
                    self._waiting[bucket] = self._cut(self._waiting[bucket])
                self._counts[bucket] -= self._batch_size
                yield self._waiting[bucket].popleft()

    def flush(self) -> Iterator[Batch]:
        """Hand out everything that is left, shortest first, in batches that may mix buckets."""
        left = [part for bucket in sorted(self._waiting) for part in self._waiting[bucket]]
        self._waiting = {_MIXED: self._cut(left)}
        self._counts = {_MIXED: sum(len(part) for part in left)}
        while self._waiting[_MIXED]:
            ready = self._waiting[_MIXED].popleft()
            self._counts[_MIXED] -= len(ready)
            yield ready

    def state(self) -> dict[str, Any]:
        """Return the numbers of the rows that wait, in the order in which each bucket hands them out."""
        parts = [part for bucket in sorted(self._waiting) for part in self._waiting[bucket]]
        return {
            "rows": np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)]),
            "scored": np.concatenate([np.zeros(0, np.bool_), *(part.scored for part in parts)]),
        }

    def load_state(self, state: dict[str, Any], numbered: Callable[[IntArray], Batch]) -> None:
        """Restore a `state()`; `numbered` copies rows given by their numbers."""
        self._waiting, self._counts = {}, {}
        self.add(numbered(state["rows"]).mark_scored(state["scored"]))

    def _cut(self, parts: Sequence[Batch]) -> deque[Batch]:
        """Put the parts end to end and cut them into full batches and a rest."""
        if not parts:
            return deque()
        whole = join(parts)
        starts = range(0, len(whole), self._batch_size)
        return deque(whole.cut(i, min(i + self._batch_size, len(whole))) for i in starts)


class Waiting:
    """Rows that left the stream and have not been trained on yet, in three places.

    Attributes:
        to_score: rows chosen to be scored.
        to_train: rows chosen to be trained on.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.clear()

    def clear(self) -> None:
        """Drop all of them."""
        self.to_score, self.to_train = BucketQueue(self._batch_size), BucketQueue(self._batch_size)
        self._undecided: list[tuple[Batch, FloatArray]] = []

    def __len__(self) -> int:
        return len(self.to_score) + self.n_undecided + len(self.to_train)

    @property
    def n_undecided(self) -> int:
        """Number of rows that were scored but not decided on."""
        return sum(len(batch) for batch, _ in self._undecided)

    def hold(self, batch: Batch, losses: FloatArray) -> None:
        """Keep scored rows and their losses (B,) for a decision."""
        self._undecided.append((batch, losses))

    def undecided(self) -> tuple[Batch, FloatArray] | None:
        """Hand out all rows that wait for a decision, as one batch, and their losses (B,)."""
        if not self._undecided:
            return None
        batches, losses = zip(*self._undecided, strict=True)
        self._undecided = []
        return join(batches), np.concatenate(losses)

    def state(self) -> dict[str, Any]:
        """Return the numbers of the rows in each place, in the order in which they are handed out."""
        return {
            "to_score": self.to_score.state(),
            "to_train": self.to_train.state(),
            "undecided": [{"rows": batch.rows, "losses": losses} for batch, losses in self._undecided],
        }

    def load_state(self, state: dict[str, Any], numbered: Callable[[IntArray], Batch]) -> None:
        """Restore a `state()`; `numbered` copies rows given by their numbers."""
        self.to_score.load_state(state["to_score"], numbered)
        self.to_train.load_state(state["to_train"], numbered)
        self._undecided = [(numbered(part["rows"]), part["losses"]) for part in state["undecided"]]
