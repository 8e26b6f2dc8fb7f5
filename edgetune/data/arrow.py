"""Columnar tables through pyarrow: Parquet, Arrow, and folders that `datasets` saved.

pyarrow unpacks a compressed Arrow batch as a whole, to the size that the eight bytes in front of each of its
buffers claim. These sizes are read first, from the Flatbuffers tables of `Message.fbs`; no more of that
format is parsed. A Parquet page of a few bytes can repeat a text of 10 MB a million times, so such columns
stay dictionaries, whose texts are looked up row by row, in batches of at most `MAX_BATCH_BYTES`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from edgetune.data.table import MAX_PATH_KEYS, MAX_PATHS, BadRow, Parts, Row, Table, value_at
from edgetune.data.text_files import Unpacked, resolves_inside
from edgetune.utils.errors import DataError, EdgetuneError
from edgetune.utils.limits import MAX_BATCH_BYTES, MAX_COLUMNS, MAX_TOML_BYTES
from edgetune.utils.sanitize import brief

_RECORD_BATCH, _DICTIONARY = 3, 2  # MessageHeader
_HEADER_TYPE, _HEADER = 1, 2  # fields of Message
_BUFFERS, _COMPRESSION = 2, 3  # fields of RecordBatch
_DATA = 1  # field of DictionaryBatch


def _unpacked_size(metadata: memoryview, body: Any) -> int:
    """Return the bytes that a compressed batch unpacks to, 0 for one that is not compressed."""
    root = struct.unpack_from("<I", metadata, 0)[0]
    kind_at, header_at = _field(metadata, root, _HEADER_TYPE), _field(metadata, root, _HEADER)
    if not kind_at or not header_at or body is None:
        return 0
    kind, batch = metadata[kind_at], _follow(metadata, header_at)
    if kind == _DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, _DATA))
    elif kind != _RECORD_BATCH:
        return 0
    buffers_at = _field(metadata, batch, _BUFFERS)
    if not _field(metadata, batch, _COMPRESSION) or not buffers_at:
        return 0
    vector = _follow(metadata, buffers_at)
    n_buffers = struct.unpack_from("<I", metadata, vector)[0]
    content = memoryview(body)
    total = 0
    for offset, length in struct.iter_unpack("<qq", metadata[vector + 4 : vector + 4 + 16 * n_buffers]):
        if length >= 8:
            size = struct.unpack_from("<q", content, offset)[0]
            total += length - 8 if size == -1 else max(size, 0)
    return total


def _field(data: memoryview, table: int, number: int) -> int:
    """Return the position of a field of a table, 0 if the field is missing."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    if layout < 0:
        raise ValueError("its metadata refers to a position outside the file")
    if 4 + 2 * number >= struct.unpack_from("<H", data, layout)[0]:
        return 0
    offset = struct.unpack_from("<H", data, layout + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    """Return the position that the reference at a position points to."""
    return int(at + struct.unpack_from("<I", data, at)[0])


BATCH_ROWS = 1_000
BUFFER_BYTES = 1 << 20
_PREFIXED = "DELTA_BYTE_ARRAY"  # a value may consist of the previous one and a few more characters
COUNTED_CHARS = 1 << 20
ROW_BYTES = 8  # counted for every row, even an empty one
MAX_ERROR_CHARS = 200
MAX_NAME_CHARS = 255

# column names → pyarrow record batches or tables, each with what counts the bytes of its file
ArrowBatches = Callable[[list[str]], Iterator[tuple[Callable[[int], None], Any]]]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn any exception of pyarrow for a malformed file into a one-sentence error."""
    try:
        yield
    except EdgetuneError:
        raise
    except Exception as error:  # besides its own: KeyError, OverflowError, UnicodeError and others
        raise DataError(f"{path} cannot be read: {first_error_line(error)}") from error


def first_error_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return brief((str(error).strip() or type(error).__name__).splitlines()[0], MAX_ERROR_CHARS)


def read_parquet(path: Path) -> Table:
    """Open a Parquet file; memory holds a page of each column at a time."""
    from pyarrow.parquet import ParquetFile

    with _translated(path), ParquetFile(path) as opened:
        schema = opened.schema_arrow
        _check_claims(path, opened.metadata)
    return arrow_table(str(path), schema, partial(_parquet_batches, path))


def _check_claims(path: Path, metadata: Any) -> None:
    """Refuse a file whose own metadata claim too large a size."""
    unpacked = Unpacked(path)
    for i in range(metadata.num_row_groups):
        unpacked.add(max(metadata.row_group(i).total_byte_size, 0))


def batch_rows(opened: Any, columns: list[str], wanted: list[int]) -> int:
    """Return how many rows of some columns of a `ParquetFile`, whose indices are `wanted`, fit in memory."""
    largest = 1
    for i in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(i)
        if group.num_rows <= 0:
            continue
        # Inspecting a damaged chunk ends the process; reading a row of it raises an error.
        next(opened.iter_batches(batch_size=1, row_groups=[i], columns=columns), None)
        for j in wanted:
            chunk = group.column(j)
            size = int(chunk.total_uncompressed_size)
            largest = max(largest, size if _PREFIXED in chunk.encodings else size // group.num_rows)
    return max(1, min(BATCH_ROWS, MAX_BATCH_BYTES // largest))


def _parquet_batches(path: Path, columns: list[str]) -> Iterator[tuple[Callable[[int], None], Any]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        _check_claims(path, file.metadata)
        paths = [file.schema.column(i).path for i in range(len(file.schema))]
    count = Unpacked(path).add
    wanted = [i for i, name in enumerate(paths) if name.split(".")[0] in columns]
    with ParquetFile(path, buffer_size=BUFFER_BYTES, read_dictionary=[paths[i] for i in wanted]) as file:
        n_rows = batch_rows(file, columns, wanted)
        for batch in file.iter_batches(batch_size=n_rows, columns=columns):
            if batch.nbytes > MAX_BATCH_BYTES:
                raise DataError(
                    f"A batch of {batch.num_rows:,} rows of {path} takes {batch.nbytes / 1e6:,.0f} MB, but "
                    f"at most {MAX_BATCH_BYTES / 1e6:,.0f} MB are supported; remove the longest texts."
                )
            yield count, batch


def read_arrow(name: str, paths: Sequence[Path]) -> Table:
    """Open Arrow IPC files (Feather version 2) or streams, as one table."""
    with _translated(paths[0]), _open_arrow(paths[0]) as (schema, _):
        pass

    def batches(columns: list[str]) -> Iterator[tuple[Callable[[int], None], Any]]:
        for path in paths:
            with _translated(path), _open_arrow(path) as (_, parts):
                count = Unpacked(path).add
                for part in parts:
                    chosen = part.select(columns)
                    chosen.validate(full=True)  # else a damaged file crashes the process
                    for start in range(0, chosen.num_rows, BATCH_ROWS):
                        yield count, chosen.slice(start, BATCH_ROWS)

    return arrow_table(name, schema, batches)


@contextmanager
def _open_arrow(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Map an Arrow file into memory; yields its schema and its record batches.

    A file is read as the stream inside it; its footer, which has the positions of the batches, is not needed.
    """
    import pyarrow as arrow

    with arrow.memory_map(str(path), "r") as source:
        start = 8 if bytes(source.read(6)) == b"ARROW1" else 0
        source.seek(start)
        unpacked = Unpacked(path)
        for message in arrow.ipc.MessageReader.open_stream(source):
            size = _unpacked_size(memoryview(message.metadata), message.body)
            unpacked.add(size)
            if size > MAX_BATCH_BYTES:
                raise DataError(
                    f"{path} contains a record batch of {size / 1e6:,.0f} MB when decompressed, but at most "
                    f"{MAX_BATCH_BYTES / 1e6:,.0f} MB are supported; write smaller batches."
                )
        source.seek(start)
        stream = arrow.ipc.open_stream(source)
        yield stream.schema, iter(stream)


@contextmanager
def _damaged_folder(folder: Path) -> Iterator[None]:
    """Turn the exceptions of a malformed description of a saved dataset into a one-sentence error."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder} is a damaged dataset folder ({first_error_line(error)}); save the dataset again."
        ) from error


def _names_inside(folder: Path, names: Sequence[str]) -> list[Path]:
    if max(map(len, names), default=0) > MAX_NAME_CHARS:
        raise ValueError("it refers to a file whose name is too long")
    return [resolves_inside(folder / name, folder) for name in names]


def saved_parts(folder: Path) -> dict[str, Path]:
    """Return the folders that `datasets` wrote for a `DatasetDict`, by the name of the part."""
    with _damaged_folder(folder):
        names = [str(name) for name in list(_small_json(folder / "dataset_dict.json", folder)["splits"])]
        found = dict(zip(names, _names_inside(folder, names), strict=True))
        if Parts.of(names) is None:
            raise DataError(
                f"{folder} contains the splits {brief(', '.join(names))}, none of which is called train; "
                f"pass one of them, such as {folder / brief(names[0])}."
            )
        if not all((path / "state.json").is_file() for path in found.values()):
            raise ValueError("a part is missing")
    return found


def saved_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder that `datasets` wrote with `save_to_disk`, in order."""
    with _damaged_folder(folder):
        state = _small_json(folder / "state.json", folder)
        files = _names_inside(folder, [str(entry["filename"]) for entry in state["_data_files"]])
    if not files:
        raise DataError(f"The dataset in {folder} has no rows.")
    return files


def _small_json(path: Path, root: Path) -> Any:
    with resolves_inside(path, root).open("rb") as file:
        text = file.read(MAX_TOML_BYTES + 1)
    if len(text) > MAX_TOML_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_TOML_BYTES:,} bytes")
    return json.loads(text)


def arrow_table(name: str, schema: Any, batches: ArrowBatches) -> Table:
    """Make a table of record batches; ids of a `datasets.ClassLabel` become their names."""
    with _translated(Path(name)):
        paths: dict[str, tuple[str, ...]] = {str(column): (str(column),) for column in schema.names}
        n_columns = len(paths)
        deeper = (path for field in schema for path in _paths((field.name,), field.type))
        for path in islice(deeper, MAX_PATHS):
            paths.setdefault(".".join(path), path)
    if n_columns > MAX_COLUMNS:
        raise DataError(f"{name} has {n_columns:,} columns, but at most {MAX_COLUMNS:,} are supported.")
    classes = class_names(schema.metadata)
    columns = tuple(paths)

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        places = [paths[columns[i]] for i in chosen]
        names = [place[0] for place in places]
        n_rows = 0
        with _translated(Path(name)):
            for count, batch in batches(list(dict.fromkeys(names))):
                values = (_values(batch, place, classes.get(".".join(place))) for place in places)
                n_chars = 0
                # Row by row, since a few bytes of a file may stand for the same long text many times.
                for cells in zip(*values, strict=True):
                    n_rows += 1
                    n_chars += ROW_BYTES + sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
                    if n_chars > COUNTED_CHARS:
                        count(n_chars)
                        n_chars = 0
                    yield n_rows, cells
                count(n_chars)

    return Table(name, columns, True, (), rows, n_deeper=len(columns) - n_columns)


def dataset_table(name: str, dataset: Any) -> Table:
    """Make a table of a `datasets.Dataset`; ids of a `ClassLabel` become their names."""

    def batches(columns: list[str]) -> Iterator[tuple[Callable[[int], None], Any]]:
        for batch in dataset.select_columns(columns).with_format("arrow").iter(batch_size=BATCH_ROWS):
            yield lambda n_bytes: None, batch

    return arrow_table(name, dataset.features.arrow_schema, batches)


def _paths(above: tuple[str, ...], kind: Any) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the fields of a struct, or of the structs of a list, under a path."""
    while hasattr(kind, "value_field"):  # a list
        kind = kind.value_type
    if len(above) < MAX_PATH_KEYS and hasattr(kind, "get_field_index"):  # a struct
        for field in kind:
            yield (*above, field.name)
            yield from _paths((*above, field.name), field.type)


def _values(batch: Any, place: Sequence[str], names: list[str] | None) -> Iterator[Any]:
    cells = _named(batch.column(place[0]), names)
    return cells if len(place) == 1 else (value_at(cell, place[1:]) for cell in cells)


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names that `datasets` keeps in a schema, by column of classes or of lists of them."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        inner = {
            column: feature["feature"] if isinstance(feature, dict) and "feature" in feature else feature
            for column, feature in features.items()
        }
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in inner.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _named(column: Any, names: list[str] | None) -> Iterator[Any]:
    """Yield the values of a column, class ids replaced by their names; -1 stands for "no label"."""
    for scalar in column:
        value = scalar.as_py()
        if names is None:
            yield value
        else:
            yield [_name(one, names) for one in value] if isinstance(value, list) else _name(value, names)


def _name(value: Any, names: list[str]) -> Any:
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value
