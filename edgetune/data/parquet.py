"""Parquet files, in batches that stay small however the file was packed.

A page of a few bytes can say that a text of 10 MB comes a million times, so a batch has as few rows as could
fill `MAX_BATCH_BYTES` at worst: by the size of the dictionary, which the header of its page tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgetune.data.compression import Unpacked
from edgetune.utils import limits
from edgetune.utils.errors import DataError

BATCH_ROWS = 1_000
BUFFER_BYTES = 1 << 20
_DICTIONARY_PAGE = 2
_PREFIXED = "DELTA_BYTE_ARRAY"  # a value may be the one before it and a few more characters


def check_claims(path: Path, metadata: Any) -> None:
    """Refuse a file that says itself that it is a bomb."""
    unpacked = Unpacked(path)
    for i in range(metadata.num_row_groups):
        unpacked.add(max(metadata.row_group(i).total_byte_size, 0))


def batch_rows(path: Path, opened: Any, columns: list[str]) -> int:
    """Return how many rows of a `pyarrow.parquet.ParquetFile` can be unpacked at once."""
    schema, metadata = opened.schema, opened.metadata
    wanted = [j for j in range(len(schema)) if schema.column(j).path.split(".")[0] in columns]
    largest = 1
    with path.open("rb") as file:
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            if group.num_rows <= 0:
                continue
            # To look at a damaged chunk ends the process, and to read a row of it raises an error.
            next(opened.iter_batches(batch_size=1, row_groups=[i], columns=columns), None)
            for j in wanted:
                chunk = group.column(j)
                mean = int(chunk.total_uncompressed_size // group.num_rows)
                largest = max(largest, mean, _largest_value(file, chunk))
    return max(1, min(BATCH_ROWS, limits.MAX_BATCH_BYTES // largest))


def _largest_value(file: IO[bytes], chunk: Any) -> int:
    """Return how many bytes can come again and again out of a column chunk."""
    if _PREFIXED in chunk.encodings:
        return int(chunk.total_uncompressed_size)
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        starts.append(chunk.dictionary_page_offset)
    sizes = [_page(file, start) for start in starts]
    return max(size if kind == _DICTIONARY_PAGE else 0 for kind, size in sizes)


def _page(file: IO[bytes], start: int) -> tuple[int, int]:
    """Return kind and unpacked size of a page, the first two fields of its header (Thrift's compact form)."""
    file.seek(max(start, 0))
    head = file.read(16)
    kind, at = _field(head, 0)
    size, _ = _field(head, at)
    return kind, size


def _field(head: bytes, at: int) -> tuple[int, int]:
    """Return the value of the next field, a 32-bit number, and where it ends."""
    if head[at : at + 1] != b"\x15":
        raise ValueError("a page has no header")
    value, n_read = 0, 0
    for byte in head[at + 1 :]:
        value |= (byte & 0x7F) << (7 * n_read)
        n_read += 1
        if byte < 0x80:
            break
    return (value >> 1) ^ -(value & 1), at + 1 + n_read


def batches(path: Path, parquet: Any, columns: list[str]) -> Iterator[Any]:
    """Yield record batches of some columns."""
    with parquet.ParquetFile(path, buffer_size=BUFFER_BYTES) as file:
        check_claims(path, file.metadata)
        n_rows = batch_rows(path, file, columns)
        for batch in file.iter_batches(batch_size=n_rows, columns=columns):
            if batch.nbytes > limits.MAX_BATCH_BYTES:
                raise DataError(
                    f"A batch of {batch.num_rows:,} rows of {path} takes {batch.nbytes / 1e6:,.0f} MB, but "
                    f"at most {limits.MAX_BATCH_BYTES / 1e6:,.0f} MB are supported; remove the longest texts."
                )
            yield batch
