"""Files as decoded text, in constant memory: compression, encoding, physical lines, and what is not text.

Compressed files (.gz, .bz2, .xz, .zst) are read in blocks, with a limit on their decompressed size.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgetune.data.encodings import AUTO, advice, likely_encoding, resolve_encoding
from edgetune.utils import limits
from edgetune.utils.errors import DataError, MissingDependencyError
from edgetune.utils.limits import MAX_LINE_CHARS
from edgetune.utils.sanitize import brief

SNIFF_BYTES = 1 << 21  # how much of a file is examined to detect its format
MAX_UNDECODABLE_RATE = 0.2  # of the lines looked at: above this the encoding is wrong, not the rows

_MAGIC = {
    b"PK\x03\x04": "a zip or Excel file; unpack it, or save the sheet as CSV",
    b"PAR1": "a Parquet file; give it the extension .parquet",
    b"ARROW1": "an Arrow file; give it the extension .arrow",
    b"\x1f\x8b": "a gzip file; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; add .zst to its name",
    b"BZh": "a bzip2 file; add .bz2 to its name",
    b"\xfd7zXZ\x00": "an xz file; add .xz to its name",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a rar archive; unpack it",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "an SQLite database",
    b"\x89PNG": "an image",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; save the sheet as CSV",
}
BLOCK_BYTES = 1 << 18
FEW_BYTES = 1 << 10  # of .xz and .zst at once: 4 bytes of Zstandard can unpack to 128 KiB
KINDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
"""What a compressed file is called, by its extension."""

_UNDECODABLE = re.compile("[\udc80-\udcff]")
_WIDE = ("utf-16", "utf-32")


def suffixes_of(path: Path) -> tuple[str, str]:
    """Return the format's extension and the compression's, lower case, each possibly empty."""
    suffix = path.suffix.lower()
    if suffix in KINDS:
        return Path(path.stem).suffix.lower(), suffix
    return suffix, ""


def resolves_inside(path: Path, root: Path) -> Path:
    """Return a path, after checking that it lies in a folder when all links are followed."""
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, real_root]) != real_root:
        shown = [brief(one, 300) for one in (path, root, real)]
        raise DataError(
            f"{shown[0]} points outside {shown[1]}, to {shown[2]}; only files inside a data folder are read. "
            "Copy the file into the folder, or remove the link."
        )
    return path


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn what can go wrong while reading a file into one sentence."""
    try:
        yield
    except UnicodeError as error:
        raise DataError(
            f"{path} cannot be decoded ({error}); specify its encoding with --encoding."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_start(path: Path, size: int = SNIFF_BYTES) -> bytes:
    """Return the first bytes of a file, unpacked."""
    start = bytearray()
    with reading_errors(path):
        for block in byte_blocks(path):
            start += block
            if len(start) >= size:
                break
    return bytes(start[:size])


@dataclass(frozen=True)
class TextFile:
    """A file known to be text.

    Attributes:
        path: the file, possibly compressed.
        encoding: the codec that decodes it.
        start: its decoded first `SNIFF_BYTES`.
        whole: whether `start` is all of it.
        newline: what ends a line; a carriage return before it is dropped.
    """

    path: Path
    encoding: str
    start: str
    whole: bool
    newline: str

    def blocks(self) -> Iterator[str]:
        """Yield the decoded text in pieces; undecodable bytes become lone surrogates."""
        decoder = codecs.getincrementaldecoder(self.encoding)(errors="surrogateescape")
        with reading_errors(self.path):
            yield from map(decoder.decode, byte_blocks(self.path))
            yield decoder.decode(b"", final=True)

    def lines(self) -> Iterator[str]:
        """Yield physical lines without their ends."""
        rest: list[str] = []
        n_lines = n_chars = 0
        for block in self.blocks():
            head, *tail = block.split(self.newline)
            rest.append(head)
            n_chars += len(head)
            if n_chars > MAX_LINE_CHARS:
                raise self._long_line(n_lines + 1)
            if tail:
                n_lines += len(tail)
                yield _without_return("".join(rest))
                rest = [tail.pop()]
                n_chars = len(rest[0])
                yield from map(_without_return, tail) if "\r" in block else tail
        if last := "".join(rest):
            yield _without_return(last)

    def _long_line(self, number: int) -> DataError:
        return DataError(
            f"{self.path}:{number} is longer than {MAX_LINE_CHARS:,} characters; remove the row, or split "
            "its text over several lines."
        )

    def start_lines(self) -> list[str]:
        """Return the whole lines of `start`."""
        lines = self.start.split(self.newline)
        if len(lines[0]) > MAX_LINE_CHARS:
            raise self._long_line(1)
        if len(lines) > 1 and not (self.whole and lines[-1]):
            lines.pop()  # empty, or cut off
        return [_without_return(line) for line in lines]


def _without_return(line: str) -> str:
    return line[:-1] if line.endswith("\r") else line


def open_text(path: Path, encoding: str, whole_line: bool = False) -> TextFile:
    """Open a file after checking from its start that it is text.

    Raises:
        DataError: the file is empty, binary, or written in another encoding.
        UsageError: there is no such encoding.
    """
    size = SNIFF_BYTES
    start = read_start(path, size)
    if whole_line and len(start) >= size and b"\n" not in start and b"\r" not in start:
        size += MAX_LINE_CHARS
        start = read_start(path, size)
    if not start.strip(b"\xef\xbb\xbf\r\n\t \x00"):
        raise DataError(f"{path} is empty.")
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{path} is not text but {what}.")
    codec = resolve_encoding(encoding, start)
    if b"\x00" in start and not codecs.lookup(codec).name.startswith(_WIDE):
        raise DataError(
            f"{path} is not text (it contains zero bytes); if it is UTF-16 text, add --encoding "
            f"{likely_encoding(start) or 'utf-16'}."
        )
    with reading_errors(path):
        text = codecs.getincrementaldecoder(codec)(errors="surrogateescape").decode(start)
    newline = "\n" if "\n" in text or "\r" not in text else "\r"
    file = TextFile(path, codec, text, len(start) < size, newline)
    _check_decoded(file, codec if encoding == AUTO else encoding, start)
    return file


def encoding_advice(path: str) -> str:
    """Say which encoding to try for a file with rows that cannot be decoded; "" if it is not a file."""
    place = Path(path)
    return advice(read_start(place)) if place.is_file() else ""


def _check_decoded(file: TextFile, encoding: str, start: bytes) -> None:
    if file.start.isascii() or not _UNDECODABLE.search(file.start):
        return
    lines = file.start_lines()
    n_bad = sum(1 for line in lines if _UNDECODABLE.search(line))
    if n_bad > MAX_UNDECODABLE_RATE * len(lines):
        raise DataError(
            f"{file.path} is not encoded as {encoding}: {n_bad:,} of the first {len(lines):,} lines contain "
            f"bytes that cannot be decoded. {advice(start)}"
        )


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


def byte_blocks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, unpacked if its name says that it is compressed, in blocks.

    Raises:
        DataError: it decompresses to more than the limits allow.
        OSError: it cannot be read, or is damaged.
    """
    kind = suffixes_of(path)[1]
    with path.open("rb") as raw:
        if not kind:
            yield from _blocks(raw)
            return
        unpacked = Unpacked(path)
        try:
            for block in _unpacked(kind, raw):
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


def _unpacked(kind: str, raw: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a compressed file; a Python may lack all of these modules but gzip."""
    if kind == ".gz":
        return _blocks(gzip.GzipFile(fileobj=raw))
    if kind == ".bz2":
        import bz2

        return _blocks(bz2.open(raw))
    if kind == ".xz":
        import lzma

        start = partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, limits.MAX_WINDOW_BYTES)
        return _frames(start, lzma.LZMAError, raw)
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
