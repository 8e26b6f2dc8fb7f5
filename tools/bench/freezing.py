"""Half of the layers frozen, two passes over the same rows: whole, cut, and cut with its cache.

The three ways take turns, pass by pass, in one process; a cache is emptied before every first pass.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import rows_file, spread

from edgetune.backends.backend_contract import Backend
from edgetune.backends.hidden_cache import HiddenCache
from edgetune.backends.ort.artifacts import ArtifactBuilder
from edgetune.backends.ort.ort_backend import OrtBackend
from edgetune.backends.torch.torch_backend import TorchBackend
from edgetune.data.batches import Batch, epoch_order
from edgetune.data.examples import DataOptions
from edgetune.data.token_format import TokenizerSpec
from edgetune.data.tokens import open_tokens
from edgetune.models.source import ModelSource, resolve_model
from edgetune.utils.machine import cache_folder

DEPTH, BATCH, LR = 3, 32, 1e-4
Maker = Callable[[bool, HiddenCache | None], Backend]


def _makers(source: ModelSource, n_labels: int) -> dict[str, Maker]:
    artifacts = ArtifactBuilder(source, cache_folder()).get(n_labels, str(DEPTH))

    def ort(cut: bool, cache: HiddenCache | None) -> Backend:
        return OrtBackend(artifacts, 0, cut=cut, cache=cache)

    def torch(precision: str) -> Maker:
        return lambda cut, cache: TorchBackend(
            source, n_labels, str(DEPTH), 0, precision=precision, cut=cut, cache=cache
        )

    return {"ort-fp32": ort, "torch-fp32": torch("fp32"), "torch-bf16": torch("bf16")}


def main(arguments: argparse.Namespace) -> None:
    """Print rows per second of every way and their ratios, per backend."""
    source = resolve_model(None)
    with tempfile.TemporaryDirectory() as folder:
        data = rows_file(arguments.data, arguments.rows, Path(folder))
        spec = TokenizerSpec(source.tokenizer_file, 128, source.pad_id)
        store = open_tokens(str(data), DataOptions(), spec, Path(folder), 0.01)
        order = epoch_order(store.lengths, BATCH, np.random.default_rng(0))
        batches = [store.batch(order[at]) for at in range(len(order))]
        for key, make in _makers(source, len(store.label_names)).items():
            _compare(key, make, batches, arguments.repeats)


def _compare(key: str, make: Maker, batches: list[Batch], repeats: int) -> None:
    n_rows = 2 * sum(len(batch) for batch in batches)
    ways = {"whole": make(False, None), "cut": make(True, None), "cut and cache": make(True, _cache())}
    for backend in ways.values():
        backend.train_step(batches[0], 0.0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, backend in ways.items():
            if backend.cache is not None:
                backend.cache.close()
                backend.cache = _cache()
            seconds[name].append(_two_passes(backend, batches))
    for name, found in seconds.items():
        ratios = [whole / own for whole, own in zip(seconds["whole"], found, strict=True)]
        print(
            f"{key}, {DEPTH} layers frozen, two passes, {name}: "
            f"{n_rows / statistics.median(found):.1f} rows/s, {spread(ratios)} x whole",
            flush=True,
        )


def _cache() -> HiddenCache:
    return HiddenCache(1000, 0, None)


def _two_passes(backend: Backend, batches: list[Batch]) -> float:
    started = time.perf_counter()
    for _ in range(2):
        for batch in batches:
            backend.train_step(batch, LR)
    return time.perf_counter() - started
