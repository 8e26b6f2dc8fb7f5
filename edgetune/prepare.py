"""From settings to what the loop needs: rows with labels, a backend, and what the user should know.

On the `ort` backend a child process imports torch and exports while this one reads and tokenizes; with
cached (or carried) artifacts there is no child and no torch at all.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetune.backends.base import Backend
from edgetune.backends.ort_artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort_runtime import has_training_build, import_training
from edgetune.config import RunConfig
from edgetune.data.dataset import DataOptions
from edgetune.data.tokens import TokenizerSpec, TokenStore, TokenView, open_tokens, overlap, split_holdout
from edgetune.errors import EnvironmentError_, UsageError
from edgetune.meter import Meter
from edgetune.models import ModelSource, resolve_model

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Everything a run trains with.

    Attributes:
        train: rows to train on, with the model's label ids.
        evaluation: rows to evaluate on, likewise.
        eval_source: where those came from, in words.
        label_names: by class id.
        backend: ready to train.
        model_name: what is being finetuned.
        hidden_size: of the encoder.
        vocab_size: token ids are below this.
        max_length: tokens per row at most, after the model's own limit.
        freeze: what is frozen.
        tokenizer_file: the tokenizer in use.
        warnings: sentences with counts.
        bad_rows_files: JSON lines of rows left out, from train and eval.
        n_bad: rows left out.
    """

    train: TokenView
    evaluation: TokenView
    eval_source: str
    label_names: tuple[str, ...]
    backend: Backend
    model_name: str
    hidden_size: int
    vocab_size: int
    max_length: int
    freeze: str
    tokenizer_file: Path
    warnings: tuple[str, ...]
    bad_rows_files: tuple[Path, ...]
    n_bad: int


def choose_backend(config: RunConfig) -> str:
    """Decide `auto`, and refuse a backend that cannot run here.

    Raises:
        UsageError: artifacts were given to the torch backend.
        EnvironmentError_: nothing installed can train.
    """
    wanted = config.model.backend
    if config.model.artifacts is not None:
        if wanted == "torch":
            raise UsageError("--artifacts are for ONNX Runtime; leave --backend torch out, or --artifacts.")
        return "ort"
    if wanted != "auto":
        return wanted
    if config.model.device == "cpu" and has_training_build():
        return "ort"
    if importlib.util.find_spec("torch") is None:
        raise EnvironmentError_(
            'Nothing installed here can train: `pip install "edgetune[cpu]"` '
            '(or "edgetune[device]" to train from carried artifacts). `edgetune doctor` says what is missing.'
        )
    return "torch"


def prepare(config: RunConfig, cache_dir: Path, meter: Meter, say: Say) -> Prepared:
    """Read the data, get the artifacts or the model, and open the backend.

    Raises:
        EdgetuneError: whatever is wrong, before anything is trained or written into the run folder.
    """
    backend_name = choose_backend(config)
    with contextlib.ExitStack() as stack:
        artifacts: Artifacts | None = None
        builder: ArtifactBuilder | None = None
        source: ModelSource | None = None
        if config.model.artifacts is not None:
            artifacts = load_artifacts(Path(config.model.artifacts))
            hidden_size, limit = artifacts.manifest.hidden_size, artifacts.manifest.max_positions
            tokenizer_file, pad_id = artifacts.tokenizer_file, artifacts.manifest.pad_id
            model_name, freeze = artifacts.manifest.model, artifacts.manifest.freeze
            known = None
        else:
            source = resolve_model(config.model.model)
            if backend_name == "ort":
                import_training()
                builder = ArtifactBuilder(source, config.model.freeze, cache_dir)
                stack.callback(builder.close)
                if not builder.any_cached():
                    builder.warm_up()
            hidden_size, limit = source.hidden_size, source.max_positions
            tokenizer_file, pad_id = ensure_tokenizer(source, cache_dir), source.pad_id
            model_name, freeze = source.name, config.model.freeze
            known = source.config.get("id2label")
        max_length = min(config.data.max_length, limit)
        spec = TokenizerSpec(tokenizer_file, max_length, pad_id)
        with meter.phase("tokenize"):
            data = _open_data(config, spec, cache_dir, label_order(known), say)
        n_labels = len(data.label_names)
        if artifacts is not None:
            artifacts = load_artifacts(artifacts.folder, n_labels)
        backend: Backend
        if backend_name == "ort":
            if builder is not None:
                if builder.cached(n_labels) is None:
                    say(f"Exporting training artifacts of {model_name} (once per model and setting)")
                with meter.phase("export"):
                    artifacts = builder.get(n_labels)
            assert artifacts is not None
            for note in artifacts.manifest.notes:
                say(note)
            backend = _open_ort(config, artifacts)
        else:
            assert source is not None
            backend = _open_torch(config, source, n_labels)
    return Prepared(
        train=data.train,
        evaluation=data.evaluation,
        eval_source=data.eval_source,
        label_names=data.label_names,
        backend=backend,
        model_name=model_name,
        hidden_size=hidden_size,
        vocab_size=_vocab_size(tokenizer_file),
        max_length=max_length,
        freeze=freeze,
        tokenizer_file=tokenizer_file,
        warnings=data.warnings,
        bad_rows_files=data.bad_rows_files,
        n_bad=data.n_bad,
    )


def _open_ort(config: RunConfig, artifacts: Artifacts) -> Backend:
    from edgetune.backends.ort_backend import OrtBackend

    settings = config.model
    return OrtBackend(artifacts, config.train.seed, device=settings.device, threads=settings.threads)


def _open_torch(config: RunConfig, source: ModelSource, n_labels: int) -> Backend:
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
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise EnvironmentError_(
                f"{source.folder} has no tokenizer.json, and converting its tokenizer needs transformers: "
                '`pip install "edgetune[cpu]"`.'
            ) from error
        from edgetune.backends.onnx_export import quiet

        try:
            with quiet():
                AutoTokenizer.from_pretrained(source.folder, local_files_only=True).save_pretrained(target)
        except (OSError, ValueError, ImportError, TypeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise EnvironmentError_(
                f"{source.folder} has no tokenizer that can be used: {first[:200]}"
            ) from error
        if not (target / "tokenizer.json").is_file():
            raise EnvironmentError_(
                f"{source.folder} has no fast tokenizer; edgetune needs a tokenizer.json."
            )
    return target / "tokenizer.json"


def label_order(id2label: dict[str, str] | None) -> tuple[str, ...]:
    """Return a model's own label names in order, () when it has none worth keeping."""
    if not id2label:
        return ()
    names = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


@dataclass(frozen=True)
class _Data:
    train: TokenView
    evaluation: TokenView
    eval_source: str
    label_names: tuple[str, ...]
    warnings: tuple[str, ...]
    bad_rows_files: tuple[Path, ...]
    n_bad: int


def data_options(config: RunConfig) -> DataOptions:
    """Pick the settings that decide how a file is read."""
    data = config.data
    return DataOptions(
        text=data.text,
        label=data.label,
        header=data.header,
        encoding=data.encoding,
        delimiter=data.delimiter,
        pair=data.pair,
    )


def _open_data(
    config: RunConfig, spec: TokenizerSpec, cache_dir: Path, known: tuple[str, ...], say: Say
) -> _Data:
    options, tokens_dir = data_options(config), cache_dir / "tokens"

    def reader(path: str, min_classes: int) -> TokenStore:
        with reading(path, say) as progress:
            return open_tokens(
                path, options, spec, tokens_dir, config.data.max_bad_rows, progress, min_classes
            )

    store = reader(config.data.train, 2)
    names = known if set(known) == set(store.label_names) else store.label_names
    everything = store.relabel(names)
    warnings = list(store.warnings())
    stores = [store]
    if config.data.eval is not None:
        eval_store = reader(config.data.eval, 1)
        stores.append(eval_store)
        train, evaluation, source = everything, eval_store.relabel(names), config.data.eval
    else:
        rng = np.random.default_rng([config.train.seed, 1])
        train_rows, eval_rows = split_holdout(
            everything.labels, config.data.holdout, config.data.max_holdout_rows, rng
        )
        train, evaluation = everything.subset(train_rows), everything.subset(eval_rows)
        source = f"{len(evaluation):,} rows held out of {config.data.train}"
    if n_same := overlap(train, evaluation):
        warnings.append(
            f"{n_same:,} of {len(evaluation):,} evaluation texts are also training texts; "
            "the accuracy will look better than it is."
        )
    store.release()
    return _Data(
        train=train,
        evaluation=evaluation,
        eval_source=source,
        label_names=tuple(names),
        warnings=tuple(warnings),
        bad_rows_files=tuple(item.bad_rows_file for item in stores if item.n_bad),
        n_bad=sum(item.n_bad for item in stores),
    )


@contextlib.contextmanager
def reading(path: str, say: Say) -> Iterator[Callable[[int], None]]:
    """Say now and then how many rows were read, when there are many."""
    told = 100_000

    def progress(n_read: int) -> None:
        nonlocal told
        if n_read >= told:
            say(f"Tokenizing {path}: {n_read:,} rows")
            told *= 2

    yield progress
