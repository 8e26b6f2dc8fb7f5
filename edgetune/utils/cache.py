"""The folders of edgetune's cache: made for their user alone, and marked when something in them is used.

    tokens/KEY/…           rows/HASH.jsonl          artifacts/KEY-LABELS/…
    tokenizers/KEY/…       export-seconds/KEY.txt   checked/KEY.json

A marker is the file of an entry that is written last. Its time of change is the entry's last use, and a lock
on it says that a process which may need the entry again is alive; `cleaning` looks at both.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgetune.utils.files import write_atomic
from edgetune.utils.parsing import read_json_file

T = TypeVar("T")
Kind = Literal["tokens", "rows", "artifacts", "tokenizers", "export-seconds", "checked"]
MOST_HELD = 16  # locks of one process; a run needs six: rows and tokens of two files, artifacts, a tokenizer
_held: OrderedDict[tuple[int, int], int] = OrderedDict()


def private_folder(path: Path) -> Path:
    """Make a folder that only its user can look into; one that is there already stays as it is."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process made it just now
            path.mkdir(mode=0o700)
    return path


def read_cached_json(path: Path, kind: type[T]) -> T:
    """Read a value such as a `dict[str, float]` from a cache; an empty one if it is missing or damaged."""
    from pydantic import TypeAdapter

    try:
        return TypeAdapter(kind).validate_python(read_json_file(path))
    except (OSError, ValueError):
        return kind()


def write_cached_json(path: Path, value: Any) -> None:
    """Write a value into a cache; where it cannot be written, it is found out anew next time."""
    with contextlib.suppress(OSError):
        private_folder(path.parent)
        write_atomic(path, json.dumps(value))


def cache_subfolder(cache_dir: Path, kind: Kind) -> Path:
    """Make and return the folder of one kind of entry."""
    return private_folder(private_folder(cache_dir) / kind)


def move_into_place(made: Path, entry: Path, is_whole: Callable[[Path], bool]) -> None:
    """Move a finished folder to where its entry belongs; one that another process finished is as good.

    Args:
        made: beside the entry.
        entry: absent, whole or damaged; nothing that is whole is ever taken away, for others may read it.
        is_whole: tells.
    """
    with _alone_in(entry.parent):
        if is_whole(entry):
            return
        with tempfile.TemporaryDirectory(prefix=".building-", dir=entry.parent) as aside:
            if entry.exists():
                os.replace(entry, Path(aside) / entry.name)
            os.replace(made, entry)


@contextlib.contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Wait until no other process puts anything in place here, where the system has such locks."""
    try:
        descriptor = os.open(home, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        yield
        return
    try:
        _lock(descriptor, exclusive=True, wait=True)
        yield
    finally:
        os.close(descriptor)


def mark_in_use(marker: Path) -> None:
    """Note that an entry is used now, and hold it until this process ends (or has used many others since)."""
    with contextlib.suppress(OSError):
        os.utime(marker)
    with contextlib.suppress(OSError):
        descriptor = os.open(marker, os.O_RDONLY)
        try:
            found = os.fstat(descriptor)
            key = (found.st_dev, found.st_ino)
            if key not in _held and _lock(descriptor, exclusive=False):
                _held[key], descriptor = descriptor, -1
        finally:
            if descriptor >= 0:
                os.close(descriptor)
    while len(_held) > MOST_HELD:
        os.close(_held.popitem(last=False)[1])


def is_held(marker: Path) -> bool:
    """Return whether a live process holds an entry (False where the system has no such locks)."""
    try:
        descriptor = os.open(marker, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor, exclusive=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, exclusive: bool, wait: bool = False) -> bool:
    """Lock an open file or folder; return whether it worked, or whether there are no locks here at all."""
    try:
        import fcntl
    except ImportError:  # Windows, which deletes no open file anyway
        return True
    try:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
