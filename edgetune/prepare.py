"""From settings to what the loop needs: rows with labels, a backend, and what the user should know.

On the `ort` backend a child process imports torch and exports while this one reads and tokenizes; with
cached (or carried) artifacts there is no child and no torch at all.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgetune.backends.base import Backend
from edgetune.backends.hf_folder import convert_tokenizer
from edgetune.backends.ort_artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort_runtime import has_training_build, import_training
from edgetune.config import RunConfig
from edgetune.data.tokens import TokenizerSpec
from edgetune.errors import EnvironmentError_, UsageError
from edgetune.meter import Meter
from edgetune.models import ModelSource, resolve_model, weight_files
from edgetune.rows import Rows, Say, open_rows


@dataclass(frozen=True)
class Prepared:
    """Everything a run trains with.

    Attributes:
        data: rows and labels.
        backend: ready to train.
        model_name: what is being finetuned.
        hidden_size: of the encoder.
        vocab_size: token ids are below this.
        max_length: tokens per row at most, after the model's own limit.
        freeze: what is frozen.
    """

    data: Rows
    backend: Backend
    model_name: str
    hidden_size: int
    vocab_size: int
    max_length: int
    freeze: str


def choose_backend(config: RunConfig) -> str:
    """Decide `auto`, and refuse a backend that cannot run here.

    Raises:
        UsageError: artifacts were given to the torch backend.
        EnvironmentError_: nothing installed can train.
    """
    wanted: str = config.model.backend
    if config.model.artifacts is not None:
        if wanted == "torch":
            raise UsageError("--artifacts are for ONNX Runtime; leave --backend torch out, or --artifacts.")
        wanted = "ort"
    if wanted == "auto":
        wanted = _best_backend(config)
    if wanted == "ort" and (config.model.precision == "bf16" or not config.model.onnx):
        raise UsageError(
            "--precision bf16 and --no-onnx are for --backend torch; ort trains in fp32 as ONNX."
        )
    return wanted


def _best_backend(config: RunConfig) -> str:
    if config.model.device == "cpu" and has_training_build():
        return "ort"
    if importlib.util.find_spec("torch") is None:
        raise EnvironmentError_(
            'Nothing installed here can train: `pip install "edgetune[cpu]"` '
            '(or "edgetune[device]" to train from carried artifacts). `edgetune doctor` says what is missing.'
        )
    return "torch"


@dataclass(frozen=True)
class _Origin:
    """Where the model comes from: what the data needs to know of it, and how to open it for training.

    Attributes:
        name: what is being finetuned.
        hidden_size: of the encoder.
        max_positions: tokens per row at most.
        tokenizer_file: a `tokenizer.json`.
        pad_id: token id that fills a row.
        freeze: what is frozen.
        labels: the model's own label names, () if it has none worth keeping.
        open: makes the backend, given the number of labels.
    """

    name: str
    hidden_size: int
    max_positions: int
    tokenizer_file: Path
    pad_id: int
    freeze: str
    labels: tuple[str, ...]
    open: Callable[[int], Backend]


def prepare(config: RunConfig, cache_dir: Path, meter: Meter, say: Say) -> Prepared:
    """Read the data, get the artifacts or the model, and open the backend.

    Raises:
        EdgetuneError: whatever is wrong, before anything is trained or written into the run folder.
    """
    with contextlib.ExitStack() as stack:
        origin = _find_origin(config, cache_dir, meter, say, stack)
        max_length = min(config.data.max_length, origin.max_positions)
        spec = TokenizerSpec(origin.tokenizer_file, max_length, origin.pad_id)
        with meter.phase("tokenize"):
            data = open_rows(config, spec, cache_dir, origin.labels, say)
        backend = origin.open(len(data.label_names))
    return Prepared(
        data=data,
        backend=backend,
        model_name=origin.name,
        hidden_size=origin.hidden_size,
        vocab_size=_vocab_size(origin.tokenizer_file),
        max_length=max_length,
        freeze=origin.freeze,
    )


def _find_origin(
    config: RunConfig, cache_dir: Path, meter: Meter, say: Say, stack: contextlib.ExitStack
) -> _Origin:
    backend_name = choose_backend(config)
    if config.model.artifacts is not None:
        return _carried(config, Path(config.model.artifacts), say)
    source = resolve_model(config.model.model)
    tokenizer_file = ensure_tokenizer(source, cache_dir)
    opener = partial(_open_torch, config, source, tokenizer_file.parent)
    if backend_name == "ort":
        import_training()
        builder = ArtifactBuilder(source, config.model.freeze, cache_dir)
        stack.callback(builder.close)
        if not builder.any_cached():
            builder.warm_up()
        opener = partial(_export_and_open, config, builder, meter, say)
    return _Origin(
        name=source.name,
        hidden_size=source.hidden_size,
        max_positions=source.max_positions,
        tokenizer_file=tokenizer_file,
        pad_id=source.pad_id,
        freeze=config.model.freeze,
        labels=label_order(source.config.get("id2label")),
        open=opener,
    )


def _carried(config: RunConfig, folder: Path, say: Say) -> _Origin:
    artifacts = load_artifacts(folder)
    manifest = artifacts.manifest
    if "freeze" in config.model.model_fields_set and config.model.freeze != manifest.freeze:
        raise UsageError(
            f"--freeze {config.model.freeze}: {folder} was exported with --freeze {manifest.freeze}; "
            "leave the option out, or export again."
        )
    weights = None if config.model.model is None else resolve_model(config.model.model)
    return _Origin(
        name=manifest.model,
        hidden_size=manifest.hidden_size,
        max_positions=manifest.max_positions,
        tokenizer_file=artifacts.tokenizer_file,
        pad_id=manifest.pad_id,
        freeze=manifest.freeze,
        labels=() if weights is None else label_order(weights.config.get("id2label")),
        open=lambda n_labels: _open_ort(config, load_artifacts(folder, n_labels), say, weights),
    )


def _export_and_open(
    config: RunConfig, builder: ArtifactBuilder, meter: Meter, say: Say, n_labels: int
) -> Backend:
    if builder.cached(n_labels) is None:
        say(f"Exporting training artifacts of {builder.model_name} (once per model and setting)")
    with meter.phase("export"):
        artifacts = builder.get(n_labels)
    return _open_ort(config, artifacts, say)


def _open_ort(
    config: RunConfig, artifacts: Artifacts, say: Say, weights: ModelSource | None = None
) -> Backend:
    from edgetune.backends.ort_backend import OrtBackend

    for note in artifacts.manifest.notes:
        say(note)
    settings = config.model
    backend = OrtBackend(artifacts, config.train.seed, device=settings.device, threads=settings.threads)
    if weights is not None:
        backend.load_weights(weight_files(weights.folder))
    return backend


def _open_torch(config: RunConfig, source: ModelSource, tokenizer_folder: Path, n_labels: int) -> Backend:
    from edgetune.backends.torch_backend import TorchBackend

    settings = config.model
    return TorchBackend(
        source,
        n_labels,
        settings.freeze,
        config.train.seed,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        onnx=settings.onnx,
        tokenizer_folder=tokenizer_folder,
    )


def _vocab_size(tokenizer_file: Path) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(tokenizer_file)).get_vocab_size(with_added_tokens=True))


def ensure_tokenizer(source: ModelSource, cache_dir: Path) -> Path:
    """Return the model's `tokenizer.json`, converting an older tokenizer once if there is none.

    Raises:
        EnvironmentError_: it needs converting and transformers is not installed, or it cannot be converted.
    """
    if source.tokenizer_file.is_file():
        return source.tokenizer_file
    target = cache_dir / "tokenizers" / source.fingerprint()
    if not (target / "tokenizer.json").is_file():
        convert_tokenizer(source.folder, target)
    return target / "tokenizer.json"


def label_order(id2label: dict[str, str] | None) -> tuple[str, ...]:
    """Return a model's own label names in order, () when it has none worth keeping."""
    if not id2label:
        return ()
    names = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names
