"""Whatever rows come in whatever order, into whatever room, the cache gives what the layers give."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from fakes import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetune.backends.hidden_cache import HiddenCache
from edgetune.data.batches import Batch, join

TEXTS = [make_batch([length], seed) for seed, length in enumerate([1, 3, 8, 8, 9, 15, 16, 24, 2, 31])]


def layers(batch: Batch, width: int) -> np.ndarray:
    """Two numbers per token, from its id and place; noise at padding."""
    padded = batch.padded(0, multiple=1, width=width)
    values = padded["input_ids"] / 3 + np.arange(width) + 1000 * (1 - padded["attention_mask"])
    return np.stack([values, -values], axis=-1).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(
        st.tuples(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=6), st.booleans()),
        max_size=12,
    ),
    n_memory=st.integers(0, 60),
    has_file=st.booleans(),
    dtype=st.sampled_from(["fp16", "fp32"]),
)
def test_gives_what_the_layers_give(
    calls: list[tuple[list[int], bool]], n_memory: int, has_file: bool, dtype: str
) -> None:
    token_mb = 2 * (2 if dtype == "fp16" else 4) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        room_mb = 0.07 if has_file else 0.0
        cache = HiddenCache(n_memory * token_mb, room_mb, Path(folder), dtype)  # type: ignore[arg-type]
        n_rows = 0
        for texts, keep in calls:
            batch = join([TEXTS[text] for text in texts])
            width = int(batch.lengths.max()) + len(texts)
            mask = np.arange(width) < batch.lengths[:, None]
            expected = layers(batch, width) * mask[..., None]
            if dtype == "fp16":
                expected = expected.astype(np.float16).astype(np.float32)
            before = len(cache)
            found = cache.hidden(batch, width, lambda part, width=width: layers(part, width), keep=keep)
            np.testing.assert_array_equal(found, expected)
            n_rows += len(batch)
            assert cache.n_hits + cache.n_misses == n_rows
            assert keep or len(cache) == before
            assert cache.memory_mb_used <= n_memory * token_mb * (1 + 1e-9)
            assert cache.file_mb_used <= room_mb
            assert len(cache) <= len(TEXTS)
        cache.close()
