"""Make training artifacts in a folder of the user's choice, to be carried to another device."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgetune.backends.ort.artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort.checksums import MANIFEST
from edgetune.models.source import resolve_model
from edgetune.run_files.run_folder import export_folder
from edgetune.utils.errors import UsageError
from edgetune.utils.machine import cache_folder


def export_artifacts(
    model: str | None,
    n_labels: int,
    out: Path,
    *,
    freeze: str = "embeddings",
    pooling: str = "auto",
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
    with export_folder(out, MANIFEST, "training artifacts", overwrite) as scratch:
        builder = ArtifactBuilder(
            resolve_model(model, pooling), cache_dir if cache_dir is not None else cache_folder()
        )
        made = builder.get(n_labels, freeze)
        shutil.copytree(made.folder, scratch, dirs_exist_ok=True)
    return load_artifacts(out, n_labels, cache_dir)
