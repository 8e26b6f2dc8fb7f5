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

import contextlib
import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from edgetune.data.batches import Batch, TokenSource, join
from edgetune.utils.cache import private_folder
from edgetune.utils.types import FloatArray

FP16_MAX = 65504.0
MB = 1_000_000
SPILL_RATE = 0.02  # of the room: rows that fit it, but not the rest of any chunk
KEY_BYTES = 16
LOOKED_THROUGH = 1024  # rows at a time
CHUNK_BYTES = 16_000_000
RELEASE_BYTES = 64_000_000  # file pages are let go after so many were read

Compute = Callable[[Batch, int], FloatArray]
"""Gives the hidden states (b, T, D) of some rows, padded to T columns."""


class CachedRows(NamedTuple):
    """Keys, in order, of rows that were computed together, and the columns that they were padded to."""

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
        file_mb = 0 if folder is None else file_mb
        self._file = FileStore(int(file_mb * MB), folder)
        self._room = int((memory_mb + file_mb) * MB)
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
        kept = [self._kept.get(key) for key in keys]
        missing = np.array([row is None for row in kept], dtype=np.bool_)
        n_missing = int(missing.sum())
        self.n_hits += len(batch) - n_missing
        self.n_misses += n_missing
        fresh: list[FloatArray] = []
        if n_missing:
            lengths = batch.lengths[missing]
            states = compute(batch.take(missing), width)
            fresh = [self._rounded(row[:length]) for row, length in zip(states, lengths, strict=True)]
            del states  # it takes as much memory as the result
            if keep:
                self._keep([key for key, row in zip(keys, kept, strict=True) if row is None], fresh, width)
        remaining = iter(fresh)
        rows = [next(remaining) if row is None else row for row in kept]
        result = np.zeros((len(batch), width, rows[0].shape[1]), dtype=np.float32)
        for place, row in enumerate(rows):
            result[place, : len(row)] = row
        self._file.release_after(sum(row.nbytes for row in kept if row is not None))
        return result

    def _keep(self, keys: list[bytes], rows: list[FloatArray], width: int) -> None:
        """Keep rows that were computed together, while there is room."""
        group = len(self._groups)
        for key, row in zip(keys, rows, strict=True):
            fits = row.dtype == self._dtype and self._n_bytes + row.nbytes <= self._room
            if key not in self._kept and fits and (kept := self._put(row)) is not None:
                self._n_bytes += row.nbytes
                self._kept[key], self._group_of[key] = kept, group
        if any(self._group_of.get(key) == group for key in keys):
            self._groups.append(CachedRows(tuple(keys), width))

    def _rounded(self, row: FloatArray) -> FloatArray:
        """Return a row (L, D) as it is kept; in fp32 where fp16 cannot hold it."""
        fits = self._dtype == np.float32 or float(np.abs(row).max()) <= FP16_MAX
        return row.astype(self._dtype) if fits else row

    def _put(self, row: FloatArray) -> FloatArray | None:
        """Put a row into memory, the file, or what is left between the chunks' ends."""
        kept = self._memory.put(row)
        if kept is None:
            kept = self._file.put(row)
        return self._spill.put(row) if kept is None and not self._file.failed else kept

    def state(self) -> dict[str, Any]:
        """Return which rows are kept and which were computed together: 17 bytes a row, no hidden states."""
        keys = [(key, number) for number, group in enumerate(self._groups) for key in group.keys]
        kept = [self._group_of.get(key) == number for key, number in keys]
        return {
            "keys": np.frombuffer(b"".join(key for key, _ in keys), dtype=np.uint8),
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
        remaining, kept = iter(keys), iter(state["kept"].tolist())
        self._groups = []
        for size, width in zip(state["sizes"].tolist(), state["widths"].tolist(), strict=True):
            group = CachedRows(tuple(islice(remaining, size)), width)
            for key in group.keys:
                if next(kept):
                    self._kept[key], self._group_of[key] = None, len(self._groups)
            self._groups.append(group)
        self._n_bytes, self.n_hits, self.n_misses = state["n_bytes"], state["n_hits"], state["n_misses"]
        self._find = row_finder(sources, keys)

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


def row_finder(sources: Sequence[TokenSource], wanted: Iterable[bytes]) -> Callable[[Sequence[bytes]], Batch]:
    """Look through all rows of some sources once; return what gives the wanted rows (B,) with some keys."""
    missing = set(wanted)
    places: dict[bytes, tuple[TokenSource, int]] = {}
    for source in sources:
        for start in range(0, len(source.labels) if missing else 0, LOOKED_THROUGH):
            rows = np.arange(start, min(start + LOOKED_THROUGH, len(source.labels)))
            for row, key in zip(rows.tolist(), row_keys(source.batch(rows)), strict=True):
                if key in missing:
                    missing.discard(key)
                    places[key] = source, row

    def find(keys: Sequence[bytes]) -> Batch:
        return join([source.batch(np.array([row])) for source, row in map(places.__getitem__, keys)])

    return find


class MemoryStore:
    """Rows in memory, in chunks, so that the first row does not allocate everything."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._chunk = np.empty(0, dtype=np.uint8)
        self.n_bytes = 0

    def put(self, row: FloatArray) -> FloatArray | None:
        """Keep a row (L, D); return where it lies now, or None when there is no room."""
        if row.nbytes > len(self._chunk) and not self._grow(row.nbytes):
            return None
        taken, self._chunk = self._chunk[: row.nbytes], self._chunk[row.nbytes :]
        kept: FloatArray = taken.view(row.dtype).reshape(row.shape)
        self._write(row, kept)
        self.n_bytes += row.nbytes
        return kept

    def _grow(self, needed: int) -> bool:
        """Begin another chunk; return whether there was room."""
        size = min(max(CHUNK_BYTES, needed), self._left)
        if size < needed:
            return False
        self._chunk = np.empty(size, dtype=np.uint8)
        self._left -= size
        return True

    def _write(self, row: FloatArray, place: FloatArray) -> None:
        place[:] = row


class FileStore(MemoryStore):
    """Rows in a nameless file: written by calls, which can fail in peace, and read through a mapping."""

    def __init__(self, limit: int, folder: Path | None) -> None:
        super().__init__(limit)
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []
        self._end = 0  # of the last chunk
        self.failed = False
        self._n_read = 0

    def put(self, row: FloatArray) -> FloatArray | None:
        try:
            return super().put(row)
        except (OSError, ValueError):  # no space, no permission, no mapping: the same as no room
            self._left, self._chunk, self.failed = 0, self._chunk[:0], True
            return None

    def _grow(self, needed: int) -> bool:
        """Map a further chunk of the file (sparse until it is written); return whether there was room."""
        step = mmap.ALLOCATIONGRANULARITY
        size = min(-(-max(CHUNK_BYTES, needed) // step) * step, self._left // step * step)
        if size < needed:
            return False
        if self._file is None:
            assert self._folder is not None
            private_folder(self._folder)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._file.truncate(self._end + size)
        found = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ, offset=self._end)
        self._maps.append(found)
        self._chunk = np.frombuffer(found, dtype=np.uint8)
        self._end += size
        self._left -= size
        return True

    def _write(self, row: FloatArray, place: FloatArray) -> None:
        assert self._file is not None
        self._file.seek(self._end - len(self._chunk) - row.nbytes)
        if self._file.write(np.ascontiguousarray(row).data.cast("B")) != row.nbytes:
            raise OSError

    def release_after(self, n_bytes: int) -> None:
        """Count what was read; let the pages go from time to time (they stay in the system's cache)."""
        if not self._maps:
            return
        self._n_read += n_bytes
        advice: Any = getattr(mmap, "MADV_DONTNEED", None)
        if self._n_read >= RELEASE_BYTES and advice is not None:
            for found in self._maps:
                found.madvise(advice)
            self._n_read = 0

    def close(self) -> None:
        """Give the file back; nothing is kept any more."""
        self._chunk = np.empty(0, dtype=np.uint8)
        for found in self._maps:
            with contextlib.suppress(BufferError):  # a row is still in somebody's hands; it goes with it
                found.close()
        self._maps.clear()
        self._left = 0
        if self._file is not None:
            self._file.close()
            self._file = None
