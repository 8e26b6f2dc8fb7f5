"""How text is read, and the table that every reader returns: named columns whose rows are streamed.

Training rows are those of the training part of a table or a file; the first of `VALIDATION_PARTS` that is
there is evaluated on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from edgetune.data.records import Dialect
from edgetune.utils.sanitize import brief

NO_LABEL = "no label"
REPEATED_HEADER = "the header comes again"
UNLABELLED = (NO_LABEL, REPEATED_HEADER)
"""Reasons that are not errors in the file."""
EMPTY_TEXT = "empty text"
WRONG_COLUMN_COUNT = "wrong column count"
WRONG_LENGTH = "wrong number of values"
BAD_BYTES = "bad bytes"
NOT_AN_OBJECT = "not an object"
UNREADABLE_JSON = "unreadable JSON"
NOT_TEXT = "text is not a string"
NOT_A_LABEL = "label is not a single value"
NO_TOKENS = "no tokens"
LONG_TEXT = "text is too long"
LONG_LABEL = "label is too long"
BROKEN_LABEL = "label goes on in the next line: a quote is not closed"
STRAY_QUOTE = "label has a stray quote"
LOOSE_QUOTES = "stray quotes"

EXCERPT_LENGTH = 80
MAX_PATHS = 500  # nested columns
MAX_PATH_KEYS = 6  # keys in the path of a nested column
TRAIN_PARTS = ("train", "training")
VALIDATION_PARTS = ("validation", "valid", "val", "dev", "eval", "evaluation", "test")
PART_NAMES = frozenset((*TRAIN_PARTS, *VALIDATION_PARTS))
PART_COLUMNS = ("split", "partition", "fold", "subset")
_PART_ROWS = 100
_MAX_NAME_CHARS = 200  # all usual names are shorter
_SEPARATORS = re.compile(r"[\s_.-]+")
SAMPLE_ROWS, SAMPLE_CELLS = 1_000, 200_000
"""Most rows, and values in them, that are examined to identify columns."""


@dataclass(frozen=True)
class DataOptions:
    """How to read labelled text.

    Attributes:
        text: text columns, by name or 1-based number; () finds them by their usual names.
        label: the label column, or the columns that each hold 1 for one label, separated by commas; None
            finds it by its usual name.
        header: whether a delimited file's first row names its columns; None decides by the content.
        encoding: of text files; `auto` decides by the content.
        delimiter: of delimited files; None decides by the content.
        pair: whether two text columns stay a pair, which the tokenizer joins, instead of becoming one text.
        escape: whether backslashes escape quotes in delimited files; None decides by the content.
        part: which part to read of data that has several (see `Parts`); None reads the training rows.
        merge_labels: whether labels that differ only in case, a full stop, or `_`, `-` and blank are one.
        multi_label: whether a row may have several labels, or none; None decides by the content.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    header: bool | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    pair: bool = False
    escape: bool | None = None
    part: str | None = None
    merge_labels: bool = False
    multi_label: bool | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        file: where it is.
        line: 1-based physical line if the file has lines, else 1-based row number.
        reason: one of the constants above, so that reasons can be counted.
        excerpt: the row's start.
    """

    file: str
    line: int
    reason: str
    excerpt: str


Row: TypeAlias = tuple[int, Sequence[Any]]  # line, the values of the columns asked for


class LooseRow(NamedTuple):
    """A row with quotes that no CSV writer would have written; it is used, and counted."""

    line: int
    values: Sequence[Any]


@dataclass(frozen=True)
class Table:
    """A source of rows that can be read more than once.

    Attributes:
        file: its name in error messages.
        columns: names; "1", "2", ... if the file has no header.
        has_names: whether `columns` are real names.
        first_row: values of the first row, to show what a nameless column holds.
        read: yields the values of the columns at these positions, row by row.
        is_delimited: whether it is a delimited file, where a label of several lines is a quoting error.
        n_deeper: number of columns, the last ones, that are nested in an object of one of the others.
        encoding: of a text file; "" for any other source.
        dialect: how a delimited file is written; None for any other source.
    """

    file: str
    columns: tuple[str, ...]
    has_names: bool
    first_row: tuple[str, ...]
    read: Callable[[Sequence[int]], Iterator[Row | BadRow]]
    is_delimited: bool = False
    n_deeper: int = 0
    encoding: str = ""
    dialect: Dialect | None = None

    @property
    def n_whole(self) -> int:
        """Number of columns, the first ones, that make up a row."""
        return len(self.columns) - self.n_deeper

    def values(self, columns: Sequence[int], n_rows: int | None = None) -> Iterator[Sequence[Any]]:
        """Yield the values of some columns of the first `n_rows` rows, or of all; not of bad rows."""
        for row in islice(self.read(columns), n_rows):
            if not isinstance(row, BadRow):
                yield row[1]

    def sample(self) -> list[Sequence[Any]]:
        """Return all values of the first rows."""
        n_columns = len(self.columns)
        return list(self.values(range(n_columns), min(SAMPLE_ROWS, SAMPLE_CELLS // max(1, n_columns))))


def value_at(value: Any, path: Sequence[str]) -> Any:
    """Return the value at a path; for a list of objects, the values in all of them, or the only value.

    The content of a chat message, {"role": "user", "content": "…"}, is found under its role.
    """
    for position, key in enumerate(path):
        if isinstance(value, list):
            inner = (value_at(item, path[position:]) for item in value)
            found = [item for item in inner if item is not None]
            return found[0] if len(found) == 1 else found or None
        if not isinstance(value, dict):
            return None
        value = value[key] if key in value else (value.get("content") if value.get("role") == key else None)
    return value


def deeper_paths(above: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the paths below a path in an object, in the objects of a list, or in a chat."""
    if len(above) == MAX_PATH_KEYS:
        return
    for inner in value if isinstance(value, list) else [value]:
        for key, deeper in inner.items() if isinstance(inner, dict) else ():
            yield (*above, key)
            yield from deeper_paths((*above, key), deeper)
        if isinstance(inner, dict) and "content" in inner and isinstance(inner.get("role"), str):
            yield (*above, inner["role"])


def excerpt_of(value: object) -> str:
    """Shorten a row to one printable line."""
    text = value if isinstance(value, str) else repr(value)
    return brief(text, EXCERPT_LENGTH)


def plain_name(name: str) -> str:
    """Write a column's name in lower case, with `_` for whatever separates its words."""
    return _SEPARATORS.sub("_", name[:_MAX_NAME_CHARS].strip().lower())


@dataclass(frozen=True)
class Parts:
    """Names of the parts of a data set (train, validation, test) that lie together in one file or folder.

    They are lists of a JSON file, files or subfolders of a folder, or rows told apart by a column such as
    `split`.

    Attributes:
        train: the part to train on.
        validation: the part to evaluate on; None if there is no such part.
        unused: all others.
        column: the column that distinguishes them; None if they are lists or files.
    """

    train: str
    validation: str | None
    unused: tuple[str, ...] = ()
    column: str | None = None

    @classmethod
    def of(cls, names: Iterable[str], column: str | None = None) -> Parts | None:
        """Identify parts by their names; return None if none of them is a training part."""
        by_name = {name.lower(): name for name in reversed(list(names))}
        train = next((by_name.pop(name) for name in TRAIN_PARTS if name in by_name), None)
        if train is None:
            return None
        validation = next((by_name.pop(name) for name in VALIDATION_PARTS if name in by_name), None)
        return cls(train, validation, tuple(sorted(by_name.values())), column)

    def describe(self, path: str) -> str:
        """Say in a sentence which part is used for what."""
        where = path if self.column is None else f'The column "{brief(self.column)}" of {path}'
        unused = ", ".join(f'"{brief(name)}"' for name in self.unused)
        return (
            f'{where} tells training from evaluation rows: training on "{brief(self.train)}", evaluating on '
            f'"{brief(str(self.validation))}"{f"; {unused} is not used" if unused else ""}.'
        )


def column_parts(table: Table, options: DataOptions) -> Parts | None:
    """Find a column all of whose values are names of parts, training and evaluation among them."""
    taken = {name.strip().lower() for name in (*options.text, options.label or "")}
    for at, name in enumerate(table.columns if table.has_names else ()):
        if plain_name(name) not in PART_COLUMNS or name.lower() in taken:
            continue
        if not all(value in PART_NAMES for value in islice(_part_names(table, at), _PART_ROWS)):
            continue
        found = set(_part_names(table, at))
        parts = Parts.of(found, name) if found <= PART_NAMES else None
        if parts is not None and parts.validation is not None:
            return parts
    return None


def _part_names(table: Table, at: int) -> Iterator[str]:
    return (str(row[0]).strip().lower() for row in table.values((at,)))


def rows_of_part(table: Table, parts: Parts, part: str | None) -> Table:
    """Return the rows of a part that a column determines; for None, the training rows.

    Rows that cannot be read count among the training rows.
    """
    assert parts.column is not None
    at = table.columns.index(parts.column)
    wanted = parts.train if part is None else part

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for row in table.read((*columns, at)):
            if isinstance(row, BadRow):
                if wanted == parts.train:
                    yield row
                continue
            *values, name = row[1]
            if str(name).strip().lower() == wanted:
                yield LooseRow(row[0], values) if isinstance(row, LooseRow) else (row[0], values)

    return replace(table, read=rows)
