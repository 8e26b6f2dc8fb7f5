"""JSON files in all usual layouts of rows, read object by object so that memory use stays constant.

    one object a line                          {"text": "a", "label": 1}
    objects one after another, or in a list    {...}{...}    [{...}, {...}]
    arrays, in lines or in a list              ["a", 1]      [["text", "label"], ["a", 1]]
    rows under a key, or parts of a data set   {"data": [{...}]}    {"train": [{...}], "validation": [{...}]}
    columns, as pandas writes them             {"text": [...], "label": [...]} and its other orientations

Nested values of an object are columns too, named by their path: `data.text`, `annotations.label`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgetune.data.columns import LABEL_NAMES, TEXT_NAMES, wanted_names
from edgetune.data.delimited import HEADER_ROWS, has_header
from edgetune.data.table import (
    MAX_PATHS,
    NOT_AN_OBJECT,
    UNREADABLE_JSON,
    WRONG_LENGTH,
    BadRow,
    DataOptions,
    Parts,
    Row,
    Table,
    deeper_paths,
    excerpt_of,
    plain_name,
    value_at,
)
from edgetune.data.text_files import TextFile, open_text, suffixes_of
from edgetune.utils.errors import DataError
from edgetune.utils.limits import MAX_COLUMN_FILE_CHARS, MAX_COLUMNS, MAX_JSON_VALUES, MAX_LINE_CHARS
from edgetune.utils.parsing import LENIENT, check_depth, decode_json
from edgetune.utils.sanitize import brief

NAME_ROWS = 100  # rows whose keys make up the columns
_SPACE = " \t\r\n"
_FILLED = re.compile(r"[^ \t\r\n]")
_KIND = re.compile(r"\[[ \t\r\n]*[^ \t\r\n]|[^\[]")
_STRICT = json.JSONDecoder()
_SPLIT_KEYS = ("columns", "index")
_USUAL_NAMES = frozenset(name for names in (*TEXT_NAMES, LABEL_NAMES) for name in names)

Objects = Callable[[], Iterator[tuple[int, Any] | BadRow]]


def read_json_rows(path: Path, options: DataOptions) -> Table:
    """Open a .json or .jsonl file; its layout is detected from its content."""
    file = open_text(path, options.encoding)
    return replace(_table_of(file, options), encoding=file.encoding)


def _table_of(file: TextFile, options: DataOptions) -> Table:
    name, stream = str(file.path), _JsonStream(file)

    def items(key: str | None = None) -> Objects:
        return lambda: enumerate(_JsonStream(file).items(key), start=1)

    if _is_lines(file, wanted_names(options)):
        return object_table(name, lambda: _objects_by_line(file), options)
    if file.start.lstrip(_SPACE)[:1] == "[":
        return object_table(name, items(), options)
    keys, columns = stream.keys_of_rows()
    if columns is not None:
        return _array_table(name, items(keys[0]), columns, options)
    if stream.goes_on():
        return object_table(name, lambda: enumerate(_JsonStream(file).sequence(), start=1), options)
    if keys:
        return object_table(name, items(_part(name, keys, options.part)), options)
    return _column_table(file, options)


def json_parts(path: Path, encoding: str) -> Parts | None:
    """Return the keys of the lists of rows in a file, if one of them is a training part."""
    file = open_text(path, encoding)
    if _is_lines(file) or file.start.lstrip(_SPACE)[:1] != "{":
        return None
    return Parts.of(_JsonStream(file).keys_of_rows()[0])


def _part(name: str, keys: Sequence[str], part: str | None) -> str:
    if part is not None:
        return part
    parts = Parts.of(keys)
    if len(keys) > 1 and parts is None:
        raise DataError(
            f"{name} contains several lists of rows ({brief(', '.join(keys))}), none of which is called "
            "train; save the one to train on as a file of its own."
        )
    return keys[0] if parts is None else parts.train


def _is_lines(file: TextFile, wanted: Sequence[str] = ()) -> bool:
    """Whether lines are JSON values: one of the first is complete, and the file has more than that."""
    filled = [line for line in islice(file.start_lines(), 100) if line.strip()]
    whole = [value for line in filled if (value := _whole(line)) is not None]
    starts = file.start.lstrip(_SPACE)[:1]
    if suffixes_of(file.path)[0] in (".jsonl", ".ndjson") and starts != "[":
        if len(filled) == len(whole) == 1 and isinstance(whole[0], dict):
            return _has_names(whole[0], wanted)
        return bool(whole) or not _JsonStream(file).starts_well()
    if len(filled) < 2 or _whole(filled[0]) is None:
        return False
    return starts == "{" or _whole(filled[1]) is not None


def _whole(line: str) -> dict[str, Any] | list[Any] | None:
    """Return the object or array that a line consists of, or None; a comma may follow it."""
    try:
        value = LENIENT.decode(line.rstrip().removesuffix(","))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _objects_by_line(file: TextFile) -> Iterator[tuple[int, Any] | BadRow]:
    for number, line in enumerate(file.lines(), start=1):
        if not line or line.isspace():
            continue
        try:
            yield number, decode_json(line.rstrip().removesuffix(","))
        except ValueError:
            yield BadRow(str(file.path), number, UNREADABLE_JSON, excerpt_of(line))


def object_table(name: str, objects: Objects, options: DataOptions | None = None) -> Table:
    """Make a table of objects; its columns are the keys of the first rows, in order of appearance."""
    keys: dict[str, tuple[str, ...]] = {}
    deeper: dict[str, tuple[str, ...]] = {}
    for item in islice(objects(), NAME_ROWS):
        if isinstance(item, BadRow):
            continue
        if isinstance(item[1], list) and not keys:
            return _array_table(name, objects, None, options or DataOptions())
        for key, value in item[1].items() if isinstance(item[1], dict) else ():
            keys[key] = (key,)
            for place in deeper_paths((key,), value) if len(deeper) < MAX_PATHS else ():
                deeper.setdefault(".".join(map(str, place)), place)
        _check_columns(name, len(keys))
    if not keys:
        raise DataError(
            f"{name} contains no JSON objects; a row looks like "
            '{"text": "Great film", "label": "positive"}, one per line or in a list.'
        )
    paths = {**deeper, **keys}
    columns = (*keys, *(name for name in deeper if name not in keys))

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        places = [paths[columns[i]] for i in chosen]
        for item in objects():
            if isinstance(item, BadRow):
                yield item
            elif isinstance(item[1], dict):
                yield item[0], [value_at(item[1], place) for place in places]
            else:
                yield BadRow(name, item[0], NOT_AN_OBJECT, excerpt_of(item[1]))

    return Table(name, columns, True, (), rows, n_deeper=len(columns) - len(keys))


def _array_table(name: str, objects: Objects, names: Sequence[str] | None, options: DataOptions) -> Table:
    """Make a table of arrays; without names, the first array may hold them."""
    first_rows = [
        ["" if value is None else str(value) for value in item[1]]
        for item in islice(objects(), HEADER_ROWS)
        if not isinstance(item, BadRow) and isinstance(item[1], list)
    ]
    first = first_rows[0] if first_rows else []
    width = len(first if names is None else names)
    _check_columns(name, width)
    if not first:
        raise DataError(
            f'{name} is JSON, but has no rows; an array of values looks like ["Great film", "positive"].'
        )
    is_named, n_heading = True, 0
    if names is None:
        is_named = has_header(first_rows, wanted_names(options)) if options.header is None else options.header
        names = [column.strip() for column in first] if is_named else [str(i + 1) for i in range(width)]
        n_heading = int(is_named)

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        for item in islice(objects(), n_heading, None):
            if isinstance(item, BadRow):
                yield item
            elif isinstance(item[1], list) and len(item[1]) == width:
                yield item[0], [item[1][i] for i in chosen]
            else:
                yield BadRow(name, item[0], WRONG_LENGTH, excerpt_of(item[1]))

    return Table(name, tuple(names), is_named, tuple(first), rows)


def _check_columns(name: str, n_columns: int) -> None:
    if n_columns > MAX_COLUMNS:
        raise DataError(
            f"The rows of {name} have at least {n_columns:,} different keys, but at most {MAX_COLUMNS:,} are "
            'supported; a row looks like {"text": "Great film", "label": "positive"}.'
        )


class _JsonStream:
    """Decodes one JSON value after the other from a text that is never in memory as a whole."""

    def __init__(self, file: TextFile) -> None:
        self._path = file.path
        self._blocks = file.blocks()
        self._text = ""
        self._at = 0
        self._n_read = 0
        self._is_counted = False  # whether the rest of the text is known to have few enough commas

    def _steps(self, brackets: str) -> Iterator[None]:
        """Step through the next list or object; each of its items must be consumed before the next step."""
        self._expect(brackets[0])
        while self._peek() != brackets[1]:
            yield
            if self._peek() != brackets[1]:
                self._expect(",")
        self._at += 1

    def items(self, key: str | None = None) -> Iterator[Any]:
        """Yield the values of the list that the file consists of, or of the list under a key."""
        if key is not None:
            for _ in self._steps("{}"):
                if self._string() == key:
                    break
                self._skip()
        for _ in self._steps("[]"):
            yield self.value()

    def sequence(self) -> Iterator[Any]:
        """Yield values that follow each other, with or without a comma in between, to the end of the file."""
        while self._peek():
            yield self.value()
            if self._peek() == ",":
                self._at += 1

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Yield the keys and values of the object in the file, at most `MAX_COLUMN_FILE_CHARS` in all."""
        for _ in self._steps("{}"):
            yield self._string(), self.value(MAX_COLUMN_FILE_CHARS)
            if self._n_read + self._at > MAX_COLUMN_FILE_CHARS:
                raise self._too_large(MAX_COLUMN_FILE_CHARS)

    def goes_on(self) -> bool:
        """Whether another object follows."""
        if self._peek() == ",":
            self._at += 1
        return self._peek() == "{"

    def starts_well(self) -> bool:
        """Whether the file begins with a whole object."""
        try:
            return isinstance(self.value(), dict)
        except DataError:
            return False

    def keys_of_rows(self) -> tuple[list[str], list[str] | None]:
        """Read the next object, and return the keys of its lists of objects; none if it holds columns.

        Returns:
            The keys, and None. For an object with `columns` and a list of arrays (orient="split" of pandas),
            the key of that list, and the columns.
        """
        keys: list[str] = []
        columns: Any = None
        n_single = 0
        for _ in self._steps("{}"):
            key = self._string()
            kind = self._kind()
            n_single += kind[:1] not in "[{"
            _check_columns(str(self._path), n_single)
            if kind == "[[" and isinstance(columns, list) and columns:
                return [key], [str(name) for name in columns]
            if kind == "[{":
                keys.append(key)
            elif kind[:1] == "[" and key not in _SPLIT_KEYS and not keys:
                return [], None  # columns of values
            if key == "columns":
                columns = self.value()
            else:
                self._skip()
        return keys, None

    def _kind(self) -> str:
        """Return how the next value begins: its first character, and of a list the first one inside."""
        self._peek()
        while (found := _KIND.match(self._text, self._at)) is None:
            if not self._more():
                return ""
        return "".join(found.group().split())

    def _skip(self) -> None:
        """Skip the next value; a list of objects is skipped one object at a time, however long it is."""
        if self._kind() == "[{":
            for _ in self.items():
                pass
        else:
            self.value()

    def value(self, most: int = MAX_LINE_CHARS) -> Any:
        """Decode the next value, of at most `most` characters, reading on until it is complete."""
        self._peek()
        while True:
            waiting = len(self._text) - self._at
            if waiting > MAX_JSON_VALUES and not self._is_counted:
                if self._text.count(",", self._at) > MAX_JSON_VALUES:
                    raise self._too_large(waiting)
                self._is_counted = True
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
        if self._peek() != '"':
            raise self._unreadable()
        key = self.value()
        self._expect(":")
        return str(key)

    def _peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while (found := _FILLED.search(self._text, self._at)) is None:
            self._at = len(self._text)
            if not self._more():
                return ""
        self._at = found.start()
        return found.group()

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._unreadable()
        self._at += 1

    def _more(self) -> bool:
        """Drop what was decoded, and read as much again as is left (at least one block)."""
        waiting = len(self._text) - self._at
        pieces = [self._text[self._at :]]
        self._n_read += self._at
        n_new = 0
        for block in self._blocks:
            pieces.append(block)
            n_new += len(block)
            if n_new >= max(waiting, 1):
                break
        self._text, self._at, self._is_counted = "".join(pieces), 0, False
        return n_new > 0

    def _unreadable(self) -> DataError:
        found = excerpt_of(self._text[self._at : self._at + 40])
        at = self._n_read + self._at
        return DataError(f'{self._path} cannot be parsed as JSON near character {at:,} ("{found}").')


def _column_table(file: TextFile, options: DataOptions) -> Table:
    """Open {"text": [...], "label": [...]}, or pandas' {"text": {"0": ...}}; the file is read as a whole."""
    name = str(file.path)
    data: dict[str, Any] = {}
    n_lists = 0
    for key, value in _JsonStream(file).entries():
        data[key] = value
        n_lists += isinstance(value, list)
        _check_columns(name, n_lists)
    values, wanted = list(data.values()), wanted_names(options)
    is_rows = values and all(isinstance(row, dict) for row in values)
    if is_rows and _has_names(values[0], wanted) and not _has_names(data, wanted):
        return object_table(name, lambda: enumerate(values, start=1), options)  # by their index
    columns = {
        key: list(value.values()) if isinstance(value, dict) else value
        for key, value in data.items()
        if isinstance(value, dict | list)
    }
    if data and not columns:
        return object_table(name, lambda: enumerate([data], start=1), options)  # JSON lines, but only one
    _check_columns(name, len(columns))  # objects, as pandas writes them
    if not columns or len({len(values) for values in columns.values()}) > 1:
        raise DataError(
            f"{name} is JSON, but neither a list of objects nor an object with lists of equal length."
        )

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        values = list(columns.values())
        yield from enumerate(zip(*(values[i] for i in chosen), strict=True), start=1)

    return Table(name, tuple(columns), True, (), rows)


def _has_names(keys: dict[str, Any], wanted: Sequence[str]) -> bool:
    """Whether keys are names of columns: usual ones, or asked for."""
    named = {plain_name(name) for name in wanted if not name.isdigit()}
    return any(plain_name(key) in _USUAL_NAMES | named for key in keys)
