"""Rows that a program has in memory: lists, dicts of columns, pandas data frames, `datasets.Dataset`.

rows in memory ─→ Table ─┬─→ texts to classify
                         └─→ a file in the cache (rows/HASH.jsonl), which is then read like any other file
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from edgetune.data.arrow import dataset_table
from edgetune.data.examples import DataOptions, find_columns, texts_of_table
from edgetune.data.json_rows import object_table
from edgetune.data.table import BadRow, Table
from edgetune.data.token_format import text_or_pair
from edgetune.utils.cache import cache_subfolder, mark_in_use
from edgetune.utils.errors import DataError, EdgetuneError, ResourceError, UsageError
from edgetune.utils.parsing import is_encodable
from edgetune.utils.sanitize import brief

Data: TypeAlias = Any
"""A path (`str` or `Path`), or rows in memory: a list of (text, label) pairs or of dicts, a dict of columns,
a pandas `DataFrame`, or a `datasets.Dataset`."""
Texts: TypeAlias = Any
"""A list of texts or of pairs of texts, a pandas `Series`, or a table as in `Data`."""

ROWS: Final = "rows"
"""Folder of the copies in the cache."""
NAME = "the data in memory"
_COPY = re.compile(r"[0-9a-f]{32}\.jsonl")
LABELLED = (
    "give the path of a file, a list of (text, label) pairs or of dicts, a dict of columns, a pandas "
    "DataFrame, or a datasets.Dataset"
)
TEXTS = (
    "give a list of texts or of pairs of texts, a dict of columns, a pandas Series or DataFrame, or a "
    "datasets.Dataset"
)


def as_path(data: Data, cache_dir: os.PathLike[str], options: DataOptions) -> str:
    """Return a path to read labelled rows from; rows in memory are first copied to a file.

    Args:
        data: see `Data`.
        cache_dir: where the copy is kept; `edgetune clean` removes it.
        options: which columns hold text and label; a list of pairs has columns of these names.

    Raises:
        UsageError: it is neither a path nor rows, or the text or label column cannot be found.
        DataError: there are no rows.
        ResourceError: the copy cannot be written.
    """
    if isinstance(data, str | os.PathLike):
        return str(data)
    table = _as_table(data)
    if table is None:
        table = _table_of_pairs(_items(data, LABELLED), options)
    find_columns(table, options)
    return _written(table, cache_dir)


def name_copies(text: str, *paths: str | None) -> str:
    """Replace the paths of files that are copies of rows in memory by words in a message."""
    for path in paths:
        if path is None or Path(path).parent.name != ROWS or _COPY.fullmatch(Path(path).name) is None:
            continue
        row = re.compile(re.escape(path) + r"(?::(\d+))?")
        named = row.sub(lambda found: f"row {found[1]} of {NAME}" if found[1] else NAME, text)
        text = named[:1].upper() + named[1:] if text.startswith(path) and text != path else named
    return text


@contextmanager
def naming_copies(*paths: str | None) -> Iterator[None]:
    """Apply `name_copies` to the message of an error."""
    try:
        yield
    except EdgetuneError as error:
        error.args = (name_copies(str(error), *paths),)
        raise


def texts_of(data: Texts, options: DataOptions) -> list[str | tuple[str, str]]:
    """Return the texts, or pairs of texts, to classify; a missing value of a table is an empty text.

    Args:
        data: see `Texts`.
        options: which columns of a table hold the text.

    Raises:
        UsageError: it has no texts, or an item is not a text.
        DataError: a cell of a table is not a text.
    """
    if isinstance(data, str | bytes | os.PathLike):
        raise UsageError(
            "predict takes a list of texts, not a single string; wrap the text in a list. To classify the "
            "rows of a file, use `edgetune predict RUN --file FILE`."
        )
    table = _as_table(data)
    if table is not None:
        rows = texts_of_table(table, options).rows
        return [text_or_pair(row.text, row.text_pair) for row in rows]
    if _is_pandas(data):
        data = ["" if value is None else value for value in _cells(data)]
    return [_text_item(number, item) for number, item in enumerate(_items(data, TEXTS))]


def _text_item(number: int, item: Any) -> str | tuple[str, str]:
    is_pair = isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(one, str) for one in item)
    if not is_pair and not isinstance(item, str):
        raise UsageError(
            f"Item {number} of the list is {_described(item)}, not a text or a pair of texts; "
            'use "" for an empty text.'
        )
    if not all(map(is_encodable, item if is_pair else [item])):
        raise UsageError(
            f"Item {number} of the list contains half of a surrogate pair, which is not valid Unicode; "
            "repair the text."
        )
    given: str | tuple[str, str] = (item[0], item[1]) if is_pair else item
    return given


def _described(item: Any) -> str:
    """Name a value in a sentence, however large it is."""
    if item is None:
        return "None"
    kind = type(item).__name__
    return f"{item!r} ({kind})" if isinstance(item, bool | int | float) else f"of type {brief(kind)}"


def _items(data: Any, wanted: str) -> list[Any]:
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise UsageError(f"Data {_described(data)} cannot be read; {wanted}.")
    return list(data)


def _is_pandas(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "pandas"


def _as_table(data: Any) -> Table | None:
    """Return data with named columns as a table; None if its columns have no names."""
    if isinstance(data, Mapping):
        if any(hasattr(part, "column_names") for part in data.values()):
            splits = ", ".join(brief(name) for name in data)
            raise UsageError(
                f"The data has the splits {splits}; pass one of them, such as data[{next(iter(data))!r}]."
            )
        return _table_of_columns([str(name) for name in data], list(data.values()))
    if hasattr(data, "column_names") and hasattr(data, "features"):
        if not hasattr(data, "num_rows"):
            raise UsageError("A streamed dataset cannot be read twice; load it without streaming=True.")
        return dataset_table(NAME, data)
    if _is_pandas(data) and hasattr(data, "columns"):
        names = [str(name) for name in data.columns]
        return _table_of_columns(names, [data.iloc[:, i] for i in range(len(names))])
    if isinstance(data, Sequence) and data and isinstance(data[0], Mapping):
        return _table_of_dicts(data)
    return None


def _table_of_columns(names: list[str], columns: list[Any]) -> Table:
    for name, column in zip(names, columns, strict=True):
        if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
            raise UsageError(
                f'Column "{brief(name)}" of the data is {_described(column)}; give a list of values.'
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f'The data has two columns named "{brief(twice)}"; rename one of them.')
    cells = [_cells(column) for column in columns]
    if len({len(values) for values in cells}) > 1:
        lengths = ", ".join(f'"{brief(n)}" {len(v):,}' for n, v in list(zip(names, cells, strict=True))[:5])
        raise UsageError(f"The columns of the data have different numbers of values: {lengths}.")
    return _table(names, lambda chosen: zip(*(cells[i] for i in chosen), strict=True))


def _table_of_dicts(items: Sequence[Any]) -> Table:
    names: dict[str, None] = {}
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise UsageError(f"Item {number} of the list is {_described(item)}, but item 0 is a dict.")
        names.update(dict.fromkeys(map(str, item)))

    def rows() -> Iterator[tuple[int, Any]]:
        for number, item in enumerate(items, start=1):
            found = {str(key): _cell(value) for key, value in item.items()}
            yield number, {**dict.fromkeys(names), **found}

    return object_table(NAME, rows)


def _table_of_pairs(items: Sequence[Any], options: DataOptions) -> Table:
    """Make a table of (text, label) pairs, whose columns are named as the options want them."""
    for number, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], str):
            raise UsageError(
                f"Item {number} of the list is {_described(item)}; each item must be a (text, label) pair or "
                "a dict, and the text a str."
            )
    text = options.text[0] if len(options.text) == 1 else "text"
    label = "label" if options.label is None else options.label
    return _table([text, label], lambda chosen: ([_cell(item[i]) for i in chosen] for item in items))


def _table(names: Sequence[str], rows: Callable[[Sequence[int]], Iterable[Sequence[Any]]]) -> Table:
    return Table(NAME, tuple(names), True, (), lambda chosen: enumerate(rows(chosen), start=1))


def _cells(column: Any) -> list[Any]:
    """Return the values of a column; None for a missing one."""
    if _is_pandas(column):
        missing = column.isna().tolist()
        values = zip(column.tolist(), missing, strict=True)
        return [None if gone else _cell(value) for value, gone in values]
    return [_cell(value) for value in column]


def _cell(value: Any) -> Any:
    """Return a scalar, an array or a set as a value that JSON supports, and None for NaN."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    return None if isinstance(value, float) and math.isnan(value) else value


def _written(table: Table, cache_dir: os.PathLike[str]) -> str:
    """Write a table into the cache as JSON Lines, named by its content."""
    digest, n_rows = hashlib.sha256(), 0
    scratch: Path | None = None
    try:
        home = cache_subfolder(Path(cache_dir), ROWS)
        columns = table.columns[: table.n_whole]
        handle, name = tempfile.mkstemp(prefix=".rows-", suffix=f".{os.getpid()}.tmp", dir=home)
        scratch = Path(name)
        with open(handle, "wb") as file:
            for row in table.read(range(len(columns))):
                assert not isinstance(row, BadRow)  # a row in memory has all columns
                found = dict(zip(columns, map(_json_value, row[1]), strict=True))
                line = json.dumps(found, default=str).encode() + b"\n"
                digest.update(line)
                file.write(line)
                n_rows += 1
        if not n_rows:
            raise DataError("The data has no rows.")
        path = home / f"{digest.hexdigest()[:32]}.jsonl"
        os.replace(scratch, path)
    except OSError as error:
        raise ResourceError(
            f"Cannot write the rows to {cache_dir} ({error.strerror or error}); choose another folder with "
            "cache_dir."
        ) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
    mark_in_use(path)
    return str(path)


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value
