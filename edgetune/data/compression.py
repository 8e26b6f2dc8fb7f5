"""Compressed files as streams of bytes that cannot become bombs.

.gz .bz2 .xz .zst ─→ a stream whose errors are `OSError`, in bounded memory ─→ `Unpacked` counts what comes
out, and refuses a file out of which far too much comes
"""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from edgetune.utils import limits
from edgetune.utils.errors import DataError, MissingDependencyError

BLOCK_BYTES = 1 << 16
FEW_BYTES = 1 << 10  # of Zstandard at once: 4 bytes can unpack to 128 KiB
KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
"""What a compressed file is called, by its extension."""


class ByteStream(Protocol):
    """Bytes that are read from the front."""

    def read(self, size: int, /) -> bytes: ...


class Unpacked:
    """Counts what comes out of a file, and refuses too much of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n_packed = path.stat().st_size
        self._n_unpacked = 0

    def add(self, n_bytes: int) -> None:
        """Count bytes.

        Raises:
            DataError: no honest file holds so much in so little.
        """
        self._n_unpacked += n_bytes
        self.check(self._n_unpacked)

    def check(self, n_bytes: int) -> None:
        """Refuse a file that holds so many bytes, or says so.

        Raises:
            DataError: no honest file holds so much in so little.
        """
        if n_bytes > limits.MAX_UNPACKED_BYTES:
            raise DataError(
                f"{self._path} is larger than {limits.MAX_UNPACKED_BYTES / 1e9:,.0f} GB when decompressed; "
                "split it into smaller files."
            )
        most = max(limits.UNPACKED_FREE_BYTES, limits.MAX_UNPACKED_RATE * self._n_packed)
        if n_bytes > most:
            raise DataError(
                f"{self._path} ({self._n_packed:,} bytes) decompresses to more than "
                f"{limits.MAX_UNPACKED_RATE} times its size, which text does not do. If you trust the file, "
                "decompress it yourself and pass the decompressed file."
            )


class _Counted:
    """A stream whose bytes are counted."""

    def __init__(self, stream: ByteStream, unpacked: Unpacked) -> None:
        self._stream, self._unpacked = stream, unpacked

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._unpacked.add(len(data))
        return data


class _Xz:
    """An .xz file as a stream; `lzma.open` would not bound its memory."""

    def __init__(self, raw: IO[bytes], lzma: Any) -> None:
        self._raw, self._lzma = raw, lzma
        self._start()

    def _start(self) -> None:
        self._unpacker = self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, limits.MAX_WINDOW_BYTES)

    def read(self, size: int) -> bytes:
        while True:
            packed = b""
            if self._unpacker.eof:  # another stream may follow, after zero bytes
                packed = self._unpacker.unused_data.lstrip(b"\0")
                packed = packed or self._raw.read(BLOCK_BYTES).lstrip(b"\0")
                if not packed:
                    return b""
                self._start()
            elif self._unpacker.needs_input and not (packed := self._raw.read(BLOCK_BYTES)):
                raise EOFError("unexpected end of file")
            if data := self._unpacker.decompress(packed, size):
                return bytes(data)


class _Zstd:
    """A .zst file as a stream; zstandard's own takes a file that was cut off for a whole one."""

    def __init__(self, raw: IO[bytes], unpacker: Any) -> None:
        self._raw, self._unpacker = raw, unpacker
        self._frame = unpacker.decompressobj()
        self._ready = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._ready:
            if self._frame.eof:  # another frame may follow
                packed = self._frame.unused_data or self._raw.read(FEW_BYTES)
                if not packed:
                    return b""
                self._frame = self._unpacker.decompressobj()
            elif not (packed := self._raw.read(FEW_BYTES)):
                raise EOFError("unexpected end of file")
            self._ready = memoryview(self._frame.decompress(packed))
        data, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return data


def _module(name: str, path: Path, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"Reading {path.name} requires {package}.") from error


def _gzip(path: Path, raw: IO[bytes]) -> tuple[ByteStream, type[Exception]]:
    import zlib

    return gzip.GzipFile(fileobj=raw), zlib.error


def _bz2(path: Path, raw: IO[bytes]) -> tuple[ByteStream, type[Exception]]:
    return _module("bz2", path, "a Python that was built with bz2").open(raw), EOFError


def _xz(path: Path, raw: IO[bytes]) -> tuple[ByteStream, type[Exception]]:
    lzma = _module("lzma", path, "a Python that was built with lzma")
    return _Xz(raw, lzma), lzma.LZMAError


def _zstd(path: Path, raw: IO[bytes]) -> tuple[ByteStream, type[Exception]]:
    zstandard = _module("zstandard", path, "zstandard; install it with `pip install zstandard`")
    unpacker = zstandard.ZstdDecompressor(max_window_size=limits.MAX_WINDOW_BYTES)
    return _Zstd(raw, unpacker), zstandard.ZstdError


_OPENERS: dict[str, Callable[[Path, IO[bytes]], tuple[ByteStream, type[Exception]]]] = {
    ".gz": _gzip,
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": _zstd,
}


@contextmanager
def unpacking(path: Path, kind: str) -> Iterator[ByteStream]:
    """Open a compressed file; `kind` is one of `KINDS`.

    Raises:
        DataError: it is a bomb.
        OSError: it cannot be read, or is damaged.
        MissingDependencyError: what unpacks it is not installed.
    """
    with path.open("rb") as raw:
        stream, its_error = _OPENERS[kind](path, raw)
        try:
            yield _Counted(stream, Unpacked(path))
        except (its_error, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
                raise
            raise OSError(f"it is damaged or not a {KINDS[kind]} file ({error})") from error
