"""Parquet files, in batches that stay small however the file was packed.

A page of a few bytes can say that a text of 10 MB comes a million times. Such columns stay dictionaries here,
whose texts are looked up row by row, and a batch has as few rows as could fill `MAX_BATCH_BYTES` at worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetune.data.compression import Unpacked
from edgetune.utils import limits
from edgetune.utils.errors import DataError

BATCH_ROWS = 1_000
BUFFER_BYTES = 1 << 20
_PREFIXED = "DELTA_BYTE_ARRAY"  # a value may be the one before it and a few more characters


def check_claims(path: Path, metadata: Any) -> None:
    """Refuse a file that says itself that it is a bomb."""
    unpacked = Unpacked(path)
    for i in range(metadata.num_row_groups):
        unpacked.add(max(metadata.row_group(i).total_byte_size, 0))


def batch_rows(opened: Any, columns: list[str], wanted: list[int]) -> int:
    """Return how many rows of a `pyarrow.parquet.ParquetFile` can be unpacked at once.

    Args:
        opened: the file.
        columns: to be read.
        wanted: numbers of the columns in the file that these consist of.
    """
    largest = 1
    for i in range(opened.metadata.num_row_groups):
        group = opened.metadata.row_group(i)
        if group.num_rows <= 0:
            continue
        # To look at a damaged chunk ends the process, and to read a row of it raises an error.
        next(opened.iter_batches(batch_size=1, row_groups=[i], columns=columns), None)
        for j in wanted:
            chunk = group.column(j)
            size = int(chunk.total_uncompressed_size)
            largest = max(largest, size if _PREFIXED in chunk.encodings else size // group.num_rows)
    return max(1, min(BATCH_ROWS, limits.MAX_BATCH_BYTES // largest))


def batches(path: Path, parquet: Any, columns: list[str]) -> Iterator[Any]:
    """Yield record batches of some columns."""
    with parquet.ParquetFile(path) as file:
        check_claims(path, file.metadata)
        paths = [file.schema.column(i).path for i in range(len(file.schema))]
        wanted = [i for i, name in enumerate(paths) if name.split(".")[0] in columns]
    with parquet.ParquetFile(
        path, buffer_size=BUFFER_BYTES, read_dictionary=[paths[i] for i in wanted]
    ) as file:
        n_rows = batch_rows(file, columns, wanted)
        for batch in file.iter_batches(batch_size=n_rows, columns=columns):
            if batch.nbytes > limits.MAX_BATCH_BYTES:
                raise DataError(
                    f"A batch of {batch.num_rows:,} rows of {path} takes {batch.nbytes / 1e6:,.0f} MB, but "
                    f"at most {limits.MAX_BATCH_BYTES / 1e6:,.0f} MB are supported; remove the longest texts."
                )
            yield batch
