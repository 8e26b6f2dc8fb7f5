"""What the frozen layers said of each row, kept so that they are asked once.

    row's tokens ──hash──→ in memory? ──→ in the file? ──→ computed, and kept while there is room

Rows lie end to end without padding, as in a batch. A row is known by its tokens, not by its number, so
training and evaluation rows share one cache, and equal texts one place. In fp16 every row is rounded,
kept or not: what comes out of the cache never depends on what is in it. (A row that fp16 cannot hold
stays in fp32 and is computed every time.)
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np

from edgetune.batching import Batch
from edgetune.types import BoolArray, FloatArray

CHUNK_BYTES = 16_000_000
RELEASE_BYTES = 64_000_000  # file pages are let go after so many were read
FP16_MAX = 65504.0
MB = 1_000_000


class PrefixCache:
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
        self._memory = _Memory(int(memory_mb * MB))
        self._file = _File(0 if folder is None else int(file_mb * MB), folder)
        self._kept: dict[bytes, FloatArray] = {}
        self.n_hits = 0
        self.n_misses = 0

    def __len__(self) -> int:
        """How many rows are kept."""
        return len(self._kept)

    @property
    def memory_mb_used(self) -> float:
        """Size of the rows in memory (MB, 10^6 bytes)."""
        return self._memory.n_bytes / MB

    @property
    def file_mb_used(self) -> float:
        """Size of the rows in the file (MB, 10^6 bytes)."""
        return self._file.n_bytes / MB

    def hidden(
        self, batch: Batch, width: int, compute: Callable[[Batch], FloatArray], *, keep: bool = True
    ) -> FloatArray:
        """Return the hidden states of a batch.

        Args:
            batch: B rows.
            width: columns T of the result, at least the longest row.
            compute: gives the hidden states (b, T, D) of some of the rows, padded to the same width.
            keep: whether new rows may be kept.

        Returns:
            Float32 (B, T, D); zero where a row has no token.
        """
        keys = row_keys(batch)
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
        compute: Callable[[Batch], FloatArray],
        missing: BoolArray,
        keys: list[bytes] | None,
    ) -> FloatArray:
        """Compute the missing rows (and keep them, given keys); the other rows (of B) are left zero."""
        fresh = compute(batch.take(missing))
        result = np.zeros((len(batch), width, fresh.shape[2]), dtype=np.float32)
        for place, row in zip(np.flatnonzero(missing), fresh, strict=True):
            length = int(batch.offsets[place + 1] - batch.offsets[place])
            real = row[:length]
            fits = self._dtype == np.float32 or float(np.abs(real).max()) <= FP16_MAX
            rounded = real.astype(self._dtype) if fits else real
            result[place, :length] = rounded
            if keys is not None and fits and keys[place] not in self._kept:
                kept = self._memory.put(rounded)
                kept = self._file.put(rounded) if kept is None else kept
                if kept is not None:
                    self._kept[keys[place]] = kept
        return result

    def close(self) -> None:
        """Forget every row and give memory and file back."""
        self._kept.clear()
        self._memory = _Memory(0)
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


class _Room(Protocol):
    """Somewhere rows are put until a limit is reached."""

    n_bytes: int

    def put(self, row: FloatArray) -> FloatArray | None:
        """Keep a row (L, D); return where it lies now, or None when there is no room."""
        ...


class _Memory(_Room):
    """Rows in memory, in chunks, so that the first row does not allocate everything."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._chunk = np.empty(0, dtype=np.uint8)
        self.n_bytes = 0

    def put(self, row: FloatArray) -> FloatArray | None:
        if row.nbytes > len(self._chunk):
            size = min(max(CHUNK_BYTES, row.nbytes), self._left)
            if size < row.nbytes:
                return None
            self._chunk = np.empty(size, dtype=np.uint8)
            self._left -= size
        taken, self._chunk = self._chunk[: row.nbytes], self._chunk[row.nbytes :]
        kept: FloatArray = taken.view(row.dtype).reshape(row.shape)
        kept[:] = row
        self.n_bytes += row.nbytes
        return kept


class _File(_Room):
    """Rows in a nameless file: written by calls, which can fail in peace, and read through a mapping."""

    def __init__(self, limit: int, folder: Path | None) -> None:
        self._left = limit
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []
        self._chunk = np.empty(0, dtype=np.uint8)
        self._end = 0  # of the last chunk
        self._n_read = 0
        self.n_bytes = 0

    def put(self, row: FloatArray) -> FloatArray | None:
        if self._folder is None or row.nbytes > self._left + len(self._chunk):
            return None
        try:
            if row.nbytes > len(self._chunk) and not self._grow(row.nbytes):
                return None
            assert self._file is not None
            self._file.seek(self._end - len(self._chunk))
            if self._file.write(np.ascontiguousarray(row).data.cast("B")) != row.nbytes:
                raise OSError
        except (OSError, ValueError):  # no space, no permission, no mapping: the same as no room
            self._left, self._chunk = 0, self._chunk[:0]
            return None
        taken, self._chunk = self._chunk[: row.nbytes], self._chunk[row.nbytes :]
        self.n_bytes += row.nbytes
        kept: FloatArray = taken.view(row.dtype).reshape(row.shape)
        return kept

    def _grow(self, needed: int) -> bool:
        """Map a further chunk of the file (sparse until it is written); return whether there was room."""
        step = mmap.ALLOCATIONGRANULARITY
        size = min(-(-max(CHUNK_BYTES, needed) // step) * step, self._left // step * step)
        if size < needed:
            return False
        if self._file is None:
            assert self._folder is not None
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        self._file.truncate(self._end + size)
        found = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ, offset=self._end)
        self._maps.append(found)
        self._chunk = np.frombuffer(found, dtype=np.uint8)
        self._end += size
        self._left -= size
        return True

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
        self._chunk = np.empty(0, dtype=np.uint8)
        for found in self._maps:
            with contextlib.suppress(BufferError):  # a row is still in somebody's hands; it goes with it
                found.close()
        self._maps.clear()
        self._left = 0
        if self._file is not None:
            self._file.close()
            self._file = None
