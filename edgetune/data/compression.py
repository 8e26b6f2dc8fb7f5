"""Reads compressed files (.gz, .bz2, .xz, .zst) in blocks, with a limit on their decompressed size."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgetune.utils import limits
from edgetune.utils.errors import DataError, MissingDependencyError

BLOCK_BYTES = 1 << 18
FEW_BYTES = 1 << 10  # of .xz and .zst at once: 4 bytes of Zstandard can unpack to 128 KiB
KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
"""What a compressed file is called, by its extension."""


class Unpacked:
    """Counts the decompressed bytes of a file, and refuses too many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n_packed = path.stat().st_size
        self._n_unpacked = 0

    def add(self, n_bytes: int) -> None:
        """Count bytes."""
        self._n_unpacked += n_bytes
        if self._n_unpacked > limits.MAX_UNPACKED_BYTES:
            raise DataError(
                f"{self._path} is larger than {limits.MAX_UNPACKED_BYTES / 1e9:,.0f} GB when decompressed; "
                "split it into smaller files."
            )
        if self._n_unpacked > max(limits.UNPACKED_FREE_BYTES, limits.MAX_UNPACKED_RATE * self._n_packed):
            raise DataError(
                f"{self._path} ({self._n_packed:,} bytes) decompresses to more than "
                f"{limits.MAX_UNPACKED_RATE} times its size, which text does not do. If you trust the file, "
                "decompress it yourself and pass the decompressed file."
            )


def byte_blocks(path: Path, kind: str) -> Iterator[bytes]:
    """Yield the content of a file in blocks.

    Args:
        path: the file.
        kind: one of `KINDS`; "" for a file that is not compressed.

    Raises:
        DataError: it decompresses to more than the limits allow.
        OSError: it cannot be read, or is damaged.
    """
    with path.open("rb") as raw:
        if not kind:
            yield from _blocks(raw)
            return
        unpacked = Unpacked(path)
        try:
            for block in _unpackers[kind](raw):
                unpacked.add(len(block))
                yield block
        except ImportError as error:
            raise MissingDependencyError(
                f"Reading {path.name} requires the Python module {error.name}."
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
                raise
            raise OSError(f"it is damaged or not a {KINDS[kind]} file ({error})") from error


def _blocks(file: Any) -> Iterator[bytes]:
    return iter(partial(file.read, BLOCK_BYTES), b"")


def _bz2(raw: IO[bytes]) -> Iterator[bytes]:
    import bz2

    return _blocks(bz2.open(raw))


def _xz(raw: IO[bytes]) -> Iterator[bytes]:
    import lzma

    start = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, limits.MAX_WINDOW_BYTES)
    return _frames(start, lzma.LZMAError, raw)


def _zstd(raw: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=limits.MAX_WINDOW_BYTES)
    return _frames(unpacker.decompressobj, zstandard.ZstdError, raw)


def _frames(start: Callable[[], Any], its_error: type[Exception], raw: IO[bytes]) -> Iterator[bytes]:
    """Unpack frames that follow each other, with zero bytes in between.

    `lzma.open` does not bound its memory, and zstandard's own reader accepts a truncated file.
    """
    frame, block = start(), bytearray()
    while True:
        packed = frame.unused_data or raw.read(FEW_BYTES)
        if frame.eof:
            packed = packed.lstrip(b"\0") or raw.read(FEW_BYTES).lstrip(b"\0")
            if not packed:
                break
            frame = start()
        elif not packed:
            raise EOFError("unexpected end of file")
        try:
            block += frame.decompress(packed)
        except its_error as error:
            raise OSError(str(error)) from error
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


_unpackers: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": lambda raw: _blocks(gzip.GzipFile(fileobj=raw)),
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": _zstd,
}
