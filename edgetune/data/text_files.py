"""Files as decoded text, in constant memory: compression, encoding, physical lines, and what is not text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgetune.data.compression import KINDS, byte_blocks
from edgetune.data.encodings import AUTO, advice, likely_encoding, resolve_encoding
from edgetune.utils.errors import DataError
from edgetune.utils.limits import MAX_LINE_CHARS

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
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_WIDE = ("utf-16", "utf-32")


def suffixes_of(path: Path) -> tuple[str, str]:
    """Return the format's extension and the compression's, lower case, each possibly empty."""
    suffix = path.suffix.lower()
    if suffix in KINDS:
        return Path(path.stem).suffix.lower(), suffix
    return suffix, ""


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
        for block in byte_blocks(path, suffixes_of(path)[1]):
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
            yield from map(decoder.decode, byte_blocks(self.path, suffixes_of(self.path)[1]))
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
