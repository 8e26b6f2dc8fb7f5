"""The checks of a stranger's model folder, made before any library opens a file of it.

    config.json ─→ size ─→ no remote code, no adapter ─→ numbers: do such weights fit this machine?
    weights     ─→ first bytes, header and index of the safetensors; pickles are refused by name, never read
    tokenizer   ─→ size

Headers are read here, weights never are. Needs neither torch nor transformers.

On the numbers: transformers makes tables of the sizes in the config, whatever the file of weights holds, so
a config alone can ask for more memory than there is. Its numbers ask for about

    words x embedding width + layers x (4 width^2 + 2 width x inner) + every other whole number x width

weights; numbers under names that are no size (token ids, seeds, the base of rotary positions) do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetune.utils.errors import ModelError
from edgetune.utils.machine import memory_mb

MAX_LAYERS = 1_000  # each is dozens of objects, whatever its width; the deepest encoder known has 48
MAX_LABELS = 100_000  # transformers names each of them before anything else
BYTES = 4  # of a float32
# Architectures have many names for one size; these are those that transformers' text classifiers use.
_WORDS = re.compile(r"vocab_size|n_words")
_WIDTH = re.compile(r"hidden_size|dim|d_model|n_embd|emb_dim|embed_dim")
_EMBEDDING = re.compile(r"embedding_size")
_INNER = re.compile(r"intermediate_size|hidden_dim|d_ff|d_inner|n_inner|(\w+_)?ffn_dim")
_LAYERS = re.compile(
    r"(\w+_)?layers?|block_sizes|block_repeats|depths?|num_feedforward_networks|inner_group_num"
)
_GROUPS = re.compile(r"num_hidden_groups")  # layers that share their weights count once
_LABELS = re.compile(r"num_labels")
_SIZES = (_WORDS, _WIDTH, _EMBEDDING, _INNER, _LAYERS, _GROUPS, _LABELS)
_NO_SIZE = re.compile(
    r"\w+_ids?|\w*seed|\w*theta|\w*version|\w+_index|\w+_every_n_layers|chunk_size_feed_forward"
)
_READ_HERE = {"pad_token_id", "max_position_embeddings", "type_vocab_size"}


def check_sizes(config: dict[str, Any], path: Path, has_mb: float | None) -> None:
    """Refuse a config whose weights cannot fit."""
    found = [one for one in _numbers(config, path) if not _NO_SIZE.fullmatch(one[0])]
    for name, value in found:
        for pattern, most in ((_LAYERS, MAX_LAYERS), (_GROUPS, MAX_LAYERS), (_LABELS, MAX_LABELS)):
            if pattern.fullmatch(name) and value > most:
                raise ModelError(
                    f"{path} sets {name} = {value:,}, but no model has more than {most:,}; the file is "
                    "damaged or malicious."
                )
    needs_mb = BYTES * n_weights(found) / 1e6
    if has_mb is not None and needs_mb > has_mb:
        name, value = max(found, key=lambda one: one[1])
        raise ModelError(
            f"{path} asks for {needs_mb / 1e3:,.1f} GB of weights ({name} = {value:,}), but this machine has "
            f"{has_mb / 1e3:,.1f} GB of memory; choose a smaller model, or download this one again."
        )


def n_weights(found: list[tuple[str, int]]) -> int:
    """Return about how many weights a config asks for with these (name, value)."""

    def largest(pattern: re.Pattern[str], otherwise: int) -> int:
        return max((value for name, value in found if pattern.fullmatch(name)), default=otherwise)

    width = largest(_WIDTH, 1)
    inner, words = largest(_INNER, width), largest(_WORDS, 0)
    layers = largest(_GROUPS, largest(_LAYERS, 1))
    others = sum(value for name, value in found if not any(pattern.fullmatch(name) for pattern in _SIZES))
    tables = words * largest(_EMBEDDING, width) + others * width
    return tables + layers * (4 * width**2 + 2 * width * inner)


def _numbers(config: dict[str, Any], path: Path) -> Iterator[tuple[str, int]]:
    """Yield every whole number in a config with the name that it stands under; lists count as their sum."""
    stack: list[tuple[str, Any]] = list(config.items())
    while stack:
        name, value = stack.pop()
        is_size = any(pattern.fullmatch(name) for pattern in _SIZES)
        if isinstance(value, list) and name not in _READ_HERE:
            value = sum(abs(one) for one in value if isinstance(one, int))
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(value, dict):
            stack += [(str(key), inner) for key, inner in value.items()] if "label" not in name else []
        elif is_whole and (value >= 0 or not is_size):
            yield name, abs(value)
        elif value is not None and (is_size or name in _READ_HERE):
            shown = str(value)[:40]
            raise ModelError(
                f"{path}: {name} is {shown}, but must be a non-negative integer; save the model again."
            )


PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)
MAX_JSON_BYTES = 10_000_000  # of a config, an index, a summary; that of 10,000 labels has 0.6 MB
MAX_TOKENIZER_BYTES = 64_000_000  # the largest known one (262,000 pieces) has 33 MB
MAX_HEADER_BYTES = 10_000_000  # of safetensors: a hundred bytes a tensor
NO_PICKLES = (
    "Loading a pickle can run arbitrary code, so edgetune never reads one. If you trust its publisher, "
    'convert it with `AutoModel.from_pretrained("OLD").save_pretrained("NEW", safe_serialization=True)`.'
)


def check_folder(name: str, folder: Path) -> dict[str, Any]:
    """Check everything that can be checked without loading the model; return its config."""
    if not (folder / "config.json").is_file():
        deeper = next((path.parent for path in sorted(folder.glob("*/config.json"))), None)
        instead = (
            "a Hugging Face model folder" if deeper is None else f"the folder in it that has one: {deeper}"
        )
        raise ModelError(f"{folder} is not a model: it has no config.json; pass {instead}.")
    config = check_config(name, folder / "config.json")
    weights = weight_files(folder)
    if not weights:
        raise _no_weights(folder)
    for path in weights:
        check_safetensors(path)
    check_index(folder, weights)
    has_mb, needs_mb = memory_mb(), sum(path.stat().st_size for path in weights) / 1e6
    if has_mb is not None and needs_mb > has_mb:
        raise ModelError(
            f"{folder} has {needs_mb / 1e3:,.1f} GB of weights, but this machine has {has_mb / 1e3:,.1f} GB "
            "of memory; choose a smaller model."
        )
    for file in TOKENIZER_FILES:
        check_size(folder / file, MAX_TOKENIZER_BYTES)
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: the whole one, or its shards."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    return sorted(folder.glob("model-*-of-*.safetensors"))


def tensor_headers(folder: Path) -> Iterator[tuple[Path, str, Any]]:
    """Yield file, name and safetensors slice (`get_shape`, `get_dtype`) of every tensor of a model."""
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (it is no dict)
                yield path, name, tensors.get_slice(name)


def check_size(path: Path, most: int) -> None:
    """Refuse a file whose size is absurd; one that is not there is fine."""
    size = path.stat().st_size if path.is_file() else 0
    if size > most:
        raise ModelError(
            f"{path} has {size / 1e6:,.0f} MB, but no {path.name} needs more than {most / 1e6:,.0f} MB; the "
            "file is damaged or malicious. Download the model again from its publisher."
        )


def read_model_json(path: Path, most: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of a model, if its size is sane."""
    check_size(path, most)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{path} is damaged: it is nested too deeply; download the model again.") from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged: it cannot be read as JSON ({error}); save or copy the model again."
        ) from error


def check_config(name: str, path: Path) -> dict[str, Any]:
    """Read a `config.json`; refuse what would run code, open other files, or fill the memory."""
    config = read_model_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path} has no model_type; it is not a Hugging Face model config.")
    if config.get("auto_map"):
        raise ModelError(f"{name} needs remote code (auto_map in {path}), which edgetune never runs.")
    if config.get("transformers_weights") is not None:
        raise ModelError(
            f"{path} refers to a separate weights file (transformers_weights); save the model again so that "
            "its weights are in model.safetensors."
        )
    if (path.parent / "adapter_config.json").is_file():
        raise ModelError(
            f"{path.parent} contains an adapter (adapter_config.json) next to the model; merge it into the "
            "model (merge_and_unload) and save the result."
        )
    check_sizes(config, path, memory_mb())
    return config


def _no_weights(folder: Path) -> ModelError:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return ModelError(
            f"{folder} has no .safetensors weights; save the model with "
            "`save_pretrained(..., safe_serialization=True)`."
        )
    shown = ", ".join(pickles[:3]) + (", …" if len(pickles) > 3 else "")
    return ModelError(f"{folder} has no .safetensors weights, only pickle files ({shown}). {NO_PICKLES}")


def check_safetensors(path: Path) -> None:
    """Check a file's header against its size, then let the library check the rest of the header."""
    from safetensors import SafetensorError, safe_open

    again = "copy or download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
        n_header = int.from_bytes(start[:8], "little")
        fits = len(start) == 9 and start[8:] == b"{" and n_header <= size - 8
        if not fits and _is_pickle(start):
            raise ModelError(f"{path} is a pickle file despite its extension. {NO_PICKLES}")
        if not fits:
            raise ModelError(
                f"{path} is corrupt or truncated (its header claims {n_header:,} bytes, but the file has "
                f"{size:,}); {again}."
            )
        if n_header > MAX_HEADER_BYTES:
            raise ModelError(
                f"{path} has a header of {n_header / 1e6:,.0f} MB, but no header needs more than "
                f"{MAX_HEADER_BYTES / 1e6:,.0f} MB; the file is damaged or malicious."
            )
        with safe_open(path, framework="numpy") as tensors:
            names = list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is corrupt or truncated ({error}); {again}.") from error
    if not names:
        raise ModelError(f"{path} contains no weights; {again}.")


def _is_pickle(start: bytes) -> bool:
    """Tell from the first bytes whether a file is what `torch.save` (a zip) or `pickle.dump` writes."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and b"\x02" <= start[1:2] <= b"\x05")


def check_index(folder: Path, weights: list[Path]) -> None:
    """Refuse an index of shards that names anything but safetensors files of the folder.

    transformers opens what the index names; a name that does not end in .safetensors goes to `torch.load`.
    """
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    found = read_model_json(path)
    named = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(named, dict):
        raise ModelError(f"{path} has no weight_map; save the model again.")
    known = {file.name for file in weights}
    strange = sorted({str(file) for file in named.values()} - known)
    if strange and folder / "model.safetensors" not in weights:
        raise ModelError(
            f"{path} refers to {strange[0]!r}, which is not one of the safetensors files in the folder; save "
            "the model again."
        )


def safe_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that a library may be shown: no pickle, no code."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt", ".model"):
            yield path


def open_tokenizer(path: Path) -> Any:
    """Open a `tokenizer.json` if its size is sane."""
    from tokenizers import Tokenizer

    check_size(path, MAX_TOKENIZER_BYTES)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path} is damaged ({error}); copy the model again.") from error
