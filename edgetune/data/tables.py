"""Columnar tables through pyarrow: Parquet, Arrow, and folders that `datasets` saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgetune.data.rows import BadRow, Row, Table
from edgetune.errors import DataError, EnvironmentError_

BATCH_ROWS = 1_000

ArrowBatches = Callable[[list[str]], Iterator[Any]]  # column names → pyarrow record batches or tables


def _arrow_module(name: str) -> Any:
    """Import a part of pyarrow, which takes a while and is not always needed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentError_("Reading Parquet and Arrow files needs: pip install pyarrow") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into one sentence."""
    arrow = _arrow_module("pyarrow")
    try:
        yield
    except (arrow.ArrowException, OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_parquet(path: Path) -> Table:
    """Open a Parquet file; memory holds one row group's pages at a time."""
    parquet = _arrow_module("pyarrow.parquet")
    with _translated(path), parquet.ParquetFile(path) as opened:
        schema = opened.schema_arrow

    def batches(columns: list[str]) -> Iterator[Any]:
        with _translated(path), parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)

    return arrow_table(str(path), schema, batches)


def read_arrow(path: Path) -> Table:
    """Open an Arrow IPC file (Feather version 2) or stream."""
    return _arrow_files(str(path), [path])


def _arrow_files(name: str, paths: Sequence[Path]) -> Table:
    """Open Arrow files that follow each other."""
    with _translated(paths[0]), _open_arrow(paths[0]) as (schema, _):
        pass

    def batches(columns: list[str]) -> Iterator[Any]:
        for path in paths:
            with _translated(path), _open_arrow(path) as (_, parts):
                for part in parts:
                    for start in range(0, part.num_rows, BATCH_ROWS):
                        yield part.slice(start, BATCH_ROWS).select(columns)

    return arrow_table(name, schema, batches)


@contextmanager
def _open_arrow(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Map an Arrow file into memory; yields its schema and its record batches."""
    arrow = _arrow_module("pyarrow")
    with arrow.memory_map(str(path), "r") as source:
        if bytes(source.read(6)) == b"ARROW1":
            reader = arrow.ipc.open_file(source)
            yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            source.seek(0)
            stream = arrow.ipc.open_stream(source)
            yield stream.schema, iter(stream)


def read_saved(folder: Path) -> Table:
    """Open a folder that `datasets` wrote with `save_to_disk`; the library itself is not needed.

    Raises:
        DataError: the folder holds several splits, or is damaged.
    """
    splits = folder / "dataset_dict.json"
    try:
        if splits.is_file():
            names = json.loads(splits.read_text("utf-8"))["splits"]
            raise DataError(
                f"{folder} holds the splits {', '.join(names)}; name one, like {folder / names[0]}."
            )
        state = json.loads((folder / "state.json").read_text("utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{folder} is a damaged dataset folder ({first_line(error)}); save it again."
        ) from error
    if not files:
        raise DataError(f"{folder} is a dataset without rows.")
    return _arrow_files(str(folder), files)


def arrow_table(name: str, schema: Any, batches: ArrowBatches) -> Table:
    """Make a table of record batches; ids of a `datasets.ClassLabel` become their names."""
    columns = tuple(str(column) for column in schema.names)
    classes = class_names(schema.metadata)

    def rows(chosen: Sequence[int]) -> Iterator[Row | BadRow]:
        names = [columns[i] for i in chosen]
        row = 0
        for batch in batches(list(dict.fromkeys(names))):
            values = [_named(batch.column(column).to_pylist(), classes.get(column)) for column in names]
            yield from enumerate(zip(*values, strict=True), start=row + 1)
            row += batch.num_rows

    return Table(name, columns, True, (), rows)


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names that `datasets` keeps in a file's schema, by column."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _named(values: list[Any], names: list[str] | None) -> list[Any]:
    """Replace class ids by names; -1 stands for "no label"."""
    if names is None:
        return values
    return [
        names[value] if isinstance(value, int) and 0 <= value < len(names) else None if value == -1 else value
        for value in values
    ]
