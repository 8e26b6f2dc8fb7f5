"""Examples: text and label of every usable row, and a reason for every row that is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgetune.data.columns import FLAGS, LABEL_NAMES, check_flags, choose_columns, joined_spellings
from edgetune.data.fasttext import is_fasttext
from edgetune.data.readers import open_table, require_exists
from edgetune.data.table import (
    BAD_BYTES,
    BROKEN_LABEL,
    EMPTY_TEXT,
    EXCERPT_LENGTH,
    LONG_LABEL,
    LONG_TEXT,
    LOOSE_QUOTES,
    NO_LABEL,
    NOT_A_LABEL,
    NOT_TEXT,
    BadRow,
    LooseRow,
    Table,
    excerpt_of,
)
from edgetune.data.text_files import encoding_advice, open_text, suffixes_of
from edgetune.utils.errors import DataError, UsageError
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.limits import MAX_LABEL_CHARS, MAX_LINE_CHARS

__all__ = [
    "BadRow",
    "DataOptions",
    "Example",
    "TextRow",
    "TextTable",
    "open_texts",
    "read_examples",
    "texts_of_table",
]


@dataclass(frozen=True)
class DataOptions:
    """How to read labelled text.

    Attributes:
        text: text columns, by name or 1-based number; () finds them by their usual names.
        label: the label column, or the columns that each hold 1 for one label, with commas; None finds it by
            its usual name.
        header: whether a delimited file's first row names its columns; None decides by the content.
        encoding: of text files; `auto` decides by the content.
        delimiter: of delimited files; None decides by the content.
        pair: two text columns stay a pair, for the tokenizer to join, rather than become one text.
        escape: whether backslashes escape quotes in delimited files; None decides by the content.
        part: which list of rows to read in a JSON file that holds several; None reads the training rows.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    header: bool | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    pair: bool = False
    escape: bool | None = None
    part: str | None = None


class Example(NamedTuple):
    """One usable row.

    Attributes:
        line: 1-based physical line where the file has lines, else 1-based row number.
        text: without white space around it.
        text_pair: the second text where the options say that there are two.
        label: as text, whatever its type in the file.
    """

    line: int
    text: str
    text_pair: str | None
    label: str


class _Unusable(Exception):
    """A value cannot be used; the argument is the reason."""


def _open(path: str, options: DataOptions) -> Table:
    labels = [] if options.label is None else [options.label, *options.label.split(",")]
    wanted = [*joined_spellings(options.text), *labels]
    return open_table(
        path, options.encoding, options.delimiter, options.header, wanted, options.escape, options.part
    )


def read_examples(
    path: str,
    options: DataOptions,
    on_bad: Callable[[BadRow], None],
    on_loose: Callable[[BadRow], None] = lambda row: None,
) -> Iterator[Example]:
    """Yield the usable rows of a file, a folder or a hub dataset, in their order.

    Args:
        path: a file, a folder, or `hub:NAME` (see `hub_address`).
        options: how to read it.
        on_bad: is told of every row that cannot be used.
        on_loose: is told of every row whose quotes had to be guessed; it is used if it can be.

    Raises:
        DataError: the path is missing or cannot be read as rows.
        UsageError: the text or label column cannot be found.
        MissingDependencyError: a package is not installed.
        ResourceError: the hub cannot be reached.
    """
    table = _open(path, options)
    if options.label is None and not set(LABEL_NAMES) & {name.strip().lower() for name in table.columns}:
        check_flags(table)
    chosen = choose_columns(
        table.file,
        table.columns,
        options.text,
        options.label,
        options.pair,
        first_row=None if table.has_names else table.first_row,
    )
    assert chosen.label is not None
    label_at = chosen.flags or (chosen.label,)
    for row in table.read((*chosen.text, *label_at)):
        if isinstance(row, BadRow):
            on_bad(row)
            continue
        line, values = row
        if chosen.flags:
            flags = zip(chosen.flags, values[len(chosen.text) :], strict=True)
            values = [*values[: len(chosen.text)], {table.columns[i]: _flag(value) for i, value in flags}]
        if isinstance(row, LooseRow):
            on_loose(BadRow(table.file, line, LOOSE_QUOTES, _excerpt(values)))
        if table.is_delimited and "\n" in str(values[-1]):
            for number in range(line, line + 1 + sum(str(value).count("\n") for value in values)):
                on_bad(BadRow(table.file, number, BROKEN_LABEL, _excerpt(values)))
            continue
        try:
            text, text_pair = _texts(values[:-1], options.pair)
            if not text and not text_pair:
                raise _Unusable(EMPTY_TEXT)
            label = _label(values[-1])
        except _Unusable as error:
            on_bad(BadRow(table.file, line, str(error), _excerpt(values)))
            continue
        yield Example(line, text, text_pair, label)


def _excerpt(values: Iterable[Any]) -> str:
    """Show the beginning of each value of a row."""
    return excerpt_of("\t".join(str(value)[:EXCERPT_LENGTH] for value in values))


class TextRow(NamedTuple):
    """One row to classify.

    Attributes:
        line: 1-based physical line where the file has lines, else 1-based row number.
        text: without white space around it; may be empty.
        text_pair: the second text where the options say that there are two.
        values: of all columns, as they are in the input.
    """

    line: int
    text: str
    text_pair: str | None
    values: Sequence[Any]

    @property
    def is_empty(self) -> bool:
        """Whether there is no text to classify."""
        return not self.text and not self.text_pair


@dataclass(frozen=True)
class TextTable:
    """Rows to classify.

    Attributes:
        columns: names of all columns of the input.
        rows: one per row of the input, in its order.
    """

    columns: tuple[str, ...]
    rows: Iterator[TextRow]


def open_texts(path: str, options: DataOptions) -> TextTable:
    """Open rows to classify; no label is needed. A .txt file is one text per line.

    Raises:
        DataError: also where a single row cannot be read, because every row must get its prediction.
        UsageError: the text column cannot be found.
    """
    if not path.startswith(HUB_PREFIX):
        place = require_exists(path)
        is_text = place.is_file() and suffixes_of(place)[0] == ".txt"
        file = open_text(place, options.encoding) if is_text else None
        if file is not None and not is_fasttext(file.start_lines()):
            if options.pair:
                raise UsageError(
                    f"{path} contains one text per line, but a text pair needs two columns; use a CSV file."
                )
            return TextTable(("text",), _text_lines(path, file.lines()))
    return texts_of_table(_open(path, options), options)


def texts_of_table(table: Table, options: DataOptions) -> TextTable:
    """Take the texts out of a table; see `open_texts`."""
    label = options.label if options.label in table.columns else None
    chosen = choose_columns(
        table.file,
        table.columns,
        options.text,
        label,
        options.pair,
        need_label=False,
        first_row=None if table.has_names else table.first_row,
    )
    return TextTable(table.columns[: table.n_whole], _text_rows(table, chosen.text, options.pair))


def _text_rows(table: Table, text_at: Sequence[int], pair: bool) -> Iterator[TextRow]:
    n_whole = table.n_whole
    for row in table.read((*range(n_whole), *text_at)):
        if isinstance(row, BadRow):
            raise DataError(f"{row.file}:{row.line} cannot be read: {row.reason} ({row.excerpt}).")
        line, values = row
        try:
            text, text_pair = _texts(values[n_whole:], pair)
        except _Unusable as error:
            raise DataError(f"{table.file}:{line} cannot be read: {error}.") from error
        yield TextRow(line, text, text_pair, values[:n_whole])


def _text_lines(path: str, lines: Iterable[str]) -> Iterator[TextRow]:
    for number, line in enumerate(lines, start=1):
        yield TextRow(number, _checked(path, number, line.strip()), None, (line,))


def _checked(path: str, line: int, text: str) -> str:
    try:
        return _encodable(text)
    except _Unusable as error:
        raise DataError(f"{path}:{line} cannot be read: {error}. {encoding_advice(path)}") from error


def _texts(values: Any, pair: bool) -> tuple[str, str | None]:
    """Return the text and its pair; several columns are joined by a space."""
    texts = [_text(value) for value in values]
    if pair:
        return texts[0], texts[1]
    if len(texts) == 1:
        return texts[0], None
    return " ".join(filter(None, texts)), None


def _text(value: Any) -> str:
    if isinstance(value, str | bytes) and len(value) > MAX_LINE_CHARS:
        raise _Unusable(LONG_TEXT)
    if isinstance(value, str):
        return _encodable(value.strip())
    if value is None:
        return ""
    if isinstance(value, bytes):
        return _encodable(value.decode("utf-8", "surrogateescape").strip())
    if isinstance(value, dict | list | tuple):
        raise _Unusable(NOT_TEXT)
    return str(value).strip()


def _label(value: Any) -> str:
    """Write a label as text: 3 and 3.0 as "3", True as "true", ["a"] as "a"."""
    value = _only_label(value)
    if isinstance(value, str):
        label = _encodable(value.strip())
    elif value is None:
        label = ""
    elif isinstance(value, bool):
        label = "true" if value else "false"
    elif isinstance(value, float):
        label = "" if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    elif isinstance(value, dict | list | tuple):
        raise _Unusable(NOT_A_LABEL)
    elif isinstance(value, bytes):
        label = _encodable(value.decode("utf-8", "surrogateescape").strip())
    else:
        label = str(value)
    if not label:
        raise _Unusable(NO_LABEL)
    if len(label) > MAX_LABEL_CHARS:
        raise _Unusable(LONG_LABEL)
    return label


def _flag(value: Any) -> Any:
    """Return 1 or 0 for what a column of a label's own holds; any other value as it is."""
    return FLAGS.get(str(value).strip().lower(), value)


def _only_label(value: Any) -> Any:
    """Return the only label of a list, or of an object like {"a": 1, "b": 0}; any other value as it is."""
    if isinstance(value, dict) and value and all(isinstance(share, int | float) for share in value.values()):
        value = [name for name, share in value.items() if share > 0.5]
    while isinstance(value, list | tuple):
        if any(item != value[0] for item in value):
            return value
        value = value[0] if value else None
    return value


def _encodable(text: str) -> str:
    """Refuse text with undecodable bytes, or half of a JSON surrogate pair, in it."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _Unusable(BAD_BYTES) from error
    return text
