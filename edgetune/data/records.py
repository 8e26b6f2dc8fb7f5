"""Records of a delimited file: one parser for plain and quoted text that accounts for every physical line.

The csv module parses one record at a time here, so that an unclosed quote affects only its own line: the
lines that were read ahead for it are put back and read again. `LookAhead` limits the time that this takes.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from edgetune.utils.limits import FEW_RECORD_LINES, MAX_LINE_CHARS, MAX_RECORD_LINES

LINE_COST = 64  # reading a line ahead costs as much as this many characters
FREE_COST = 1 << 20  # what may be read ahead in vain in any file …
COST_RATE = 2  # … and per character of lines with quotes, and `LINE_COST` of any
UNTERMINATED = "unexpected end of data"

NULL = "\\N"  # what MySQL writes for NULL


class Record(NamedTuple):
    """A row: its first physical line, its fields, that line as written, and whether they are a guess."""

    line: int
    fields: list[str]
    source: str
    loose: bool = False


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        delimiter: one character.
        quoted: RFC 4180 quoting; else a quote is a character like any other.
        skip_space: blanks after a delimiter are not part of the field.
        escaped: a backslash escapes a quote, a delimiter or a backslash after it, as Spark and MySQL write
            them; before any other character it is an ordinary backslash. Only if `quoted`.
    """

    delimiter: str
    quoted: bool
    skip_space: bool = False
    escaped: bool = False

    def special(self, line: str) -> bool:
        """Whether a line has quotes or escapes, so that it cannot simply be split at delimiters."""
        return self.quoted and ('"' in line or (self.escaped and "\\" in line))

    def prepare(self, line: str) -> str:
        """Double the ordinary backslashes of a line, because the csv module halves them."""
        if not self.escaped or "\\" not in line:
            return line
        return _backslashes(self.delimiter).sub(lambda found: found[1] or r"\\", line)

    def reader(self, lines: Iterator[str], strict: bool = True) -> Any:
        """Return a reader of the csv module; `lines` have to be prepared."""
        return csv.reader(lines, _csv_dialect(self, strict))

    def values(self, fields: list[str]) -> list[str]:
        """Return fields, with NULL replaced by an empty field."""
        return ["" if field == NULL else field for field in fields] if self.escaped else fields


@lru_cache(maxsize=32)
def _csv_dialect(dialect: Dialect, strict: bool) -> Any:
    """Return the csv module's own form of a dialect; making one takes longer than parsing a line."""
    return csv.reader(
        (),
        delimiter=dialect.delimiter,
        strict=strict,
        skipinitialspace=dialect.skip_space,
        escapechar="\\" if dialect.escaped else None,
    ).dialect


@lru_cache(maxsize=16)
def _backslashes(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf'(\\(?:["\\{re.escape(delimiter)}]|$))|\\')


class Unterminated(Exception):
    """A quoted field continues on the next line."""


def parse(line: str, dialect: Dialect, strict: bool = True) -> list[str] | None:
    """Split a record that may hold quotes; None if it is not well formed.

    Raises:
        Unterminated: the record's last field is quoted and not closed (only if strict).
    """
    try:
        rows: list[list[str]] = list(dialect.reader(iter([dialect.prepare(line)]), strict))
    except csv.Error as error:
        if str(error) == UNTERMINATED:
            raise Unterminated from error
        return None
    return dialect.values(rows[0]) if len(rows) == 1 else None


def allow_long_fields() -> None:
    """Lift the csv module's global limit of 128 KiB per field; here, the lines per record are limited."""
    csv.field_size_limit(2**31 - 1)


class LookAhead:
    """Limits the lines of a quoted field, to few once too much was read ahead in vain.

    Without this limit, a file in which every line opens a quote would be read a thousand times.
    """

    def __init__(self) -> None:
        self._left = FREE_COST

    def passed(self, n_lines: int, n_chars: int) -> None:
        """Allow more after `n_lines` lines were read, of which those with quotes had `n_chars` characters."""
        self._left += COST_RATE * (LINE_COST * n_lines + n_chars)

    def wasted(self, n_lines: int, n_chars: int) -> None:
        """Count what was read ahead and put back."""
        self._left -= LINE_COST * n_lines + n_chars

    @property
    def n_lines(self) -> int:
        """Largest number of lines of a record."""
        return MAX_RECORD_LINES if self._left > 0 else FEW_RECORD_LINES


def joined_record(lines: Iterator[str], dialect: Dialect) -> list[str] | None:
    """Parse one record, taking as many physical lines as it needs; None if it is not well formed."""
    try:
        fields = next(dialect.reader(dialect.prepare(line) + "\n" for line in lines), None)
    except csv.Error:
        return None
    return None if fields is None else dialect.values(fields)


def records(lines: Iterator[str], dialect: Dialect, width: int = 0) -> Iterator[Record]:
    """Yield records without blank lines; a line of only tabs, as many as the first record has, is a row.

    In a table of one column a blank line below the first record is a row too. An unclosed quote affects only
    its own line, not the lines after it. `width` is the number of columns that a row should have; 0 takes it
    from the first record.
    """
    allow_long_fields()
    waiting: deque[str] = deque()  # lines read ahead for a record that turned out not to belong to it
    ahead = LookAhead()
    number, n_delimiters = 0, -1
    one_column = width == 1
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        number += 1
        n_more, loose = 0, False
        if dialect.special(line):
            fields, n_more, loose = _quoted_record(line, waiting, lines, dialect, width, ahead)
            ahead.passed(n_more + 1, len(line))
        else:
            is_row = line.strip() or (
                line.count(dialect.delimiter) == n_delimiters and (n_delimiters > 0 or one_column)
            )
            if not is_row:
                continue
            fields = line.split(dialect.delimiter)
            fields = [field.lstrip() for field in fields] if dialect.skip_space else fields
        width = width or len(fields)
        n_delimiters = len(fields) - 1 if n_delimiters < 1 else n_delimiters
        yield Record(number, fields, line, loose)
        number += n_more


def _quoted_record(
    line: str, waiting: deque[str], lines: Iterator[str], dialect: Dialect, width: int, ahead: LookAhead
) -> tuple[list[str], int, bool]:
    """Return the record that starts with `line`, the number of lines after it, and whether it is a guess.

    These lines are taken from `waiting`, then from `lines`, and put back into `waiting` if the record is not
    well formed with them.
    """
    try:
        fields = parse(line, dialect)
    except Unterminated:
        more, fields = _read_on(line, waiting, lines, dialect, width, ahead.n_lines)
        if fields is not None:
            return fields, len(more), False
        ahead.wasted(len(more), sum(map(len, more)))
        waiting.extendleft(reversed(more))
    if fields is not None:
        return fields, 0, False
    loose = parse(line, dialect, strict=False)
    if loose is not None and len(loose) == width:
        return loose, 0, True
    return line.split(dialect.delimiter), 0, True


def _read_on(
    line: str, waiting: deque[str], lines: Iterator[str], dialect: Dialect, width: int, n_lines: int
) -> tuple[list[str], list[str] | None]:
    """Read at most `n_lines` lines until the quoted field that `line` opens is closed.

    In tab-separated files, lines that each look like a complete row are rows, and the quote was a stray one.
    A line that begins with a tab continues a text.
    """
    more: list[str] = []

    def physical() -> Iterator[str]:
        yield line
        size = len(line)
        while len(more) < n_lines and size < MAX_LINE_CHARS:
            upcoming = waiting.popleft() if waiting else next(lines, None)
            if upcoming is None:
                return
            more.append(upcoming)
            size += len(upcoming)
            yield upcoming

    fields = joined_record(physical(), dialect)
    if fields is None or (width and len(fields) != width):
        return more, None
    if dialect.delimiter == "\t" and width > 1:
        rows = all(physical_line.count("\t") == width - 1 for physical_line in (line, *more))
        whole = rows and not any(physical_line.startswith("\t") for physical_line in more)
        return more, None if whole else fields
    return more, fields
