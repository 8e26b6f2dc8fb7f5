"""Where the model comes from (built-in, folder, hub, carried artifacts), and how a backend opens it."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.onnx_export import quiet
from edgetune.backends.openers import Opening, find_opener
from edgetune.backends.ort.artifacts import ArtifactBuilder, Artifacts, load_artifacts
from edgetune.backends.ort.ort_runtime import has_training_build, import_training
from edgetune.config.settings import RunConfig, freeze_of
from edgetune.models.checks import check_config
from edgetune.models.source import ModelSource, pinned_model, resolve_model
from edgetune.models.vocabulary import check_vocabulary, require_tokenizer
from edgetune.utils.cache import cache_subfolder, mark_in_use, move_into_place
from edgetune.utils.errors import MissingDependencyError, ModelError, ResourceError, UsageError
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.meter import Meter
from edgetune.utils.types import Say

_VOCABULARIES = ("tokenizer.json", "vocab.json", ".txt", ".model", ".bpe", ".spm", ".codes", ".vocab")


def choose_backend(config: RunConfig) -> str:
    """Decide `auto` without a plan, and refuse a backend that cannot run here.

    Raises:
        UsageError: artifacts were given to another backend, or a backend cannot do what is asked.
        MissingDependencyError: nothing installed can train.
    """
    wanted: str = config.model.backend
    if config.model.artifacts is not None:
        if wanted not in ("auto", "ort"):
            raise UsageError(
                f"--artifacts are for the ort backend and cannot be combined with --backend {wanted}; "
                "remove one of the two options."
            )
        wanted = "ort"
    if wanted != "auto":
        find_opener(wanted).check(config)
        return wanted
    wants_torch = config.model.precision == "bf16" or not config.model.onnx
    if config.model.device == "cpu" and has_training_build() and not wants_torch:
        return "ort"
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(
            'No installed package can train a model; run `pip install "edgetune[cpu]"` '
            '(or "edgetune[device]" to train from exported artifacts). '
            "`edgetune doctor` shows what is missing."
        )
    return "torch"


@dataclass
class ModelLoader:
    """Where the model comes from: what the data needs to know of it, and how to open it for training.

    Attributes:
        source: the model, or the carried artifacts in its place.
        tokenizer_file: a `tokenizer.json`.
        labels: the model's own label names, () if it has none worth keeping.
        carried: artifacts that were given.
        builder: exports artifacts and keeps them; None where no backend needs any.
        weights: a model whose weights replace those of the carried artifacts; None: theirs stay.
    """

    source: ModelSource
    tokenizer_file: Path
    labels: tuple[str, ...]
    builder: ArtifactBuilder | None = None
    carried: Artifacts | None = None
    weights: ModelSource | None = None

    @property
    def max_positions(self) -> int:
        """Tokens per row at most."""
        return self.source.max_positions if self.carried is None else self.carried.manifest.max_positions

    def exported(
        self, n_labels: int, freeze: str, key: str, depth: int, *, multi_label: bool = False
    ) -> bool:
        """Return whether a backend needs no export at a depth (at 0: with this `--freeze`)."""
        if self.builder is None or not key.startswith("ort"):
            return True
        wanted = "none" if freeze == "none" and not depth else freeze_of(depth)
        return self.builder.cached(n_labels, wanted, multi_label) is not None

    def fixed(self, config: RunConfig) -> RunConfig:
        """Put what carried artifacts decide into the settings, and the commit of a hub model."""
        update: dict[str, str] = {}
        if self.carried is not None:
            update |= {"backend": "ort", "freeze": self.carried.manifest.freeze}
        model = self.source if self.carried is None else self.weights
        if config.model.model is not None and model is not None:
            update["model"] = pinned_model(config.model.model, model.name)
        return config.model_copy(update={"model": config.model.model_copy(update=update)})

    def open(
        self,
        config: RunConfig,
        n_labels: int,
        cache: HiddenCache | None,
        meter: Meter,
        say: Say,
        *,
        multi_label: bool = False,
    ) -> Backend:
        """Open the backend that the settings name, whose `freeze` and number of threads are decided.

        Args:
            config: settings.
            n_labels: classes of the new head.
            cache: for the frozen layers' output; None: it is computed every time.
            meter: is charged with an export.
            say: is told what takes a while.
            multi_label: whether rows may have several labels.
        """
        opening = Opening(
            self.source,
            config.model,
            n_labels,
            config.train.seed,
            self.tokenizer_file.parent,
            cache,
            artifacts=partial(self._artifacts, config.model.freeze, n_labels, multi_label, meter, say),
            weights=None if self.weights is None else self.weights.folder,
            pair=config.data.pair,
            multi_label=multi_label,
        )
        return find_opener(config.model.backend).open_backend(opening)

    def _artifacts(self, freeze: str, n_labels: int, multi_label: bool, meter: Meter, say: Say) -> Artifacts:
        """Return the carried artifacts, or cached ones, which are exported first if there are none."""
        if self.carried is not None:
            artifacts = load_artifacts(self.carried.folder, n_labels, multi_label=multi_label)
        else:
            assert self.builder is not None
            if self.builder.cached(n_labels, freeze, multi_label) is None:
                say(f"Exporting training artifacts of {self.source.name} (once per model and setting)")
            with meter.phase("export"):
                artifacts = self.builder.get(n_labels, freeze, multi_label)
        for note in artifacts.manifest.notes:
            say(note)
        return artifacts


def find_model_loader(
    config: RunConfig, cache_dir: Path, stack: contextlib.ExitStack, *, warm_up: bool = True
) -> ModelLoader:
    """Find the model; start the exporting child early where nothing is cached (unless told not to).

    Raises:
        EdgetuneError: there is no such model, or nothing here can train it.
    """
    backend = choose_backend(config)
    if config.model.artifacts is not None:
        return _carried(config, Path(config.model.artifacts), cache_dir)
    source = resolve_model(config.model.model, config.model.pooling)
    builder = None
    if backend == "ort":
        import_training()
        builder = ArtifactBuilder(source, cache_dir)
        stack.callback(builder.close)
        freeze = "embeddings" if config.model.freeze == "auto" else config.model.freeze
        # With a deadline the planner may choose another backend, and the child would take its time.
        if warm_up and not config.budget.limits_time and not builder.any_cached(freeze):
            builder.warm_up()
    tokenizer_file = ensure_tokenizer(source, cache_dir)
    return ModelLoader(source, tokenizer_file, own_label_names(source.config.get("id2label")), builder)


def _carried(config: RunConfig, folder: Path, cache_dir: Path) -> ModelLoader:
    artifacts = load_artifacts(folder, cache_dir=cache_dir)
    manifest = artifacts.manifest
    for option, asked, exported in (
        ("freeze", config.model.freeze, manifest.freeze),
        ("pooling", config.model.pooling, "mean" if manifest.pools_mean else "cls"),
    ):
        if asked not in ("auto", exported):
            raise UsageError(
                f"--{option} {asked}: {folder} was exported with --{option} {exported}; omit the option, or "
                "export the artifacts again."
            )
    weights = None if config.model.model is None else resolve_model(config.model.model)
    own = check_config(manifest.model, folder / "config.json")
    check_vocabulary(own, artifacts.tokenizer_file)
    own = {**own, "pad_token_id": manifest.pad_id}
    source = ModelSource(manifest.model, folder, own, manifest.pools_mean)
    labels = () if weights is None else own_label_names(weights.config.get("id2label"))
    return ModelLoader(source, artifacts.tokenizer_file, labels, None, artifacts, weights)


def ensure_tokenizer(source: ModelSource, cache_dir: Path) -> Path:
    """Return the model's `tokenizer.json`, converting an older tokenizer once if there is none.

    Raises:
        MissingDependencyError: it needs converting and transformers is not installed.
        ModelError: there is none, it cannot be converted, or it has tokens that the model does not know.
        ResourceError: the converted one cannot be kept.
    """
    if source.tokenizer_file.is_file():
        return source.tokenizer_file
    require_tokenizer(source.folder)
    target = cache_dir / "tokenizers" / source.fingerprint()
    if not (target / "tokenizer.json").is_file():
        try:
            home = cache_subfolder(cache_dir, "tokenizers")
            with tempfile.TemporaryDirectory(prefix=".building-", dir=home) as scratch:
                made = Path(scratch) / "made"
                convert_tokenizer(source.folder, made)
                move_into_place(made, target, lambda folder: (folder / "tokenizer.json").is_file())
        except OSError as error:
            raise ResourceError(
                f"Cannot write to {cache_dir} ({error.strerror}); choose another folder with --cache-dir "
                "or EDGETUNE_CACHE."
            ) from error
    check_vocabulary(source.config, target / "tokenizer.json")
    mark_in_use(target / "tokenizer.json")
    return target / "tokenizer.json"


def convert_tokenizer(folder: Path, target: Path) -> None:
    """Write a model's tokenizer as a fast one, through transformers.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: it cannot read or convert the tokenizer.
    """
    no_telemetry()
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"{folder} has no tokenizer.json, and converting its tokenizer requires transformers; "
            'run `pip install "edgetune[cpu]"`.'
        ) from error
    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            found.save_pretrained(target)
    except (OSError, ValueError, ImportError, TypeError) as error:
        if not any(path.name.endswith(_VOCABULARIES) for path in folder.iterdir()):
            raise ModelError(
                f"{folder} has no tokenizer, as where only a model's weights were saved; copy tokenizer.json "
                "(or vocab.txt) of the model that it was made from into it."
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder} has no usable tokenizer: {first[:200]}") from error
    if not (target / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no fast tokenizer; edgetune needs a tokenizer.json.")


def own_label_names(id2label: dict[str, str] | None) -> tuple[str, ...]:
    """Return a model's own label names in order, () when it has none worth keeping."""
    known = id2label or {}
    names = tuple(str(known[key]) for key in sorted(known, key=int))
    return () if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names
