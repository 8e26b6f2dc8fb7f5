"""Files that appear whole or not at all, and are on the disk when they appear."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NUMBERED = re.compile(r"(?:os error |\[Errno |errno[ :=]+|system error number )(\d+)", re.IGNORECASE)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # all that numpy says of a full disk
_TOLD_BY_WORDS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES)


def folder_name(folder: Path) -> str:
    """Return what a folder is called at the start of a sentence."""
    return "The current folder" if folder == Path() else str(folder)


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


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def os_error_in(error: BaseException) -> OSError | None:
    """Return what the system said through a library's own error (as of safetensors), None if nothing.

    Rust's libraries end their messages by `(os error 28)`, C++'s and Python's have the number or the words.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    text = str(error)
    found = _NUMBERED.search(text)
    number = int(found.group(1)) if found is not None else None
    if _SHORT_WRITE.search(text) is not None:
        number = errno.ENOSPC
    if number is None:
        number = next((one for one in _TOLD_BY_WORDS if os.strerror(one).lower() in text.lower()), None)
    return None if number is None else OSError(number, os.strerror(number))


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
