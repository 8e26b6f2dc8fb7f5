"""Examples as arrays: the batch, length buckets, the order of a pass, and passes as a stream.

Rows stay end to end, without padding, until a model asks for `padded`.

    store ─→ stream (one epoch, shuffled, of one length bucket each) ─→ Batch ─→ queue ─→ full Batch
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from edgetune.utils.types import BoolArray, IntArray, Labels

PAD_MULTIPLE = 8
_PART_ROWS = 1 << 14  # rows that are grouped at a time
RELEASE_EVERY = 8  # batches between two calls that let the system drop token pages


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples whose tokens lie end to end; padding happens only when a model needs it.

    Attributes:
        rows: (B,) row numbers in the token store.
        labels: (B,) class ids, or (B, C) float32 multi-hot where a row may have several labels.
        tokens: (N,) token ids of all B rows, end to end, special tokens included.
        offsets: (B + 1,) where each row's tokens start in `tokens`.
        first_lengths: (B,) how many leading tokens belong to the first text (token type 0).
        scored: (B,) whether the loss of the example was already observed by the selector.
    """

    rows: IntArray
    labels: Labels
    tokens: IntArray
    offsets: IntArray
    first_lengths: IntArray
    scored: BoolArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> IntArray:
        """(B,) tokens per row."""
        return np.diff(self.offsets)

    @property
    def width(self) -> int:
        """Tokens of a row when padded, those of the longest one's bucket."""
        return int(bucket_of(self.lengths).max(initial=1)) * PAD_MULTIPLE

    def take(self, chosen: IntArray | BoolArray) -> Batch:
        """Return the chosen examples, in the order given (indices) or kept (mask)."""
        if chosen.dtype == np.bool_ and len(chosen) == len(self) and chosen.all():
            return self
        index = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        lengths = self.lengths[index]
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        # Where each taken token lay: its place in the result, moved by how far its row moves.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return self._with(index, self.tokens[places], offsets)

    def cut(self, start: int, stop: int) -> Batch:
        """Return the rows from `start` to before `stop`, without copying them."""
        if stop - start == len(self):
            return self
        begin, end = self.offsets[start], self.offsets[stop]
        return self._with(slice(start, stop), self.tokens[begin:end], self.offsets[start : stop + 1] - begin)

    def _with(self, chosen: IntArray | BoolArray | slice, tokens: IntArray, offsets: IntArray) -> Batch:
        first_lengths, scored = self.first_lengths[chosen], self.scored[chosen]
        return Batch(self.rows[chosen], self.labels[chosen], tokens, offsets, first_lengths, scored)

    def mark_scored(self, scored: BoolArray | None = None) -> Batch:
        """Return the same examples, marked as scored: all of them, or those where `scored` (B,) is true."""
        marked = np.ones(len(self), dtype=np.bool_) if scored is None else scored
        return replace(self, scored=marked)

    def padded(self, pad_id: int, multiple: int = PAD_MULTIPLE, width: int = 0) -> dict[str, IntArray]:
        """Lay the rows out as a model wants them.

        Args:
            pad_id: token id that fills the rest of a row.
            multiple: the width is the longest row rounded up to this.
            width: at least this many columns (0: no minimum).

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, each int64 (B, T).
        """
        lengths = self.lengths
        longest = max(int(lengths.max(initial=1)), width)
        columns = np.arange(-(-longest // multiple) * multiple)
        real = columns < lengths[:, None]
        input_ids = np.full(real.shape, pad_id, dtype=np.int64)
        input_ids[real] = self.tokens
        second = real & (columns >= self.first_lengths[:, None])
        return {
            "input_ids": input_ids,
            "attention_mask": real.astype(np.int64),
            "token_type_ids": second.astype(np.int64),
        }


def rows_at_once(n_rows: int, width: int, most_tokens: int | None) -> int:
    """Return how many rows of `width` tokens have at most `most_tokens` (None: all of them), at least one."""
    return n_rows if most_tokens is None else min(n_rows, max(1, most_tokens // width))


def join(batches: Sequence[Batch]) -> Batch:
    """Concatenate one or more batches."""
    if len(batches) == 1:
        return batches[0]
    lengths = np.concatenate([batch.lengths for batch in batches])
    return Batch(
        rows=np.concatenate([batch.rows for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
        tokens=np.concatenate([batch.tokens for batch in batches]),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        first_lengths=np.concatenate([batch.first_lengths for batch in batches]),
        scored=np.concatenate([batch.scored for batch in batches]),
    )


class TokenSource(Protocol):
    """Where batches get their rows: some or all rows of a token store."""

    @property
    def labels(self) -> Labels: ...  # (n,) class ids, or (n, C) multi-hot

    @property
    def lengths(self) -> IntArray: ...  # (n,) tokens per row

    @property
    def n_numbered(self) -> int: ...  # `Batch.rows` are below this

    def __len__(self) -> int: ...
    def batch(self, rows: IntArray) -> Batch: ...  # (B,) by position
    def numbered(self, rows: IntArray) -> Batch: ...  # (B,) by their numbers in `Batch.rows`
    def release(self) -> None: ...


def bucket_of(lengths: IntArray) -> IntArray:
    """Return each row's length bucket: the number of `PAD_MULTIPLE`-wide columns it needs."""
    buckets: IntArray = -(-lengths // PAD_MULTIPLE)
    return buckets


@dataclass(frozen=True, slots=True)
class Order:
    """Batches of row indices, end to end: a million rows take 5 MB, not an array object for every eight.

    Attributes:
        rows: (n,) indices.
        ends: (n_batches,) where each batch ends in `rows`.
    """

    rows: IntArray
    ends: IntArray

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, at: int) -> IntArray:
        """Return the indices of one batch."""
        end = self.ends[at]  # an IndexError ends an iteration
        return self.rows[self.begin(at) : end]

    def begin(self, at: int) -> int:
        """Return where a batch begins in `rows`; for the batch after the last one, the number of rows."""
        return int(self.ends[at - 1]) if at else 0

    def cut(self, n_rows: int) -> Order:
        """Return the batches of the first `n_rows` rows; the last batch is cut if necessary."""
        return Order(
            self.rows[:n_rows], np.unique(np.minimum(self.ends, n_rows)) if n_rows else self.ends[:0]
        )


def epoch_order(lengths: IntArray, batch_size: int, rng: np.random.Generator) -> Order:
    """Cut one epoch into shuffled batches whose rows are of (nearly) one length.

    Rows are shuffled, then grouped by bucket, then cut; only a bucket's last rows share a batch with the next
    bucket's first, so all batches but the one with the longest rows have `batch_size` rows. `rng` decides
    both the order within a bucket and the order of batches.
    """
    n_rows, n_batches = len(lengths), -(-len(lengths) // batch_size)
    shuffled = _own_pages(n_rows)
    for part in _parts(n_rows):
        shuffled[part] = np.arange(part.start, min(part.stop, n_rows))
    rng.shuffle(shuffled)
    drawn = rng.permutation(n_batches)
    sizes = np.full(n_batches, batch_size, dtype=np.int32)
    sizes[drawn == n_batches - 1] = n_rows - (n_batches - 1) * batch_size
    ends = np.cumsum(sizes, dtype=np.int32)  # where the k-th drawn ends
    starts = np.empty_like(ends)  # where each starts, by its number before the draw
    starts[drawn] = ends - sizes
    rows = _own_pages(n_rows)
    for members, places in _grouped(lengths, shuffled):
        rows[starts[places // batch_size] + places % batch_size] = members
    return Order(rows, ends)


def _grouped(lengths: IntArray, shuffled: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield rows, a part at a time, and their places in the order that has them grouped by bucket."""
    parts = _parts(len(lengths))
    counts = np.zeros(int(bucket_of(lengths.max(initial=0))) + 1, dtype=np.int64)
    for part in parts:
        counts += np.bincount(bucket_of(lengths[part]), minlength=len(counts))
    free = np.cumsum(counts) - counts  # the place of the next row of each bucket
    for part in parts:
        buckets = bucket_of(lengths[shuffled[part]])
        for bucket in np.unique(buckets):
            members = shuffled[part][buckets == bucket]
            yield members, np.arange(free[bucket], free[bucket] + len(members))
            free[bucket] += len(members)


def _parts(n_rows: int) -> list[slice]:
    return [slice(at, at + _PART_ROWS) for at in range(0, n_rows, _PART_ROWS)]


def _own_pages(n: int) -> IntArray:
    """Return an array of n int32 whose memory returns to the system when it is freed, unlike with malloc."""
    if not n:
        return np.zeros(0, dtype=np.int32)
    room: IntArray = np.frombuffer(mmap.mmap(-1, 4 * n), dtype=np.int32)
    return room


def sequential_batches(source: TokenSource, batch_size: int) -> Iterator[Batch]:
    """Yield every row once, shortest first, in batches of nearly one length (for evaluation)."""
    order = np.argsort(source.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield source.batch(order[start : start + batch_size])


_NOTHING = Order(np.zeros(0, np.int32), np.zeros(0, np.int32))


class RowStream:
    """The rest of a pass over training rows, shuffled, and the generator that draws the next pass."""

    def __init__(self, source: TokenSource, batch_size: int, rng: np.random.Generator) -> None:
        """Start before the first pass."""
        self._source, self._batch_size, self._rng = source, batch_size, rng
        self._order, self._at = _NOTHING, 0

    def __len__(self) -> int:
        """Batches left of the pass."""
        return len(self._order) - self._at

    def begin(self) -> None:
        """Draw the order of a pass."""
        self._order, self._at = _NOTHING, 0  # the old order makes room for the new
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
