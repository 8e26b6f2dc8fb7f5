"""JSON lines, and JSON files read object by object so that memory stays flat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from edgetune.data.table import NOT_AN_OBJECT, UNREADABLE_JSON, BadRow, Row, Table, excerpt_of
from edgetune.data.text_files import TextFile, open_text, suffixes_of
from edgetune.utils.errors import DataError
from edgetune.utils.limits import MAX_COLUMN_FILE_CHARS, MAX_COLUMNS, MAX_JSON_VALUES, MAX_LINE_CHARS
from edgetune.utils.parsing import LENIENT, check_depth, decode_json

NAME_ROWS = 100  # rows whose keys make up the columns
_SPACE = " \t\r\n"
_STRICT = json.JSONDecoder()

Objects = Callable[[], Iterator[tuple[int, Any] | BadRow]]


def read_json_rows(path: Path, encoding: str) -> Table:
    """Open a .json or .jsonl file; which of the two it is, its content decides."""
    file = open_text(path, encoding)
    if _is_lines(file):
        return _table(path, lambda: _objects_by_line(file))
    if file.start.lstrip(_SPACE)[:1] == "[":
        return _table(path, lambda: enumerate(_JsonStream(file).items(), start=1))
    key = _list_of_objects(file)
    if key is not None:
        return _table(path, lambda: enumerate(_JsonStream(file).items(key), start=1))
    return _column_table(file)


def _is_lines(file: TextFile) -> bool:
    """Whether the first line is a whole JSON value and the file does not just end there."""
    if suffixes_of(file.path)[0] in (".jsonl", ".ndjson"):
        return file.start.lstrip(_SPACE)[:1] != "["
    filled = [line for line in islice(file.start_lines(), 100) if line.strip()]
    if len(filled) < 2:
        return False
    try:
        return isinstance(LENIENT.decode(filled[0]), dict)
    except (ValueError, RecursionError):
        return False


def _objects_by_line(file: TextFile) -> Iterator[tuple[int, Any] | BadRow]:
    """Yield (line, value) for every line that is not blank."""
    for number, line in enumerate(file.lines(), start=1):
        if not line or line.isspace():
            continue
        try:
            yield number, decode_json(line)
        except ValueError:
            yield BadRow(str(file.path), number, UNREADABLE_JSON, excerpt_of(line))


def _table(path: Path, objects: Objects) -> Table:
    """Make a table of objects; its columns are the keys of the first rows, in order of appearance."""
    names: dict[str, None] = {}
    for item in islice(objects(), NAME_ROWS):
        if not isinstance(item, BadRow) and isinstance(item[1], dict):
            names.update(dict.fromkeys(item[1]))
        if len(names) > MAX_COLUMNS:
            raise _too_many_columns(path, len(names))
    if not names:
        raise DataError(
            f"{path} contains no JSON objects; a row looks like "
            '{"text": "Great film", "label": "positive"}, one per line or in a list.'
        )
    columns = tuple(names)

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        keys = [columns[i] for i in chosen]
        for item in objects():
            if isinstance(item, BadRow):
                yield item
            elif isinstance(item[1], dict):
                yield item[0], [item[1].get(key) for key in keys]
            else:
                yield BadRow(str(path), item[0], NOT_AN_OBJECT, excerpt_of(item[1]))

    return Table(str(path), columns, True, (), rows)


def _too_many_columns(path: Path, n_columns: int) -> DataError:
    return DataError(
        f"The rows of {path} have {n_columns:,} different keys, but at most {MAX_COLUMNS:,} are supported; "
        'a row looks like {"text": "Great film", "label": "positive"}.'
    )


class _JsonStream:
    """Decodes one JSON value after the other from a text that is never in memory as a whole."""

    def __init__(self, file: TextFile) -> None:
        self._path = file.path
        self._blocks = file.blocks()
        self._text = ""
        self._at = 0
        self._n_read = 0

    def items(self, key: str | None = None) -> Iterator[Any]:
        """Yield the values of the list that the file is, or that it has under a key."""
        if key is not None:
            self._expect("{")
            while self._string() != key:
                self.value()
                self._expect(",")
        self._expect("[")
        if self._peek() == "]":
            return
        while True:
            yield self.value()
            if self._peek() == "]":
                return
            self._expect(",")

    def first_list_of_objects(self) -> str | None:
        """Return the first key of the object that holds a list of objects, None if there is none."""
        self._expect("{")
        while self._peek() == '"':
            key = self._string()
            if self._peek() == "[":
                self._at += 1
                if self._peek() == "{":
                    return key
                self._at -= 1
                return None  # columns of values
            self.value()
            if self._peek() != ",":
                return None
            self._at += 1
        return None

    def value(self, most: int = MAX_LINE_CHARS) -> Any:
        """Decode the next value, of so many characters at most, reading on until it is whole."""
        self._peek()
        while True:
            waiting = len(self._text) - self._at
            if waiting > MAX_JSON_VALUES and self._text.count(",", self._at) > MAX_JSON_VALUES:
                raise self._too_large(waiting)
            try:
                value, end = _STRICT.raw_decode(self._text, self._at)
                check_depth(value, sum(self._text.count(opening, self._at, end) for opening in "[{"))
            except json.JSONDecodeError as error:
                if not error.msg.startswith("Unterminated") and error.pos < len(self._text) - 16:
                    raise self._unreadable() from None
                if waiting > most:
                    raise self._too_large(most) from None
                if not self._more():
                    raise self._unreadable() from None
                continue
            except (RecursionError, ValueError):  # too deep, or a number with too many digits
                raise self._unreadable() from None
            if end < len(self._text) or not self._more():
                if end - self._at > most:
                    raise self._too_large(most)
                self._at = end
                return value

    def _too_large(self, n_chars: int) -> DataError:
        return DataError(
            f"{self._path} contains a JSON value of more than {n_chars:,} characters, starting at character "
            f"{self._n_read + self._at:,}; write each row as one object, one per line."
        )

    def _string(self) -> str:
        """Decode a key and the colon after it."""
        if self._peek() != '"':
            raise self._unreadable()
        key = self.value()
        self._expect(":")
        return str(key)

    def _peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._unreadable()
        self._at += 1

    def _more(self) -> bool:
        """Drop what was decoded, and read as much again as is waiting (at least one block)."""
        waiting = len(self._text) - self._at
        pieces = [self._text[self._at :]]
        self._n_read += self._at
        n_new = 0
        for block in self._blocks:
            pieces.append(block)
            n_new += len(block)
            if n_new >= max(waiting, 1):
                break
        self._text, self._at = "".join(pieces), 0
        return n_new > 0

    def _unreadable(self) -> DataError:
        found = excerpt_of(self._text[self._at : self._at + 40])
        at = self._n_read + self._at
        return DataError(f'{self._path} cannot be parsed as JSON near character {at:,} ("{found}").')


def _list_of_objects(file: TextFile) -> str | None:
    """Return the key of the rows in a file like {"data": [{...}, ...]}."""
    return _JsonStream(file).first_list_of_objects()


def _column_table(file: TextFile) -> Table:
    """Open {"text": [...], "label": [...]}, or pandas' {"text": {"0": ...}}; this one is read whole."""
    data = _JsonStream(file).value(MAX_COLUMN_FILE_CHARS)
    columns = {
        key: list(value.values()) if isinstance(value, dict) else value
        for key, value in data.items()
        if isinstance(value, dict | list)
    }
    if data and not columns:
        return _table(file.path, lambda: enumerate([data], start=1))  # JSON lines, but only one
    if len(columns) > MAX_COLUMNS:
        raise _too_many_columns(file.path, len(columns))
    if not columns or len({len(values) for values in columns.values()}) > 1:
        raise DataError(
            f"{file.path} is JSON, but neither a list of objects nor an object with lists of equal length."
        )

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        values = list(columns.values())
        yield from enumerate(zip(*(values[i] for i in chosen), strict=True), start=1)

    return Table(str(file.path), tuple(columns), True, (), rows)
