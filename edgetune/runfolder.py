"""A run folder: where everything of one run lies, and how it is written without ever being half there.

config.toml  history.jsonl  summary.json  metrics.json  rows.npz  run.png  bad_rows.jsonl
model/       config with labels, model.safetensors, tokenizer, model card
onnx/        model.onnx, config, tokenizer
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgetune.errors import EnvironmentError_, RunError
from edgetune.files import write_whole

MARKERS = ("config.toml", "history.jsonl", "summary.json")
OWN = (*MARKERS, "metrics.json", "rows.npz", "run.png", "bad_rows.jsonl", "model", "onnx", "interrupted")

ALMOST_NOTHING = 1 << 16  # bytes free that a writer which ran out of space may leave


class RunFolder:
    """Creates and fills one run's folder."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """Check that the folder may be written; nothing is created yet.

        Raises:
            RunError: there is something already.
        """
        self.path = path
        self._overwrite = overwrite
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if not path.is_dir() or not any((path / name).exists() for name in MARKERS):
            raise RunError(f"{path} exists and is no run of edgetune; choose another folder with --out.")
        if not overwrite:
            raise RunError(
                f"{path} holds a run already; use --overwrite to replace it, or --out for another folder."
            )

    def create(self) -> None:
        """Make the folder, in place of an earlier run when that was allowed."""
        if self._overwrite and self.path.is_dir():
            for name in OWN:
                found = self.path / name
                if found.is_dir():
                    shutil.rmtree(found)
                elif found.exists():
                    found.unlink()
        self.path.mkdir(parents=True, exist_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a file under a temporary name, then rename it."""
        write_whole(self.path / name, text)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append_bad_rows(self, files: tuple[Path, ...]) -> None:
        """Collect the lists of rows that were left out into `bad_rows.jsonl`."""
        self.write_text("bad_rows.jsonl", "".join(path.read_text(encoding="utf-8") for path in files))

    def save_model(self, write: Callable[[Path], None], under: str = "") -> Path:
        """Let `write` fill a temporary folder with `model/` and `onnx/`, then rename both into place.

        Args:
            write: writes the two folders.
            under: a subfolder of the run to put them in.
        """
        home = self.path / under
        home.mkdir(exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=self.path))
        try:
            write(scratch)
            for name in ("model", "onnx"):
                if (scratch / name).is_dir():
                    _swap(scratch / name, home / name)
                else:  # an older one would not be the model beside it
                    shutil.rmtree(home / name, ignore_errors=True)
        except Exception as error:
            if disk_is_full(error, self.path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return home / "model"


def _swap(new: Path, target: Path) -> None:
    """Put a folder where another may be; the old one is only removed once the new one is in place."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    for path in target.iterdir():
        path.chmod(0o644)
    shutil.rmtree(old, ignore_errors=True)


def disk_is_full(error: Exception, folder: Path) -> bool:
    """Tell whether an error means that there is no room; native writers have errors of their own for it."""
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return True
    return shutil.disk_usage(folder).free < ALMOST_NOTHING


def write_out(path: Path, text: str) -> None:
    """Write a file that the user asked for; it appears whole or not at all.

    Raises:
        EnvironmentError_: the disk is full, or the folder cannot be written.
    """
    with disk_errors(path):
        write_whole(path, text)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in a sentence that there is no room, or no permission.

    Raises:
        EnvironmentError_: the disk is full or `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise EnvironmentError_(
                f"No space left on the disk of {path}; free some (a run needs about three times the model's "
                "size), or use --out and --cache-dir on another disk."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise EnvironmentError_(
                f"Cannot write to {error.filename or path}: {error.strerror}; use --out."
            ) from error
        raise
