"""The commands that look after edgetune itself: clean, doctor. Registered by `app.py`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgetune.cli.options import CacheDir, Json, console
from edgetune.utils.errors import UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.tables import Section, print_sections

if TYPE_CHECKING:
    from edgetune.maintenance.cache_cleanup import CacheEntry

SHOWN_STRANGE = 5


def clean(
    older_than: Annotated[
        str | None, typer.Option(help="Remove entries not used for this long: 30d, 12h, 2w.")
    ] = None,
    larger_than: Annotated[
        str | None,
        typer.Option(help="Remove entries of at least this size: 1GB (with --older-than, both must hold)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every entry that is not in use.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    cache_dir: CacheDir = None,
    as_json: Json = False,
) -> None:
    """List the caches by kind, age and size, and clear them.

    Examples:
        edgetune clean
        edgetune clean --older-than 30d --yes
    """
    from edgetune.config.budget import parse_age, parse_memory
    from edgetune.maintenance.cache_cleanup import RemovalFilter, list_entries, remove_entries
    from edgetune.utils.machine import cache_folder

    if everything and (older_than is not None or larger_than is not None):
        raise UsageError("--all cannot be combined with --older-than or --larger-than.")
    wish = RemovalFilter(
        everything,
        None if older_than is None else parse_age(older_than),
        None if larger_than is None else 1e6 * parse_memory(larger_than, "--larger-than"),
    )
    home = cache_folder(cache_dir)
    entries, strange = list_entries(home)
    now_s = time.time()
    chosen = [entry for entry in entries if wish.takes(entry, now_s)]
    if not as_json:
        _print(home, entries, chosen, strange, now_s)
    gone = remove_entries(chosen) if chosen and (yes or (not as_json and _agreed(chosen))) else []
    if as_json:
        found = {
            "folder": str(home),
            "entries": [entry.to_dict(now_s) for entry in entries],
            "chosen": [str(entry.path) for entry in chosen],
            "removed": [str(entry.path) for entry in gone],
            "freed_bytes": sum(entry.n_bytes for entry in gone),
            "left_alone": [str(path) for path in strange],
        }
        print(json.dumps(found))
    elif not chosen and wish.limits:
        print("No unused entry matches.")
    elif gone or (chosen and yes):
        print(f"Freed {_size(gone)} ({_count(gone)}).")
        if len(gone) < len(chosen):
            print(f"{len(chosen) - len(gone)} could not be removed or are in use now.", file=sys.stderr)


def _agreed(chosen: list[CacheEntry]) -> bool:
    """Ask on a terminal; elsewhere say what to add."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return typer.confirm(f"Remove {_count(chosen)} ({_size(chosen)})?")
    print(f"Would free {_size(chosen)} ({_count(chosen)}). Nothing was removed; add --yes to remove them.")
    return False


def _print(
    home: Path, entries: list[CacheEntry], chosen: list[CacheEntry], strange: list[Path], now_s: float
) -> None:
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        state = "in use" if entry.held else "used within the hour" if entry.busy else ""
        name, age = str(entry.path.relative_to(home)), _age(now_s - entry.used_s)
        state = "selected" if entry in chosen else state
        rows.append((entry.kind, name, age, _size([entry]), state))
    if rows:
        print_sections([Section(str(home), rows, ("kind", "entry", "unused for", "size", ""))])
    print(f"{_count(entries)}, {_size(entries)} in {home}." if rows else f"The cache {home} is empty.")
    for path in strange[:SHOWN_STRANGE]:
        print(f"Ignored (not written by edgetune): {path}")
    if len(strange) > SHOWN_STRANGE:
        print(f"Ignored: {len(strange) - SHOWN_STRANGE} more.")


def _count(entries: list[CacheEntry]) -> str:
    return counted(len(entries), "entry", "entries")


def _size(entries: list[CacheEntry]) -> str:
    n_bytes = sum(entry.n_bytes for entry in entries)
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    for unit_s, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def doctor(as_json: Json = False) -> None:
    """Check what works on this machine, and what is missing.

    Examples:
        edgetune doctor
        edgetune doctor --json
    """
    from edgetune.maintenance.doctor import examine, print_diagnosis

    findings = examine()
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        print_diagnosis(findings, console())
