"""Make training artifacts in a folder of the user's choice, to be carried to another device."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from edgetune.backends.onnx_files import is_inside
from edgetune.backends.ort.artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort.checksums import MANIFEST
from edgetune.models.source import resolve_model
from edgetune.models.vocabulary import require_tokenizer
from edgetune.run_files.outputs import export_folder, refuse_taken
from edgetune.utils.errors import UsageError
from edgetune.utils.machine import cache_folder
from edgetune.utils.parsing import read_json_file


def export_artifacts(
    model: str | None,
    n_labels: int,
    out: Path,
    *,
    freeze: str = "embeddings",
    pooling: str = "auto",
    multi_label: bool = False,
    overwrite: bool = False,
    cache_dir: Path | None = None,
) -> Artifacts:
    """Export a model's training artifacts into a new folder.

    Args:
        model: None for the built-in one, a folder, or a hub name (see `models.resolve_model`).
        n_labels: how many labels the classifier has.
        out: must not exist yet, or be an earlier export with `overwrite`.
        freeze: `none`, `embeddings` or a number of lowest layers.
        pooling: see `models.source.resolve_model`.
        multi_label: whether rows may have several labels.
        overwrite: replace an earlier export.
        cache_dir: where a copy is kept for later runs.

    Raises:
        UsageError: a number that cannot be.
        RunError: there is something already.
        ArtifactsError: the export failed its check.
    """
    if n_labels < 2:
        raise UsageError(f"--labels {n_labels}: a classifier needs at least 2 labels.")
    if freeze not in ("none", "embeddings") and not freeze.isdigit():
        raise UsageError(f"--freeze {freeze}: must be none, embeddings or a number of layers.")
    refuse_taken("--out", out, [model] if model is not None else [])
    with export_folder(out, "training artifacts", _exported, overwrite) as fresh:
        source = resolve_model(model, pooling)
        require_tokenizer(source.folder)
        builder = ArtifactBuilder(source, cache_dir if cache_dir is not None else cache_folder())
        made = builder.get(n_labels, freeze, multi_label)
        shutil.copytree(made.folder, fresh, dirs_exist_ok=True)
    return load_artifacts(out, n_labels, cache_dir, multi_label)


def _exported(folder: Path) -> list[str]:
    """Return the files of an export, its manifest first; [] where there is none, or one of something else."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        manifest = read_json_file(folder / MANIFEST)
        if manifest["fingerprint"] and manifest["onnxruntime"]:
            return [MANIFEST, *(name for name in manifest["files"] if is_inside(folder, name))]
    return []
