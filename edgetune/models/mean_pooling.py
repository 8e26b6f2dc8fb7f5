"""Mean pooling as one more standard encoder layer: the saved model stays a plain Hugging Face classifier.

Heads of the BERT family read the first token only. A sentence encoder was trained with the mean of all
tokens, and a head on its first token starts from much less. In the added layer query and key are zero, so
attention is uniform over the tokens that are no padding; value is the identity and the attention's output
`MEAN_SCALE` times it, so that the mean outweighs the residual; the feed-forward part is zero. The first
token then leaves the layer as

    LayerNorm(MEAN_SCALE * mean + first token)

The dense layer between encoder and classifier is `TANH_SCALE` times the identity, small enough that its
tanh is close to linear. The layer and that dense layer are never trained.

Works where each part is what BERT has: BERT and RoBERTa with their kin. DistilBERT and ELECTRA have another
non-linearity before the classifier, MPNet adds position biases to the attention; ModernBERT pools by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgetune.utils.types import FloatArray

MEAN = "mean"
CONFIG_KEY = "edgetune_pooling"
"""Of `config.json`: that the last layer is the added one."""
POOLING_CONFIG = Path("1_Pooling", "config.json")

MEAN_SCALE = 1000.0
TANH_SCALE = 0.25
HEAD_RATE = 10.0 / TANH_SCALE
"""Learning rate of the classifier over that of the encoder: ten times, on features that are small by
`TANH_SCALE`. A new head has further to go than the trained encoder."""

SCALES = {
    "attention.self.value.weight": 1.0,
    "attention.output.dense.weight": MEAN_SCALE,
    "pooler.dense.weight": TANH_SCALE,
    "classifier.dense.weight": TANH_SCALE,
}
"""Weights that are so many times the identity, by the end of their names; norms are plain, the rest is 0."""
KINDS = {"bert", "roberta", "xlm-roberta", "camembert"}


def can_pool(config: Mapping[str, Any]) -> bool:
    """Return whether an encoder's layers and head are such that the added layer computes the mean."""
    return (
        config.get("model_type") in KINDS
        and not config.get("is_decoder")
        and config.get("position_embedding_type", "absolute") == "absolute"
    )


def is_pooled(config: Mapping[str, Any]) -> bool:
    """Return whether a model was saved with the added layer."""
    return config.get(CONFIG_KEY) == MEAN


def has_own_head(config: Mapping[str, Any]) -> bool:
    """Return whether a folder holds a classifier, whose head reads what it was trained on."""
    return any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ())


def asks_for_mean(folder: Path) -> bool:
    """Return whether a folder says, as sentence-transformers writes it, that the mean was trained."""
    try:
        found = json.loads((folder / POOLING_CONFIG).read_text(encoding="utf-8")[:100_000])
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("pooling_mode_mean_tokens") is True


def write_pooling_config(folder: Path) -> None:
    """Say in the folder of an encoder that the mean was trained, where `asks_for_mean` looks."""
    path = folder / POOLING_CONFIG
    path.parent.mkdir()
    path.write_text(json.dumps({"pooling_mode_mean_tokens": True}) + "\n", encoding="utf-8")


def fixed_names(names: list[str]) -> set[str]:
    """Return the parameters of a pooled model that the mean is made of, which are never trained."""
    numbers = {int(found.group(1)) for name in names if (found := re.search(r"\.layer\.(\d+)\.", name))}
    layer = f".layer.{max(numbers, default=0)}."
    return {
        name for name in names if layer in name or ".pooler.dense." in name or "classifier.dense." in name
    }


def pooling_weights(number: int, width: int, inner: int) -> dict[str, FloatArray]:
    """Return the added layer, of this number, and the head's dense layer by name, without the prefix `bert.`.

    `width` is D of the encoder, `inner` the width of its feed-forward part.
    """
    square = (width, width)
    shapes = {"pooler.dense.weight": square, "pooler.dense.bias": (width,)}
    layer = f"encoder.layer.{number}."
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        shapes |= {f"{layer}attention.{name}.weight": square, f"{layer}attention.{name}.bias": (width,)}
    for name, shape in (("intermediate.dense", (inner, width)), ("output.dense", (width, inner))):
        shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes |= {f"{layer}{name}.weight": (width,), f"{layer}{name}.bias": (width,)}
    return {name: _pooling_value(name, shape) for name, shape in shapes.items()}


def _pooling_value(name: str, shape: tuple[int, ...]) -> FloatArray:
    """Return what a parameter of the added layer, or of the head's dense layer, is set to."""
    if name.endswith("LayerNorm.weight"):
        return np.ones(shape, np.float32)
    for end, scale in SCALES.items():
        if name.endswith(end):
            return np.diag(np.full(shape[0], scale, np.float32))
    return np.zeros(shape, np.float32)


def write_pooling(model: Any) -> set[str]:
    """Give the last layer of a torch classifier and the dense layer of its head the weights described above.

    Returns:
        The names of the parameters that were written.
    """
    import torch

    parameters = dict(model.named_parameters())
    names = fixed_names(list(parameters))
    with torch.no_grad():
        for name in names:
            value = _pooling_value(name, tuple(parameters[name].shape))
            parameters[name].copy_(torch.from_numpy(value))
    return names
