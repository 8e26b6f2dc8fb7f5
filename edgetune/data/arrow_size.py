"""What the record batches of an Arrow file unpack to, told without unpacking them.

A compressed batch is unpacked whole by pyarrow, to the size that eight bytes in front of each of its buffers
claim. They are read here first: Flatbuffers tables of `Message.fbs`, no more of them than that takes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_RECORD_BATCH, _DICTIONARY = 3, 2  # MessageHeader
_HEADER_TYPE, _HEADER = 1, 2  # fields of Message
_BUFFERS, _COMPRESSION = 2, 3  # fields of RecordBatch
_DATA = 1  # field of DictionaryBatch


def unpacked_sizes(arrow: Any, source: Any) -> Iterator[int]:
    """Yield the bytes that each compressed batch unpacks to, 0 for one that is not compressed.

    Raises:
        ValueError, struct.error, pyarrow.ArrowException: the stream is damaged.
    """
    for message in arrow.ipc.MessageReader.open_stream(source):
        yield _unpacked(memoryview(message.metadata), message.body)


def _unpacked(metadata: memoryview, body: Any) -> int:
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
    """Return where a field of a table lies, 0 when it is not there."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    if layout < 0:
        raise ValueError("a table of the file's metadata lies outside of it")
    if 4 + 2 * number >= struct.unpack_from("<H", data, layout)[0]:
        return 0
    offset = struct.unpack_from("<H", data, layout + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    """Return what a reference at a place points to."""
    return int(at + struct.unpack_from("<I", data, at)[0])
