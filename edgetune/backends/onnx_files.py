"""Which files an ONNX graph would have ONNX Runtime open: read off the graph before the runtime sees it.

A tensor may lie in a file of its own, whose path stands in the graph (`external_data`, key `location`). This
walks the protobuf's structure by its field numbers (onnx.proto) and skips everything else, so that a graph of
100 MB takes milliseconds, nothing is unpacked, and neither onnx nor protobuf is needed.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

MAX_DEPTH = 100  # messages within messages, as protobuf itself has it
_PLAIN = re.compile(r"[\w-][\w. -]*(/[\w-][\w. -]*)*")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Message: field number: kind of message in it.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_KEY, _VALUE = 1, 2


class NotOnnx(ValueError):
    """The bytes are no protobuf, or an unreasonable one."""


def find_unsafe_reference(path: Path) -> str | None:
    """Return why ONNX Runtime must not see a file, None if it may.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(8)[4:] == b"ORTM":
            return "is in ONNX Runtime's own format, not ONNX"
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                outside = [place for place in locations(data) if not is_inside(path.parent, place)]
        except ValueError as error:  # an empty file, too
            return f"is damaged: it is not a valid ONNX graph ({error})"
    if not outside:
        return None
    return f"refers to weights outside its folder ({outside[0][:80]!r}), which edgetune never opens"


def is_inside(folder: Path, location: str) -> bool:
    """Return whether a relative path leads, without links, to a file in the folder."""
    if _PLAIN.fullmatch(location) is None:  # absolute, `..`, a drive, `*` (the runtime's word for an address)
        return False
    place = folder
    for part in location.split("/"):
        place = place / part
        if place.is_symlink():
            return False
    return place.is_file()


def locations(data: bytes | mmap.mmap) -> Iterator[str]:
    """Yield the path of every tensor that lies in another file.

    Raises:
        NotOnnx: the bytes make no sense.
    """
    stack = [("model", 0, len(data), 0)]
    while stack:
        kind, start, end, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise NotOnnx("it is nested too deeply")
        inside, entry = _INSIDE[kind], {_KEY: b"", _VALUE: b""}
        for number, begin, stop in _fields(data, start, end):
            if number in inside:
                stack.append((inside[number], begin, stop, depth + 1))
            elif kind == "entry" and number in entry:
                entry[number] = data[begin:stop]
        if kind == "entry" and entry[_KEY] == b"location":
            yield entry[_VALUE].decode("utf-8", "backslashreplace")


def _fields(data: bytes | mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, begin, end) of a message's fields that are messages or bytes; check that all fit."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise NotOnnx("a field extends beyond the end of its message")
            yield number, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise NotOnnx(f"a field has the unknown wire type {wire}")
    if at > end:
        raise NotOnnx("a field extends beyond the end of its message")


def _varint(data: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return a number of up to ten bytes and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NotOnnx("a number has no end")
