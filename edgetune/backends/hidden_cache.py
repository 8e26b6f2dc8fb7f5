"""What the frozen layers said of each row, kept so that they are asked once.

    row's tokens ──hash──→ in memory? ──→ in the file? ──→ computed, and kept while there is room

Rows lie end to end without padding, as in a batch. A row is known by its tokens, not by its number, so
training and evaluation rows share one cache, and equal texts one place. In fp16 every row is rounded,
kept or not. (A row that fp16 cannot hold stays in fp32 and is computed every time.)

What a layer gives of a row depends, in the last bit, on the rows that it is computed with. So the cache knows
which rows were computed together, and a run that goes on after a break computes the same ones together again,
when one of them is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgetune.backends.hidden_store import FileStore, HiddenStore, MemoryStore
from edgetune.data.batches import Batch, TokenSource, join
from edgetune.utils.types import BoolArray, FloatArray

FP16_MAX = 65504.0
MB = 1_000_000
SPILL_RATE = 0.02  # of the room: rows that fit it, but not the rest of any chunk
KEY_BYTES = 16
LOOKED_THROUGH = 1024  # rows at a time

Compute = Callable[[Batch, int], FloatArray]
"""Gives the hidden states (b, T, D) of some rows, padded to T columns."""


@dataclass(frozen=True)
class CachedRows:
    """Rows that were computed together.

    Attributes:
        keys: of the rows, in order.
        width: columns that they were padded to.
    """

    keys: tuple[bytes, ...]
    width: int


class HiddenCache:
    """Keeps hidden states of one model's frozen layers: first in memory, then in a file, then not at all.

    Attributes:
        n_hits: rows that were there.
        n_misses: rows that had to be computed.
    """

    def __init__(
        self,
        memory_mb: float,
        file_mb: float,
        folder: Path | None,
        dtype: Literal["fp16", "fp32"] = "fp16",
    ) -> None:
        """Make an empty cache; nothing is allocated before it is needed.

        Args:
            memory_mb: room in memory (MB, 10^6 bytes).
            file_mb: room in the file.
            folder: where the file goes, which has no name and is gone when closed (None: no file).
            dtype: how numbers are kept.
        """
        self._dtype = np.dtype(np.float16 if dtype == "fp16" else np.float32)
        self._memory = MemoryStore(int(memory_mb * MB))
        self._file = FileStore(0 if folder is None else int(file_mb * MB), folder)
        self._room = int((memory_mb + (0 if folder is None else file_mb)) * MB)
        self._spill = MemoryStore(int(SPILL_RATE * self._room))
        self._n_bytes = 0
        self._kept: dict[bytes, FloatArray | None] = {}  # None: it was kept before a break
        self._groups: list[CachedRows] = []
        self._group_of: dict[bytes, int] = {}
        self._find: Callable[[Sequence[bytes]], Batch] | None = None
        self.n_hits = 0
        self.n_misses = 0

    def __len__(self) -> int:
        """How many rows are kept."""
        return len(self._kept)

    @property
    def memory_mb_used(self) -> float:
        """Size of the rows in memory (MB, 10^6 bytes)."""
        return (self._memory.n_bytes + self._spill.n_bytes) / MB

    @property
    def file_mb_used(self) -> float:
        """Size of the rows in the file (MB, 10^6 bytes)."""
        return self._file.n_bytes / MB

    def hidden(self, batch: Batch, width: int, compute: Compute, *, keep: bool = True) -> FloatArray:
        """Return the hidden states of a batch.

        Args:
            batch: B rows.
            width: columns T of the result, at least the longest row.
            compute: asked for rows that are not kept.
            keep: whether new rows may be kept.

        Returns:
            Float32 (B, T, D); zero where a row has no token.
        """
        keys = row_keys(batch)
        if self._find is not None:
            self._compute_again(keys, compute)
        found = [self._kept.get(key) for key in keys]
        missing = np.array([row is None for row in found], dtype=np.bool_)
        n_missing = int(missing.sum())
        self.n_hits += len(batch) - n_missing
        self.n_misses += n_missing
        if n_missing == 0:
            assert found[0] is not None
            result = np.zeros((len(batch), width, found[0].shape[1]), dtype=np.float32)
        else:
            result = self._compute(batch, width, compute, missing, keys if keep else None)
        n_read = 0
        for place, row in enumerate(found):
            if row is not None:
                result[place, : len(row)] = row
                n_read += row.nbytes
        self._file.release_after(n_read)
        return result

    def _compute(
        self,
        batch: Batch,
        width: int,
        compute: Compute,
        missing: BoolArray,
        keys: list[bytes] | None,
    ) -> FloatArray:
        """Compute the missing rows (and keep them, given keys); the other rows (of B) are left zero."""
        fresh = compute(batch.take(missing), width)
        result = np.zeros((len(batch), width, fresh.shape[2]), dtype=np.float32)
        n_groups = len(self._groups)
        for place, row in zip(np.flatnonzero(missing), fresh, strict=True):
            length = int(batch.offsets[place + 1] - batch.offsets[place])
            rounded = self._rounded(row[:length])
            result[place, :length] = rounded
            if keys is None or rounded.dtype != self._dtype or keys[place] in self._kept:
                continue
            if self._n_bytes + rounded.nbytes <= self._room and (kept := self._put(rounded)) is not None:
                self._n_bytes += rounded.nbytes
                self._kept[keys[place]] = kept
                self._group_of[keys[place]] = n_groups
        if keys is not None and any(self._group_of.get(key) == n_groups for key in keys):
            self._groups.append(CachedRows(tuple(keys[place] for place in np.flatnonzero(missing)), width))
        return result

    def _rounded(self, row: FloatArray) -> FloatArray:
        """Return a row (L, D) as it is kept; in fp32 where fp16 cannot hold it."""
        fits = self._dtype == np.float32 or float(np.abs(row).max()) <= FP16_MAX
        return row.astype(self._dtype) if fits else row

    def _put(self, row: FloatArray) -> FloatArray | None:
        """Put a row into memory, the file, or what is left between the chunks' ends."""
        rooms: tuple[HiddenStore, ...] = (self._memory, self._file)
        for room in rooms:
            if (kept := room.put(row)) is not None:
                return kept
        return None if self._file.failed else self._spill.put(row)

    def state(self) -> dict[str, Any]:
        """Return which rows are kept and which were computed together: 17 bytes a row, no hidden states."""
        keys = [key for group in self._groups for key in group.keys]
        numbers = [number for number, group in enumerate(self._groups) for _ in group.keys]
        kept = [self._group_of.get(key) == number for key, number in zip(keys, numbers, strict=True)]
        return {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
            "sizes": np.array([len(group.keys) for group in self._groups], dtype=np.int32),
            "widths": np.array([group.width for group in self._groups], dtype=np.int32),
            "kept": np.array(kept, dtype=np.bool_),
            "n_bytes": self._n_bytes,
            "n_hits": self.n_hits,
            "n_misses": self.n_misses,
        }

    def load_state(self, state: dict[str, Any], sources: Sequence[TokenSource]) -> None:
        """Keep exactly the rows that were kept where `state()` was taken; they are computed when asked for.

        Args:
            state: of a cache with the same room, for the same model.
            sources: which have them.
        """
        content = state["keys"].tobytes()
        keys = [content[at : at + KEY_BYTES] for at in range(0, len(content), KEY_BYTES)]
        ends = np.cumsum(state["sizes"]).tolist()
        begins = [0, *ends][:-1]
        self._groups = [
            CachedRows(tuple(keys[begin:end]), int(width))
            for begin, end, width in zip(begins, ends, state["widths"], strict=True)
        ]
        numbers = np.repeat(np.arange(len(self._groups)), state["sizes"]).tolist()
        for key, number, kept in zip(keys, numbers, state["kept"].tolist(), strict=True):
            if kept:
                self._kept[key], self._group_of[key] = None, number
        self._n_bytes, self.n_hits, self.n_misses = state["n_bytes"], state["n_hits"], state["n_misses"]
        self._find = RowFinder(sources, keys)

    def _compute_again(self, keys: Sequence[bytes], compute: Compute) -> None:
        """Compute the groups of those rows that were kept before a break, each as it was computed then."""
        assert self._find is not None
        lost = {self._group_of[key] for key in keys if key in self._kept and self._kept[key] is None}
        for number in sorted(lost):
            group = self._groups[number]
            batch = self._find(group.keys)
            fresh = compute(batch, group.width)
            for key, row, length in zip(group.keys, fresh, batch.lengths.tolist(), strict=True):
                if self._group_of.get(key) == number and self._kept[key] is None:
                    rounded = self._rounded(row[:length])
                    kept = self._put(rounded)
                    self._kept[key] = np.array(rounded) if kept is None else kept

    def close(self) -> None:
        """Forget every row and give memory and file back."""
        self._kept.clear()
        self._groups.clear()
        self._group_of.clear()
        self._memory = self._spill = MemoryStore(0)
        self._file.close()


def row_keys(batch: Batch) -> list[bytes]:
    """Return 16 bytes for each of B rows that depend on its tokens and where its second text starts."""
    lengths = batch.lengths
    starts = batch.offsets[:-1] + np.arange(len(batch))
    content = np.empty(len(batch.tokens) + len(batch), dtype="<i4")
    is_token = np.ones(len(content), dtype=np.bool_)
    is_token[starts] = False
    content[is_token] = batch.tokens
    content[starts] = np.minimum(batch.first_lengths, lengths)
    view = content.view(np.uint8).data
    begins, ends = (4 * starts).tolist(), (4 * (starts + lengths + 1)).tolist()
    return [
        hashlib.blake2b(view[begin:end], digest_size=16).digest()
        for begin, end in zip(begins, ends, strict=True)
    ]


class RowFinder:
    """Finds rows by what the cache knows them by."""

    def __init__(self, sources: Sequence[TokenSource], wanted: Iterable[bytes]) -> None:
        """Look through all rows of some sources once, remembering where the wanted ones are."""
        self._sources, missing = sources, set(wanted)
        self._places: dict[bytes, tuple[int, int]] = {}
        for number, source in enumerate(sources):
            for start in range(0, len(source.labels) if missing else 0, LOOKED_THROUGH):
                rows = np.arange(start, min(start + LOOKED_THROUGH, len(source.labels)))
                for row, key in zip(rows.tolist(), row_keys(source.batch(rows)), strict=True):
                    if key in missing:
                        missing.discard(key)
                        self._places[key] = number, row

    def __call__(self, keys: Sequence[bytes]) -> Batch:
        """Return the rows (B,) with these keys."""
        places = [self._places[key] for key in keys]
        return join([self._sources[number].batch(np.array([row])) for number, row in places])
