"""TOML from anywhere: settings, grids and device profiles are read here, within limits.

The standard library's reader calls itself for each bracket and takes quadratic time for dotted keys, so size
and line length are checked first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgetune.data.limits import MAX_TOML_BYTES, MAX_TOML_LINE_CHARS
from edgetune.shown import brief

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_ERROR_CHARS = 200


class TomlError(Exception):
    """A file that cannot be read as TOML; the argument says why, without the file's name."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        TomlError: it is too large, not UTF-8, or no TOML.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise TomlError("it is no file")
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
