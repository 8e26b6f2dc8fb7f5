"""Whether a model's tokenizer, its config and its tables fit together, from the files alone.

    tokenizer.json     largest token id ──┐
    config.json        vocab_size ────────┼─→ must agree, or the first batch ends in "index out of range"
    safetensors header rows of the tables ┘
    config, tokenizer  pad token

Where config and tables differ, transformers draws the tables anew without an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgetune.models.checks import MAX_TOKENIZER_BYTES, TOKENIZER_FILES, read_model_json, tensor_headers
from edgetune.utils.errors import ModelError

OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "longformer", "ernie_m"}
"""Position tables of these start counting after the padding id, so they hold fewer usable places."""
OFFSET_PAD_ID = 1
"""The padding id of these where the config has none."""
POSITIONS = ("max_position_embeddings", "n_positions")
_TABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("word_embeddings", "embed_tokens", "tok_embeddings", "wte"), ("vocab_size",)),
    **dict.fromkeys(("position_embeddings", "wpe"), POSITIONS),
    "token_type_embeddings": ("type_vocab_size",),
}
"""Which number of a config is the number of rows of which table."""


def require_tokenizer(folder: Path) -> None:
    """Refuse a model without any file of a tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES) and not any(folder.glob("*.bpe*")):
        raise ModelError(
            f"{folder} has no tokenizer (no tokenizer.json or vocab.txt); save it beside the model with "
            f'`AutoTokenizer.from_pretrained("MODEL").save_pretrained("{folder}")`.'
        )


def check_vocabulary(config: Mapping[str, Any], tokenizer_file: Path) -> None:
    """Refuse a tokenizer whose ids the model has no embeddings for."""
    n_words, pad = config.get("vocab_size"), config.get("pad_token_id")
    if not isinstance(n_words, int):
        return
    if isinstance(pad, int) and pad >= n_words:
        raise ModelError(
            f"{tokenizer_file.parent / 'config.json'} sets pad_token_id = {pad:,}, but the model has "
            f"{n_words:,} token embeddings; set it to the id of the tokenizer's pad token."
        )
    token, largest = max(_token_ids(tokenizer_file), key=lambda one: one[1], default=("", -1))
    if largest >= n_words:
        raise ModelError(
            f"{tokenizer_file} has the token {token[:40]!r} with id {largest:,}, but the model has "
            f"{n_words:,} token embeddings: tokens were added without resizing the model. Call "
            "`model.resize_token_embeddings(len(tokenizer))` and save it again."
        )


def check_tables(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights whose embedding tables have other sizes than the config says."""
    for path, name, tensor in tensor_headers(folder):
        setting = _size_setting(name, config)
        if setting is not None and (n_rows := tensor.get_shape()[0]) != config[setting]:
            raise ModelError(
                f"{folder / 'config.json'} sets {setting} = {config[setting]:,}, but {name} in "
                f"{path.name} has {n_rows:,} rows; download or save the model again."
            )


def pad_token_id(config: Mapping[str, Any], folder: Path) -> int:
    """Return the token id that fills a row.

    A config need not have one; GPT-2's does not. Padding is masked, so any token can take the part, but a
    decoder classifies by the last token that is not padding: its end-of-text token is safe there.
    """
    given = config.get("pad_token_id")
    if isinstance(given, int) and given >= 0:
        return given
    if config.get("model_type") in OFFSET_POSITIONS:
        return OFFSET_PAD_ID
    n_words = config.get("vocab_size")
    ends = config.get("eos_token_id")
    token, file = tokenizers_pad_token(folder), folder / "tokenizer.json"
    named = _token_ids(file) if token is not None and file.is_file() else ()
    own = next((number for name, number in named if name == token), None)
    candidates = [own, *(ends if isinstance(ends, list) else [ends])]
    for found in candidates:
        if isinstance(found, int) and 0 <= found < (n_words if isinstance(n_words, int) else found + 1):
            return found
    return 0


def unknown_token(tokenizer: Any) -> int | None:
    """Return the id of a tokenizer's unknown token; None where every text can be written (bytes)."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    name = model.get("unk_token")
    found = None if name is None else tokenizer.token_to_id(name)
    return None if found is None else int(found)


def _size_setting(tensor: str, config: Mapping[str, Any]) -> str | None:
    """Return the setting of the config that says how many rows a tensor has."""
    path, _, kind = tensor.rpartition(".")
    settings = _TABLES.get(path.rpartition(".")[2], ()) if kind == "weight" else ()
    return next((name for name in settings if isinstance(config.get(name), int)), None)


def tokenizers_pad_token(folder: Path) -> str | None:
    """Return the pad token that a tokenizer's settings name."""
    for path in (folder / "tokenizer_config.json", folder / "special_tokens_map.json"):
        told = _read(path).get("pad_token") if path.is_file() else None
        token = told.get("content") if isinstance(told, dict) else told
        if token is not None:
            return str(token)
    return None


def _token_ids(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every token of a `tokenizer.json` and its id, and each id that it puts around a text."""
    found = _read(path)
    model, around = found.get("model"), found.get("post_processor")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from ((name, number) for name, number in vocabulary.items() if isinstance(number, int))
    elif isinstance(vocabulary, list) and vocabulary:  # of pieces, each with its score
        piece = vocabulary[-1]
        yield str(piece[0] if isinstance(piece, list) and piece else piece), len(vocabulary) - 1
    for token in found.get("added_tokens") or ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield str(token.get("content")), token["id"]
    special = around.get("special_tokens") if isinstance(around, dict) else None
    for name, token in special.items() if isinstance(special, dict) else ():
        yield from ((name, number) for number in token.get("ids", ()) if isinstance(number, int))


def _read(path: Path) -> dict[str, Any]:
    found = read_model_json(path, MAX_TOKENIZER_BYTES)
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged (it is no JSON object); copy the model again.")
    return found
