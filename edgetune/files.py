"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; what was written is renamed when nothing went wrong.

    The folder is made as needed. Other processes that write the same file do not meet: the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text, as UTF-8 and with the line ends it has."""
    with whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")
