"""JSON from anywhere, decoded within limits: depth, number of values, size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgetune.data.limits import MAX_JSON_DEPTH, MAX_JSON_VALUES, MAX_RECEIPT_BYTES, MAX_RECEIPT_COMMAS

LENIENT = json.JSONDecoder(strict=False)  # takes raw control characters inside strings
FINITE = json.JSONDecoder(strict=False, parse_constant=lambda _: None)  # nan and infinities become None


def decoded(text: str, decoder: json.JSONDecoder = LENIENT, n_commas: int = MAX_JSON_VALUES) -> Any:
    """Decode one JSON value with so many commas at most.

    Raises:
        ValueError: it is no JSON, nested too deeply, or has too many values.
    """
    if len(text) > n_commas and text.count(",") > n_commas:
        raise ValueError("it has too many values")
    try:
        value = decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    check_depth(value, text.count("[") + text.count("{"))
    return value


def check_depth(value: Any, n_brackets: int) -> None:
    """Refuse what is nested so deeply that printing it would fail.

    Args:
        value: what was decoded.
        n_brackets: that open in its text, so at most how deep it is.

    Raises:
        ValueError: it is.
    """
    if n_brackets <= MAX_JSON_DEPTH:
        return
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def read_json_file(path: Path, decoder: json.JSONDecoder = LENIENT, most: int = MAX_RECEIPT_BYTES) -> Any:
    """Read a JSON file that is no data: a receipt, a configuration.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most` bytes, is no UTF-8, or no JSON.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return decoded(content.decode("utf-8-sig"), decoder, MAX_RECEIPT_COMMAS)
