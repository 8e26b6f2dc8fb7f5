"""Examples: text and label of every usable row, and a reason for every row that is not."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import chain
from typing import Any, NamedTuple

from edgetune.data.columns import (
    FLAGS,
    KNOWN_NAMES,
    Columns,
    find_columns,
    usual_label,
    verdict,
)
from edgetune.data.delimited import is_fasttext
from edgetune.data.labels import DASH, SEPARATORS, merged_spelling, normal_label
from edgetune.data.readers import open_rows, require_exists, stored_parts
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
    SAMPLE_ROWS,
    STRAY_QUOTE,
    BadRow,
    DataOptions,
    LooseRow,
    Parts,
    Table,
    column_parts,
    excerpt_of,
    plain_name,
    rows_of_part,
)
from edgetune.data.text_files import encoding_advice, open_text, suffixes_of
from edgetune.utils.errors import DataError, UsageError
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.limits import MAX_LABEL_CHARS, MAX_LINE_CHARS
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief

__all__ = ["DataOptions", "find_columns", "open_rows"]  # of other modules, besides all that is defined here

NO_TEXT = frozenset(["nan", "NaN", "<NA>"])
"""What pandas writes for a missing text."""
_ITEM = r"""('[^'\\\\]*'|"[^"\\\\]*"|[0-9.]+)"""
_LIST = re.compile(rf"\s*\[\s*({_ITEM}(\s*,\s*{_ITEM})*)?\s*\]\s*")
"""A list of labels as text."""
MOST_FAULTY_RATE = 0.05
"""Rows may have several labels if more than this share of the first rows do; otherwise these are faults."""
MAX_LIST_CHARS = 1 << 16
FEWEST_ROWS = 20
"""In a file of at least this many rows, a class that only the first row has may be a column's name."""


class Example(NamedTuple):
    """One usable row.

    Attributes:
        line: 1-based physical line if the file has lines, else 1-based row number.
        text: without white space around it.
        text_pair: the second text if the options say that there are two.
        label: in its normal form, whatever its type in the file; several are joined by commas, for display.
        several: all labels, sorted, if rows may have several; None if each has one.
    """

    line: int
    text: str
    text_pair: str | None
    label: str
    several: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the row."""
        return (self.label,) if self.several is None else self.several


class _Unusable(Exception):
    """A value cannot be used; the argument is the reason."""


def open_labelled(path: str, options: DataOptions) -> Table:
    """Open a part of a file, a folder or a hub dataset as a table; see `read_examples` for what it raises."""
    table = open_rows(path, options)
    parts = None if path.startswith(HUB_PREFIX) else column_parts(table, options)
    return table if parts is None else rows_of_part(table, parts, options.part)


def find_parts(path: str, options: DataOptions) -> Parts | None:
    """Return the parts of a data set in a file or folder, if it has rows to train and to evaluate on.

    Raises:
        DataError: the path is missing or cannot be read.
    """
    parts = stored_parts(path, options.encoding)
    if parts is None and not path.startswith(HUB_PREFIX):  # whose split the address names
        parts = column_parts(open_rows(path, options), options)
    return parts if parts is not None and parts.validation is not None else None


def read_examples(
    path: str,
    options: DataOptions,
    on_bad: Callable[[BadRow], None],
    on_loose: Callable[[BadRow], None] = lambda row: None,
    on_guess: Callable[[list[str]], None] = lambda columns: None,
) -> Iterator[Example]:
    """Yield the usable rows of a file, a folder or a hub dataset, in their order.

    Args:
        path: a file, a folder, or `hub:NAME` (see `data_hub`).
        options: how to read it.
        on_bad: called with every row that cannot be used, and every row without a label.
        on_loose: called with every row whose quotes had to be guessed; the row is used if possible.
        on_guess: called with the label column and the text columns, by name or number, if they were neither
            given by the user nor found by usual names.

    Raises:
        DataError: the path is missing or cannot be read as rows, or its header would become a class.
        UsageError: the text or label column cannot be found.
        MissingDependencyError: a package is not installed.
        ResourceError: the hub cannot be reached.
    """
    table = open_labelled(path, options)
    chosen = find_columns(table, options)
    if chosen.guessed and chosen.label is not None:
        label, *text = (column_reference(table.columns, i) for i in (chosen.label, *chosen.text))
        on_guess([(options.label or label) if chosen.flags else label, *text])
    if not options.merge_labels:
        yield from _examples(table, chosen, options, on_bad, on_loose)
        return
    unheard = _examples(table, chosen, options, lambda row: None, lambda row: None)
    every = (example.labels for example in unheard)
    spelling = merged_spelling(Counter(chain.from_iterable(every)))
    for example in _examples(table, chosen, options, on_bad, on_loose):
        merged = tuple(sorted({spelling.get(label, label) for label in example.labels}))
        if example.several is None:
            yield example._replace(label=merged[0])
        else:
            yield example._replace(label=", ".join(merged), several=merged)


def column_reference(names: Sequence[str], column: int) -> str:
    """Return a reference to a column: its name, or its number if the name is blank or not unique."""
    name = names[column]
    return name if name and names.count(name) == 1 else str(column + 1)


def _examples(
    table: Table,
    chosen: Columns,
    options: DataOptions,
    on_bad: Callable[[BadRow], None],
    on_loose: Callable[[BadRow], None],
) -> Iterator[Example]:
    """Yield the usable rows of a table."""
    assert chosen.label is not None
    label_at = chosen.flags or (chosen.label,)
    has_plus = cache(partial(_has_plus, table, chosen.label))
    first_labels = cache(partial(_first_labels, table, chosen.label))
    n_rows = 0
    first_label: str | None = None  # of the file's first row, until it occurs again
    others: Counter[str] = Counter()
    separator = _label_separator(table, chosen, options)
    judged = verdict(table)
    if judged is not None and judged[0] in label_at:
        judged = None
    columns = (*chosen.text, *label_at) if judged is None else (*chosen.text, *label_at, judged[0])
    for number, row in enumerate(table.read(columns)):
        if isinstance(row, BadRow):
            on_bad(row)
            continue
        line, values = row
        if judged is not None:
            *values, answer = values
            if normal_label(answer) not in (judged[1], None):
                on_bad(BadRow(table.file, line, NO_LABEL, _excerpt([*values, answer])))
                continue
        if chosen.flags:
            flags = _cell_of_labels(table, chosen.flags, values[len(chosen.text) :])
            values = [*values[: len(chosen.text)], flags]
        if isinstance(row, LooseRow):
            on_loose(BadRow(table.file, line, LOOSE_QUOTES, _excerpt(values)))
        if table.is_delimited and "\n" in str(values[-1]):
            for broken in range(line, line + 1 + sum(str(value).count("\n") for value in values)):
                on_bad(BadRow(table.file, broken, BROKEN_LABEL, _excerpt(values)))
            continue
        try:
            labels = None if separator is None else _several_labels(values[-1], separator)
            label = _label(values[-1]) if separator is None else None if labels is None else ", ".join(labels)
            if label is None or (label == DASH and not has_plus()):
                raise _Unusable(NO_LABEL)
            if '"' in label and (half := _half_quoted(label)) and half in first_labels():
                raise _Unusable(STRAY_QUOTE)
            text, text_pair = _texts(values[:-1], options.pair)
            if not text and not text_pair:
                raise _Unusable(EMPTY_TEXT)
        except _Unusable as error:
            on_bad(BadRow(table.file, line, str(error), _excerpt(values)))
            continue
        n_rows += 1
        if number == 0 and not table.has_names:
            first_label = label
        elif label == first_label:
            first_label = None
        elif first_label is not None:
            others[label] += 1
        yield Example(line, text, text_pair, label, labels)
    if first_label is not None:
        is_alone = n_rows >= FEWEST_ROWS or (n_rows > len(others) + 1 and min(others.values()) > 1)
        _check_no_header(table, first_label, n_rows, is_alone, options)


def _has_plus(table: Table, column: int) -> bool:
    """Whether labels are signs, so that a dash is not an empty cell."""
    return any(str(row[0]).strip() == "+" for row in table.values((column,), SAMPLE_ROWS))


def _half_quoted(label: str) -> str | None:
    """Return a label without the quote that it has at one end only; None for any other label."""
    ends = (label.startswith('"'), label.endswith('"'))
    return normal_label(label.strip('"')) if label.count('"') == 1 and any(ends) else None


def _first_labels(table: Table, column: int) -> set[str | None]:
    """Return what the label column of the first rows holds."""
    return {normal_label(row[0]) for row in table.values((column,), SAMPLE_ROWS)}


def _check_no_header(
    table: Table, first_label: str, n_rows: int, is_alone: bool, options: DataOptions
) -> None:
    """Refuse a file whose column names would be trained as a class of one row.

    If the user said whether the file has a header, only a usual name counts; else it may also be a label
    that is alone among larger classes.
    """
    is_name = plain_name(first_label) in KNOWN_NAMES
    if n_rows < 2 or (not is_name and (options.header is not None or not is_alone)):
        return
    what_to_do = (
        "remove --no-header, or remove that row"
        if options.header is False
        else "use --header, or --no-header if it does not"
    )
    raise DataError(
        f'Only the first row of {table.file} has the label "{brief(first_label)}". If that row contains '
        f"column names, {what_to_do}."
    )


def _excerpt(values: Iterable[Any]) -> str:
    """Show the beginning of each value of a row."""
    return excerpt_of("\t".join(str(value)[:EXCERPT_LENGTH] for value in values))


class TextRow(NamedTuple):
    """One row to classify.

    Attributes:
        line: 1-based physical line if the file has lines, else 1-based row number.
        text: without white space around it; may be empty.
        text_pair: the second text if the options say that there are two.
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
        label_at: position of the column that holds labels, if the input has one.
    """

    columns: tuple[str, ...]
    rows: Iterator[TextRow]
    label_at: int | None = None


def open_texts(path: str, options: DataOptions) -> TextTable:
    """Open rows to classify; no label is needed. A .txt file is one text per line.

    Raises:
        DataError: also if a single row cannot be read, because every row must get its prediction.
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
    return texts_of_table(open_rows(path, options), options)


def texts_of_table(table: Table, options: DataOptions) -> TextTable:
    """Take the texts out of a table; see `open_texts`."""
    chosen = find_columns(table, options, need_label=False)
    columns = table.columns[: table.n_whole]
    label_at = usual_label(columns) if chosen.label is None else chosen.label
    if label_at is not None and (label_at in chosen.text or label_at >= len(columns)):
        label_at = None
    return TextTable(columns, _text_rows(table, chosen.text, options.pair), label_at)


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
        text = line.strip()
        try:
            yield TextRow(number, _encodable(text), None, (line,))
        except _Unusable as error:
            advice = encoding_advice(path)
            raise DataError(f"{path}:{number} cannot be read: {error}. {advice}") from error


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
        text = value.strip()
        return "" if text in NO_TEXT else _encodable(text)
    if value is None or value != value:  # a missing number of a column of mixed types
        return ""
    if isinstance(value, bytes):
        return _encodable(value.decode("utf-8", "surrogateescape").strip())
    if isinstance(value, dict | list | tuple):
        raise _Unusable(NOT_TEXT)
    return str(value).strip()


def _label(value: Any) -> str | None:
    """Return a label, also the only one of a list, in its normal form; None if there is none."""
    if isinstance(value, str) and len(value) <= MAX_LABEL_CHARS:
        return _written_label(value)
    value = _only_label(value)
    if isinstance(value, dict | list | tuple):
        raise _Unusable(NOT_A_LABEL)
    if isinstance(value, str | bytes) and len(value) > MAX_LINE_CHARS:
        raise _Unusable(LONG_LABEL)
    label = normal_label(value)
    if label is None:
        return None
    if len(label) > MAX_LABEL_CHARS:
        raise _Unusable(LONG_LABEL)
    return _encodable(label)


@lru_cache(maxsize=4096)
def _written_label(cell: str) -> str | None:
    """Return the label in a text cell, in which pandas may have written a list, such as "['a']"."""
    value: Any = cell
    if _LIST.fullmatch(cell):
        with suppress(ValueError, SyntaxError):
            value = _only_label(ast.literal_eval(cell.strip()))
    if isinstance(value, list):
        raise _Unusable(NOT_A_LABEL)
    label = normal_label(value)
    return None if label is None else _encodable(label)


def _label_separator(table: Table, chosen: Columns, options: DataOptions) -> str | None:
    """Find what separates labels in a text; "" if nothing does, None if each row has one label."""
    if options.multi_label is False or (chosen.flags and options.multi_label is None):
        return None
    assert chosen.label is not None
    label_at = chosen.flags or (chosen.label,)
    cells = [_cell_of_labels(table, chosen.flags, row) for row in table.values(label_at, SAMPLE_ROWS)]
    lists = [_label_list(cell) for cell in cells]
    n_several = sum(found is not None and len(set(map(str, found))) > 1 for found in lists)
    if options.multi_label is None and n_several <= MOST_FAULTY_RATE * len(cells):
        return None
    texts = [str(cell) for cell, found in zip(cells, lists, strict=True) if found is None]
    return next((mark for mark in SEPARATORS if any(mark in text for text in texts)), "")


def _several_labels(value: Any, separator: str) -> tuple[str, ...] | None:
    """Return the labels in a cell, sorted; None if it is empty, () if it holds an empty list."""
    found = _label_list(value)
    if found is not None:
        return tuple(sorted(set(filter(None, map(_label, found)))))
    items = [value]
    if isinstance(value, str):
        if len(value) > MAX_LIST_CHARS:
            raise _Unusable(LONG_LABEL)
        if (cell := value.strip()).startswith("[") and cell.endswith("]"):
            raise _Unusable(NOT_A_LABEL)
        items = value.split(separator) if separator else [value]
    return tuple(sorted(set(filter(None, map(_label, items))))) or None


def _cell_of_labels(table: Table, flags: Sequence[int], values: Sequence[Any]) -> Any:
    """Return the value of the label column or, if each label has a column, the flag of every label."""
    if not flags:
        return values[0]
    cells = zip(flags, values, strict=True)
    return {table.columns[i]: FLAGS.get(str(value).strip().lower(), value) for i, value in cells}


def _only_label(value: Any) -> Any:
    """Return the only label of a list, or of categories; any other value unchanged."""
    value = _chosen_categories(value)
    while isinstance(value, list | tuple):
        if any(item != value[0] for item in value):
            return value
        value = value[0] if value else None
    return value


def _chosen_categories(value: Any) -> Any:
    """Return the names of the true categories, as spaCy writes them; any other value unchanged.

    spaCy writes {"a": 1, "b": 0}, {"cats": {"a": 1, "b": 0}} or [{"label": "a", "value": 1}, …].
    """
    if isinstance(value, dict) and value.keys() == {"cats"}:
        value = value["cats"]
    if isinstance(value, list) and value and all(map(_is_category, value)):
        value = {item["label"]: item["value"] for item in value}
    if isinstance(value, dict) and value and all(isinstance(share, int | float) for share in value.values()):
        value = [name for name, share in value.items() if share > 0.5]
    return value


def _label_list(value: Any) -> list[Any] | None:
    """Return the labels of a list, of a list written as text, or of categories; None for any other value."""
    if isinstance(value, str) and len(value) <= MAX_LIST_CHARS and value.lstrip().startswith("["):
        with suppress(ValueError, SyntaxError, RecursionError):
            value = ast.literal_eval(value.strip()) if _LIST.fullmatch(value) else json.loads(value)
    value = _chosen_categories(value)
    return list(value) if isinstance(value, list | tuple) else None


def _is_category(item: Any) -> bool:
    return isinstance(item, dict) and item.keys() == {"label", "value"} and isinstance(item["label"], str)


def _encodable(text: str) -> str:
    """Refuse text with undecodable bytes, or half of a JSON surrogate pair, in it."""
    if not is_encodable(text):
        raise _Unusable(BAD_BYTES)
    return text
