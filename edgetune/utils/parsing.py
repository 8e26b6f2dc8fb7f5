"""JSON and TOML from any source, read within limits of depth, number of values and size.

The standard library's TOML reader calls itself for each bracket and takes quadratic time for dotted keys, so
size and line length are checked first.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgetune.utils.limits import (
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_SUMMARY_BYTES,
    MAX_SUMMARY_COMMAS,
    MAX_TOML_BYTES,
    MAX_TOML_LINE_CHARS,
)
from edgetune.utils.sanitize import brief

LENIENT = json.JSONDecoder(strict=False)  # takes raw control characters inside strings
FINITE = json.JSONDecoder(strict=False, parse_constant=lambda _: None)  # nan and infinities become None


def decode_json(text: str, decoder: json.JSONDecoder = LENIENT, n_commas: int = MAX_JSON_VALUES) -> Any:
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
    """Refuse what is nested so deeply that printing it would fail."""
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


def read_json_file(path: Path, decoder: json.JSONDecoder = LENIENT, most: int = MAX_SUMMARY_BYTES) -> Any:
    """Read a JSON file that is no data: a summary, a configuration."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return decode_json(content.decode("utf-8-sig"), decoder, MAX_SUMMARY_COMMAS)


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_ERROR_CHARS = 200


class TomlError(Exception):
    """A file that cannot be read as TOML; the argument says why, without the file's name."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file."""
    if path.exists() and not path.is_file():
        raise TomlError("it is not a file")
    with path.open("rb") as file:
        content = file.read(MAX_TOML_BYTES + 1)
    if len(content) > MAX_TOML_BYTES:
        raise TomlError(f"it has more than {MAX_TOML_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
        for number, line in enumerate(text.splitlines(), start=1):
            if len(line) > MAX_TOML_LINE_CHARS:
                raise TomlError(f"line {number} has more than {MAX_TOML_LINE_CHARS:,} characters")
        found: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise TomlError("its values are nested too deeply") from error
    except ValueError as error:  # also a number with thousands of digits, which is no TOMLDecodeError
        raise TomlError(brief(error, _MAX_ERROR_CHARS)) from error
    return found


def is_encodable(text: str) -> bool:
    """Return whether text has a UTF-8 form: no undecodable byte, and no half of a surrogate pair."""
    if text.isascii():  # at once, where encoding makes a copy
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
