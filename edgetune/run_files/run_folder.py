"""A run folder: where everything of one run lies, and how it is written without ever being half there.

config.toml  history.jsonl  summary.json  metrics.json  rows.npz  run.png  bad_rows.jsonl
model/       config with labels, model.safetensors, tokenizer, model card
onnx/        model.onnx, config, tokenizer
checkpoints/ while the run goes on, see `checkpoint`

A model is written to .saving-*/, synced, renamed to .ready/, and moved from there over the one before: once
.ready/ is there, whoever comes next finishes the move.
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

from edgetune.utils.cache import private_folder
from edgetune.utils.errors import EdgetuneError, ModelError, ResourceError, RunError
from edgetune.utils.failpoints import failpoint
from edgetune.utils.files import os_error_in, sync, sync_tree, write_atomic

MARKERS = ("config.toml", "history.jsonl", "summary.json")
MODELS, ENSEMBLE = ("model", "onnx"), "ensemble"
CHECKPOINTS, INTERRUPTED = "checkpoints", "interrupted"
OWN = (
    *MARKERS,
    "metrics.json",
    "rows.npz",
    "run.png",
    "bad_rows.jsonl",
    *MODELS,
    ENSEMBLE,
    INTERRUPTED,
    CHECKPOINTS,
)
LOCK = ".lock"
SCRATCH, READY, WITHOUT = ".saving-", ".ready", ".without-"

NO_ROOM = {getattr(errno, name, None) for name in ("ENOSPC", "EFBIG", "EDQUOT")}
"""The disk is full, a file may not grow further, a user may not have more."""
NO_PLACE = {
    getattr(errno, name, None)
    for name in (
        *("EACCES", "EROFS", "EPERM"),  # not allowed
        *("EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "EINVAL"),  # no place for a file
        *("EIO", "ENXIO", "ENODEV", "EBUSY", "ENOLCK", "EOPNOTSUPP", "ESTALE"),  # the device fails
    )
}
ALMOST_NOTHING = 1 << 16  # bytes free that a writer which ran out of space may leave


class RunFolder:
    """Creates and fills one run's folder; one process at a time."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """Check that the folder may be written; nothing is created yet."""
        self.path = path
        self._overwrite = overwrite
        if not path.exists() or (path.is_dir() and all(found.name == LOCK for found in path.iterdir())):
            return
        if not path.is_dir() or not is_run_folder(path):
            raise RunError(f"{path} exists but is not an edgetune run; choose another folder with --out.")
        if not overwrite:
            raise RunError(
                f"{path} already contains a run; use --overwrite to replace it, --out for another folder, or "
                f"--resume {path} if the run was interrupted."
            )

    @classmethod
    def reopened(cls, path: Path) -> RunFolder:
        """Return the folder of a run that is there, to be written to further once it is locked."""
        if not path.is_dir() or not is_run_folder(path):
            raise RunError(f"{path} is not an edgetune run; give the folder of an interrupted run.")
        folder = cls.__new__(cls)
        folder.path, folder._overwrite = path, False
        return folder

    def create(self, stack: contextlib.ExitStack) -> None:
        """Make the folder, in place of an earlier run when that was allowed, and lock it."""
        private_folder(self.path)  # a user's texts are the user's
        self.lock(stack)
        if is_run_folder(self.path) and not self._overwrite:
            raise RunError(f"Another run was written to {self.path} in the meantime; choose another --out.")
        if self._overwrite:
            for name in OWN:
                self.remove(name)

    def lock(self, stack: contextlib.ExitStack) -> None:
        """Keep other processes from writing to the folder; a lock dies with its process."""
        stack.enter_context(exclusive_lock(self.path))
        finish_placing(self.path)

    def write_text(self, name: str, text: str) -> None:
        """Write a file under a temporary name, then rename it."""
        write_atomic(self.path / name, text)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append_bad_rows(self, files: tuple[Path, ...]) -> None:
        """Collect the lists of rows that were left out into `bad_rows.jsonl`."""
        self.write_text("bad_rows.jsonl", "".join(path.read_text(encoding="utf-8") for path in files))

    def save_model(self, write: Callable[[Path], None], under: str = "") -> Path:
        """Let `write` fill a temporary folder with `model/` and `onnx/`, then rename both into `under`."""
        return self._save(write, MODELS, self.path / under)

    def save_ensemble(self, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a temporary folder with `ensemble/`, then rename it into place."""
        return self._save(write, (ENSEMBLE,), self.path)

    def _save(self, write: Callable[[Path], None], names: tuple[str, ...], home: Path) -> Path:
        """Write folders of these names aside, then rename them into place; return the first one's path."""
        home.mkdir(exist_ok=True)
        failpoint("model-begun")
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self.path, ignore_cleanup_errors=True) as name:
            scratch = Path(name, "new")
            scratch.mkdir()
            try:
                write(scratch)
                for name in names:
                    if not (scratch / name).is_dir():  # an older one would not be the model beside it
                        (scratch / f"{WITHOUT}{name}").touch()
                for path in scratch.rglob("*"):
                    path.chmod(0o755 if path.is_dir() else 0o644)
                failpoint("model-written")
                sync_tree(scratch)
                os.replace(scratch, home / READY)
                sync(home)
            except Exception as error:
                if disk_is_full(error, self.path):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from error
                raise
        failpoint("model-ready")
        _put_in_place(home)
        failpoint("model-placed")
        return home / names[0]

    def remove(self, name: str) -> None:
        """Remove one of the run's files or folders, if it is there."""
        found = self.path / name
        if found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder meanwhile; a lock dies with its process."""
    from filelock import FileLock, Timeout  # a tenth of a second that reading a run does without

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"Another process is writing to {folder}; wait for it, or choose another --out."
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_run_folder(path: Path) -> bool:
    """Return whether a folder is a run's."""
    return any((path / name).exists() for name in MARKERS)


def finish_placing(path: Path) -> None:
    """Finish what a killed process had begun to put in place in a run's folder, drop what it had not.

    Nobody else may be writing there.
    """
    for home in (path, path / INTERRUPTED):
        if (home / READY).is_dir():
            _put_in_place(home)
    for scratch in [*path.glob(f"{SCRATCH}*"), *path.glob(f"{CHECKPOINTS}/.*.tmp"), *path.glob(".*.tmp")]:
        _remove(scratch)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def finish_placing_if_idle(path: Path) -> None:
    """Settle a folder that is only to be read, unless its run is going on or it cannot be written."""
    if not any((home / READY).is_dir() for home in (path, path / INTERRUPTED)):
        return
    with contextlib.suppress(OSError, RunError), exclusive_lock(path):
        finish_placing(path)


def _put_in_place(home: Path) -> None:
    """Move the folders that lie ready over those that were there; broken off, it can be done again.

    What lies under READY is complete and newer than what is in place, so every step may be repeated.
    """
    ready = home / READY
    for name in (*MODELS, ENSEMBLE):
        target = home / name
        if (ready / name).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            os.replace(ready / name, target)
            failpoint("model-half-placed")
        elif (ready / f"{WITHOUT}{name}").exists():
            shutil.rmtree(target, ignore_errors=True)
    sync(home)
    shutil.rmtree(ready, ignore_errors=True)


def disk_is_full(error: Exception, folder: Path) -> bool:
    """Tell whether an error means that there is no room; native writers have errors of their own for it."""
    found = os_error_in(error)
    if found is not None and found.errno in NO_ROOM:
        return True
    return shutil.disk_usage(folder).free < ALMOST_NOTHING


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in a sentence that there is no room, no permission, or no such place."""
    try:
        yield
    except EdgetuneError:
        raise
    except Exception as raised:
        error = os_error_in(raised)  # libraries have errors of their own for it
        if error is None:
            raise
        if error.errno in NO_ROOM:
            raise ResourceError(
                f"No space left on the disk of {path}; free some space (a run needs about three times the "
                "model's size), or choose another disk with --out and --cache-dir."
            ) from raised
        if error.errno in NO_PLACE:
            raise ResourceError(
                f"Cannot write to {error.filename or path}: {error.strerror}; choose another path with --out."
            ) from raised
        raise


@contextlib.contextmanager
def damage_errors(path: Path) -> Iterator[None]:
    """Say which file of a run cannot be read, whatever its library throws."""
    try:
        yield
    except ModelError as error:
        raise RunError(str(error)) from error
    except EdgetuneError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"{path} is damaged ({first[:200]}); copy the run folder again, or train again."
        ) from error
