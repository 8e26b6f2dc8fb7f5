"""What lies in edgetune's cache, by kind, age and size; and freeing it without touching anything else.

An entry is removed only if its name, its marker and the kinds of its files are such as edgetune itself
writes, and nothing in it is a link. What a live process holds (`cache.mark_in_use`) stays always; what was
used within the last hour stays unless everything is to go. Anything else is named and left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.utils.cache import is_held

FRESH_S = 3600.0
LEFTOVER_S = 24 * 3600.0  # a build that is still going on
_LEFT_FOLDER = re.compile(r"\.(building|cleaning)-[\w-]+")
_LEFT_FILE = re.compile(r"\.[\w.-]+\.\d+\.tmp")
_OWN = re.compile(r"(.*/)?[^/]+\.(bin|jinja|json|jsonl|model|onnx|safetensors|txt)|(.*/)?checkpoint")
_SHAPES = {
    "tokens": (re.compile(r"[0-9a-f]{32}"), "meta.json"),
    "rows": (re.compile(r"[0-9a-f]{32}\.jsonl"), "."),
    "artifacts": (re.compile(r"[0-9a-f]{20}-\d+(-multi)?"), "manifest.json"),
    "tokenizers": (re.compile(r"[0-9a-f]{24}"), "tokenizer.json"),
    "export-seconds": (re.compile(r"[0-9a-f]{20}\.txt"), "."),
    "checked": (re.compile(r"[0-9a-f]{32}\.json"), "."),
}
"""By kind: the name of an entry, and the file in it that is written last (`.`: the entry is that file)."""
_MEASURED = (re.compile(r"(probes|speeds)\.json"), ".")


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
        return {
            "kind": self.kind,
            "path": str(self.path),
            "bytes": self.n_bytes,
            "unused_s": round(now_s - self.used_s),
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
    found: dict[Path, CacheEntry | None] = {}
    for path in _inside(cache_dir):
        if path.name in _SHAPES and _is_folder(path):
            found |= {item: _entry(path.name, item) for item in _inside(path)}
        else:
            found[path] = _entry("measured", path)
    entries = sorted((one for one in found.values() if one is not None), key=lambda one: -one.n_bytes)
    return entries, [path for path, one in found.items() if one is None]


def remove_entries(entries: list[CacheEntry]) -> list[CacheEntry]:
    """Remove entries; return those that are gone. One that was taken into use meanwhile stays."""
    gone = []
    for entry in entries:
        now = _entry(entry.kind, entry.path)
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


def _entry(kind: str, path: Path) -> CacheEntry | None:
    """Return a path as an entry of a kind; None if edgetune did not write it, or not all of it."""
    files = _files(path)
    if files is None:
        return None
    n_bytes = sum(one.st_size for one in files.values())
    newest_s = max((one.st_mtime for one in files.values()), default=time.time())
    if _LEFT_FOLDER.fullmatch(path.name) or ("." in files and _LEFT_FILE.fullmatch(path.name)):
        may_go_on = time.time() - newest_s < LEFTOVER_S
        return CacheEntry("unfinished", path, n_bytes, newest_s, busy=may_go_on, held=may_go_on)
    name, marker = _SHAPES.get(kind, _MEASURED)
    all_own = all(map(_OWN.fullmatch, {*files} - {"."}))
    if name.fullmatch(path.name) is None or marker not in files or not all_own:
        return None
    used_s, held = files[marker].st_mtime, is_held(path / marker)
    return CacheEntry(kind, path, n_bytes, used_s, busy=held or time.time() - used_s < FRESH_S, held=held)


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
