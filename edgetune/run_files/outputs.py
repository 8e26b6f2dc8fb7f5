"""The gate that every file or folder passes which a user names as an output, before the work starts.

    always refused      what the command reads; what a run it opens was trained or evaluated on; anything in
                        a run's folder; what a comparison keeps; a folder, a device
    needs --overwrite   any other file that exists

`RunFolder` guards the folder that a run is written to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgetune.config.toml_config import load_config
from edgetune.run_files.run_folder import LOCK, MARKERS, OWN, disk_errors, is_run_folder
from edgetune.utils.errors import EdgetuneError, RunError, UsageError
from edgetune.utils.files import sync, sync_tree, write_atomic
from edgetune.utils.hub import HUB_PREFIX
from edgetune.utils.parsing import read_json_file

COMPARISON = ("cells", "data", "grid.json", "plans.json", "results.jsonl", "table.md")
"""What a comparison keeps in its folder."""
GRID = "grid.json"
_EXPORTING = ".edgetune-exporting-"  # what an export that was killed leaves


def check_outputs(
    outputs: Mapping[str, Path | None],
    *,
    reads: Iterable[str | Path | None] = (),
    runs: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Refuse to write where something would be lost.

    Args:
        outputs: files to be written, each under the option that named it; None: not asked for.
        reads: files and folders that the command reads; names of the hub are passed over.
        runs: folders of runs or comparisons that the command opens.
        overwrite: whether a file may be replaced that nobody is known to need.

    Raises:
        UsageError: which output cannot be written, and why.
    """
    taken: dict[str, str] = {}
    read = [path for path in reads if path is not None]
    for source in read:
        if _is_stdout(source):
            raise UsageError(f"The output goes into {source}, which this command reads; choose another file.")
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; name a file.")
        refuse_taken(option, path, read, runs)
        if path.exists() and not path.is_file():
            raise UsageError(f"{option} {path} is a device or a pipe; name a file.")
        if os.path.lexists(path) and not overwrite:
            raise UsageError(f"{option} {path} already exists; choose another name, or add --overwrite.")
        other = taken.setdefault(os.path.realpath(path), option)
        if other != option:
            raise UsageError(f"{other} and {option} both name {path}; give each a file of its own.")


def refuse_taken(option: str, path: Path, reads: Iterable[str | Path], runs: Sequence[Path] = ()) -> None:
    """Refuse an output, file or folder, in whose place something lies that is never replaced."""
    for source in reads:
        if _holds(source, path):
            raise UsageError(f"{option} {path} is what this command reads; choose another name.")
    real = _real(path)
    for run in runs:
        if any(_holds(source, path) for source in sources_of(run)):
            raise UsageError(
                f"{option} {path} is what {run} was trained or evaluated on; choose another name."
            )
        home = _real(run)
        if not (home / GRID).exists() and real.is_relative_to(home):
            raise UsageError(f"{option} {path} is in the folder of that run; choose another folder.")
    for home in real.parents:
        first = real.relative_to(home).parts[0]
        n_markers = sum((home / name).exists() for name in MARKERS)  # other projects have a config.toml, too
        if n_markers > 1 or (n_markers and first in OWN):
            raise UsageError(f"{option} {path} is in the folder of that run ({home}); choose another folder.")
        if first in COMPARISON and (home / GRID).exists():
            raise UsageError(
                f"{option} {path} would overwrite a file of that comparison ({home}); choose another name."
            )


def refuse_own_source(out: Path, owned: Sequence[str], reads: Iterable[str | Path | None]) -> None:
    """Refuse to write a folder anew from something that lies in it and would be removed first."""
    home = _real(out)
    for source in reads:
        if source is None or str(source).startswith(HUB_PREFIX):
            continue
        real = _real(source)
        inside = home in real.parents and real.relative_to(home).parts[0] in owned
        if inside or (real == home and any((home / name).exists() for name in owned)):
            raise UsageError(
                f"--out {out} would overwrite {source}, which this command reads; choose another folder."
            )


def check_comparison_folder(
    folder: Path, grid: Mapping[str, Any], reads: Iterable[str | None], overwrite: bool
) -> None:
    """Refuse to compare in a folder that is somebody else's, or that would lose finished runs.

    Raises:
        RunError: it holds something that is no comparison.
        UsageError: it holds a comparison with other settings, or what the command reads.
    """
    given = [path for path in reads if path is not None]
    refuse_taken("--out", folder, given)
    refuse_own_source(folder, COMPARISON, given)
    if not folder.is_dir():
        return  # whoever makes it says what lies in its place
    if not (folder / GRID).exists():
        if is_run_folder(folder) or any(found.name not in (*COMPARISON, LOCK) for found in folder.iterdir()):
            raise RunError(f"{folder} exists but is not a comparison; choose another folder with --out.")
        return
    if overwrite:
        return
    before = _json(folder / GRID)
    # More methods or seeds only add runs; these decide what the finished ones would have been.
    changed = [
        name
        for name in ("data", "settings", "rows", "eval_rows", "holdout")
        if name in before and name in grid and before[name] != grid[name]
    ]
    if changed:
        raise UsageError(
            f"{folder} holds a comparison with other {' and '.join(changed)}, whose runs would be replaced; "
            "choose another folder with --out, or add --overwrite."
        )


def sources_of(folder: Path) -> Iterator[str]:
    """Yield what a run or a comparison was trained and evaluated on, as it was named then.

    A relative name was given from a working folder that nobody wrote down: every folder above is tried.
    """
    named: list[Any] = []
    with contextlib.suppress(EdgetuneError, OSError, AttributeError):
        data = load_config(folder / "config.toml").get("data", {})
        named += [data.get("train"), data.get("eval")]
    for entry in _json(folder / GRID).get("data", []):
        if isinstance(entry, dict):
            named += [entry.get("train"), entry.get("eval")]
    for name in named:
        if isinstance(name, str) and not name.startswith(HUB_PREFIX):
            yield name
            if not os.path.isabs(name):
                yield from (str(home / name) for home in _real(folder).parents)


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = read_json_file(path)
        return found if isinstance(found, dict) else {}
    return {}


def _is_stdout(source: str | Path) -> bool:
    """Return whether a shell appends what is printed to a file that is read, which would never end."""
    with contextlib.suppress(OSError, ValueError):
        return os.path.isfile(source) and os.path.samestat(os.fstat(1), os.stat(source))
    return False


def _holds(source: str | Path, path: Path) -> bool:
    """Return whether a path is that file (under any name), or lies in that folder of files already."""
    if str(source).startswith(HUB_PREFIX):
        return False
    with contextlib.suppress(OSError, ValueError):
        if os.path.samefile(source, path):
            return True
    return _real(source) in _real(path).parents and os.path.isfile(path) and os.path.isdir(source)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def write_output(path: Path, text: str) -> None:
    """Write a file that the user asked for; it appears whole or not at all."""
    with disk_errors(path):
        write_atomic(path, text)


@contextlib.contextmanager
def export_folder(
    out: Path, contents: str, exported: Callable[[Path], Sequence[str]], overwrite: bool
) -> Iterator[Path]:
    """Give an empty folder to write an export to; its files are moved to `out` when nothing went wrong.

    Of an earlier export only its own files are removed. The file by which it is known goes first and comes
    last, so that what is half there is no export.

    Args:
        out: must not exist, be empty, or hold an earlier export of the kind, with `overwrite`.
        contents: what is exported, in words.
        exported: returns the files of such an export in a folder, first the one by which it is known; none
            where there is no such export.
        overwrite: replace an earlier export.

    Raises:
        RunError: there is something already.
        ResourceError: the disk is full, or the folder cannot be written.
    """
    if out.exists() and (
        not out.is_dir() or not all(path.name.startswith(_EXPORTING) for path in out.iterdir())
    ):
        if not exported(out):
            raise RunError(f"{out} exists but does not contain {contents}; choose another folder with --out.")
        if not overwrite:
            raise RunError(
                f"{out} already contains {contents}; use --overwrite to replace it, or choose another --out."
            )
    with disk_errors(out):
        real = _real(out)
        was_there = real.is_dir()  # it may be a disk of its own
        place = real if was_there else real.parent
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_EXPORTING, dir=place) as aside:
            fresh = Path(aside) / "export"
            fresh.mkdir()
            yield fresh
            sync_tree(fresh)
            real.mkdir(exist_ok=True)
            try:
                for name in exported(real):
                    (real / name).unlink(missing_ok=True)
                known_by, *others = exported(fresh)
                for name in (*others, known_by):
                    (real / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(fresh / name, real / name)
            except OSError:
                if not was_there:
                    shutil.rmtree(real, ignore_errors=True)
                raise
        sync(real)
