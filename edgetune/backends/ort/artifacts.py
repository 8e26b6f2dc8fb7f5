"""ONNX Runtime training artifacts: a folder that trains one model without torch.

    manifest.json            what it was made from and with; names of inputs and parameters
    training_model.onnx      forward + backward      eval_model.onnx     forward alone
    optimizer_model.onnx     AdamW                   checkpoint          weights
    cut/                     where layers are frozen: the same model in two halves
      prefix.onnx            the frozen layers (an ordinary inference graph, weights inside)
      training_model.onnx …  the four files above for what lies on top of them
    rest.safetensors         weights the graph does not use, kept for the Hugging Face folder
    config.json, tokenizer…  as they go into the trained model's folder

Built by a child process (`export_process`), so that torch's memory and chatter never enter the run, and
cached by a hash of weights, settings and versions. Reading them needs neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetune.backends.onnx_files import find_unsafe_reference, is_inside
from edgetune.backends.ort.manifest import MANIFEST, SCHEMA_VERSION, Manifest, find_damage
from edgetune.models.checks import MAX_JSON_BYTES, MAX_TOKENIZER_BYTES, check_safetensors, check_size
from edgetune.models.source import ModelSource, resolve_model
from edgetune.models.vocabulary import require_tokenizer
from edgetune.run_files.outputs import export_folder, refuse_taken
from edgetune.utils.cache import cache_subfolder, mark_in_use, move_into_place
from edgetune.utils.errors import (
    ArtifactsError,
    EdgetuneError,
    MissingDependencyError,
    ModelError,
    ResourceError,
    UsageError,
)
from edgetune.utils.isolation import module_command
from edgetune.utils.machine import cache_folder, installed
from edgetune.utils.parsing import read_json_file

GRAPHS = ("training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint")
CUT_FOLDER = "cut"
PREFIX = "prefix.onnx"
_ERRORS: dict[str, type[EdgetuneError]] = {
    kind.__name__: kind
    for kind in (ArtifactsError, MissingDependencyError, ModelError, ResourceError, UsageError)
}


@dataclass(frozen=True)
class Artifacts:
    """A folder of training artifacts whose manifest was read and found to fit this machine."""

    folder: Path
    manifest: Manifest

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer that goes with the model."""
        return self.folder / "tokenizer.json"


def ort_version() -> str:
    """Return the version of the installed ONNX Runtime, whatever its package is called."""
    names = ("onnxruntime-training-cpu", "onnxruntime-training", "onnxruntime")
    return next((found for name in names if (found := installed(name)) is not None), "none")


def load_artifacts(
    folder: Path, n_labels: int | None = None, cache_dir: Path | None = None, multi_label: bool = False
) -> Artifacts:
    """Open artifacts and check that they are whole and safe, and can train here, with these labels.

    Args:
        folder: where they lie.
        n_labels: of the data; None: any number.
        cache_dir: where is remembered what was checked (`manifest.find_damage`).
        multi_label: whether a row of the data may have several labels.

    Raises:
        ArtifactsError: missing, damaged, from another version, or for other labels.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactsError(
            f"{folder} does not contain training artifacts (no {MANIFEST}); "
            "create them with `edgetune export`."
        )
    try:
        check_size(path, MAX_JSON_BYTES)
        raw = json.loads(path.read_text(encoding="utf-8"))
        _check_version(folder, raw)
        manifest = Manifest.model_validate(raw)
    except (OSError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise ArtifactsError(f"{path} is damaged ({first}); export the artifacts again.") from error
    wanted = [*GRAPHS, "tokenizer.json", "config.json"]
    if manifest.cut is not None:
        wanted += [f"{CUT_FOLDER}/{name}" for name in (PREFIX, *GRAPHS)]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ArtifactsError(f"{folder} is missing {', '.join(missing)}; export the artifacts again.")
    if manifest.onnxruntime != ort_version() and ort_version() != "none":
        raise ArtifactsError(
            f"{folder} was exported for ONNX Runtime {manifest.onnxruntime}, but {ort_version()} is "
            "installed; export the artifacts again with the installed version."
        )
    if n_labels is not None and manifest.n_labels != n_labels:
        raise ArtifactsError(
            f"{folder} was exported for {manifest.n_labels} labels, but the data has {n_labels}; "
            f"export again with --labels {n_labels}."
        )
    if n_labels is not None and manifest.multi_label != multi_label:
        has, needs = ("any number of labels", "one label")[:: 1 if manifest.multi_label else -1]
        raise ArtifactsError(
            f"{folder} was exported for {has} a row, but the data has {needs} a row; export again "
            f"{'with' if multi_label else 'without'} --multi-label."
        )
    _check_files(folder, raw, wanted, cache_dir)
    return Artifacts(folder, manifest)


def _check_files(folder: Path, raw: dict[str, Any], wanted: list[str], cache_dir: Path | None) -> None:
    """Compare files with the manifest, and refuse what ONNX Runtime or a library must not see.

    Raises:
        ArtifactsError: a file is not what was written, or a graph opens files elsewhere.
        ModelError: the tokenizer's or the remaining weights' size is absurd.
    """
    again = "copy the folder again, or export the artifacts again"
    damage = find_damage(folder, raw, cache_dir)
    if damage is not None:
        raise ArtifactsError(f"{folder} {damage}; {again}.")
    beside = [f"{name}.data" for name in wanted if (folder / f"{name}.data").exists()]  # of a checkpoint
    unknown = [name for name in [*wanted, *beside] if name not in raw["files"]]
    if unknown:
        raise ArtifactsError(f"{folder} is damaged: {MANIFEST} does not list {unknown[0]}; {again}.")
    for name in wanted:
        why = find_unsafe_reference(folder / name) if name.endswith(".onnx") else None
        if why is not None:
            raise ArtifactsError(f"{folder / name} {why}; {again}.")
    check_size(folder / "tokenizer.json", MAX_TOKENIZER_BYTES)
    if (folder / "rest.safetensors").exists():
        check_safetensors(folder / "rest.safetensors")


def _check_version(folder: Path, raw: Any) -> None:
    """Refuse artifacts of another schema in words of their own."""
    version = raw.get("schema_version", 0) if isinstance(raw, dict) else 0
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactsError(f"{folder} was written by a newer edgetune; update edgetune or export again.")
    if isinstance(version, int) and version not in (0, SCHEMA_VERSION):
        raise ArtifactsError(
            f"{folder} was written by an older edgetune; export it again with `edgetune export`."
        )


def artifacts_cache_key(fingerprint: str, freeze: str) -> str:
    """Name artifacts by everything that decides their contents but the number of labels and their loss."""
    from edgetune.utils.version import __version__

    parts = [fingerprint, freeze, str(SCHEMA_VERSION), __version__, ort_version()]
    parts += [installed(package) or "-" for package in ("torch", "transformers", "optimum-onnx")]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]


class ArtifactBuilder:
    """Finds cached artifacts or has a child process make them.

    The child is started early (`warm_up`), so that it imports torch while this process reads and
    tokenizes the data; the number of labels is sent to it when it is known.
    """

    def __init__(self, source: ModelSource, cache_dir: Path) -> None:
        self._source = source
        self._cache_dir = cache_dir
        self._cache = cache_dir / "artifacts"
        self._whole: dict[Path, Artifacts] = {}  # of the cache, found to be so
        self._fingerprint = source.fingerprint()
        self._child: subprocess.Popen[str] | None = None

    def cached(self, n_labels: int, freeze: str, multi_label: bool = False) -> Path | None:
        """Return the cached artifacts' folder, if they are there and whole; damaged ones are made again."""
        folder = self._folder(n_labels, freeze, multi_label)
        return folder if self._is_whole(folder, n_labels, multi_label) else None

    def _is_whole(self, folder: Path, n_labels: int, multi_label: bool) -> bool:
        with contextlib.suppress(ArtifactsError, ModelError):
            if folder not in self._whole:
                self._whole[folder] = load_artifacts(folder, n_labels, self._cache_dir, multi_label)
        return folder in self._whole

    def any_cached(self, freeze: str) -> bool:
        """Return whether this model's artifacts are cached for any number of labels."""
        key = artifacts_cache_key(self._fingerprint, freeze)
        return next(self._cache.glob(f"{key}-*/{MANIFEST}"), None) is not None

    def _folder(self, n_labels: int, freeze: str, multi_label: bool = False) -> Path:
        key, kind = artifacts_cache_key(self._fingerprint, freeze), "-multi" if multi_label else ""
        return self._cache / f"{key}-{n_labels}{kind}"

    def warm_up(self) -> None:
        """Start the child that will export, if it is not running yet."""
        if self._child is None:
            self._child = subprocess.Popen(
                module_command("edgetune.backends.ort.export_process"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def close(self) -> None:
        """Stop a child that is not needed any more."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def get(self, n_labels: int, freeze: str, multi_label: bool = False) -> Artifacts:
        """Return cached artifacts, or make them.

        Raises:
            EdgetuneError: what the child found wrong, in its words.
        """
        folder = self._folder(n_labels, freeze, multi_label)
        if not self._is_whole(folder, n_labels, multi_label):
            self._build(folder, n_labels, freeze, multi_label)
            self._whole[folder] = load_artifacts(folder, n_labels, self._cache_dir, multi_label)
        mark_in_use(folder / MANIFEST)
        return self._whole[folder]

    def _build(self, folder: Path, n_labels: int, freeze: str, multi_label: bool) -> None:
        """Make artifacts in a temporary folder beside `folder`, then put it there."""
        try:
            home = cache_subfolder(self._cache_dir, "artifacts")
            made = tempfile.TemporaryDirectory(prefix=".building-", dir=home, ignore_cleanup_errors=True)
        except OSError as error:
            raise ResourceError(
                f"Cannot write to {folder.parent} ({error.strerror}); choose another folder with "
                "--cache-dir or EDGETUNE_CACHE."
            ) from error
        with made as scratch:
            self._run_child(
                {
                    "folder": str(self._source.folder),
                    "name": self._source.name,
                    "fingerprint": self._fingerprint,
                    "n_labels": n_labels,
                    "multi_label": multi_label,
                    "freeze": freeze,
                    "pools_mean": self._source.pools_mean,
                    "target": scratch,
                }
            )
            move_into_place(
                Path(scratch), folder, lambda folder: self._is_whole(folder, n_labels, multi_label)
            )

    def _run_child(self, job: dict[str, Any]) -> None:
        """Have a job done (see `export_process.build_artifacts`), by the child that is warm or a new one."""
        self.warm_up()
        child, self._child = self._child, None
        assert child is not None
        try:
            out, err = child.communicate(json.dumps(job))
        except BaseException:
            child.kill()
            child.communicate()
            raise
        lines = [line for line in out.splitlines() if line.startswith("{")]
        answer: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        if "error" in answer:
            raise _ERRORS.get(answer["error"], ArtifactsError)(answer["message"])
        if child.returncode != 0 or not answer.get("ok"):
            tail = " ".join(err.strip().splitlines()[-1:])[-300:]
            raise ArtifactsError(
                f"Exporting the training artifacts failed (exit code {child.returncode}: "
                f"{tail or 'no message'}); try --backend torch, and please report this error."
            )


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
    """Export a model's training artifacts into a new folder, and keep a copy in the cache for later runs.

    `model` and `pooling` are those of `models.source.resolve_model`; `overwrite` replaces an earlier export.

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
