"""Checkpoints: everything that a run needs to go on as if it had never been broken off.

RUN/checkpoints/00000007.ckpt    a zip, stored: state.json (schema, numbers), array-N.npy, backend.bin

Every part has its CRC-32 in the zip, which is checked as it is read, and a torn file lacks the zip's end. The
newest two are kept, so that one that cannot be read costs the time between two of them and no more.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgetune.run_files.run_folder import CHECKPOINTS
from edgetune.utils.errors import RunError
from edgetune.utils.failpoints import failpoint
from edgetune.utils.files import atomic_path

SCHEMA_VERSION = 9  # 9: states of selectors are named after their attributes
SUFFIX = ".ckpt"
KEPT = 2
_ARRAY = "$array"
_STATE, _BACKEND = "state.json", "backend.bin"


@dataclass(frozen=True)
class Checkpoint:
    """A run at a moment between two batches of its stream.

    Attributes:
        path: where it was read from.
        state: nested dicts and lists of plain values and arrays.
        backend: parameters and optimizer, for `Backend.load_state`.
        damaged: newer ones that could not be read.
    """

    path: Path
    state: dict[str, Any]
    backend: bytes
    damaged: tuple[Path, ...] = ()


def write_checkpoint(folder: Path, state: dict[str, Any], backend: bytes) -> Path:
    """Add a checkpoint to a run's folder; all but the newest two go.

    Args:
        folder: of the run.
        state: nested dicts with text keys, lists, arrays, numbers and texts.
        backend: of `Backend.state`.

    Raises:
        OSError: it could not be written; the ones before it are untouched.
    """
    home = folder / CHECKPOINTS
    before = checkpoint_files(folder)
    number = int(before[-1].stem) + 1 if before else 1
    arrays: list[np.ndarray[Any, Any]] = []
    plain = json.dumps({"schema_version": SCHEMA_VERSION, "state": _packed(state, arrays)})
    path = home / f"{number:08d}{SUFFIX}"
    failpoint("checkpoint-begun")
    with atomic_path(path) as scratch:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as parts:
            parts.writestr(_STATE, plain)
            for at, array in enumerate(arrays):
                with parts.open(f"array-{at}.npy", "w", force_zip64=True) as file:
                    _write_array(file, array)
            failpoint("checkpoint-half-written")
            with parts.open(_BACKEND, "w", force_zip64=True) as file:
                file.write(backend)
        failpoint("checkpoint-written")
    failpoint("checkpoint-renamed")
    for old in before[: -(KEPT - 1)]:
        old.unlink(missing_ok=True)
    failpoint("checkpoint-pruned")
    return path


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first; what lies there under other names is none."""
    found = [path for path in (folder / CHECKPOINTS).glob(f"*{SUFFIX}") if path.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem))


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Read a run's newest checkpoint that is whole; None where there is none at all.

    Raises:
        RunError: there are some and none can be read, or a newer edgetune wrote them.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoint_files(folder)):
        try:
            state, backend = _read(path)
        except RunError:
            raise
        except Exception as error:  # zipfile and numpy have a dozen kinds for what is no checkpoint
            damaged.append((path, str(error) or type(error).__name__))
            continue
        return Checkpoint(path, state, backend, tuple(bad for bad, _ in damaged))
    if not damaged:
        return None
    path, why = damaged[0]
    raise RunError(
        f"No checkpoint in {folder / CHECKPOINTS} can be read ({path.name}: {why[:200]}). Use the saved "
        f"model if there is one, or train again with --config {folder / 'config.toml'}."
    )


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    with zipfile.ZipFile(path) as parts:
        found = json.loads(parts.read(_STATE))
        version = found["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(
                f"{path} was written by {'a newer' if version > SCHEMA_VERSION else 'an older'} edgetune "
                f"(checkpoint schema {version}; this version reads {SCHEMA_VERSION}); resume with the "
                "version that wrote it."
            )
        arrays: list[np.ndarray[Any, Any]] = [
            np.lib.format.read_array(io.BytesIO(parts.read(name)), allow_pickle=False)
            for name in parts.namelist()
            if name not in (_STATE, _BACKEND)
        ]
        state: dict[str, Any] = _unpacked(found["state"], arrays)
        return state, parts.read(_BACKEND)


def _write_array(file: IO[bytes], array: np.ndarray[Any, Any]) -> None:
    """Write an array as `.npy`, without the copies that numpy makes of it on its way into a zip."""
    if array.dtype.hasobject:
        raise TypeError("a state cannot hold an array of objects")
    content = np.asarray(array, order="C")
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(content))
    file.write(content.reshape(-1).view(np.uint8).data)


def _packed(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return a value as JSON has it, arrays replaced by their places in `arrays`."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key != _ARRAY for key in value):
            raise TypeError(
                f"the keys of a state are strings other than {_ARRAY}; found {sorted(map(repr, value))[:3]}"
            )
        return {key: _packed(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item, arrays) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a state cannot hold {type(value).__name__}")


def _unpacked(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _unpacked(item, arrays) for key, item in value.items()}
    return [_unpacked(item, arrays) for item in value] if isinstance(value, list) else value
