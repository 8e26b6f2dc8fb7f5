"""Files that appear whole or not at all, and are on the disk when they appear."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; what was written is renamed when nothing went wrong.

    Written, synced, renamed, the folder synced: after a power cut there is the old file or the new one. The
    folder is made as needed. Other processes that write the same file do not meet: the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        sync(scratch)
        os.replace(scratch, path)
        sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text, as UTF-8 and with the line ends it has."""
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where a system can tell."""
    if os.name == "nt":  # no folder can be opened, and a file only for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir():  # some network file systems cannot sync a folder
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below a folder, then the folder itself."""
    for home, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(home) / name)
        sync(Path(home))
