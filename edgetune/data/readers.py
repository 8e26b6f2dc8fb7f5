"""Chooses the reader for a path: by its name, or by its first bytes if the name does not tell."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from edgetune.data.parts import Parts
from edgetune.data.table import DataOptions, Table
from edgetune.data.text_files import read_start, suffixes_of
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
_MAX_NEIGHBOURS = 2_000  # files of a folder that are searched for similar names


def open_rows(path: str, options: DataOptions) -> Table:
    """Open all rows of a file, or of a part of a folder or a JSON file.

    Args:
        path: a file, a folder, or `hub:NAME` (see `data_hub`).
        options: how to read it.

    Raises:
        DataError: the path is missing or cannot be read as rows.
        MissingDependencyError: a package is not installed.
        ResourceError: the hub cannot be reached.
    """
    if path.startswith(HUB_PREFIX):
        from edgetune.data.data_hub import read_hub

        return read_hub(path)
    place = require_exists(path)
    if place.is_dir():
        within = _folder_parts(place)
        if (parts := Parts.of(within)) is not None:
            return open_rows(str(within[options.part or parts.train]), replace(options, part=None))
        if (place / "state.json").is_file():
            from edgetune.data.arrow import read_saved

            return read_saved(place)
        from edgetune.data.folders import read_folder

        return read_folder(place, options.encoding)
    suffix, compression = suffixes_of(place)
    kind = _kind_of(place, suffix)
    if kind in ("parquet", "arrow"):
        if compression:
            raise DataError(
                f"{path} is compressed as a whole; decompress it first ({kind} files compress internally)."
            )
        from edgetune.data import arrow

        return arrow.read_parquet(place) if kind == "parquet" else arrow.read_arrow(place)
    if kind == "json":
        from edgetune.data.json_rows import read_json_rows

        return read_json_rows(place, options)
    from edgetune.data.delimited import read_delimited

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
    from edgetune.data.json_rows import json_parts

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
    from edgetune.data.folders import part_paths

    if (folder / "state.json").is_file():
        return {}
    if (folder / "dataset_dict.json").is_file():
        from edgetune.data.arrow import saved_parts

        return saved_parts(folder)
    found = part_paths(folder, [suffix for suffixes in _SUFFIXES.values() for suffix in suffixes])
    return found if Parts.of(found) is not None else {}


def folder_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that are read as data."""
    if parts := _folder_parts(folder):
        for path in parts.values():
            yield from folder_files(path) if path.is_dir() else [path]
        return
    if (folder / "state.json").is_file():
        from edgetune.data.arrow import saved_files

        yield from saved_files(folder)
        return
    from edgetune.data.folders import label_files

    yield from label_files(folder)
