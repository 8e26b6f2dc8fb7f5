"""A small batch of random tokens for any model: to compare one way of running it with another."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgetune.models.source import takes_segments
from edgetune.utils.types import IntArray

N_TOKENS = 8


def probe_batch(model: Any) -> dict[str, IntArray]:
    """Make a batch as a torch classifier takes it: 2 rows of 8 and 5 tokens, padded, with `labels`."""
    rng = np.random.default_rng(0)
    n_ids = model.get_input_embeddings().num_embeddings
    ids = rng.integers(min(5, n_ids - 2), n_ids - 1, (2, N_TOKENS))
    mask = np.ones((2, N_TOKENS), dtype=np.int64)
    ids[1, 5:], mask[1, 5:] = model.config.pad_token_id or 0, 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros((2, N_TOKENS), dtype=np.int64),
        "labels": np.array([0, model.config.num_labels - 1]),
    }


def torch_probe(model: Any) -> dict[str, Any]:
    """Return the probe as tensors where a torch classifier is: what it takes of it, without labels."""
    import torch

    batch = probe_batch(model)
    names = ["input_ids", "attention_mask"]
    if takes_segments(model.config.to_dict()):
        names.append("token_type_ids")
    return {name: torch.from_numpy(batch[name]).to(model.device) for name in names}
