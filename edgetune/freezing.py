"""The words of `--freeze`, and how many layers they mean."""

from __future__ import annotations


def frozen_depth(freeze: str) -> int:
    """Return how many of the lowest layers a `--freeze` freezes: 0 for `none`, `embeddings` and `auto`."""
    return int(freeze) if freeze.isdigit() else 0


def freeze_of(depth: int) -> str:
    """Return the `--freeze` that freezes so many layers, and the embeddings below them."""
    return str(depth) if depth else "embeddings"
