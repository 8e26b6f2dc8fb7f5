"""A delimited file as a table: columns named by its header or numbered from 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from edgetune.data.dialect import has_header, sniff
from edgetune.data.limits import MAX_COLUMNS
from edgetune.data.records import Dialect, records
from edgetune.data.rows import WRONG_COLUMN_COUNT, BadRow, Row, Table, excerpt_of
from edgetune.data.textio import TextFile, open_text
from edgetune.errors import DataError, UsageError

HEADER_ROWS = 1_000  # rows looked at to decide whether the first is a header


def read_delimited(
    path: Path, hint: str, encoding: str, delimiter: str | None, header: bool | None, wanted: Sequence[str]
) -> Table:
    """Open a CSV, TSV or similar file.

    Args:
        path: the file, possibly compressed.
        hint: the delimiter its name suggests.
        encoding: as the user said, or the default.
        delimiter: as the user said; None decides.
        header: whether the first row names the columns; None decides.
        wanted: column names the user asked for; finding one in the first row makes it a header.
    """
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise UsageError(
                f'A delimiter is one character, not "{delimiter}"; for a tab, write --delimiter tab.'
            )
    file = open_text(path, encoding, whole_line=True)
    lines = file.start_lines()
    dialect = sniff(lines, hint, delimiter)
    first_rows = [fields for _, fields, _ in islice(records(iter(lines), dialect), HEADER_ROWS)]
    if not first_rows:
        raise DataError(f"{path} is empty.")
    first = first_rows[0]
    if len(first) > MAX_COLUMNS:
        raise DataError(
            f"{path}:1 has {len(first):,} columns, and at most {MAX_COLUMNS:,} may be; is --delimiter right?"
        )
    named = has_header(first_rows, wanted) if header is None else header
    names = tuple(name.strip() for name in first) if named else tuple(str(i + 1) for i in range(len(first)))

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        return _rows(file, dialect, len(first), named, columns)

    return Table(str(path), names, named, tuple(first), rows)


def _rows(
    file: TextFile, dialect: Dialect, width: int, header: bool, columns: Sequence[int]
) -> Iterator[Row | BadRow]:
    """Yield the columns asked for; a row of another width is bad."""
    stream = records(file.lines(), dialect, width)
    if header:
        next(stream, None)
    for line, fields, source in stream:
        if len(fields) == width:
            yield line, [fields[i] for i in columns]
        else:
            yield BadRow(str(file.path), line, WRONG_COLUMN_COUNT, excerpt_of(source))
