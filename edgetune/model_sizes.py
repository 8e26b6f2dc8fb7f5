"""The numbers in a `config.json`: do the weights that they ask for fit this machine?

transformers makes tables of the sizes in the config, whatever the file of weights holds, so a config
alone can ask for more memory than there is. Its numbers ask for about

    words x embedding width + layers x (4 width^2 + 2 width x inner) + every other whole number x width

weights; numbers under names that are no size (token ids, seeds, the base of rotary positions) do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgetune.errors import ModelError

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
    """Refuse a config whose weights cannot fit.

    Args:
        config: parsed.
        path: of the file, for the message.
        has_mb: memory of this machine (MB, 10^6 bytes); None, not known: only counts are checked.

    Raises:
        ModelError: which number is absurd, or how much all of them ask for.
    """
    found = [one for one in _numbers(config, path) if not _NO_SIZE.fullmatch(one[0])]
    for name, value in found:
        for pattern, most in ((_LAYERS, MAX_LAYERS), (_GROUPS, MAX_LAYERS), (_LABELS, MAX_LABELS)):
            if pattern.fullmatch(name) and value > most:
                raise ModelError(
                    f"{path} asks for {name} = {value:,}, and no model has more than {most:,}; it is "
                    "damaged, or made to fill the memory."
                )
    needs_mb = BYTES * n_weights(found) / 1e6
    if has_mb is not None and needs_mb > has_mb:
        name, value = max(found, key=lambda one: one[1])
        raise ModelError(
            f"{path} asks for {needs_mb / 1e3:,.1f} GB of weights ({name} = {value:,}) and this machine has "
            f"{has_mb / 1e3:,.1f} GB of memory; choose a smaller model, or get this one from its maker again."
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
    """Yield every whole number in a config with the name that it stands under; lists count as their sum.

    Raises:
        ModelError: a size is no whole number, or below zero.
    """
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
                f"{path}: {name} is {shown}, not a whole number from 0 up; save the model again."
            )
