"""A folder with one subfolder per label that holds .txt files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgetune.data.rows import BadRow, Row, Table
from edgetune.data.textio import reading, resolve_encoding
from edgetune.errors import DataError


def label_files(folder: Path) -> Iterator[Path]:
    """Yield LABEL/NAME.txt of every label, in order of label and name; hidden ones are left out."""
    for label in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        yield from sorted(
            path
            for path in label.iterdir()
            if path.suffix.lower() == ".txt" and not path.name.startswith(".")
        )


def read_folder(folder: Path, encoding: str) -> Table:
    """Open a folder of labelled text files as a table of text and label; a row is a file.

    Raises:
        DataError: the folder has another layout.
    """
    with reading(folder):
        found = next(label_files(folder), None)
        files = sorted(path.name for path in folder.iterdir() if path.is_file())
    if found is None:
        hint = f" It holds {', '.join(files[:5])}: name one of them." if files else ""
        raise DataError(f"{folder} has no folders with .txt files, one folder per label.{hint}")
    codec = resolve_encoding(encoding, b"")

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for number, path in enumerate(label_files(folder), start=1):
            with reading(path):
                data = path.read_bytes()
            try:
                text = data.decode(codec, "surrogateescape")
            except UnicodeError:
                text = "\udcff"  # a bad row for the same reason as one with undecodable bytes
            values = (text, path.parent.name)
            yield number, [values[i] for i in columns]

    return Table(str(folder), ("text", "label"), True, (), rows)
