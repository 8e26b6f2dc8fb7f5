"""Records of a delimited file: one parser for plain and quoted text that accounts for every physical line.

The csv module parses one record at a time here, so that a quote that is never closed costs its own line at
most: what was read ahead for it is put back and read again.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MAX_RECORD_LINES = 1_000  # a quoted field with more lines than this was never closed
MAX_RECORD_CHARS = 1 << 24
UNTERMINATED = "unexpected end of data"

Record = tuple[int, list[str], str]  # first physical line, fields, the line as written


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        delimiter: one character.
        quoted: RFC 4180 quoting; else a quote is a character like any other.
        skip_space: blanks after a delimiter are not part of the field.
    """

    delimiter: str
    quoted: bool
    skip_space: bool = False


class Unterminated(Exception):
    """A quoted field goes on in the next line."""


def parse(line: str, dialect: Dialect, strict: bool = True) -> list[str] | None:
    """Split a record that may hold quotes; None if it is not well formed.

    Raises:
        Unterminated: the record's last field is quoted and not closed (only if strict).
    """
    try:
        reader = csv.reader(
            [line], delimiter=dialect.delimiter, strict=strict, skipinitialspace=dialect.skip_space
        )
        rows = list(reader)
    except csv.Error as error:
        if str(error) == UNTERMINATED:
            raise Unterminated from error
        return None
    return rows[0] if len(rows) == 1 else None


def allow_long_fields() -> None:
    """Lift the csv module's limit of 128 KiB per field, which is global; ours is on lines per record."""
    csv.field_size_limit(2**31 - 1)


def records(lines: Iterator[str], dialect: Dialect, width: int = 0) -> Iterator[Record]:
    """Yield records, blank lines left out.

    Args:
        lines: physical lines.
        dialect: how they are written.
        width: columns a row should have; 0 takes it from the first record.
    """
    if dialect.quoted:
        allow_long_fields()
        yield from _quoted_records(lines, dialect, width)
        return
    delimiter = dialect.delimiter
    for number, line in enumerate(lines, start=1):
        if line and not line.isspace():
            yield number, line.split(delimiter), line


def _quoted_records(lines: Iterator[str], dialect: Dialect, width: int) -> Iterator[Record]:
    """Yield CSV records; a quote that is never closed costs its own line at most, not the lines after it."""
    waiting: deque[str] = deque()  # lines read ahead for a record that turned out not to have them
    number = 0
    while True:
        if waiting:
            line = waiting.popleft()
        elif (upcoming := next(lines, None)) is not None:
            line = upcoming
        else:
            return
        number += 1
        if '"' not in line:
            if line and not line.isspace():
                fields = line.split(dialect.delimiter)
                width = width or len(fields)
                yield number, [field.lstrip() for field in fields] if dialect.skip_space else fields, line
            continue
        record, n_more = _quoted_record(line, waiting, lines, dialect, width)
        width = width or len(record)
        yield number, record, line
        number += n_more


def _quoted_record(
    line: str, waiting: deque[str], lines: Iterator[str], dialect: Dialect, width: int
) -> tuple[list[str], int]:
    """Parse the record that starts with `line`.

    Lines after it are taken from `waiting`, then from `lines`, and put back into `waiting` if the record
    does not come out well formed with them.

    Returns:
        Its fields, and how many further lines belong to it.
    """
    try:
        fields = parse(line, dialect)
    except Unterminated:
        more, fields = _read_on(line, waiting, lines, dialect, width)
        if fields is not None:
            return fields, len(more)
        waiting.extendleft(reversed(more))
    if fields is not None:
        return fields, 0
    loose = parse(line, dialect, strict=False)
    if loose is not None and len(loose) == width:
        return loose, 0
    return line.split(dialect.delimiter), 0


def _read_on(
    line: str, waiting: deque[str], lines: Iterator[str], dialect: Dialect, width: int
) -> tuple[list[str], list[str] | None]:
    """Read lines until the quoted field that `line` opens is closed.

    Between tabs, lines that each look like a whole row are whole rows: the quote was a stray one.

    Returns:
        The lines read, and the record's fields; None if it never comes out well formed.
    """
    more: list[str] = []
    size = len(line)
    whole = dialect.delimiter == "\t" and width > 1 and line.count("\t") == width - 1
    while len(more) < MAX_RECORD_LINES and size < MAX_RECORD_CHARS:
        upcoming = waiting.popleft() if waiting else next(lines, None)
        if upcoming is None:
            break
        more.append(upcoming)
        size += len(upcoming)
        whole = whole and upcoming.count("\t") == width - 1
        if '"' not in upcoming:
            continue
        try:
            fields = parse("\n".join([line, *more]), dialect)
        except Unterminated:
            continue
        if fields is None or whole or (width and len(fields) != width):
            break
        return more, fields
    return more, None
