"""Make training artifacts in a folder of the user's choice, to be carried to another device."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgetune.backends.ort.artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort.checksums import MANIFEST
from edgetune.models.source import resolve_model
from edgetune.models.vocabulary import require_tokenizer
from edgetune.run_files.run_folder import disk_errors
from edgetune.utils.errors import ArtifactsError, UsageError
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
        ArtifactsError: there is something already, or the export failed its check.
    """
    if n_labels < 2:
        raise UsageError(f"--labels {n_labels}: a classifier needs at least 2 labels.")
    if freeze not in ("none", "embeddings") and not freeze.isdigit():
        raise UsageError(f"--freeze {freeze}: must be none, embeddings or a number of layers.")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / MANIFEST).is_file():
            raise ArtifactsError(
                f"{out} exists but does not contain artifacts; choose another folder with --out."
            )
        if not overwrite:
            raise ArtifactsError(
                f"{out} already contains artifacts; use --overwrite to replace them, or choose another --out."
            )
    source = resolve_model(model, pooling)
    require_tokenizer(source.folder)
    with disk_errors(out):
        builder = ArtifactBuilder(source, cache_dir if cache_dir is not None else cache_folder())
        made = builder.get(n_labels, freeze)
        scratch = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            shutil.copytree(made.folder, scratch)
            scratch.chmod(0o755)  # the cache's folder is for its user alone; this one is the user's to share
            shutil.rmtree(out, ignore_errors=True)
            scratch.rename(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return load_artifacts(out, n_labels, cache_dir)
