"""What lies in edgetune's cache, by kind, age and size; and freeing it without touching anything else.

An entry is removed only if its name, its marker and every file in it are such as edgetune itself writes, and
nothing in it is a link. What a live process holds (`cache.mark_in_use`) stays always; what was used within
the last hour stays unless everything is to go. Anything else in the folder is named and left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.utils.cache import is_held

FRESH_S = 3600.0
LEFTOVER_S = 24 * 3600.0  # a build that is still going on
_LEFT_FOLDER = re.compile(r"\.(building|cleaning)-[\w-]+")
_LEFT_FILE = re.compile(r"\.[\w.-]+\.\d+\.tmp")


@dataclass(frozen=True)
class EntryShape:
    """How an entry of one kind looks.

    Attributes:
        name: of its folder or file.
        marker: the file in it that is written last; "" where the entry is a file itself.
        own: returns which files may lie in an entry, as paths in it.
    """

    name: re.Pattern[str]
    marker: str
    own: Callable[[Path], set[str]] = lambda _: set()


_MEASURED = EntryShape(re.compile(r"(probes|speeds)\.json"), "")


@dataclass(frozen=True)
class CacheEntry:
    """One thing that could be removed.

    Attributes:
        kind: of cache; `unfinished` is what a killed process left.
        path: where it lies.
        n_bytes: of its files.
        used_s: when it was last used (seconds since 1970).
        busy: whether it was used within the last hour, or is held.
        held: whether a live process holds it, or may still be building it.
    """

    kind: str
    path: Path
    n_bytes: int
    used_s: float
    busy: bool
    held: bool

    def to_dict(self, now_s: float) -> dict[str, Any]:
        """Return plain values; the age is counted to `now_s`."""
        age_s = round(now_s - self.used_s)
        return {
            "kind": self.kind,
            "path": str(self.path),
            "bytes": self.n_bytes,
            "unused_s": age_s,
            "busy": self.busy,
        }


@dataclass(frozen=True)
class RemovalFilter:
    """What is to go: everything, or what is older and larger than this (None: any age, any size)."""

    everything: bool = False
    older_than_s: float | None = None
    larger_than_bytes: float | None = None

    @property
    def limits(self) -> bool:
        """Whether anything is to go at all."""
        return self.everything or self.older_than_s is not None or self.larger_than_bytes is not None

    def takes(self, entry: CacheEntry, now_s: float) -> bool:
        """Return whether an entry is to go; one that is held never is, a busy one only with everything."""
        if entry.held or not self.limits or (entry.busy and not self.everything):
            return False
        old = self.older_than_s is None or now_s - entry.used_s >= self.older_than_s
        large = self.larger_than_bytes is None or entry.n_bytes >= self.larger_than_bytes
        return self.everything or (old and large)


def list_entries(cache_dir: Path) -> tuple[list[CacheEntry], list[Path]]:
    """Return what could be removed from a cache, largest first, and what is not edgetune's."""
    shapes = _shapes()
    found: dict[Path, CacheEntry | None] = {}
    for path in _inside(cache_dir):
        if path.name in shapes and _is_folder(path):
            found |= {item: _entry(path.name, shapes[path.name], item) for item in _inside(path)}
        else:
            found[path] = _entry("measured", _MEASURED, path)
    entries = sorted((one for one in found.values() if one is not None), key=lambda one: -one.n_bytes)
    return entries, [path for path, one in found.items() if one is None]


def remove_entries(entries: list[CacheEntry]) -> list[CacheEntry]:
    """Remove entries; return those that are gone. One that was taken into use meanwhile stays."""
    shapes, gone = _shapes(), []
    for entry in entries:
        now = _entry(entry.kind, shapes.get(entry.path.parent.name, _MEASURED), entry.path)
        if now is None or now.held or now.used_s > entry.used_s:
            continue
        with contextlib.suppress(OSError):  # no permission, or open on Windows: it stays and is not counted
            if _is_folder(entry.path):  # under another name first, so that nobody opens half of it
                doomed = entry.path.with_name(f".cleaning-{os.getpid()}_{entry.path.name.lstrip('.')}")
                os.rename(entry.path, doomed)
                shutil.rmtree(doomed)
            else:
                entry.path.unlink()
            gone.append(now)
    return gone


def _entry(kind: str, shape: EntryShape, path: Path) -> CacheEntry | None:
    """Return a path as an entry of a kind; None if edgetune did not write it, or not all of it."""
    files = _files(path)
    if files is None:
        return None
    n_bytes, newest_s = sum(one.st_size for one in files.values()), _mtime(path)
    newest_s = max((one.st_mtime for one in files.values()), default=newest_s)
    if _LEFT_FOLDER.fullmatch(path.name) or ("." in files and _LEFT_FILE.fullmatch(path.name)):
        may_go_on = time.time() - newest_s < LEFTOVER_S
        return CacheEntry("unfinished", path, n_bytes, newest_s, busy=may_go_on, held=may_go_on)
    if shape.name.fullmatch(path.name) is None or ("." in files) != (shape.marker == ""):
        return None
    if shape.marker and (shape.marker not in files or not set(files) <= shape.own(path)):
        return None
    marker = path / shape.marker
    used_s, held = _mtime(marker), is_held(marker)
    return CacheEntry(kind, path, n_bytes, used_s, busy=held or time.time() - used_s < FRESH_S, held=held)


def _mtime(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # somebody else removed it
        return time.time()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _inside(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder; nothing where it cannot be read or is none."""
    with contextlib.suppress(OSError):
        yield from sorted(folder.iterdir())


def _files(path: Path) -> dict[str, os.stat_result] | None:
    """Return all regular files of a path by name in it (`.` for itself); None if there is anything else."""
    found: dict[str, os.stat_result] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        try:
            status = one.lstat()
            if stat.S_ISDIR(status.st_mode):
                waiting += list(one.iterdir())
                continue
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        found[one.relative_to(path).as_posix()] = status
    return found


def _shapes() -> dict[str, EntryShape]:
    """Return the kinds of entries; what may lie in one is read off the modules that write it."""
    from edgetune.backends.ort.checksums import MANIFEST
    from edgetune.data import token_format
    from edgetune.data.token_format import META

    names = (value for name, value in vars(token_format).items() if name.isupper())
    tokens = {value for value in names if isinstance(value, str)}
    return {
        "tokens": EntryShape(re.compile(r"[0-9a-f]{32}"), META, lambda _: tokens),
        "rows": EntryShape(re.compile(r"[0-9a-f]{32}\.jsonl"), ""),
        "artifacts": EntryShape(re.compile(r"[0-9a-f]{20}-\d+(-multi)?"), MANIFEST, _artifact_files),
        "tokenizers": EntryShape(re.compile(r"[0-9a-f]{24}"), "tokenizer.json", lambda _: _tokenizer_files()),
        "export-seconds": EntryShape(re.compile(r"[0-9a-f]{20}\.txt"), ""),
        "checked": EntryShape(re.compile(r"[0-9a-f]{32}\.json"), ""),
    }


def _tokenizer_files() -> set[str]:
    from edgetune.models.checks import TOKENIZER_FILES

    return {*TOKENIZER_FILES, "chat_template.jinja", "spm.model", "tokenizer.model", "config.json"}


def _artifact_files(path: Path) -> set[str]:
    """Return what may lie in artifacts: what their manifest names, and what older ones without names have."""
    from edgetune.backends.ort.artifacts import CUT_FOLDER, GRAPHS, PREFIX
    from edgetune.backends.ort.checksums import MANIFEST

    own = {MANIFEST, *GRAPHS, "rest.safetensors", *_tokenizer_files()}
    own |= {f"{CUT_FOLDER}/{name}" for name in (PREFIX, *GRAPHS)}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        own |= set(json.loads((path / MANIFEST).read_text(encoding="utf-8")).get("files", {}))
    return own
