"""Where the prefix cache puts its rows: chunks of memory, then a nameless file that is mapped."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from edgetune.utils.cache import private_folder
from edgetune.utils.types import FloatArray

CHUNK_BYTES = 16_000_000
RELEASE_BYTES = 64_000_000  # file pages are let go after so many were read


class HiddenStore(Protocol):
    """Somewhere rows are put until a limit is reached."""

    n_bytes: int

    def put(self, row: FloatArray) -> FloatArray | None:
        """Keep a row (L, D); return where it lies now, or None when there is no room."""
        ...


class MemoryStore(HiddenStore):
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


class FileStore(HiddenStore):
    """Rows in a nameless file: written by calls, which can fail in peace, and read through a mapping."""

    def __init__(self, limit: int, folder: Path | None) -> None:
        self._left = limit
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []
        self._chunk = np.empty(0, dtype=np.uint8)
        self._end = 0  # of the last chunk
        self.failed = False
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
            self._left, self._chunk, self.failed = 0, self._chunk[:0], True
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
            private_folder(self._folder)
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
