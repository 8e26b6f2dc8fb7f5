"""What training artifacts say of themselves, in their `manifest.json`, and whether their files are so.

The manifest's own checksum, the size of every file and the SHA-256 of small files (graphs, config, tokenizer)
are checked at every opening. Large ones (weights) are summed at the first opening, when their size or time of
change is another than then, and once a week: that is remembered in the user's own cache (`checked/`), never
beside the artifacts, where a stranger could have written it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgetune.backends.onnx_files import is_inside
from edgetune.utils.cache import cache_subfolder
from edgetune.utils.files import file_sha256, write_atomic

MANIFEST = "manifest.json"
SCHEMA_VERSION = 6
TOLERANCE = 1e-3
SMALL_BYTES = 4_000_000
AGAIN_S = 7 * 24 * 3600.0
_remembered: dict[str, dict[str, Any]] = {}  # of this process: a run opens its artifacts more than once


class _Said(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ParityCheck(_Said):
    """How far the first step was from torch's when the artifacts were made.

    Attributes:
        logits: largest absolute difference of the logits.
        loss: absolute difference of the mean loss (nats).
        gradients: largest over parameters of |difference| / |gradient| (norms).
    """

    logits: float
    loss: float
    gradients: float

    @property
    def passes(self) -> bool:
        """Whether the graphs train like torch."""
        return all(value <= TOLERANCE for value in (self.logits, self.loss, self.gradients))  # no NaN


class Linear(_Said):
    """The last linear layer: parameters `weight` (C, F) and `bias` (C,)."""

    weight: str
    bias: str


class Cut(_Said):
    """The graphs in `cut/`.

    Attributes:
        depth: layers in the prefix.
        prefix_inputs: of the prefix, in order.
        inputs: of the suffix, in order; `hidden` is the prefix's output (B, T, D).
        check: prefix and suffix together against torch.
    """

    depth: int
    prefix_inputs: list[str]
    inputs: list[str]
    check: ParityCheck


class FileSum(_Said):
    """Size and SHA-256 of a file."""

    n_bytes: int
    sha256: str


class Manifest(_Said):
    """What artifacts are, written beside them.

    Attributes:
        files: every file but this one, by its path in the folder.
        checksum: of the manifest itself (`with_checksum`).
        multi_label: whether the loss is that of rows with any number of labels.
        linear: the head's last layer, whose input the eval graphs also return (None: there is no such).
        pools_mean: whether the last layer is the one that pools (`models.mean_pooling`).
        cut: None where no layer is frozen, or the graph cannot be cut above the frozen ones.
    """

    schema_version: Literal[6] = 6
    edgetune: str
    onnxruntime: str
    model: str
    fingerprint: str
    n_labels: int
    multi_label: bool = False
    freeze: str
    pools_mean: bool = False
    pad_id: int
    max_positions: int
    hidden_size: int
    initializer_range: float
    inputs: list[str]
    trainable: list[str]
    head: dict[str, list[int]]
    parameters: list[str]
    tied: dict[str, str]
    notes: list[str] = []
    check: ParityCheck
    linear: Linear | None = None
    cut: Cut | None = None
    files: dict[str, FileSum]
    checksum: str


def checksums_of(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size and SHA-256 of every file of finished artifacts but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): {"n_bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in files
    }


def with_checksum(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with the checksum of all that it says."""
    said = {name: value for name, value in manifest.items() if name != "checksum"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return {**said, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def find_damage(folder: Path, raw: Mapping[str, Any], cache_dir: Path | None) -> str | None:
    """Return what is wrong with artifacts, in words that follow their folder's name; None if nothing is.

    What was summed is remembered below `cache_dir`, or in this process only.
    """
    if raw.get("checksum") != with_checksum(raw)["checksum"]:
        return f"is damaged: {MANIFEST} was changed after it was written"
    files: Mapping[str, Mapping[str, Any]] = raw["files"]
    key = hashlib.sha256(f"{folder.resolve()}\n{raw['checksum']}".encode(errors="replace")).hexdigest()[:32]
    known = _known(key, cache_dir)
    state: dict[str, list[int]] = {}
    for name, said in files.items():
        path = folder / name
        if not is_inside(folder, name):
            return f"is damaged: {name} is missing or is a link"
        try:
            found = path.stat()
            state[name] = [found.st_size, found.st_mtime_ns, found.st_ino]
            if found.st_size != said["n_bytes"]:
                return f"is damaged: {name} has {found.st_size:,} bytes instead of {said['n_bytes']:,}"
            fresh = found.st_size > SMALL_BYTES and known.get(name) == state[name]
            if not fresh and file_sha256(path) != said["sha256"]:
                return f"is damaged: the SHA-256 of {name} does not match {MANIFEST}"
        except OSError as error:
            return f"is damaged: {name} cannot be read ({error.strerror})"
    if any(known.get(name) != state[name] for name in state):
        _remember(key, cache_dir, state)
    return None


def _known(key: str, cache_dir: Path | None) -> dict[str, Any]:
    """Return size, time of change and inode of files as they were when their sums were right."""
    found: Any = _remembered.get(key)
    try:
        if found is None and cache_dir is not None:
            found = json.loads((cache_dir / "checked" / f"{key}.json").read_text(encoding="utf-8"))
        fresh = found is not None and 0 <= time.time() - float(found["at"]) < AGAIN_S
        return dict(found["files"]) if fresh else {}
    except (OSError, TypeError, KeyError, ValueError):
        return {}


def _remember(key: str, cache_dir: Path | None, state: dict[str, list[int]]) -> None:
    _remembered[key] = {"at": time.time(), "files": state}
    if cache_dir is not None:
        with contextlib.suppress(OSError):  # then they are summed again next time
            write_atomic(cache_subfolder(cache_dir, "checked") / f"{key}.json", json.dumps(_remembered[key]))
