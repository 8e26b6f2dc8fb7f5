"""Chooses the reader for a path: by its name, or by its first bytes if the name does not tell.

Reads folders with one subfolder of .txt files per label, too.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from edgetune.data.arrow import read_arrow, read_parquet, saved_files, saved_parts
from edgetune.data.delimited import read_delimited
from edgetune.data.encodings import AUTO, resolve_encoding
from edgetune.data.json_rows import json_parts, read_json_rows
from edgetune.data.table import LONG_TEXT, PART_NAMES, BadRow, DataOptions, Parts, Row, Table
from edgetune.data.text_files import read_start, reading_errors, resolves_inside, suffixes_of
from edgetune.utils import limits
from edgetune.utils.errors import DataError
from edgetune.utils.files import folder_name
from edgetune.utils.hub import HUB_PREFIX

_DELIMITER_HINTS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_SUFFIXES = {
    "json": (".json", ".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
    "delimited": tuple(_DELIMITER_HINTS),
}
_JSON_START = re.compile(rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{")
_MAX_NAMED = 5
_UNLABELLED = frozenset(["unsup", "unlabeled", "unlabelled"])
"""Folders of texts without a label, in lower case."""
_MAX_JUDGED_FILES, _JUDGED_BYTES = 200, 1 << 12  # files that `--encoding auto` examines, and bytes of each
_MAX_NEIGHBOURS = 2_000  # files of a folder that are searched for similar names


def open_rows(path: str, options: DataOptions) -> Table:
    """Open all rows of a file, or of a part of a folder or a JSON file; errors as of `read_examples`."""
    if path.startswith(HUB_PREFIX):
        from edgetune.data.data_hub import read_hub  # which loads an HTTP client

        return read_hub(path)
    place = require_exists(path)
    if place.is_dir():
        within = _folder_parts(place)
        if (parts := Parts.of(within)) is not None:
            return open_rows(str(within[options.part or parts.train]), replace(options, part=None))
        if (place / "state.json").is_file():
            return read_arrow(str(place), saved_files(place))
        return _read_folder(place, options.encoding)
    suffix, compression = suffixes_of(place)
    kind = _kind_of(place, suffix)
    if kind in ("parquet", "arrow"):
        if compression:
            raise DataError(
                f"{path} is compressed as a whole; decompress it first ({kind} files compress internally)."
            )
        return read_parquet(place) if kind == "parquet" else read_arrow(str(place), [place])
    if kind == "json":
        return read_json_rows(place, options)
    return read_delimited(place, _DELIMITER_HINTS.get(suffix, "\t"), options)


def stored_parts(path: str, encoding: str) -> Parts | None:
    """Return the lists of rows of a JSON file, or the files of a folder, if one is a training part."""
    if path.startswith(HUB_PREFIX):
        return None
    place = require_exists(path)
    if place.is_dir():
        return Parts.of(_folder_parts(place))
    if _kind_of(place, suffixes_of(place)[0]) != "json":
        return None
    return json_parts(place, encoding)


def require_exists(path: str) -> Path:
    """Return the path if it exists."""
    place = Path(path)
    try:
        if place.is_dir() or place.is_file():
            return place
        if place.exists():
            raise DataError(f"{path} is neither a file nor a folder.")
    except (OSError, ValueError) as error:
        raise DataError(f"{path!r} cannot be opened: {error}.") from error
    raise DataError(f"{path} does not exist.{_neighbours(place)}")


def _neighbours(place: Path) -> str:
    if not place.parent.is_dir():
        return f" The folder {place.parent} does not exist either."
    try:
        found = islice(place.parent.iterdir(), _MAX_NEIGHBOURS)
        names = sorted(entry.name for entry in found if not entry.name.startswith("."))
    except OSError:
        return ""
    by_stem: dict[str, list[str]] = {}  # a common extension does not make names similar
    for name in names:
        by_stem.setdefault(Path(name).stem.lower(), []).append(name)
    stems = difflib.get_close_matches(place.stem.lower(), by_stem, n=2)
    close = [name for stem in stems for name in by_stem[stem]][:2]
    if close:
        return f" Did you mean {' or '.join(str(place.parent / name) for name in close)}?"
    if names:
        more = ", …" if len(names) > _MAX_NAMED else ""
        return f" {folder_name(place.parent)} contains {', '.join(names[:_MAX_NAMED])}{more}."
    return f" {folder_name(place.parent)} is empty."


def _kind_of(place: Path, suffix: str) -> str:
    for kind, suffixes in _SUFFIXES.items():
        if suffix in suffixes:
            return kind
    start = read_start(place, 64)
    if start.startswith((b"PAR1", b"ARROW1")):
        return "parquet" if start.startswith(b"PAR1") else "arrow"
    return "json" if suffix != ".txt" and _JSON_START.match(start) else "delimited"


def _folder_parts(folder: Path) -> dict[str, Path]:
    """Return the parts of a data set in a folder by name; empty if there is no training part.

    They are what `datasets` saved, files such as train.csv and test.csv, or folders of labels.
    """
    if (folder / "state.json").is_file():
        return {}
    if (folder / "dataset_dict.json").is_file():
        return saved_parts(folder)
    found: dict[str, Path] = {}
    for path in _entries(folder, folder, _is_part):
        name = path.name.split(".")[0]
        if name in found:
            raise DataError(
                f"{folder} contains {found[name].name} and {path.name}; remove one, or pass the other itself."
            )
        found[name] = path
    return found if Parts.of(found) is not None else {}


def _is_part(entry: os.DirEntry[str]) -> bool:
    path = Path(entry.path)
    if entry.is_dir():
        return entry.name.lower() in PART_NAMES and not entry.is_symlink() and _holds_labels(path)
    if entry.name.lower().split(".")[0] not in PART_NAMES or not entry.is_file():
        return False  # of a million files, few get further
    return any(suffixes_of(path)[0] in suffixes for suffixes in _SUFFIXES.values())


def folder_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that are read as data."""
    if parts := _folder_parts(folder):
        for path in parts.values():
            yield from folder_files(path) if path.is_dir() else [path]
        return
    if (folder / "state.json").is_file():
        yield from saved_files(folder)
        return
    yield from _label_files(folder)


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


def _label_files(folder: Path) -> Iterator[Path]:
    """Yield LABEL/NAME.txt of every label, in order of label and name; hidden ones are left out."""
    for label in _entries(folder, folder, os.DirEntry.is_dir):
        yield from _entries(
            label, folder, lambda entry: entry.name.lower().endswith(".txt") and entry.is_file()
        )


def _read_folder(folder: Path, encoding: str) -> Table:
    """Open a folder of labelled text files as a table of text, label and file; a row is a file."""
    if next(_label_files(folder), None) is None:
        files = _entries(folder, folder, lambda entry: entry.is_file(follow_symlinks=False))
        names = ", ".join(path.name for path in files[:5])
        hint = f" It contains {names}; pass one of these files instead." if files else ""
        if parts := list(filter(_holds_labels, _entries(folder, folder, os.DirEntry.is_dir))):
            shown = ", ".join(map(str, parts[:5]))
            hint = f" Pass one of its parts instead ({shown}), and another with --eval."
        raise DataError(
            f"{folder} does not contain subfolders with .txt files, one subfolder per label.{hint}"
        )
    start = b""
    if encoding == AUTO:
        files = list(_label_files(folder))
        step = max(1, len(files) // _MAX_JUDGED_FILES)
        start = b"\n".join(read_start(path, _JUDGED_BYTES) for path in files[::step])
    codec = resolve_encoding(encoding, start)

    def rows(columns: Sequence[int]) -> Iterator[Row | BadRow]:
        for number, path in enumerate(_label_files(folder), start=1):
            with reading_errors(path), path.open("rb") as file:
                data = file.read(limits.MAX_LINE_CHARS + 1)
            if len(data) > limits.MAX_LINE_CHARS:
                yield BadRow(str(path), number, LONG_TEXT, path.name)
                continue
            try:
                text = data.decode(codec, "surrogateescape")
            except UnicodeError:
                text = "\udcff"  # a bad row for the same reason as one with undecodable bytes
            label = None if path.parent.name.lower() in _UNLABELLED else path.parent.name
            values = (text, label, path.relative_to(folder).as_posix())
            yield number, [values[i] for i in columns]

    return Table(str(folder), ("text", "label", "file"), True, (), rows, encoding=codec)


def _holds_labels(folder: Path) -> bool:
    return next(_label_files(folder), None) is not None
