"""Folders of data, with one subfolder of .txt files per label; a check that paths stay inside a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from edgetune.data.encodings import AUTO, resolve_encoding
from edgetune.data.parts import PART_NAMES
from edgetune.data.table import LONG_TEXT, BadRow, Row, Table
from edgetune.data.text_files import read_start, reading_errors, suffixes_of
from edgetune.utils import limits
from edgetune.utils.errors import DataError
from edgetune.utils.sanitize import brief

UNLABELLED = frozenset(["unsup", "unlabeled", "unlabelled"])
"""Folders of texts without a label, in lower case."""
MAX_JUDGED_FILES, JUDGED_BYTES = 200, 1 << 12  # files that `--encoding auto` examines, and bytes of each


def resolves_inside(path: Path, root: Path) -> Path:
    """Return a path, after checking that it lies in a folder when all links are followed."""
    real, real_root = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([real, real_root]) != real_root:
        shown = [brief(one, 300) for one in (path, root, real)]
        raise DataError(
            f"{shown[0]} points outside {shown[1]}, to {shown[2]}; only files inside a data folder are read. "
            "Copy the file into the folder, or remove the link."
        )
    return path


def _entries(place: Path, root: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> list[Path]:
    """Return the wanted entries of a folder, sorted by name; hidden ones are left out."""
    with reading_errors(place), os.scandir(place) as found:
        entries = list(islice(found, limits.MAX_FOLDER_FILES + 1))
    if len(entries) > limits.MAX_FOLDER_FILES:
        raise DataError(
            f"{place} contains more than {limits.MAX_FOLDER_FILES:,} files; combine their texts into one "
            "CSV or JSON Lines file."
        )
    kept = []
    for entry in entries:
        with suppress(OSError):  # an entry that cannot be examined, such as a link to itself, is not wanted
            if not entry.name.startswith(".") and wanted(entry):
                kept.append(entry)
    return sorted(
        resolves_inside(Path(entry.path), root) if entry.is_symlink() else Path(entry.path) for entry in kept
    )


def label_files(folder: Path) -> Iterator[Path]:
    """Yield LABEL/NAME.txt of every label, in order of label and name; hidden ones are left out."""
    for label in _entries(folder, folder, os.DirEntry.is_dir):
        yield from _entries(
            label, folder, lambda entry: entry.name.lower().endswith(".txt") and entry.is_file()
        )


def part_paths(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the parts of a data set in a folder: train.csv, test.csv, or folders of labels of such names."""
    found: dict[str, Path] = {}

    def is_part(entry: os.DirEntry[str]) -> bool:
        path = Path(entry.path)
        if entry.is_dir():
            return entry.name.lower() in PART_NAMES and not entry.is_symlink() and _holds_labels(path)
        stem = entry.name.lower().split(".")[0]
        return stem in PART_NAMES and entry.is_file() and suffixes_of(path)[0] in suffixes

    for path in _entries(folder, folder, is_part):
        name = path.name.split(".")[0]
        if name in found:
            raise DataError(
                f"{folder} contains {found[name].name} and {path.name}; remove one, or pass the other itself."
            )
        found[name] = path
    return found


def read_folder(folder: Path, encoding: str) -> Table:
    """Open a folder of labelled text files as a table of text, label and file; a row is a file."""
    if next(label_files(folder), None) is None:
        files = _entries(folder, folder, lambda entry: entry.is_file(follow_symlinks=False))
        names = ", ".join(path.name for path in files[:5])
        hint = f" It contains {names}; pass one of these files instead." if files else ""
        if parts := list(filter(_holds_labels, _entries(folder, folder, os.DirEntry.is_dir))):
            shown = ", ".join(map(str, parts[:5]))
            hint = f" Pass one of its parts instead ({shown}), and another with --eval."
        raise DataError(
            f"{folder} does not contain subfolders with .txt files, one subfolder per label.{hint}"
        )
    codec = resolve_encoding(encoding, _starts_of_files(folder) if encoding == AUTO else b"")

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for number, path in enumerate(label_files(folder), start=1):
            with reading_errors(path), path.open("rb") as file:
                data = file.read(limits.MAX_LINE_CHARS + 1)
            if len(data) > limits.MAX_LINE_CHARS:
                yield BadRow(str(path), number, LONG_TEXT, path.name)
                continue
            try:
                text = data.decode(codec, "surrogateescape")
            except UnicodeError:
                text = "\udcff"  # a bad row for the same reason as one with undecodable bytes
            label = None if path.parent.name.lower() in UNLABELLED else path.parent.name
            values = (text, label, path.relative_to(folder).as_posix())
            yield number, [values[i] for i in columns]

    return Table(str(folder), ("text", "label", "file"), True, (), rows, encoding=codec)


def _holds_labels(folder: Path) -> bool:
    return next(label_files(folder), None) is not None


def _starts_of_files(folder: Path) -> bytes:
    files = list(label_files(folder))
    step = max(1, len(files) // MAX_JUDGED_FILES)
    return b"\n".join(read_start(path, JUDGED_BYTES) for path in files[::step])
